"""Batches from the daemon, and acks to it."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.client.delivery import Delivery, Missing, Spans, each, read_batch
from meshd.errors import MeshdError
from meshd.wire import codec
from tests.api.test_protocol import plain

MESSAGES = codec.encode([b"a", [b"b", {"k": "v"}, "answers"]])
BATCH = [2, 40, 2, b"r" * 10, b"s" * 16, "kitchen", 90, True, False, {"bundles": 3, "reason": "expired"}, MESSAGES]


def test_batch_becomes_messages() -> None:
    first, second = each(read_batch(BATCH), Delivery, None)
    assert (first.payload, second.payload) == (b"a", b"b")
    assert (second.headers, second.reply_to) == ({"k": "v"}, "answers")
    assert (first.sequence, second.sequence) == (40, 41)
    assert (first.id[-2:], second.id[-2:]) == ("-0", "-1")
    assert first.redelivered
    assert not first.late
    assert first.missing == Missing(3, "expired")
    assert second.missing is None
    assert first.age_s == 0.09
    assert read_batch(BATCH).payloads == [b"a", b"b"]


def test_batch_that_begins_within_its_bundle_has_the_right_ids() -> None:
    (first, _) = each(read_batch([*BATCH, 17]), Delivery, None)
    assert first.id.endswith("-17")


def test_source_without_a_name_is_shown_by_its_id() -> None:
    batch = read_batch([*BATCH[:5], None, *BATCH[6:]])
    assert len(batch.source_name) == 26


@pytest.mark.parametrize("place", range(11))
def test_every_field_is_checked(place: int) -> None:
    wrong = list(BATCH)
    wrong[place] = object
    with pytest.raises(MeshdError) as caught:
        read_batch(wrong)
    assert caught.value.code == "E_UNSUPPORTED"


@given(plain | st.tuples(st.integers(0, 10), plain).map(lambda change: [*BATCH[: change[0]], *BATCH[change[0] :]]))
def test_any_batch_is_read_or_refused(value: object) -> None:
    with contextlib.suppress(MeshdError):
        read_batch(value)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30))), st.integers(1, 5))
def test_spans_hold_exactly_what_was_added(offsets: list[tuple[int, int]], maximum: int) -> None:
    spans = Spans()
    for priority, offset in offsets:
        spans.add(priority, offset, offset)
    seen = set()
    while spans:
        taken = spans.take(maximum)
        assert all([span[0] for span in taken].count(priority) <= maximum for priority in range(4))
        seen |= {(priority, offset) for priority, first, last in taken for offset in range(first, last + 1)}
    assert seen == set(offsets)


def test_consecutive_offsets_are_one_span() -> None:
    spans = Spans()
    for offset in range(1000):
        spans.add(2, offset, offset)
    assert spans.take(10) == [[2, 0, 999]]
