"""The neutral form in which the node tells what it has counted: families of samples over plain numbers.

Owns: `Family` and `Sample`. Counts nothing itself and does not know Prometheus (`admin_api.metrics` renders).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from wal.metrics import Histogram

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
