"""The node's inbox: events, and the time to wake up without one."""

import functools
import math
from collections.abc import Awaitable, Callable

import trio
import trio.testing

from meshd.node.inbox import Inbox


def in_virtual_time(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))

    return run


@in_virtual_time
async def test_takes_all_that_is_there() -> None:
    inbox = Inbox()
    for number in range(3):
        inbox.post_nowait(number)
    assert await inbox.take() == [0, 1, 2]


@in_virtual_time
async def test_wakes_up_at_the_time_named() -> None:
    inbox = Inbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.keep_time)
        for seconds in (5.0, 1.0, 30.0):
            began = trio.current_time()
            assert await inbox.take(began + seconds) == []
            assert trio.current_time() == began + seconds
        nursery.cancel_scope.cancel()


@in_virtual_time
async def test_a_time_that_is_put_off_wakes_it_up_once_too_often_and_no_more() -> None:
    inbox = Inbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.keep_time)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        inbox.post_nowait("event")
        assert await inbox.take(began + 5) == ["event"]
        nursery.start_soon(_post_later, inbox, 3.0)
        assert await inbox.take(began + 5) == ["later"]
        assert await inbox.take(began + 50) == []
        assert trio.current_time() == began + 5
        assert await inbox.take(began + 50) == []
        assert trio.current_time() == began + 50
        nursery.start_soon(_post_later, inbox, 100.0)
        assert await inbox.take(math.inf) == ["later"]
        nursery.cancel_scope.cancel()


async def _post_later(inbox: Inbox, seconds: float) -> None:
    await trio.sleep(seconds)
    inbox.post_nowait("later")
