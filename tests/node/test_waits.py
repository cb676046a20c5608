"""Waits of all kinds end when they must, each by itself, and what they came to outlives the daemon."""

from meshd.ids import Priority
from meshd.wire.frames import Ack, BundleFrame, Frame, Kind, Routed
from tests.node.harness import Device, World


def linked() -> tuple[World, Device, Device]:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    return world, a, b


def is_bundle(_: Device, __: Device, frame: Frame) -> bool:
    return isinstance(frame, BundleFrame)


def is_receipt(_: Device, __: Device, frame: Frame) -> bool:
    return isinstance(frame, Routed) and frame.kind is Kind.RECEIPT


def with_a_gap(world: World, a: Device, lifetime_ms: int, **options: object) -> None:
    """Mail to a service whose second message is lost, and whose third waits for it for so long by three quarters."""
    a.send("d1", b"0", **options)
    world.loses = is_bundle
    a.send("d1", b"lost", **options)
    world.loses = lambda *_: False
    a.send("d1", b"2", lifetime_ms=lifetime_ms, **options)


def test_each_wait_has_an_end_of_its_own() -> None:
    world, a, b = linked()
    first, second, urgent = b.read("first"), b.read("second"), b.read("urgent")
    with_a_gap(world, a, 4_000, service="first")
    with_a_gap(world, a, 8_000, service="second")
    with_a_gap(world, a, 12_000, service="urgent", priority=Priority.CRITICAL)
    world.disconnect(a, b)  # nobody can say that it will not come
    ends = []
    for _ in range(3):
        world.advance(3.1)
        ends.append([len(reader.payloads) for reader in (first, second, urgent)])
    assert ends == [[2, 1, 1], [2, 2, 1], [2, 2, 2]]


def test_that_a_wait_has_ended_is_known_after_a_crash() -> None:
    world, a, b = linked()
    with_a_gap(world, a, 4_000)
    world.disconnect(a, b)
    world.advance(3.1)
    b.crash()
    reader = b.read()
    world.connect(a, b)
    assert [(message.payload, message.late) for message in reader.messages] == [
        (b"0", False),
        (b"2", False),
        (b"lost", True),
    ]


def test_room_at_the_destination_is_used_as_soon_as_a_receipt_tells_of_it() -> None:
    world, a, b = linked()
    reader = b.read()
    world.holds = is_receipt
    for _ in range(40):
        a.send("d1", world.rng.randbytes(60_000))
    sent = len(reader.payloads)
    assert 0 < sent < 40
    world.release()
    assert len(reader.payloads) == 40


def test_what_another_hop_frees_of_a_full_link_goes_to_who_waits_for_it() -> None:
    world = World(4)
    a, b, c, d = world.devices
    for one, other in ((a, b), (b, c), (b, d)):
        world.connect(one, other)
    world.advance(5)
    world.loses = is_receipt
    world.holds = lambda sender, receiver, frame: isinstance(frame, Ack) and (sender, receiver) == (b, a)
    for to in ("d2", "d3"):
        for priority in (Priority.HIGH, Priority.NORMAL, Priority.BULK):
            for _ in range(17):
                a.send(to, world.rng.randbytes(60_000), priority=priority)
    to_c, to_d = c.read(), d.read()
    assert len(to_c.payloads) + len(to_d.payloads) < 102
    world.release()
    assert (len(to_c.payloads), len(to_d.payloads)) == (51, 51)


def test_what_has_arrived_is_not_sent_again_over_the_next_link() -> None:
    world, a, b = linked()
    world.loses = lambda sender, _, frame: sender is b and isinstance(frame, Ack | Routed)
    sent = [a.send("d1", b"%d" % i, wait="delivered") for i in range(3)]
    world.disconnect(a, b)
    world.loses = lambda *_: False
    before = len(world.bundles)
    a.is_store_held = True
    world.connect(a, b)  # it asks its disk what to send, and hears before the answer what has arrived
    a.is_store_held = False
    world.pump()
    assert [a.result(request)["state"] for request in sent] == ["delivered"] * 3
    assert len(world.bundles) == before


def test_an_older_receipt_that_comes_late_changes_nothing() -> None:
    world, a, b = linked()
    reader = b.read()
    told: list[Frame] = []

    def keeps(sender: Device, receiver: Device, frame: Frame) -> bool:
        if is_receipt(sender, receiver, frame):
            told.append(frame)
        return False

    world.loses = keeps
    [id] = a.result(a.send("d1", b"x"))["ids"]
    unread = told[-1]
    reader.ack()
    world.advance(1)
    assert a.query("trace", id)["state"] == "consumed"
    world.inject(b, a, unread)
    world.disconnect(a, b)
    world.flush()
    a.crash()
    assert a.query("trace", id)["state"] == "consumed"
