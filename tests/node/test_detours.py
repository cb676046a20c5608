"""Copies over another way while a link is silent: extra, once each, and never a second delivery.

``a`` and ``c`` are devices that are linked; a relay ``r``, or a device ``b``, is linked with both.
"""

import pytest

from meshd.links.events import LinkMeasured
from meshd.node.effects import ExpectLife
from meshd.wire.frames import BundleFrame, Frame, Kind, Routed
from tests.node.harness import Device, World


def triangle(*relays: int) -> tuple[World, Device, Device, Device]:
    """a, the one between, and c; all linked, and a has c's card."""
    world = World(3, relays=relays)
    a, between, c = world.devices
    for one, other in ((a, between), (c, between), (a, c)):
        world.connect(one, other)
    world.advance(10)
    a.send("d2", b"before")
    c.send("d0", b"before")
    world.advance(1)
    return world, a, between, c


def cut(world: World, a: Device, c: Device) -> None:
    """Nothing gets through between the two any more, and neither knows."""
    world.loses = lambda sender, receiver, _: {sender, receiver} == {a, c}


def falls_silent(world: World, one: Device, other: Device) -> None:
    """The failure detector of a link reports."""
    one.inbox.append(LinkMeasured(one.links[other.id], None, True))
    world.pump()


def speaks(world: World, one: Device, other: Device) -> None:
    one.inbox.append(LinkMeasured(one.links[other.id], 0.01, False))
    world.pump()


def bundles_between(world: World, one: Device, other: Device) -> list[bytes]:
    """From now on, the bodies of the bundles that go from one to the other."""
    seen: list[bytes] = []
    loses = world.loses

    def look(sender: Device, receiver: Device, frame: Frame) -> bool:
        if (sender, receiver) == (one, other) and isinstance(frame, BundleFrame):
            seen.append(frame.body)
        return loses(sender, receiver, frame)

    world.loses = look
    return seen


@pytest.mark.parametrize("relays", [(), (1,)], ids=["device", "relay"])
def test_what_is_in_flight_and_what_is_new_goes_another_way_too(relays: tuple[int, ...]) -> None:
    world, a, between, c = triangle(*relays)
    reader = c.read()
    cut(world, a, c)
    a.send("d2", b"lost", b"with it")
    assert reader.payloads == [b"before"]
    falls_silent(world, a, c)
    assert reader.payloads == [b"before", b"lost", b"with it"]
    a.send("d2", b"new")
    assert reader.payloads == [b"before", b"lost", b"with it", b"new"]
    assert a.node.spool.messages == 3, "its own copies stay until the receipt"
    world.disconnect(a, c)
    world.loses = lambda *_: False
    world.advance(60)
    assert reader.payloads == [b"before", b"lost", b"with it", b"new"]
    assert [device.node.spool.messages for device in (a, between, c)] == [0, 0, 0]


def test_a_link_that_was_silent_and_speaks_again_is_used_alone() -> None:
    world, a, b, c = triangle()
    reader = c.read()
    around = bundles_between(world, a, b)
    falls_silent(world, a, c)
    assert around == [], "nothing was in flight"
    a.send("d2", b"twice")
    speaks(world, a, c)
    a.send("d2", b"once")
    world.advance(1)
    assert len(around) == 1
    assert reader.payloads == [b"before", b"twice", b"once"]


def test_no_bundle_is_copied_twice_however_often_its_link_falls_silent() -> None:
    world, a, b, c = triangle()
    cut(world, a, c)
    around = bundles_between(world, a, b)
    a.send("d2", b"x")
    for _ in range(5):
        falls_silent(world, a, c)
        speaks(world, a, c)
    assert len(around) == 1


def test_a_silent_link_is_no_way_around_another() -> None:
    world, a, b, c = triangle()
    around = bundles_between(world, a, b)
    falls_silent(world, a, b)
    falls_silent(world, a, c)
    a.send("d2", b"x")
    assert around == []


def test_whoever_hears_from_a_device_by_another_way_wants_to_know_whether_their_link_lives() -> None:
    world, a, _, c = triangle()
    cut(world, a, c)
    c.other.clear()
    a.send("d2", b"x")
    assert c.other == []
    falls_silent(world, a, c)
    assert c.other == [ExpectLife(c.links[a.id])]


def test_receipts_go_another_way_too_when_their_link_falls_silent() -> None:
    world, a, _, c = triangle()
    cut(world, a, c)
    sent = a.send("d2", b"x", wait="delivered")
    falls_silent(world, a, c)
    assert a.replies(sent) == []
    falls_silent(world, c, a)
    assert a.result(sent)["state"] == "delivered"


def test_a_hop_copies_what_it_holds_and_lets_go_of_it_by_the_answer_of_the_routed_next_hop_alone() -> None:
    world = World(4)
    a, b, c, d = world.devices  # a - b - c, and b - d - c
    for one, other in ((a, b), (b, c), (b, d), (d, c)):
        world.connect(one, other)
    world.advance(10)
    a.send("d2", b"before")
    world.advance(1)
    reader = c.read()
    world.loses = lambda sender, receiver, frame: {sender, receiver} == {b, c} or is_receipt(frame)
    a.send("d2", b"x")
    assert reader.payloads == [b"before"]
    falls_silent(world, b, c)
    assert reader.payloads == [b"before", b"x"]
    assert b.node.spool.messages == 1
    world.loses = lambda *_: False
    world.advance(10)  # to c itself, again: it has it
    assert b.node.spool.messages == 0
    assert reader.payloads == [b"before", b"x"]


def is_receipt(frame: Frame) -> bool:
    return isinstance(frame, Routed) and frame.kind is Kind.RECEIPT


def full_hop() -> tuple[World, Device, Device]:
    """Two ways from ``a`` to ``d``; the disk of the hop that the route leads through is full."""
    world = World(4)
    a, b, c, d = world.devices
    for one, other in ((a, b), (a, c), (b, d), (c, d)):
        world.connect(one, other)
    world.advance(60)
    world.device(a.node.peers.next_hops[d.id]).free_bytes = 0
    return world, a, d


def test_what_a_full_hop_turns_away_goes_round_it() -> None:
    world, a, d = full_hop()
    reader = d.read()
    payloads = [b"%d" % number for number in range(50)]
    for payload in payloads:
        a.send("d3", payload)
    world.advance(60)
    assert reader.payloads == payloads
    assert a.node.spool.messages == 0
    for device in world.devices:
        device.free_bytes = 1 << 40
    world.advance(60)
    assert [device.node.spool.messages for device in world.devices] == [0] * 4


def test_it_goes_round_once_however_often_it_is_turned_away() -> None:
    world, a, d = full_hop()
    hop = world.device(a.node.peers.next_hops[d.id])
    [other] = [device for device in world.devices if device not in (a, d, hop)]
    world.loses = lambda sender, _, frame: sender is other and isinstance(frame, BundleFrame)
    copies = bundles_between(world, a, other)
    a.send("d3", b"x")
    world.advance(120)
    assert hop.node.spool.messages == 0
    assert len(copies) == 1
