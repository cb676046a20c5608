"""One lane of a QUIC connection: frames that have come, and how much either side may still send on it.

Each receiver grants what it has room for, in-band (see framing). The sender counts grants as credit and
waits for more; the receiver counts what came against what it has granted.
"""

from collections import deque

import attrs
import trio

from meshd.errors import RemoteProtocolError
from meshd.transport.framing import PREFIX_BYTES, FrameReader
from meshd.wire.frames import MAX_FRAME_BYTES

INITIAL_WINDOW_BYTES = 64 * 1024
"""What a lane may hold unread before the peer is known: enough for a handshake."""


@attrs.define(eq=False)
class LaneWindow:
    """Both directions of one lane. The connection moves its bytes; here they are counted.

    Args:
        stream: the QUIC stream that carries it.
        frames: whole ones that have come and were not taken yet.
        credit: bytes that the other side still takes.
        is_open: something has come on it.
        is_finished: nothing more will come.
    """

    stream: int
    frames: deque[bytes] = attrs.field(factory=deque)
    credit: int = INITIAL_WINDOW_BYTES
    is_open: bool = False
    is_finished: bool = False
    _reader: FrameReader = attrs.field(factory=lambda: FrameReader(limit=MAX_FRAME_BYTES, grants=True), init=False)
    _credited: trio.Event = attrs.field(factory=trio.Event, init=False)
    _granted: int = attrs.field(default=INITIAL_WINDOW_BYTES, init=False)
    """Bytes that the other side may have sent, in all."""
    _consumed: int = attrs.field(default=0, init=False)

    # --- what comes

    def take_in(self, data: bytes, *, end: bool) -> RemoteProtocolError | None:
        """Bytes came; with ``end`` they are the last. Returns what is wrong with them, if anything."""
        self.is_open = True
        self.is_finished = self.is_finished or end
        self.frames.extend(self._reader.feed(data))
        if granted := self._reader.take_granted():
            self.credit += granted
            self._credited.set()
            self._credited = trio.Event()
        if self._reader.framed_bytes > self._granted + PREFIX_BYTES:  # a grant cut in two counts until it is whole
            return RemoteProtocolError("P_FLOOD", "more than the receiver has room for")
        return self._reader.error

    def pop(self) -> bytes:
        """Take the first frame: it no longer counts against the window."""
        frame = self.frames.popleft()
        self._consumed += PREFIX_BYTES + len(frame)
        return frame

    def take_grant(self, window_bytes: int) -> int:
        """How much more the other side is to be granted now; 0 until a good part of a window has been read."""
        more = self._consumed + window_bytes - self._granted
        if more < window_bytes // 4:
            return 0
        self._granted += more
        return more

    # --- what goes

    async def wait_for_credit(self) -> None:
        """Wait until ``credit`` has grown, or :meth:`end_credit` was called. Cancelled, nothing has changed."""
        await self._credited.wait()

    def end_credit(self) -> None:
        """There will be no more credit: whoever waits for it, and whoever will, is to look at why."""
        self._credited.set()
