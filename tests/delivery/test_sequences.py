"""A SequenceSet against a plain set."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshd.delivery.sequences import MAX_SPANS, SequenceSet

LIMIT = 60
members = st.integers(1, LIMIT)


class Sets(RuleBasedStateMachine):
    """Every operation on both; they never differ."""

    def __init__(self) -> None:
        super().__init__()
        self.real = SequenceSet()
        self.model: set[int] = set()

    @rule(sequence=members)
    def add(self, sequence: int) -> None:
        assert self.real.add(sequence) == (sequence not in self.model)
        self.model.add(sequence)

    @rule(first=members, length=st.integers(1, 10))
    def add_span(self, first: int, length: int) -> None:
        self.real.add_span(first, first + length - 1)
        self.model |= set(range(first, first + length))

    @rule(watermark=st.integers(-1, LIMIT))
    def raise_to(self, watermark: int) -> None:
        self.real.raise_to(watermark)
        self.model |= set(range(1, watermark + 1))

    @rule()
    def restart(self) -> None:
        self.real = SequenceSet(self.real.watermark, self.real.spans)

    @rule(limit=st.integers(0, LIMIT + 5))
    def missing_below(self, limit: int) -> None:
        found = {n for first, last in self.real.missing_below(limit) for n in range(first, last + 1)}
        assert found == set(range(1, limit)) - self.model

    @rule(first=st.integers(0, LIMIT), length=st.integers(0, 20))
    def missing_between(self, first: int, length: int) -> None:
        spans = self.real.missing_between(first, first + length)
        found = [n for one, last in spans for n in range(one, last + 1)]
        assert found == [n for n in range(max(first, 1), first + length + 1) if n not in self.model]

    @invariant()
    def same(self) -> None:
        assert [n for n in range(1, LIMIT + 15) if n in self.real] == sorted(self.model)
        assert self.real.highest == max(self.model, default=0)
        spans = self.real.spans
        assert all(first <= last for first, last in spans)
        ends = [self.real.watermark, *[last for _, last in spans]]
        assert all(first > end + 1 for (first, _), end in zip(spans, ends, strict=False))


Sets.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSets = Sets.TestCase


def test_its_memory_is_bounded_by_who_asks_for_room() -> None:
    numbers = SequenceSet()
    for sequence in range(2, 2 * MAX_SPANS + 2, 2):
        assert numbers.has_room_for(sequence)
        numbers.add(sequence)
    assert not numbers.has_room_for(10**6)
    assert numbers.has_room_for(1)
    assert numbers.has_room_for(4)


def test_it_is_no_key_and_equals_by_content() -> None:
    assert SequenceSet(3) == SequenceSet(0, [(1, 3)])
    assert SequenceSet(3) != SequenceSet(4)
    assert SequenceSet(3) != 3
    with pytest.raises(TypeError):
        hash(SequenceSet())
