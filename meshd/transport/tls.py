"""TLS 1.3 on TCP, with the certificate pinned: streams, contexts, and plain framed connections.

Trio's own TLS stream drops the alert that tells the other side why a handshake was refused, and
reads one record at a time; this one sends the alert, and reads what has come.
"""

import contextlib
import os
import ssl
from collections.abc import Sequence

import trio

from meshd.transport.base import Address, Lane, Pin, TransportError
from meshd.transport.framing import FrameReader, encode_batches
from meshd.transport.sockets import to_address

_READ_BYTES = 256 * 1024
_CLOSE_SECONDS = 1.0
_RECORD_BYTES = 16 * 1024  # RFC 8446 section 5.1: no record holds more


def listener_context(certificate_pem: bytes, private_key_pem: bytes, alpns: Sequence[str]) -> ssl.SSLContext:
    """The context of a listener: TLS 1.3 alone, no tickets, the key never on disk."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.set_alpn_protocols(list(alpns))
    memory = os.memfd_create("meshd-key")  # OpenSSL reads keys from named files only
    try:
        os.write(memory, private_key_pem + b"\n" + certificate_pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    return context


def pinned_context(pin: Pin, alpn: str) -> ssl.SSLContext:
    """The context of a dialer that trusts exactly one certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([alpn])
    try:
        context.load_verify_locations(cadata=pin.certificate)
    except ssl.SSLError as error:
        raise TransportError("the known certificate of the device is damaged") from error
    return context


def unpinned_context(alpn: str) -> ssl.SSLContext:
    """The context of a dialer that judges the certificate itself, after the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context


class TlsStream(trio.abc.Stream):
    """TLS over a TCP stream. One task may send while another receives.

    A send or handshake that is cut short breaks the stream.
    """

    def __init__(self, raw: trio.SocketStream, context: ssl.SSLContext, *, server_name: str | None = None) -> None:
        self.raw = raw
        self.ended = trio.Event()
        """Set when nothing more can be received."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        listening = context.protocol is ssl.PROTOCOL_TLS_SERVER
        self._tls = context.wrap_bio(self._incoming, self._outgoing, listening, server_name)
        self._sending = trio.StrictFIFOLock()
        self._closed = False

    @property
    def peer_certificate(self) -> bytes | None:
        """DER of the other side's certificate."""
        return self._tls.getpeercert(binary_form=True)

    @property
    def alpn(self) -> str | None:
        """What was negotiated."""
        return self._tls.selected_alpn_protocol()

    async def do_handshake(self) -> None:
        """Raises TransportError with the reason; the other side is told it too, as an alert."""
        try:
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._read_raw()
                else:
                    await self._flush()
                    return
        except ssl.SSLError as error:
            with trio.move_on_after(_CLOSE_SECONDS):
                await self._send_alert()
            self.abort()
            raise TransportError(_explain(error)) from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise TransportError("connection lost during the TLS handshake") from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send. Raises BrokenResourceError."""
        self._check()
        with memoryview(data) as view:
            position = 0
            try:
                while position < len(view):
                    position += self._tls.write(view[position:])
            except ssl.SSLError as error:
                self.abort()
                raise trio.BrokenResourceError("TLS failed") from error
        await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Required of a Trio stream."""
        await self.raw.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has come, at least a byte; empty after a goodbye. Cancel-safe.

        Raises BrokenResourceError when the connection was cut.
        """
        await trio.lowlevel.checkpoint_if_cancelled()  # here, not after: what has been decrypted must not be lost
        has_waited = False
        while True:
            self._check()
            data = self._decrypt(max_bytes or _READ_BYTES)
            if self._outgoing.pending and not self._sending.locked():
                await self._flush()  # the answer to a key update; else a sender's next flush takes it along
            if data is not None:
                if not data:
                    self.ended.set()
                if not has_waited:  # others get their turn also when there is always more
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return data
            await self._read_raw()
            has_waited = True

    async def send_goodbye(self) -> None:
        """Tell the other side that nothing more will come (RFC 8446 section 6.1)."""
        async with self._sending:
            with contextlib.suppress(ssl.SSLError):  # it wants the other side's goodbye too: not waited for
                self._tls.unwrap()
            await self._send_records()
            await self.raw.send_eof()

    async def aclose(self) -> None:
        """Say goodbye, within a second, and close."""
        with (
            trio.move_on_after(_CLOSE_SECONDS),
            contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            if not self._closed:
                await self.send_goodbye()
        self.abort()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close at once, without a goodbye."""
        self._closed = True
        self.ended.set()
        self.raw.socket.close()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")

    def _decrypt(self, max_bytes: int) -> bytes | None:
        """What has come, decrypted; empty after a goodbye; None when there is nothing yet."""
        chunks: list[bytes] = []
        size = 0
        try:
            while size < max_bytes:
                chunk = self._tls.read(min(_RECORD_BYTES, max_bytes - size))
                if not chunk:
                    break
                chunks.append(chunk)
                size += len(chunk)
        except ssl.SSLWantReadError:
            if not chunks:
                return None
        except ssl.SSLError as error:
            if not chunks:
                self.ended.set()
                raise trio.BrokenResourceError("the connection was cut") from error
        return b"".join(chunks)

    async def _read_raw(self) -> None:
        try:
            data = await self.raw.receive_some(_READ_BYTES)
        except trio.BrokenResourceError:
            self.ended.set()
            raise
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        try:
            self._sending.acquire_nowait()  # a free lock without a pass of the scheduler, which acquire() makes
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            await self._send_records()
        finally:
            self._sending.release()

    async def _send_records(self) -> None:
        """Send what TLS has to say. Cut short, the stream is closed: its records must stay in order."""
        data = self._outgoing.read()
        if not data:
            return
        try:
            await self.raw.send_all(data)
        except BaseException:
            self.abort()
            raise

    async def _send_alert(self) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._flush()


def _explain(error: ssl.SSLError) -> str:
    """One line for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate refused: it is not the known one"
    if isinstance(error, ssl.SSLEOFError) or error.reason is None:  # Python 3.11.2 knows no reason for an early end
        return "the other side hung up during the TLS handshake"
    return f"TLS handshake failed: {error.reason.lower().replace('_', ' ')}"


class TlsConnection:
    """A connection of whole frames straight on TLS, without WebSocket: what joining uses."""

    transport = "websocket"

    def __init__(self, stream: TlsStream, *, dialed: bool, alpn: str, listener_certificate: bytes) -> None:
        self.dialed = dialed
        self.local, self.remote = endpoints(stream)
        self.alpn = alpn
        self.listener_certificate = listener_certificate
        self._stream = stream
        self._reader = FrameReader()

    async def send(self, frames: Sequence[bytes], lane: Lane = Lane.BULK) -> None:
        """See :class:`meshd.transport.base.Connection`. There is one lane."""
        try:
            for batch in encode_batches(frames):
                await self._stream.send_all(batch)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise TransportError("connection lost") from error

    async def receive(self) -> Sequence[bytes]:
        """See :class:`meshd.transport.base.Connection`."""
        while self._reader.error is None:
            try:
                data = await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise TransportError("connection lost") from error
            if not data:
                raise TransportError("closed by the other side")
            if frames := self._reader.feed(data):
                return frames
        self._stream.abort()
        raise self._reader.error

    def set_limit(self, size_bytes: int) -> None:
        """See :class:`meshd.transport.base.Connection`."""
        self._reader.limit = size_bytes

    async def aclose(self) -> None:
        """See :class:`meshd.transport.base.Connection`."""
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_goodbye()
                # Closing a socket with unread bytes resets it, and the other side would lose our last frames.
                while await self._stream.receive_some():
                    pass
        self._stream.abort()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close at once, without a goodbye."""
        self._stream.abort()


def endpoints(stream: TlsStream) -> tuple[Address, Address]:
    """The local and the remote address. Raises TransportError when the connection is gone already."""
    try:
        local, remote = stream.raw.socket.getsockname(), stream.raw.socket.getpeername()
    except OSError as error:
        raise TransportError("connection lost") from error
    return to_address("websocket", local), to_address("websocket", remote)
