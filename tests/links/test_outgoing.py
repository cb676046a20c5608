import pytest

from meshd.errors import LocalProtocolError
from meshd.links.outgoing import BATCH_BYTES, MAX_CONTROL_BYTES, Closing, Outgoing
from meshd.wire.frames import MAX_FRAME_BYTES, Cards, Ping, encode_frame
from tests.links.world import bundle


def test_what_is_queued_is_counted_until_it_is_taken() -> None:
    outgoing = Outgoing()
    outgoing.send_control(Ping(1))
    outgoing.send_bundle(bundle(b"x" * 100, head=b"h" * 10))
    assert outgoing.queued_bytes == len(encode_frame(Ping(1))) + 110
    assert outgoing.take_control() == [encode_frame(Ping(1))]
    assert outgoing.take_control() == []
    assert outgoing.queued_bytes == 110
    assert outgoing.take_bulk() == [encode_frame(bundle(b"x" * 100, head=b"h" * 10))]
    assert outgoing.queued_bytes == 0


def test_bulk_is_taken_in_bounded_batches_in_order() -> None:
    outgoing = Outgoing()
    for n in range(4):
        outgoing.send_bundle(bundle(bytes([n]) * 300_000))
    batches = []
    while batch := outgoing.take_bulk():
        batches.append(batch)
        assert sum(map(len, batch)) < BATCH_BYTES + MAX_FRAME_BYTES
    assert sum(map(len, batches)) == 4 * 5
    assert len(batches) >= 4


def test_closing_drops_bundles_even_half_sent_ones_and_keeps_control() -> None:
    outgoing = Outgoing()
    outgoing.send_bundle(bundle(bytes(1024 * 1024)))
    outgoing.send_bundle(bundle(b"next"))
    outgoing.take_bulk()
    outgoing.send_control(Ping(1))
    outgoing.close("closed", "enough")
    outgoing.close("P_FLOOD", "too late")
    outgoing.send_bundle(bundle(b"after"))
    outgoing.send_control(Ping(2))
    assert outgoing.take_bulk() == []
    assert outgoing.take_control() == [encode_frame(Ping(1))]
    assert outgoing.queued_bytes == 0
    assert outgoing.closing == Closing("closed", "enough")


def test_too_much_unsent_control_closes_and_frees_it() -> None:
    outgoing = Outgoing()
    big = Cards(tuple(bytes(4096) for _ in range(15)))
    while outgoing.closing is None:
        outgoing.send_control(big)
        assert outgoing.queued_bytes <= MAX_CONTROL_BYTES
    assert outgoing.closing.code == "P_FLOOD"
    assert outgoing.queued_bytes == 0


def test_a_frame_over_the_limit_is_our_bug() -> None:
    with pytest.raises(LocalProtocolError):
        Outgoing().send_control(Cards(tuple(bytes(4096) for _ in range(40))))


def test_a_probe_is_taken_once() -> None:
    outgoing = Outgoing()
    assert not outgoing.take_probe()
    outgoing.probe()
    assert outgoing.take_probe()
    assert not outgoing.take_probe()
