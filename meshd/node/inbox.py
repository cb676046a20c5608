"""The node's inbox: bounded for whoever can wait, open for those that must not."""

import math
from collections import deque
from typing import NoReturn

import trio

CAPACITY = 1024
"""Events waiting; beyond it, links and clients wait, and so do their peers behind them."""


class Inbox:
    """One consumer, many producers, all on the Trio thread."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._events: deque[object] = deque()
        self._room = trio.lowlevel.ParkingLot()
        self._filled = trio.Event()
        self._alarm = trio.CancelScope()

    def __len__(self) -> int:
        return len(self._events)

    def post_nowait(self, event: object) -> None:
        """Add an event that answers what the node asked for: completions are as many as questions."""
        self._events.append(event)
        self._filled.set()

    def send_nowait(self, event: object, /) -> None:
        """Add an event, or raise trio.WouldBlock when there is no room."""
        if len(self._events) >= self._capacity:
            raise trio.WouldBlock
        self.post_nowait(event)

    async def send(self, event: object, /) -> None:
        """Add an event; waits while there is no room. Cancelled while it waits, the event is not added."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while len(self._events) >= self._capacity:
            await self._room.park()
        self.post_nowait(event)

    async def take(self, until: float = math.inf) -> list[object]:
        """All events that are here, waiting for the first one until ``until`` (Trio time). Maybe none, also sooner.

        The time counts only while :meth:`keep_time` runs.
        """
        if self._events:
            await trio.lowlevel.checkpoint()
        else:
            if until < self._alarm.deadline:
                self._alarm.deadline = until
            await self._filled.wait()
        self._filled = trio.Event()
        events = list(self._events)
        self._events.clear()
        self._room.unpark_all()
        return events

    async def keep_time(self) -> NoReturn:
        """Wake the consumer at the times that it names.

        One sleeper for all waits: times mostly move on, and a scope of its own for each wait costs more than a
        wake-up now and then at a time that has been put off.
        """
        while True:
            with self._alarm:
                await trio.sleep_forever()
            self._alarm = trio.CancelScope()
            self._filled.set()
