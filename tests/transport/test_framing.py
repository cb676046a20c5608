"""Frames survive any cutting of the stream; bad lengths poison the reader."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError
from meshd.transport.framing import BATCH_BYTES, INITIAL_LIMIT, FrameReader, encode_batches, encode_grant
from meshd.wire.frames import MAX_FRAME_BYTES

frames_lists = st.lists(st.binary(min_size=1, max_size=300), max_size=30)


@given(frames_lists, st.lists(st.integers(1, 40), min_size=1))
def test_frames_survive_any_cutting(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(encode_batches(frames))
    reader = FrameReader()
    received: list[bytes] = []
    position = turn = 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        received += reader.feed(stream[position : position + size])
        position += size
        turn += 1
    assert received == frames
    assert (reader.error, reader.partial_bytes) == (None, 0)
    assert reader.framed_bytes == len(stream)


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=50), st.integers(0, 2**31 - 1)), max_size=30), st.data())
def test_grants_between_frames_are_told_apart(items: list[bytes | int], data: st.DataObject) -> None:
    stream = b"".join(encode_grant(i) if isinstance(i, int) else b"".join(encode_batches([i])) for i in items)
    cut = data.draw(st.integers(0, len(stream)))
    reader = FrameReader(grants=True)
    received = reader.feed(stream[:cut]) + reader.feed(stream[cut:])
    frames = [item for item in items if isinstance(item, bytes)]
    assert received == frames
    assert reader.take_granted() == sum(item for item in items if isinstance(item, int))
    assert reader.take_granted() == 0
    assert reader.framed_bytes == sum(4 + len(frame) for frame in frames)


@given(frames_lists, st.integers(300, 2000))
def test_batches_are_bounded_and_whole(frames: list[bytes], size: int) -> None:
    batches = list(encode_batches(frames, size))
    assert all(len(batch) <= max(size, 304) for batch in batches)
    received = [frame for batch in batches for frame in FrameReader().feed(batch)]
    assert received == frames


def test_long_frames_make_batches_of_their_own_size() -> None:
    batches = list(encode_batches([b"x" * MAX_FRAME_BYTES] * 7))
    assert [len(batch) for batch in batches] == [3 * (MAX_FRAME_BYTES + 4)] * 2 + [MAX_FRAME_BYTES + 4]
    assert max(map(len, batches)) <= BATCH_BYTES


@pytest.mark.parametrize("size", [0, MAX_FRAME_BYTES + 1])
def test_no_frame_may_be_empty_or_too_long(size: int) -> None:
    with pytest.raises(LocalProtocolError):
        list(encode_batches([b"x" * size]))


@pytest.mark.parametrize(
    ("prefix", "code"),
    [
        (b"\x00\x00\x00\x00", "P_MALFORMED"),
        ((INITIAL_LIMIT + 1).to_bytes(4, "big"), "P_OVERSIZED"),
        (b"\xff\xff\xff\xff", "P_OVERSIZED"),
    ],
)
def test_a_bad_length_poisons_the_reader_after_what_was_good(prefix: bytes, code: str) -> None:
    reader = FrameReader()
    assert reader.feed(b"\x00\x00\x00\x01a" + prefix + b"rest") == [b"a"]
    assert reader.error is not None
    assert reader.error.code == code
    assert reader.feed(b"\x00\x00\x00\x01a") == []


def test_the_limit_can_be_raised() -> None:
    reader = FrameReader()
    reader.limit = INITIAL_LIMIT + 1
    frame = b"x" * (INITIAL_LIMIT + 1)
    assert reader.feed(b"".join(encode_batches([frame]))) == [frame]


def test_grants_have_a_bound() -> None:
    reader = FrameReader(grants=True)
    reader.feed(encode_grant(2**31 - 1) * 513)
    assert reader.error is not None
    assert reader.error.code == "P_MALFORMED"
