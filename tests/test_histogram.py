"""Histograms: what is counted where."""

import math

from meshd.histogram import Distribution, Histogram


def test_a_value_counts_in_every_bucket_from_its_own_on() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.2, 1.0, 7.0):
        histogram.observe(value)
    buckets = ((0.1, 2), (1.0, 4), (math.inf, 5))
    assert histogram.snapshot() == Distribution(buckets, 0.05 + 0.1 + 0.2 + 1.0 + 7.0)


def test_nothing_observed() -> None:
    assert Histogram((1.0,)).snapshot() == Distribution(((1.0, 0), (math.inf, 0)), 0.0)
