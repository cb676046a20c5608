"""Run a Trio test on virtual time."""

from collections.abc import Awaitable, Callable

import trio
import trio.testing


def run_virtual(test: Callable[[], Awaitable[None]]) -> None:
    """Run to the end; sleeps take no real time."""
    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


class Log:
    """Collects what a store posts, and lets a test wait for it."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self._changed = trio.Event()

    def post(self, event: object) -> None:
        self.events.append(event)
        self._changed.set()

    async def wait(self, count: int) -> None:
        """Return when ``count`` events are there."""
        while len(self.events) < count:
            await self._changed.wait()
            self._changed = trio.Event()
