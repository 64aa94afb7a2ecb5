"""Prometheus text of what the node counts: a collector of our own over plain numbers, read at the moment of the scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.metrics import COUNTER, HISTOGRAM, Family, Sample

CONTENT_TYPE = CONTENT_TYPE_LATEST


def _metric(family: Family) -> Metric:
    labels = sorted({name for sample in family.samples for name in sample.labels})
    if family.kind == HISTOGRAM:
        histogram = HistogramMetricFamily(family.name, family.help, labels=labels)
        for sample in family.samples:
            _add_histogram(histogram, sample, labels)
        return histogram
    plain = (CounterMetricFamily if family.kind == COUNTER else GaugeMetricFamily)(family.name, family.help, labels=labels)
    for sample in family.samples:
        plain.add_metric([sample.labels.get(name, "") for name in labels], sample.value)
    return plain


def _add_histogram(metric: HistogramMetricFamily, sample: Sample, labels: list[str]) -> None:
    data = sample.histogram
    if data is None:
        return
    bounds = [f"{bound * sample.scale:.12g}" for bound in data.bounds] + ["+Inf"]
    buckets = list(zip(bounds, map(float, accumulate(data.counts)), strict=True))
    metric.add_metric([sample.labels.get(name, "") for name in labels], buckets, data.total * sample.scale)


class NodeCollector(Collector):
    """Asks the node for its families at each scrape. Families of one name are merged: Prometheus refuses a text that has one twice."""

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        merged: dict[str, Family] = {}
        for family in self._families():
            known = merged.get(family.name)
            merged[family.name] = family if known is None else known._replace(samples=known.samples + family.samples)
        for family in merged.values():
            yield _metric(family)

    def describe(self) -> Iterable[Metric]:
        return ()


class MetricsText:
    """Renders the text; process metrics (CPU, memory, descriptors) are included."""

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(NodeCollector(families))
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        return generate_latest(self._registry)
