"""Consumers of a service: what each gets, when a batch is consumed, what a crash leaves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.delivery.consumers import MAX_HOLES, MAX_OUTSTANDING, Consumer, Cursor, fact_key, parse_fact_key
from meshd.delivery.mailbox import RUN_BITS, Mailbox
from meshd.delivery.mailbox_effects import ConsumerExpired, Deliver, Limits, Load
from meshd.delivery.sequences import SequenceSet
from meshd.delivery.shelf import PAGE_BYTES, PAGE_ROWS, TAIL_BYTES
from meshd.errors import LocalProtocolError, MeshdError
from meshd.ids import Priority
from meshd.wire.bundle import Message, decode_messages, encode_messages

from .mailbox_world import World, make_batch


def offsets(world: World, consumer: str = "main") -> list[int]:
    return [offset for name, offset, _ in world.log if name == consumer]


def test_a_reader_that_keeps_up_gets_fresh_batches_without_the_disk() -> None:
    world = World()
    world.subscribe()
    for _ in range(20):
        world.release(3)
    assert len(world.log) == 60
    assert not any(isinstance(item, Load) for item in world.queue)
    assert world.mailbox.bytes == 0


def test_higher_priorities_come_first() -> None:
    world = World()
    low = world.release(priority=Priority.BULK)
    high = world.release(priority=Priority.CRITICAL)
    world.settle()
    world.crash()
    world.subscribe(credit=1)
    world.settle()
    assert offsets(world) == [high]
    world.credit(1, 1)
    world.settle()
    assert offsets(world) == [high, low]


def test_credit_ends_below_zero_by_at_most_one_batch() -> None:
    world = World()
    subscription = world.subscribe(credit=10)
    for _ in range(5):
        world.release(8)
    assert len(world.log) == 16
    world.credit(subscription, 6)
    assert len(world.log) == 16
    world.credit(subscription, 1)
    assert len(world.log) == 24


def test_a_lease_is_exclusive_until_it_ends() -> None:
    world = World()
    subscription = world.subscribe()
    with pytest.raises(MeshdError) as caught:
        world.subscribe()
    assert caught.value.code == "E_LEASED"
    world.unsubscribe(subscription)
    world.subscribe()


def test_a_lost_lease_hands_the_unacked_to_the_next_one_flagged() -> None:
    world = World()
    subscription = world.subscribe()
    first = world.release(4)
    world.ack(subscription, [first + 1, first + 3])
    world.settle()
    world.unsubscribe(subscription)
    world.log.clear()
    world.subscribe()
    world.settle()
    assert world.log == [("main", first, True), ("main", first + 2, True)]


def test_part_of_a_batch_has_its_own_list_and_index() -> None:
    mailbox = Mailbox("app", run=1, now=0.0)
    first = mailbox.next_offset(Priority.NORMAL)
    messages = encode_messages([Message(b"a"), Message(b"b", {"k": "v"}), Message(b"c")])
    batch = make_batch(1, Priority.NORMAL, first, 3, messages)
    mailbox.subscribe(7, "main", 10, 0.0)
    (deliver,) = [effect for effect in mailbox.release(batch, 0.0) if isinstance(effect, Deliver)]
    assert deliver.deliveries[0].messages is messages
    mailbox.acknowledge(7, {2: first}, {}, {2: ((first + 1, first + 2),)}, 0.0)
    (load,) = [effect for effect in mailbox.poll(1.0) if isinstance(effect, Load)]
    assert (load.offset, load.max_rows) == (first, 1)
    (deliver,) = [effect for effect in mailbox.loaded(Priority.NORMAL, [batch], 1.0) if isinstance(effect, Deliver)]
    (again,) = deliver.deliveries
    assert (again.first_index, again.first_offset, again.redelivered) == (1, first + 1, True)
    assert decode_messages(again.messages, 2) == (Message(b"b", {"k": "v"}), Message(b"c"))


def test_a_batch_is_consumed_when_its_last_message_is_acked() -> None:
    world = World()
    subscription = world.subscribe()
    first = world.release(3)
    world.ack(subscription, [first, first + 2])
    assert world.consumed == []
    world.ack(subscription, [first + 1])
    assert world.consumed == [first]
    world.settle()
    assert world.disk == {}


def test_consumed_waits_for_every_consumer_of_its_time_and_no_later_one() -> None:
    world = World()
    one, two = world.subscribe("one"), world.subscribe("two")
    first = world.release()
    late = world.subscribe("late")
    world.settle()
    assert offsets(world, "late") == [first]
    world.ack(late, [first])
    world.ack(one, [first])
    assert world.consumed == []
    world.ack(two, [first])
    assert world.consumed == [first]


def test_without_consumers_the_first_to_ack_consumes() -> None:
    world = World()
    first = world.release()
    one, two = world.subscribe("one"), world.subscribe("two")
    world.settle()
    world.ack(two, [first])
    assert world.consumed == [first]
    world.ack(one, [first])
    assert world.consumed == [first]


def test_an_ack_of_what_was_not_handed_out_has_no_effect() -> None:
    world = World()
    subscription = world.subscribe(credit=1)
    first = world.release()
    second = world.release()
    world.ack_up_to(subscription, 1 << 62)
    assert world.consumed == [first]
    world.credit(subscription, 1)
    world.settle()
    assert offsets(world) == [first, second]


def test_an_ack_after_the_lease_is_refused() -> None:
    world = World()
    subscription = world.subscribe()
    world.unsubscribe(subscription)
    with pytest.raises(MeshdError) as caught:
        world.mailbox.acknowledge(subscription, {2: 1}, {}, {}, world.now)
    assert caught.value.code == "E_USAGE"


def test_a_nacked_message_comes_again_after_a_doubling_delay_and_holds_nobody_back() -> None:
    world = World()
    subscription = world.subscribe()
    bad = world.release()
    delays = []
    for _ in range(8):
        world.nack(subscription, bad, bad)
        world.nack(subscription, bad, bad)  # said twice, counted once
        world.settle()
        world.log.clear()
        other = world.release()
        assert offsets(world) == [other]
        deadline = world.mailbox.next_deadline()
        assert deadline is not None
        delays.append(deadline - world.now)
        world.poll(delays[-1] - 0.001)
        assert offsets(world) == [other]
        world.poll(0.001)
        world.settle()
        assert world.log[1:] == [("main", bad, True)]
    assert delays == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])


def test_after_too_many_nacks_a_message_goes_to_the_dead_letters_with_its_body() -> None:
    world = World(Limits(attempts=3))
    subscription = world.subscribe()
    body = encode_messages([Message(b"1"), Message(b"2"), Message(b"3")])
    first = world.release(3, messages=body)
    for _ in range(3):
        world.nack(subscription, first + 1, first + 1)
        world.poll(60.0)
        world.settle()
    (dead,) = world.dead
    assert (dead.consumer, dead.index, dead.attempts, dead.batch.messages) == ("main", 1, 3, body)
    assert offsets(world).count(first + 1) == 3
    world.ack(subscription, [first, first + 2])
    assert world.consumed == [first]


def test_a_message_that_kills_its_reader_goes_to_the_dead_letters_and_the_rest_is_read() -> None:
    world = World(Limits(attempts=4))
    poison = world.release(100)
    for _ in range(4):
        subscription = world.subscribe()
        world.settle()
        world.unsubscribe(subscription)
        world.settle()
        world.crash()  # the count is durable
        world.unsubscribe(world.subscribe())  # nothing was handed out yet: not counted
    assert world.dead == []
    world.log.clear()
    world.assert_everything_reaches("main")
    assert [dead.index for dead in world.dead] == [0]
    assert offsets(world) == list(range(poison + 1, poison + 100))


def test_leaving_early_does_not_count_against_messages_never_worked_on() -> None:
    world = World(Limits(attempts=2))
    first = world.release(10)
    for index in range(10):
        subscription = world.subscribe(credit=1)
        world.settle()
        world.ack(subscription, [first + index])
        world.unsubscribe(subscription)
        world.settle()
    assert world.dead == []
    assert world.consumed == [first]


def test_an_idle_consumer_expires_and_releases_what_waited_for_it_alone() -> None:
    world = World(Limits(idle_s=100.0))
    idle, busy = world.subscribe("idle"), world.subscribe("busy")
    kept = [world.release() for _ in range(600)]
    world.ack_up_to(busy, kept[-2])
    world.unsubscribe(idle)
    world.settle()
    assert world.mailbox.next_deadline() == pytest.approx(world.now + 100.0)
    world.poll(99.0)
    assert world.expired == []
    world.poll(1.0)
    world.settle()
    assert world.expired == ["idle"]
    assert world.consumed == kept[:-1]
    assert set(world.facts) == {"busy"}
    assert len(world.disk) == 1


def test_a_consumer_alone_expires_at_once_and_its_mail_stays() -> None:
    world = World(Limits(idle_s=100.0))
    world.unsubscribe(world.subscribe())
    first = world.release()
    effects = world.mailbox.poll(world.now + 150.0)
    assert effects == [ConsumerExpired("main", 150.0)]
    world.made.clear()
    world.now += 150.0
    world.subscribe("next")
    world.settle()
    assert offsets(world, "next") == [first]


def test_a_leased_consumer_never_expires_and_a_crash_restarts_its_time() -> None:
    world = World(Limits(idle_s=100.0))
    world.subscribe()
    world.settle()
    world.poll(1000.0)
    world.crash()
    world.poll(99.0)
    assert world.expired == []
    world.poll(1.0)
    assert world.expired == ["main"]


def test_names_are_bounded() -> None:
    world = World(Limits(consumers=2))
    world.subscribe("one")
    world.subscribe("two")
    with pytest.raises(MeshdError) as caught:
        world.mailbox.subscribe(99, "three", 1, world.now)
    assert caught.value.code == "E_BUSY"


def test_offsets_after_a_crash_are_above_every_offset_of_the_run_before() -> None:
    world = World()
    lost = [world.release(256) for _ in range(3)]
    world.crash()
    assert world.release() > lost[-1] + 255
    assert world.mailbox.next_offset(Priority.NORMAL) >> RUN_BITS == world.run


def test_offsets_grow_even_when_the_run_counter_does_not() -> None:
    world = World()
    last = world.release(5) + 4
    world.settle()
    world.run -= 1
    world.crash()
    assert world.release() == last + 1


def test_offsets_fit_the_store_whatever_the_run_counter_says() -> None:
    world = World()
    world.run = 1 << 60
    world.crash()
    last = world.release(5) + 4
    assert last < 1 << 63
    world.settle()
    world.crash()
    assert world.release() == last + 1


def test_a_bundle_that_was_held_on_disk_comes_in_its_turn() -> None:
    world = World()
    world.subscribe()
    expected = [world.release(), world.release(held=True), world.release()]
    world.settle()
    assert offsets(world) == expected


def test_ephemeral_bundles_reach_who_reads_now_and_leave_no_trace() -> None:
    world = World()
    mailbox = world.mailbox
    world.subscribe("reads", credit=1)
    world.subscribe("has-no-credit", credit=0)
    batch = make_batch(1, Priority.NORMAL, mailbox.next_offset(Priority.NORMAL), 2, b"")
    (deliver,) = mailbox.pass_through(batch, world.now)
    assert isinstance(deliver, Deliver)
    assert deliver.subscription == 1
    assert mailbox.next_offset(Priority.NORMAL) == batch.entry.last_offset + 1
    world.credit(1, 10)
    world.release()
    assert len(offsets(world, "reads")) == 1


def test_a_batch_must_have_the_next_offset() -> None:
    mailbox = Mailbox("app", run=1, now=0.0)
    with pytest.raises(LocalProtocolError):
        mailbox.release(make_batch(1, Priority.NORMAL, 5, 1, b""), 0.0)


def test_an_expired_batch_is_not_delivered_and_not_waited_for() -> None:
    world = World()
    subscription = world.subscribe(credit=1)
    first, second, third = world.release(), world.release(), world.release()
    world.expire(2)
    world.ack(subscription, [first])
    world.credit(subscription, 5)
    world.settle()
    world.ack(subscription, [third])
    world.settle()
    assert offsets(world) == [first, third]
    assert second not in world.consumed
    restored = Consumer.decode("main", world.facts["main"])
    assert restored.cursors[Priority.NORMAL].done.spans == ()


def test_a_failed_read_is_asked_again_later_and_does_not_spin() -> None:
    world = World()
    first = world.release()
    world.settle()
    world.crash()
    world.subscribe()
    while world.queue:
        world.step(fail=True)
    world.poll()
    assert not any(isinstance(item, Load) for item in world.queue)
    world.poll(1.0)
    world.settle()
    assert offsets(world) == [first]


def test_memory_stays_bounded_with_a_reader_that_does_not_read() -> None:
    world = World()
    world.subscribe(credit=1)
    body = bytes(64 * 1024)
    for _ in range(200):
        world.release(256, messages=body)
        assert world.mailbox.bytes <= TAIL_BYTES
    world.credit(1, 1)
    world.settle()
    assert 0 < world.mailbox.bytes <= PAGE_BYTES + TAIL_BYTES + 2 * len(body)
    world.credit(1, 1 << 20)
    world.settle()
    assert len(world.log) <= MAX_OUTSTANDING + 256, "what is unacked is bounded whatever the credit"
    world.unsubscribe(1)
    assert world.mailbox.bytes == 0


def test_a_long_backlog_of_one_reader_does_not_starve_another() -> None:
    world = World()
    world.unsubscribe(world.subscribe("behind"))
    ahead = world.subscribe("ahead")
    for _ in range(1000):
        world.release()
    world.ack_up_to(ahead, world.log[-1][1])
    world.unsubscribe(ahead)
    waiting = world.release()
    world.settle()
    world.crash()
    world.log.clear()
    world.subscribe("behind")
    world.subscribe("ahead")
    while world.queue and waiting not in offsets(world, "ahead"):
        world.step()
    assert len(offsets(world, "behind")) < 1000 - PAGE_ROWS


def test_a_higher_priority_on_its_way_from_disk_is_waited_for() -> None:
    world = World()
    urgent = world.release(priority=Priority.CRITICAL)
    world.settle()
    world.crash()
    subscription = world.subscribe(credit=1)
    fresh = world.release(priority=Priority.BULK)
    assert world.log == []
    world.settle()
    assert offsets(world) == [urgent]
    world.credit(subscription, 1)
    world.settle()
    assert offsets(world) == [urgent, fresh]


def test_what_is_deleted_during_a_read_does_not_come_back_with_it() -> None:
    world = World()
    world.release()
    kept = world.release()
    world.settle()
    world.crash()
    world.subscribe()
    world.expire(1)
    world.settle()
    assert offsets(world) == [kept]


def test_what_comes_during_an_empty_read_is_found_even_when_memory_could_not_keep_it() -> None:
    world = World()
    world.release()
    world.settle()
    world.crash()
    world.expire(1)
    world.subscribe()
    fresh = [world.release(messages=bytes(200_000)) for _ in range(6)]
    world.settle()
    assert offsets(world) == fresh


def test_what_a_crash_leaves_unacked_comes_again_flagged() -> None:
    world = World()
    world.subscribe()
    world.settle()
    before = world.release()
    world.settle()
    world.crash()
    world.subscribe()
    world.settle()
    after = world.release()
    assert world.log[1:] == [("main", before, True), ("main", after, False)]


def test_when_all_consumers_expire_at_once_their_mail_stays() -> None:
    world = World(Limits(idle_s=100.0))
    one, two = world.subscribe("one"), world.subscribe("two")
    first = world.release()
    world.ack(two, [first])
    world.unsubscribe(one)
    world.unsubscribe(two)
    world.settle()
    world.poll(100.0)
    world.settle()
    assert sorted(world.expired) == ["one", "two"]
    assert world.consumed == []
    assert world.facts == {}
    assert len(world.disk) == 1


def test_holes_are_bounded_and_acks_always_taken() -> None:
    world = World()
    subscription = world.subscribe()
    first = world.release(1)
    for _ in range(20):
        world.release(256)
    world.ack(subscription, range(first + 1, first + 3000, 2))
    given = len(world.log)
    world.release()
    assert len(world.log) == given, "nothing fresh while there are too many holes"
    world.settle()
    state = world.facts["main"]
    assert len(state) < 64 * 1024
    assert len(Consumer.decode("main", state).cursors[Priority.NORMAL].done.spans) > MAX_HOLES
    world.ack_up_to(subscription, first + 3000)
    assert len(world.log) > given
    world.assert_everything_reaches("main")


def test_a_deep_backlog_is_read_in_order_after_a_restart() -> None:
    world = World()
    expected = [world.release() for _ in range(700)]
    world.settle()
    world.crash()
    subscription = world.subscribe(credit=10)
    while len(world.log) < 700:
        world.settle()
        world.ack_up_to(subscription, world.log[-1][1])
        world.credit(subscription, 10)
    assert offsets(world) == expected
    world.ack_up_to(subscription, expected[-1])
    world.settle()
    assert world.disk == {}


@pytest.mark.parametrize("data", [b"", b"\xf6", b"\x83\x02\xf6\x80", b"\x83\x01\xf6\x80", b"\xff"])
def test_a_damaged_state_says_so(data: bytes) -> None:
    with pytest.raises(MeshdError) as caught:
        Mailbox("app", run=1, now=0.0, consumers={"main": data})
    assert caught.value.code == "E_DATABASE"
    with pytest.raises(MeshdError):
        parse_fact_key(data)


def test_fact_keys_read_back() -> None:
    assert parse_fact_key(fact_key("app", "main")) == ("app", "main")


_spans = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 8)), max_size=12)


@given(_spans, st.integers(0, 70), st.integers(0, 70))
def test_missing_between_agrees_with_a_plain_set(spans: list[tuple[int, int]], first: int, last: int) -> None:
    sequences = SequenceSet()
    plain: set[int] = set()
    for start, length in spans:
        sequences.add_span(start, start + length)
        plain |= set(range(start, start + length + 1))
    missing = {number for low, high in sequences.missing_between(first, last) for number in range(low, high + 1)}
    assert missing == {number for number in range(max(1, first), last + 1) if number not in plain}


@given(_spans, st.dictionaries(st.integers(1, 60), st.integers(1, 16), max_size=5), st.none() | st.integers(0, 10**6))
def test_states_read_back(spans: list[tuple[int, int]], attempts: dict[int, int], idle: int | None) -> None:
    cursors = {priority: Cursor(7, 1) for priority in Priority}
    for start, length in spans:
        cursors[Priority.HIGH].done.add_span(start, start + length)
    cursors[Priority.HIGH] = Cursor.restore(*_flat(cursors[Priority.HIGH], attempts))
    data = Consumer("main", cursors, idle).encode()
    assert Consumer.decode("main", data).encode() == data


def _flat(cursor: Cursor, attempts: dict[int, int]) -> tuple[int, int, int, tuple[int, ...], list[tuple[int, int]]]:
    spans = tuple(value for span in cursor.done.spans for value in span)
    return cursor.since, cursor.done.watermark, 9, spans, list(attempts.items())


def test_a_reader_gets_no_more_than_it_has_room_for_until_it_has_read() -> None:
    mailbox = Mailbox("box", run=1, now=0.0)
    body = encode_messages([Message(bytes(1000))])
    effects = list(mailbox.subscribe(1, "main", 100, 0.0, room_bytes=2500))
    for row in range(5):
        effects += mailbox.release(make_batch(row, Priority.NORMAL, mailbox.next_offset(Priority.NORMAL), 1, body), 0.0)
    assert len([effect for effect in effects if isinstance(effect, Deliver)]) == 3
    assert not [effect for effect in mailbox.add_credit(1, 100, 0.0) if isinstance(effect, Deliver)]
    room_bytes = 3 * len(body) - 2500 + 1
    [delivered] = [e for e in mailbox.add_credit(1, 0, 0.0, room_bytes=room_bytes) if isinstance(e, Deliver)]
    assert len(delivered.deliveries) == 1
