"""Receipts: what they say, and that they come back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.delivery.receipts import (
    MAX_EPOCHS,
    MAX_REFUSALS,
    EpochReceipt,
    Receipt,
    decode_receipt,
    encode_receipt,
    epoch_receipts,
)
from meshd.delivery.sequences import SequenceSet
from meshd.errors import RemoteProtocolError
from meshd.ids import Epoch, NodeId, Number, Priority
from meshd.wire.frames import Kind, Routed, decode_frame, encode_frame

uints = st.integers(0, 2**63 - 1)
epochs = st.builds(Epoch, uints, st.binary(min_size=8, max_size=8))
numbers = st.builds(Number, epochs, uints)
spans = st.lists(st.tuples(uints, uints), max_size=4).map(tuple)
receipts = st.builds(
    Receipt,
    priority=st.sampled_from(Priority),
    order=st.tuples(uints, uints),
    credit_bytes=uints,
    floor=st.none() | numbers,
    epochs=st.lists(st.builds(EpochReceipt, epochs, uints, spans, uints, spans), max_size=3).map(tuple),
    refused=st.lists(st.tuples(numbers, st.text(max_size=32)), max_size=3).map(tuple),
)

OLD, NOW = Epoch(1, bytes(8)), Epoch(2, bytes(8))


@given(receipts)
def test_round_trip(receipt: Receipt) -> None:
    assert decode_receipt(encode_receipt(receipt)) == receipt


@given(receipts, st.integers(0, 10**6), st.integers(0, 255))
def test_a_damaged_one_is_a_receipt_or_the_senders_fault(receipt: Receipt, place: int, byte: int) -> None:
    data = bytearray(encode_receipt(receipt))
    data[place % len(data)] = byte
    try:
        found = decode_receipt(bytes(data))
    except RemoteProtocolError:
        return
    assert decode_receipt(encode_receipt(found)) == found


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_receipt(b"\x88" + data)


def receipt(*told: EpochReceipt, floor: Number | None = None) -> Receipt:
    return Receipt(
        priority=Priority.NORMAL,
        order=(1, 1),
        credit_bytes=0,
        floor=floor,
        epochs=told,
        refused=((Number(NOW, 3), "no"),),
    )


def test_what_it_says() -> None:
    said = receipt(EpochReceipt(NOW, 3, ((6, 7),), 1, ((3, 3),)))
    assert [n for n in range(1, 10) if said.has_arrived(Number(NOW, n))] == [1, 2, 3, 6, 7]
    assert [n for n in range(1, 10) if said.is_consumed(Number(NOW, n))] == [1, 3]
    assert said.highest() == Number(NOW, 7)
    assert said.refusal_of(Number(NOW, 3)) == "no"
    assert said.refusal_of(Number(NOW, 2)) is None
    assert not said.has_arrived(Number(OLD, 1))
    assert receipt().highest() is None
    assert receipt(EpochReceipt(OLD, 9, (), 0, ()), EpochReceipt(NOW, 3, (), 0, ())).highest() == Number(NOW, 3)


def test_an_epoch_left_out_below_the_floor_is_consumed_but_arrived_only_if_told() -> None:
    said = receipt(EpochReceipt(NOW, 3, (), 1, ()), floor=Number(NOW, 1))
    assert said.is_consumed(Number(OLD, 4))
    assert not said.has_arrived(Number(OLD, 4))  # a copy's number may lie there too
    assert not receipt(EpochReceipt(NOW, 3, (), 1, ())).is_consumed(Number(OLD, 4))
    assert not receipt(EpochReceipt(OLD, 4, (), 3, ()), floor=Number(NOW, 1)).is_consumed(Number(OLD, 4))


@pytest.mark.parametrize("epoch", [NOW, Epoch(3, bytes(8))])
def test_an_epoch_left_out_that_is_not_below_the_floor_is_not_known_at_all(epoch: Epoch) -> None:
    said = receipt(EpochReceipt(OLD, 4, (), 4, ()), floor=Number(NOW, 5))
    assert not said.is_consumed(Number(epoch, 9))
    assert said.newly_consumed(epoch, None) == []


@pytest.mark.parametrize(
    ("told", "all_consumed"),
    [
        ((3, (), 3, ()), True),
        ((3, (), 2, ()), False),
        ((3, ((5, 6),), 3, ((5, 6),)), True),
        ((3, ((5, 6),), 3, ((5, 5),)), False),
    ],
)
def test_it_tells_whether_anything_waits_for_its_reader(told: tuple[Any, ...], all_consumed: bool) -> None:
    done = EpochReceipt(OLD, 4, (), 4, ())
    assert receipt(done, EpochReceipt(NOW, *told)).is_all_consumed() is all_consumed


@given(st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30)))
def test_newly_consumed_is_the_difference(before: set[int], more: set[int]) -> None:
    def said(consumed: set[int]) -> Receipt:
        numbers = SequenceSet()
        for number in consumed:
            numbers.add(number)
        return receipt(*epoch_receipts([(NOW, SequenceSet(30), numbers)]))

    spans = said(before | more).newly_consumed(NOW, said(before))
    assert {n for first, last in spans for n in range(first, last + 1)} == more - before
    everything = said(before | more).newly_consumed(NOW, None)
    assert {n for first, last in everything for n in range(first, last + 1)} == before | more


def test_the_largest_one_fits_into_its_frame() -> None:
    high = 2**62
    holes = SequenceSet(0, [(high + 2 * i, high + 2 * i) for i in range(1024)])
    told = epoch_receipts([(Epoch(2**62 + i, bytes(8)), holes, holes) for i in range(MAX_EPOCHS)])
    refused = tuple((Number(Epoch(2**62, bytes(8)), high + i), "too-many-services") for i in range(MAX_REFUSALS))
    largest = Receipt(
        priority=Priority.BULK,
        order=(high, high),
        credit_bytes=high,
        floor=Number(NOW, high),
        epochs=told,
        refused=refused,
    )
    frame = Routed(NodeId(bytes(16)), NodeId(bytes(16)), 16, Kind.RECEIPT, encode_receipt(largest))
    assert decode_frame(encode_frame(frame)) == frame
