"""What the shell measures of itself, for the metrics: commits, reads, the event loop, the API's clients."""

from collections.abc import Callable

import attrs

from meshd.histogram import Histogram

COMMIT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Seconds: from an SSD to a worn SD card."""

LOOP_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds that whatever was ready had to wait."""


@attrs.define(eq=False, kw_only=True)
class Vitals:
    """Written by whoever measures, read when somebody asks.

    Args:
        commits: seconds that transactions took. reads: the same for reads. Both belong to the store's thread.
        loop: seconds that passes of the event loop took, and that it woke up late.
        loop_worst: the longest of these since it was last set to 0.
        clients: how many the local API has now.
    """

    commits: Histogram = attrs.field(factory=lambda: Histogram(COMMIT_BOUNDS))
    reads: Histogram = attrs.field(factory=lambda: Histogram(COMMIT_BOUNDS))
    loop: Histogram = attrs.field(factory=lambda: Histogram(LOOP_BOUNDS))
    loop_worst: float = 0.0
    clients: Callable[[], int] = lambda: 0
