"""From one app to another, through two nodes, with everything that can come in between."""

from collections import deque

import attrs
import pytest

from meshd.delivery.mailbox import MAX_RUN
from meshd.delivery.sessions import HELD_BYTES
from meshd.ids import Priority
from meshd.links.events import FramesReceived
from meshd.node.epochs import next_epoch
from meshd.node.requests import Acknowledge, AddCredit, Remove
from meshd.store.ops import PutInbox
from meshd.wire import codec
from meshd.wire.bundle import decode_head, encode_head
from meshd.wire.frames import Ack, BundleFrame, Kind, Part, Routed
from tests.node.harness import Device, World


def linked() -> tuple[World, Device, Device]:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    return world, a, b


def is_bundle(_: object, __: object, frame: object) -> bool:
    return isinstance(frame, BundleFrame)


def usage(device: Device, source: Device) -> int:
    return device.node._mail.arriving._usage[source.id]


def test_every_stage_is_told() -> None:
    world, a, b = linked()
    world.disconnect(a, b)
    ids = a.result(a.send("d1", b"one", b"two"))["ids"]
    waiting = {state: a.wait_for(ids[1], state) for state in ("accepted", "sent", "delivered", "consumed")}
    assert a.result(waiting["accepted"]) == {"id": ids[1], "state": "accepted"}
    assert a.query("trace", ids[1])["state"] == "accepted"
    world.holds = is_bundle
    world.connect(a, b)
    assert a.result(waiting["sent"])["state"] == "sent"
    assert a.query("trace", ids[1])["state"] == "sent"
    world.release()
    assert a.result(waiting["delivered"])["state"] == "delivered"
    assert a.query("trace", ids[1])["state"] == "delivered"
    assert a.replies(waiting["consumed"]) == []
    assert [b.query("trace", id)["state"] for id in ids] == ["delivered", "delivered"], "as the sender says"
    b.read().ack()
    assert a.result(waiting["consumed"])["state"] == "consumed"
    assert a.query("trace", ids[1])["state"] == "consumed"
    events = [event["event"] for event in a.query("trace", ids[0])["events"] if event["device"] == "d0"]
    assert events == ["accepted", "sent", "delivered", "consumed"]


@pytest.mark.parametrize("state", ["accepted", "sent", "delivered", "consumed"])
def test_a_state_that_was_reached_long_ago_is_told_at_once(state: str) -> None:
    world, a, b = linked()
    [id] = a.result(a.send("d1", b"x"))["ids"]
    b.read().ack()
    world.advance(1)
    a.crash()
    assert a.result(a.wait_for(id, state)) == {"id": id, "state": state}


def test_an_unknown_message_is_said_to_be_one() -> None:
    _, a, _ = linked()
    [id] = a.result(a.send("d1", b"x"))["ids"]
    assert a.code(a.wait_for(id[:-1] + "1", "sent")) == "E_UNKNOWN_MESSAGE"
    assert a.code(a.wait_for("a" * 16 + "-0", "sent")) == "E_UNKNOWN_MESSAGE"


def test_receipts_come_only_after_the_destinations_commit() -> None:
    world, a, b = linked()
    b.is_store_held = True
    sent = a.send("d1", b"x", wait="delivered")
    assert a.replies(sent) == []
    b.is_store_held = False
    world.pump()
    assert a.result(sent)["state"] == "delivered"


def test_a_crash_of_the_destination_before_its_commit_loses_nothing() -> None:
    world, a, b = linked()
    b.is_store_held = True
    a.send("d1", b"x")
    b.crash()
    b.is_store_held = False
    reader = b.read()
    world.connect(a, b)
    assert reader.payloads == [b"x"]


def test_a_failed_commit_at_the_destination_ends_its_life_and_loses_nothing() -> None:
    world, a, b = linked()
    b.fails = lambda commit: any(isinstance(op, PutInbox) for op in commit.ops)
    sent = a.send("d1", b"x", wait="delivered")
    assert b.failed is not None
    assert a.replies(sent) == []
    b.fails = lambda _: False
    b.crash()
    world.connect(a, b)
    assert a.result(sent)["state"] == "delivered"
    assert b.read().payloads == [b"x"]


def test_a_duplicate_is_receipted_again_and_delivered_once() -> None:
    world, a, b = linked()
    world.advance(1)  # routes are told
    world.loses = lambda sender, _, frame: sender is b and isinstance(frame, Routed | Ack)
    sent = a.send("d1", b"x", wait="delivered")
    world.loses = lambda *_: False
    assert a.replies(sent) == []
    world.advance(6)  # overdue: sent again
    assert a.result(sent)["state"] == "delivered"
    assert b.read().payloads == [b"x"]
    assert "receipt overdue" in a.events()


def test_what_was_in_flight_on_a_link_that_broke_goes_over_the_next_one_in_order() -> None:
    world, a, b = linked()
    world.loses = is_bundle
    for i in range(5):
        a.send("d1", b"%d" % i)
    world.loses = lambda *_: False
    world.disconnect(a, b)
    world.connect(b, a)
    assert b.read().payloads == [b"%d" % i for i in range(5)]


def test_mail_accepted_before_the_other_was_ever_seen_is_sealed_later() -> None:
    world = World()
    a, b = world.devices
    sent = a.send("d1", b"x", wait="sent")
    assert a.query("queue")[0]["reason"] == "no-path"
    a.crash()
    world.connect(a, b)
    assert b.read().payloads == [b"x"]
    assert a.replies(sent) == []  # its client was gone


def test_what_waits_on_disk_is_never_declared_finished_by_what_overtakes_it() -> None:
    world, a, b = linked()
    world.disconnect(a, b)
    a.send("d1", b"first")
    a.send("d1", b"second")
    lost = iter([True])
    world.loses = lambda _, __, frame: isinstance(frame, BundleFrame) and next(lost, False)
    world.connect(a, b)
    reader = b.read()
    world.advance(60)
    assert reader.payloads == [b"first", b"second"]


def test_higher_priorities_overtake_and_order_holds_within_each() -> None:
    world, a, b = linked()
    world.disconnect(a, b)
    for i in range(3):
        for priority in (Priority.BULK, Priority.CRITICAL):
            a.send("d1", b"%d" % i, priority=priority)
    world.connect(a, b)
    got = [(message.priority, message.payload) for message in b.read().messages]
    assert got == [(priority, b"%d" % i) for priority in (Priority.CRITICAL, Priority.BULK) for i in range(3)]


def test_arrivals_out_of_order_are_released_in_order() -> None:
    world, a, b = linked()
    reader = b.read()
    world.holds = is_bundle
    for i in range(4):
        a.send("d1", b"%d" % i)
    world.held = deque(reversed(world.held))
    world.release()
    assert reader.payloads == [b"0", b"1", b"2", b"3"]
    reader.ack()
    world.advance(1)
    assert usage(b, a) == 0


def test_a_wait_for_what_never_comes_ends_by_itself_and_says_so() -> None:
    world, a, b = linked()
    reader = b.read()
    a.send("d1", b"0")
    world.loses = is_bundle
    a.send("d1", b"lost", lifetime_ms=3_600_000)
    world.loses = lambda *_: False
    a.send("d1", b"2", lifetime_ms=4_000)
    world.disconnect(a, b)  # nobody can say that it will not come
    world.advance(3.1)
    assert reader.payloads == [b"0", b"2"]
    assert reader.messages[1].missing == {"bundles": None, "reason": "waited"}
    world.connect(a, b)
    assert reader.payloads == [b"0", b"2", b"lost"]
    assert [message.late for message in reader.messages] == [False, False, True]


def test_a_wait_for_what_a_removed_device_still_has_ends_with_its_removal() -> None:
    world = World(3)
    admin, a, b = world.devices
    world.connect(a, b)
    reader = b.read()
    world.loses = is_bundle
    a.send("d2", b"lost")
    world.loses = lambda *_: False
    a.send("d2", b"1")
    assert (reader.payloads, usage(b, a) > 0) == ([], True)
    admin.ask(Remove, device="d1")
    world.connect(admin, b)
    assert reader.payloads == [b"1"]
    assert reader.messages[0].missing == {"bundles": None, "reason": "waited"}
    reader.ack()
    world.advance(1)
    assert usage(b, a) == 0


def test_what_is_refused_does_not_hold_up_what_follows() -> None:
    world, a, b = linked()
    reader = b.read()
    a.send("d1", b"0")
    world.loses = is_bundle
    refused = a.send("d1", b"x", wait="delivered")
    a.send("d1", b"y")
    world.loses = lambda *_: False
    x, y = world.bundles[-2:]
    world.inject(a, b, y)
    assert reader.payloads == [b"0"]
    world.inject(a, b, attrs.evolve(x, age_ms=10**12))
    assert reader.payloads == [b"0", b"y"]
    assert reader.messages[1].missing == {"bundles": None, "reason": "refused"}
    assert a.code(refused) == "E_REFUSED"


class TestExpiry:
    def test_unsent_mail_expires_and_is_counted_down_once(self) -> None:
        world = World()
        a, b = world.devices
        sent = a.send("d1", b"x", lifetime_ms=3_000, wait="delivered")
        world.advance(4)
        assert a.code(sent) == "E_EXPIRED"
        assert a.query("queue") == []
        world.connect(a, b)
        assert b.read().payloads == []

    def test_an_expired_backlog_is_not_sent_over_a_link_that_comes_up_then(self) -> None:
        world, a, b = linked()
        world.disconnect(a, b)
        a.send("d1", b"x", lifetime_ms=3_000)
        a.send("d1", b"y")
        world.now += 10
        world.connect(a, b)
        world.advance(20)
        assert b.read().payloads == [b"y"]
        assert (a.node.spool.messages, a.node.spool.size_bytes) == (0, 0)

    def test_a_receipt_that_comes_while_the_disk_is_asked_for_the_expired(self) -> None:
        world, a, _ = linked()
        world.holds = is_bundle
        sent = a.send("d1", b"x", lifetime_ms=3_000, wait="delivered")
        world.now += 3.5
        a.is_store_held = True
        a.step()
        a.run_store(len(a.store))
        answers, a.inbox = a.inbox, deque()
        world.release()  # to its destination it is 0 s old
        a.inbox.extend(answers)
        a.is_store_held = False
        world.pump()
        assert (a.node.spool.messages, a.node.spool.size_bytes) == (0, 0)
        assert a.result(sent)["state"] == "delivered"

    def test_an_ack_that_comes_while_the_disk_is_asked_for_the_expired(self) -> None:
        world, a, b = linked()
        [id] = a.result(a.send("d1", b"x", lifetime_ms=5_000))["ids"]
        reader = b.read()
        world.now += 6
        b.is_store_held = True
        b.step()
        b.run_store(len(b.store))
        answers, b.inbox = b.inbox, deque()
        reader.ack()
        b.inbox.extend(answers)
        b.is_store_held = False
        world.pump()
        assert usage(b, a) == 0
        assert a.query("trace", id)["state"] == "consumed"

    def test_unread_mail_expires_at_its_destination_and_its_sender_hears_of_it(self) -> None:
        world, a, b = linked()
        sent = a.send("d1", b"x", lifetime_ms=5_000, wait="consumed")
        world.advance(10)
        assert a.code(sent) == "E_EXPIRED"
        assert b.read().payloads == []
        assert "mail expired unread" in b.events()

    def test_mail_that_expired_unread_never_shows_as_consumed(self) -> None:
        world, a, b = linked()
        [id] = a.result(a.send("d1", b"x", lifetime_ms=5_000))["ids"]
        world.pump()
        assert a.query("trace", id)["state"] == "delivered"
        world.advance(10)
        assert a.query("trace", id)["state"] == "expired"
        reader = b.read()
        a.send("d1", b"y")  # brings the floor, below which receipts tell no refusals
        world.pump()
        reader.ack()
        world.pump()
        assert a.query("trace", id)["state"] == "expired"
        assert a.code(a.wait_for(id, "consumed")) == "E_EXPIRED"

    def test_its_sender_hears_of_it_even_if_it_started_again_before(self) -> None:
        world, a, b = linked()
        [id] = a.result(a.send("d1", b"x", lifetime_ms=5_000))["ids"]
        world.pump()
        world.disconnect(a, b)
        world.advance(10)  # b writes it down, and nobody hears
        a.crash()
        a.start()
        a.send("d1", b"y")  # in a later epoch: brings a floor above all that went before
        world.loses = lambda _, __, frame: isinstance(frame, Routed) and frame.kind is Kind.RECEIPT
        world.connect(a, b)
        world.disconnect(a, b)
        world.loses = lambda *_: False
        world.connect(a, b)
        world.advance(1)
        assert a.query("trace", id)["state"] == "expired"
        assert a.code(a.wait_for(id, "consumed")) == "E_EXPIRED"

    def test_unread_mail_that_expired_takes_no_quota(self) -> None:
        world, a, b = linked()
        a.send("d1", b"x" * 1000, lifetime_ms=5_000)
        world.advance(10)
        assert usage(b, a) == 0


class TestConsumed:
    def test_behind_a_service_that_nobody_reads(self) -> None:
        world, a, b = linked()
        for _ in range(100):
            a.send("d1", b"x", service="slow")
        sent = a.send("d1", b"y", service="quick", wait="consumed")
        b.read("quick").ack()
        world.advance(1)
        assert a.result(sent)["state"] == "consumed"

    def test_in_an_epoch_that_receipts_leave_out(self) -> None:
        world, a, b = linked()
        [id] = a.result(a.send("d1", b"old"))["ids"]
        world.advance(1)
        a.crash()
        world.connect(a, b)
        waiting = a.wait_for(id, "consumed")
        a.send("d1", b"new")  # its floor is in the new epoch
        b.read().ack()
        world.advance(1)
        assert a.query("trace", id)["state"] == "consumed"
        assert a.result(waiting)["state"] == "consumed"


class TestCredit:
    def test_a_reader_gets_no_more_than_it_is_ready_for(self) -> None:
        _, a, b = linked()
        for i in range(5):
            a.send("d1", b"%d" % i)
        reader = b.read(credit=2)
        assert reader.payloads == [b"0", b"1"]
        b.ask(AddCredit, subscription=reader.number, messages=1)
        assert reader.payloads == [b"0", b"1", b"2"]

    def test_a_service_that_nobody_reads_slows_its_sender_and_nobody_else(self) -> None:
        world = World(quota_bytes=300_000)
        a, b = world.devices
        world.connect(a, b)
        for _ in range(8):
            a.send("d1", world.rng.randbytes(60_000))
        world.advance(30)
        assert usage(b, a) < 400_000
        assert a.query("queue") != []
        reader = b.read()
        for _ in range(8):
            reader.ack()
            world.advance(30)
        assert len(reader.payloads) == 8
        assert a.query("queue") == []


class TestReaders:
    def test_what_is_acked_never_comes_again_and_the_rest_does(self) -> None:
        _, a, b = linked()
        for i in range(4):
            a.send("d1", b"%d" % i)
        reader = b.read()
        second = reader.messages[1]
        up_to = {int(second.priority): second.offset}
        b.ask(Acknowledge, subscription=reader.number, up_to=up_to, ranges={}, nack={})
        b.crash()
        again = b.read()
        assert again.payloads == [b"2", b"3"]
        assert all(message.redelivered for message in again.messages)

    def test_no_offset_is_given_twice_where_lives_are_no_longer_counted(self) -> None:
        world, a, b = linked()
        _, fact = next_epoch(b.database.snapshot(), world.rng)
        random_part = codec.decode(fact.value)[1]
        b.database.apply([(0, [attrs.evolve(fact, value=codec.encode([MAX_RUN, random_part]))])], world.now_ms)
        b.crash()
        world.connect(a, b)
        a.send("d1", b"1")
        a.send("d1", b"2", ephemeral=True)  # it takes an offset, and leaves a hole
        a.send("d1", b"3")
        b.crash()
        world.connect(a, b)
        a.send("d1", b"4")
        reader = b.read()
        assert reader.payloads == [b"1", b"3", b"4"]
        assert len({message.offset for message in reader.messages}) == 3

    def test_one_client_at_a_time_reads_as_a_consumer(self) -> None:
        _, _, b = linked()
        reader = b.read()
        assert b.code(b.read().number) == "E_LEASED"
        b.cancel(reader.number)
        assert b.result(reader.number) == {}
        assert b.replies(b.read().number) == []

    def test_a_client_that_is_gone_gives_up_its_lease(self) -> None:
        _, a, b = linked()
        b.read()
        b.disconnect_client()
        a.send("d1", b"x")
        assert b.read().payloads == [b"x"]

    def test_an_ack_without_a_subscription_is_a_mistake(self) -> None:
        _, _, b = linked()
        assert b.code(b.ask(Acknowledge, subscription=99, up_to={}, ranges={}, nack={})) == "E_USAGE"


class TestHostileNeighbours:
    def test_an_unauthentic_bundle_costs_the_bundle_not_the_link(self) -> None:
        world, a, b = linked()
        a.send("d1", b"x")
        [frame] = world.bundles
        head = attrs.evolve(decode_head(frame.head), number=attrs.evolve(decode_head(frame.head).number, sequence=7))
        world.inject(a, b, attrs.evolve(frame, head=encode_head(head)))
        assert b.closed == []
        assert "bundle not authentic" in b.events()
        a.send("d1", b"y")
        assert b.read().payloads == [b"x", b"y"]

    @pytest.mark.parametrize(
        "change", [{"head": b"\x80"}, {"body": b"short"}, {"total": 5}], ids=["head", "body", "total"]
    )
    def test_a_malformed_bundle_costs_the_link(self, change: dict[str, object]) -> None:
        world, a, b = linked()
        a.send("d1", b"x")
        world.inject(a, b, attrs.evolve(world.bundles[-1], **change))
        assert [close.code in ("P_MALFORMED", "P_BUNDLE") for close in b.closed] == [True]
        world.connect(a, b)
        assert a.result(a.send("d1", b"y", wait="delivered"))["state"] == "delivered"

    def test_a_frame_that_has_no_place_on_a_live_link_costs_it(self) -> None:
        world, a, b = linked()
        world.inject(a, b, Part(b"x"))
        assert [close.code for close in b.closed] == ["P_UNEXPECTED"]

    def test_a_forged_notice_passed_on_costs_nobody_a_link(self) -> None:
        world = World(3)
        a, b, c = world.devices
        world.connect(a, b)
        world.connect(c, b)
        kinds = (Kind.RECEIPT, Kind.FLOOR, Kind.OFFER, Kind.NEED_OFFER, Kind.STALE_EPOCH)
        for kind in kinds:
            for body in (b"", bytes(100), b"\x80" * 80):
                world.inject(c, b, Routed(a.id, b.id, 3, kind, body))
        assert b.closed == []

    def test_bundles_of_unknown_sessions_are_held_in_bounds_even_when_they_are_empty(self) -> None:
        world, a, b = linked()
        a.send("d1", b"x")
        head = decode_head(world.bundles[-1].head)
        number = attrs.evolve(head.number, sequence=99)
        for i in range(4200):
            forged = attrs.evolve(head, session=i.to_bytes(16, "big"), size=0, number=number)
            b.inbox.append(FramesReceived(b.links[a.id], (BundleFrame(16, 0, 0, encode_head(forged), b"", 0),)))
        b.node.step(b.inbox, world.now)
        b.inbox.clear()
        sessions = b.node._mail.arriving.opening._sessions
        assert len(sessions._held) == len(sessions._asked) <= 4096


def test_a_restart_of_both_in_the_middle_of_a_stream() -> None:
    world, a, b = linked()
    for i in range(10):
        a.send("d1", b"%d" % i)
        if i == 3:
            a.crash()
        if i == 6:
            b.crash()
        if i in (4, 8):
            world.connect(a, b)
    reader = b.read()
    assert reader.payloads == [b"%d" % i for i in range(10)]


@pytest.mark.parametrize("is_above", [False, True])
def test_of_two_lives_with_one_counter_the_later_one_is_heard(is_above: bool) -> None:
    world, a, b = linked()
    disk = b.image()
    b.crash()
    world.connect(b, a)
    reader = b.read()
    for i in range(8):
        a.send("d1", b"%d" % i)
        reader.ack()
    earlier = b.node.epoch
    b.crash(disk=disk)
    while (b.node.epoch > earlier) is not is_above:
        b.crash(disk=disk)
    assert b.node.epoch.counter == earlier.counter
    world.connect(b, a)
    sent = a.send("d1", b"again", wait="consumed")
    b.read().ack()
    world.advance(1)
    assert a.result(sent)["state"] == "consumed"
    assert "this device's state is older than its peers remember" in b.events()


def held_unopened(device: Device) -> object:
    return device.node._mail.arriving.opening._sessions._held


def without_offers(_: object, __: object, frame: object) -> bool:
    return isinstance(frame, Routed) and frame.kind is Kind.OFFER


def test_what_is_held_unopened_ends_when_its_source_says_that_it_is_finished() -> None:
    world, a, b = linked()
    world.loses = without_offers
    a.is_store_held = True  # it leaves before it is on disk, and is lost there
    a.send("d1", b"never accepted")
    world.pump()
    assert held_unopened(b)
    a.crash()
    a.is_store_held = False
    a.start()
    world.loses = lambda *_: False
    world.connect(a, b)
    a.send("d1", b"later")
    world.advance(1)
    assert not held_unopened(b)
    assert b.read().payloads == [b"later"]


def test_what_is_held_unopened_ends_with_its_lifetime() -> None:
    world, a, b = linked()
    world.loses = without_offers
    a.send("d1", b"x", lifetime_ms=20_000)
    world.advance(10)
    assert held_unopened(b)
    world.advance(15)
    assert not held_unopened(b)


def test_whoever_handed_over_what_ended_unopened_has_room_for_more_again() -> None:
    world, a, b = linked()
    world.loses = without_offers
    a.send("d1", bytes(10_000), lifetime_ms=4_000)
    link = a.node.peers.link_to(b.id)
    assert link is not None
    assert link.unacked_bytes > 0
    world.advance(6)
    assert not held_unopened(b)
    assert (link.unacked, link.unacked_bytes) == ({}, 0)


def test_what_there_is_no_room_to_hold_unopened_is_sent_again() -> None:
    world, a, b = linked()
    reader = b.read()
    world.loses = without_offers
    a.send("d1", b"evicted")
    b.node._mail.arriving.opening._sessions._held_bytes += HELD_BYTES  # as if others' mail had come
    a.send("d1", b"too much")
    assert not held_unopened(b)
    b.node._mail.arriving.opening._sessions._held_bytes -= HELD_BYTES
    [row] = a.query("queue")
    assert row["reason"] == "busy"
    world.loses = lambda *_: False
    world.advance(12)
    assert reader.payloads == [b"evicted", b"too much"]


def test_a_lost_receipt_that_tells_of_room_again_is_asked_for() -> None:
    world = World(2, quota_bytes=200_000)
    a, b = world.devices
    world.connect(a, b)
    for i in range(5):
        a.send("d1", bytes([i]) + bytes(60_000))
    assert {queue.credit_bytes for queue in a.node.spool.queues_for(b.id)} == {0}
    waiting = a.node.spool.messages
    assert waiting > 0
    world.advance(600)  # it asks at longer and longer intervals, and is told the same
    assert a.node.spool.messages == waiting
    assert [view["reason"] for view in a.query("queue")] == ["credit"]
    world.loses = lambda sender, _, frame: sender is b and isinstance(frame, Routed)
    reader = b.read()
    reader.ack()
    world.flush()
    world.loses = lambda *_: False
    assert len(reader.payloads) == 5 - waiting
    world.advance(3600)
    reader.ack()
    world.advance(60)
    assert len(reader.payloads) == 5
    assert a.node.spool.messages == 0


def test_what_came_from_elsewhere_cannot_be_waited_for() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    [message_id] = a.result(a.send("d1", b"x"))["ids"]
    assert b.code(b.wait_for(message_id, "delivered")) == "E_UNKNOWN_MESSAGE"
    reader = b.read()
    reader.ack()
    assert b.code(b.wait_for(message_id, "consumed")) == "E_UNKNOWN_MESSAGE"
