"""How long the event loop makes others wait, measured in passing; and the looks around."""

import time
from typing import Any

import pytest
import trio
import trio.testing

from meshd.ids import NodeId
from meshd.node.inbox import Inbox
from meshd.node.insight.pulse import Pulse, Sights, look_around
from meshd.node.insight.vitals import Vitals
from meshd.node.insight.watch import Survey, Thresholds


def measured(vitals: Vitals, above_s: float) -> int:
    """How many waits were longer."""
    buckets = vitals.loop.snapshot().buckets
    return buckets[-1][1] - dict(buckets)[above_s]


def test_a_task_that_does_not_let_go_is_seen() -> None:
    vitals = Vitals()

    async def run() -> None:
        trio.lowlevel.add_instrument(Pulse(vitals))
        await trio.sleep(0.01)
        time.sleep(0.3)
        await trio.sleep(0.01)

    trio.run(run)
    assert vitals.loop_worst >= 0.3
    assert measured(vitals, 0.25) >= 1


def test_waiting_for_nothing_is_no_lag() -> None:
    vitals = Vitals()

    async def run() -> None:
        trio.lowlevel.add_instrument(Pulse(vitals))
        with trio.move_on_after(3):
            await trio.Event().wait()

    trio.run(run)
    assert vitals.loop_worst < 3


def sights(**more: Any) -> Sights:
    quiet: dict[str, Any] = {
        "free_bytes": lambda: 1 << 40,
        "closings": dict,
        "turns": lambda: 0,
        "is_waiting": lambda: False,
        "outages": (),
        "thresholds": Thresholds(),
    }
    return Sights(**quiet | more)


def surveys(seconds: float, what: Sights, vitals: Vitals, turns: list[int] | None = None) -> list[tuple[float, Survey]]:
    """What is posted in so long, and when; each survey makes one turn, as in the node."""
    found: list[tuple[float, Survey]] = []

    async def run() -> None:
        inbox = Inbox()
        began = trio.current_time()
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look_around, inbox, vitals, what)
                while True:
                    for event in await inbox.take():
                        assert isinstance(event, Survey)
                        found.append((round(trio.current_time() - began, 3), event))
                        if turns is not None:
                            turns[0] += 1

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    return found


def test_looks_around_are_posted_and_the_worst_starts_over() -> None:
    vitals = Vitals()
    vitals.loop_worst = 7.0
    (_, first), (_, second) = surveys(1.2, sights(free_bytes=lambda: 123), vitals)
    assert (first.loop_worst_s, first.free_bytes, second.loop_worst_s) == (7.0, 123, 0.0)
    assert abs(first.wall_s - time.time()) < 60


def test_while_nothing_happens_the_node_is_left_alone() -> None:
    made = [0]
    found = surveys(11, sights(turns=lambda: made[0]), Vitals(), made)
    assert [at for at, _ in found] == [0.5, 5.5, 10.5]


@pytest.mark.parametrize("happening", ["turn", "waiting", "outage", "closing", "lag", "disk"])
def test_what_happens_is_told_of_within_half_a_second(happening: str) -> None:
    made, vitals = [0], Vitals()
    outages: set[str] = set()

    def happened() -> bool:
        return trio.current_time() - began[0] > 2.2

    began: list[float] = []

    def turns() -> int:
        began[:] = began or [trio.current_time()]
        if happened() and happening == "lag":
            vitals.loop_worst = 1.0
        if happened() and happening == "outage":
            outages.add("a part")
        return made[0] + (happened() and happening == "turn")

    what = sights(
        turns=turns,
        is_waiting=lambda: happening == "waiting" and happened(),
        closings=lambda: {NodeId(bytes(16)): 1} if happening == "closing" and began and happened() else {},
        free_bytes=lambda: 1 << 20 if happening == "disk" and began and happened() else 1 << 40,
        outages=outages,
    )
    times = [at for at, _ in surveys(4, what, vitals, made)]
    assert times[0] == 0.5
    assert 2.5 <= times[1] <= 3.5
