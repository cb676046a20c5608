"""The node's inbox: bounded for whoever can wait, open for those that must not."""

import math
from collections import deque

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
        """All events that are here, waiting for the first one until ``until`` (Trio time). Maybe none."""
        if self._events:
            await trio.lowlevel.checkpoint()
        else:
            with trio.move_on_at(until):
                await self._filled.wait()
        self._filled = trio.Event()
        events = list(self._events)
        self._events.clear()
        self._room.unpark_all()
        return events
