"""How long the event loop makes others wait, measured in passing; and the looks around."""

import time

import trio
import trio.testing

from meshd.node.inbox import Inbox
from meshd.node.pulse import Pulse, look_around
from meshd.node.vitals import Vitals
from meshd.node.watch import Survey


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


def test_looks_around_are_posted_and_the_worst_starts_over() -> None:
    inbox, vitals = Inbox(), Vitals()
    vitals.loop_worst = 7.0

    async def run() -> list[object]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_around, inbox, vitals, lambda: 123)
            found = [*await inbox.take(), *await inbox.take()]
            nursery.cancel_scope.cancel()
        return found

    first, second = trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    assert isinstance(first, Survey)
    assert isinstance(second, Survey)
    assert (first.loop_worst_s, first.free_bytes, second.loop_worst_s) == (7.0, 123, 0.0)
    assert abs(first.wall_s - time.time()) < 60
