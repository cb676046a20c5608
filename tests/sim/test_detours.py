"""A direct path that dies without a word: how soon mail takes another way, on virtual time, many times over.

``a`` and ``c`` are linked; a relay, or a device, is linked with both.
"""

import hashlib
import itertools
import math
import random
import statistics
from functools import partial

import pytest
import structlog
import trio

from meshd.node.requests import Item, Reply, Submit, Subscribe
from meshd.store.ops import PutFact
from meshd.transport.memory import MemoryNetwork
from meshd.transport.pipe import Rule
from meshd.trust.identity import Identity
from meshd.trust.roster import found
from meshd.wire.bundle import Message, decode_messages
from tests.sim.determinism import run_seeded
from tests.sim.host import Disk, Host
from tests.sim.mesh import device, name_of
from tests.sim.trace import Trace

CUTS = 20
PATH_S = 180.0
"""Within so long there are two ways: where much is lost, a way may be offered only with a periodic update."""


class Reader:
    """An app at ``c``: when each payload came."""

    def __init__(self) -> None:
        self.came: dict[bytes, list[float]] = {}

    def reply_nowait(self, request_id: int, reply: Reply) -> None:
        for batch in reply.value if isinstance(reply, Item) else ():
            for message in decode_messages(batch[10], batch[2]):
                self.came.setdefault(message.payload, []).append(trio.current_time())


class Silent:
    """An app that does not listen."""

    def reply_nowait(self, request_id: int, reply: Reply) -> None:
        pass


def prepare(hosts: list[Host], between: str) -> None:
    """One mesh: a, the one between, c."""
    roster = found(device(0), "home", name_of(0), Identity.from_seed(b"R" * 32).public_key)
    statements = []
    for number, role in ((1, between), (2, "member")):
        statements.append(roster.add(device(0), device(number).certificate, name_of(number), role))
        roster, _ = roster.merge(statements)
    for host in hosts:
        host.prepare(
            [
                PutFact("genesis", b"", roster.genesis),
                *(PutFact("statement", hashlib.sha256(data).digest(), data) for data in statements),
            ]
        )


async def until_linked(a: Host, between: Host, c: Host) -> None:
    """The route from a to c is their own link, and another way is offered."""
    assert a.life is not None
    peers, there = a.life.node.peers, c.identity.node_id
    with trio.fail_after(PATH_S):
        while peers.next_hops.get(there) != there or between.identity.node_id not in peers.ways(there):
            await trio.sleep(0.5)


class Mail:
    """From a to c: one message at a time."""

    def __init__(self, a: Host) -> None:
        self._a = a
        self.sent = 0

    def send(self) -> bytes:
        """Returns the payload."""
        self.sent += 1
        payload = b"%d" % self.sent
        request = Submit(
            port=Silent(),
            id=self.sent,
            principal="uid:0",
            destination="n2",
            messages=(Message(payload),),
            service="chat",
        )
        assert self._a.life is not None
        self._a.life.post(request)
        return payload

    async def flow(self, rng: random.Random) -> None:
        """Ten a second, until cancelled."""
        while True:
            self.send()
            await trio.sleep(rng.uniform(0.0, 0.2))


async def cut(between: str, rule: Rule, rng: random.Random, *, busy: bool) -> float:
    """Cut the path between a and c; returns how long the first message after that took.

    ``busy``: mail flows all the time, and the time counts from the cut; else from the first message, some time later.
    """
    network = MemoryNetwork(rng, rule=rule, idle_timeout=30.0)
    hosts = [Host(n, name_of(n), device(n), network, Trace()) for n in range(3)]
    a, _, c = hosts
    prepare(hosts, between)
    reader, mail = Reader(), Mail(a)
    async with trio.open_nursery() as nursery:
        for host in hosts:
            await nursery.start(partial(host.run, Disk(), random.Random(rng.random())))
        for one, other in itertools.permutations(hosts, 2):
            one.see(other)
        assert c.life is not None
        c.life.post(Subscribe(port=reader, id=1, principal="uid:0", service="chat", consumer="default", credit=10_000))
        await until_linked(*hosts)
        async with trio.open_nursery() as flowing:
            mail.send()
            if busy:
                flowing.start_soon(mail.flow, rng)
            await trio.sleep(rng.uniform(5.0, 8.0))
            await until_linked(*hosts)
            network.partition([a.address], [c.address])
            if not busy:
                await trio.sleep(rng.uniform(0.0, 6.0))
            started, payload = trio.current_time(), mail.send()
            await trio.sleep(10.0)
            flowing.cancel_scope.cancel()
        network.heal()
        await trio.sleep(20.0)
        assert list(reader.came) == [b"%d" % number for number in range(1, mail.sent + 1)]
        assert [payload for payload, times in reader.came.items() if len(times) > 1] == []
        for host in hosts:
            assert host.spool_rows() == 0
            await host.stop()
        nursery.cancel_scope.cancel()
    return min(reader.came[payload]) - started


def took_p99(between: str, rule: Rule, *, busy: bool) -> float:
    """Over many cuts, each in a mesh of its own."""
    trace = Trace()
    trace.take_logs()
    try:
        took = sorted(
            run_seeded(partial(cut, between, rule, random.Random(seed), busy=busy), seed) for seed in range(CUTS)
        )
    finally:
        structlog.reset_defaults()
    p99 = took[math.ceil(len(took) * 0.99) - 1]
    print(f"{between}, {busy=}, {rule}: p50 {statistics.median(took):.3f} s, p99 {p99:.3f} s of {len(took)}")
    return p99


LAN = Rule(delay=0.0005, jitter=0.0005)
LOSSY_LAN = Rule(delay=0.01, jitter=0.005, loss=0.01)
FAR = Rule(delay=0.05, jitter=0.02, loss=0.02)


@pytest.mark.sim
@pytest.mark.system
@pytest.mark.timeout(900)
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "quiet"])
@pytest.mark.parametrize("between", ["relay", "member"])
def test_mail_takes_another_way_soon_after_the_direct_path_has_died(between: str, busy: bool) -> None:
    assert took_p99(between, LAN, busy=busy) <= 1.0
    assert took_p99(between, LOSSY_LAN, busy=busy) <= 1.0
    assert took_p99(between, FAR, busy=busy) <= 2.0
