"""Heads, contents and messages of bundles: whole, or the sender's fault."""

import hashlib
from collections.abc import Callable

import attrs
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.ids import Epoch, Flow, NodeId, Number, Priority
from meshd.wire import codec
from meshd.wire.bundle import (
    COMPRESS_FROM_BYTES,
    MAX_MESSAGES,
    Content,
    Head,
    Message,
    bundle_id,
    decode_head,
    decode_messages,
    encode_head,
    encode_messages,
    pack_content,
    unpack_content,
)
from meshd.wire.frames import MAX_BUNDLE_BYTES, MAX_HEAD_BYTES

uints = st.integers(0, 2**63 - 1)
nodes = st.binary(min_size=16, max_size=16).map(NodeId)
numbers = st.builds(Number, st.builds(Epoch, uints, st.binary(min_size=8, max_size=8)), uints)
flows = st.builds(Flow, nodes, nodes, st.sampled_from(Priority), st.booleans())
heads = st.builds(
    Head, flows, numbers, st.binary(min_size=16, max_size=16), uints, st.integers(0, 2**53), st.integers(0, 2**20)
)
messages = st.builds(
    Message,
    st.binary(max_size=2000),
    st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3),
    st.none() | st.text(max_size=20),
)
several = st.lists(messages, min_size=1, max_size=8)
services = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


def fault(decode: Callable[[bytes], object], data: bytes) -> str | None:
    """The code with which ``decode`` blames the sender of ``data``; None when it takes it."""
    try:
        decode(data)
    except RemoteProtocolError as error:
        return error.code
    return None


@given(heads)
def test_heads_come_back_and_fit(head: Head) -> None:
    data = encode_head(head)
    assert decode_head(data) == head
    assert len(data) <= MAX_HEAD_BYTES


@given(st.binary(max_size=120))
def test_any_bytes_are_a_head_or_the_senders_fault(data: bytes) -> None:
    assert fault(decode_head, data) in (None, "P_MALFORMED")


@given(heads, st.integers(0, 300), st.integers(0, 255))
def test_a_damaged_head_is_the_senders_fault_or_another_bundle(head: Head, place: int, byte: int) -> None:
    good = encode_head(head)
    damaged = bytearray(good)
    damaged[place % len(damaged)] = byte
    if damaged == good:
        return
    assert bundle_id(bytes(damaged), b"body") != bundle_id(good, b"body")
    assert fault(decode_head, bytes(damaged)) in (None, "P_MALFORMED")


@given(st.binary(max_size=20), st.binary(max_size=20), st.integers(1, 20))
def test_the_id_tells_head_from_body(head: bytes, body: bytes, cut: int) -> None:
    whole = head + body
    cut %= len(whole) + 1
    if whole[:cut] != head:
        assert bundle_id(whole[:cut], whole[cut:]) != bundle_id(head, body)


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_the_id_is_of_every_byte(head: bytes, body: bytes) -> None:
    assert bundle_id(head, body) == hashlib.sha256(len(head).to_bytes(4, "big") + head + body).digest()[:20]


@pytest.mark.parametrize("several", [[Message(b"")] * MAX_MESSAGES, [Message(bytes(1024 * 1024))]])
def test_the_most_and_the_largest_messages_come_back(several: list[Message]) -> None:
    full = Content("box", None, None, len(several), encode_messages(several))
    assert unpack_content(pack_content(full)) == full
    assert decode_messages(full.messages, len(several)) == tuple(several)


@given(several)
def test_messages_come_back(several: list[Message]) -> None:
    assert decode_messages(encode_messages(several), len(several)) == tuple(several)
    with pytest.raises(codec.ShapeError):
        decode_messages(encode_messages(several), len(several) + 1)


@given(services, st.none() | numbers, st.none() | numbers, several)
def test_contents_come_back(service: str, prev: Number | None, floor: Number | None, several: list[Message]) -> None:
    content = Content(service, prev, floor, len(several), encode_messages(several))
    assert unpack_content(pack_content(content)) == content


@given(st.binary(max_size=300))
def test_any_plaintext_is_content_or_its_sources_fault(data: bytes) -> None:
    for plaintext in (data, b"\x00" + data, b"\x01" + data, b"\x01" + zstandard.compress(data)):
        with pytest.raises(RemoteProtocolError, match="P_BUNDLE"):
            unpack_content(plaintext)


def content(payload: bytes = b"x") -> Content:
    return Content("box", None, None, 1, encode_messages([Message(payload)]))


@given(st.integers(0, 2**20), st.integers(1, 255), st.booleans())
def test_a_damaged_content_is_its_sources_fault_or_the_same(place: int, flip: int, large: bool) -> None:
    good = pack_content(content(b"abc" * 1000 if large else b"abc"))
    damaged = bytearray(good)
    damaged[place % len(damaged)] ^= flip
    code = fault(unpack_content, bytes(damaged))
    if code is None:
        assert unpack_content(bytes(damaged)).messages == content(b"abc" * 1000 if large else b"abc").messages
    else:
        assert code == "P_BUNDLE"


class TestCompression:
    def test_only_what_is_large_and_shrinks(self) -> None:
        assert pack_content(content(bytes(COMPRESS_FROM_BYTES)))[0] == 1
        assert pack_content(content(bytes(100)))[0] == 0
        noise = b"".join(bytes([i * 167 % 256, i * 59 % 251]) for i in range(2000))
        packed = pack_content(content(noise))
        assert len(packed) <= len(noise) + 100

    @pytest.mark.parametrize("marker", [b"\x02", b"\xff"])
    def test_an_unknown_marker_is_refused_whatever_follows(self, marker: bytes) -> None:
        plain, packed = (pack_content(content(payload)) for payload in (b"x", bytes(COMPRESS_FROM_BYTES)))
        for body in (plain[1:], packed[1:]):
            with pytest.raises(RemoteProtocolError, match="unknown compression"):
                unpack_content(marker + body)

    @pytest.mark.parametrize("size", [MAX_BUNDLE_BYTES + 1, 64 * 1024 * 1024])
    def test_a_bomb_is_refused_before_it_is_unpacked(self, size: int) -> None:
        bomb = zstandard.ZstdCompressor(level=1).compress(bytes(size))
        assert len(bomb) < 64 * 1024
        with pytest.raises(RemoteProtocolError, match="more than a bundle"):
            unpack_content(b"\x01" + bomb)

    def test_a_bomb_that_hides_its_size_is_refused(self) -> None:
        compressor = zstandard.ZstdCompressor(level=1, write_content_size=False)
        with pytest.raises(RemoteProtocolError, match="P_BUNDLE"):
            unpack_content(b"\x01" + compressor.compress(bytes(16 * 1024 * 1024)))

    def test_a_bomb_that_lies_about_its_size_is_refused(self) -> None:
        honest = bytearray(zstandard.ZstdCompressor(level=1).compress(bytes(1024 * 1024)))
        size = zstandard.get_frame_parameters(bytes(honest)).content_size
        at = bytes(honest).index(size.to_bytes(4, "little"))
        honest[at : at + 4] = (1000).to_bytes(4, "little")
        with pytest.raises(RemoteProtocolError, match="P_BUNDLE"):
            unpack_content(b"\x01" + bytes(honest))


class TestRefusals:
    @pytest.mark.parametrize(
        "change",
        [
            {"service": "-x"},
            {"service": "x" * 65},
            {"service": "a/b"},
            {"count": 0},
            {"count": 2},
            {"count": MAX_MESSAGES + 1},
            {"messages": b"\x80"},
            {"messages": b"junk"},
            {"messages": codec.encode([1])},
            {"messages": codec.encode([[b"x", {}, None, 1]])},
            {"messages": codec.encode([[b"x", {"a": 1}, None]])},
            {"messages": codec.encode([bytes(1024 * 1024 + 1)])},
        ],
    )
    def test_content_out_of_bounds(self, change: dict[str, object]) -> None:
        with pytest.raises(RemoteProtocolError, match="P_BUNDLE"):
            unpack_content(pack_content(attrs.evolve(content(), **change)))

    @pytest.mark.parametrize("place", range(10))
    def test_a_head_with_a_field_of_another_kind(self, place: int) -> None:
        number = Number(Epoch(1, bytes(8)), 1)
        flow = Flow(NodeId(bytes(16)), NodeId(bytes(16)), Priority.HIGH)
        fields = codec.decode(encode_head(Head(flow, number, bytes(16), 1, 1, 1)))
        fields[place] = "x"
        with pytest.raises(RemoteProtocolError, match="P_MALFORMED"):
            decode_head(codec.encode(fields))
