"""The frames of routing on the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.ids import Epoch, NodeId
from meshd.wire import codec
from meshd.wire.frames import MAX_FRAME_BYTES, decode_frame, encode_frame
from meshd.wire.routing import MAX_ROUTES_PER_FRAME, MAX_SEQNO, RouteEntry, RouteRequest, RouteUpdate, SeqnoRequest

node_ids = st.binary(min_size=16, max_size=16).map(NodeId)
epochs = st.builds(Epoch, st.integers(0, 2**63 - 1), st.binary(min_size=8, max_size=8))
numbers = st.integers(0, MAX_SEQNO)
entries = st.builds(RouteEntry, node_ids, epochs, numbers, st.integers(0, 0xFFFF), st.binary(min_size=64, max_size=64))


@given(
    st.one_of(
        st.builds(RouteUpdate, st.lists(entries, max_size=5).map(tuple)),
        st.builds(SeqnoRequest, node_ids, epochs, numbers, st.integers(0, 127)),
        st.builds(RouteRequest, st.one_of(st.none(), node_ids)),
    )
)
def test_what_is_sent_is_what_is_read(frame: RouteUpdate | SeqnoRequest | RouteRequest) -> None:
    assert decode_frame(encode_frame(frame)) == frame


def test_a_full_update_fits_a_frame() -> None:
    entry = RouteEntry(NodeId(b"x" * 16), Epoch(2**63 - 1, b"y" * 8), MAX_SEQNO, 0xFFFF, b"z" * 64)
    frame = RouteUpdate((entry,) * MAX_ROUTES_PER_FRAME)
    assert len(encode_frame(frame)) <= MAX_FRAME_BYTES
    assert decode_frame(encode_frame(frame)) == frame


GOOD = [b"x" * 16, [1, b"y" * 8], 0, 10, b"z" * 64]


@pytest.mark.parametrize(
    "routes",
    [
        [GOOD] * (MAX_ROUTES_PER_FRAME + 1),
        [[b"short", *GOOD[1:]]],
        [[GOOD[0], [1, b"y"], *GOOD[2:]]],
        [[*GOOD[:2], -1, *GOOD[3:]]],
        [[*GOOD[:2], MAX_SEQNO + 1, *GOOD[3:]]],
        [[*GOOD[:3], 0x10000, GOOD[4]]],
        [[*GOOD[:3], 1.5, GOOD[4]]],
        [[*GOOD[:4], b"z" * 63]],
        [GOOD[:4]],
    ],
)
def test_absurd_updates_are_no_frames(routes: list[object]) -> None:
    with pytest.raises(RemoteProtocolError, match="P_MALFORMED"):
        decode_frame(codec.encode([40, routes]))
