"""What can be written to the store: ops, applied in one transaction. ``reads`` says what can be asked of it.

All times are *mesh-local milliseconds* (``*_ms``): a clock that counts while the device is up or
asleep, goes on where it stopped after a reboot, and is never compared with another device's.
Row numbers are given out by the node, so that it can speak of a row before it is on disk.
"""

from typing import TypeAlias

import attrs

from meshd.ids import BundleId, BundleRef, NodeId, Number, Priority


@attrs.frozen(kw_only=True)
class SpoolRow:
    """One bundle that waits here: our own, or somebody else's in our custody.

    Args:
        row: its number in the spool; within a priority, rows leave in this order.
        head: encoded immutable head; None while no card of the destination is known (then ``body``
            is the plaintext, ours).
        body: sealed content.
        service: for our own bundles, else None. messages: how many (1 when not ours).
        from_peer: the neighbour that handed it over, None for our own.
        principal: who sent it, for our own.
        size_bytes: what it counts against the quota.
    """

    row: int
    ref: BundleRef
    bundle: BundleId | None
    source: NodeId
    destination: NodeId
    priority: Priority
    number: Number
    head: bytes | None
    body: bytes
    service: str | None
    messages: int
    from_peer: NodeId | None
    principal: str | None
    hop_limit: int
    copies: int
    lifetime_ms: int
    accepted_ms: int
    expires_ms: int
    size_bytes: int


@attrs.frozen
class PutSpool:
    """Add a bundle."""

    row: SpoolRow


@attrs.frozen
class SealSpool:
    """A waiting unsealed bundle was sealed: replace head, body and id."""

    row: int
    bundle: BundleId
    head: bytes
    body: bytes


@attrs.frozen
class SetCopies:
    """A carrier was given a part of the copies of a waiting bundle: so many are left to give."""

    row: int
    copies: int


@attrs.frozen
class FinishSpool:
    """The bundle no longer waits: its body is dropped and the rest kept for ``trace`` until ``keep_until_ms``.

    ``state`` is ``delivered``, ``consumed``, ``expired`` or ``refused``.
    """

    rows: tuple[int, ...]
    state: str
    reason: str | None
    keep_until_ms: int


@attrs.frozen
class DeleteSpool:
    """Forget bundles: custody has passed on, or their trace is old."""

    rows: tuple[int, ...]


@attrs.frozen(kw_only=True)
class InboxRow:
    """One bundle that arrived for a service here.

    Args:
        first_offset: of its first message; None while it is held for an earlier bundle.
        prev: the number it waits for, kept while held.
        missing: encoded note about mail that will not come, right before this bundle, or None.
        messages: encoded CBOR list of ``count`` messages.
        size_bytes: their length, also where a row is kept without them.
    """

    row: int
    service: str
    priority: Priority
    first_offset: int | None
    count: int
    ref: BundleRef
    source: NodeId
    number: Number
    prev: Number | None
    late: bool
    missing: bytes | None
    age_ms: int
    arrived_ms: int
    expires_ms: int
    messages: bytes
    size_bytes: int = attrs.field(eq=False)

    @size_bytes.default
    def _length(self) -> int:
        return len(self.messages)


@attrs.frozen
class PutInbox:
    """Add a bundle, released (with an offset) or held."""

    row: InboxRow


@attrs.frozen
class ReleaseInbox:
    """A held bundle got its turn."""

    row: int
    first_offset: int
    missing: bytes | None
    late: bool


@attrs.frozen
class DeleteInbox:
    """Consumed by everybody who should, expired, or dropped."""

    rows: tuple[int, ...]


@attrs.frozen
class PutFact:
    """Set one small piece of state: ``value`` under (``kind``, ``key``)."""

    kind: str
    key: bytes
    value: bytes


@attrs.frozen
class DeleteFact:
    """Remove one piece of state."""

    kind: str
    key: bytes


@attrs.frozen
class PutKey:
    """Remember the answer given to an idempotency key of one principal."""

    principal: str
    key: str
    answer: bytes
    expires_ms: int


@attrs.frozen
class JournalEntry:
    """One event in the life of a bundle. ``event`` and ``reason`` are codes, ``detail`` is for people."""

    ref: BundleRef
    at_ms: int
    event: str
    reason: str | None = None
    detail: str | None = None


@attrs.frozen
class AddJournal:
    """Append events."""

    entries: tuple[JournalEntry, ...]


@attrs.frozen
class Purge:
    """Delete finished spool rows, journal entries and idempotency keys that are older than they need be."""

    now_ms: int
    journal_before_ms: int
    journal_rows_max: int


Op: TypeAlias = (
    PutSpool
    | SealSpool
    | SetCopies
    | FinishSpool
    | DeleteSpool
    | PutInbox
    | ReleaseInbox
    | DeleteInbox
    | PutFact
    | DeleteFact
    | PutKey
    | AddJournal
    | Purge
)


@attrs.frozen
class Committed:
    """Event: the ops of these tickets are on disk; or, with ``error``, none of this ticket's ops were carried out.

    When a sync was what failed, the next process may still find all of them, until another commit succeeds.
    """

    tickets: tuple[int, ...]
    error: str | None = None
    """None, ``E_FULL`` (quota of the disk) or ``E_DATABASE``."""
    reason: str | None = None
