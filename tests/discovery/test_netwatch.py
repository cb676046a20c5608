"""Watching the network and sleep. Real changes are made in :mod:`tests.discovery.namespaces`."""

import os
from collections.abc import Iterator

import pytest
import trio

from meshd.discovery.events import NetworkChanged, Resumed
from meshd.discovery.interfaces import interfaces
from meshd.discovery.netwatch import suspended_s, watch_network, watch_resume


def open_files() -> list[str]:
    return os.listdir("/proc/self/fd")


def test_the_state_at_the_start_is_told_at_once() -> None:
    async def main() -> None:
        before = open_files()
        send, receive = trio.open_memory_channel[NetworkChanged](0)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch_network, send.send)
                assert await receive.receive() == NetworkChanged(interfaces())
                nursery.cancel_scope.cancel()
        assert len(open_files()) == len(before)

    trio.run(main)


@pytest.mark.parametrize(
    ("clock", "slept"),
    [([7.0, 7.0, 67.5, 67.5, 70.5], [60.5, 3.0]), ([0.0, 0.9, 0.9, 2.0, 2.0], [1.1])],
)
def test_sleep_is_told_once_with_its_length(clock: list[float], slept: list[float]) -> None:
    async def main() -> None:
        before = open_files()
        readings: Iterator[float] = iter(clock)
        found: list[float] = []

        async def post(event: Resumed) -> None:
            found.append(event.slept_s)

        with trio.fail_after(5), trio.CancelScope() as scope:

            def read() -> float:
                reading = next(readings, None)
                if reading is None:
                    scope.cancel()
                return clock[-1] if reading is None else reading

            await watch_resume(post, interval_s=0.002, suspended=read)
        assert found == pytest.approx(slept)
        assert len(open_files()) == len(before)

    trio.run(main)


def test_it_can_be_cancelled() -> None:
    async def post(event: Resumed) -> None:
        raise AssertionError(event)

    async def main() -> None:
        before = open_files()
        with trio.move_on_after(0.05) as scope:
            await watch_resume(post, interval_s=0.01)
        assert scope.cancelled_caught
        assert len(open_files()) == len(before)

    trio.run(main)


def test_the_clocks_of_this_machine() -> None:
    assert suspended_s() >= -0.001
