"""One QUIC connection as a pipe of frames: two streams for the two lanes, each with a window of its own.

aioquic buffers without measure, so each lane's receiver grants what it has room for (see lanes).
"""

import enum
import math
from collections.abc import Callable, Sequence

import trio
from aioquic.quic import connection as aioquic_connection
from aioquic.quic import events

from meshd.errors import RemoteProtocolError
from meshd.logs import get_logger
from meshd.transport.base import Address, Lane, TransportError
from meshd.transport.framing import BATCH_BYTES, INITIAL_LIMIT, encode_batches, encode_grant, oversized
from meshd.transport.lanes import INITIAL_WINDOW_BYTES, LaneWindow
from meshd.transport.sockets import SockAddr, to_address
from meshd.transport.udp import UdpSocket
from meshd.wire.frames import ALPN_LINK

_log = get_logger(__name__)

WINDOW_BYTES = 4 * 1024 * 1024
"""What a lane may hold unread once the peer is known."""

MAX_SPAN_BYTES = 16 * 1024 * 1024
"""What a peer may make aioquic set aside for data that came out of order."""

_PACE_SECONDS = 0.0005
"""The least sleep: aioquic's pacer asks for each packet at its own time, the pacer's bucket allows 16 at once."""

_QUIET_BYTES = 600
"""Passes that move no more than this are pings and the like."""

_BUSY_SECONDS = 1.0
"""So long after a larger one, what has come is looked at and acknowledged without delay, as bulk wants it."""

_GATHER_SECONDS = 0.01
"""On a quiet connection an acknowledgement waits so long for something to go along with (RFC 9000 section 13.2.1
allows 25 ms); all that counts on an idle device is how often it wakes."""

_BUSY_ACK_SECONDS = 0.001
"""aioquic's own delay of acknowledgements."""

_WRITE_BYTES = 32 * 1024
_CLOSE_SECONDS = 1.0
_LANES = {0: Lane.CONTROL, 4: Lane.BULK}  # RFC 9000 section 2.1: the dialer's first two streams
_IDLE = "Idle timeout"


class State(enum.Enum):
    """A connection's life, in this order."""

    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"


class QuicConnection:
    """See :class:`meshd.transport.base.Connection`. :meth:`run` has to run all the while."""

    transport = "quic"
    alpn = ALPN_LINK

    def __init__(
        self,
        quic: aioquic_connection.QuicConnection,
        udp: UdpSocket,
        routes: dict[bytes, "QuicConnection"],
        *,
        dialed: bool,
        remote: SockAddr,
        listener_certificate: bytes,
        leave: Callable[[], None],
    ) -> None:
        self.dialed = dialed
        self.local = udp.address
        self.remote: Address = to_address(self.transport, remote)
        self.listener_certificate = listener_certificate
        self.target = remote
        self.opened = trio.Event()
        """Set when frames can flow, or never will."""
        self.state = State.OPENING
        self._quic = quic
        self._udp = udp
        self._routes = routes
        self._leave = leave
        self._broken = False
        self._sending_finished = False
        self._limit = INITIAL_LIMIT
        self._window = INITIAL_WINDOW_BYTES
        self._lanes = {lane: LaneWindow(stream) for stream, lane in _LANES.items()}
        self._failure: TransportError | RemoteProtocolError | None = None
        self._kick = trio.Event()
        self._nap = trio.CancelScope()
        """The driver's sleep, or its last one."""
        self._taken_bytes = 0
        self._busy_until = math.inf
        """Trio time; while the connection opens it is never quiet."""
        self._readable = trio.Event()
        self._peer_finished = trio.Event()

    # For the endpoint: bytes in, bytes out.

    def take_in(self, data: bytes, source: SockAddr, now: float) -> None:
        """Process a datagram. Call :meth:`answer` after the last one."""
        self._taken_bytes += len(data)
        try:
            delay_acks(self._quic, 0.0 if now >= self._busy_until else _BUSY_ACK_SECONDS)
            self._quic.receive_datagram(data, source, now)
        except Exception:
            # Hostile bytes that aioquic does not expect may end this connection, and none besides.
            _log.exception("quic.failed", remote=str(self.remote))
            self._broken = True

    def answer(self, now: float) -> None:
        """Have the driver look at timers, events and what is to be sent: at once, or on a quiet connection soon.

        What has come is handed up at once in any case: an answer to it takes the acknowledgement along.
        """
        self._note_traffic(self._taken_bytes, now)
        self._taken_bytes = 0
        if self._broken or now < self._busy_until:
            self._kick.set()
            return
        try:
            self._process_events()
        except Exception:
            _log.exception("quic.failed", remote=str(self.remote))  # as in take_in
            self._broken = True
            self._kick.set()
        timer = self._quic.get_timer()  # none for what asks for no answer, as an acknowledgement
        self._nap.deadline = math.inf if timer is None else max(timer, now + _GATHER_SECONDS)

    def _note_traffic(self, size_bytes: int, now: float) -> None:
        if size_bytes > _QUIET_BYTES and self.state is State.OPEN:
            self._busy_until = now + _BUSY_SECONDS

    def refuse(self, reason: str) -> None:
        """The network says that nobody is there. Only a dial that waits believes it."""
        if self.dialed and self.state is State.OPENING:
            self._end(TransportError(reason))

    async def run(self) -> None:
        """Drive the connection until it is closed. Cancelled, it says goodbye if that needs no waiting."""
        try:
            while self.state is not State.CLOSED and not self._broken:
                await self._step()
        except Exception:
            _log.exception("quic.failed", remote=str(self.remote))  # as in take_in
            self._broken = True
        finally:
            self._end(TransportError("this side has closed the connection" if not self._broken else "QUIC failed"))
            for cid in [cid for cid, connection in self._routes.items() if connection is self]:
                del self._routes[cid]
            if not self._broken:
                with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await self._flush(trio.current_time())

    async def _step(self) -> None:
        """Process what has happened, send what is due, and sleep until there is more to do."""
        now = trio.current_time()
        timer = self._quic.get_timer()
        if timer is not None and timer <= now:
            self._quic.handle_timer(now)
        self._process_events()
        await self._flush(now)
        self._process_events()
        if self.state is not State.CLOSED:
            timer = self._quic.get_timer()
            with trio.move_on_at(math.inf if timer is None else max(timer, now + _PACE_SECONDS)) as self._nap:
                await self._kick.wait()
            self._kick = trio.Event()

    # For the user: frames.

    async def send(self, frames: Sequence[bytes], lane: Lane = Lane.BULK) -> None:
        """See the contract. Waits while the other side has not read WINDOW_BYTES of the lane."""
        state = self._lanes[lane]
        begun = False
        try:
            for batch in encode_batches(frames, _WRITE_BYTES):
                self.check()
                while state.credit < len(batch):
                    await state.wait_for_credit()
                    self.check()
                begun = True
                state.credit -= len(batch)
                self._write(state, batch)
                self.check()
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            if begun:
                self.abort()
            raise

    async def receive(self) -> Sequence[bytes]:
        """See the contract. Control frames that have arrived come before bulk."""
        await trio.lowlevel.checkpoint()  # here, not after: what has been taken must not be lost
        while True:
            if frames := self._take():
                return frames
            if self._failure is not None:
                raise self._failure
            self._readable = trio.Event()
            await self._readable.wait()

    def set_limit(self, size_bytes: int) -> None:
        """See the contract. Also opens the windows."""
        self._limit = size_bytes
        self._window = WINDOW_BYTES
        self._leave()
        self._grant()

    async def aclose(self) -> None:
        """See the contract."""
        if self.state is State.OPEN and self._failure is None:
            self._finish_sending()
            with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                await self._peer_finished.wait()
        self._end(TransportError("this side has closed the connection"))
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close at once, without waiting for what was handed over."""
        self._end(TransportError("this side has closed the connection"))

    def _take(self) -> list[bytes]:
        frames: list[bytes] = []
        size = 0
        for state in self._lanes.values():
            while state.frames and size < BATCH_BYTES:
                if len(state.frames[0]) > self._limit:
                    if not frames:
                        self._end(oversized(len(state.frames[0]), self._limit))
                        for lane in self._lanes.values():
                            lane.frames.clear()
                    return frames
                frame = state.pop()
                size += len(frame)
                frames.append(frame)
        if frames:
            self._grant()
        return frames

    def _grant(self) -> None:
        """Let the other side send on when a good part of a window has been read."""
        if self.state is not State.OPEN or self._sending_finished:
            return
        for state in self._lanes.values():
            if more := state.take_grant(self._window):
                self._write(state, encode_grant(more))

    def check(self) -> None:
        """Raise TransportError when the connection is no more."""
        if self._failure is not None:
            reason = str(self._failure)
            raise TransportError(reason) from self._failure

    def _finish_sending(self) -> None:
        if self._sending_finished:
            return
        self._sending_finished = True
        for state in self._lanes.values():
            self._write(state, b"", end=True)

    def _write(self, lane: LaneWindow, data: bytes, *, end: bool = False) -> None:
        """Hand over bytes of a lane. aioquic refuses them when the other side has stopped it, before an event tells."""
        try:
            self._quic.send_stream_data(lane.stream, data, end_stream=end)
        except (RuntimeError, ValueError):
            self._end(TransportError("closed by the other side"))
        self._kick.set()

    # Events of aioquic.

    def _process_events(self) -> None:
        while (event := self._quic.next_event()) is not None:
            match event:
                case events.StreamDataReceived():
                    self._receive_stream(event.stream_id, event.data, end=event.end_stream)
                case events.ConnectionIdIssued():
                    self._routes[event.connection_id] = self
                case events.ConnectionIdRetired():
                    self._routes.pop(event.connection_id, None)
                case events.HandshakeCompleted() if self.dialed:
                    self._open_lanes()
                case events.StreamReset() | events.StopSendingReceived():
                    self._end(TransportError("closed by the other side"))
                case events.ConnectionTerminated():
                    self._end(TransportError(_explain(event)))
        target = self._quic.get_peer_address()
        if target is not None and target != self.target:
            self.target = target  # the peer has moved, or its router has given it another port
            self._kick.set()  # the new path is challenged with the next datagram
            self.remote = to_address(self.transport, target)
        if self.state is not State.CLOSED and unread_span(self._quic) > MAX_SPAN_BYTES:
            self._end(RemoteProtocolError("P_FLOOD", "data far out of order"))

    def _open_lanes(self) -> None:
        for state in self._lanes.values():
            self._write(state, encode_grant(0))  # a stream exists for the listener when something has come on it
        if self.state is State.OPENING:
            self._set_open()

    def _set_open(self) -> None:
        self.state = State.OPEN
        self._busy_until = trio.current_time() + _BUSY_SECONDS
        self.opened.set()

    def _receive_stream(self, stream: int, data: bytes, *, end: bool) -> None:
        lane = _LANES.get(stream)
        if lane is None:
            self._end(RemoteProtocolError("P_UNEXPECTED", "a stream that is no lane"))
            return
        error = self._lanes[lane].take_in(data, end=end)
        self._readable.set()
        if error is not None:
            self._end(error)
        if self.state is State.OPENING and all(lane.is_open for lane in self._lanes.values()):
            self._set_open()
        if all(lane.is_finished for lane in self._lanes.values()):
            self._receive_end()

    def _receive_end(self) -> None:
        """The other side has closed: answer in kind, so that it knows that all has arrived."""
        self._peer_finished.set()
        if self._failure is None:
            self._finish_sending()
            self._fail(TransportError("closed by the other side"))

    def _fail(self, error: TransportError | RemoteProtocolError) -> None:
        """From now on nothing more can be sent, and nothing received but what has come already."""
        if self._failure is None:
            self._failure = error
        self._readable.set()
        self._peer_finished.set()
        for state in self._lanes.values():
            state.end_credit()

    def _end(self, error: TransportError | RemoteProtocolError) -> None:
        self._fail(error)
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self._quic.close(reason_phrase=error.code if isinstance(error, RemoteProtocolError) else "")
        self.opened.set()
        self._kick.set()

    async def _flush(self, now: float) -> None:
        datagrams = self._quic.datagrams_to_send(now)
        if not datagrams:
            return
        self._note_traffic(sum(len(data) for data, _ in datagrams), now)
        error = await self._udp.send(datagrams)
        if error is not None:
            self.refuse(error.strerror or "the network is unreachable")


def unread_span(quic: aioquic_connection.QuicConnection) -> int:
    """Bytes between what has been handed up and the furthest that has come, of all streams.

    aioquic doubles its flow-control limits with the furthest byte, also when nothing before it has
    come, and sets aside all the memory between. It has no public way to see that: this is the one
    look at a private attribute, as :func:`delay_acks` is the one that sets any.
    """
    return sum(stream.receiver.highest_offset - stream.receiver.starting_offset() for stream in quic._streams.values())


def delay_acks(quic: aioquic_connection.QuicConnection, seconds: float) -> None:
    """Have what comes next acknowledged at the first flush after so long.

    aioquic puts an acknowledgement into a packet only when its delay is over, and so sends two packets where
    an answer comes at once. There is no public way to set the delay.
    """
    quic._ack_delay = seconds


_CERTIFICATE_ALERTS = range(42, 49)
"""From ``bad_certificate`` to ``unknown_ca`` (RFC 8446, section 6). Their texts quote what no person can read."""


def _explain(event: events.ConnectionTerminated) -> str:
    """One line for people."""
    if event.reason_phrase == _IDLE:
        return "no answer for too long"
    if not event.error_code and not event.reason_phrase:
        return "closed by the other side"
    if event.error_code - 0x100 in _CERTIFICATE_ALERTS:
        return "certificate refused: it is not the known one"
    if 0x100 <= event.error_code <= 0x1FF:  # RFC 9001 section 4.8: a TLS alert
        return f"certificate refused: {event.reason_phrase or 'TLS failed'}"
    return f"closed: {event.reason_phrase or hex(event.error_code)}"
