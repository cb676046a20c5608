import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.links.assembly import Assembler, split
from meshd.wire.frames import MAX_FRAME_BYTES, MAX_PART_BYTES, BundleFrame, Frame, Part, Ping, decode_frame


def bundle(body: bytes, total: int | None = None) -> BundleFrame:
    return BundleFrame(16, 0, 1, b"head", body, len(body) if total is None else total)


def joined(frames: list[Frame]) -> list[Frame]:
    assembler = Assembler()
    return [whole for frame in frames if (whole := assembler.add(frame)) is not None]


@pytest.mark.parametrize("size", [0, 1, MAX_PART_BYTES, MAX_PART_BYTES + 1, 2 * MAX_PART_BYTES, 1024 * 1024 + 4096])
def test_split_and_joined_is_the_same_bundle(size: int) -> None:
    whole = bundle(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    pieces = list(split(whole))
    assert len(pieces) == max(1, -(-size // MAX_PART_BYTES))
    assert max(map(len, pieces)) <= MAX_FRAME_BYTES
    assert joined([decode_frame(piece) for piece in pieces]) == [whole]


def test_other_frames_may_come_between_parts() -> None:
    whole = bundle(b"x" * (3 * MAX_PART_BYTES))
    first, second, third = (decode_frame(piece) for piece in split(whole))
    assert joined([first, Ping(1), second, Ping(2), third]) == [Ping(1), Ping(2), whole]


def test_bundles_follow_each_other() -> None:
    one, two = bundle(b"1" * (MAX_PART_BYTES + 1)), bundle(b"2" * (MAX_PART_BYTES + 1))
    frames = [decode_frame(piece) for whole in (one, two) for piece in split(whole)]
    assert joined(frames) == [one, two]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([Part(b"x")], "P_UNEXPECTED"),
        ([bundle(b"x"), Part(b"x")], "P_UNEXPECTED"),
        ([bundle(b"x", 9), bundle(b"y", 9)], "P_UNEXPECTED"),
        ([bundle(b"x", 9), bundle(b"y")], "P_UNEXPECTED"),
        ([bundle(b"", 9)], "P_MALFORMED"),
        ([bundle(b"xyz", 2)], "P_MALFORMED"),
        ([bundle(b"x", 9), Part(b"")], "P_MALFORMED"),
        ([bundle(b"x", 9), Part(b"123456789")], "P_MALFORMED"),
    ],
)
def test_parts_that_fit_nothing_are_the_peers_fault(frames: list[Frame], code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        joined(frames)
    assert caught.value.code == code


_frames = st.one_of(
    st.builds(bundle, st.binary(max_size=6), st.integers(0, 12)),
    st.builds(Part, st.binary(max_size=6)),
    st.builds(Ping, st.integers(0, 9)),
)


@given(st.lists(_frames, max_size=20))
def test_what_comes_out_is_whole_or_the_link_ends(frames: list[Frame]) -> None:
    try:
        out = joined(frames)
    except RemoteProtocolError:
        return
    for frame in out:
        assert not isinstance(frame, Part)
        if isinstance(frame, BundleFrame):
            assert len(frame.body) == frame.total
