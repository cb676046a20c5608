"""The identifiers of a mesh: what names a device, a mesh, a bundle, a message, a service.

All are ``bytes`` (or small frozen classes) inside the program and text only at its edges.
"""

import base64
import binascii
import enum
import hashlib
import re
from typing import NewType

import attrs

NodeId = NewType("NodeId", bytes)
"""16 bytes: the first half of SHA-256 over a device's Ed25519 SubjectPublicKeyInfo."""

MeshId = NewType("MeshId", bytes)
"""32 bytes: SHA-256 of the genesis statement."""

BundleId = NewType("BundleId", bytes)
"""20 bytes: the head of SHA-256 over a bundle's immutable parts; checked at every hop."""

BundleRef = NewType("BundleRef", bytes)
"""10 bytes: derived from a bundle's flow and number, so that every hop can compute it and the
origin knows it before the bundle is sealed. People see it as the first half of a message id."""

NODE_ID_SIZE = 16
BUNDLE_ID_SIZE = 20
BUNDLE_REF_SIZE = 10

_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_TEXT_ID = re.compile(r"[a-z2-7]{26}")
_MESSAGE_ID = re.compile(r"([a-z2-7]{16})-([0-9]{1,3})")


class Priority(enum.IntEnum):
    """Lower overtakes higher at every hop."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    BULK = 3


@attrs.frozen(order=True)
class Epoch:
    """One life of a daemon's numbering: committed at each start before anything is sent.

    Ordered by ``counter`` first; ``random`` (8 bytes) tells copies of one disk apart.
    """

    counter: int
    random: bytes


@attrs.frozen(order=True)
class Number:
    """A bundle's place in its flow: never used twice by one (source, destination, priority, kind)."""

    epoch: Epoch
    sequence: int


@attrs.frozen(order=True)
class Flow:
    """What numbers count in: the bundles from one source to one destination at one priority.

    Ephemeral bundles have flows of their own, which nothing ever waits for.
    """

    source: NodeId
    destination: NodeId
    priority: Priority
    ephemeral: bool = False


def to_text(raw: bytes) -> str:
    """Return ``raw`` as lower-case base32 without padding (16 bytes give 26 characters)."""
    return base64.b32encode(raw).decode("ascii").rstrip("=").lower()


def from_text(text: str) -> bytes:
    """Inverse of :func:`to_text`. Raises ValueError on anything else."""
    try:
        raw = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except binascii.Error as error:
        raise ValueError(f"not base32: {text[:40]!r}") from error
    if to_text(raw) != text:
        raise ValueError(f"not in canonical form: {text[:40]!r}")
    return raw


def node_id_of(spki: bytes) -> NodeId:
    """The id of the device that holds the key with this DER SubjectPublicKeyInfo."""
    return NodeId(hashlib.sha256(spki).digest()[:NODE_ID_SIZE])


def parse_node_id(text: str) -> NodeId:
    """Read 26 base32 characters. Raises ValueError."""
    if not _TEXT_ID.fullmatch(text):
        raise ValueError(f"not a device id: {text[:40]!r}")
    return NodeId(from_text(text))


def bundle_ref(flow: Flow, number: Number) -> BundleRef:
    """The reference of the bundle with this number, the same on every device that sees it."""
    digest = hashlib.sha256(
        b"meshd/bundle-ref/v1"
        + flow.source
        + flow.destination
        + bytes((flow.priority, flow.ephemeral))
        + number.epoch.counter.to_bytes(8, "big")
        + number.epoch.random
        + number.sequence.to_bytes(8, "big")
    )
    return BundleRef(digest.digest()[:BUNDLE_REF_SIZE])


def format_message_id(ref: BundleRef, index: int) -> str:
    """The id of message ``index`` (0..255) of a bundle, as people and scripts see it."""
    return f"{to_text(ref)}-{index}"


def format_message_ids(ref: BundleRef, first: int, count: int) -> list[str]:
    """The ids of ``count`` neighbouring messages of a bundle, from index ``first`` on."""
    bundle = to_text(ref)
    return [f"{bundle}-{index}" for index in range(first, first + count)]


def parse_message_id(text: str) -> tuple[BundleRef, int]:
    """Inverse of :func:`format_message_id`. Raises ValueError."""
    match = _MESSAGE_ID.fullmatch(text)
    if match is None:
        raise ValueError(f"not a message id: {text[:40]!r}")
    return BundleRef(from_text(match[1])), int(match[2])


def is_service_name(text: str) -> bool:
    """1..64 of letters, digits, dot, underscore, hyphen; starts with a letter or digit."""
    return _SERVICE.fullmatch(text) is not None


def is_device_name(text: str) -> bool:
    """1..63 of letters, digits, dot, underscore, hyphen; never the shape of a full device id."""
    return _DEVICE_NAME.fullmatch(text) is not None and _TEXT_ID.fullmatch(text) is None
