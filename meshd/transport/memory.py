"""A network within the process: the simulator's, with delay, loss, partitions and crashes.

What it shows is what programs see of QUIC and TCP, not of the packets under them: within a lane
nothing is lost, doubled or reordered. A lost packet is a delay, a partition is silence, and what
is sent into it arrives after the healing unless the silence lasted for ``idle_timeout``.
All randomness is the given ``rng``'s and all time is Trio's, so that a run under its MockClock
repeats exactly.
"""

import contextlib
import functools
import itertools
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import NoReturn

import attrs
import trio
from cryptography import x509

from meshd.errors import LocalProtocolError
from meshd.transport.base import Address, Handler, Lane, Pin, TransportError
from meshd.transport.framing import BATCH_BYTES, INITIAL_LIMIT, oversized
from meshd.transport.pipe import Pipe, Rule
from meshd.transport.serving import closing, plain_nursery, run_handler
from meshd.wire.frames import ALPN_LINK, MAX_FRAME_BYTES

_FIRST_PORT = 40_000
_BACKLOG = 128
_RETRANSMIT_SECONDS = 0.2
"""The least retransmission timeout of common TCP stacks; doubled at each further loss of one packet."""
_MAX_RETRANSMITS = 6


class MemoryConnection:
    """See :class:`meshd.transport.base.Connection`."""

    transport = "memory"
    alpn = ALPN_LINK

    def __init__(
        self,
        network: "MemoryNetwork",
        outgoing: Pipe,
        incoming: Pipe,
        *,
        dialed: bool,
        local: Address,
        remote: Address,
        listener_certificate: bytes,
    ) -> None:
        self.dialed = dialed
        self.local = local
        self.remote = remote
        self.listener_certificate = listener_certificate
        self._network = network
        self._out = outgoing
        self._in = incoming
        self._limit = INITIAL_LIMIT

    async def send(self, frames: Sequence[bytes], lane: Lane = Lane.BULK) -> None:
        """See the contract. Waits while ``buffer_bytes`` of the lane are unread."""
        queue = self._out.lanes[lane]
        try:
            for frame in frames:
                if not 0 < len(frame) <= MAX_FRAME_BYTES:
                    raise LocalProtocolError(f"a frame of {len(frame)} bytes")
                self._check()
                while queue.size_bytes and queue.size_bytes + len(frame) > self._network.buffer_bytes:
                    with trio.move_on_at(min(self._broken_at(), self._in.end)):
                        await self._out.changed.wait()
                    self._check()
                self._network.carry(self._out, self._in, lane, frame)
        except trio.Cancelled:
            self.abort()
            raise
        await trio.lowlevel.checkpoint()

    async def receive(self) -> Sequence[bytes]:
        """See the contract. Control frames that have arrived come before bulk."""
        await trio.lowlevel.checkpoint()  # here, not after: what has been taken must not be lost
        while True:
            self._check_fault()
            if frames := self._take():
                return frames
            self._check()
            with trio.move_on_at(min(self._in.next_arrival, self._broken_at())):
                await self._in.changed.wait()

    def set_limit(self, size_bytes: int) -> None:
        """See the contract."""
        self._limit = size_bytes

    async def aclose(self) -> None:
        """See the contract. What is on the way still arrives, and the goodbye after it."""
        self._network.finish(self._out, self._in)
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Break the connection; the other side sees a reset."""
        self._network.reset(self._out, self._in, "connection lost")

    def _take(self) -> list[bytes]:
        now = trio.current_time()
        frames: list[bytes] = []
        size = 0
        for queue in (self._in.lanes[Lane.CONTROL], self._in.lanes[Lane.BULK]):
            while queue.frames and queue.frames[0][0] <= now and size < BATCH_BYTES:
                frame = queue.frames[0][1]
                if len(frame) > self._limit:
                    if frames:
                        return frames
                    self.abort()
                    raise oversized(len(frame), self._limit)
                queue.frames.popleft()
                queue.size_bytes -= len(frame)
                size += len(frame)
                frames.append(frame)
        if frames:
            self._in.wake()
        return frames

    def _broken_at(self) -> float:
        return self._network.idle_timeout + min(self._in.stalled_since, self._out.stalled_since)

    def _check_fault(self) -> None:
        if not self._out.fault and trio.current_time() >= self._broken_at():
            self._network.reset(self._out, self._in, f"silent for {self._network.idle_timeout:g} s")
        if self._out.fault:
            raise TransportError(self._out.fault)
        if self._out.ending:
            raise TransportError("this side has closed the connection")

    def _check(self) -> None:
        self._check_fault()
        if trio.current_time() >= self._in.end:
            raise TransportError("closed by the other side")


@attrs.define(eq=False)
class _Listener:
    certificate: bytes
    accept: trio.MemorySendChannel[MemoryConnection]


class MemoryTransport:
    """See :class:`meshd.transport.base.Transport`. Made by :meth:`MemoryNetwork.transport`."""

    name = "memory"

    def __init__(self, network: "MemoryNetwork", host: str, certificate: bytes, port: int) -> None:
        self._network = network
        self._certificate = certificate
        self.address = Address(self.name, host, port)

    @contextlib.asynccontextmanager
    async def dial(self, address: Address, pin: Pin) -> AsyncIterator[MemoryConnection]:
        """See the contract. Into a partition, it hangs until that heals or the caller gives up."""
        connection = await self._network.connect(self.address.host, address, pin)
        async with closing(connection):
            yield connection

    async def serve(
        self, handler: Handler, *, task_status: trio.TaskStatus[Sequence[Address]] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """See the contract."""
        send, receive = trio.open_memory_channel[MemoryConnection](_BACKLOG)
        with self._network.listening(self.address, _Listener(self._certificate, send)):
            async with receive, plain_nursery() as nursery:
                task_status.started([self.address])
                try:
                    async for connection in receive:
                        nursery.start_soon(run_handler, handler, connection)
                    await trio.sleep_forever()  # a crash has taken the listener away: nothing more will come
                finally:
                    with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
                        while True:
                            receive.receive_nowait().abort()
        raise AssertionError("sleep_forever returned")


class MemoryNetwork:
    """Hosts, and how well they reach each other.

    Args:
        rng: decides all that is left to chance.
        rule: how hosts reach each other where :meth:`set_rule` says nothing else.
        buffer_bytes: what a lane of a connection holds between send and receive.
        idle_timeout: seconds of silence after which a connection breaks.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        rule: Rule | None = None,
        buffer_bytes: int = 256 * 1024,
        idle_timeout: float = 30.0,
    ) -> None:
        self.buffer_bytes = buffer_bytes
        self.idle_timeout = idle_timeout
        self._rng = rng
        self._rule = rule or Rule()
        self._rules: dict[tuple[str, str], Rule] = {}
        self._blocked: set[tuple[str, str]] = set()
        self._down: set[str] = set()
        self._busy_until: dict[tuple[tuple[str, str], Lane], float] = {}
        self._listeners: dict[tuple[str, int], _Listener] = {}
        self._pairs: dict[Pipe, Pipe] = {}  # each live pipe and the one back; a dict, for its order
        self._ports = itertools.count(_FIRST_PORT)
        self._changed = trio.Event()

    def transport(self, host: str, certificate_der: bytes, port: int = 0) -> MemoryTransport:
        """A transport that listens on and dials from ``host``. Port 0 is any free one."""
        return MemoryTransport(self, host, certificate_der, port or next(self._ports))

    def set_rule(self, a: str, b: str, rule: Rule, *, one_way: bool = False) -> None:
        """Let ``rule`` hold from now on between two hosts, or only from ``a`` to ``b``."""
        for pair in _pairs([a], [b], one_way=one_way):
            self._rules[pair] = rule

    def partition(self, some: Iterable[str], others: Iterable[str], *, one_way: bool = False) -> None:
        """Let nothing through between two groups of hosts, or only not from ``some`` to ``others``."""
        self._blocked.update(_pairs(some, others, one_way=one_way))
        self._review()

    def heal(self, some: Iterable[str] | None = None, others: Iterable[str] | None = None) -> None:
        """End the partitions between two groups of hosts; all of them when none are given."""
        if some is None or others is None:
            self._blocked.clear()
        else:
            self._blocked.difference_update(_pairs(some, others, one_way=False))
        self._review()

    def cut(self, a: str, b: str) -> int:
        """Break every connection between two hosts, as a reset does. Returns how many there were."""
        count = 0
        for pipe, back in list(self._pairs.items()):
            if (pipe.source, pipe.target) == (a, b) and not pipe.fault:
                pipe.fault = back.fault = "connection lost"
                pipe.wake()
                back.wake()
                self._forget(pipe)
                count += 1
        return count

    def crash(self, host: str) -> None:
        """Take the power from ``host``: its own connections and listeners are gone, the others see silence.

        Dials to it hang until it serves again.
        """
        self._down.add(host)
        for key in [key for key in self._listeners if key[0] == host]:
            self._listeners.pop(key).accept.close()
        for pipe, back in list(self._pairs.items()):
            if pipe.source == host:
                pipe.fault = "this host has crashed"
                pipe.dead = back.dead = True
                pipe.wake()
                back.wake()
        self._review()

    # What follows is for transports and connections.

    @contextlib.contextmanager
    def listening(self, address: Address, listener: _Listener) -> Iterator[None]:
        """Accept connections at ``address``. Raises OSError when the port is taken."""
        key = (address.host, address.port)
        if key in self._listeners:
            raise OSError(f"can't listen on {address}: the port is taken")
        self._listeners[key] = listener
        self._down.discard(address.host)
        self._review()
        try:
            yield
        finally:
            listener.accept.close()
            if self._listeners.get(key) is listener:
                del self._listeners[key]

    async def connect(self, source: str, address: Address, pin: Pin) -> MemoryConnection:
        """Open a connection from a host. Raises TransportError."""
        there, back = (source, address.host), (address.host, source)
        while {source, address.host} & self._down or {there, back} & self._blocked:
            await self._changed.wait()
        await trio.sleep(2 * (self._delay(there) + self._delay(back)))  # TCP's handshake, then TLS's
        listener = self._listeners.get((address.host, address.port))
        if listener is None:
            raise TransportError("Connection refused")
        if listener.certificate != pin.certificate:
            raise TransportError("certificate refused: it is not the known one")
        if pin.server_name not in _names(listener.certificate):
            raise TransportError("certificate refused: it is not the known one")
        outgoing, incoming = Pipe(*there), Pipe(*back)
        local = Address(address.transport, source, next(self._ports))
        dialer = MemoryConnection(
            self, outgoing, incoming, dialed=True, local=local, remote=address, listener_certificate=pin.certificate
        )
        accepted = MemoryConnection(
            self, incoming, outgoing, dialed=False, local=address, remote=local, listener_certificate=pin.certificate
        )
        try:
            listener.accept.send_nowait(accepted)
        except trio.WouldBlock as error:
            raise TransportError("Connection refused") from error
        self._pairs[outgoing] = incoming
        self._pairs[incoming] = outgoing
        self._review()
        return dialer

    def carry(self, pipe: Pipe, back: Pipe, lane: Lane, frame: bytes) -> None:
        """Put a frame on its way."""
        pair = (pipe.source, pipe.target)
        rule = self._rules.get(pair, self._rule)
        if rule.cut and self._rng.random() < rule.cut:
            self.reset(pipe, back, "connection lost")
            raise TransportError("connection lost")
        now = trio.current_time()
        sent = max(now, self._busy_until.get((pair, lane), now)) + len(frame) / rule.bandwidth
        self._busy_until[pair, lane] = sent
        pipe.put(lane, frame, sent + self._delay(pair) + self._retransmission(rule))

    def finish(self, pipe: Pipe, back: Pipe) -> None:
        """Send the goodbye after all that was sent."""
        if pipe.is_finished:
            return
        pipe.finish(trio.current_time() + self._delay((pipe.source, pipe.target)))
        back.wake()
        self._forget(pipe)

    def reset(self, pipe: Pipe, back: Pipe, reason: str) -> None:
        """Break a connection from one side. The other learns of it unless it is out of reach."""
        pipe.fault = pipe.fault or reason
        if not pipe.is_stalled:
            back.fault = back.fault or "connection lost"
        pipe.wake()
        back.wake()
        self._forget(pipe)

    def _forget(self, pipe: Pipe) -> None:
        """Drop a connection from the books once both sides are done with it."""
        back = self._pairs.get(pipe)
        if back is not None and pipe.is_finished and back.is_finished:
            del self._pairs[pipe], self._pairs[back]

    def _delay(self, pair: tuple[str, str]) -> float:
        rule = self._rules.get(pair, self._rule)
        return rule.delay + (self._rng.uniform(0, rule.jitter) if rule.jitter else 0.0)

    def _retransmission(self, rule: Rule) -> float:
        extra = 0.0
        timeout = _RETRANSMIT_SECONDS + 2 * rule.delay
        for _ in range(_MAX_RETRANSMITS if rule.loss else 0):
            if self._rng.random() >= rule.loss:
                break
            extra += timeout
            timeout *= 2
        return extra

    def _review(self) -> None:
        """Stall or resume each pipe according to what is blocked now."""
        now = trio.current_time()
        self._changed.set()
        self._changed = trio.Event()
        for pipe in list(self._pairs):
            blocked = pipe.dead or (pipe.source, pipe.target) in self._blocked
            if blocked and not pipe.is_stalled:
                pipe.stall(now)
            elif not blocked and pipe.is_stalled and now < pipe.stalled_since + self.idle_timeout:
                self._resume(pipe, now)

    def _resume(self, pipe: Pipe, now: float) -> None:
        """What was held goes on at the next retransmission, which is the later the longer the silence was."""
        wait = self._rng.uniform(0, min(now - pipe.stalled_since, 1.0))
        pipe.resume(now + self._delay((pipe.source, pipe.target)) + wait)
        if self._pairs[pipe].fault and not pipe.fault:
            pipe.fault = "connection lost"  # the answer to its next packet is a reset


def _pairs(some: Iterable[str], others: Iterable[str], *, one_way: bool) -> list[tuple[str, str]]:
    there = [(a, b) for a, b in itertools.product(some, others) if a != b]
    return there if one_way else there + [(b, a) for a, b in there]


@functools.lru_cache(maxsize=1024)
def _names(certificate: bytes) -> tuple[str, ...]:
    """The host names that a certificate is for."""
    parsed = x509.load_der_x509_certificate(certificate)
    try:
        alternatives = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(alternatives.value.get_values_for_type(x509.DNSName))
