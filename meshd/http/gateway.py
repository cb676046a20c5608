"""The HTTP gateway's sockets: a Unix socket of its own, and loopback TCP where configured."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import trio

from meshd.api.listener import SocketSettings, peer_uid, unix_listener
from meshd.errors import MeshdError
from meshd.http.answers import failure
from meshd.http.app import application
from meshd.http.connection import HttpConnection, Limits
from meshd.http.guard import Caller
from meshd.http.handlers import Surroundings
from meshd.kinds import Endpoint
from meshd.logs import get_logger

_BACKLOG = 128
_FULL_S = 1

_log = get_logger("meshd.http")


class Gateway:
    """Accepts connections. Owns the set of them, for the limit on their number.

    When there are too many, the one that has been idle for longest gives way; when none is idle, a new
    one is refused. TCP, where anybody may come, takes no room from the Unix socket.
    """

    def __init__(self, around: Surroundings, limits: Limits | None = None) -> None:
        self._around = around
        self._limits = limits or Limits()
        self._over_unix: set[HttpConnection] = set()
        self._over_tcp: set[HttpConnection] = set()
        self._app = application(around)

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._over_unix) + len(self._over_tcp)

    async def serve(
        self, settings: SocketSettings, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Serve on the Unix socket until cancelled; reports its path.

        Raises MeshdError as :func:`unix_listener` does.
        """
        with unix_listener(settings) as listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._around.leases.run)
                task_status.started(settings.path)
                await trio.serve_listeners(self._handle, [listener])
        raise AssertionError("serve_listeners returns only by an exception")

    async def serve_tcp(
        self, endpoint: Endpoint, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Serve on TCP too, until cancelled, while :meth:`serve` runs; reports where, as ``http://127.0.0.1:7844``.

        Raises MeshdError E_PORT.
        """
        with tcp_listener(endpoint) as listener:
            task_status.started(_url(listener))
            await trio.serve_listeners(self._handle, [listener])
        raise AssertionError("serve_listeners returns only by an exception")

    async def _handle(self, stream: trio.SocketStream) -> None:
        """One connection. What goes wrong in here ends here."""
        is_unix = stream.socket.family == socket.AF_UNIX
        others = self._over_unix if is_unix else self._over_tcp
        if not self._make_room(others):
            await _turn_away(stream)
            return
        caller = Caller(f"uid:{peer_uid(stream)}" if is_unix else None)
        connection = HttpConnection(self._app, self._limits, stream, caller)
        others.add(connection)
        try:
            await connection.run()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            _log.debug("http_client_lost")
        except* Exception as group:
            _log.exception("http_connection_failed", exc_info=group)
        finally:
            others.discard(connection)

    def _make_room(self, others: set[HttpConnection]) -> bool:
        if len(others) < self._limits.connections:
            return True
        idle = [(each.idle_since, id(each), each) for each in others if each.idle_since is not None]
        if not idle:
            return False
        _, _, longest = min(idle)
        others.discard(longest)
        longest.close()
        return True


async def _turn_away(stream: trio.SocketStream) -> None:
    error = MeshdError("E_BUSY", "There are too many connections.")
    answer = failure(error)
    fields = answer.headers | {"content-length": str(len(answer.body)), "connection": "close"}
    head = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    async with stream:
        with trio.move_on_after(_FULL_S):
            try:
                await stream.send_all(f"HTTP/1.1 503 Service Unavailable\r\n{head}\r\n".encode() + answer.body)
                await stream.send_eof()
                await stream.receive_some(65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                _log.debug("http_client_lost")


@contextmanager
def tcp_listener(endpoint: Endpoint) -> Iterator[trio.SocketListener]:
    """Listen on a TCP address. Raises MeshdError(E_PORT)."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((endpoint.host, endpoint.port))
            listening.listen(_BACKLOG)
        except OSError as error:
            message = f"The gateway can't listen on TCP {endpoint}: {error.strerror or error}."
            raise MeshdError("E_PORT", message, "Stop what holds the port, or set http.listen.") from error
        yield trio.SocketListener(trio.socket.from_stdlib_socket(listening))


def _url(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return f"http://{Endpoint(host, port)}"
