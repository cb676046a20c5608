"""Others' bundles: kept until the next hop has them, and not a moment after nobody can want them."""

import itertools

import attrs

from meshd.ids import Number
from meshd.node.requests import Remove, Reply, Result
from meshd.wire.bundle import bundle_id, decode_head, encode_head
from meshd.wire.frames import MAX_HOPS, STALE_EPOCH, Ack, BundleFrame, Busy, Frame, Kind, Refused, Routed
from tests.node.harness import Device, World


def in_a_row() -> tuple[World, Device, Device, Device]:
    """``a`` is linked with ``b``, and that with ``c``; all have heard of it."""
    world = World(3)
    a, b, c = world.devices
    world.connect(a, b)
    world.connect(b, c)
    world.advance(5)
    return world, a, b, c


def with_a_copy_at_the_relay() -> tuple[World, Device, Device, Device]:
    """``a`` has sent to ``c`` over ``b``, and ``b`` holds it: nothing that it passes on arrives."""
    world, a, b, c = in_a_row()
    world.loses = lambda sender, _, frame: sender is b and isinstance(frame, BundleFrame)
    a.send("d2", b"0")
    world.flush()
    assert b.node.spool.messages == 1
    return world, a, b, c


def test_a_copy_that_came_another_way_before_its_source_started_again_is_let_go() -> None:
    world, a, b, c = with_a_copy_at_the_relay()
    reader = c.read()
    a.crash()
    world.connect(a, c)
    world.advance(5)
    answers: list[Reply] = []
    for payload in (b"1", b"2"):
        sent = a.send("d2", payload, wait="consumed")
        reader.ack()
        world.advance(1)
        answers += a.replies(sent)
    assert [type(answer) for answer in answers] == [Result, Result]
    assert b.node.spool.messages == 1
    world.loses = lambda *_: False
    world.advance(120)
    assert "stale epoch" in c.events()
    assert b.node.spool.messages == 0
    assert reader.payloads == [b"0", b"1", b"2"]
    b.crash()
    assert b.node.spool.messages == 0


def test_only_the_destination_itself_says_so() -> None:
    world = World(4)
    a, b, c, d = world.devices
    for one, other in ((a, b), (b, c), (c, d)):
        world.connect(one, other)
    world.advance(5)
    world.loses = lambda sender, _, frame: sender is not a and isinstance(frame, BundleFrame)
    for name, kept in (("d3", 1), ("d2", 0)):
        a.send(name, b"x")
        toward_c = b.node.peers.link_to(c.id)
        assert toward_c is not None
        stale = Ack((), (), tuple(Refused(bundle, STALE_EPOCH) for bundle in toward_c.unacked))
        world.inject(c, b, stale)
        assert sum(queue.messages for queue in b.node.spool.queues_for(world.devices[int(name[1])].id)) == kept


def test_what_its_destination_can_not_open_is_let_go_and_holds_nothing_up() -> None:
    world, a, b, c = in_a_row()
    reader = c.read()
    a.send("d2", b"0")
    [true] = [frame for frame in world.bundles if frame.hop_limit == MAX_HOPS - 1]
    forged = attrs.evolve(true, body=bytes(len(true.body)), hop_limit=5)
    head = decode_head(true.head)
    later = attrs.evolve(head, number=Number(head.number.epoch, 9))
    world.inject(a, b, attrs.evolve(forged, head=encode_head(later)))
    assert "bundle not authentic" in c.events()
    a.send("d2", b"1")
    assert reader.payloads == [b"0", b"1"]
    assert b.node.spool.messages == 0


def of_two_sources() -> tuple[World, Device, Device, Device]:
    """``a``, an admin, and ``d`` have sent to ``c`` over ``b``, which holds both."""
    world = World(4)
    a, b, c, d = world.devices
    for one, other in ((a, b), (b, c), (b, d)):
        world.connect(one, other)
    world.advance(5)
    world.loses = lambda sender, _, frame: sender is b and isinstance(frame, BundleFrame)
    d.send("d2", b"of one that leaves")
    a.send("d2", b"of one that stays")
    world.flush()
    assert b.node.spool.messages == 2
    return world, a, b, c


def test_what_a_removed_device_sent_is_let_go() -> None:
    world, a, b, c = of_two_sources()
    reader = c.read()
    a.ask(Remove, device="d3")
    assert b.node.spool.messages == 1
    world.loses = lambda *_: False
    world.advance(20)
    assert reader.payloads == [b"of one that stays"]
    world.flush()
    b.crash()
    assert (b.node.spool.messages, b.node.spool.size_bytes) == (0, 0)


def test_what_a_removed_device_sent_is_let_go_from_the_disk_too() -> None:
    world, a, b, c = of_two_sources()
    world.disconnect(b, c)
    reader = c.read()
    a.ask(Remove, device="d3")
    b.crash()
    assert b.node.spool.messages == 2  # on disk only, and there is no path
    world.loses = lambda *_: False
    world.connect(b, c)
    world.advance(20)
    assert reader.payloads == [b"of one that stays"]
    world.flush()
    b.crash()
    assert (b.node.spool.messages, b.node.spool.size_bytes) == (0, 0)


def test_what_a_removed_device_sent_and_nobody_can_open_is_answered_for() -> None:
    world = World(4)
    a, b, c, d = world.devices
    for one, other in ((a, b), (b, c), (b, d)):
        world.connect(one, other)
    world.advance(5)
    world.loses = lambda _, __, frame: isinstance(frame, Routed) and frame.kind is Kind.OFFER
    d.send("d2", b"of one that leaves")
    world.advance(1)
    toward_c = b.node.peers.link_to(c.id)
    assert toward_c is not None
    assert len(toward_c.unacked) == 1
    a.ask(Remove, device="d3")
    world.advance(1)
    assert (toward_c.unacked, toward_c.unacked_bytes) == ({}, 0)


def test_what_was_sent_in_a_life_that_its_source_has_lost_is_answered_for() -> None:
    world, a, b, c = in_a_row()
    before = a.image()
    world.loses = lambda _, __, frame: isinstance(frame, Routed) and frame.kind is Kind.OFFER
    a.send("d2", b"of a life that is lost")
    world.advance(1)
    assert b.node.spool.messages == 1  # c holds it unopened, and has answered for nothing
    world.loses = lambda *_: False
    a.crash(disk=before)
    world.connect(a, b)
    world.advance(60)
    world.flush()
    assert b.node.spool.messages == 0
    a.send("d2", b"of this life")
    assert c.read().payloads == [b"of this life"]


def test_what_expired_on_its_way_is_known_no_more() -> None:
    world, a, b, _ = in_a_row()
    world.loses = lambda sender, _, frame: sender is b and isinstance(frame, BundleFrame)
    a.send("d2", b"x", lifetime_ms=4_000)
    [bundle] = [bundle_id(frame.head, frame.body) for frame in world.bundles[-1:]]
    assert bundle in b.node.spool.custody
    world.advance(8)
    assert b.node.spool.messages == 0
    assert bundle not in b.node.spool.custody


def test_many_that_may_go_no_further_do_not_keep_the_disk_busy_and_hide_nothing() -> None:
    world, a, b, c = with_a_copy_at_the_relay()
    true = world.bundles[0]
    head = decode_head(true.head)
    for sequence in range(2, 600):
        other = encode_head(attrs.evolve(head, number=Number(head.number.epoch, sequence)))
        world.inject(a, b, attrs.evolve(true, hop_limit=0, head=other))
    a.send("d2", b"1", service="other")
    b.crash()
    assert b.node.spool.messages == 600
    world.loses = lambda *_: False
    world.connect(a, b)
    world.connect(b, c)
    world.advance(5)
    assert [c.read(service).payloads for service in ("box", "other")] == [[b"0"], [b"1"]]
    assert b.node.spool.messages == 598
    world.disconnect(b, c)
    a.ask(Remove, device="d2")
    assert b.node.spool.messages == 0


def test_what_a_hop_turned_away_is_sent_again_when_its_time_has_come() -> None:
    world, a, b, c = in_a_row()
    reader = c.read()
    b.free_bytes = 0
    a.send("d2", b"0")
    assert "bundle turned away" in a.events()
    b.free_bytes = 1 << 40
    world.advance(10)
    assert reader.payloads == [b"0"]


def test_a_hop_that_does_not_know_the_destination_yet_is_asked_again_soon() -> None:
    world = World(3)
    a, b, c = world.devices
    world.connect(a, b)
    world.connect(b, c)
    tried: list[float] = []

    def loses(sender: Device, receiver: Device, frame: Frame) -> bool:
        if sender is not a or receiver is not b or not isinstance(frame, BundleFrame):
            return False
        tried.append(world.now)
        return True

    world.loses = loses
    began = world.now
    a.send("d2", b"x")
    for _ in range(7):
        link = a.node.peers.link_to(b.id)
        assert link is not None
        world.inject(b, a, Ack((), (), tuple(Refused(bundle, "unknown-destination") for bundle in link.unacked)))
        count = len(tried)
        while len(tried) == count:
            world.advance(0.5)
    waits = [after - before for before, after in itertools.pairwise(tried)]
    assert tried[0] - began < 0.1
    assert waits[0] <= 2
    assert waits == sorted(waits)
    assert 20 < waits[-1] <= 61
    world.loses = lambda *_: False
    reader = c.read()
    world.advance(120)
    assert reader.payloads == [b"x"]


def test_what_may_go_no_further_is_replaced_when_it_comes_again_with_hops_to_go() -> None:
    world, a, b, c = in_a_row()
    world.loses = lambda sender, _, frame: sender is a and isinstance(frame, BundleFrame)
    a.send("d2", b"0")
    [frame] = world.bundles
    world.loses = lambda *_: False
    for _ in range(2):
        world.inject(a, b, attrs.evolve(frame, hop_limit=0))
    assert b.node.spool.messages == 1
    reader = c.read()
    world.advance(30)
    assert reader.payloads == [b"0"]
    assert [device.node.spool.messages for device in world.devices] == [0, 0, 0]
    assert b.node.spool.custody.charge_of(a.id) == 0
    b.crash()
    assert b.node.spool.messages == 0


def test_what_one_hop_wants_to_be_spared_goes_by_another_way_at_once() -> None:
    world, a, b, c = in_a_row()
    world.loses = lambda sender, _, frame: sender is a and isinstance(frame, BundleFrame)
    a.send("d2", b"0")
    toward_b = a.node.peers.link_to(b.id)
    assert toward_b is not None
    [bundle] = toward_b.unacked
    world.loses = lambda *_: False
    world.inject(b, a, Ack((), (Busy(bundle, 3_600_000),)))
    reader = c.read()
    world.connect(a, c)
    world.advance(10)
    assert reader.payloads == [b"0"]
