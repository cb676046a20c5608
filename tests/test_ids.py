"""Identifiers: their text comes back, and nothing else is taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.ids import (
    BundleRef,
    Epoch,
    Flow,
    NodeId,
    Number,
    Priority,
    bundle_ref,
    format_message_id,
    from_text,
    is_device_name,
    is_service_name,
    node_id_of,
    parse_message_id,
    parse_node_id,
    to_text,
)
from tests.trust.people import device


@given(st.binary(max_size=40))
def test_text_comes_back(raw: bytes) -> None:
    assert from_text(to_text(raw)) == raw


@given(st.text(max_size=30))
def test_what_is_taken_is_canonical(text: str) -> None:
    try:
        raw = from_text(text)
    except ValueError:
        return
    assert to_text(raw) == text


@given(st.binary(min_size=16, max_size=16))
def test_node_ids(raw: bytes) -> None:
    text = to_text(raw)
    assert len(text) == 26
    assert parse_node_id(text) == raw
    for other in (text.upper(), text[:-1], text + "a", f" {text}", f"{text}\n", text[:-1] + "b"):
        if other != text:
            with pytest.raises(ValueError, match=r"not a device id|canonical"):
                parse_node_id(other)


@given(st.binary(min_size=10, max_size=10), st.integers(0, 255))
def test_message_ids(raw: bytes, index: int) -> None:
    text = format_message_id(BundleRef(raw), index)
    assert parse_message_id(text) == (raw, index)


@pytest.mark.parametrize(
    "text", ["", "-", "a" * 16, "a" * 16 + "-", "a" * 16 + "-1000", "A" * 16 + "-1", "a" * 16 + "-1\n"]
)
def test_no_message_ids(text: str) -> None:
    with pytest.raises(ValueError, match="not a message id"):
        parse_message_id(text)


def test_a_reference_tells_every_part_of_flow_and_number() -> None:
    one, two = NodeId(bytes(16)), NodeId(b"\x01" * 16)
    flows = [
        Flow(one, two, Priority.HIGH),
        Flow(two, one, Priority.HIGH),
        Flow(one, two, Priority.BULK),
        Flow(one, two, Priority.HIGH, ephemeral=True),
    ]
    numbers = [Number(Epoch(1, bytes(8)), 1), Number(Epoch(2, bytes(8)), 1), Number(Epoch(1, bytes(8)), 2)]
    numbers.append(Number(Epoch(1, b"\x01" * 8), 1))
    refs = {bundle_ref(flow, number) for flow in flows for number in numbers}
    assert len(refs) == len(flows) * len(numbers)
    assert {len(ref) for ref in refs} == {10}


def test_numbers_order_by_epoch_then_chance_then_sequence() -> None:
    ordered = [(1, b"b", 9), (2, b"a", 9), (2, b"b", 1), (2, b"b", 2)]
    numbers = [Number(Epoch(counter, rand), sequence) for counter, rand, sequence in ordered]
    backwards = numbers[::-1]
    assert sorted(backwards) == numbers


def test_a_node_id_is_of_its_key() -> None:
    assert node_id_of(b"one") != node_id_of(b"two")
    assert len(device(1).node_id) == 16


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "0", "x" * 63])
def test_names(name: str) -> None:
    assert is_service_name(name)
    assert is_device_name(name)


@pytest.mark.parametrize("name", ["", ".a", "-a", "_a", "a b", "a/b", "é", "x" * 65, "a\n"])
def test_no_names(name: str) -> None:
    assert not is_service_name(name)
    assert not is_device_name(name)


def test_a_device_name_never_looks_like_an_id() -> None:
    assert not is_device_name(to_text(device(1).node_id))
    assert is_service_name(to_text(device(1).node_id))
