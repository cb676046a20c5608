"""The source's side of numbers: which number a bundle gets, what it names as its predecessor, its seal."""

from typing import Any

import attrs

from meshd.delivery.packing import Pack
from meshd.delivery.sessions import OutgoingSessions
from meshd.ids import BundleId, BundleRef, Epoch, Flow, NodeId, Number, Priority, bundle_ref
from meshd.trust.card import Card
from meshd.trust.seal import SourceSession
from meshd.wire import codec
from meshd.wire.bundle import TAG_SIZE, Content, Head, bundle_id, encode_head, encode_messages, pack_content
from meshd.wire.codec import mapping, record, text, uint
from meshd.wire.frames import number as number_shape
from meshd.wire.frames import plain_number


@attrs.frozen
class Recipient:
    """Whom to seal for: the destination's full Ed25519 key and its newest card."""

    node: NodeId
    public_key: bytes
    card: Card


@attrs.frozen
class Sealed:
    """A bundle as it travels. ``unstored`` is its session when the root has to be stored with it."""

    bundle: BundleId
    head: bytes
    body: bytes
    session: bytes
    unstored: SourceSession | None


@attrs.frozen
class Draft:
    """A bundle with a number, not sealed yet.

    ``before`` undoes the service's predecessor (see ``burn``); ``content_bytes`` is the messages' size, not compressed.
    """

    flow: Flow
    number: Number
    ref: BundleRef
    plaintext: bytes
    before: Number | None
    content_bytes: int


class Outbox:
    """Numbers of one device's own bundles. They are never reused: a failed commit burns them."""

    def __init__(self, me: NodeId, epoch: Epoch, sessions: OutgoingSessions) -> None:
        self._me = me
        self.epoch = epoch
        self._sessions = sessions
        self._next: dict[Flow, int] = {}
        self._last: dict[tuple[NodeId, Priority], dict[str, Number]] = {}
        self._burnt: dict[tuple[Flow, Number], Number | None] = {}
        """Burnt numbers and what they would have followed; commits that overlap fail one after the other."""

    def start_epoch(self, epoch: Epoch) -> None:
        """Number from 1 again, in a higher epoch."""
        self.epoch = epoch
        self._next.clear()

    def draft(self, pack: Pack, floor: Number | None) -> Draft:
        """Give ``pack`` its number.

        Args:
            floor: the lowest number of the flow that still waits, or the one to be given when nothing does;
                None when only the disk knows: then the bundle says nothing about it.
        """
        key = pack.key
        flow = Flow(self._me, key.destination, key.priority, key.ephemeral)
        number = self.next_number(flow)
        self._next[flow] = number.sequence + 1
        prev = before = None
        if not key.ephemeral:
            services = self._last.setdefault((key.destination, key.priority), {})
            prev = before = services.get(key.service)
            services[key.service] = number
        messages = encode_messages(pack.messages)
        content = Content(key.service, prev, floor, len(pack.messages), messages)
        return Draft(flow, number, bundle_ref(flow, number), pack_content(content), before, len(messages))

    def next_number(self, flow: Flow) -> Number:
        """The number that the flow's next bundle will have."""
        return Number(self.epoch, self._next.get(flow, 1))

    def burn(self, draft: Draft, service: str) -> None:
        """The bundle's commit failed: what follows must not wait for it."""
        self._burnt[draft.flow, draft.number] = draft.before
        services = self._last[draft.flow.destination, draft.flow.priority]
        last = services.pop(service, None)
        while last is not None and (draft.flow, last) in self._burnt:
            last = self._burnt[draft.flow, last]
        if last is not None:
            services[service] = last

    def forget_burnt(self) -> None:
        """No commit is under way: no draft names a burnt number any more."""
        self._burnt.clear()

    def seal(
        self, flow: Flow, number: Number, plaintext: bytes, lifetime_ms: int, recipient: Recipient, now: float
    ) -> Sealed:
        """Seal a draft (or a row that waited for the destination's card)."""
        session, counter, must_store = self._sessions.for_destination(
            recipient.node, recipient.public_key, recipient.card, now
        )
        size = len(plaintext) + TAG_SIZE
        head = encode_head(Head(flow, number, session.id, counter, lifetime_ms, size))
        body = session.seal(head, counter, plaintext)
        return Sealed(bundle_id(head, body), head, body, session.id, session if must_store else None)

    def session_stored(self, session: bytes) -> None:
        """The root of this session is on disk."""
        self._sessions.stored(session)

    def encode_last(self, destination: NodeId, priority: Priority) -> bytes:
        """The durable part: each service's last number towards a destination."""
        services = self._last[destination, priority]
        return codec.encode({service: plain_number(number) for service, number in services.items()})

    def restore_last(self, destination: NodeId, priority: Priority, data: bytes) -> None:
        """Inverse of :meth:`encode_last`."""
        self._last[destination, priority] = _LAST(codec.decode(data))


_LAST = mapping(1 << 20, text(64), number_shape)


def flow_key(node: NodeId, priority: Priority) -> bytes:
    """The key of a flow's facts in the store."""
    return node + bytes((priority,))


def parse_flow_key(key: bytes) -> tuple[NodeId, Priority]:
    """Inverse of :func:`flow_key`."""
    return NodeId(key[:-1]), Priority(key[-1])


def _pair(*items: Any) -> tuple[Any, ...]:
    return items


_FLOOR = record(_pair, codec.converted(uint(3), Priority), number_shape)
FLOOR_LABEL = "meshd/floor/v1"


def encode_floor(priority: Priority, floor: Number) -> bytes:
    """A notice that nothing below ``floor`` will come."""
    return codec.encode([int(priority), plain_number(floor)])


def decode_floor(data: bytes) -> tuple[Priority, Number]:
    """Inverse of :func:`encode_floor`. Raises RemoteProtocolError."""
    priority, floor = codec.parse(data, _FLOOR)
    return priority, floor
