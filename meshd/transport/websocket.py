"""WebSocket over TLS 1.3 on one TCP port, and on the same port the way in for devices that join.

What ALPN negotiates decides: ``meshd/1`` is a WebSocket whose binary messages hold several
length-prefixed frames each, ``meshd-join/1`` the same frames straight on TLS.
"""

import contextlib
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import NoReturn

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshd.errors import RemoteProtocolError
from meshd.logs import get_logger
from meshd.transport.base import Address, Handler, Lane, Pin, TransportError
from meshd.transport.framing import BATCH_BYTES, FrameReader, encode_batches
from meshd.transport.messages import Closed, MessageReader, Opcode, Ping, encode, encode_close
from meshd.transport.serving import HalfOpen, HalfOpenLimits, closing, deadline, run_handler
from meshd.transport.sockets import bind, to_address
from meshd.transport.tls import (
    TlsConnection,
    TlsStream,
    endpoints,
    listener_context,
    pinned_context,
    unpinned_context,
)
from meshd.transport.upgrade import (
    END,
    KEY_BYTES,
    MAX_HEAD_BYTES,
    Refused,
    answer_request,
    check_response,
    encode_request,
)
from meshd.wire.frames import ALPN_JOIN, ALPN_LINK

_log = get_logger()

_PATH = "/meshd"
_BACKLOG = 128
_CLOSE_SECONDS = 1.0


class WebsocketConnection:
    """See :class:`meshd.transport.base.Connection`. Both lanes share the one stream, in the order of sending.

    Args:
        rest: what came right behind the other side's handshake.
    """

    transport = "websocket"
    alpn = ALPN_LINK

    def __init__(
        self,
        stream: TlsStream,
        *,
        dialed: bool,
        listener_certificate: bytes,
        leave: Callable[[], None],
        rest: bytes,
    ) -> None:
        self.dialed = dialed
        self.local, self.remote = endpoints(stream)
        self.listener_certificate = listener_certificate
        self._stream = stream
        self._leave = leave
        self._messages = MessageReader(masked=not dialed, limit=BATCH_BYTES)
        self._frames = FrameReader()
        self._rest = rest
        self._pong = b""
        self._receiving = False
        self._is_closing = False
        self._other_closed = False

    async def send(self, frames: Sequence[bytes], lane: Lane = Lane.BULK) -> None:
        """See the contract."""
        try:
            for batch in encode_batches(frames):
                message = encode(Opcode.BINARY, batch, masked=self.dialed)
                pong, self._pong = self._pong, b""
                await self._stream.send_all(pong + message if pong else message)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone() from error
        except trio.Cancelled:
            self.abort()
            raise

    async def receive(self) -> Sequence[bytes]:
        """See the contract."""
        self._receiving = True
        try:
            while (error := self._frames.error or self._messages.error) is None:
                if frames := self._take_in(await self._read()):
                    return frames
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone() from error
        finally:
            self._receiving = False
        self.abort()
        raise error

    async def _read(self) -> bytes:
        """The next bytes. Raises TransportError when there are no more."""
        if self._rest:
            rest, self._rest = self._rest, b""
            await trio.lowlevel.cancel_shielded_checkpoint()
            return rest
        if self._other_closed:
            raise self._gone()
        data = await self._stream.receive_some()
        if not data:
            raise self._gone()
        return data

    def _take_in(self, data: bytes) -> list[bytes]:
        """The frames that ``data`` completes."""
        frames: list[bytes] = []
        for event in self._messages.feed(data):
            if isinstance(event, Ping):
                self._pong = encode(Opcode.PONG, event.data, masked=self.dialed)  # leaves with what is sent next
            elif isinstance(event, Closed):
                self._other_closed = True
                break
            elif self._frames.error is None:
                frames += self._frames.feed(event)
                if self._frames.error is None and self._frames.partial_bytes:
                    self._frames.error = RemoteProtocolError("P_MALFORMED", "a message that ends within a frame")
        return frames

    def _gone(self) -> TransportError:
        return TransportError("closed by the other side" if self._other_closed else "connection lost")

    def set_limit(self, size_bytes: int) -> None:
        """See the contract."""
        self._frames.limit = size_bytes
        self._leave()

    async def aclose(self) -> None:
        """See the contract."""
        broken = contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError)
        with trio.move_on_after(_CLOSE_SECONDS, shield=True), broken:
            if not self._is_closing:
                self._is_closing = True
                await self._stream.send_all(encode_close(masked=self.dialed))
                await self._stream.send_goodbye()
                # Closing a socket with unread bytes resets it, and the other side would lose our last frames.
                while not self._receiving and await self._stream.receive_some():
                    pass
            await self._stream.ended.wait()
        self.abort()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close at once, without a goodbye."""
        self._stream.abort()


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
        with deadline(self._limits.deadline):
            stream = await _dial_tls(address, pinned_context(pin, ALPN_LINK), pin.server_name)
            try:
                if stream.peer_certificate != pin.certificate or stream.alpn != ALPN_LINK:
                    raise TransportError("certificate refused: it is not the known one")
                rest = await _open_client(stream, pin.server_name)
                connection = WebsocketConnection(
                    stream, dialed=True, listener_certificate=pin.certificate, leave=_nothing, rest=rest
                )
            except BaseException:
                stream.abort()
                raise
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
                slot = self._half_open.enter(remote.host, scope)
                if slot is None:
                    raise TransportError("too many unfinished connections from this address")
                try:
                    await self._run(stream, handlers, partial(self._half_open.leave, slot))
                finally:
                    self._half_open.leave(slot)
            except TransportError as error:
                _log.info("connection.refused", transport=self.name, reason=error.reason)

    async def _run(self, stream: TlsStream, handlers: Mapping[str, Handler], leave: Callable[[], None]) -> None:
        connection: WebsocketConnection | TlsConnection
        with deadline(self._limits.deadline):
            await stream.do_handshake()
            handler = handlers.get(stream.alpn or "")
            if handler is None:
                raise TransportError("the other side does not speak this protocol")
            if stream.alpn == ALPN_LINK:
                rest = await _open_server(stream)
                connection = WebsocketConnection(
                    stream, dialed=False, listener_certificate=self._certificate, leave=leave, rest=rest
                )
            else:
                connection = TlsConnection(stream, dialed=False, alpn=ALPN_JOIN, listener_certificate=self._certificate)
        await run_handler(handler, connection)


def _nothing() -> None:
    """A dialer has no place among the half-open to leave."""


async def _dial_tls(address: Address, context: ssl.SSLContext, server_name: str | None) -> TlsStream:
    try:
        raw = await trio.open_tcp_stream(address.host, address.port)
    except OSError as error:
        # Trio puts the error of each address tried in a group.
        cause = error.__cause__
        errors = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (cause or error,)
        raise TransportError(getattr(errors[0], "strerror", None) or str(errors[0])) from error
    stream = TlsStream(raw, context, server_name=server_name)
    try:
        await stream.do_handshake()
    except BaseException:
        stream.abort()
        raise
    return stream


async def _open_client(stream: TlsStream, host: str) -> bytes:
    """Ask for the WebSocket; returns what came behind the answer. Raises TransportError."""
    key = os.urandom(KEY_BYTES)
    with _handshake():
        await stream.send_all(encode_request(host, _PATH, key))
        head, rest = await _read_head(stream)
    check_response(head, key)
    return rest


async def _open_server(stream: TlsStream) -> bytes:
    """Grant a client its WebSocket; returns what came behind its request. Raises TransportError."""
    with _handshake():
        head, rest = await _read_head(stream)
        try:
            await stream.send_all(answer_request(head, _PATH))
        except Refused as refused:
            await stream.send_all(refused.response)
            await stream.aclose()
            raise TransportError("not a request that this device grants") from refused
    return rest


async def _read_head(stream: TlsStream) -> tuple[bytes, bytes]:
    data = b""
    while END not in data:
        if len(data) > MAX_HEAD_BYTES or not (more := await stream.receive_some(MAX_HEAD_BYTES)):
            raise TransportError("the other side ended the WebSocket handshake")
        data += more
    head, _, rest = data.partition(END)
    return head + END, rest


@contextlib.contextmanager
def _handshake() -> Iterator[None]:
    try:
        yield
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise TransportError("the other side ended the WebSocket handshake") from error
