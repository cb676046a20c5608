"""Waits of all kinds end when they must, each by itself, and what they came to outlives the daemon."""

from meshd.ids import Priority
from meshd.wire.frames import BundleFrame, Frame, Kind, Routed
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
