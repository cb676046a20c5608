"""The books of one lease, without a node: what is shown, what a position covers, what comes again."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.delivery.mailbox_effects import Limits
from meshd.errors import MeshdError
from meshd.http.position import format_position, parse_position
from meshd.http.reader import Reader, spans
from meshd.wire.bundle import Message, encode_messages

ANY = 10**9


def batch(offset: int, count: int = 1, *, priority: int = 2, size: int = 1, index: int = 0) -> list[Any]:
    """A batch as the node hands it out; its messages are told apart by their offset."""
    messages = encode_messages([Message(b"x" * size) for _ in range(count)])
    ref = bytes((priority,)) * 2 + offset.to_bytes(8, "big")
    return [priority, offset, count, ref, b"s" * 16, "pi", 5, False, False, None, messages, index]


def shown(reader: Reader, count: int = ANY, size_bytes: int = ANY) -> list[tuple[int, int]]:
    return [message.place for message in reader.show(count, size_bytes)]


def test_messages_are_shown_in_the_order_they_were_handed_out() -> None:
    reader = Reader("s", {})
    assert reader.take([batch(5, 3), batch(1, priority=0)])[0] == 4
    assert shown(reader, 2) == [(2, 5), (2, 6)]
    assert shown(reader) == [(2, 7), (0, 1)]
    assert reader.position == {0: 1, 2: 7}


def test_an_answer_is_bounded_in_bytes_but_never_empty() -> None:
    reader = Reader("s", {})
    reader.take([batch(0, 3, size=10)])
    assert shown(reader, ANY, 20) == [(2, 0), (2, 1)]
    assert shown(reader, ANY, 1) == [(2, 2)]
    assert reader.waiting_bytes == 0


def test_a_position_covers_what_was_shown_up_to_it_in_each_priority() -> None:
    reader = Reader("s", {})
    reader.take([batch(0, 3), batch(0, 3, priority=1)])
    shown(reader)
    for position, covered in (
        ({}, set()),
        ({2: 0}, {(2, 0)}),
        ({2: 1, 1: 0}, {(2, 0), (2, 1), (1, 0)}),
        ({0: 9}, set()),
        ({2: 9, 1: 9}, {(priority, offset) for priority in (1, 2) for offset in range(3)}),
    ):
        assert set(reader.up_to(position).values()) == covered


def test_a_reader_is_spent_when_nothing_is_in_hand_read_ahead_or_given_back() -> None:
    reader = Reader("s", {})
    assert (reader.has_unacked, reader.is_spent) == (False, True)
    reader.take([batch(0)])
    assert (reader.has_unacked, reader.is_spent) == (False, False)
    [message] = reader.show(ANY, ANY)
    assert (reader.has_unacked, reader.is_spent) == (True, False)
    reader.acknowledged([message.id])
    assert (reader.has_unacked, reader.is_spent) == (False, True)
    assert not Reader("s", {2: 6}, returned={(2, 5)}).is_spent


def test_what_a_client_has_read_before_is_acknowledged_and_not_shown() -> None:
    reader = Reader("s", {2: 6})
    assert reader.take([batch(5, 3)])[2] == [(2, 5), (2, 6)]
    assert shown(reader) == [(2, 7)]


def test_what_was_given_back_before_is_shown_all_the_same() -> None:
    reader = Reader("s", {2: 6}, returned={(2, 5)})
    assert reader.position == {2: 4}
    assert reader.take([batch(5, 3)])[2] == [(2, 6)]
    assert shown(reader) == [(2, 5), (2, 7)]
    assert reader.position == {2: 7}


def test_a_position_stays_behind_what_was_given_back_until_that_is_shown_again() -> None:
    reader = Reader("s", {})
    reader.take([batch(5, 3)])
    names = [message.id for message in reader.show(ANY, ANY)]
    reader.gave_back(names[1:2])
    assert reader.position == {2: 5}
    assert sorted(reader.up_to({2: 99}).values()) == [(2, 5), (2, 7)]
    reader.take([batch(6)])
    assert shown(reader) == [(2, 6)]
    assert reader.position == {2: 7}


def test_what_is_given_back_too_often_is_not_waited_for() -> None:
    reader = Reader("s", {})
    for attempt in range(Limits().attempts):
        assert reader.position.get(2, 0) == (4 if attempt else 0)
        reader.take([batch(5)])
        [message] = reader.show(ANY, ANY)
        reader.gave_back([message.id])
    assert reader.position == {2: 5}


def test_acknowledged_messages_are_forgotten() -> None:
    reader = Reader("s", {})
    reader.take([batch(5, 2)])
    [one, two] = reader.show(ANY, ANY)
    reader.acknowledged([one.id, "unknown"])
    assert reader.named([one.id, two.id]) == {two.id: (2, 6)}
    reader.acknowledged([two.id])
    assert not reader.has_unacked


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 40))))
def test_spans_hold_exactly_the_places(places: set[tuple[int, int]]) -> None:
    found = spans(places)
    assert {(p, offset) for p, first, last in found for offset in range(first, last + 1)} == places
    assert all(a[0] != b[0] or a[2] + 1 < b[1] for a, b in pairwise(found))


@given(st.dictionaries(st.integers(0, 3), st.integers(0, 2**62)))
def test_a_position_is_read_as_it_was_written(position: dict[int, int]) -> None:
    assert parse_position(format_position(position)) == position


@pytest.mark.parametrize("text", ["x", "1", "1.", ".1", "4.0", "1.1-", "1.-1", "1.1,2.2", "1.1 ", "1." + "9" * 20])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(MeshdError, match="position"):
        parse_position(text)
