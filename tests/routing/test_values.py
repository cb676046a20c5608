"""Seqnos, distances, metrics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.ids import Epoch, NodeId
from meshd.routing import metric
from meshd.routing.seqno import Announcement, Seqno, Verdict, signer, verifier
from meshd.routing.source import Distance, Source
from meshd.trust.identity import Identity
from meshd.wire.routing import MAX_SEQNO
from tests.routing.simulation import node_id, seqno

seqnos = st.builds(
    Seqno, st.builds(Epoch, st.integers(1, 3), st.sampled_from((bytes(8), b"\xff" * 8))), st.integers(0, 3)
)
distances = st.builds(Distance, seqnos, st.integers(0, 4))


@given(distances, distances, distances)
def test_distances_are_in_a_strict_total_order(a: Distance, b: Distance, c: Distance) -> None:
    assert a.is_closer_than(b) + b.is_closer_than(a) + (a == b) == 1
    if a.is_closer_than(b) and b.is_closer_than(c):
        assert a.is_closer_than(c)


@pytest.mark.parametrize(
    ("closer", "farther"),
    [
        (Distance(seqno(1), 500), Distance(seqno(0), 1)),
        (Distance(seqno(0, epoch=2), 500), Distance(seqno(9, epoch=1), 1)),
        (Distance(seqno(1), 4), Distance(seqno(1), 5)),
    ],
)
def test_a_newer_epoch_beats_a_newer_number_beats_a_smaller_metric(closer: Distance, farther: Distance) -> None:
    assert closer.is_closer_than(farther)


@given(st.lists(distances, min_size=1))
def test_the_feasibility_distance_is_the_closest_ever_offered(offers: list[Distance]) -> None:
    source = Source(Announcement(node_id("d"), seqno(0), b""))
    for offer in offers:
        source.offered(offer)
    assert source.feasibility in offers
    assert not any(source.is_feasible(offer) for offer in offers)


def test_what_is_asked_for_is_newer_than_what_was_offered_and_not_older_than_what_is_known() -> None:
    source = Source(Announcement(node_id("d"), seqno(4), b""))
    assert source.wanted == seqno(4)
    source.offered(Distance(seqno(4), 7))
    assert source.wanted == seqno(5)
    source.newest = Announcement(node_id("d"), seqno(0, epoch=2), b"")
    assert source.wanted == seqno(0, epoch=2)


def test_a_seqno_does_not_wrap() -> None:
    assert seqno(7).next == seqno(8)
    assert seqno(MAX_SEQNO).next == seqno(MAX_SEQNO)


def test_only_the_destination_can_sign_its_seqno() -> None:
    device, other = Identity.from_seed(bytes(32)), Identity.from_seed(b"\1" * 32)
    keys = {device.node_id: device.public_key, other.node_id: other.public_key}
    verify = verifier(keys.get)
    signature = signer(device)(seqno(3))
    assert verify(Announcement(device.node_id, seqno(3), signature)) is Verdict.GENUINE
    assert verify(Announcement(device.node_id, seqno(4), signature)) is Verdict.FORGED
    assert verify(Announcement(device.node_id, seqno(3, epoch=2), signature)) is Verdict.FORGED
    assert verify(Announcement(other.node_id, seqno(3), signature)) is Verdict.FORGED
    assert verify(Announcement(device.node_id, seqno(3), signer(other)(seqno(3)))) is Verdict.FORGED
    assert verify(Announcement(NodeId(bytes(16)), seqno(3), signature)) is Verdict.UNKNOWN


@given(st.integers(0, 10**9))
def test_a_quantised_cost_is_in_bounds_and_at_most_an_eighth_more(cost: int) -> None:
    quantised = metric.quantised(cost)
    assert metric.COST_MIN <= quantised <= metric.COST_MAX
    if 1 <= cost <= metric.COST_MAX:
        assert cost <= quantised <= cost * 1.125


@given(st.integers(0, metric.INFINITY), st.integers(metric.COST_MIN, metric.COST_MAX))
def test_a_metric_grows_with_each_link_or_is_infinite(before: int, cost: int) -> None:
    after = metric.extended(before, cost)
    assert before < after <= metric.INFINITY or after == before == metric.INFINITY


@pytest.mark.parametrize(
    ("used", "measured", "result"), [(100, 80, 100), (100, 120, 100), (100, 79, 80), (100, 121, 128)]
)
def test_a_link_cost_stays_until_it_is_a_fifth_off(used: int, measured: int, result: int) -> None:
    assert metric.damped(used, measured) == result


@pytest.mark.parametrize(
    ("told", "now", "is_news"),
    [
        (80, 90, False),
        (80, 91, True),
        (80, 69, True),
        (80, 70, False),
        (metric.INFINITY, metric.INFINITY, False),
        (60000, metric.INFINITY, True),
        (metric.INFINITY, 60000, True),
    ],
)
def test_small_changes_of_a_metric_are_no_news(told: int, now: int, is_news: bool) -> None:
    assert metric.is_news(told, now) is is_news
