"""What goes wrong in a run, as the seed draws it."""

import random
from functools import partial

import attrs
import trio

from meshd.discovery.events import Resumed
from meshd.node.requests import Remove, Reply
from meshd.transport.pipe import Rule
from tests.sim.host import Disk, Host
from tests.sim.ledger import Ledger
from tests.sim.shape import ShapedNetwork
from tests.sim.trace import Trace


@attrs.frozen(kw_only=True)
class Plan:
    """The frame of a run.

    Args:
        war_s: how long faults and traffic last. pause_s: mean time between faults.
        restores: a host whose disk is put back to an older copy, once. removes: one that is removed, once.
        late_joiner: one that comes later, and that only the admin knows of.
        shape: who hears whom, see ``shape.SHAPES``.
        islands: hosts that stay together, apart from all others; who is on none of them moves between them.
    """

    hosts: int
    war_s: float
    pause_s: float
    sends: int
    short_chance: float
    kinds: tuple[str, ...]
    rule: Rule
    idle_timeout_s: float
    restores: int | None
    removes: int | None
    late_joiner: int | None
    slow_disk: bool
    full_disk: bool
    shape: str = "lan"
    islands: tuple[tuple[int, ...], ...] = ()


FAULTS = ("cut", "partition", "one way", "crash", "stop", "full", "resume", "rule")


def draw_plan(rng: random.Random) -> Plan:
    """Anything from a calm pair to a small mesh in trouble."""
    hosts = rng.choice((2, 2, 3, 3, 4))
    others = range(1, hosts)
    kinds = tuple(kind for kind in FAULTS if rng.random() < 0.6)
    return Plan(
        hosts=hosts,
        war_s=rng.uniform(10, 60),
        pause_s=rng.choice((1.0, 3.0, 8.0)),
        sends=rng.choice((10, 30, 60)) * 3 // hosts,
        short_chance=rng.choice((0.0, 0.1, 0.3)),
        kinds=kinds,
        rule=_draw_rule(rng),
        idle_timeout_s=rng.choice((5.0, 30.0)),
        restores=rng.randrange(hosts) if rng.random() < 0.15 else None,
        removes=rng.choice(others) if hosts > 2 and rng.random() < 0.15 else None,
        late_joiner=hosts - 1 if hosts > 2 and rng.random() < 0.2 else None,
        slow_disk=rng.random() < 0.2,
        full_disk=rng.random() < 0.2,
    )


def draw_hops_plan(rng: random.Random) -> Plan:
    """The same on a line or a ring, where mail has to cross other devices. Who is removed leaves no gap in a line."""
    shape = rng.choice(("line", "line", "ring"))
    hosts = rng.choice((3, 4, 5)) if shape == "line" else rng.choice((4, 5))
    last = hosts - 1
    return attrs.evolve(
        draw_plan(rng),
        hosts=hosts,
        shape=shape,
        sends=rng.choice((10, 30)),
        restores=rng.randrange(hosts) if rng.random() < 0.1 else None,
        removes=last if rng.random() < 0.1 else None,
        late_joiner=last if rng.random() < 0.15 else None,
    )


def draw_carriers_plan(rng: random.Random) -> Plan:
    """Islands that never hear each other, and laptops that are on one after the other."""
    islands: list[tuple[int, ...]] = []
    for _ in range(rng.choice((2, 2, 3))):
        first = sum(map(len, islands))
        islands.append(tuple(range(first, first + rng.choice((1, 1, 2)))))
    return attrs.evolve(
        draw_plan(rng),
        hosts=sum(map(len, islands)) + rng.choice((1, 1, 2)),
        islands=tuple(islands),
        war_s=rng.uniform(60, 300),
        pause_s=rng.choice((8.0, 30.0)),
        sends=rng.choice((5, 15)),
        restores=None,
        removes=None,
        late_joiner=None,
    )


def _draw_rule(rng: random.Random) -> Rule:
    return Rule(
        delay=rng.choice((0.0005, 0.005, 0.1)),
        jitter=rng.choice((0.0, 0.002, 0.1)),
        loss=rng.choice((0.0, 0.0, 0.05, 0.2)),
        cut=rng.choice((0.0, 0.0, 0.0, 0.002, 0.02)),
        bandwidth=rng.choice((100_000.0, 1e6, 1e9)),
    )


class Faults:
    """Starts, stops and hurts the hosts."""

    def __init__(
        self,
        plan: Plan,
        hosts: list[Host],
        network: ShapedNetwork,
        ledger: Ledger,
        rng: random.Random,
        nursery: trio.Nursery,
        trace: Trace,
    ) -> None:
        self._plan = plan
        self._hosts = hosts
        self._network = network
        self._ledger = ledger
        self._rng = rng
        self._nursery = nursery
        self._trace = trace
        self._is_over = False
        self._busy: set[str] = set()
        """Hosts that are being stopped or started."""

    async def start(self, host: Host) -> None:
        """Begin a life, and let discovery introduce it."""
        await self._nursery.start(partial(self._live, host))
        for other in self._hosts:
            if other is host or other.life is None or other.is_removed:
                continue
            if self._network.hears(host.address, other.address):
                host.see(other)
                other.see(host)

    async def _live(self, host: Host, task_status: trio.TaskStatus[object]) -> None:
        await host.run(self._draw_disk(), random.Random(self._rng.random()), task_status=task_status)
        if host.failures and host.name not in self._busy:  # it ended by itself: a service manager starts it again
            host.failures.clear()
            await trio.sleep(self._rng.uniform(0.1, 2.0))
            await self.start(host)

    def _draw_disk(self) -> Disk:
        plan, rng = self._plan, self._rng
        slow = plan.slow_disk and not self._is_over
        full = plan.full_disk and not self._is_over
        return Disk(
            delay_s=(0.01, rng.choice((0.1, 0.5))) if slow else (0.0002, 0.002),
            full_chance=rng.choice((0.0, 0.02, 0.1)) if full else 0.0,
        )

    async def run(self) -> None:
        """The war."""
        plan, rng = self._plan, self._rng
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(plan.war_s):
                if plan.restores is not None:
                    nursery.start_soon(self._restore, self._hosts[plan.restores])
                if plan.removes is not None:
                    nursery.start_soon(self._remove, self._hosts[plan.removes])
                if plan.late_joiner is not None:
                    nursery.start_soon(self._join_late, self._hosts[plan.late_joiner])
                if not plan.kinds:
                    await trio.sleep_forever()
                while True:
                    await trio.sleep(rng.expovariate(1 / plan.pause_s))
                    self._strike(rng.choice(plan.kinds), nursery)

    def _strike(self, kind: str, nursery: trio.Nursery) -> None:
        a, b = self._rng.sample(self._hosts, 2)
        self._trace.note("fault", kind=kind, at=a.name, and_=b.name)
        match kind:
            case "cut":
                self._network.cut(a.address, b.address)
            case "partition" | "one way":
                nursery.start_soon(self._part, a, kind == "one way")
            case "crash" | "stop":
                nursery.start_soon(self._restart, a, kind == "crash")
            case "full":
                nursery.start_soon(self._fill, a)
            case "resume":
                if a.life is not None:
                    a.life.inbox.post_nowait(Resumed(10.0))
            case "rule":
                self._network.set_rule(a.address, b.address, _draw_rule(self._rng), one_way=self._rng.random() < 0.5)

    async def _part(self, host: Host, one_way: bool) -> None:
        rest = [other.address for other in self._hosts if other is not host]
        some = self._rng.sample(rest, self._rng.randint(1, len(rest)))
        pair = ([host.address], some) if self._rng.random() < 0.5 else (some, [host.address])
        self._network.partition(*pair, one_way=one_way)
        await trio.sleep(self._rng.choice((0.3, 2.0, 10.0, 40.0)) * self._rng.uniform(0.5, 1.0))
        self._network.heal(*pair)

    async def _down(self, host: Host, *, crash: bool) -> bool:
        """End the host's life; False when somebody else is at it."""
        if host.life is None or host.name in self._busy:
            return False
        self._busy.add(host.name)
        life = host.life
        if crash:
            host.crash()
        else:
            await host.stop()
        await life.over.wait()
        return True

    async def _up(self, host: Host) -> None:
        host.failures.clear()
        await self.start(host)
        self._busy.discard(host.name)

    async def _restart(self, host: Host, crash: bool) -> None:
        if await self._down(host, crash=crash):
            await trio.sleep(self._rng.choice((0.0, 0.5, 5.0, 20.0)) * self._rng.uniform(0.5, 1.0))
            if self._rng.random() < 0.3:
                host.reboot()
            await self._up(host)

    async def _fill(self, host: Host) -> None:
        host.is_disk_full = True
        await trio.sleep(self._rng.uniform(0.5, 8.0))
        host.is_disk_full = False

    async def _restore(self, host: Host) -> None:
        """Put an older copy of a disk in the place of the newer one. What that must lose is excused."""
        await trio.sleep(self._rng.uniform(0, self._plan.war_s / 2))
        while host.life is None:
            await host.alive()
        image, taken = host.image(), self._ledger.moment()
        await trio.sleep(self._rng.uniform(0, self._plan.war_s / 2))
        while not await self._down(host, crash=self._rng.random() < 0.5):
            await trio.sleep(1)
        host.restore(image)
        host.reboot()
        self._trace.note("fault", kind="restore", at=host.name)
        self._ledger.excuse(host.name, taken)
        await self._up(host)

    async def _remove(self, host: Host) -> None:
        await trio.sleep(self._rng.uniform(0, self._plan.war_s))
        life = await self._hosts[0].alive()
        host.is_removed = True
        self._trace.note("fault", kind="remove", at=host.name)
        self._ledger.excuse_all_of(host.name)
        life.post(Remove(port=_Deaf(), id=1, principal="uid:0", device=host.name))

    async def _join_late(self, host: Host) -> None:
        await trio.sleep(self._rng.uniform(0, self._plan.war_s))
        await self.start(host)

    async def end(self) -> None:
        """Peace: the network is whole, the disks are quick and have room, everybody is up."""
        self._is_over = True
        self._network.heal()
        for a in self._hosts:
            for b in self._hosts:
                if a is not b:
                    self._network.set_rule(a.address, b.address, Rule())
            a.is_disk_full = False
        if self._plan.full_disk:
            for host in self._hosts:
                if await self._down(host, crash=False):
                    await self._up(host)
        for host in self._hosts:
            await host.alive()
            for other in self._hosts:
                if other is host or host.is_removed or other.is_removed:
                    continue
                if self._network.hears(host.address, other.address):
                    host.see(other)


class _Deaf:
    """A port for requests whose answers do not matter."""

    def reply_nowait(self, request_id: int, reply: Reply) -> None:
        pass
