import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.links.quality import METRIC_MAX, Grade, Quality, QualitySnapshot, RoundTrip, metric


def measured(*, rtt: float = 0.001, loss: float = 0.0, throughput: float | None = None, flaps: int = 0) -> Quality:
    quality = Quality()
    quality.measured(rtt=rtt, throughput=throughput)
    rng = random.Random(1)
    for _ in range(2000):
        lost = rng.random() < loss
        quality.measured(answered=not lost, lost=lost)
    for _ in range(flaps):
        quality.flapped(0.0)
    return quality


def exact(*, rtt: float | None, loss: float) -> QualitySnapshot:
    return QualitySnapshot(rtt=rtt, rtt_variation=0.0, loss=loss, throughput=None, flaps=0, score=0, grade=Grade.GOOD)


def test_round_trip_follows_rfc_6298() -> None:
    trip = RoundTrip()
    assert trip.timeout == 1.0
    trip.add(0.1)
    assert (trip.smoothed, trip.variation) == (0.1, 0.05)
    trip.add(0.3)
    assert trip.variation == pytest.approx(0.75 * 0.05 + 0.25 * 0.2)
    assert trip.smoothed == pytest.approx(0.875 * 0.1 + 0.125 * 0.3)
    assert trip.timeout == pytest.approx(trip.smoothed + 4 * trip.variation)


@pytest.mark.parametrize(
    ("rtt", "loss", "grade"),
    [
        (0.050, 0.0, Grade.EXCELLENT),
        (0.051, 0.0, Grade.GOOD),
        (0.150, 0.0, Grade.GOOD),
        (0.151, 0.0, Grade.FAIR),
        (0.500, 0.0, Grade.FAIR),
        (0.501, 0.0, Grade.POOR),
        (0.001, 0.5, Grade.POOR),
    ],
)
def test_grades_have_the_documented_bounds(rtt: float, loss: float, grade: Grade) -> None:
    assert measured(rtt=rtt, loss=loss).snapshot(0.0).grade is grade


@pytest.mark.parametrize(("lost", "grade"), [(0, Grade.EXCELLENT), (1, Grade.GOOD), (2, Grade.FAIR), (4, Grade.POOR)])
def test_lost_probes_lower_the_grade(lost: int, grade: Grade) -> None:
    quality = Quality()
    quality.measured(rtt=0.001, answered=100)
    quality.measured(lost=lost)
    assert quality.snapshot(0.0).grade is grade
    quality.measured(answered=200)
    assert quality.snapshot(0.0).grade is Grade.EXCELLENT


def test_smoothed_loss_comes_near_the_real_one() -> None:
    assert measured(loss=0.2).snapshot(0.0).loss == pytest.approx(0.2, abs=0.15)


def test_score_falls_with_each_of_its_four_causes() -> None:
    best = measured().snapshot(0.0).score
    assert best >= 99
    worse = [
        measured(rtt=0.3).snapshot(0.0).score,
        measured(loss=0.3).snapshot(0.0).score,
        measured(throughput=20_000.0).snapshot(0.0).score,
        measured(flaps=10).snapshot(0.0).score,
    ]
    assert all(0 < score < best - 20 for score in worse)


def test_flaps_are_forgotten_after_an_hour() -> None:
    quality = measured(flaps=3)
    assert quality.snapshot(3599.0).flaps == 3
    assert quality.snapshot(3600.0).flaps == 0


def test_metric_is_etx_times_ten_plus_srtt_with_penalties() -> None:
    assert metric(exact(rtt=0.020, loss=0.0)) == 30
    assert metric(exact(rtt=0.020, loss=0.5)) == 60
    assert metric(exact(rtt=0.020, loss=0.0), relay=True) == 530
    assert metric(exact(rtt=0.020, loss=0.0), relay=True, metered=True) == 1030
    assert metric(exact(rtt=3600.0, loss=1.0)) == METRIC_MAX


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(0, 100), st.integers(0, 50), st.integers(0, 50), st.none() | st.floats(1, 1e10)
        ),
        max_size=30,
    ),
    st.integers(0, 100),
)
def test_bounds_hold_for_any_measurements(
    samples: list[tuple[float | None, int, int, float | None]], flaps: int
) -> None:
    quality = Quality()
    for rtt, answered, lost, throughput in samples:
        quality.measured(rtt=rtt, answered=answered, lost=lost, throughput=throughput)
    for _ in range(flaps):
        quality.flapped(1.0)
    snapshot = quality.snapshot(2.0)
    assert 0 <= snapshot.score <= 100
    assert 0 <= snapshot.loss <= 1
    assert snapshot.etx >= 1
    assert 1 <= metric(snapshot) <= METRIC_MAX
