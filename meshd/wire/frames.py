"""The frames of a link: what each carries, its limits, and its number on the wire.

A frame is one CBOR array ``[type, field, ...]``. ``decode_frame`` is the only place where a frame
from a peer becomes a value: after it, all types and bounds hold.
"""

from typing import Any, TypeAlias

import attrs

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.ids import BUNDLE_ID_SIZE, NODE_ID_SIZE, BundleId, Epoch, NodeId, Number
from meshd.wire import codec, routing
from meshd.wire.codec import array, blob, blob_up_to, boolean, optional, record, text, uint
from meshd.wire.routing import RouteRequest, RouteUpdate, SeqnoRequest

PROTOCOL_VERSION = 1
ALPN_LINK = "meshd/1"
ALPN_JOIN = "meshd-join/1"
DEFAULT_PORT = 7843

MAX_PART_BYTES = 64 * 1024
"""Body bytes in one frame; a larger bundle travels as several ``Part`` frames."""

MAX_FRAME_BYTES = MAX_PART_BYTES + 4096
"""No frame of an established link is longer."""

MAX_HANDSHAKE_FRAME_BYTES = 4096
MAX_PROOF_FRAME_BYTES = 20 * 1024
"""Limits before a link is up; ``proof`` carries a chain of statements of up to 16 KiB."""

MAX_BUNDLE_BYTES = 1024 * 1024 + 4096
MAX_HEAD_BYTES = 256
MAX_HOPS = 16

MAX_HEADS = 1024
"""Issuers in RosterHeads, and devices in CardVersions."""

_MAX_MS = 2**53
node_id = blob(NODE_ID_SIZE)
bundle_id = blob(BUNDLE_ID_SIZE)
epoch = record(Epoch, uint(), blob(8))
number = record(lambda counter, random, sequence: Number(Epoch(counter, random), sequence), uint(), blob(8), uint())


def plain_epoch(value: Epoch) -> list[Any]:
    """The CBOR form of an epoch."""
    return [value.counter, value.random]


def plain_number(value: Number) -> list[Any]:
    """The CBOR form of a number."""
    return [value.epoch.counter, value.epoch.random, value.sequence]


@attrs.frozen
class Hello:
    """Dialer, first: the protocol versions it speaks, and its nonce (32 bytes)."""

    versions: tuple[int, ...]
    nonce: bytes


@attrs.frozen
class Challenge:
    """Listener: the version chosen, and its nonce (32 bytes)."""

    version: int
    nonce: bytes


@attrs.frozen
class Proof:
    """Dialer: its certificate (DER), its epoch, the highest known of the listener, its chain, and its signature."""

    certificate: bytes
    epoch: Epoch
    seen: Epoch | None
    chain: tuple[bytes, ...]
    signature: bytes


@attrs.frozen
class Welcome:
    """Listener, last: its epoch, the highest epoch of the dialer it has seen, and its signature."""

    epoch: Epoch
    seen: Epoch | None
    signature: bytes


@attrs.frozen
class Reject:
    """Either side, before the link is up: why not. The sender closes after it.

    ``proof``: signed statements that show the receiver that it was removed from the mesh.
    """

    code: str
    reason: str
    proof: tuple[bytes, ...] = ()


@attrs.frozen
class Ping:
    """Answer with a Pong of the same token."""

    token: int


@attrs.frozen
class Pong:
    """The answer to a Ping."""

    token: int


@attrs.frozen
class Bye:
    """The sender closes the link on purpose."""

    code: str
    reason: str


@attrs.frozen
class ProbeRequest:
    """Asks a neighbour whether it hears ``target``, before we declare that one down."""

    target: NodeId


@attrs.frozen
class ProbeResult:
    """The answer to a ProbeRequest."""

    target: NodeId
    alive: bool


@attrs.frozen
class RosterHeads:
    """How far the sender knows each issuer's chain: (issuer, opaque head; see ``trust.roster.heads``)."""

    heads: tuple[tuple[NodeId, int], ...]


@attrs.frozen
class Statements:
    """Signed roster statements, lowest numbers first."""

    statements: tuple[bytes, ...]


@attrs.frozen
class CardVersions:
    """Which version of each device's card the sender holds."""

    versions: tuple[tuple[NodeId, int], ...]


@attrs.frozen
class Cards:
    """Signed cards."""

    cards: tuple[bytes, ...]


@attrs.frozen
class BundleFrame:
    """A bundle and its mutable fields.

    Args:
        hop_limit: how many more hops it may take; 0 stays where it is.
        age_ms: milliseconds since it was accepted, as far as clocks that ran can tell.
        copies: how many carriers' copies this holder may still hand out.
        head: the encoded immutable head (see ``wire.bundle``).
        body: the sealed content, or its first part when ``total`` is larger.
        total: length of the whole body; Part frames carry the rest.
    """

    hop_limit: int
    age_ms: int
    copies: int
    head: bytes
    body: bytes
    total: int


@attrs.frozen
class Part:
    """The next bytes of the body of the bundle whose BundleFrame came last."""

    data: bytes


@attrs.frozen
class Busy:
    """A bundle that this hop can't hold now."""

    bundle: BundleId
    retry_after_ms: int


NOT_AUTHENTIC = "not-authentic"
STALE_EPOCH = "stale-epoch"
"""Refused by the destination: the number is of an epoch that it is done with, or never saw."""


NOT_A_CARRIER = "not-a-carrier"
"""Refused by a device that carries no mail for others."""
ALREADY_HELD = "already-held"
"""Refused copies: the device has some of this bundle, from somebody else. They are there for others."""


@attrs.frozen
class Refused:
    """A bundle that this hop will not take."""

    bundle: BundleId
    code: str


@attrs.frozen
class Ack:
    """A hop's answer to bundles: stored (on disk when durable), busy, or refused."""

    stored: tuple[BundleId, ...]
    busy: tuple[Busy, ...] = ()
    refused: tuple[Refused, ...] = ()


class Kind:
    """What a Routed frame carries."""

    RECEIPT = 1
    OFFER = 2
    NEED_OFFER = 3
    STALE_EPOCH = 4
    FLOOR = 5
    QUESTION = 6
    ANSWER = 7
    ENCOUNTERS = 8


@attrs.frozen
class Routed:
    """A small control item for ``destination``, passed on by hops; not stored, not acked.

    ``body`` is signed by ``source``, or empty of signature when it comes over source's own link.
    """

    source: NodeId
    destination: NodeId
    hop_limit: int
    kind: int
    body: bytes


@attrs.frozen
class Echo:
    """``meshctl ping``: each hop appends itself to ``path``; the destination turns it round."""

    source: NodeId
    destination: NodeId
    hop_limit: int
    token: int
    answer: bool
    path: tuple[NodeId, ...]


Frame: TypeAlias = (
    Hello
    | Challenge
    | Proof
    | Welcome
    | Reject
    | Ping
    | Pong
    | Bye
    | ProbeRequest
    | ProbeResult
    | RosterHeads
    | Statements
    | CardVersions
    | Cards
    | BundleFrame
    | Part
    | Ack
    | Routed
    | Echo
    | RouteUpdate
    | SeqnoRequest
    | RouteRequest
)

_heads = array(record(lambda node, count: (node, count), node_id, uint()), MAX_HEADS)

_SHAPES: dict[int, codec.Shape] = {
    1: record(Hello, array(uint(65535), 16), blob(32)),
    2: record(Challenge, uint(65535), blob(32)),
    3: record(Proof, blob_up_to(2048), epoch, optional(epoch), array(blob_up_to(4096), 64), blob(64)),
    4: record(Welcome, epoch, optional(epoch), blob(64)),
    5: record(Reject, text(32), text(200), array(blob_up_to(4096), 64)),
    10: record(Ping, uint()),
    11: record(Pong, uint()),
    12: record(Bye, text(32), text(200)),
    13: record(ProbeRequest, node_id),
    14: record(ProbeResult, node_id, boolean),
    20: record(RosterHeads, _heads),
    21: record(Statements, array(blob_up_to(4096), 1024)),
    22: record(CardVersions, _heads),
    23: record(Cards, array(blob_up_to(4096), 1024)),
    30: record(
        BundleFrame,
        uint(MAX_HOPS),
        uint(_MAX_MS),
        uint(64),
        blob_up_to(MAX_HEAD_BYTES),
        blob_up_to(MAX_PART_BYTES),
        uint(MAX_BUNDLE_BYTES),
    ),
    31: record(Part, blob_up_to(MAX_PART_BYTES)),
    32: record(
        Ack,
        array(bundle_id, 2048),
        array(record(Busy, bundle_id, uint(3_600_000)), 512),
        array(record(Refused, bundle_id, text(32)), 512),
    ),
    33: record(Routed, node_id, node_id, uint(MAX_HOPS), uint(255), blob_up_to(32 * 1024)),
    34: record(Echo, node_id, node_id, uint(MAX_HOPS), uint(), boolean, array(node_id, MAX_HOPS + 1)),
    **routing.SHAPES,
}

_TYPES: dict[type, int] = {
    Hello: 1,
    Challenge: 2,
    Proof: 3,
    Welcome: 4,
    Reject: 5,
    Ping: 10,
    Pong: 11,
    Bye: 12,
    ProbeRequest: 13,
    ProbeResult: 14,
    RosterHeads: 20,
    Statements: 21,
    CardVersions: 22,
    Cards: 23,
    BundleFrame: 30,
    Part: 31,
    Ack: 32,
    Routed: 33,
    Echo: 34,
    **routing.TYPES,
}
HANDSHAKE_TYPES = frozenset((Hello, Challenge, Proof, Welcome, Reject))


def _plain(value: Any) -> Any:
    if type(value) is tuple:
        return [_plain(item) for item in value]
    if attrs.has(type(value)):
        return [_plain(getattr(value, field.name)) for field in attrs.fields(type(value))]
    return value


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of ``frame``. Raises LocalProtocolError when it is over the limit."""
    if isinstance(frame, BundleFrame):  # the hot path: all fields are plain already
        plain = [frame.hop_limit, frame.age_ms, frame.copies, frame.head, frame.body, frame.total]
    else:
        plain = _plain(frame)
    data = codec.encode([_TYPES[type(frame)], *plain])
    if len(data) > MAX_FRAME_BYTES:
        raise LocalProtocolError(f"{type(frame).__name__} frame of {len(data)} bytes")
    return data


def decode_frame(data: bytes, *, limit: int = MAX_FRAME_BYTES) -> Frame:
    """Return the frame in ``data``.

    Raises:
        RemoteProtocolError: ``P_OVERSIZED`` when longer than ``limit`` bytes, ``P_MALFORMED`` when
            the bytes are no frame. The peer's fault, always.
    """
    if len(data) > limit:
        raise RemoteProtocolError("P_OVERSIZED", f"a frame of {len(data)} bytes, the limit is {limit}")
    try:
        value = codec.decode(data)
        if type(value) is not list or not value:
            raise codec.ShapeError("a frame is a list")
        shape = _SHAPES.get(value[0]) if type(value[0]) is int else None
        if shape is None:
            raise codec.ShapeError(f"unknown frame type {value[0]!r:.20}")
        frame: Frame = shape(value[1:])
    except codec.ShapeError as error:
        raise RemoteProtocolError("P_MALFORMED", str(error)) from error
    return frame
