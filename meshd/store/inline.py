"""The store without a thread, on the event loop's own (virtual) time: for simulations."""

import random
from collections import deque
from collections.abc import Callable, Sequence

import trio

from meshd.store.apply import grows
from meshd.store.database import Database
from meshd.store.requests import Ask, Commit, Event, Requests, carry_out, chained_tickets, split


class InlineStore:
    """Does what run_worker does, each run taking a drawn time, and can crash in the middle.

    Args:
        database: survives this store, crashed or not: the next one opens on it.
        requests: the only way in.
        rng: draws the delays and the failures.
        delay_s: the shortest and longest time from taking a run to its events, seconds.
        full_chance: how often (0..1) a run that brings mail in meets a full disk.
    """

    def __init__(
        self,
        database: Database,
        requests: Requests,
        rng: random.Random,
        *,
        delay_s: tuple[float, float] = (0.000_2, 0.002),
        full_chance: float = 0.0,
    ) -> None:
        self._database = database
        self._requests = requests
        self._rng = rng
        self._delay_s = delay_s
        self._full_chance = full_chance
        self._scope = trio.CancelScope()
        self._crashed = False
        self._runs: deque[tuple[Sequence[Commit] | Sequence[Ask], int]] = deque()
        self._events: deque[Event] = deque()

    async def run(
        self,
        post: Callable[[Event], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Carry out requests until they are closed, or :meth:`crash`. Cancelled: finishes all that was asked for."""
        task_status.started()
        try:
            with self._scope:
                while not (await self._gather()):
                    while self._runs:
                        await self._carry_out_slowly(post)
        finally:
            if not self._crashed:
                self._queue()
                while self._runs or self._events:
                    self._post(post)
                    if self._runs:
                        self._carry_out()

    def crash(self) -> None:
        """As a power cut: what is not committed is lost, and nothing is posted any more."""
        self._crashed = True
        self._scope.cancel()

    async def _gather(self) -> bool:
        due = await self._requests.take()
        self._runs.extend((run, due.clock_ms) for run in split(due.requests))
        return not due.requests

    def _queue(self) -> None:
        due = self._requests.take_nowait()
        self._runs.extend((run, due.clock_ms) for run in split(due.requests))

    async def _carry_out_slowly(self, post: Callable[[Event], None]) -> None:
        delay = self._rng.uniform(*self._delay_s)
        before = self._rng.uniform(0, delay)
        await trio.sleep(before)  # a crash here loses the run
        self._carry_out()
        await trio.sleep(delay - before)  # a crash here leaves it on disk, and nobody knows
        self._post(post)

    def _carry_out(self) -> None:
        run, clock_ms = self._runs.popleft()
        growing = any(isinstance(request, Commit) and grows(request.ops) for request in run)
        if growing and self._rng.random() < self._full_chance:
            tickets = [request.ticket for request in run]
            reason = "drawn by the simulation"
            self._events.extend(self._database.refuse(tickets, "E_FULL", reason, chained_tickets(run)))
        else:
            self._events.extend(carry_out(self._database, run, clock_ms))

    def _post(self, post: Callable[[Event], None]) -> None:
        while self._events:
            post(self._events.popleft())
