"""Whatever comes over a link is a frame or the sender's fault, and every frame comes back as it went."""

import attrs
import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.ids import BundleId, Epoch, NodeId
from meshd.wire import codec
from meshd.wire.frames import (
    MAX_FRAME_BYTES,
    MAX_HOPS,
    MAX_PART_BYTES,
    Ack,
    BundleFrame,
    Busy,
    Bye,
    Cards,
    CardVersions,
    Challenge,
    Echo,
    Frame,
    Hello,
    Part,
    Ping,
    Pong,
    ProbeRequest,
    ProbeResult,
    Proof,
    Refused,
    Reject,
    RosterHeads,
    Routed,
    Statements,
    Welcome,
    decode_frame,
    encode_frame,
)

uints = st.integers(0, 2**63 - 1)
nodes = st.binary(min_size=16, max_size=16).map(NodeId)
bundles = st.binary(min_size=20, max_size=20).map(BundleId)
epochs = st.builds(Epoch, uints, st.binary(min_size=8, max_size=8))
nonces = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=64, max_size=64)


def tuples(of: st.SearchStrategy[object], most: int) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(of, max_size=most).map(tuple)


heads = tuples(st.tuples(nodes, uints), 8)
some = tuples(st.binary(max_size=300), 8)
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Hello, tuples(st.integers(0, 65535), 16), nonces),
    st.builds(Challenge, st.integers(0, 65535), nonces),
    st.builds(Proof, st.binary(max_size=2048), epochs, st.none() | epochs, some, signatures),
    st.builds(Welcome, epochs, st.none() | epochs, signatures),
    st.builds(Reject, st.text(max_size=32), st.text(max_size=200), some),
    st.builds(Ping, uints),
    st.builds(Pong, uints),
    st.builds(Bye, st.text(max_size=32), st.text(max_size=200)),
    st.builds(ProbeRequest, nodes),
    st.builds(ProbeResult, nodes, st.booleans()),
    st.builds(RosterHeads, heads),
    st.builds(Statements, some),
    st.builds(CardVersions, heads),
    st.builds(Cards, some),
    st.builds(
        BundleFrame,
        st.integers(0, MAX_HOPS),
        st.integers(0, 2**53),
        st.integers(0, 64),
        st.binary(max_size=256),
        st.binary(max_size=300),
        st.integers(0, 1024 * 1024),
    ),
    st.builds(Part, st.binary(max_size=300)),
    st.builds(
        Ack,
        tuples(bundles, 8),
        tuples(st.builds(Busy, bundles, st.integers(0, 3_600_000)), 8),
        tuples(st.builds(Refused, bundles, st.text(max_size=32)), 8),
    ),
    st.builds(Routed, nodes, nodes, st.integers(0, MAX_HOPS), st.integers(0, 255), st.binary(max_size=300)),
    st.builds(Echo, nodes, nodes, st.integers(0, MAX_HOPS), uints, st.booleans(), tuples(nodes, MAX_HOPS + 1)),
)


def check(data: bytes) -> None:
    """``data`` is a frame that comes back as it went, or its sender's fault."""
    frame = code = None
    try:
        frame = decode_frame(data)
    except RemoteProtocolError as error:
        code = error.code
    assert code == "P_MALFORMED" if frame is None else decode_frame(encode_frame(frame)) == frame


@given(frames)
def test_round_trip(frame: Frame) -> None:
    assert decode_frame(encode_frame(frame)) == frame


@given(st.binary(max_size=400))
@example(b"")
@example(b"\x80")
@example(b"\x9f\xff")
@example(b"\x81\x81\x01")
@example(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff")
@example(b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff")
@example(cbor2.dumps([True, 1]))
@example(cbor2.dumps([1.0, 1]))
def test_any_bytes_are_a_frame_or_the_senders_fault(data: bytes) -> None:
    check(data)


@given(frames, st.data())
def test_a_damaged_frame_is_a_frame_or_the_senders_fault(frame: Frame, data: st.DataObject) -> None:
    good = bytearray(encode_frame(frame))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(good[: data.draw(st.integers(0, len(good)))])
    check(damaged)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.integers(0, 40), st.lists(plain, max_size=8))
def test_fields_of_any_kind_are_checked(kind: int, fields: list[object]) -> None:
    check(cbor2.dumps([kind, *fields]))


LIMITS = [
    (Hello, (tuple(range(17)), bytes(32))),
    (Hello, ((1,), bytes(31))),
    (Reject, ("x" * 33, "")),
    (Reject, ("", "x" * 201)),
    (Reject, ("", "", (b"",) * 65)),
    (Reject, ("", "", (bytes(4097),))),
    (Ping, (2**63,)),
    (Ping, (-1,)),
    (BundleFrame, (MAX_HOPS + 1, 0, 0, b"", b"", 0)),
    (BundleFrame, (0, 2**53 + 1, 0, b"", b"", 0)),
    (BundleFrame, (0, 0, 65, b"", b"", 0)),
    (BundleFrame, (0, 0, 0, bytes(257), b"", 0)),
    (BundleFrame, (0, 0, 0, b"", bytes(MAX_PART_BYTES + 1), 0)),
    (BundleFrame, (0, 0, 0, b"", b"", 1024 * 1024 + 4097)),
    (Part, (bytes(MAX_PART_BYTES + 1),)),
    (Ack, ((BundleId(bytes(20)),) * 2049, (), ())),
    (Ack, ((BundleId(bytes(19)),), (), ())),
    (Ack, ((), (Busy(BundleId(bytes(20)), 3_600_001),), ())),
    (Ack, ((), (), (Refused(BundleId(bytes(20)), "x" * 33),))),
    (Routed, (NodeId(bytes(16)), NodeId(bytes(16)), 0, 256, b"")),
    (Routed, (NodeId(bytes(16)), NodeId(bytes(16)), 0, 1, bytes(32 * 1024 + 1))),
    (Routed, (NodeId(bytes(15)), NodeId(bytes(16)), 0, 1, b"")),
    (Echo, (NodeId(bytes(16)), NodeId(bytes(16)), 0, 0, False, (NodeId(bytes(16)),) * (MAX_HOPS + 2))),
    (Statements, ((bytes(4097),),)),
]


@pytest.mark.parametrize(("make", "fields"), LIMITS)
def test_over_the_limit_is_malformed(make: type, fields: tuple[object, ...]) -> None:
    with pytest.raises(RemoteProtocolError, match="P_MALFORMED"):
        decode_frame(encode_frame(make(*fields)))


def test_every_frame_at_its_largest_fits() -> None:
    assert len(encode_frame(BundleFrame(16, 2**53, 64, bytes(256), bytes(MAX_PART_BYTES), 2**20))) <= MAX_FRAME_BYTES
    assert len(encode_frame(Ack((BundleId(bytes(20)),) * 2048))) <= MAX_FRAME_BYTES


def test_we_never_send_an_oversized_frame_nor_read_one() -> None:
    with pytest.raises(LocalProtocolError):
        encode_frame(Cards((bytes(4096),) * 20))
    with pytest.raises(RemoteProtocolError, match="P_OVERSIZED"):
        decode_frame(bytes(MAX_FRAME_BYTES + 1))
    with pytest.raises(RemoteProtocolError, match="P_OVERSIZED"):
        decode_frame(encode_frame(Part(bytes(5000))), limit=4096)


class TestCodec:
    @given(st.integers(0, 60_000), plain)
    def test_no_tag_is_decoded(self, tag: int, value: object) -> None:
        with pytest.raises(codec.ShapeError):
            codec.decode(cbor2.dumps(cbor2.CBORTag(tag, value)))

    @pytest.mark.parametrize("length", [codec.MAX_DEPTH + 2, 1000, 60_000])
    @pytest.mark.parametrize("nest", [b"\x81", b"\xa1\x00"])
    def test_depth_is_bounded(self, length: int, nest: bytes) -> None:
        with pytest.raises(codec.ShapeError):
            codec.decode(nest * length + b"\x00")

    @pytest.mark.parametrize(
        "data",
        [
            b"\x9f\xff",  # indefinite
            b"\x5f\x41\x00\xff",
            b"\xa2\x00\x00\x00\x01",  # a key twice
            b"\x00\x00",  # two items
            b"\x61\xff",  # not UTF-8
            b"\xc2\x58\x20" + b"\xff" * 32,  # a big integer
            b"\x1c",  # reserved
            b"\xff",
        ],
    )
    def test_what_we_never_write_is_refused(self, data: bytes) -> None:
        with pytest.raises(codec.ShapeError):
            codec.decode(data)

    @given(st.binary(max_size=200))
    def test_any_bytes_are_plain_data_or_refused(self, data: bytes) -> None:
        try:
            codec.decode(data)
        except codec.ShapeError:
            return

    @given(plain)
    def test_shapes_answer_or_refuse(self, value: object) -> None:
        shapes = [
            codec.uint(9, 3),
            codec.blob(4),
            codec.blob_up_to(3),
            codec.text(2),
            codec.boolean,
            codec.optional(codec.boolean),
            codec.array(codec.uint(), 2),
            codec.mapping(1, codec.text(3), codec.uint()),
            codec.record(lambda *items: items, codec.uint(), codec.text(1)),
            codec.converted(codec.uint(), lambda number: [5, 6][number] if number < 2 else int("x")),
            codec.matching(codec.text(9), str.isalpha, "letters"),
        ]
        for shape in shapes:
            try:
                shape(value)
            except codec.ShapeError:
                continue

    @pytest.mark.parametrize(
        ("shape", "most", "over"),
        [
            (codec.uint(9, 3), 9, 10),
            (codec.uint(9, 3), 3, 2),
            (codec.blob(4), bytes(4), bytes(5)),
            (codec.blob(4), bytes(4), bytes(3)),
            (codec.blob_up_to(3), bytes(3), bytes(4)),
            (codec.text(2), "ab", "abc"),
            (codec.array(codec.uint(), 2), [1, 2], [1, 2, 3]),
            (codec.mapping(2, codec.text(1), codec.uint()), {"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}),
            (codec.record(lambda *items: items, codec.uint(), codec.uint()), [1, 2], [1, 2, 3]),
            (codec.record(lambda *items: items, codec.uint(), codec.uint()), [1, 2], [1]),
        ],
    )
    def test_shapes_have_limits(self, shape: codec.Shape, most: object, over: object) -> None:
        assert shape(most) == (tuple(most) if isinstance(most, list) else most)
        with pytest.raises(codec.ShapeError):
            shape(over)

    def test_a_bool_is_no_integer_and_an_integer_no_bool(self) -> None:
        for shape, value in ((codec.uint(), True), (codec.boolean, 1), (codec.uint(5, 2), 1), (codec.uint(5), 6)):
            with pytest.raises(codec.ShapeError):
                shape(value)


def test_every_frame_type_is_in_the_round_trip() -> None:
    from typing import get_args

    tried = {Hello, Challenge, Proof, Welcome, Reject, Ping, Pong, Bye, ProbeRequest, ProbeResult, RosterHeads}
    tried |= {Statements, CardVersions, Cards, BundleFrame, Part, Ack, Routed, Echo}
    routing = {make for make in get_args(Frame) if make.__module__ == "meshd.wire.routing"}
    assert set(get_args(Frame)) - routing == tried
    assert all(attrs.has(make) for make in routing)
