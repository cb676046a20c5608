"""One durable named consumer of a service: what it has acked, what it holds, what it gets again.

A cursor per priority. Everything below ``next`` was handed out under the lease of now, is acked, or
does not exist; ``done`` holds what is acked (or gone), as a watermark and spans. When a lease ends,
``next`` goes back to the first offset that is not done: the same path as after a restart.
"""

import bisect
import heapq
from collections import deque
from collections.abc import Iterable
from typing import Any

import attrs

from meshd.delivery.sequences import SequenceSet
from meshd.delivery.shelf import Entry
from meshd.errors import MeshdError
from meshd.ids import Priority, is_service_name
from meshd.wire import codec
from meshd.wire.codec import array, matching, optional, record, text, uint

FACT_KIND = "consumer"
RETRY_FIRST_S = 1.0
RETRY_MAX_S = 60.0
MAX_OUTSTANDING = 4096
"""Messages handed out and not acked, per priority; nothing fresh goes out beyond it, whatever the credit."""

MAX_HOLES = 1024
"""Unacked spans between acked ones; nothing fresh goes out beyond it (acks are always taken)."""

_STATE_VERSION = 1
Span = tuple[int, int]
"""Offsets, first and last inclusive."""


@attrs.frozen(order=True)
class Again:
    """Messages of one held batch to be delivered again, from ``at`` (seconds)."""

    at: float
    batch: int
    span: Span


class Cursor:
    """A consumer's place at one priority.

    Args:
        since: batches from this offset on count as consumed only once this consumer has acked them.
        first: the first offset it reads.
        seen: lower offsets may have been handed out in an earlier lease.
    """

    __slots__ = ("_attempts", "_firsts", "_held", "_nacked", "_timers", "done", "next", "ready", "seen", "since")

    def __init__(self, since: int, first: int, seen: int = 0) -> None:
        self.since = since
        self.seen = seen
        self.next = first
        self.done = SequenceSet(first - 1)
        self.ready: deque[Again] = deque()
        self._held: dict[int, Entry] = {}
        self._firsts: list[int] = []  # keys of _held, ascending
        self._attempts: dict[int, int] = {}
        self._nacked: set[int] = set()
        self._timers: list[Again] = []

    def missing(self, first: int, last: int) -> list[Span]:
        """The spans of ``first``..``last`` that are not done."""
        return self.done.missing_between(first, last)

    def has_done(self, entry: Entry) -> bool:
        """Whether every message of the batch is acked."""
        return not self.missing(entry.first_offset, entry.last_offset)

    @property
    def end(self) -> int:
        """Above every offset that can be done."""
        return max(self.next, self.done.highest + 1)

    @property
    def is_full(self) -> bool:
        """Whether it must ack before it gets anything fresh."""
        holes = list(self.done.missing_below(self.next))
        return len(holes) >= MAX_HOLES or sum(last - first + 1 for first, last in holes) >= MAX_OUTSTANDING

    def pass_to(self, offset: int) -> None:
        """Nothing is stored from ``next`` up to ``offset``."""
        if offset > self.next:
            self.done.add_span(self.next, offset - 1)
            self.next = offset
            self._forget_attempts()

    def _forget_attempts(self) -> None:
        """At what is done: also at what was deleted while nobody held it."""
        if self._attempts:
            self._attempts = {offset: count for offset, count in self._attempts.items() if offset not in self.done}

    def take(self, entry: Entry) -> list[Span]:
        """The next batch is handed out; return what of it is not done. All of it, but after a lost lease."""
        self.pass_to(entry.first_offset)
        spans = self.missing(entry.first_offset, entry.last_offset)
        self.next = entry.last_offset + 1
        if spans:
            self._held[entry.first_offset] = entry
            self._firsts.append(entry.first_offset)
        return spans

    def finish(self, first: int, last: int) -> list[Entry]:
        """Everything outstanding in ``first``..``last`` is done; return the batches that thereby are."""
        last = min(last, self.next - 1)
        first = max(first, self.done.watermark + 1)
        if last < first:
            return []
        low = max(0, bisect.bisect_right(self._firsts, first) - 1)
        high = bisect.bisect_right(self._firsts, last)
        self.done.add_span(first, last)
        if self._attempts:
            for offset in [offset for offset in self._attempts if first <= offset <= last]:
                del self._attempts[offset]
                self._nacked.discard(offset)
        complete = [self._held[key] for key in self._firsts[low:high] if self.has_done(self._held[key])]
        for entry in complete:
            del self._held[entry.first_offset]
        if complete:
            self._firsts[low:high] = [key for key in self._firsts[low:high] if key in self._held]
        return complete

    def forget(self, first_offset: int) -> None:
        """The batch is deleted: it counts as done."""
        entry = self._held.get(first_offset)
        if entry is not None:
            self.finish(entry.first_offset, entry.last_offset)

    def nack(self, first: int, last: int, now: float) -> None:
        """Deliver again after a delay that doubles each time. What waits for that already is not counted again."""
        for entry in self._held_between(first, last):
            for low, high in self.missing(max(first, entry.first_offset), min(last, entry.last_offset)):
                for offset in range(low, high + 1):
                    if offset not in self._nacked:
                        self._nack_one(entry, offset, now)

    def _nack_one(self, entry: Entry, offset: int, now: float) -> None:
        attempts = self._count(offset)
        self._nacked.add(offset)
        delay = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(attempts - 1, 10))
        heapq.heappush(self._timers, Again(now + delay, entry.first_offset, (offset, offset)))

    def _held_between(self, first: int, last: int) -> list[Entry]:
        low = max(0, bisect.bisect_right(self._firsts, first) - 1)
        return [self._held[key] for key in self._firsts[low : bisect.bisect_right(self._firsts, last)]]

    def _count(self, offset: int) -> int:
        self._attempts[offset] = self._attempts.get(offset, 0) + 1
        return self._attempts[offset]

    def attempts(self, offset: int) -> int:
        """How often the message was given back."""
        return self._attempts.get(offset, 0)

    @property
    def has_attempts(self) -> bool:
        """Whether any message was given back."""
        return bool(self._attempts)

    @property
    def retry_at(self) -> float | None:
        """When the next nacked message is due."""
        return self._timers[0].at if self._timers else None

    def collect_due(self, now: float) -> None:
        """Move what is due to ``ready``, neighbours as one span."""
        while self._timers and self._timers[0].at <= now:
            again = heapq.heappop(self._timers)
            last = self.ready[-1] if self.ready else None
            if last is not None and last.batch == again.batch and last.span[1] + 1 == again.span[0]:
                self.ready[-1] = Again(last.at, last.batch, (last.span[0], again.span[1]))
            else:
                self.ready.append(again)

    def take_ready(self) -> list[Span]:
        """Hand out the first of ``ready`` again; return what of it is not done meanwhile."""
        again = self.ready.popleft()
        self._nacked.difference_update(range(again.span[0], again.span[1] + 1))
        return self.missing(*again.span)

    def lose_lease(self) -> None:
        """The client vanished. What it worked on, the oldest message not given back, counts as tried once more."""
        unacked = (offset for low, high in self.done.missing_below(self.next) for offset in range(low, high + 1))
        suspect = next((offset for offset in unacked if offset not in self._nacked), None)
        if suspect is not None:
            self._count(suspect)

    def rewind(self) -> None:
        """The lease is over: whoever comes next starts at the first message that is not done."""
        self.seen = max(self.seen, self.next)
        self.next = self.done.watermark + 1
        self.ready.clear()
        self._held.clear()
        self._firsts.clear()
        self._nacked.clear()
        self._timers.clear()

    def plain(self) -> list[Any]:
        """The durable part."""
        spans = [value for span in self.done.spans for value in span]
        seen = max(self.seen, self.next)
        return [self.since, self.done.watermark, seen, spans, [list(item) for item in self._attempts.items()]]

    @classmethod
    def restore(
        cls, since: int, watermark: int, seen: int, spans: tuple[int, ...], attempts: Iterable[Span]
    ) -> "Cursor":
        """Inverse of :meth:`plain`."""
        cursor = cls(since, watermark + 1, seen)
        for first, last in zip(spans[::2], spans[1::2], strict=True):
            cursor.done.add_span(first, last)
        cursor._attempts.update(attempts)
        cursor._forget_attempts()
        return cursor


@attrs.define(eq=False)
class Consumer:
    """A named reader of a service.

    Args:
        idle_since: when its last lease ended, in seconds of the mesh-local clock; None under a lease.
        sweep: set once it has been idle for too long, until what waited for it alone is gone: per
            priority the next offset to look at and the one to stop at.
    """

    name: str
    cursors: dict[Priority, Cursor]
    idle_since: float | None = None
    sweep: dict[Priority, Span] | None = None

    def requires(self, entry: Entry) -> bool:
        """Whether the batch waits for this consumer's ack."""
        return self.sweep is None and entry.first_offset >= self.cursors[entry.priority].since

    def has_done(self, entry: Entry) -> bool:
        """Whether it has acked the whole batch."""
        return self.cursors[entry.priority].has_done(entry)

    def encode(self) -> bytes:
        """The durable state."""
        idle_ms = None if self.idle_since is None else int(self.idle_since * 1000)
        return codec.encode([_STATE_VERSION, idle_ms, [self.cursors[priority].plain() for priority in Priority]])

    @classmethod
    def decode(cls, name: str, data: bytes) -> "Consumer":
        """Inverse of :meth:`encode`. Raises MeshdError E_DATABASE."""
        try:
            idle_ms, cursors = _STATE(codec.decode(data))
        except codec.ShapeError as error:
            raise MeshdError("E_DATABASE", f"The state of consumer {name} can't be read: {error}.") from error
        by_priority = dict(zip(Priority, cursors, strict=True))
        return cls(name, by_priority, None if idle_ms is None else idle_ms / 1000)


def fact_key(service: str, consumer: str) -> bytes:
    """Where a consumer's state is kept, under FACT_KIND."""
    return codec.encode([service, consumer])


def parse_fact_key(key: bytes) -> tuple[str, str]:
    """Inverse of :func:`fact_key`: (service, consumer). Raises MeshdError E_DATABASE."""
    try:
        service, consumer = _KEY(codec.decode(key))
    except codec.ShapeError as error:
        raise MeshdError("E_DATABASE", f"A consumer's key can't be read: {error}.") from error
    return service, consumer


def _items(*items: Any) -> tuple[Any, ...]:
    return items


_name = matching(text(64), is_service_name, "a name")
_KEY = record(_items, _name, _name)
_MOST_SPANS = MAX_HOLES + MAX_OUTSTANDING + 512
_spans = matching(array(uint(), 2 * _MOST_SPANS), lambda values: len(values) % 2 == 0, "pairs")
_MOST_ATTEMPTS = 1 << 20
"""Far more than there can be: some version forgot to forget them, and must not keep this one from starting."""

_cursor = record(Cursor.restore, uint(), uint(), uint(), _spans, array(record(_items, uint(), uint()), _MOST_ATTEMPTS))
_STATE = record(
    lambda version, idle_ms, cursors: (idle_ms, cursors),
    uint(_STATE_VERSION, _STATE_VERSION),
    optional(uint()),
    matching(array(_cursor, len(Priority)), lambda cursors: len(cursors) == len(Priority), "one per priority"),
)
