"""One live link: a reader, two writers and a watcher over one authenticated connection.

The reader stops when the node's inbox is full, and the peer's writers feel it. Each lane has a writer of
its own, so that control never waits behind bundles; the control writer also says Bye. The watcher runs
the failure detector, and cuts a link that was asked to close but can't flush. Whoever ends first ends all.
"""

import random
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from meshd.errors import CATALOGUE, RemoteProtocolError
from meshd.ids import NodeId
from meshd.links.assembly import Assembler
from meshd.links.context import Post
from meshd.links.events import FramesReceived, LinkDown, LinkMeasured
from meshd.links.liveness import (
    PING_SECONDS,
    QUIET_AFTER_SECONDS,
    SAVING_PING_SECONDS,
    Action,
    Liveness,
    Phase,
    PhaseChanged,
    SendPing,
)
from meshd.links.outgoing import Outgoing
from meshd.logs import get_logger
from meshd.transport.base import Connection, Lane, TransportError
from meshd.wire.frames import HANDSHAKE_TYPES, BundleFrame, Bye, Frame, Ping, Pong, decode_frame, encode_frame

CLOSE_SECONDS = 1.0
"""How long a closing link may take to flush and say Bye; then it is cut."""

SAMPLE_SECONDS = 0.9
"""Round trips are reported at most this often (pings come every 1 s +-10 %)."""

STEADY_SECONDS = 5.0
"""... and this often while they stay the same: each report is a turn of the node, a cost that idle links add up to."""

_SAME_SHARE, _SAME_SECONDS = 0.4, 0.002
"""Round trips that differ by less than either are the same."""

RATE_BYTES = 8 * 1024 * 1024
"""Throughput is measured over at least this much without a pause, so that buffers don't flatter it."""

_REASON_CHARACTERS = 200
_log = get_logger(__name__)


@attrs.frozen
class _End:
    code: str
    reason: str


async def run_link(
    connection: Connection,
    *,
    link: int,
    me: NodeId,
    peer: NodeId,
    outgoing: Outgoing,
    post: Post,
    clock: Callable[[], float],
    rng: random.Random,
    ping_interval: Callable[[], float] = lambda: PING_SECONDS,
    heard: Sequence[bytes] = (),
) -> LinkDown:
    """Run the link until either side ends it; returns the LinkDown that was posted, exactly one.

    ``heard`` are frames that came already. A listener must have heard the dialer before it may send here: its
    Welcome may still be on its way, the other lane is faster, and to the dialer what comes before Welcome is an error.

    Posts FramesReceived and LinkMeasured before it. Bad frames, a dead or closing peer and a broken
    connection are endings, not errors: nothing is raised for them. The caller closes the connection.
    Cancelled, it still posts LinkDown (waiting at most 1 s).
    """
    session = _Session(
        connection=connection,
        link=link,
        outgoing=outgoing,
        post=post,
        clock=clock,
        heard=heard,
        liveness=Liveness(lower=me < peer, first_ping=connection.dialed, now=clock(), rng=rng),
        ping_interval=ping_interval,
        mail_at=clock(),
    )
    ends: list[_End] = []
    try:
        async with trio.open_nursery() as nursery:

            async def until_end(task: Callable[[], Awaitable[_End]]) -> None:
                ends.append(await _ended(task, link))
                nursery.cancel_scope.cancel()

            for task in (session.read, session.write_control, session.write_bulk, session.watch):
                nursery.start_soon(until_end, task)
    finally:
        end = ends[0] if ends else _End("closed", "this side gave the link up")
        down = LinkDown(link, peer, end.code, end.reason)
        await _post_last(post, down)
    return down


async def _post_last(post: Post, down: LinkDown) -> None:
    try:
        await post(down)
    except trio.Cancelled:
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await post(down)
        raise


async def _ended(task: Callable[[], Awaitable[_End]], link: int) -> _End:
    try:
        return await task()
    except TransportError as error:
        return _End("lost", error.reason)
    except Exception as error:
        # The boundary of a link: a defect costs this link and leaves a trace, and the others go on.
        _log.exception("link-failed", link=link)
        return _End("E_INTERNAL", repr(error)[:_REASON_CHARACTERS])


@attrs.define(eq=False, kw_only=True)
class _Session:
    """The state that the tasks of one link share."""

    connection: Connection
    link: int
    outgoing: Outgoing
    post: Post
    clock: Callable[[], float]
    heard: Sequence[bytes]
    liveness: Liveness
    ping_interval: Callable[[], float]
    mail_at: float
    assembler: Assembler = attrs.field(factory=Assembler)
    sampled_at: float = float("-inf")
    sample: float = float("inf")
    throughput: float | None = None

    async def read(self) -> _End:
        try:
            return await self._receive()
        except RemoteProtocolError as error:
            self.outgoing.close(error.code, error.reason)
            await trio.sleep_forever()  # until the control writer has said so, or the watcher cuts the link

    async def _receive(self) -> _End:
        while True:
            chunk, self.heard = self.heard or await self.connection.receive(), ()
            suspected = self.liveness.phase is not Phase.ALIVE
            self.liveness.receive(self.clock())
            frames, rtt, end = self._sort(chunk)
            if suspected or (rtt is not None and self._is_due(rtt)):
                await self._report(rtt)
            if frames:
                self.liveness.deafen()
                await self.post(FramesReceived(self.link, frames))
                self.liveness.receive(self.clock())
            if end is not None:
                return end

    def _is_due(self, rtt: float) -> bool:
        """Whether this round trip is to be reported."""
        difference = abs(rtt - self.sample)
        is_same = difference <= _SAME_SECONDS or difference <= _SAME_SHARE * self.sample
        is_quiet = is_same and self.throughput is None and not self.liveness.has_losses
        return self.clock() - self.sampled_at >= (STEADY_SECONDS if is_quiet else SAMPLE_SECONDS)

    async def write_control(self) -> _End:
        while True:
            if control := self.outgoing.take_control():
                await self.connection.send(control, Lane.CONTROL)
            elif (closing := self.outgoing.closing) is not None:
                bye = Bye(closing.code, closing.reason[:_REASON_CHARACTERS])
                await self.connection.send([encode_frame(bye)], Lane.CONTROL)
                return _End(closing.code, closing.reason)
            else:
                await self.outgoing.control_filled()

    async def write_bulk(self) -> _End:
        busy_bytes, busy_since = 0, self.clock()
        while True:
            if bulk := self.outgoing.take_bulk():
                self.mail_at = self.clock()
                if self.liveness.expect(self.mail_at):
                    self.outgoing.poke()
                await self.connection.send(bulk, Lane.BULK)
                busy_bytes += sum(map(len, bulk))
                busy_seconds = self.clock() - busy_since
                if busy_bytes >= RATE_BYTES and busy_seconds > 0:
                    self.throughput = busy_bytes / busy_seconds
                    busy_bytes, busy_since = 0, self.clock()
            else:
                await self.outgoing.bulk_filled()
                busy_bytes, busy_since = 0, self.clock()

    async def watch(self) -> _End:
        while True:
            with trio.move_on_after(max(0.0, self.liveness.next_deadline - self.clock())):
                await self.outgoing.poked()
            if self.outgoing.closing is not None:
                await trio.sleep(CLOSE_SECONDS)  # the writer ends the link sooner, unless the peer does not read
                return _End(self.outgoing.closing.code, self.outgoing.closing.reason)
            if self.outgoing.take_probe():
                self.liveness.challenge(self.clock())
            if self.outgoing.take_expectation():
                self.liveness.expect(self.clock())
            self.liveness.pace(self._pace())
            for action in self.liveness.poll(self.clock()):
                if action == PhaseChanged(Phase.DOWN):
                    return _End("P_TIMEOUT", "the peer is silent, and answered none of four probes")
                await self._act(action)

    def _pace(self) -> float:
        """Seconds between pings: a link in use is watched closely; idle ones add up."""
        interval = self.ping_interval()
        is_quiet = self.clock() - self.mail_at >= QUIET_AFTER_SECONDS
        return max(interval, SAVING_PING_SECONDS) if is_quiet else interval

    def _sort(self, chunk: Sequence[bytes]) -> tuple[tuple[Frame, ...], float | None, _End | None]:
        """Answer what is ours to answer; returns frames for the node, the last round trip, and the peer's Bye."""
        frames: list[Frame] = []
        rtt: float | None = None
        for data in chunk:
            frame = self.assembler.add(decode_frame(data))
            if frame is None:
                continue
            if isinstance(frame, Ping):
                self.outgoing.send_control(Pong(frame.token))
            elif isinstance(frame, Pong):
                sample = self.liveness.pong(frame.token, self.clock())
                rtt = rtt if sample is None else sample
            elif isinstance(frame, Bye):
                return tuple(frames), rtt, _farewell(frame)
            elif type(frame) in HANDSHAKE_TYPES:
                raise RemoteProtocolError("P_UNEXPECTED", f"{type(frame).__name__} on a link that is up")
            else:
                if isinstance(frame, BundleFrame):
                    self.mail_at = self.clock()
                frames.append(frame)
        return tuple(frames), rtt, None

    async def _act(self, action: Action) -> None:
        if isinstance(action, SendPing):
            self.outgoing.send_control(Ping(action.token))
        else:
            await self._report(None)

    async def _report(self, rtt: float | None) -> None:
        if rtt is not None:
            self.sampled_at, self.sample = self.clock(), rtt
        answered, lost = self.liveness.take_outcomes()
        throughput, self.throughput = self.throughput, None
        suspect = self.liveness.phase is not Phase.ALIVE
        await self.post(LinkMeasured(self.link, rtt, suspect, answered, lost, throughput))


def _farewell(bye: Bye) -> _End:
    """The peer's reason, fit for our own log: a known code, and nothing that moves a terminal's cursor."""
    code = bye.code if bye.code in CATALOGUE else "closed"
    return _End(code, "".join(c if c.isprintable() else "?" for c in bye.reason))
