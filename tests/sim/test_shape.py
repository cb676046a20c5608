"""What the simulator knows of its network."""

import math
import random

import trio
import trio.testing

from meshd.transport.base import Lane
from meshd.transport.pipe import Rule
from tests.sim.shape import ShapedNetwork
from tests.sim.test_seeds import simulate
from tests.transport.test_memory import Recorder, between, run


def test_a_slow_lane_is_waited_for_and_a_partition_is_not() -> None:
    async def body() -> None:
        network = ShapedNetwork(random.Random(0), rule=Rule(delay=0.5, bandwidth=1000), idle_timeout=30.0)
        recorder = Recorder()
        async with between(network, recorder) as connection:
            assert network.last_arrival() == -math.inf
            await connection.send([b"x" * 4000])
            await connection.send([b"!" * 100], Lane.CONTROL)
            last = network.last_arrival()
            await trio.sleep_until(last)
            await trio.testing.wait_all_tasks_blocked()
            assert recorder.frames[-1] == (last, b"x" * 4000)
            assert network.last_arrival() == -math.inf
            await connection.send([b"y"])
            network.partition("a", "b")
            assert network.last_arrival() == -math.inf

    run(body)


def test_the_audit_waits_for_receipts_that_are_on_their_way() -> None:
    ended = simulate("--seed", "7949")  # one lane is held up for 12 s, the other keeps the link alive
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
