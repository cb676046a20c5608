"""Serves the local protocol on a Unix socket: one reader and one writer task per client."""

import contextlib
from collections.abc import Iterator
from typing import NoReturn, Protocol

import trio

from meshd.api.connection import MAX_QUEUED_BYTES, Connection
from meshd.api.listener import SocketSettings, peer_uid, unix_listener
from meshd.errors import MeshdError
from meshd.logs import Logger, get_logger
from meshd.node.requests import Request
from meshd.wire.codec import ShapeError


class Inbox(Protocol):
    """Where the node takes requests from; a ``trio.MemorySendChannel`` is one."""

    def send_nowait(self, value: Request, /) -> None:
        """Put a request in, or raise trio.WouldBlock when there is no room."""

    async def send(self, value: Request, /) -> None:
        """Put a request in, when there is room."""


MAX_CLIENTS = 256
_HELLO_TIMEOUT_S = 10
_LAST_WORDS_S = 1
"""How long a client that is being closed, or the node's inbox after it, may take."""

_READ_BYTES = 256 * 1024

_log = get_logger("meshd.api")


async def post_last(inbox: Inbox, request: Request) -> None:
    """Tell the node that a client is gone, however long its inbox is full: it holds leases for the client until then.

    Cancelled, it still tries for a second. Raises as ``inbox.send``.
    """
    try:
        inbox.send_nowait(request)
    except trio.WouldBlock:
        try:
            await inbox.send(request)
        except trio.Cancelled:
            with trio.move_on_after(_LAST_WORDS_S, shield=True) as scope:
                await inbox.send(request)
            if scope.cancelled_caught:
                _log.warning("disconnect_not_posted")
            raise


class Server:
    """The local API. Owns the set of its clients, for the limit on their number."""

    def __init__(self, inbox: Inbox, *, max_clients: int = MAX_CLIENTS) -> None:
        self._inbox = inbox
        self._max_clients = max_clients
        self._clients = 0

    @property
    def clients(self) -> int:
        """How many are connected."""
        return self._clients

    async def serve(
        self, settings: SocketSettings, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Accept clients until cancelled; reports the socket's path once it is there.

        Raises MeshdError as :func:`unix_listener` does. Cancelled, it closes all connections (replies
        still queued are lost) and removes the socket.
        """
        with unix_listener(settings) as listener:
            task_status.started(settings.path)
            await trio.serve_listeners(self._handle, [listener])
        raise AssertionError("serve_listeners returns only by an exception")

    async def _handle(self, stream: trio.SocketStream) -> None:
        """One client, from accept to close. What goes wrong in here ends here."""
        connection = Connection(f"uid:{peer_uid(stream)}")
        log = _log.bind(principal=connection.principal)
        self._clients += 1
        try:
            async with stream:
                await self._converse(stream, connection, log)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("client_lost")
        except* Exception as group:
            log.exception("client_failed", exc_info=group)
        finally:
            self._clients -= 1
            await self._tell_gone(connection, log)

    def _tell_at_once(self, connection: Connection) -> None:
        """Before its last words are out: who comes next, perhaps the same app, finds the leases free."""
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self._inbox.send_nowait(connection.disconnected())
            connection.is_told_gone = True

    async def _tell_gone(self, connection: Connection, log: Logger) -> None:
        """Also when the daemon stops: the node may still be flushing what this client had open."""
        if connection.is_told_gone:
            return
        try:
            await post_last(self._inbox, connection.disconnected())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("node_stopped_first")  # then it holds nothing for the client any more

    async def _converse(self, stream: trio.SocketStream, connection: Connection, log: Logger) -> None:
        with connection.overrun as overrun:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream, connection, nursery.cancel_scope)
                try:
                    if self._clients > self._max_clients:
                        raise MeshdError("E_BUSY", f"The daemon serves {self._max_clients} clients at most.")
                    await self._read(stream, connection)
                except ShapeError as error:
                    log.info("client_malformed", reason=str(error))
                    connection.refuse(MeshdError("E_USAGE", f"The connection is closed: {error}."))
                except MeshdError as error:
                    log.info("client_refused", code=error.code, reason=error.message)
                    connection.refuse(error)
                self._tell_at_once(connection)
                connection.finish()
                nursery.cancel_scope.deadline = trio.current_time() + _LAST_WORDS_S
        if overrun.cancelled_caught:
            log.warning("client_does_not_read", limit_bytes=MAX_QUEUED_BYTES)

    async def _read(self, stream: trio.SocketStream, connection: Connection) -> None:
        """Post what the client asks until it closes, in order; waits while the node's inbox is full."""
        greeting_ends = trio.current_time() + _HELLO_TIMEOUT_S
        while not connection.greeted:
            with trio.move_on_at(greeting_ends) as waiting:
                data = await stream.receive_some(_READ_BYTES)
            if waiting.cancelled_caught:
                raise ShapeError(f"no hello within {_HELLO_TIMEOUT_S} s")
            if not data:
                return
            await self._post_all(connection.receive(bytes(data)))
        while data := await stream.receive_some(_READ_BYTES):
            await self._post_all(connection.receive(bytes(data)))

    async def _post_all(self, requests: Iterator[Request]) -> None:
        for request in requests:
            await self._post(request)

    async def _post(self, request: Request) -> None:
        try:
            # Without a turn of the scheduler for each: what came in one read is answered in one write.
            self._inbox.send_nowait(request)
        except trio.WouldBlock:
            await self._inbox.send(request)

    async def _write(self, stream: trio.SocketStream, connection: Connection, scope: trio.CancelScope) -> None:
        """Send what is queued, all of it at once, until the connection is finished or gone."""
        try:
            while data := await connection.next_bytes():
                await stream.send_all(data)
                for request in connection.written(len(data)):
                    await self._post(request)
        except trio.BrokenResourceError:
            scope.cancel()  # gone: the reader would only notice at its next read
