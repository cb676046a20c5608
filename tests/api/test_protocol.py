"""Frames, requests, replies and arguments."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.api import protocol
from meshd.api.arguments import OPERATIONS, check_arguments
from meshd.errors import MeshdError
from meshd.ids import Priority
from meshd.wire import codec
from meshd.wire.codec import ShapeError

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 50)))
def test_frames_are_found_however_the_bytes_are_cut(items: list[bytes], cuts: list[int]) -> None:
    data = b"".join(len(item).to_bytes(4, "big") + item for item in items)
    splitter, found = protocol.FrameSplitter(), []
    for cut in [*cuts, len(data) + 1]:
        found += splitter.feed(data[:cut])
        data = data[cut:]
    assert found == items


def test_frame_over_the_limit_is_refused_after_those_before_it() -> None:
    feed = protocol.FrameSplitter().feed(b"\0\0\0\1a" + (protocol.MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    assert next(feed) == b"a"
    with pytest.raises(ShapeError, match="limit"):
        next(feed)


def test_frame_of_exactly_the_limit_is_taken() -> None:
    body = bytes(protocol.MAX_FRAME_BYTES)
    assert list(protocol.FrameSplitter().feed(len(body).to_bytes(4, "big") + body)) == [body]


@given(st.binary(max_size=60) | plain.map(codec.encode))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    for decode in (protocol.decode_request, protocol.decode_reply, protocol.decode_hello):
        with contextlib.suppress(ShapeError):
            decode(data)


@pytest.mark.parametrize(
    ("plain", "is_one"),
    [
        ([1, "x" * 32, {}], True),
        ([1, "x" * 33, {}], False),
        ([protocol.MAX_ID, "status", {}], True),
        ([protocol.MAX_ID + 1, "status", {}], False),
        ([0, "status", {}], False),
        ([True, "status", {}], False),
        ([1, 5, {}], False),
        ([1, [], {}], False),
        ([1, "status", []], False),
        ([1, "status"], False),
        ([1, "status", {}, 1], False),
    ],
)
def test_a_request_has_an_id_an_operation_and_arguments(plain: list[object], is_one: bool) -> None:
    if is_one:
        assert protocol.decode_request(codec.encode(plain)) == tuple(plain)
    else:
        with pytest.raises(ShapeError):
            protocol.decode_request(codec.encode(plain))


def code_of(op: str, arguments: dict[str, object]) -> str | None:
    """The code that the arguments are refused with, if they are."""
    try:
        check_arguments(op, arguments)
    except MeshdError as error:
        return error.code
    return None


@given(st.sampled_from(sorted(OPERATIONS)), st.dictionaries(st.text(max_size=12), plain, max_size=4), plain)
def test_any_arguments_are_taken_or_refused_with_a_code(op: str, arguments: dict[str, object], value: object) -> None:
    assert code_of(op, arguments) in (None, "E_USAGE")
    for name in ("destination", "messages", "priority", "ranges", "up_to", "nack", "timeout_s", "id", "name", "key"):
        assert code_of(op, {name: value}) in (None, "E_USAGE", "E_TOO_LARGE")


@given(st.lists(plain | st.tuples(plain, plain, plain).map(list), max_size=3))
def test_any_messages_are_taken_or_refused_with_a_code(messages: list[object]) -> None:
    assert code_of("send", {"destination": "pi", "messages": messages}) in (None, "E_USAGE", "E_TOO_LARGE")


@given(plain)
def test_any_acknowledgement_is_taken_or_refused_with_a_code(value: object) -> None:
    for name in ("up_to", "ranges", "nack"):
        assert code_of("ack", {"subscription": 1, name: [value]}) in (None, "E_USAGE")


def test_errors_travel_whole_also_with_codes_of_a_later_version() -> None:
    for code in ("E_FULL", "E_OF_TOMORROW"):
        error = MeshdError(code, "What happened.", "What to do.")
        (item,) = protocol.FrameSplitter().feed(protocol.encode_error(9, error))
        request_id, kind, value = protocol.decode_reply(item)
        assert (request_id, kind) == (9, protocol.ERROR)
        assert (value.code, value.message, value.hint) == (code, "What happened.", "What to do.")


def test_version_mismatch_names_both_programs() -> None:
    with pytest.raises(MeshdError, match=r"meshd 9\.1 speaks version 2 .* client \(0\.1\) version 1") as caught:
        protocol.require_same_version(daemon=protocol.Hello(2, "9.1"), client=protocol.Hello(1, "0.1"))
    assert caught.value.code == "E_UNSUPPORTED"
    assert "the daemon is newer" in caught.value.message
    assert caught.value.hint == protocol.CLIENT_IS_OLDER
    with pytest.raises(MeshdError, match="the daemon is older") as caught:
        protocol.require_same_version(daemon=protocol.Hello(1, "0.1"), client=protocol.Hello(2, "0.2"))
    assert caught.value.hint == protocol.DAEMON_IS_OLDER


def test_what_is_left_out_is_filled_in() -> None:
    checked = check_arguments("send", {"destination": "pi", "messages": [b"x"]})
    assert checked == {
        "destination": "pi",
        "messages": (b"x",),
        "service": "default",
        "priority": Priority.NORMAL,
        "lifetime_ms": None,
        "ephemeral": False,
        "wait": "accepted",
        "key": None,
    }


SEND = {"destination": "pi", "messages": [b"x"]}
WRONG = [
    ("frobnicate", {}, "E_UNSUPPORTED", "frobnicate"),
    ("status", {"x": 1}, "E_USAGE", "unknown argument 'x'"),
    ("send", {"messages": [b"x"]}, "E_USAGE", "'destination' is missing"),
    ("send", {**SEND, "destination": "two words"}, "E_USAGE", "'destination'"),
    ("send", {**SEND, "service": "a/b"}, "E_USAGE", "'service'"),
    ("send", {**SEND, "priority": "urgent"}, "E_USAGE", "'priority'"),
    ("send", {**SEND, "wait": "read"}, "E_USAGE", "'wait'"),
    ("send", {**SEND, "lifetime_ms": 0}, "E_USAGE", "'lifetime_ms'"),
    ("send", {**SEND, "messages": []}, "E_USAGE", "'messages'"),
    ("send", {**SEND, "messages": ["text"]}, "E_USAGE", "bytes"),
    ("send", {**SEND, "messages": [b"x"] * 257}, "E_USAGE", "256"),
    ("send", {**SEND, "messages": [bytes(2**20 + 1)]}, "E_TOO_LARGE", "1048577"),
    ("send", {**SEND, "messages": [[b"", {"a": "b" * 2048}, None]]}, "E_TOO_LARGE", "Headers"),
    ("await", {"id": "nothing"}, "E_USAGE", "not a message id"),
    ("ack", {"subscription": 1, "ranges": [[2, 5, 4]]}, "E_USAGE", "begins after its end"),
    ("ack", {"subscription": 1, "nack": [[2, i, i] for i in range(1025)]}, "E_USAGE", "1024"),
    ("ack", {"subscription": 1, "ranges": [[i % 4, i, i] for i in range(4097)]}, "E_USAGE", "list of spans"),
    ("ack", {"subscription": 1, "up_to": [[4, 1]]}, "E_USAGE", "'up_to'"),
    ("credit", {"subscription": 1, "messages": 0}, "E_USAGE", "'messages'"),
    ("ping", {"destination": "pi", "timeout_s": float("nan")}, "E_USAGE", "'timeout_s'"),
    ("ping", {"destination": "pi", "timeout_s": 0}, "E_USAGE", "'timeout_s'"),
    ("ping", {"destination": "pi", "timeout_s": 3600.5}, "E_USAGE", "'timeout_s'"),
    ("invite", {"role": "king"}, "E_USAGE", "one of"),
    ("init", {"name": "  "}, "E_USAGE", "'name'"),
]


@pytest.mark.parametrize(("op", "arguments", "code", "words"), WRONG)
def test_wrong_arguments_are_named(op: str, arguments: dict[str, object], code: str, words: str) -> None:
    with pytest.raises(MeshdError) as caught:
        check_arguments(op, arguments)
    assert caught.value.code == code
    assert words in caught.value.message


def test_the_most_that_is_allowed_is_taken() -> None:
    spans = [[priority, i, i] for i in range(1024) for priority in range(4)]
    checked = check_arguments("ack", {"subscription": 1, "ranges": spans, "nack": spans})
    assert [len(of_one) for of_one in checked["ranges"].values()] == [1024] * 4
    assert check_arguments("ping", {"destination": "pi", "timeout_s": 3600})["timeout_s"] == 3600
    assert len(check_arguments("send", {**SEND, "messages": [b""] * 256})["messages"]) == 256
    assert check_arguments("send", {**SEND, "messages": [bytes(2**20)]})


def test_request_over_the_frame_limit_is_not_made() -> None:
    with pytest.raises(MeshdError) as caught:
        protocol.encode_request(1, "send", {"messages": [bytes(2**20)] * 2})
    assert caught.value.code == "E_TOO_LARGE"
