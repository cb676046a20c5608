"""The simulator on islands that only laptops move between: carriers under faults. Seeds of its own."""

import random

import pytest
import trio

from meshd.transport.pipe import Rule
from tests.sim.faults import draw_carriers_plan
from tests.sim.shape import ShapedNetwork
from tests.sim.test_seeds import simulate

BATCH = 10


def check(first: int, count: int) -> None:
    """All must end well."""
    ended = simulate("--carriers", "--seeds", f"{first}:{first + count}", "--keep-going")
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]


async def islands() -> None:
    network = ShapedNetwork(random.Random(1), rule=Rule(), idle_timeout=5.0, hosts=["a", "b", "l"])
    for groups, expected in (((("a", "l"), ("b",)), {("a", "l")}), ((("a",), ("b", "l")), {("b", "l")}), ((), set())):
        network.arrange(groups)
        network.partition(["a"], ["b", "l"])
        network.heal()
        pairs = (("a", "b"), ("a", "l"), ("b", "l"))
        assert {pair for pair in pairs if network.hears(*pair)} == expected
        assert {pair for pair in pairs if pair not in network._blocked} == expected


def test_islands_never_hear_each_other_also_after_healing() -> None:
    trio.run(islands)


def test_every_plan_has_islands_and_somebody_who_moves() -> None:
    for seed in range(100):
        plan = draw_carriers_plan(random.Random(seed))
        assert len(plan.islands) >= 2
        assert plan.hosts > sum(map(len, plan.islands))


@pytest.mark.sim
@pytest.mark.timeout(300)
def test_carriers_alone_keep_what_was_promised() -> None:
    check(0, 4)


@pytest.mark.sim
@pytest.mark.system
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(10, 60, BATCH))
def test_carriers_alone_keep_what_was_promised_by_many_seeds(first: int) -> None:
    check(first, BATCH)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(1000, 2000, 100))
def test_carriers_alone_keep_what_was_promised_by_a_thousand_seeds(first: int) -> None:
    check(first, 100)
