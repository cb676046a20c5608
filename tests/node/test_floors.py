"""What will not come holds nothing up: the origin says so, and says it again when it can say more."""

import pytest

from meshd.delivery.outbox import FLOOR_LABEL, encode_floor
from meshd.ids import Priority
from meshd.node.step import UPKEEP_INTERVAL_S
from meshd.store.ops import PutSpool
from meshd.trust.seal import sign_blob
from meshd.wire.frames import MAX_HOPS, BundleFrame, Frame, Kind, Routed
from tests.node.harness import Device, World


def test_what_expired_at_the_origin_ends_the_wait_for_it() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    reader = b.read()
    a.send("d1", b"0")
    lost = iter([True])
    world.loses = lambda _, __, frame: isinstance(frame, BundleFrame) and next(lost, False)
    first = a.send("d1", b"1", lifetime_ms=1000, wait="consumed")
    a.send("d1", b"2")
    assert reader.payloads == [b"0"]
    world.advance(1.5)
    assert a.code(first) == "E_EXPIRED"
    assert reader.payloads == [b"0", b"2"]
    assert [message.missing for message in reader.messages] == [None, {"bundles": None, "reason": "expired"}]


def test_a_burnt_number_holds_nothing_up_even_when_older_mail_still_waits() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    reader = b.read()
    lost: list[int] = []

    def loses(_: object, __: object, frame: object) -> bool:
        if not isinstance(frame, BundleFrame):
            return False
        lost.append(len(lost))
        return lost[-1] in (0, 1)

    world.loses = loses
    a.send("d1", b"older", service="other")
    a.fails = lambda commit: any(isinstance(op, PutSpool) for op in commit.ops)
    refused = a.send("d1", b"x" * 60_000, b"y" * 60_000)
    a.fails = lambda _: False
    assert a.code(refused) == "E_FULL"
    world.advance(30)  # the older one is sent again, and finished
    assert reader.payloads == [b"y" * 60_000]  # it was forwarded while the commit ran: unknown, never refused


@pytest.mark.parametrize("own", [False, True])
def test_what_was_consumed_is_not_told_refused_by_a_life_that_does_not_know_its_end(own: bool) -> None:
    world = World()
    a, b = world.devices
    to = a if own else b
    a.is_store_held = True
    sent = a.send(to.name, b"x")
    a.run_store(1)
    world.pump()
    [id] = a.result(sent)["ids"]
    a.crash()  # it has not left yet
    a.is_store_held = False
    a.fails = lambda commit: not commit.urgent  # ends are written with what comes next, and nothing comes
    reader = to.read()
    world.connect(a, b)
    world.pump()
    assert reader.payloads == [b"x"]
    reader.ack()
    a.crash()
    a.fails = lambda _: False
    world.connect(a, b)
    world.advance(60)
    assert to.read().payloads == []
    assert a.query("trace", id)["state"] == "consumed"
    assert a.query("queue") == []


def test_a_floor_that_came_through_others_is_answered_even_when_it_is_no_news() -> None:
    world = World(3)
    a, hop, c = world.devices
    world.connect(a, hop)
    world.connect(hop, c)
    world.advance(10)
    a.send("d2", b"x")
    world.loses = lambda sender, _, frame: sender is hop and isinstance(frame, Routed) and frame.kind is Kind.RECEIPT
    a.send("d2", b"y")
    [queue] = [queue for queue in a.node.spool.queues_for(c.id) if queue.rows]
    floors = [Routed(a.id, c.id, MAX_HOPS, Kind.FLOOR, floor_of(a, c))] * 2
    world.inject(hop, c, floors[0])
    assert queue.rows == 1
    world.loses = lambda *_: False
    world.inject(hop, c, floors[1])
    assert queue.rows == 0


def floor_of(source: Device, destination: Device) -> bytes:
    """What ``source`` tells by others of mail with normal priority."""
    floor = source.node.spool.floor(destination.id, Priority.NORMAL)
    assert floor is not None
    return sign_blob(source.identity, FLOOR_LABEL, destination.id + encode_floor(Priority.NORMAL, floor))


def test_word_of_reading_that_a_hop_lost_is_asked_for() -> None:
    world = World(3)
    a, b, c = world.devices
    world.connect(a, b)
    world.connect(b, c)
    world.advance(5)
    reader = c.read()
    sent = a.send("d2", b"0", wait="consumed")
    world.advance(1)
    lost: list[Routed] = []
    asked: list[Routed] = []

    def loses(_: Device, receiver: Device, frame: Frame) -> bool:
        if not isinstance(frame, Routed):
            return False
        if receiver is c and frame.kind is Kind.FLOOR:
            asked.append(frame)
        if receiver is a and frame.kind is Kind.RECEIPT and not lost:
            lost.append(frame)
            return True
        return False

    world.loses = loses
    reader.ack()
    world.advance(60)
    assert (len(lost), len(asked), a.replies(sent)) == (1, 0, [])
    world.advance(UPKEEP_INTERVAL_S)
    assert a.result(sent)["state"] == "consumed"
    world.advance(3 * UPKEEP_INTERVAL_S)
    assert len(asked) == 1  # what is known is not asked for
