"""Mail for services here: stored as rows of the inbox, held until its turn, released to its mailbox."""

import attrs

from meshd.delivery.arrivals import FlowArrivals, Held, Release
from meshd.delivery.shelf import Batch
from meshd.ids import bundle_ref
from meshd.node.mailboxes import Mailboxes, entry_of
from meshd.node.turn import Turn
from meshd.store.ops import InboxRow, JournalEntry, PutInbox, ReleaseInbox
from meshd.store.reads import Snapshot
from meshd.wire import codec
from meshd.wire.bundle import Content, Head

_HOLD_SHARE = 0.75
"""Part of a bundle's remaining lifetime that it waits for its predecessor; the rest is for its reader."""


class Releasing:
    """Writes the rows. Whose turn it is, the flow decides: whoever calls has it, and notes that it has moved."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes
        self._held: dict[int, InboxRow] = {}
        self._next_row = 1

    def restore(self, snapshot: Snapshot) -> list[tuple[InboxRow, Held]]:
        """Take up what the last life held; return what waits for a predecessor in its flow."""
        self._next_row = snapshot.next_inbox_row
        self._held = {row.row: row for row in snapshot.held}
        return [
            (row, Held(row.row, row.service, row.number, row.prev, _hold_until(row)))
            for row in snapshot.held
            if row.prev is not None
        ]

    def take(self, turn: Turn, flow: FlowArrivals, head: Head, content: Content, age_ms: int) -> InboxRow:
        """Store a bundle for its service, and release whatever has its turn now. Returns the bundle's row."""
        row = self._row(turn, head, content, age_ms)
        turn.tally.arrived[row.priority] += row.count
        turn.journal.append(JournalEntry(row.ref, turn.now_ms, "arrived", None, row.service))
        release = flow.take(row.row, row.service, head.number, content.prev, content.floor, _hold_until(row))
        if release is None:
            turn.ops.append(PutInbox(row))
            self._held[row.row] = attrs.evolve(row, messages=b"")
        else:
            released = self._released(turn, row, release)
            turn.ops.append(PutInbox(released))
            self._mailboxes.release(turn, row.service, Batch(entry_of(released), row.messages))
        self.release(turn, flow, turn.now_ms)
        return row

    def release(self, turn: Turn, flow: FlowArrivals, until_ms: int) -> None:
        """Release what is held of a flow and has its turn, or has waited for that until then."""
        for release in flow.releases(until_ms):
            row = self._released(turn, self._held.pop(release.row), release)
            turn.ops.append(ReleaseInbox(row.row, row.first_offset or 0, row.missing, row.late))
            self._mailboxes.on_disk(turn, row.service, entry_of(row))

    def pass_through(self, turn: Turn, head: Head, content: Content, age_ms: int) -> None:
        """Hand an ephemeral bundle to whoever reads now."""
        turn.tally.ephemeral_arrived += content.count
        if not self._mailboxes.is_read(content.service):  # nobody is to get it, and no mailbox is made for it
            return
        offset = self._mailboxes.next_offset(content.service, head.flow.priority, turn.now)
        row = attrs.evolve(self._row(turn, head, content, age_ms), first_offset=offset)
        self._mailboxes.pass_through(turn, content.service, Batch(entry_of(row), content.messages))

    def _row(self, turn: Turn, head: Head, content: Content, age_ms: int) -> InboxRow:
        self._next_row += 1
        expires_ms = turn.now_ms + max(0, head.lifetime_ms - age_ms)
        self._mailboxes.note_expiry(expires_ms)
        return InboxRow(
            row=self._next_row - 1,
            service=content.service,
            priority=head.flow.priority,
            first_offset=None,
            count=content.count,
            ref=bundle_ref(head.flow, head.number),
            source=head.flow.source,
            number=head.number,
            prev=content.prev,
            late=False,
            missing=None,
            age_ms=age_ms,
            arrived_ms=turn.now_ms,
            expires_ms=expires_ms,
            messages=content.messages,
        )

    def _released(self, turn: Turn, row: InboxRow, release: Release) -> InboxRow:
        offset = self._mailboxes.next_offset(row.service, row.priority, turn.now)
        missing = None
        if release.missing is not None:
            missing = codec.encode({"bundles": None, "reason": release.missing})
        return attrs.evolve(row, first_offset=offset, missing=missing, late=release.late)


def _hold_until(row: InboxRow) -> int:
    return row.arrived_ms + int((row.expires_ms - row.arrived_ms) * _HOLD_SHARE)
