"""Whole frames on a stream of bytes: each is preceded by its length, four bytes, big-endian.

On QUIC a length with the top bit set is no frame but a *grant*: the other side may send that many
bytes more. aioquic itself takes in whatever comes, so each lane has this window of its own. Grants
stand between frames, so a frame is written only when it may go whole.
"""

import struct
from collections.abc import Iterator, Sequence

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.wire.frames import MAX_FRAME_BYTES, MAX_PROOF_FRAME_BYTES

INITIAL_LIMIT = MAX_PROOF_FRAME_BYTES
"""Bytes: the longest frame that a connection accepts before its handshake has ended."""

BATCH_BYTES = 256 * 1024
"""What is written or handed up at once: enough to make the cost of a call small."""

PREFIX_BYTES = 4

_GRANT = 0x80000000
_MAX_CREDIT = 2**40
_PREFIX = struct.Struct(">I")


def encode_batches(frames: Sequence[bytes], size_bytes: int = BATCH_BYTES) -> Iterator[bytes]:
    """Yield ``frames`` with their lengths, joined into batches of whole frames.

    No batch is over ``size_bytes``, unless it is one frame. Raises LocalProtocolError for an empty
    frame or one over MAX_FRAME_BYTES.
    """
    parts: list[bytes] = []
    size = 0
    for frame in frames:
        if not 0 < len(frame) <= MAX_FRAME_BYTES:
            raise LocalProtocolError(f"a frame of {len(frame)} bytes")
        if parts and size + PREFIX_BYTES + len(frame) > size_bytes:
            yield b"".join(parts)
            parts.clear()
            size = 0
        parts.append(_PREFIX.pack(len(frame)))
        parts.append(frame)
        size += PREFIX_BYTES + len(frame)
    if parts:
        yield b"".join(parts)


def encode_grant(size_bytes: int) -> bytes:
    """The word that lets the other side send ``size_bytes`` (below 2^31) more."""
    return _PREFIX.pack(_GRANT | size_bytes)


def oversized(size_bytes: int, limit: int) -> RemoteProtocolError:
    """The error of a peer that sent a frame of this size."""
    return RemoteProtocolError("P_OVERSIZED", f"a frame of {size_bytes} bytes, where at most {limit} are allowed")


class FrameReader:
    """Turns bytes, however they were cut, back into frames.

    After a bad length nothing more is read: ``error`` is set, and stays.

    Args:
        limit: the longest frame in bytes; may be changed at any time.
        grants: whether grants are part of the stream.
    """

    def __init__(self, *, limit: int = INITIAL_LIMIT, grants: bool = False) -> None:
        self.limit = limit
        self.error: RemoteProtocolError | None = None
        self._grants = grants
        self._granted = 0
        self._framed = 0
        self._partial = bytearray()
        self._needed = PREFIX_BYTES

    @property
    def framed_bytes(self) -> int:
        """Bytes of frames so far, lengths and a last partial frame included, grants left out."""
        return self._framed

    @property
    def partial_bytes(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._partial)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that ``data`` completes. Look at ``error`` afterwards."""
        if self.error is not None:
            return []
        self._framed += len(data)
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed:
                return []
            data = bytes(self._partial)
            self._partial.clear()
        frames: list[bytes] = []
        position, end = 0, len(data)
        self._needed = PREFIX_BYTES
        while end - position >= PREFIX_BYTES:
            (length,) = _PREFIX.unpack_from(data, position)
            if self._grants and length & _GRANT:
                position += PREFIX_BYTES
                self._take_in_grant(length & ~_GRANT)
                continue
            if not 0 < length <= self.limit:
                empty = RemoteProtocolError("P_MALFORMED", "an empty frame")
                self.error = oversized(length, self.limit) if length else empty
                return frames
            stop = position + PREFIX_BYTES + length
            if stop > end:
                self._needed = PREFIX_BYTES + length
                break
            frames.append(data[position + PREFIX_BYTES : stop])
            position = stop
        self._partial += data[position:]
        return frames

    def take_granted(self) -> int:
        """Return the bytes granted since the last call."""
        granted, self._granted = self._granted, 0
        return granted

    def _take_in_grant(self, size_bytes: int) -> None:
        self._framed -= PREFIX_BYTES
        self._granted += size_bytes
        if self._granted > _MAX_CREDIT:
            self.error = RemoteProtocolError("P_MALFORMED", "grants without measure")
