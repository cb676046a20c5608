"""When the first of many timers goes off, without looking at all of them in every turn. Pure."""

import math


class Soonest:
    """A time no later than the first timer of a collection; -inf at first: nobody has looked yet.

    Whoever sets a timer notes it. One that is put off or cleared is not told of: the time comes too early then,
    all timers are looked at once, and noted anew.
    """

    def __init__(self) -> None:
        self._at = -math.inf

    def note(self, at: float | None) -> None:
        """A timer goes off ``at`` this time, or never."""
        if at is not None and at < self._at:
            self._at = at

    def take(self, now: float) -> bool:
        """Whether it is time to look at all timers; those that remain are to be noted then."""
        if now < self._at:
            return False
        self._at = math.inf
        return True

    @property
    def at(self) -> float | None:
        """When to look at the timers; None when there are none."""
        return None if self._at == math.inf else self._at
