"""One HTTP connection: hypercorn's HTTP/1.1 over a Trio stream of ours.

hypercorn's own Trio server is not used: it writes under a shield, so that one client that does not read keeps
the daemon from stopping, and it knows no limit on connections. Here every wait has an end, and nothing is
shielded. WebSocket and HTTP/2 are not spoken.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import attrs
import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol
from hypercorn.typing import ConnectionState
from starlette.types import ASGIApp

from meshd.http.app import CALLER
from meshd.http.guard import Caller
from meshd.logs import get_logger

_READ_BYTES = 64 * 1024
_MAX_CHUNKS = 10
_LINGER_S = 1.0
_LINGER_BYTES = 4 * 1024 * 1024

_log = get_logger("meshd.http")


@attrs.frozen(kw_only=True)
class Limits:
    """What clients may take.

    Args:
        connections: at a time, over each kind of socket.
        head_bytes: of one request.
        head_s: from its first byte to its end, and from accept to the first byte.
        idle_s: between two requests; longer than proxies keep connections, so that they close first.
        send_s: for a client to take one write.
    """

    connections: int = 128
    head_bytes: int = 16 * 1024
    head_s: float = 10.0
    idle_s: float = 75.0
    send_s: float = 30.0


AsgiSend = Callable[[Any], Awaitable[None]]


def _hypercorn_config(limits: Limits) -> Config:
    """What hypercorn's protocol is told."""
    config = Config()
    config.h11_max_incomplete_size = limits.head_bytes
    config.include_server_header = False
    config.errorlog = None
    return config


class HttpConnection:
    """From accept to close.

    Args:
        stream: is closed at the end.
    """

    def __init__(self, app: ASGIApp, limits: Limits, stream: trio.SocketStream, caller: Caller) -> None:
        self._app = app
        self._stream = stream
        self._limits = limits
        self._writing = trio.Lock()
        self._is_closed = False
        self._living = trio.CancelScope()
        self._reading = trio.CancelScope(deadline=trio.current_time() + limits.head_s)
        self.idle_since: float | None = trio.current_time()
        """Trio time; None while a request is under way."""
        self._requests_in, self._requests = trio.open_memory_channel[tuple[Any, _Incoming, AsgiSend]](1)
        self._incoming: _Incoming | None = None
        """Of the last request."""
        self._protocol = H11Protocol(
            app=_no_app,  # type: ignore[arg-type]
            config=_hypercorn_config(limits),
            context=_Context(),  # type: ignore[arg-type]  # what HTTP/1.1 uses of it
            task_group=self,  # type: ignore[arg-type]
            connection_state=ConnectionState({CALLER: caller}),
            ssl=False,
            client=None,
            server=None,
            send=self._send,
        )
        self._protocol.connection = _Http1(h11.SERVER, max_incomplete_event_size=limits.head_bytes)

    async def run(self) -> None:
        """Serve it to its end. Cancelled, it closes at once."""
        async with self._stream, self._requests_in, self._requests:
            with self._living:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._answer)
                    await self._read()
                    nursery.cancel_scope.cancel()
            await self._linger()

    def close(self) -> None:
        """End it, after what is written already."""
        self._is_closed = True
        self._living.cancel()

    # --- in

    async def _read(self) -> None:
        while True:
            with self._reading:
                data = await self._stream.receive_some(_READ_BYTES)
            if self._reading.cancelled_caught:
                self.close()
                return
            deadline = math.inf
            if self.idle_since is not None:  # a head that comes in drops gets no more time than one in time
                deadline = min(self._reading.deadline, trio.current_time() + self._limits.head_s)
            self._reading = trio.CancelScope(deadline=deadline)
            try:
                await self._protocol.handle(RawData(bytes(data)))
            except H2ProtocolAssumedError:
                _log.debug("http2_refused")
                return
            if not data:
                await self._finish()
                return

    async def _finish(self) -> None:
        """The client sends nothing more. It may still read the answer; what waits for others is given up."""
        if self._incoming is not None:
            self._incoming.close()
            await self._incoming.answered.wait()

    async def _linger(self) -> None:
        """A client that still sends would lose our last words to a reset."""
        if not self._is_closed:
            return
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError), trio.move_on_after(_LINGER_S):
            await self._stream.send_eof()
            left = _LINGER_BYTES
            while left > 0 and (data := await self._stream.receive_some(_READ_BYTES)):
                left -= len(data)

    # --- the application: one request after the other

    async def spawn_app(
        self, _app: object, _config: object, scope: Any, send: AsgiSend
    ) -> Callable[[Any], Awaitable[None]]:
        """hypercorn has a request: hand it to the task that answers."""
        incoming = self._incoming = _Incoming()
        await self._requests_in.send((scope, incoming, send))
        return incoming.put

    async def _answer(self) -> None:
        async for scope, incoming, send in self._requests:
            try:
                await self._app(scope, incoming.receive, send)
            finally:
                incoming.close()
            await send(None)  # if the answer is not whole, the connection ends
            incoming.answered.set()

    # --- out

    async def _send(self, event: Event) -> None:
        """What hypercorn has to say; called by the reader and by the application's task."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            self.close()
        elif isinstance(event, Updated):
            now = trio.current_time()
            self.idle_since = now if event.idle else None
            self._reading.deadline = now + self._limits.idle_s if event.idle else math.inf

    async def _write(self, data: bytes) -> None:
        if self._is_closed or not data:
            return
        taken = False
        try:
            async with self._writing:
                with trio.move_on_after(self._limits.send_s):
                    await self._stream.send_all(data)
                    taken = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            _log.debug("http_client_lost")
        finally:
            if not taken:  # cut off in the middle: nothing that follows would make sense
                self.close()


class _Incoming:
    """The events of one request for the application. Like a channel, but the end is never waited for."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self._events: deque[Any] = deque()
        self._is_over = False
        self._changed = trio.lowlevel.ParkingLot()

    async def put(self, event: Any) -> None:
        """Add an event; waits while the application is behind, unless it has ended."""
        if event["type"] == "http.disconnect":
            self.close()
            return
        while len(self._events) >= _MAX_CHUNKS and not self._is_over:
            await self._changed.park()
        if not self._is_over:
            self._events.append(event)
            self._changed.unpark_all()

    async def receive(self) -> Any:
        """The next event; at the end, that the client is gone."""
        while not self._events and not self._is_over:
            await self._changed.park()
        event = self._events.popleft() if self._events else {"type": "http.disconnect"}
        self._changed.unpark_all()
        return event

    def close(self) -> None:
        """The client is gone, or the application has ended."""
        self._is_over = True
        self._changed.unpark_all()


class _Http1(h11.Connection):
    """Does not pass on an offer to speak something else, which a server may ignore (RFC 9110 section 7.8)."""

    def next_event(self) -> Any:
        """As h11 has it."""
        event = super().next_event()
        if not isinstance(event, h11.Request):
            return event
        headers = [(name, value) for name, value in event.headers if name != b"upgrade"]
        return h11.Request(method=event.method, headers=headers, target=event.target, http_version=event.http_version)


class _Flag:
    """An event that can be cleared, as hypercorn wants it."""

    def __init__(self) -> None:
        self._event = trio.Event()

    async def clear(self) -> None:
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    async def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()


class _Context:
    """What hypercorn's HTTP/1.1 asks of a server."""

    event_class = _Flag

    def __init__(self) -> None:
        self.terminated = _Flag()

    async def mark_request(self) -> None:
        """It counts requests to restart after so many; we don't."""


async def _no_app(*_: object) -> None:
    """hypercorn carries the application about; here the connection knows it."""
