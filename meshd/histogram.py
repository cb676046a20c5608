"""How long things took: a histogram with fixed bounds. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import attrs


@attrs.frozen
class Distribution:
    """A histogram at one moment.

    Args:
        buckets: (upper bound, how many were at most that), growing; the last bound is infinite.
        total: the sum of all that was observed.
    """

    buckets: tuple[tuple[float, int], ...]
    total: float


class Histogram:
    """Counts observations. One thread may observe while another one looks: a look may miss the newest.

    Args:
        bounds: upper bounds, inclusive and growing; what is above the last one is counted too.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def snapshot(self) -> Distribution:
        """All that was observed."""
        bounds = (*self._bounds, float("inf"))
        return Distribution(tuple(zip(bounds, accumulate(self._counts), strict=True)), self._total)
