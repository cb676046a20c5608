"""What the shell knows of itself: commits, reads, the event loop, the API's clients, and parts that don't run."""

from collections.abc import Callable

import attrs

from meshd.histogram import Histogram

COMMIT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Seconds: from an SSD to a worn SD card."""

LOOP_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds that whatever was ready had to wait."""


@attrs.frozen(kw_only=True)
class Outage:
    """A part of the daemon that doesn't run: ``reason`` says why, ``fix`` what a person can do about it."""

    part: str
    code: str
    reason: str
    fix: str


@attrs.define(eq=False, kw_only=True)
class Vitals:
    """Written by whoever measures, read when somebody asks.

    Args:
        commits: seconds that transactions took. reads: the same for reads. Both belong to the store's thread.
        loop: seconds that passes of the event loop took, and that it woke up late.
        loop_worst: the longest of these since it was last set to 0.
        clients: how many the local API has now.
        outages: the parts that the daemon does without now, by their names.
    """

    commits: Histogram = attrs.field(factory=lambda: Histogram(COMMIT_BOUNDS))
    reads: Histogram = attrs.field(factory=lambda: Histogram(COMMIT_BOUNDS))
    loop: Histogram = attrs.field(factory=lambda: Histogram(LOOP_BOUNDS))
    loop_worst: float = 0.0
    clients: Callable[[], int] = lambda: 0
    outages: dict[str, Outage] = attrs.field(factory=dict)
