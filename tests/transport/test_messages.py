"""WebSocket messages: every cut gives the same events, and every mistake is the sender's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.transport.messages import Closed, Event, MessageReader, Opcode, Ping, encode, encode_close

LIMIT = 70_000


def read(data: bytes, *, masked: bool, cuts: int = 0) -> tuple[list[Event], str | None]:
    """The events of ``data``, fed in pieces of ``cuts`` bytes, and the code of the mistake in it."""
    reader = MessageReader(masked=masked, limit=LIMIT)
    size = cuts or len(data)
    events = [event for at in range(0, len(data), size) for event in reader.feed(data[at : at + size])]
    return events, None if reader.error is None else reader.error.code


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, LIMIT])
def test_messages_of_every_length_come_back(size: int, masked: bool) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    encoded = encode(Opcode.BINARY, data[:size], masked=masked)
    assert read(encoded, masked=masked) == ([data[:size]], None)


@given(
    st.lists(st.tuples(st.sampled_from([Opcode.BINARY, Opcode.PING, Opcode.PONG]), st.binary(max_size=125))),
    st.booleans(),
    st.integers(1, 40),
)
def test_cuts_change_nothing(frames: list[tuple[Opcode, bytes]], masked: bool, cuts: int) -> None:
    data = b"".join(encode(opcode, content, masked=masked) for opcode, content in frames) + encode_close(masked=masked)
    expected: list[Event] = [
        Ping(content) if opcode is Opcode.PING else content for opcode, content in frames if opcode is not Opcode.PONG
    ]
    assert read(data, masked=masked, cuts=cuts) == ([*expected, Closed()], None)


def test_a_mask_is_taken_off() -> None:
    # RFC 6455 section 5.7: "Hello" with the mask 37 fa 21 3d, as a binary message
    assert read(bytes.fromhex("828537fa213d7f9f4d5158"), masked=True) == ([b"Hello"], None)


def test_pieces_are_joined_with_a_ping_in_between() -> None:
    data = b"\x02\x03Hel" + b"\x89\x00" + b"\x00\x00" + b"\x80\x02lo" + b"\x82\x01!"
    for cuts in range(1, len(data)):
        assert read(data, masked=False, cuts=cuts) == ([Ping(b""), b"Hello", b"!"], None)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x82\x80\0\0\0\0", "P_MALFORMED"),  # a mask from the listener
        (b"\xc2\x00", "P_MALFORMED"),  # a reserved bit
        (b"\x83\x00", "P_MALFORMED"),  # a reserved opcode
        (b"\x81\x00", "P_MALFORMED"),  # text
        (b"\x80\x00", "P_MALFORMED"),  # a continuation of nothing
        (b"\x02\x00\x82\x00", "P_MALFORMED"),  # a message within another
        (b"\x09\x00", "P_MALFORMED"),  # a ping in pieces
        (b"\x89\x7e\x00\x7e", "P_MALFORMED"),  # a long ping
        (b"\x82\x7f" + (LIMIT + 1).to_bytes(8, "big"), "P_OVERSIZED"),
        (b"\x82\x7f" + b"\xff" * 8, "P_OVERSIZED"),
        (b"\x02\x02ab\x80\x7f" + (LIMIT - 1).to_bytes(8, "big"), "P_OVERSIZED"),
    ],
)
def test_mistakes_end_the_reading(data: bytes, code: str) -> None:
    assert read(b"\x82\x01a" + data + b"\x82\x01b", masked=False) == ([b"a"], code)


def test_frames_of_a_client_must_be_masked() -> None:
    assert read(encode(Opcode.BINARY, b"a", masked=False) + bytes(8), masked=True) == ([], "P_MALFORMED")


@given(st.binary(max_size=200), st.booleans(), st.integers(1, 50))
def test_any_bytes_give_events_or_a_mistake(data: bytes, masked: bool, cuts: int) -> None:
    events, code = read(data, masked=masked, cuts=cuts)
    assert sum(len(event) for event in events if isinstance(event, bytes)) <= len(data)
    assert code in (None, "P_MALFORMED", "P_OVERSIZED")
