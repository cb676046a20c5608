"""What has ended is counted once, written down in the end, and never forgotten to end at all."""

import pytest

from meshd.node.effects import Commit
from meshd.node.requests import Remove
from meshd.store.ops import FinishSpool, PutFact, PutSpool
from meshd.store.reads import ReadExpired, ReadExpiredInbox
from meshd.wire.frames import BundleFrame
from tests.node.harness import Device, World


def linked() -> tuple[World, Device, Device]:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    return world, a, b


def is_bundle(_: object, __: object, frame: object) -> bool:
    return isinstance(frame, BundleFrame)


def finishes(commit: Commit) -> bool:
    return any(isinstance(op, FinishSpool) for op in commit.ops)


def counts(device: Device) -> set[tuple[int, int, int]]:
    return {(queue.rows, queue.messages, queue.size_bytes) for queue in device.node.spool.queues()}


def test_what_was_delivered_before_its_own_commit_failed_ends_once() -> None:
    world, a, b = linked()
    reader = b.read()
    a.is_store_held = True
    a.send("d1", b"0")
    assert reader.payloads == [b"0"]
    a.fails = lambda commit: any(isinstance(op, PutSpool) for op in commit.ops)
    a.is_store_held = False
    world.flush()
    assert counts(a) == {(0, 0, 0)}
    a.fails = lambda _: False
    world.disconnect(a, b)
    a.send("d1", b"1")
    world.connect(a, b)
    world.advance(1)
    assert reader.payloads == [b"0", b"1"]


def test_an_end_that_could_not_be_written_down_counts_once_and_is_written_down_later() -> None:
    world, a, b = linked()
    reader = b.read()
    a.fails = finishes
    a.send("d1", b"0")
    world.flush()
    assert reader.payloads == [b"0"]
    assert a.database.snapshot().backlogs  # the disk does not know
    world.loses = is_bundle
    a.send("d1", b"1")
    world.disconnect(a, b)
    world.loses = lambda *_: False
    world.connect(a, b)  # what waits is read from disk
    assert reader.payloads == [b"0", b"1"]
    assert counts(a) == {(0, 0, 0)}
    a.fails = lambda _: False
    a.send("d1", b"2")
    world.flush()
    assert not a.database.snapshot().backlogs
    assert len(a.node.spool.endings) == 0


def test_what_was_refused_stays_refused_after_a_crash() -> None:
    world, a, b = linked()
    world.disconnect(a, b)
    [id] = a.result(a.send("d1", b"x"))["ids"]
    a.ask(Remove, device="d1")
    [reply] = a.replies(a.wait_for(id, "delivered"))
    assert reply.error.code == "E_REFUSED"
    assert reply.error.message == "The message was refused: the device was removed from the mesh."
    world.flush()
    a.crash()
    assert a.query("trace", id)["state"] == "refused"
    assert a.code(a.wait_for(id, "delivered")) == "E_REFUSED"
    assert not a.database.snapshot().backlogs


def test_a_refusal_that_could_not_be_written_down_counts_once() -> None:
    world, a, b = linked()
    epoch = a.database.snapshot().facts["epoch"][b""]
    for payload in (b"0", b"1"):
        a.crash()
        world.connect(a, b)
        a.send("d1", payload)
    world.disconnect(a, b)
    a.database.apply([(0, [PutFact("epoch", b"", epoch)])], world.now_ms)
    a.start()
    stale = a.send("d1", b"copy", wait="delivered")
    a.fails = finishes
    world.connect(a, b)
    assert a.code(stale) == "E_REFUSED"
    world.loses = is_bundle
    a.send("d1", b"2")
    world.disconnect(a, b)
    world.loses = lambda *_: False
    world.connect(a, b)  # what waits is read from disk
    assert b.read().payloads == [b"0", b"1", b"2"]
    assert counts(a) == {(0, 0, 0)}


def test_a_floor_passes_what_could_not_be_written_down_at_first() -> None:
    world, a, b = linked()
    world.loses = is_bundle
    a.send("d1", b"0")
    a.crash()
    reader = b.read()
    world.loses = lambda *_: False
    a.fails = finishes
    world.connect(a, b)
    world.advance(1)
    reader.ack()
    world.flush()
    assert reader.payloads == [b"0"]
    assert a.node._parts.exchange._floors_due
    a.fails = lambda _: False
    a.send("d1", b"1")
    world.flush()
    assert not a.node._parts.exchange._floors_due


def test_an_expiry_that_could_not_be_written_down_counts_once() -> None:
    world, a, _ = linked()
    world.loses = is_bundle
    a.fails = finishes
    a.send("d1", b"0", lifetime_ms=1_000)
    world.advance(2)
    assert counts(a) == {(0, 0, 0)}
    a.send("d1", b"1", lifetime_ms=1_000)
    world.advance(2)
    assert counts(a) == {(0, 0, 0)}


@pytest.mark.parametrize("read", [ReadExpired, ReadExpiredInbox])
def test_what_comes_while_the_disk_is_asked_for_what_has_expired_expires_too(read: type) -> None:
    world, a, b = linked()
    one = a if read is ReadExpired else b
    world.loses = is_bundle if read is ReadExpired else world.loses
    a.send("d1", b"0", lifetime_ms=1_000)
    one.is_store_held = True
    world.advance(1.5)
    assert [type(request.read) for request in one.store if hasattr(request, "read")] == [read]
    a.send("d1", b"1", lifetime_ms=3_000)
    one.run_store(next(i for i, request in enumerate(one.store, 1) if hasattr(request, "read")))
    world.pump()
    one.is_store_held = False
    world.advance(3.5)
    assert counts(a) == {(0, 0, 0)}
    assert not b.database.snapshot().inbox_usage
