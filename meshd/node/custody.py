"""Others' bundles that are here on their way: which they are, and who is to be charged for the room."""

from collections.abc import Iterable

from meshd.ids import BundleId, NodeId
from meshd.store.ops import SpoolRow


class Custody:
    """Counts; the bundles themselves wait in the spool's queues.

    What was taken over before a restart is charged to nobody, and known only while it is in memory.
    """

    def __init__(self) -> None:
        self._in_memory: set[BundleId] = set()
        self._taken: set[BundleId] = set()
        self._charged: dict[int, tuple[NodeId, int, BundleId]] = {}
        self._charges: dict[NodeId, int] = {}

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
        self._charged[row.row] = (neighbour, row.size_bytes, bundle)
        self._charges[neighbour] = self.charge_of(neighbour) + row.size_bytes

    def remember(self, bundles: Iterable[BundleId]) -> None:
        """These are in memory now."""
        self._in_memory.update(bundles)

    def forget(self, bundles: Iterable[BundleId]) -> None:
        """These are on disk only, or gone."""
        self._in_memory.difference_update(bundles)

    def end(self, row: int) -> None:
        """The bundle of this row left, or expired."""
        charged = self._charged.pop(row, None)
        if charged is not None:
            neighbour, size_bytes, bundle = charged
            self._charges[neighbour] -= size_bytes
            self._taken.discard(bundle)
