"""From one app to another, through two nodes."""

from meshd.wire.frames import BundleFrame
from tests.node.harness import World


def test_smoke() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    sent = a.send("d1", b"one", b"two")
    assert a.result(sent)["state"] == "accepted"
    reader = b.read()
    assert reader.payloads == [b"one", b"two"]
    reader.ack()
    world.advance(1)
    trace = a.query("trace", a.result(sent)["ids"][1])
    assert trace["state"] == "consumed"


def test_what_waits_on_disk_is_never_declared_finished_by_what_overtakes_it() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    world.disconnect(a, b)
    a.send("d1", b"first")
    a.send("d1", b"second")
    lost = iter([True])
    world.loses = lambda _, __, frame: isinstance(frame, BundleFrame) and next(lost, False)
    world.connect(a, b)
    world.loses = lambda *_: False
    reader = b.read()
    world.advance(60)
    assert reader.payloads == [b"first", b"second"]
