"""Others' bundles that are here on their way: which they are, whom their room is charged to, how custody ends."""

from collections.abc import Iterable, Sequence

import attrs

from meshd.delivery.queue import SpoolQueue, Waiting
from meshd.ids import BundleId, BundleRef, NodeId
from meshd.node.endings import Endings
from meshd.node.tally import count_reason
from meshd.node.turn import Turn
from meshd.store.ops import DeleteSpool, JournalEntry, SpoolRow
from meshd.store.reads import ExpiredRow


class Custody:
    """Counts, and writes ends down; the bundles themselves wait in the spool's queues.

    What was taken over before a restart is charged to nobody, and known only while it is in memory.
    """

    def __init__(self, endings: Endings) -> None:
        self._endings = endings
        self._in_memory: set[BundleId] = set()
        self._taken: set[BundleId] = set()
        self._charged: dict[int, tuple[NodeId, int, BundleId]] = {}
        self._charges: dict[NodeId, int] = {}
        self._stuck: dict[BundleId, SpoolRow] = {}

    def __contains__(self, bundle: BundleId) -> bool:
        """Whether the bundle is known to be here; one from before a restart may be taken twice, and no harm done."""
        return bundle in self._in_memory or bundle in self._taken

    def charge_of(self, neighbour: NodeId) -> int:
        """Bytes that a neighbour has handed over and that are still here."""
        return self._charges.get(neighbour, 0)

    def giver(self, row: int) -> NodeId | None:
        """Who handed the bundle of this row over; None when that was before a restart, or when it is our own."""
        charged = self._charged.get(row)
        return None if charged is None else charged[0]

    def take(self, neighbour: NodeId, row: SpoolRow) -> None:
        """A neighbour handed a bundle over."""
        bundle = row.bundle or BundleId(b"")
        self._taken.add(bundle)
        if row.hop_limit == 0:
            self._stuck[bundle] = attrs.evolve(row, head=None, body=b"")
        self._charged[row.row] = (neighbour, row.size_bytes, bundle)
        self._charges[neighbour] = self.charge_of(neighbour) + row.size_bytes

    def is_stuck(self, bundle: BundleId) -> bool:
        """Whether the bundle is here and may take no more hops: one that came another way may."""
        return bundle in self._stuck

    def replace_stuck(self, turn: Turn, queue: SpoolQueue, bundle: BundleId) -> None:
        """The bundle comes again, and may take more hops: it is kept in the place of the one that may not."""
        row = self._stuck.get(bundle)
        if row is not None:
            queue.discount(row.messages, row.size_bytes)
            self.end(turn, row.row, row.ref, "hop-limit")

    def remember(self, bundles: Iterable[BundleId]) -> None:
        """These are in memory now."""
        self._in_memory.update(bundles)

    def forget(self, bundles: Iterable[BundleId]) -> None:
        """These are on disk only, or gone."""
        self._in_memory.difference_update(bundles)

    # --- how it ends

    def let_go(self, turn: Turn, queue: SpoolQueue, waiting: Waiting, reason: str) -> None:
        """Our custody of a bundle in a queue's window ends."""
        queue.finish(waiting)
        self.forget([waiting.bundle])
        self.end(turn, waiting.row, waiting.ref, reason)

    def end(self, turn: Turn, row: int, ref: BundleRef, reason: str) -> None:
        """Our custody of a bundle that is in no queue's window ends."""
        count_reason(turn.tally.custody_ended, reason)
        self._endings.note([row])
        self._discharge(row)
        turn.lazy_ops.append(DeleteSpool((row,)))
        turn.journal.append(JournalEntry(ref, turn.now_ms, "custody-ended", reason))

    def expired(self, turn: Turn, rows: Sequence[ExpiredRow]) -> None:
        """The lifetime of these bundles of others is over."""
        if not rows:
            return
        for row in rows:
            self._discharge(row.row)
        turn.lazy_ops.append(DeleteSpool(tuple(row.row for row in rows)))
        turn.journal += [JournalEntry(row.ref, turn.now_ms, "custody-ended", "lifetime") for row in rows]

    def _discharge(self, row: int) -> None:
        charged = self._charged.pop(row, None)
        if charged is not None:
            neighbour, size_bytes, bundle = charged
            self._charges[neighbour] -= size_bytes
            self._taken.discard(bundle)
            self._stuck.pop(bundle, None)
