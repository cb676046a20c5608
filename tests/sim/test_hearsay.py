"""Off, or is the path broken? Whether a neighbour's word is true, on virtual time, many times over.

``a``, ``b`` and ``c`` are linked with each other; ``b`` loses its power, or its path to ``a``.
"""

import itertools
import random
from functools import partial

import pytest
import structlog
import trio

from meshd.node.peers import Hearsay
from meshd.transport.memory import MemoryNetwork
from meshd.transport.pipe import Rule
from tests.sim.determinism import run_seeded
from tests.sim.host import Disk, Host
from tests.sim.mesh import device, name_of
from tests.sim.test_detours import FAR, LAN, LOSSY_LAN, Mail, prepare, until_linked
from tests.sim.trace import Trace

CUTS = 10
NOTICED_S = 30.0


async def silence(rule: Rule, rng: random.Random, *, is_off: bool, busy: bool) -> list[Hearsay | None]:
    """What those that lost their link to ``b`` have in their record: ``a``, and ``c`` too where b is off.

    ``busy``: mail flows from ``a`` to ``c`` and to nobody else; else the links have been quiet for long.
    """
    network = MemoryNetwork(rng, rule=rule, idle_timeout=30.0)
    hosts = [Host(n, name_of(n), device(n), network, Trace()) for n in range(3)]
    a, b, c = hosts
    prepare(hosts, "member")
    async with trio.open_nursery() as nursery:
        for host in hosts:
            await nursery.start(partial(host.run, Disk(), random.Random(rng.random())))
        for one, other in itertools.permutations(hosts, 2):
            one.see(other)
        await until_linked(*hosts)
        async with trio.open_nursery() as flowing:
            if busy:
                flowing.start_soon(Mail(a).flow, rng)
            await trio.sleep(rng.uniform(5.0, 8.0) if busy else rng.uniform(110.0, 120.0))
            await until_linked(*hosts)
            network.partition([b.address], [a.address, c.address] if is_off else [a.address])
            await trio.sleep(NOTICED_S)
            flowing.cancel_scope.cancel()
        told = []
        for host in (a, c) if is_off else (a,):
            assert host.life is not None
            peer = host.life.node.peers.peer(b.identity.node_id)
            assert peer.chosen is None
            told.append(peer.hearsay)
        network.heal()
        for host in hosts:
            await host.stop()
        nursery.cancel_scope.cancel()
    return told


@pytest.mark.sim
@pytest.mark.system
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rule", [LAN, LOSSY_LAN, FAR], ids=["lan", "lossy", "far"])
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "quiet"])
@pytest.mark.parametrize("is_off", [True, False], ids=["off", "path"])
def test_a_neighbours_word_is_true_and_mostly_there_in_time(is_off: bool, busy: bool, rule: Rule) -> None:
    Trace().take_logs()
    try:
        runs = [partial(silence, rule, random.Random(seed), is_off=is_off, busy=busy) for seed in range(CUTS)]
        told = [word for seed, run in enumerate(runs) for word in run_seeded(run, seed)]
    finally:
        structlog.reset_defaults()
    heard = [word.hears for word in told if word is not None]
    true, late = heard.count(not is_off), heard.count(None)
    print(f"{is_off=}, {busy=}, {rule}: of {len(told)} ends {true} explained, {late} not in time")
    assert heard.count(is_off) == 0
    assert true >= 0.8 * CUTS
