"""WebSocket over TLS 1.3 on one TCP port, and on the same port the way in for devices that join.

What ALPN negotiates decides: ``meshd/1`` is a WebSocket whose binary messages hold several
length-prefixed frames each, ``meshd-join/1`` the same frames straight on TLS.
"""

import contextlib
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NoReturn

import trio
import trio_websocket
import wsproto.utilities
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshd.errors import RemoteProtocolError
from meshd.logs import get_logger
from meshd.transport.base import Address, Handler, Lane, Pin, TransportError
from meshd.transport.framing import BATCH_BYTES, FrameReader, encode_batches, oversized
from meshd.transport.serving import HalfOpen, HalfOpenLimits, closing, contained, deadline, plain_nursery, run_handler
from meshd.transport.sockets import bind, to_address
from meshd.transport.tls import (
    TlsConnection,
    TlsStream,
    endpoints,
    listener_context,
    pinned_context,
    unpinned_context,
)
from meshd.wire.frames import ALPN_JOIN, ALPN_LINK

_log = get_logger(__name__)

_PATH = "/meshd"
_BACKLOG = 128
_QUEUED_MESSAGES = 1
_CLOSE_SECONDS = 1.0
_TOO_BIG = 1009  # RFC 6455 section 7.4.1
_ORDERLY = (1000, 1001)


class WebsocketConnection:
    """See :class:`meshd.transport.base.Connection`. Both lanes share the one stream, in the order of sending."""

    transport = "websocket"
    alpn = ALPN_LINK

    def __init__(
        self,
        websocket: trio_websocket.WebSocketConnection,
        stream: TlsStream,
        *,
        dialed: bool,
        listener_certificate: bytes,
        leave: Callable[[], None],
    ) -> None:
        self.dialed = dialed
        self.local, self.remote = endpoints(stream)
        self.listener_certificate = listener_certificate
        self._websocket = websocket
        self._stream = stream
        self._leave = leave
        self._reader = FrameReader()

    async def send(self, frames: Sequence[bytes], lane: Lane = Lane.BULK) -> None:
        """See the contract."""
        try:
            for batch in encode_batches(frames):
                await self._websocket.send_message(batch)
        except trio_websocket.ConnectionClosed as error:
            raise _translate(error) from error
        except wsproto.utilities.LocalProtocolError as error:
            raise TransportError("closed by the other side") from error
        except trio.Cancelled:
            self.abort()
            raise

    async def receive(self) -> Sequence[bytes]:
        """See the contract."""
        while self._reader.error is None:
            try:
                message = await self._websocket.get_message()
            except trio_websocket.ConnectionClosed as error:
                if error.reason is not None and error.reason.code == _TOO_BIG:
                    raise oversized(BATCH_BYTES + 1, BATCH_BYTES) from error
                raise _translate(error) from error
            if not isinstance(message, bytes):
                self.abort()
                raise RemoteProtocolError("P_MALFORMED", "text where frames were expected")
            frames = self._reader.feed(message)
            if self._reader.error is None and self._reader.partial_bytes:
                self._reader.error = RemoteProtocolError("P_MALFORMED", "a message that ends within a frame")
            if frames:
                return frames
        self.abort()
        raise self._reader.error

    def set_limit(self, size_bytes: int) -> None:
        """See the contract."""
        self._reader.limit = size_bytes
        self._leave()

    async def aclose(self) -> None:
        """See the contract."""
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            with contextlib.suppress(trio_websocket.ConnectionClosed, wsproto.utilities.LocalProtocolError):
                await self._websocket.aclose()
        self.abort()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close at once, without a goodbye."""
        self._stream.abort()


def _translate(error: trio_websocket.ConnectionClosed) -> TransportError:
    if error.reason is not None and error.reason.code in _ORDERLY:
        return TransportError("closed by the other side")
    return TransportError("connection lost")


class WebsocketTransport:
    """See :class:`meshd.transport.base.Transport`.

    Args:
        listen: IP literals and ports; ``::`` takes IPv4 as well, port 0 is any free one.
        certificate_pem, private_key_pem: who this device is when others dial it.
        remembered: returns the hosts that links have been up with before.
        limits: what strangers may hold.
    """

    name = "websocket"

    def __init__(
        self,
        *,
        listen: Sequence[tuple[str, int]],
        certificate_pem: bytes,
        private_key_pem: bytes,
        remembered: Callable[[], Collection[str]] = frozenset,
        limits: HalfOpenLimits | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._listen = tuple(listen)
        self._limits = limits or HalfOpenLimits()
        self._half_open = HalfOpen(self._limits, remembered, rng or random.SystemRandom())
        self._credentials = certificate_pem, private_key_pem
        self._certificate = x509.load_pem_x509_certificate(certificate_pem).public_bytes(Encoding.DER)

    @contextlib.asynccontextmanager
    async def dial(self, address: Address, pin: Pin) -> AsyncIterator[WebsocketConnection]:
        """See the contract."""
        async with plain_nursery() as nursery:
            with deadline(self._limits.deadline):
                stream = await _dial_tls(address, pinned_context(pin, ALPN_LINK), pin.server_name)
                if stream.peer_certificate != pin.certificate or stream.alpn != ALPN_LINK:
                    stream.abort()
                    raise TransportError("certificate refused: it is not the known one")
                open_client = partial(_open_client, host=pin.server_name)
                websocket = await nursery.start(_run_websocket, stream, open_client)
            connection = WebsocketConnection(
                websocket, stream, dialed=True, listener_certificate=pin.certificate, leave=_nothing
            )
            async with closing(connection):
                yield connection

    @contextlib.asynccontextmanager
    async def dial_join(self, address: Address, check: Callable[[bytes], None]) -> AsyncIterator[TlsConnection]:
        """Connect to a device that is not known yet, to join its mesh.

        Args:
            check: is given the listener's certificate (DER) before anything is sent to it; raises to refuse.
        """
        with deadline(self._limits.deadline):
            stream = await _dial_tls(address, unpinned_context(ALPN_JOIN), None)
        certificate = stream.peer_certificate
        try:
            if certificate is None or stream.alpn != ALPN_JOIN:
                raise TransportError("the device takes in nobody")
            check(certificate)
            connection = TlsConnection(stream, dialed=True, alpn=ALPN_JOIN, listener_certificate=certificate)
        except BaseException:
            stream.abort()
            raise
        async with closing(connection):
            yield connection

    async def serve(
        self,
        handler: Handler,
        join_handler: Handler | None = None,
        *,
        task_status: trio.TaskStatus[Sequence[Address]] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        """See the contract. Connections of devices that want to join are ``join_handler``'s."""
        handlers = {ALPN_LINK: handler}
        if join_handler is not None:
            handlers[ALPN_JOIN] = join_handler
        context = listener_context(*self._credentials, tuple(handlers))
        with contextlib.ExitStack() as stack:
            listeners: list[trio.SocketListener] = []
            for host, port in self._listen:
                bound = stack.enter_context(bind(socket.SOCK_STREAM, host, port))
                bound.listen(_BACKLOG)
                listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(bound)))
            task_status.started([to_address(self.name, listener.socket.getsockname()) for listener in listeners])
            await trio.serve_listeners(partial(self._admit, context, handlers), listeners)
        raise AssertionError("serve_listeners returned")

    async def _admit(self, context: ssl.SSLContext, handlers: Mapping[str, Handler], raw: trio.SocketStream) -> None:
        """Run one incoming connection, from its first byte to its end."""
        with trio.CancelScope() as scope, raw.socket:
            stream = TlsStream(raw, context)
            try:
                remote = endpoints(stream)[1]
            except TransportError as error:
                _log.info("connection.refused", transport=self.name, reason=error.reason)
                return
            with contained(self.name, remote):
                slot = self._half_open.enter(remote.host, scope)
                if slot is None:
                    raise TransportError("too many unfinished connections from this address")
                try:
                    await self._run(stream, handlers, partial(self._half_open.leave, slot))
                finally:
                    self._half_open.leave(slot)

    async def _run(self, stream: TlsStream, handlers: Mapping[str, Handler], leave: Callable[[], None]) -> None:
        async with plain_nursery() as nursery:
            with deadline(self._limits.deadline):
                await stream.do_handshake()
                handler = handlers.get(stream.alpn or "")
                if handler is None:
                    raise TransportError("the other side does not speak this protocol")
                if stream.alpn == ALPN_LINK:
                    websocket = await nursery.start(_run_websocket, stream, _open_server)
            connection: WebsocketConnection | TlsConnection
            if stream.alpn == ALPN_LINK:
                connection = WebsocketConnection(
                    websocket, stream, dialed=False, listener_certificate=self._certificate, leave=leave
                )
            else:
                connection = TlsConnection(stream, dialed=False, alpn=ALPN_JOIN, listener_certificate=self._certificate)
            await run_handler(handler, connection)


async def fetch_certificate(address: Address) -> bytes:
    """The certificate (DER) that a listener shows; nothing is sent to it, and nothing trusted.

    Raises TransportError.
    """
    with deadline(HalfOpenLimits().deadline):
        stream = await _dial_tls(address, unpinned_context(ALPN_LINK), None)
    certificate = stream.peer_certificate
    await stream.aclose()
    if certificate is None:
        raise TransportError("it shows no certificate")
    return certificate


def _nothing() -> None:
    """A dialer has no place among the half-open to leave."""


async def _dial_tls(address: Address, context: ssl.SSLContext, server_name: str | None) -> TlsStream:
    try:
        raw = await trio.open_tcp_stream(address.host, address.port)
    except OSError as error:
        # Trio puts the error of each address tried in a group.
        cause = error.__cause__
        errors = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (cause or error,)
        raise TransportError(_short_reason(errors[0])) from error
    stream = TlsStream(raw, context, server_name=server_name)
    try:
        await stream.do_handshake()
    except BaseException:
        stream.abort()
        raise
    return stream


def _short_reason(error: BaseException) -> str:
    """What the system says, without the address: that is told beside it."""
    if isinstance(error, socket.gaierror):  # its number is no errno
        return error.strerror or str(error)
    number = getattr(error, "errno", None)
    return str(error) if number is None else os.strerror(number)


Opener = Callable[[trio.Nursery, TlsStream], Awaitable[trio_websocket.WebSocketConnection]]


async def _open_client(nursery: trio.Nursery, stream: TlsStream, host: str) -> trio_websocket.WebSocketConnection:
    return await trio_websocket.wrap_client_stream(
        nursery,
        stream,  # type: ignore[arg-type]  # annotated too narrowly: any Trio stream will do
        host,
        _PATH,
        message_queue_size=_QUEUED_MESSAGES,
        max_message_size=BATCH_BYTES,
        receive_buffer_size=None,
    )


async def _open_server(nursery: trio.Nursery, stream: TlsStream) -> trio_websocket.WebSocketConnection:
    request = await trio_websocket.wrap_server_stream(
        nursery,
        stream,
        message_queue_size=_QUEUED_MESSAGES,
        max_message_size=BATCH_BYTES,
        receive_buffer_size=None,
    )
    if request.path != _PATH:
        await request.reject(404)
        raise trio_websocket.HandshakeError
    return await request.accept()


async def _run_websocket(
    stream: TlsStream, opener: Opener, *, task_status: trio.TaskStatus[trio_websocket.WebSocketConnection]
) -> None:
    """Open a WebSocket, then run its reader until the stream ends.

    What the reader raises stays here: it has closed its queue by then, which the receiver sees.
    """
    websocket: trio_websocket.WebSocketConnection | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_end, stream, nursery.cancel_scope)
            websocket = await opener(nursery, stream)
            task_status.started(websocket)
    except* (
        trio_websocket.HandshakeError,
        trio_websocket.ConnectionClosed,
        wsproto.utilities.ProtocolError,
        trio.BrokenResourceError,
        trio.ClosedResourceError,
        UnicodeError,  # wsproto decodes headers unchecked
    ):
        stream.abort()
    if websocket is None:
        raise TransportError("the other side ended the WebSocket handshake")


async def _cancel_at_end(stream: TlsStream, scope: trio.CancelScope) -> None:
    # trio-websocket waits on for a handshake that can't come any more.
    await stream.ended.wait()
    scope.cancel()
