"""Routers on virtual time, over links that come, go, lag and lose; the check for loops; topologies as pictures."""

import hashlib
import heapq
import itertools
import random
import re
from collections.abc import Callable, Iterable

import attrs

from meshd.ids import Epoch, NodeId
from meshd.routing.effects import Effect, EpochNeeded, RouteChanged, Send
from meshd.routing.router import Router
from meshd.routing.seqno import Announcement, Seqno, Sign, Verdict
from meshd.wire.routing import RouteRequest, RouteUpdate, SeqnoRequest

RoutingFrame = RouteUpdate | SeqnoRequest | RouteRequest


class LoopError(AssertionError):
    """The next hops to a destination form a cycle."""


def node_id(name: str) -> NodeId:
    return NodeId(name.encode().ljust(16, b"_"))


def signature(announcement: Announcement) -> bytes:
    """Stands for Ed25519, which would take most of the simulation's time."""
    seqno = announcement.seqno
    said = (announcement.destination, seqno.epoch.counter, seqno.epoch.random, seqno.number)
    return hashlib.blake2b(repr(said).encode(), key=b"the destination's secret").digest()


def sign_as(node: NodeId) -> Sign:
    return lambda seqno: signature(Announcement(node, seqno, b""))


def verify(announcement: Announcement) -> Verdict:
    return Verdict.GENUINE if announcement.signature == signature(announcement) else Verdict.FORGED


def make_router(name: str, *, seed: int = 1, first: Seqno | None = None, split_horizon: bool = True) -> Router:
    return Router(
        node=node_id(name),
        seqno=seqno(0) if first is None else first,
        sign=sign_as(node_id(name)),
        verify=verify,
        rng=random.Random(seed),
        split_horizon=split_horizon,
    )


def picture(drawing: str) -> list[tuple[str, str, int]]:
    """The links of a drawing: letters joined by ``-`` and ``|``; a number on the way is the cost, else 10."""
    rows = drawing.splitlines()

    def follow(x: int, y: int, dx: int, stroke: str) -> tuple[str, int] | None:
        cost, at_start = 10, True
        while True:
            x, y = x + dx, y + 1 - dx
            character = rows[y][x : x + 1] if y < len(rows) else ""
            if character.isalpha():
                return None if at_start else (character, cost)
            if character.isdigit():
                number = re.match(r"\d+", rows[y][x:])
                assert number is not None
                cost, x = int(number[0]), x + (len(number[0]) - 1) * dx
            elif character != stroke:
                return None
            at_start = False

    links = []
    for y, row in enumerate(rows):
        for x, character in enumerate(row):
            if character.isalpha():
                ends = (follow(x, y, 1, "-"), follow(x, y, 0, "|"))
                links += [(character, *end) for end in ends if end is not None]
    return links


@attrs.define(eq=False)
class Node:
    """One device. Each life has another router; ``peers`` says which session and life a link belongs to."""

    name: str
    id: NodeId
    router: Router
    epoch: int = 1
    life: int = 0
    peers: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    poll_at: float = float("inf")
    hops: dict[NodeId, NodeId] = attrs.field(factory=dict)
    changes: int = 0


@attrs.define(eq=False)
class Wire:
    """The link of two devices: ``session`` is None while it is cut."""

    cost: int
    delay: float
    session: int | None = None
    last_arrival: dict[str, float] = attrs.field(factory=dict)


class World:
    """All of it, driven by :meth:`run`. Everything random comes from one seed.

    Args:
        detection: seconds until both sides have noticed a cut, at most; delay: seconds of a frame under way, at most.
    """

    def __init__(self, seed: int, *, split_horizon: bool = True, detection: float = 2.0, delay: float = 0.05) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.nodes: dict[str, Node] = {}
        self.wires: dict[tuple[str, str], Wire] = {}
        self.loss = 0.0
        self.disorder = 0.0
        self.events = 0
        self._names: dict[NodeId, str] = {}
        self._split_horizon = split_horizon
        self._detection, self._delay = detection, delay
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0

    # what happens to it

    def add(self, name: str) -> None:
        router = make_router(name, seed=self.rng.getrandbits(32), split_horizon=self._split_horizon)
        self.nodes[name] = Node(name, node_id(name), router)
        self._names[node_id(name)] = name

    def join(self, links: Iterable[tuple[str, str, int]]) -> None:
        for a, b, cost in links:
            for name in (a, b):
                if name not in self.nodes:
                    self.add(name)
            self.wires[_pair(a, b)] = Wire(cost, self.rng.uniform(0.001, self._delay))
            self.connect(a, b)

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self.at(self.now + delay, action)

    def at(self, time: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (time, self._serial, action))

    def connect(self, a: str, b: str) -> None:
        wire = self.wires[_pair(a, b)]
        if wire.session is None:
            self._serial += 1
            session = wire.session = self._serial
            wire.last_arrival.clear()
            self.after(self.rng.uniform(0, 0.05), lambda: self._up(a, b, session))
            self.after(self.rng.uniform(0, 0.05), lambda: self._up(b, a, session))

    def cut(self, a: str, b: str) -> None:
        """Frames under way are lost; each side notices in its own time."""
        wire = self.wires[_pair(a, b)]
        if wire.session is not None:
            session, wire.session = wire.session, None
            for here, there in ((a, b), (b, a)):
                self.after(self.rng.uniform(0, self._detection), lambda h=here, t=there: self._down(h, t, session))

    def restart(self, name: str, *, forgets_epoch: bool = False) -> None:
        """All of the router's state is lost; the epoch is the next one, or the first again."""
        node = self.nodes[name]
        links = [pair for pair, wire in self.wires.items() if name in pair and wire.session is not None]
        for pair in links:
            self.cut(*pair)
        node.life += 1
        node.epoch = 1 if forgets_epoch else node.epoch + 1
        node.router = make_router(
            name, seed=self.rng.getrandbits(32), first=Seqno(self._epoch(node), 0), split_horizon=self._split_horizon
        )
        node.peers.clear()
        node.hops.clear()
        node.poll_at = float("inf")
        for a, b in links:
            self.after(self.rng.uniform(0, 1), lambda a=a, b=b: self.connect(a, b))

    def reprice(self, a: str, b: str, cost: int) -> None:
        self.wires[_pair(a, b)].cost = cost
        for here, there in ((a, b), (b, a)):
            node = self.nodes[here]
            if there in node.peers:
                self._carry_out(node, node.router.cost_changed(node_id(there), cost, self.now))

    # time

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action = heapq.heappop(self._queue)
            self.events += 1
            action()
        self.now = until

    # what is asked of it

    def settling_time(self, limit: float = 60.0, step: float = 0.1) -> float:
        """Run until all routes are right; how many seconds that took."""
        start = self.now
        while self.unconverged():
            assert self.now - start < limit, self.unconverged()[:5]
            self.run(step)
        return self.now - start

    def next_hop(self, name: str, destination: str) -> str | None:
        hop = self.nodes[name].router.next_hop(node_id(destination))
        return None if hop is None else self._names[hop]

    def path(self, name: str, destination: str) -> list[str]:
        """The way mail would take now. Raises LoopError.

        A pointer to a life that has ended leads nowhere: what is sent there can't arrive.
        """
        path = [name]
        while path[-1] != destination:
            hop = self.next_hop(path[-1], destination)
            if hop is None or self.nodes[path[-1]].peers[hop][1] != self.nodes[hop].life:
                break
            path.append(hop)
            if path.count(hop) > 1:
                raise LoopError(f"at {self.now:.3f} s: {' -> '.join(path)}, on the way to {destination}")
        return path

    def check_loops(self) -> None:
        """Check every pair, and that each change of a next hop was told. Raises LoopError."""
        for node in self.nodes.values():
            for destination in self.nodes:
                self.path(node.name, destination)
                assert node.router.next_hop(node_id(destination)) == node.hops.get(node_id(destination))

    def unconverged(self) -> list[str]:
        """What is wrong with the routes, if nothing changes any more; empty when all is well."""
        wrong = []
        part = self.components()
        for name, destination in itertools.permutations(self.nodes, 2):
            if part[name] == part[destination]:
                path = self.path(name, destination)
                if path[-1] != destination or not self._is_open(path):
                    wrong.append(f"{'-'.join(path)} to {destination}")
            elif self.next_hop(name, destination) is not None:
                wrong.append(f"{name} still routes to {destination}")
        return wrong

    def components(self) -> dict[str, str]:
        """A name of its part of the mesh for each device: equal for those that can reach each other."""
        part = {name: name for name in self.nodes}

        def find(name: str) -> str:
            while part[name] != name:
                name = part[name]
            return name

        for (a, b), wire in self.wires.items():
            if wire.session is not None:
                part[find(a)] = find(b)
        return {name: find(name) for name in part}

    def total(self, count: str) -> int:
        return sum(getattr(node.router.statistics(), count) for node in self.nodes.values())

    # inside

    def _is_open(self, path: list[str]) -> bool:
        return all(self.wires[_pair(a, b)].session == self.nodes[a].peers[b][0] for a, b in itertools.pairwise(path))

    def _up(self, here: str, there: str, session: int) -> None:
        wire, node = self.wires[_pair(here, there)], self.nodes[here]
        if wire.session == session and node.peers.get(there, (0, 0))[0] != session:
            node.peers[there] = (session, self.nodes[there].life)
            self._carry_out(node, node.router.link_up(node_id(there), wire.cost, self.now))

    def _down(self, here: str, there: str, session: int) -> None:
        node = self.nodes[here]
        if node.peers.get(there, (0, 0))[0] == session:
            effects = node.router.link_down(node_id(there), self.now)
            del node.peers[there]
            self._carry_out(node, effects)

    def _arrive(self, here: str, there: str, session: int, frame: RoutingFrame) -> None:
        if self.wires[_pair(here, there)].session == session:
            self._up(here, there, session)
            node = self.nodes[here]
            self._carry_out(node, node.router.received(node_id(there), frame, self.now))

    def _carry_out(self, node: Node, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._send(node, self._names[effect.neighbour], effect.frame)
                case RouteChanged():
                    node.changes += 1
                    if effect.next_hop is None:
                        del node.hops[effect.destination]
                    else:
                        node.hops[effect.destination] = effect.next_hop
                    self.path(node.name, self._names[effect.destination])
                case EpochNeeded():
                    node.epoch = max(node.epoch, effect.above.counter) + 1
                    self.after(0.01, lambda life=node.life: self._renew(node, life))
        self._plan_poll(node)

    def _send(self, node: Node, there: str, frame: RoutingFrame) -> None:
        session, _ = node.peers[there]
        wire = self.wires[_pair(node.name, there)]
        if wire.session != session or self.rng.random() < self.loss:
            return
        for _ in range(2 if self.rng.random() < self.disorder else 1):
            arrival = self.now + wire.delay + self.rng.uniform(0, 0.01)
            if self.rng.random() < self.disorder:
                arrival += self.rng.expovariate(1.0)
            else:
                arrival = wire.last_arrival[there] = max(arrival, wire.last_arrival.get(there, 0.0))
            self.at(arrival, lambda: self._arrive(there, node.name, session, frame))

    def _plan_poll(self, node: Node) -> None:
        deadline = node.router.next_deadline
        if deadline is not None and deadline < node.poll_at:
            node.poll_at = deadline
            self.at(max(self.now, deadline), lambda life=node.life: self._poll(node, life))

    def _poll(self, node: Node, life: int) -> None:
        if node.life == life and node.poll_at <= self.now:
            node.poll_at = float("inf")
            self._carry_out(node, node.router.poll(self.now))

    def _epoch(self, node: Node) -> Epoch:
        return Epoch(node.epoch, self.rng.randbytes(8))

    def _renew(self, node: Node, life: int) -> None:
        if node.life == life:
            self._carry_out(node, node.router.renew(self._epoch(node), self.now))


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)


def from_picture(drawing: str, *, seed: int = 1, delay: float = 0.05, split_horizon: bool = True) -> World:
    """A world of the drawing's devices and links, before any time has passed."""
    world = World(seed, split_horizon=split_horizon, delay=delay)
    world.join(picture(drawing))
    return world


def seqno(number: int, epoch: int = 1) -> Seqno:
    return Seqno(Epoch(epoch, bytes(8)), number)
