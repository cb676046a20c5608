"""The one way meshd waits between attempts: exponential, capped, jittered."""

import random

import attrs

JITTER = (0.5, 1.0)
"""Each wait is multiplied by a number from this range, so that peers that failed together don't retry together."""


@attrs.define(eq=False)
class Backoff:
    """Waits of ``min(cap, base x 2^n) x U(0.5, 1)`` seconds; n counts the waits since the last reset.

    Args:
        base: the first wait before jitter, seconds.
        cap: no wait is longer, seconds.
    """

    base: float
    cap: float
    rng: random.Random
    waits: int = attrs.field(default=0, init=False)
    """How many waits were given out since the last reset."""

    def next_wait(self) -> float:
        """The next wait in seconds; each is about twice the one before."""
        doublings = min(self.waits, 64)  # 2^64 is over any cap, and a float
        self.waits += 1
        return min(self.cap, self.base * 2.0**doublings) * self.rng.uniform(*JITTER)

    def reset(self) -> None:
        """Things work again: start over with the shortest wait."""
        self.waits = 0
