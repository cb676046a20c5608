"""What devices ask each other for people's sake: questions, answers, and the shapes of both. Pure.

They travel as the body of a ``Routed`` frame, so hops that know nothing of them pass them on. Whoever
does not know a topic says so: topics may be added without a new protocol version.
"""

import enum
from typing import Any

import attrs

from meshd.ids import BundleRef
from meshd.wire import codec
from meshd.wire.codec import Shape, array, blob, blob_up_to, converted, optional, record, text, uint

MAX_ANSWER_BYTES = 28 * 1024
MAX_TRACE_EVENTS = 128
"""In one answer; the newest are told."""

NONCE_SIZE = 8
_REF_SIZE = 10
_MAX_TOKEN = 2**53
_MAX_MS = 2**53


class Topic(enum.StrEnum):
    """What can be asked."""

    ABOUT = "about"
    TRACE = "trace"
    DIAL_BACK = "dial-back"
    MULTICAST = "multicast"


class Status(enum.IntEnum):
    """How a question was taken."""

    OK = 0
    UNKNOWN_TOPIC = 1
    BUSY = 2


@attrs.frozen
class Question:
    """``token`` is the asker's, and comes back with the answer. ``topic`` may be one that is not known here."""

    token: int
    topic: str
    argument: bytes


@attrs.frozen
class Answer:
    """The answer to the question of this token; ``value`` is encoded as the topic says, empty unless OK."""

    token: int
    status: int
    value: bytes


_question = record(Question, uint(_MAX_TOKEN), text(16), blob_up_to(1024))
_answer = record(Answer, uint(_MAX_TOKEN), uint(255), blob_up_to(MAX_ANSWER_BYTES))


def encode_question(question: Question) -> bytes:
    """The bytes of a question."""
    return codec.encode([question.token, question.topic, question.argument])


def decode_question(data: bytes) -> Question:
    """Raises RemoteProtocolError (``P_MALFORMED``)."""
    question: Question = codec.parse(data, _question)
    return question


def encode_answer(answer: Answer) -> bytes:
    """The bytes of an answer."""
    return codec.encode([answer.token, int(answer.status), answer.value])


def decode_answer(data: bytes) -> Answer:
    """Raises RemoteProtocolError (``P_MALFORMED``)."""
    answer: Answer = codec.parse(data, _answer)
    return answer


# --- about: who answers, for the doctor


@attrs.frozen
class About:
    """The answerer's program version, and its wall clock in ms since 1970: shown to people, trusted for nothing."""

    version: str
    wall_ms: int


# --- trace: what the answerer's journal holds of a bundle


@attrs.frozen
class TraceEvent:
    """One record, ``age_ms`` old by the answerer's own clock."""

    age_ms: int
    event: str
    reason: str | None
    detail: str | None


@attrs.frozen
class Trace:
    """``state`` is null for whoever is not the bundle's source."""

    state: str | None
    events: tuple[TraceEvent, ...]


# --- dial-back: the asker wants to be dialed where the answerer sees it


@attrs.frozen
class Ports:
    """Where the asker listens; null where it does not."""

    quic: int | None
    websocket: int | None


@attrs.frozen
class Dialed:
    """One address that was dialed, and why it failed (null: it did not)."""

    transport: str
    address: str
    error: str | None


# --- multicast: both send probes with a nonce, and listen for the other's


@attrs.frozen
class Heard:
    """The labels of the asker's probes that arrived, and the answerer's interfaces that it sent its own on."""

    labels: tuple[str, ...]
    sent_on: tuple[str, ...]


_port = optional(uint(65535, 1))
_ARGUMENTS: dict[Topic, Shape] = {
    Topic.ABOUT: record(lambda: None),
    Topic.TRACE: record(lambda ref: BundleRef(ref), blob(_REF_SIZE)),
    Topic.DIAL_BACK: record(Ports, _port, _port),
    Topic.MULTICAST: record(lambda nonce: nonce, blob(NONCE_SIZE)),
}
_VALUES: dict[Topic, Shape] = {
    Topic.ABOUT: record(About, text(64), uint(_MAX_MS)),
    Topic.TRACE: record(
        Trace,
        optional(text(32)),
        array(
            record(TraceEvent, uint(_MAX_MS), text(32), optional(text(64)), optional(text(200))),
            MAX_TRACE_EVENTS,
        ),
    ),
    Topic.DIAL_BACK: array(record(Dialed, text(16), text(80), optional(text(200))), 32),
    Topic.MULTICAST: record(Heard, array(text(64), 256), array(text(32), 64)),
}
known_topic = converted(text(16), Topic)
"""The topic of a question. Raises ShapeError when it is not known here."""


def encode_argument(*fields: Any) -> bytes:
    """A question's argument."""
    return codec.encode(list(fields))


def decode_argument(topic: Topic, data: bytes) -> Any:
    """A question's argument. Raises RemoteProtocolError (``P_MALFORMED``)."""
    return codec.parse(data, _ARGUMENTS[topic])


def encode_value(value: Any) -> bytes:
    """An answer's value: one of the classes above, or a tuple of them."""
    return codec.encode(_plain(value))


def decode_value(topic: Topic, data: bytes) -> Any:
    """An answer's value. Raises RemoteProtocolError (``P_MALFORMED``)."""
    return codec.parse(data, _VALUES[topic])


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if attrs.has(type(value)):
        return [_plain(getattr(value, field.name)) for field in attrs.fields(type(value))]
    return value
