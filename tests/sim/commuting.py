"""Laptops that move between islands: hosts that never share a network with each other."""

import random
from collections import Counter
from collections.abc import Sequence

import trio

from meshd.discovery.events import Resumed
from meshd.node.deposits import COPIES
from tests.sim.host import Host
from tests.sim.ledger import BrokenPromise
from tests.sim.shape import ShapedNetwork
from tests.sim.trace import Trace

STAY_S = (15.0, 40.0)
ROAD_S = (0.0, 20.0)
"""Asleep, and in no network."""


class Commuting:
    """Moves everybody who is on no island.

    Args:
        counts: whether to check that copies are bounded. A crash may forget that a copy was given.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        islands: Sequence[Sequence[int]],
        network: ShapedNetwork,
        rng: random.Random,
        trace: Trace,
        *,
        counts: bool,
    ) -> None:
        self._hosts = hosts
        self._network = network
        self._rng = rng
        self._trace = trace
        self._counts = counts
        self._islands: list[set[Host]] = [{hosts[number] for number in island} for island in islands]
        self._laptops = [host for host in hosts if not any(host in island for island in self._islands)]
        self._arrange()

    async def run(self) -> None:
        """For ever."""
        async with trio.open_nursery() as nursery:
            for laptop in self._laptops:
                nursery.start_soon(self._commute, laptop)

    async def _commute(self, laptop: Host) -> None:
        at = self._rng.randrange(len(self._islands))
        while True:
            self._arrive(laptop, self._islands[at])
            await trio.sleep(self._rng.uniform(*STAY_S))
            self._islands[at].discard(laptop)
            self._arrange()
            self._count()
            at = (at + self._rng.randrange(1, len(self._islands))) % len(self._islands)
            await trio.sleep(self._rng.uniform(*ROAD_S))

    def _arrive(self, laptop: Host, island: set[Host]) -> None:
        others = sorted(island, key=lambda host: host.number)
        self._trace.note("arrives", laptop=laptop.name, at=[host.name for host in others])
        island.add(laptop)
        self._arrange()
        for other in others:
            laptop.see(other)
            other.see(laptop)
        for host in (laptop, *others):
            if host.life is not None:
                host.life.inbox.post_nowait(Resumed(10.0))

    def _arrange(self) -> None:
        self._network.arrange([{host.address for host in island} for island in self._islands])

    def _count(self) -> None:
        """Raises BrokenPromise when there are more copies of a bundle than there may be."""
        copies = Counter[bytes]()
        for host in self._hosts:
            copies.update(host.copies())
        if self._counts and copies and max(copies.values()) > COPIES:
            raise BrokenPromise(f"there are {max(copies.values())} copies of a bundle")
