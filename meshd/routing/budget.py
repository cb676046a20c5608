"""A token bucket."""

import attrs


@attrs.define(eq=False)
class Budget:
    """Allows ``burst`` at once and ``per_second`` in the long run."""

    burst: float
    per_second: float
    _left: float = attrs.field(init=False)
    _at: float = attrs.field(init=False, default=float("-inf"))

    def __attrs_post_init__(self) -> None:
        self._left = self.burst

    def take(self, now: float, count: int = 1) -> bool:
        """Spend ``count``, if there are so many. Spends nothing otherwise."""
        if self._at > float("-inf"):
            self._left = min(self.burst, self._left + (now - self._at) * self.per_second)
        self._at = now
        if self._left < count:
            return False
        self._left -= count
        return True

    def ready_at(self, now: float) -> float:
        """When one can be spent, if nothing is until then. A little late rather than early."""
        return now + max(0.0, 1 - self._left) / self.per_second + 0.001
