"""What waits to be sent over one link. The node writes without waiting; the link's writers take."""

from collections import deque
from collections.abc import Iterator

import attrs
import trio

from meshd.links.assembly import split
from meshd.wire.frames import BundleFrame, Frame, encode_frame

MAX_CONTROL_BYTES = 4 * 1024 * 1024
"""A peer that leaves more control frames than this unread is too slow to keep."""

BATCH_BYTES = 256 * 1024
"""Bundle frames handed to the connection at once."""


@attrs.frozen
class Closing:
    """Our side ends the link, and why."""

    code: str
    reason: str


class Outgoing:
    """The sending side of one link: ``events.Mailbox`` for the node, the rest for the link's own tasks.

    Only control is bounded here (MAX_CONTROL_BYTES, then the link closes with P_FLOOD); the node's
    hop-ack window bounds the bundles. Each of the three waits has one task of the link as its only user.
    """

    def __init__(self) -> None:
        self.closing: Closing | None = None
        self._control: deque[bytes] = deque()
        self._control_bytes = 0
        self._bundles: deque[BundleFrame] = deque()
        self._bundle_bytes = 0
        self._pieces: Iterator[bytes] = iter(())
        self._probe = self._expectation = False
        self._control_filled = trio.Event()
        self._bulk_filled = trio.Event()
        self._poked = trio.Event()

    @property
    def queued_bytes(self) -> int:
        """Bytes handed over here and not yet to the connection."""
        return self._control_bytes + self._bundle_bytes

    def send_control(self, frame: Frame) -> None:
        """Queue a small frame; it overtakes bundles. Raises LocalProtocolError when it is too large."""
        if self.closing is not None:
            return
        data = encode_frame(frame)
        if self._control_bytes + len(data) > MAX_CONTROL_BYTES:
            self._control.clear()
            self._control_bytes = 0
            self.close("P_FLOOD", f"the peer left {MAX_CONTROL_BYTES} bytes of control frames unread")
            return
        self._control.append(data)
        self._control_bytes += len(data)
        self._control_filled.set()

    def send_bundle(self, frame: BundleFrame) -> None:
        """Queue a bundle with its whole body."""
        if self.closing is not None:
            return
        self._bundles.append(frame)
        self._bundle_bytes += len(frame.head) + len(frame.body)
        self._bulk_filled.set()

    def close(self, code: str, reason: str) -> None:
        """End the link after the control frames queued so far. The first reason stands."""
        if self.closing is not None:
            return
        self.closing = Closing(code, reason)
        self._bundles.clear()
        self._bundle_bytes = 0
        self._pieces = iter(())
        self._control_filled.set()
        self._poked.set()

    def probe(self) -> None:
        """Ask the link's failure detector to doubt the peer now."""
        self._probe = True
        self._poked.set()

    def expect(self) -> None:
        """There is reason to ask for a sign of life, if none comes by itself."""
        self._expectation = True
        self._poked.set()

    def poke(self) -> None:
        """Something is due earlier than the link's failure detector said."""
        self._poked.set()

    def take_control(self) -> list[bytes]:
        """All control frames that wait; empty when none do."""
        taken = list(self._control)
        self._control.clear()
        self._control_bytes = 0
        return taken

    def take_bulk(self) -> list[bytes]:
        """The next frames of bundles, about BATCH_BYTES; empty when none wait.

        A bundle counts as queued until its first frame is taken.
        """
        taken: list[bytes] = []
        size = 0
        while size < BATCH_BYTES:
            piece = next(self._pieces, None)
            if piece is not None:
                taken.append(piece)
                size += len(piece)
            elif self._bundles:
                bundle = self._bundles.popleft()
                self._bundle_bytes -= len(bundle.head) + len(bundle.body)
                self._pieces = split(bundle)
            else:
                break
        return taken

    def take_probe(self) -> bool:
        """Whether ``probe`` was called since the last time."""
        probe, self._probe = self._probe, False
        return probe

    def take_expectation(self) -> bool:
        """Whether ``expect`` was called since the last time."""
        expectation, self._expectation = self._expectation, False
        return expectation

    async def control_filled(self) -> None:
        """Wait until there may be control frames to take, or the link is closing."""
        await self._control_filled.wait()
        self._control_filled = trio.Event()

    async def bulk_filled(self) -> None:
        """Wait until there may be bundles to take."""
        await self._bulk_filled.wait()
        self._bulk_filled = trio.Event()

    async def poked(self) -> None:
        """Wait for ``close``, ``probe``, ``expect`` or ``poke``."""
        await self._poked.wait()
        self._poked = trio.Event()
