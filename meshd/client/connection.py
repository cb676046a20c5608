"""The I/O of the async client: one task reads, one writes, everything else waits for them.

Whoever has something to ask is a *source*. It says so with ``ready``; when the writer gets to it,
``issue`` makes one request of all that has gathered by then. So requests grow with load, without
a timer, and never exceed the daemon's limit on requests in flight.
"""

from collections import deque
from typing import Any, Protocol

import anyio
from anyio.abc import SocketStream

from meshd.api import protocol
from meshd.client.session import GREETING, Session, lost
from meshd.errors import MeshdError

_CLOSE_S = 1
"""How long what was asked last may take to be sent when the connection closes."""

_READ_BYTES = 256 * 1024
_WRITE_BYTES = 1024 * 1024
"""The writer stops gathering requests at this size, and sends."""

_MOST_PATIENT = protocol.MAX_IN_FLIGHT - 128
"""Requests in flight at which patient sources wait: else nobody could acknowledge what these may be waiting for."""


class Waiter(Protocol):
    """Where the replies to a request go."""

    def on_item(self, value: Any) -> None:
        """One element of a stream."""

    def on_result(self, value: Any) -> None:
        """The answer; nothing comes after it."""

    def on_failure(self, error: MeshdError, *, lost: bool) -> None:
        """No answer will come; ``lost``: because the connection is gone, so the outcome is unknown."""


class Source(Protocol):
    """Something with a request to make."""

    @property
    def is_patient(self) -> bool:
        """Whether its answer may take as long as a message travels."""

    def issue(self) -> None:
        """Make one request, if there still is one; ready again when there are more."""

    def on_failure(self, error: MeshdError, *, lost: bool) -> None:
        """The connection ended while this was ready."""


class Connection:
    """One connection to the daemon; ``run`` is its task."""

    def __init__(self, stream: SocketStream) -> None:
        self.session = Session()
        self.greeted = anyio.Event()
        self.failure: MeshdError | None = None
        self._stream = stream
        self._waiters: dict[int, Waiter] = {}
        self._ready: deque[Source] = deque()
        self._patient: deque[Source] = deque()
        """Sources that were ready when too many of their kind were in flight."""
        self._scope = anyio.CancelScope(shield=True)
        self._out: list[bytes] = [GREETING]
        self._out_bytes = len(GREETING)
        self._wake = anyio.Event()
        self._idle = anyio.Event()

    # --- for sources ------------------------------------------------------------------------

    def ready(self, source: Source) -> None:
        """Have ``source.issue`` called soon, once. Raises MeshdError when the connection is gone."""
        if self.failure is not None:
            raise self.failure.again()
        self._ready.append(source)
        self._rouse()

    def request(self, op: str, arguments: dict[str, Any], waiter: Waiter) -> int | None:
        """Make a request, from within ``issue``; returns its id, or None when it can't be made: the waiter knows."""
        try:
            request_id, data = self.session.request(op, arguments)
        except MeshdError as error:  # its own fault: what others ask goes on
            waiter.on_failure(error, lost=False)
            return None
        self._waiters[request_id] = waiter
        self._push(data)
        return request_id

    def tell(self, op: str, arguments: dict[str, Any]) -> None:
        """Make a request that has no answer; nothing happens when the connection is gone."""
        if self.failure is None:
            self._push(self.session.request(op, arguments)[1])

    def give_up(self, request_id: int) -> None:
        """Forget a request, and have the daemon forget it."""
        if self._waiters.pop(request_id, None) is not None:
            self.tell("cancel", {"target": request_id})

    def _push(self, data: bytes) -> None:
        self._out.append(data)
        self._out_bytes += len(data)
        self._rouse()

    def _rouse(self) -> None:
        self._wake.set()
        if self._idle.is_set():
            self._idle = anyio.Event()

    # --- its tasks --------------------------------------------------------------------------

    async def run(self) -> None:
        """Read and write until ``close``; also when the app is cancelled, which may have acks to hand over then."""
        with self._scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.run_reader)
                tasks.start_soon(self.run_writer)

    async def close(self, error: MeshdError) -> None:
        """End the tasks, after a moment for what was asked last; who still waits gets ``error``."""
        with anyio.move_on_after(_CLOSE_S, shield=True):
            await self._drained()
        self.fail(error)
        self._scope.cancel()

    async def run_reader(self) -> None:
        """Hand out replies until the connection ends; then everybody who waits learns why."""
        try:
            while True:
                data = await self._stream.receive(_READ_BYTES)
                for request_id, kind, value in self.session.receive(data):
                    self._hand_out(request_id, kind, value)
                if self.session.daemon is not None:
                    self.greeted.set()
        except MeshdError as error:
            self.fail(error)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self.fail(lost())

    def _hand_out(self, request_id: int, kind: int, value: Any) -> None:
        if kind == protocol.ITEM:
            if (waiter := self._waiters.get(request_id)) is not None:
                waiter.on_item(value)
            return
        waiter = self._waiters.pop(request_id, None)
        if waiter is None:  # given up
            return
        if kind == protocol.ERROR:
            waiter.on_failure(value, lost=False)
        else:
            waiter.on_result(value)
        if self._ready or self._patient:
            self._wake.set()

    async def run_writer(self) -> None:
        """Send what sources ask, as much at once as has gathered, until the connection ends."""
        try:
            while True:
                while self._out_bytes < _WRITE_BYTES and (source := self._next_source()) is not None:
                    source.issue()
                if self._out:
                    data = b"".join(self._out)
                    self._out.clear()
                    self._out_bytes = 0
                    await self._stream.send(data)
                    continue
                self._idle.set()
                self._wake = anyio.Event()
                await self._wake.wait()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            # The reader still has what the daemon said last, and then finds the end itself.
            return

    def _next_source(self) -> Source | None:
        """The one whose turn it is, if one may ask now."""
        in_flight = len(self._waiters)
        if self._patient and in_flight < _MOST_PATIENT:
            return self._patient.popleft()
        while self._ready and in_flight < protocol.MAX_IN_FLIGHT:
            source = self._ready.popleft()
            if in_flight < _MOST_PATIENT or not source.is_patient:
                return source
            self._patient.append(source)
        return None

    async def _drained(self) -> None:
        """Return when all that was asked so far is sent."""
        while self.failure is None and not self._idle.is_set():
            await self._idle.wait()

    def fail(self, error: MeshdError) -> None:
        """The connection is over: nobody waits any longer, and nothing can be asked."""
        self.failure = error
        waiters, self._waiters = list(self._waiters.values()), {}
        sources = [*self._patient, *self._ready]
        self._patient.clear()
        self._ready.clear()
        for waiter in waiters:
            waiter.on_failure(error, lost=True)
        for source in sources:
            source.on_failure(error, lost=False)
        self.greeted.set()
        self._idle.set()
