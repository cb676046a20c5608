"""Metrics as OpenMetrics text. Imported when somebody asks for the first time: prometheus_client takes its room."""

import math
from collections.abc import Callable, Iterator, Mapping

import attrs
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as PrometheusFamily
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from meshd.histogram import Distribution
from meshd.node.insight.metrics import Family, Kind


def openmetrics(families: tuple[Family, ...]) -> dict[str, str]:
    """The answer to a request for metrics: ``content_type`` and ``text``, with those of the process itself added."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(families))
    ProcessCollector(registry=registry)
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]  # the library has no type for it
    return {"content_type": CONTENT_TYPE_LATEST, "text": text.decode()}


@attrs.frozen
class _Snapshot(Collector):
    families: tuple[Family, ...]

    def collect(self) -> Iterator[PrometheusFamily]:
        for family in self.families:
            yield _FORMS[family.metric.kind](family)


def _counter(family: Family) -> PrometheusFamily:
    made = CounterMetricFamily(family.metric.name, family.metric.meaning, labels=family.metric.labels)
    for sample in family.samples:
        made.add_metric(sample.labels, _number(sample.value))
    return made


def _gauge(family: Family) -> PrometheusFamily:
    made = GaugeMetricFamily(family.metric.name, family.metric.meaning, labels=family.metric.labels)
    for sample in family.samples:
        made.add_metric(sample.labels, _number(sample.value))
    return made


def _histogram(family: Family) -> PrometheusFamily:
    made = HistogramMetricFamily(family.metric.name, family.metric.meaning, labels=family.metric.labels)
    for sample in family.samples:
        assert isinstance(sample.value, Distribution)
        buckets = [
            ("+Inf" if bound == math.inf else str(bound), float(at_most)) for bound, at_most in sample.value.buckets
        ]
        made.add_metric(sample.labels, buckets, sample.value.total)
    return made


def _info(family: Family) -> PrometheusFamily:
    made = InfoMetricFamily(family.metric.name.removesuffix("_info"), family.metric.meaning)
    for sample in family.samples:
        made.add_metric((), dict(zip(family.metric.labels, sample.labels, strict=True)))
    return made


def _number(value: float | Distribution) -> float:
    assert not isinstance(value, Distribution)
    return value


_FORMS: Mapping[Kind, Callable[[Family], PrometheusFamily]] = {
    Kind.COUNTER: _counter,
    Kind.GAUGE: _gauge,
    Kind.HISTOGRAM: _histogram,
    Kind.INFO: _info,
}
