"""What a service's mailbox holds at one priority: a window in memory over the rows on disk.

Memory is bounded: fresh batches stay in the *tail* only while live readers want them, what was
loaded from disk stays in the *page* until the readers have passed it. Anything else is on disk, and
:meth:`Shelf.after` says from which offset to load it.
"""

import bisect

import attrs

from meshd.ids import BundleRef, NodeId, Number, Priority

TAIL_BYTES = 512 * 1024
"""Fresh bodies kept for readers that are a little behind; beyond it they read from disk."""

PAGE_BYTES = 1024 * 1024
PAGE_ROWS = 256
_ROW_COST_BYTES = 512
"""What a batch costs in memory beside its messages."""


@attrs.frozen(kw_only=True)
class Entry:
    """A released batch, without its messages. One row of the inbox.

    Args:
        first_offset: of its first message; the others follow.
        size_bytes: what it counts against the source's quota.
        age_ms: when it arrived; arrived_ms: on the mesh-local clock.
        missing: encoded note about mail that will not come, right before this batch, or None.
    """

    row: int
    priority: Priority
    first_offset: int
    count: int
    ref: BundleRef
    source: NodeId
    number: Number
    size_bytes: int
    age_ms: int
    arrived_ms: int
    late: bool = False
    missing: bytes | None = None

    @property
    def last_offset(self) -> int:
        """Of its last message."""
        return self.first_offset + self.count - 1


@attrs.frozen
class Batch:
    """A released batch with its messages: an encoded CBOR list of ``entry.count``."""

    entry: Entry
    messages: bytes


@attrs.frozen
class OnDisk:
    """The next batch, if there is one, has to be loaded: the first that ends at or after ``offset``."""

    offset: int


def _last_offset(batch: Batch) -> int:
    return batch.entry.last_offset


class Segment:
    """Every batch stored between two offsets, ``low`` inclusive and ``high`` exclusive, in order."""

    __slots__ = ("_batches", "bytes", "high", "low")

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        self.high = high
        self.bytes = 0
        self._batches: list[Batch] = []

    def append(self, batch: Batch) -> None:
        """Add a batch at the end."""
        self._batches.append(batch)
        self.bytes += len(batch.messages) + _ROW_COST_BYTES
        self.high = batch.entry.last_offset + 1

    def after(self, offset: int) -> Batch | None:
        """The first batch that ends at or after ``offset``."""
        index = bisect.bisect_left(self._batches, offset, key=_last_offset)
        return self._batches[index] if index < len(self._batches) else None

    def trim(self, offset: int) -> None:
        """Forget the bodies of batches that end before ``offset``; they are still on disk."""
        index = bisect.bisect_left(self._batches, offset, key=_last_offset)
        if index:
            self.low = self._batches[index - 1].entry.last_offset + 1
            self.bytes -= sum(len(batch.messages) + _ROW_COST_BYTES for batch in self._batches[:index])
            del self._batches[:index]

    def discard(self, first_offset: int) -> None:
        """Forget a batch that is not on disk any more either."""
        index = bisect.bisect_left(self._batches, first_offset, key=_last_offset)
        if index < len(self._batches) and self._batches[index].entry.first_offset == first_offset:
            self.bytes -= len(self._batches[index].messages) + _ROW_COST_BYTES
            del self._batches[index]


@attrs.define(eq=False)
class PendingLoad:
    """A read under way. What is deleted meanwhile (``gone``) must not come back with its answer."""

    offset: int
    until: int
    gone: set[int] = attrs.field(factory=set)


class Shelf:
    """One priority of one mailbox. ``first_offset``: the first to be given out in this run."""

    def __init__(self, priority: Priority, first_offset: int, *, has_backlog: bool) -> None:
        self.priority = priority
        self.next_offset = first_offset
        # Without a backlog the tail covers everything that was ever stored: nothing.
        self.tail = Segment(first_offset if has_backlog else 0, first_offset)
        self.page: Segment | None = None
        self.load: PendingLoad | None = None
        self.retry_at: float | None = None

    @property
    def bytes(self) -> int:
        """Memory that bodies take now."""
        return self.tail.bytes + (self.page.bytes if self.page is not None else 0)

    def append(self, batch: Batch) -> None:
        """A fresh batch, at ``next_offset``."""
        self.tail.append(batch)
        self.next_offset = self.tail.high

    def spill(self, count: int) -> None:
        """A batch got its turn whose messages are on disk only: everything up to it is read from there."""
        self.next_offset += count
        self.tail = Segment(self.next_offset, self.next_offset)

    def skip(self, count: int) -> None:
        """Give out offsets to messages that are not stored."""
        self.next_offset += count
        self.tail.high = self.next_offset

    def after(self, offset: int) -> Batch | OnDisk | None:
        """The first stored batch that ends at or after ``offset``, or where to look for it, or None."""
        if offset < self.tail.low and self.page is not None and self.page.low <= offset < self.page.high:
            batch = self.page.after(offset)
            if batch is not None:
                return batch
            offset = self.page.high
        return self.tail.after(offset) if offset >= self.tail.low else OnDisk(offset)

    def at(self, first_offset: int) -> Batch | OnDisk | None:
        """The stored batch that starts at ``first_offset``, or where to look for it, or None when it is gone."""
        found = self.after(first_offset)
        if isinstance(found, Batch):
            return found if found.entry.first_offset == first_offset else None
        return found if found is not None and found.offset == first_offset else None

    def begin_load(self, offset: int) -> None:
        """A read from ``offset`` has been asked for. One at a time."""
        self.load = PendingLoad(offset, self.tail.low)

    def end_load(self, batches: list[Batch]) -> None:
        """The answer: the page replaces the one before."""
        load, self.load = self.load, None
        if load is None:
            return
        self.page = Segment(load.offset, load.offset)
        for batch in batches:
            self.page.append(batch)
        for first_offset in load.gone:
            self.page.discard(first_offset)
        if not batches:
            self.page.high = load.until

    def forget(self, first_offset: int) -> None:
        """A batch was deleted from the store."""
        self.tail.discard(first_offset)
        if self.page is not None:
            self.page.discard(first_offset)
        if self.load is not None:
            self.load.gone.add(first_offset)

    def trim(self, wanted_from: int | None) -> None:
        """Keep only bodies that a reader at ``wanted_from`` (the slowest; None: no reader) will take."""
        if self.page is not None:
            self.page.trim(self.page.high if wanted_from is None else wanted_from)
            if wanted_from is None or wanted_from >= self.page.high:
                self.page = None
        self.tail.trim(self.tail.high if wanted_from is None or self.tail.bytes > TAIL_BYTES else wanted_from)
