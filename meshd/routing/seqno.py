"""Sequence numbers that only their destination can make (RFC 8966 sections 2.5 and 3.2.1).

The RFC's router-id is here the device with its epoch, and epochs are ordered. So (epoch, number) is
one long sequence number for each device: a restart that lost the number is a newer epoch, not
another source, and the feasibility condition keeps routes free of loops across restarts too, which
section 2.7 of the RFC can't promise between different router-ids.

Numbers don't wrap, unlike the RFC's 16 bits: an announcement is signed for good, and with modulo
arithmetic a replayed one would look new half a circle later. Before the 32 bits run out the
destination takes a new epoch.
"""

import enum
from collections.abc import Callable
from typing import TypeAlias

import attrs

from meshd.ids import Epoch, NodeId
from meshd.trust import identity
from meshd.wire.routing import MAX_SEQNO

_LABEL = "meshd/route/v1"


@attrs.frozen
class Seqno:
    """A destination's sequence number: newer when its epoch is, or its number within the same epoch."""

    epoch: Epoch
    number: int

    def is_newer_than(self, other: "Seqno") -> bool:
        """Whether this came after ``other``."""
        if self.epoch == other.epoch:
            return self.number > other.number
        return self.epoch > other.epoch

    @property
    def next(self) -> "Seqno":
        """The one after this; the same at the end of an epoch, where only a new epoch is newer."""
        return Seqno(self.epoch, min(self.number + 1, MAX_SEQNO))


@attrs.frozen
class Announcement:
    """A destination's word that it has come to ``seqno``."""

    destination: NodeId
    seqno: Seqno
    signature: bytes


class Verdict(enum.Enum):
    """What a signature is worth."""

    GENUINE = enum.auto()
    FORGED = enum.auto()
    UNKNOWN = enum.auto()
    """The roster here doesn't have the device: nobody's fault."""


Sign: TypeAlias = Callable[[Seqno], bytes]
"""Makes this device's signature over a seqno of its own."""

Verify: TypeAlias = Callable[[Announcement], Verdict]


def signer(device: identity.Identity) -> Sign:
    """How this device signs its seqnos."""
    return lambda seqno: device.sign(_LABEL, device.node_id, *_signed(seqno))


def verifier(key_of: Callable[[NodeId], bytes | None]) -> Verify:
    """How announcements are checked. ``key_of`` gives a member's raw public key, None for a stranger."""

    def verify(announcement: Announcement) -> Verdict:
        key = key_of(announcement.destination)
        if key is None:
            return Verdict.UNKNOWN
        parts = (announcement.destination, *_signed(announcement.seqno))
        is_genuine = identity.verify(key, announcement.signature, _LABEL, *parts)
        return Verdict.GENUINE if is_genuine else Verdict.FORGED

    return verify


def _signed(seqno: Seqno) -> tuple[bytes, bytes, bytes]:
    return seqno.epoch.counter.to_bytes(8, "big"), seqno.epoch.random, seqno.number.to_bytes(4, "big")
