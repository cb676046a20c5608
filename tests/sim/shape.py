"""Who hears whom: a network on which only neighbours do, whatever else is cut and healed."""

import itertools
import math
import random
from collections.abc import Collection, Iterable

from meshd.transport.memory import MemoryNetwork
from meshd.transport.pipe import Rule

SHAPES = ("lan", "line", "ring")


def neighbours(shape: str, hosts: int) -> set[tuple[int, int]]:
    """The pairs that hear each other, by number, the lower one first."""
    line = set(itertools.pairwise(range(hosts)))
    match shape:
        case "line":
            return line
        case "ring":
            return line | {(0, hosts - 1)}
        case _:
            return set(itertools.combinations(range(hosts), 2))


class ShapedNetwork(MemoryNetwork):
    """A MemoryNetwork with walls that no healing takes down: between all pairs of ``hosts`` but those that hear."""

    def __init__(
        self,
        rng: random.Random,
        *,
        rule: Rule,
        idle_timeout: float,
        hosts: Iterable[str] = (),
        hears: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(rng, rule=rule, idle_timeout=idle_timeout)
        self._hosts = tuple(hosts)
        open_pairs = {pair for a, b in hears for pair in ((a, b), (b, a))}
        self._walls = frozenset(itertools.permutations(self._hosts, 2)) - open_pairs
        self._blocked.update(self._walls)

    def heal(self, some: Iterable[str] | None = None, others: Iterable[str] | None = None) -> None:
        """See MemoryNetwork; the walls stay."""
        super().heal(some, others)
        self._blocked.update(self._walls)
        self._review()

    def arrange(self, groups: Iterable[Collection[str]]) -> None:
        """From now on the walls leave only hosts of one group together."""
        groups = [frozenset(group) for group in groups]
        self._blocked -= self._walls
        self._walls = frozenset(
            pair
            for pair in itertools.permutations(self._hosts, 2)
            if not any(group.issuperset(pair) for group in groups)
        )
        self._blocked |= self._walls
        self._review()

    def last_arrival(self) -> float:
        """When the last frame that is on its way arrives, Trio seconds; those that a partition holds do not count.

        That may be long after it was sent: a packet lost six times holds its lane for 12 s, and the other lane
        keeps the link alive.
        """
        arrivals = [
            queue.frames[-1][0]
            for pipe in self._pairs
            for queue in pipe.lanes.values()
            if queue.frames and not pipe.dead
        ]
        return max((at for at in arrivals if at < math.inf), default=-math.inf)

    def hears(self, a: str, b: str) -> bool:
        """Whether there is no wall between them."""
        return (a, b) not in self._walls
