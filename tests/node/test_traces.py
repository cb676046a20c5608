"""The life of a message as all devices tell it, also through hops; and who could not be asked."""

from typing import Any

import attrs
import pytest

from meshd.ids import BundleRef
from meshd.node.effects import Assist, InquiryEnded
from meshd.node.insight.inquiries import ANSWER_LABEL, QUESTION_LABEL, QUESTIONS_AT_ONCE, Assisted, Inquire
from meshd.node.requests import Failure, Query
from meshd.trust.seal import sign_blob
from meshd.wire.frames import MAX_HOPS, BundleFrame, Frame, Kind, Routed
from meshd.wire.inquiry import (
    Answer,
    Dialed,
    Ports,
    Question,
    Status,
    Topic,
    decode_answer,
    encode_answer,
    encode_argument,
    encode_question,
)
from tests.node.harness import Device, World


def chain(count: int) -> tuple[World, list[Device]]:
    """Devices in a row, each linked with the next."""
    world = World(count)
    for one, other in zip(world.devices, world.devices[1:], strict=False):
        world.connect(one, other)
    world.advance(1)
    return world, world.devices


def told(trace: dict[str, Any]) -> list[tuple[str, str]]:
    return [(event["device"], event["event"]) for event in trace["events"]]


def is_question(_: object, __: object, frame: Frame) -> bool:
    return isinstance(frame, Routed) and frame.kind == Kind.QUESTION


def test_every_device_on_the_way_tells_its_part() -> None:
    world, (a, b, c) = chain(3)
    [id] = a.result(a.send("d2", b"x"))["ids"]
    world.advance(1)
    c.read().ack()
    world.advance(1)
    for device in (a, b, c):
        trace = device.query("trace", id)
        assert (trace["id"], trace["state"], trace["unasked"]) == (id, "consumed", [])
        events = told(trace)
        assert events.index(("d0", "accepted")) < events.index(("d1", "custody")) < events.index(("d2", "arrived"))
        assert ("d1", "forwarded") in events
        assert events.index(("d2", "arrived")) < events.index(("d0", "consumed"))


def test_whoever_can_not_be_asked_is_named() -> None:
    world, (a, b, c) = chain(3)
    [id] = a.result(a.send("d2", b"x"))["ids"]
    world.advance(1)
    world.disconnect(b, c)
    world.advance(30)
    trace = a.query("trace", id)
    assert trace["unasked"] == [{"device": "d2", "reason": "there is no path to it now"}]
    assert {device for device, _ in told(trace)} == {"d0", "d1"}
    world.loses = is_question
    number = a.ask(Query, view="trace", argument=id)
    world.advance(2.9)
    assert a.replies(number) == []
    world.advance(0.2)
    assert {row["device"]: row["reason"] for row in a.result(number)["unasked"]} == {
        "d1": "no answer within 3 s",
        "d2": "there is no path to it now",
    }


def test_a_message_that_nobody_knows_is_unknown_and_that_some_were_not_asked_is_said() -> None:
    world, (a, b, _) = chain(3)
    unknown = "k3v7q2mxw5a4bd2f-0"
    number = a.ask(Query, view="trace", argument=unknown)
    assert a.code(number) == "E_UNKNOWN_MESSAGE"
    assert "No device of the mesh" in a.replies(number)[0].error.message  # type: ignore[union-attr]
    world.disconnect(a, b)
    number = a.ask(Query, view="trace", argument=unknown)
    [failure] = a.replies(number)
    assert isinstance(failure, Failure)
    pathless = "there is no path to it now"
    assert failure.error.message.endswith(f"not asked: d1 ({pathless}), d2 ({pathless}).")


def test_a_trace_days_later_and_after_a_restart() -> None:
    world, (a, _, c) = chain(3)
    [id] = a.result(a.send("d2", b"x"))["ids"]
    world.advance(3 * 86_400)
    c.crash()
    world.connect(world.devices[1], c)
    world.advance(1)
    assert ("d2", "arrived") in told(a.query("trace", id))


def test_who_asks_too_much_is_put_off_and_then_answered_again() -> None:
    world, (a, _) = chain(2)
    [id] = a.result(a.send("d1", b"x"))["ids"]
    world.flush()
    seen = [a.query("trace", id)["unasked"] for _ in range(QUESTIONS_AT_ONCE + 3)]
    assert seen[0] == []
    assert seen[-1] == [{"device": "d1", "reason": "it was asked too often"}]
    world.advance(2)
    assert a.query("trace", id)["unasked"] == []


def test_a_topic_of_a_later_version_is_refused_and_costs_nothing() -> None:
    world, (a, b) = chain(2)
    answers: list[Answer] = []

    def taken(_: Device, receiver: Device, frame: Frame) -> bool:
        if isinstance(frame, Routed) and frame.kind == Kind.ANSWER:
            answers.append(decode_answer(frame.body))
        return False

    world.loses = taken
    body = encode_question(Question(7, "weather", b""))
    world.inject(a, b, Routed(a.id, b.id, MAX_HOPS, Kind.QUESTION, body))
    assert answers == [Answer(7, Status.UNKNOWN_TOPIC, b"")]
    assert b.closed == []


@pytest.mark.parametrize(
    "body",
    [b"", b"\x80", encode_question(Question(7, "trace", b"")), encode_question(Question(7, "trace", b"\x81\x01"))],
)
def test_a_malformed_question_costs_its_neighbour_the_link(body: bytes) -> None:
    world, (a, b) = chain(2)
    world.inject(a, b, Routed(a.id, b.id, MAX_HOPS, Kind.QUESTION, body))
    assert [closed.code for closed in b.closed] == ["P_MALFORMED"]


def test_what_a_hop_forges_is_dropped_and_the_hop_keeps_its_link() -> None:
    world, (a, b, c) = chain(3)
    question = encode_question(Question(7, Topic.ABOUT, encode_argument()))
    for signer, addressee in ((b, c), (a, b)):  # not by a; by a, but for another
        body = sign_blob(signer.identity, QUESTION_LABEL, addressee.id + question)
        world.inject(b, c, Routed(a.id, c.id, MAX_HOPS, Kind.QUESTION, body))
    assert c.closed == []
    assert c.events().count("notice dropped") == 2


def test_answers_nobody_waits_for_and_answers_that_make_no_sense() -> None:
    world, (a, b) = chain(2)
    [id] = a.result(a.send("d1", b"x"))["ids"]
    world.flush()

    def garbled(sender: Device, receiver: Device, frame: Frame) -> bool:
        if not (isinstance(frame, Routed) and frame.kind == Kind.ANSWER and sender is b):
            return False
        token = decode_answer(frame.body).token
        world.loses = lambda *_: False
        for value in (b"\x80", b"\x80"):
            body = encode_answer(Answer(token, Status.OK, value))
            world.carry(b, b.links[a.id], attrs.evolve(frame, body=body))
        return True

    world.loses = garbled
    assert a.query("trace", id)["unasked"] == [{"device": "d1", "reason": "its answer made no sense here"}]
    assert a.closed == []


def test_the_loop_asks_and_helps() -> None:
    world, (a, b, c) = chain(3)
    argument = encode_argument(7843, None)
    a.inbox.append(Inquire(ticket=5, topic=Topic.DIAL_BACK, argument=argument, nodes=(b.id, c.id), within_s=4.0))
    world.pump()
    [assist] = [effect for effect in b.other if isinstance(effect, Assist)]
    assert (assist.source, assist.topic, assist.argument) == (a.id, Topic.DIAL_BACK, Ports(7843, None))
    assert assist.remote is not None
    dialed = (Dialed("quic", "quic://192.0.2.1:7843", "no answer"),)
    b.inbox.append(Assisted(a.id, assist.token, dialed))
    [assist] = [effect for effect in c.other if isinstance(effect, Assist)]
    assert assist.remote is None, "it is asked by way of another"
    c.inbox.append(Assisted(a.id, assist.token, None))
    world.pump()
    assert [effect for effect in a.other if isinstance(effect, InquiryEnded)] == [
        InquiryEnded(5, {b.id: dialed}, {b.id: 0.0, c.id: 0.0}, {c.id: "it was asked too often"})
    ]


def test_labels_differ_so_that_no_answer_can_pass_for_a_question() -> None:
    assert QUESTION_LABEL != ANSWER_LABEL
    assert BundleRef(b"x" * 10)


def test_what_waits_says_why_and_what_left_says_where_to() -> None:
    world, (a, b, _) = chain(3)
    [id] = a.result(a.send("d2", b"x"))["ids"]
    events = {event["event"]: event for event in a.query("trace", id)["events"] if event["device"] == "d0"}
    assert events["sent"]["detail"] == "d1 over memory"
    assert "waiting" not in events, "it has arrived"
    world.disconnect(a, b)
    world.advance(5)
    [id] = a.result(a.send("d2", b"y"))["ids"]
    last = a.query("trace", id)["events"][-1]
    assert (last["event"], last["device"], last["reason"], last["detail"]) == ("waiting", "d0", "no-path", "for d2")


def waits(trace: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (event["device"], event["reason"], event["detail"]) for event in trace["events"] if event["event"] == "waiting"
    ]


def test_it_is_told_who_has_not_read_it() -> None:
    world, (a, b, c) = chain(3)
    early = c.read("lights", "early")
    [id] = a.result(a.send("d2", b"x", b"y", service="lights"))["ids"][:1]
    world.advance(1)
    late = c.read("lights", "late")
    assert waits(a.query("trace", id)) == waits(c.query("trace", id)) == [("d2", "not-read", "lights by early")]
    assert waits(b.query("trace", id)) == []  # no business of a hop's
    early.ack()
    world.advance(1)
    trace = a.query("trace", id)
    assert (trace["state"], waits(trace)) == ("consumed", [])
    [id] = a.result(a.send("d2", b"z", service="lights"))["ids"]
    world.advance(1)
    assert waits(a.query("trace", id)) == [("d2", "not-read", "lights by early, late")]
    late.ack()
    world.advance(1)
    c.crash()
    world.connect(b, c)
    world.advance(1)
    assert waits(a.query("trace", id)) == [("d2", "not-read", "lights by early")]


def test_it_is_told_that_nobody_reads_there() -> None:
    world, (a, _, c) = chain(3)
    [id] = a.result(a.send("d2", b"x"))["ids"]
    [own] = c.result(c.send("d2", b"y", service="notes"))["ids"]
    world.advance(1)
    assert waits(a.query("trace", id)) == [("d2", "no-reader", "box")]
    assert waits(c.query("trace", own)) == [("d2", "no-reader", "notes")]
    c.read()  # has it, and does not say that it is done with it
    assert waits(a.query("trace", id)) == [("d2", "not-read", "box by default")]


def test_what_is_read_while_it_is_asked_about_waits_for_nobody() -> None:
    world, (_, _, c) = chain(3)
    reader = c.read("notes")
    [own] = c.result(c.send("d2", b"y", service="notes"))["ids"]
    c.is_store_held = True
    asked = c.ask(Query, view="trace", argument=own)
    reader.ack()  # on disk only after what was asked has been read there
    c.is_store_held = False
    world.advance(1)
    assert waits(c.result(asked)) == []


def test_it_is_told_that_earlier_mail_comes_first() -> None:
    world, (a, b) = chain(2)
    reader = b.read()
    lost: list[Frame] = []

    def loses(_: Device, __: Device, frame: Frame) -> bool:
        if isinstance(frame, BundleFrame) and not lost:
            lost.append(frame)
            return True
        return False

    world.loses = loses
    a.send("d1", b"lost")
    [id] = a.result(a.send("d1", b"x"))["ids"]
    assert reader.payloads == []
    assert waits(a.query("trace", id)) == [("d1", "out-of-order", "box")]
    world.advance(30)
    assert reader.payloads == [b"lost", b"x"]
    assert waits(a.query("trace", id)) == [("d1", "not-read", "box by default")]
