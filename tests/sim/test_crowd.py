"""Fifty devices on one network, on virtual time: one mesh within the budget of links, at rest, and mail in it."""

import random
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from meshd.node.requests import Reply, Result, Submit
from meshd.transport.memory import MemoryNetwork
from meshd.transport.pipe import Rule
from meshd.wire.bundle import Message
from tests.sim.host import Disk, Host
from tests.sim.mesh import device, mesh_of, name_of
from tests.sim.trace import Trace

HOSTS = 50
MAX_LINKS = 16
pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


class _Answers:
    """An app that only counts what it is told."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []

    def reply_nowait(self, request_id: int, reply: Reply) -> None:
        self.replies.append(reply)


async def start(nursery: trio.Nursery, host: Host, rng: random.Random, hosts: list[Host]) -> None:
    await nursery.start(partial(host.run, Disk(), random.Random(rng.random())))
    for other in hosts:
        if other is not host:
            other.see(host)
            host.see(other)


def links(host: Host) -> set[str]:
    assert host.life is not None
    return {bytes(link.peer).hex() for link in host.life.node.peers.links()}


def unrouted(host: Host) -> int:
    """How many devices this one has no route to."""
    assert host.life is not None
    return HOSTS - 1 - len(host.life.node.peers.next_hops)


def test_fifty_devices_make_one_mesh_within_the_budget_and_come_to_rest() -> None:
    trio.run(run, clock=MockClock(autojump_threshold=0))


async def run() -> None:
    rng, trace = random.Random(1), Trace()
    network = MemoryNetwork(rng, rule=Rule(delay=0.001, jitter=0.0005), idle_timeout=30.0)
    hosts = [Host(n, name_of(n), device(n), network, trace) for n in range(HOSTS)]
    async with trio.open_nursery() as nursery:
        for host in hosts:
            host.prepare(mesh_of(HOSTS).facts(HOSTS))
        for host in hosts:
            await start(nursery, host, rng, hosts)
        await trio.sleep(90)
        before = [links(host) for host in hosts]
        assert max(map(len, before)) <= MAX_LINKS
        assert sum(map(unrouted, hosts)) == 0
        numbers = [link.number for host in hosts for link in host.life.node.peers.links()]
        await trio.sleep(120)
        assert [links(host) for host in hosts] == before
        after = [link.number for host in hosts for link in host.life.node.peers.links()]
        assert after == numbers, "links were made anew"
        await deliver(hosts)
        await heal(nursery, hosts, rng)
        for host in hosts:
            await host.stop()
        nursery.cancel_scope.cancel()


async def deliver(hosts: list[Host]) -> None:
    """From each to the one that is farthest on in the list: most of these are no neighbours."""
    apps = []
    for number, host in enumerate(hosts):
        app = _Answers()
        apps.append(app)
        to = name_of((number + HOSTS // 2) % HOSTS)
        message = Message(payload=b"to " + to.encode())
        assert host.life is not None
        host.life.post(Submit(port=app, id=1, principal="uid:0", destination=to, messages=(message,), service="chat"))
    await trio.sleep(20)
    assert all(isinstance(app.replies[0], Result) for app in apps)
    assert [host.inbox_rows() for host in hosts] == [1] * HOSTS
    assert sum(host.spool_rows() for host in hosts) == 0


async def heal(nursery: trio.Nursery, hosts: list[Host], rng: random.Random) -> None:
    """A third of them fails at once: the others find new neighbours."""
    gone = hosts[::3]
    for host in gone:
        life = host.life
        assert life is not None
        host.crash()
        await life.over.wait()
    await trio.sleep(60)
    left = [host for host in hosts if host not in gone]
    assert max(len(links(host)) for host in left) <= MAX_LINKS
    assert {unrouted(host) for host in left} == {len(gone)}
