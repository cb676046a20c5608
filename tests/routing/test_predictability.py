"""RFC 6693's delivery predictability: its equations, and what holds whatever happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.ids import NodeId
from meshd.routing.predictability import (
    BETA,
    DELTA,
    GAMMA,
    I_TYP_S,
    MAX_KNOWN,
    P_ENCOUNTER_FIRST,
    P_ENCOUNTER_MAX,
    P_FIRST_THRESHOLD,
    TIME_UNIT_S,
    Known,
    Predictabilities,
    aged,
    encountered,
)

DAY = 86_400.0
ME, A, B, C = (NodeId(bytes([number]) * 16) for number in range(4))


def test_the_first_meeting_and_the_next_ones() -> None:
    table = Predictabilities()
    assert table.of(A, 0.0) == 0
    table.met(A, 0.0)
    assert table.of(A, 0.0) == P_ENCOUNTER_FIRST
    table.parted(A, I_TYP_S)
    expected = P_ENCOUNTER_FIRST + (1 - DELTA - P_ENCOUNTER_FIRST) * P_ENCOUNTER_MAX
    assert table.of(A, I_TYP_S) == pytest.approx(expected)


def test_half_the_typical_interval_counts_half() -> None:
    assert encountered(0.5, I_TYP_S / 2) == pytest.approx(0.5 + (1 - DELTA - 0.5) * P_ENCOUNTER_MAX / 2)


def test_a_link_that_flaps_is_one_meeting() -> None:
    table = Predictabilities()
    for number in range(20):
        table.met(A, float(number))
        table.parted(A, number + 0.5)
    assert table.of(A, 20.0) < P_ENCOUNTER_FIRST + 0.02


def test_it_ages_but_not_while_they_are_together() -> None:
    table = Predictabilities()
    table.met(A, 0.0)
    assert table.of(A, 30 * DAY) == P_ENCOUNTER_FIRST
    table.parted(A, 30 * DAY)
    before = table.of(A, 30 * DAY)
    assert table.of(A, 31 * DAY) == pytest.approx(before * GAMMA ** (DAY / TIME_UNIT_S))
    assert table.of(A, 90 * DAY) == 0, "as if it had never been met"


def test_it_counts_at_second_hand() -> None:
    table = Predictabilities()
    table.met(A, 0.0)
    table.heard(ME, A, {B: 0.9, ME: 1.0, A: 1.0}, 0.0)
    assert table.of(B, 0.0) == pytest.approx(P_ENCOUNTER_FIRST * 0.9 * BETA)
    assert table.of(ME, 0.0) == 0
    assert table.of(A, 0.0) == P_ENCOUNTER_FIRST
    table.heard(ME, A, {B: 0.3}, 0.0)
    assert table.of(B, 0.0) == pytest.approx(P_ENCOUNTER_FIRST * 0.9 * BETA), "the highest counts"


def test_a_meeting_after_hearsay_is_a_first_one() -> None:
    table = Predictabilities()
    table.met(A, 0.0)
    table.heard(ME, A, {B: 0.9}, 0.0)
    table.met(B, 1.0)
    assert table.of(B, 1.0) == P_ENCOUNTER_FIRST


def test_who_nobody_here_meets_says_nothing() -> None:
    table = Predictabilities()
    table.heard(ME, A, {B: 1.0}, 0.0)
    assert table.of(B, 0.0) == 0


def test_a_commuter_is_likelier_than_one_who_once_was_there() -> None:
    commuter, once = Predictabilities(), Predictabilities()
    once.met(A, 0.0)
    once.parted(A, 30 * DAY)
    for day in range(30, 35):
        commuter.met(A, day * DAY)
        commuter.parted(A, day * DAY + 8 * 3600)
    assert commuter.of(A, 35 * DAY) > once.of(A, 35 * DAY)


def test_members_that_left_are_forgotten_and_what_changed_is_told_once() -> None:
    table = Predictabilities()
    table.met(A, 0.0)
    table.met(B, 0.0)
    assert [node for node, _ in table.take_changed()] == [A, B]
    assert table.take_changed() == []
    table.retain({B})
    assert table.take_changed() == [(A, None)]
    assert table.of(A, 0.0) == 0


def test_the_least_likely_is_forgotten_when_there_are_too_many() -> None:
    nodes = [NodeId(number.to_bytes(16, "big")) for number in range(MAX_KNOWN + 1)]
    table = Predictabilities({node: Known(0.9, 0.0, 0.0) for node in nodes[1:]} | {nodes[0]: Known(0.2, 0.0, 0.0)})
    table.met(C, 1.0)
    assert table.known(nodes[0]) is None
    assert table.known(C) is not None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["met", "parted", "heard"]),
        st.sampled_from([A, B, C]),
        st.dictionaries(st.sampled_from([ME, A, B, C]), st.floats(0, 1)),
        st.floats(0, 3 * DAY),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_it_stays_within_bounds(steps: list[tuple[str, NodeId, dict[NodeId, float], float]]) -> None:
    table, now = Predictabilities(), 0.0
    for verb, node, vector, wait in steps:
        now += wait
        if verb == "met":
            table.met(node, now)
        elif verb == "parted":
            table.parted(node, now)
        else:
            table.heard(ME, node, vector, now)
        told = table.vector(now)
        assert ME not in told
        assert all(P_FIRST_THRESHOLD <= p <= 1 - DELTA for p in told.values())
        assert all(table.of(other, now + DAY) <= table.of(other, now) for other in (A, B, C))


@given(st.floats(0, 1 - DELTA), st.floats(0, 30 * DAY))
def test_a_meeting_never_lowers_it_and_time_never_raises_it(p: float, seconds: float) -> None:
    assert p <= encountered(p, seconds) <= 1 - DELTA or encountered(p, seconds) == p
    assert aged(p, seconds) <= p


@given(STEPS, STEPS)
def test_what_is_stored_gives_the_same_table(
    before: list[tuple[str, NodeId, dict[NodeId, float], float]],
    after: list[tuple[str, NodeId, dict[NodeId, float], float]],
) -> None:
    table, disk, now = Predictabilities(), dict[NodeId, Known](), 0.0
    for verb, node, vector, wait in [*before, *after]:
        now += wait
        if verb == "met":
            table.met(node, now)
        elif verb == "parted":
            table.parted(node, now)
        else:
            table.heard(ME, node, vector, now)
        for changed, known in table.take_changed():
            if known is None:
                del disk[changed]
            else:
                disk[changed] = known
    for node in (A, B, C):
        table.parted(node, now)
        for changed, known in table.take_changed():
            assert known is not None
            disk[changed] = known
    again = Predictabilities(disk)
    assert again.vector(now + DAY) == table.vector(now + DAY)
