"""What the broker counts, and the neutral form in which it is told: families of samples over plain numbers.

Owns: the counters that handlers and connections bump, and `Family`/`Sample`. Does not know Prometheus (`admin_api.metrics` renders). Loop only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from wal.metrics import LATENCY_BOUNDS_MS, Histogram

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"


class Sample(NamedTuple):
    """One line: labels and a value; of a histogram family, the histogram and the factor that brings its values into the family's unit."""

    labels: Mapping[str, str] = {}
    value: float = 0.0
    histogram: Histogram | None = None
    scale: float = 1.0


class Family(NamedTuple):
    """All samples of one name. `kind` is GAUGE, COUNTER (the name ends in _total) or HISTOGRAM."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


def gauge(name: str, help_text: str, value: float, **labels: str) -> Family:
    return Family(name, GAUGE, help_text, (Sample(labels, value),))


def counter(name: str, help_text: str, value: float, **labels: str) -> Family:
    return Family(name, COUNTER, help_text, (Sample(labels, value),))


def histogram(name: str, help_text: str, data: Histogram, scale: float = 1.0, **labels: str) -> Family:
    return Family(name, HISTOGRAM, help_text, (Sample(labels, 0.0, data, scale),))


class BrokerMetrics:
    """Counters of one broker since its start. Handlers bump the plain attributes; nothing here allocates in the ordinary path."""

    __slots__ = (
        "fetch_bytes",
        "fetch_requests",
        "produce_bytes",
        "produce_errors",
        "produce_requests",
        "request_errors",
        "request_latency_ms",
    )

    def __init__(self) -> None:
        self.produce_requests = 0
        self.produce_bytes = 0
        self.produce_errors = 0
        self.fetch_requests = 0
        self.fetch_bytes = 0
        self.request_errors = 0
        self.request_latency_ms: dict[str, Histogram] = {}

    def observe_request(self, api: str, latency_ms: float) -> None:
        """Time from a request's last byte to its answer, by API name ("Produce")."""
        found = self.request_latency_ms.get(api)
        if found is None:
            found = self.request_latency_ms[api] = Histogram(LATENCY_BOUNDS_MS)
        found.observe(latency_ms)

    def families(self) -> Iterable[Family]:
        """Everything counted so far, in base units."""
        yield counter("chronik_produce_requests_total", "Produce requests received.", self.produce_requests)
        yield counter("chronik_produce_bytes_total", "Bytes of record batches accepted.", self.produce_bytes)
        yield counter("chronik_produce_errors_total", "Partitions of produce requests answered with an error.", self.produce_errors)
        yield counter("chronik_fetch_requests_total", "Fetch requests received.", self.fetch_requests)
        yield counter("chronik_fetch_bytes_total", "Bytes of record batches sent to consumers.", self.fetch_bytes)
        yield counter("chronik_request_errors_total", "Requests that ended with an unexpected error or a closed connection.", self.request_errors)
        samples = tuple(Sample({"api": api}, 0.0, data, 0.001) for api, data in sorted(self.request_latency_ms.items()))
        yield Family("chronik_request_latency_seconds", HISTOGRAM, "Time from a request's last byte to its answer.", samples)
