"""A run: a mesh, apps, faults drawn by a seed, then peace, and the account of what was promised."""

import itertools
import random
from functools import partial

import attrs
import structlog
import trio

from meshd.ids import parse_message_id
from meshd.store.reads import ReadTrace, TraceRecord
from meshd.transport.pipe import Rule
from meshd.wire.frames import STALE_EPOCH
from tests.sim.apps import Consuming, Habits, Sending, Traffic
from tests.sim.audit import audit
from tests.sim.commuting import Commuting
from tests.sim.determinism import run_seeded
from tests.sim.faults import Faults, Plan, draw_carriers_plan, draw_hops_plan, draw_plan
from tests.sim.host import Disk, Host, address_of
from tests.sim.ledger import BrokenPromise, Ledger
from tests.sim.mesh import device, mesh_of, name_of
from tests.sim.shape import ShapedNetwork, neighbours
from tests.sim.trace import HOST, Trace

PEACE_LIMIT_S = 900.0
"""After the faults, everything must be settled within this long."""
VERDICT_S = 6.0
"""Links whose probes were lost before it may still be given up: four probes, and the wait for the last answer."""
CARRIED_LIMIT_S = 3 * 3600.0
"""... where laptops have to come by several times."""
COMMIT_LIMIT_S = 5.0
"""And what is being written by then is on disk within this long."""

PLANS = {"": draw_plan, "hops": draw_hops_plan, "carriers": draw_carriers_plan}
"""What kinds of runs there are."""

SERVICES = ("chat", "log")
READERS = {"chat": ("default",), "log": ("main", "audit")}


@attrs.frozen
class Outcome:
    """What a run gives: equal seeds give equal digests."""

    digest: str
    lines: int
    messages: int
    deliveries: int
    virtual_s: float


def run_seed(seed: int, *, echo: bool = False, kind: str = "") -> Outcome:
    """One run of a kind (see PLANS). Raises whatever shows a defect."""
    trace = Trace(echo=echo)
    trace.take_logs()
    try:
        return run_seeded(partial(_run, random.Random(seed), trace, kind), seed)
    finally:
        structlog.reset_defaults()


async def _run(rng: random.Random, trace: Trace, kind: str) -> Outcome:
    plan = PLANS[kind](rng)
    trace.note("plan", **attrs.asdict(plan, recurse=False))
    world = World(plan, rng, trace)
    await world.run()
    ledger = world.ledger
    return Outcome(trace.digest(), trace.lines, len(ledger.sent), ledger.deliveries, trio.current_time())


class World:
    """Hosts, their apps and the network between them."""

    def __init__(self, plan: Plan, rng: random.Random, trace: Trace) -> None:
        self._plan = plan
        self._rng = rng
        self._trace = trace
        self.network = ShapedNetwork(
            rng,
            rule=plan.rule,
            idle_timeout=plan.idle_timeout_s,
            hosts=[address_of(n) for n in range(plan.hosts)],
            hears=[(address_of(a), address_of(b)) for a, b in sorted(neighbours(plan.shape, plan.hosts))],
        )
        self.hosts = [Host(n, name_of(n), device(n), self.network, trace) for n in range(plan.hosts)]
        self.ledger = Ledger(trace, {host.identity.node_id: host.name for host in self.hosts})
        self._consumers: list[Consuming] = []
        self._sending: list[Host] = []
        """Whose apps are."""

    async def run(self) -> None:
        """To the end. Raises BrokenPromise, or whatever a node raises."""
        mesh = mesh_of(self._plan.hosts)
        late = self._plan.late_joiner
        for host in self.hosts:
            knows_all = host.number in (0, late) or late is None
            host.prepare(mesh.facts(self._plan.hosts if knows_all else self._plan.hosts - 1))
        async with trio.open_nursery() as nursery:
            faults = Faults(self._plan, self.hosts, self.network, self.ledger, self._rng, nursery, self._trace)
            for host in self.hosts:
                if host.number != late:
                    await faults.start(host)
            if self._plan.islands:
                is_exact = not {"crash", "stop", "full"} & set(self._plan.kinds) and not self._plan.full_disk
                commuting = Commuting(
                    self.hosts, self._plan.islands, self.network, self._rng, self._trace, counts=is_exact
                )
                nursery.start_soon(commuting.run)
            for host in self.hosts:
                self._start_apps(host, nursery)
            await faults.run()
            await self._make_peace(faults)
            self._trace.note("settled")
            if not self._plan.islands:
                audit(self.hosts, self.ledger)
            for host in self.hosts:
                await host.stop()
            nursery.cancel_scope.cancel()

    def _start_apps(self, host: Host, nursery: trio.Nursery) -> None:
        plan, rng = self._plan, self._rng
        for service in SERVICES:
            for name in READERS[service]:
                reader = self.ledger.reader(host.name, service, name)
                habits = Habits(ack_after_s=rng.choice((0.05, 0.5, 3.0)), nack_chance=rng.choice((0.0, 0.05)))
                consuming = Consuming(host, self.ledger, reader, random.Random(rng.random()), habits)
                self._consumers.append(consuming)
                nursery.start_soon(self._as, host, consuming.run)
        traffic = Traffic(
            destinations=tuple(other.name for other in self.hosts),
            services=SERVICES,
            sends=plan.sends,
            over_s=plan.war_s,
            short_chance=plan.short_chance,
        )
        sending = Sending(host, self.ledger, random.Random(rng.random()), traffic)
        self._sending.append(host)
        nursery.start_soon(self._as, host, partial(self._send, host, sending))

    async def _as(self, host: Host, task: "partial[object] | object") -> None:
        HOST.set(host.name)
        await task()  # type: ignore[operator]

    async def _send(self, host: Host, sending: Sending) -> None:
        await sending.run()
        self._sending.remove(host)

    async def _make_peace(self, faults: Faults) -> None:
        """End all faults; wait until nothing is owed."""
        await faults.end()
        for consuming in self._consumers:
            consuming.make_tidy()
        self._trace.note("peace")
        if self._plan.islands:
            await self._be_carried()
            return
        await trio.sleep(VERDICT_S)
        deadline = trio.current_time() + PEACE_LIMIT_S
        while owed := self._owed():
            if trio.current_time() > deadline:
                self._show_queues()
                raise BrokenPromise(f"not settled after {PEACE_LIMIT_S:g} s of peace: {'; '.join(owed[:8])}")
            await trio.sleep(1)
        await trio.sleep(3)
        for _ in self.hosts:  # what arrives may be sent on, across as many hops
            await self._be_still()
        if owed := self._owed():
            raise BrokenPromise(f"settled, and unsettled again: {'; '.join(owed[:8])}")

    async def _be_still(self) -> None:
        """Wait until what is on its way has arrived, and what that causes is on disk: receipts may be among it."""
        await trio.sleep_until(max(self.network.last_arrival(), trio.current_time()))
        with trio.move_on_after(COMMIT_LIMIT_S):  # a slow disk may be at what a new route has caused
            while any(self._is_writing(host) for host in self.hosts):
                await trio.sleep(0.05)

    async def _be_carried(self) -> None:
        """Wait until laptops have brought everything to where it belongs."""
        deadline = trio.current_time() + CARRIED_LIMIT_S
        while wrong := self._owed() or self._audited():
            if trio.current_time() > deadline:
                self._show_queues()
                raise BrokenPromise(f"not settled after {CARRIED_LIMIT_S:g} s of peace: {'; '.join(wrong[:8])}")
            await trio.sleep(5)

    def _audited(self) -> list[str]:
        """What an audit finds, which may be on its way."""
        try:
            audit(self.hosts, self.ledger)
        except BrokenPromise as broken:
            return [str(broken)]
        return []

    def _is_writing(self, host: Host) -> bool:
        if host.life is None:
            return False
        node = host.life.node
        return bool(node._parts.tickets._waiting or node._parts.tickets._waiting_lazily or len(node.spool.endings))

    def _show_queues(self) -> None:
        """What waits, for whoever reads the trace."""
        for host in self.hosts:
            for queue in host.life.node.spool.queues() if host.life is not None else ():
                if queue.rows:
                    self._trace.note(
                        "waits",
                        at=host.name,
                        for_=self.ledger.name_of(queue.destination),
                        priority=int(queue.priority),
                        rows=queue.rows,
                        ready=[waiting.row for waiting in queue.ready],
                        in_flight=list(queue.in_flight),
                        credit=queue.credit_bytes,
                        is_loading=queue.loading,
                        is_on_disk=queue.on_disk,
                        paused=(queue.paused_until, queue.pause_reason),
                        retry_at=queue.retry_at(),
                        receipt=queue.receipt,
                    )

    def _hear_of_stale(self) -> None:
        """Ask the restored host what became of what is due: what it says is stale is told, and owed no more."""
        hosts = {host.name: host for host in self.hosts}
        for sent in self.ledger.sent.values():
            if sent.message_id is not None and self.ledger.may_be_stale(sent) and self.ledger.owed_of(sent):
                record = hosts[sent.source].database.read(ReadTrace(parse_message_id(sent.message_id)[0]))
                if isinstance(record, TraceRecord) and (record.state, record.reason) == ("refused", STALE_EPOCH):
                    self.ledger.told_stale(sent)

    def _owed(self) -> list[str]:
        owed = self.ledger.require_all()
        if owed:
            self._hear_of_stale()
            owed = self.ledger.require_all()
        for host in self.hosts:
            if host.is_removed:
                continue
            if host.life is None:
                owed.append(f"{host.name} is down")
            elif host.life.node.spool.messages:
                owed.append(f"{host.name} has {host.life.node.spool.messages} messages in its spool")
            elif rows := host.inbox_rows():
                owed.append(f"{host.name} has {rows} rows in its inbox")
        # On a device that was removed, and has no way to learn it, an app may wait for long that its mail is sent.
        if [host for host in self._sending if not host.is_removed or host.knows_its_removal]:
            owed.append("apps are sending")
        return owed + self._unlinked()

    def _unlinked(self) -> list[str]:
        """Who has no link to a device that it hears, or no route to one that it does not."""
        owed: list[str] = []
        if self._plan.islands:  # who is where changes all the time
            return owed
        inside = [host for host in self.hosts if not host.is_removed]
        for one, other in itertools.permutations(inside, 2):
            if one.life is None:
                continue
            peers, there = one.life.node.peers, other.identity.node_id
            if self.network.hears(one.address, other.address):
                owed += [] if peers.link_to(there) else [f"{one.name} has no link to {other.name}"]
            else:
                owed += [] if peers.toward(there) else [f"{one.name} has no route to {other.name}"]
        return owed


__all__ = ["Disk", "Outcome", "Rule", "World", "run_seed"]
