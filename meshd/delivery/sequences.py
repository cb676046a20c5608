"""Sets of sequence numbers that are almost always contiguous: a watermark and a few spans beyond."""

import bisect
from collections.abc import Iterable, Iterator

MAX_SPANS = 1024
"""Beyond this many spans a set takes no number that would open another one (see ``has_room_for``)."""


class SequenceSet:
    """A set of integers >= 1, kept as "all up to ``watermark``" and sorted spans above it.

    Adding in order costs O(1); the memory is bounded by MAX_SPANS spans.
    """

    __slots__ = ("_firsts", "_lasts", "watermark")

    def __init__(self, watermark: int = 0, spans: Iterable[tuple[int, int]] = ()) -> None:
        self.watermark = watermark
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in spans:
            self.add_span(first, last)

    def __contains__(self, sequence: int) -> bool:
        if sequence <= self.watermark:
            return True
        index = bisect.bisect_right(self._firsts, sequence) - 1
        return index >= 0 and sequence <= self._lasts[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SequenceSet):
            return NotImplemented
        return self.watermark == other.watermark and self.spans == other.spans

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"SequenceSet({self.watermark}, {self.spans})"

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The spans above the watermark, first and last inclusive, ascending and apart."""
        return tuple(zip(self._firsts, self._lasts, strict=True))

    @property
    def highest(self) -> int:
        """The highest member, 0 when empty."""
        return self._lasts[-1] if self._lasts else self.watermark

    def has_room_for(self, sequence: int) -> bool:
        """Whether adding ``sequence`` keeps the set within MAX_SPANS."""
        return len(self._firsts) < MAX_SPANS or sequence == self.watermark + 1 or sequence in self

    def add(self, sequence: int) -> bool:
        """Add one number; return whether it was new."""
        if sequence == self.watermark + 1 and not self._firsts:
            self.watermark = sequence
            return True
        if sequence in self:
            return False
        self.add_span(sequence, sequence)
        return True

    def add_span(self, first: int, last: int) -> None:
        """Add ``first``..``last`` inclusive."""
        if last <= self.watermark:
            return
        low = bisect.bisect_left(self._lasts, first - 1)
        high = bisect.bisect_right(self._firsts, last + 1)
        if low < high:
            first = min(first, self._firsts[low])
            last = max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]
        self._absorb()

    def raise_to(self, watermark: int) -> None:
        """Add everything up to ``watermark``."""
        if watermark > self.watermark:
            self.watermark = watermark
            self._absorb()

    def _absorb(self) -> None:
        while self._firsts and self._firsts[0] <= self.watermark + 1:
            self.watermark = max(self.watermark, self._lasts[0])
            del self._firsts[0], self._lasts[0]

    def missing_below(self, limit: int) -> Iterator[tuple[int, int]]:
        """The spans of numbers < ``limit`` that are not members."""
        position = self.watermark + 1
        for first, last in self.spans:
            if first >= limit:
                break
            yield position, first - 1
            position = last + 1
        if position < limit:
            yield position, limit - 1

    def missing_between(self, first: int, last: int) -> list[tuple[int, int]]:
        """The spans of ``first``..``last`` inclusive that are not members; looks only at what is there."""
        position = max(first, self.watermark + 1)
        missing = []
        for index in range(bisect.bisect_left(self._lasts, position), len(self._firsts)):
            if position > last or self._firsts[index] > last:
                break
            if self._firsts[index] > position:
                missing.append((position, self._firsts[index] - 1))
            position = self._lasts[index] + 1
        if position <= last:
            missing.append((position, last))
        return missing
