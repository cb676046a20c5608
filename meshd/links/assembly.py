"""Bundles cut into frames of at most 64 KiB, and put together again. Pure.

Parts of one bundle follow each other on the bulk lane; control frames may come in between.
"""

from collections.abc import Iterator

import attrs

from meshd.errors import RemoteProtocolError
from meshd.wire.frames import MAX_PART_BYTES, BundleFrame, Frame, Part, encode_frame


def split(bundle: BundleFrame) -> Iterator[bytes]:
    """The encoded frames of a bundle that has its whole body: a BundleFrame, then Parts when it is long."""
    body = bundle.body
    if len(body) <= MAX_PART_BYTES:
        yield encode_frame(bundle)
        return
    yield encode_frame(attrs.evolve(bundle, body=body[:MAX_PART_BYTES]))
    for start in range(MAX_PART_BYTES, len(body), MAX_PART_BYTES):
        yield encode_frame(Part(body[start : start + MAX_PART_BYTES]))


class Assembler:
    """Joins the frames of one link: whole bundles and other frames out, never a Part.

    Holds at most one bundle (``BundleFrame.total`` is bounded by the codec), and only bytes that came.
    """

    def __init__(self) -> None:
        self._first: BundleFrame | None = None
        self._body = bytearray()

    def add(self, frame: Frame) -> Frame | None:
        """Take the next frame; returns what is complete by it, if anything.

        Raises RemoteProtocolError: parts that fit no bundle, or a bundle that begins inside another.
        """
        if isinstance(frame, BundleFrame):
            return self._begin(frame)
        if isinstance(frame, Part):
            return self._continue(frame)
        return frame

    def _begin(self, frame: BundleFrame) -> BundleFrame | None:
        if self._first is not None:
            raise RemoteProtocolError("P_UNEXPECTED", "a bundle begins before the last one is complete")
        if len(frame.body) == frame.total:
            return frame
        if not 0 < len(frame.body) < frame.total:
            raise RemoteProtocolError("P_MALFORMED", f"{len(frame.body)} bytes begin a body of {frame.total}")
        self._first = frame
        self._body += frame.body
        return None

    def _continue(self, part: Part) -> BundleFrame | None:
        if self._first is None:
            raise RemoteProtocolError("P_UNEXPECTED", "a part of no bundle")
        self._body += part.data
        if not part.data or len(self._body) > self._first.total:
            raise RemoteProtocolError("P_MALFORMED", "a part that is empty or goes beyond the bundle's end")
        if len(self._body) < self._first.total:
            return None
        whole = attrs.evolve(self._first, body=bytes(self._body))
        self._first = None
        self._body.clear()
        return whole
