"""Questions and answers between devices: whole, within their limits, or the sender's fault."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.ids import BundleRef
from meshd.wire import codec
from meshd.wire.inquiry import (
    MAX_ANSWER_BYTES,
    MAX_TRACE_EVENTS,
    About,
    Answer,
    Dialed,
    Heard,
    Ports,
    Question,
    Topic,
    Trace,
    TraceEvent,
    decode_answer,
    decode_argument,
    decode_question,
    decode_value,
    encode_answer,
    encode_argument,
    encode_question,
    encode_value,
)

EVENT = TraceEvent(2**53, "x" * 32, "x" * 64, "x" * 200)

VALUES: list[tuple[Topic, Any, list[Any]]] = [
    (Topic.ABOUT, About("x" * 64, 2**53), [About("x" * 65, 0), About("", 2**53 + 1), About("", -1)]),
    (
        Topic.TRACE,
        Trace("x" * 32, (EVENT,) * MAX_TRACE_EVENTS),
        [
            Trace("x" * 33, ()),
            Trace(None, (EVENT,) * (MAX_TRACE_EVENTS + 1)),
            Trace(None, (TraceEvent(2**53 + 1, "", None, None),)),
            Trace(None, (TraceEvent(0, "x" * 33, None, None),)),
            Trace(None, (TraceEvent(0, "", "x" * 65, None),)),
            Trace(None, (TraceEvent(0, "", None, "x" * 201),)),
        ],
    ),
    (
        Topic.DIAL_BACK,
        (Dialed("x" * 16, "x" * 80, "x" * 200),) * 32,
        [
            (Dialed("", "", None),) * 33,
            (Dialed("x" * 17, "", None),),
            (Dialed("", "x" * 81, None),),
            (Dialed("", "", "x" * 201),),
        ],
    ),
    (
        Topic.MULTICAST,
        Heard(("x" * 64,) * 256, ("x" * 32,) * 64),
        [Heard(("",) * 257, ()), Heard(("x" * 65,), ()), Heard((), ("",) * 65), Heard((), ("x" * 33,))],
    ),
]
ARGUMENTS: list[tuple[Topic, list[Any], Any, list[list[Any]]]] = [
    (Topic.ABOUT, [], None, [[1]]),
    (Topic.TRACE, [bytes(10)], BundleRef(bytes(10)), [[], [bytes(9)], [bytes(11)], ["x"]]),
    (Topic.DIAL_BACK, [65535, 1], Ports(65535, 1), [[0, None], [None, 65536], [True, None], [1]]),
    (Topic.MULTICAST, [bytes(8)], bytes(8), [[bytes(7)], [bytes(9)]]),
]


def is_refused(decode: Any, *arguments: Any) -> bool:
    with pytest.raises(RemoteProtocolError, match="P_MALFORMED"):
        decode(*arguments)
    return True


@pytest.mark.parametrize(("topic", "largest", "over"), VALUES, ids=[topic for topic, _, _ in VALUES])
def test_the_largest_value_comes_back_and_a_larger_one_is_refused(topic: Topic, largest: Any, over: list[Any]) -> None:
    assert decode_value(topic, encode_value(largest)) == largest
    assert all(is_refused(decode_value, topic, encode_value(value)) for value in over)


@pytest.mark.parametrize(("topic", "fields", "read", "wrong"), ARGUMENTS, ids=[row[0] for row in ARGUMENTS])
def test_arguments_are_read_as_their_topic_says(
    topic: Topic, fields: list[Any], read: Any, wrong: list[list[Any]]
) -> None:
    assert decode_argument(topic, encode_argument(*fields)) == read
    assert all(is_refused(decode_argument, topic, encode_argument(*others)) for others in wrong)


def test_questions_and_answers_have_limits() -> None:
    question = Question(2**53, "x" * 16, bytes(1024))
    assert decode_question(encode_question(question)) == question
    for over in (Question(2**53 + 1, "", b""), Question(0, "x" * 17, b""), Question(0, "", bytes(1025))):
        assert is_refused(decode_question, encode_question(over))
    answer = Answer(2**53, 255, bytes(MAX_ANSWER_BYTES))
    assert decode_answer(encode_answer(answer)) == answer
    for too_much in (Answer(2**53 + 1, 0, b""), Answer(0, 256, b""), Answer(0, 0, bytes(MAX_ANSWER_BYTES + 1))):
        assert is_refused(decode_answer, encode_answer(too_much))


def test_the_largest_answer_fits_into_what_carries_it() -> None:
    usual = TraceEvent(2**53, "x" * 16, "x" * 16, "x" * 63)  # what is recorded has a device or a service for detail
    trace = Trace("x" * 32, (usual,) * (MAX_TRACE_EVENTS - 1) + (EVENT,))
    for value in (trace, *(value for topic, value, _ in VALUES if topic is not Topic.TRACE)):
        assert len(encode_value(value)) <= MAX_ANSWER_BYTES
    assert len(encode_answer(Answer(2**53, 255, bytes(MAX_ANSWER_BYTES)))) <= 32 * 1024


@given(st.sampled_from(Topic), st.binary(max_size=100))
def test_any_bytes_are_read_or_the_senders_fault(topic: Topic, data: bytes) -> None:
    for decode in (
        decode_question,
        decode_answer,
        lambda value: decode_value(topic, value),
        lambda value: decode_argument(topic, value),
    ):
        for raw in (data, codec.encode([data]), codec.encode([1, data])):
            with contextlib.suppress(RemoteProtocolError):
                decode(raw)
