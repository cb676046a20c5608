"""Named timers with one next deadline."""

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")


class Timers(Generic[K]):
    """Each key has at most one time, in seconds. Cheap to set again and again."""

    def __init__(self) -> None:
        self._times: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0

    def __contains__(self, key: K) -> bool:
        return key in self._times

    def at(self, key: K) -> float | None:
        """When ``key`` is due; None when it isn't set."""
        return self._times.get(key)

    def set(self, key: K, at: float) -> None:
        """Let ``key`` be due at ``at``, and not when it was before."""
        if self._times.get(key) != at:
            self._times[key] = at
            self._count += 1  # keys aren't ordered; the count keeps the heap from comparing them
            heapq.heappush(self._heap, (at, self._count, key))
            if len(self._heap) > 2 * len(self._times) + 64:
                self._heap = [item for item in self._heap if self._times.get(item[2]) == item[0]]
                heapq.heapify(self._heap)

    def cancel(self, key: K) -> None:
        """Let ``key`` not be due."""
        self._times.pop(key, None)

    @property
    def next(self) -> float | None:
        """When the first is due."""
        while self._heap:
            at, _, key = self._heap[0]
            if self._times.get(key) == at:
                return at
            heapq.heappop(self._heap)
        return None

    def due(self, now: float) -> Iterator[K]:
        """Take out the keys that are due, first to last; also those set while this runs."""
        while (at := self.next) is not None and at <= now:
            key = heapq.heappop(self._heap)[2]
            del self._times[key]
            yield key
