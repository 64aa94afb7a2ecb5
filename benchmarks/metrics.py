"""The metrics of workloads: what a name means, its unit, and which way is better. Statistics over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """`better`: "more" or "less"; "" for what is neither, and what has no ratio."""

    label: str
    unit: str
    digits: int
    better: str = "less"
    shown: bool = True


METRICS = {
    "mb_per_s": Metric("MB/s", "MB/s", 1, "more"),
    "records_per_s": Metric("records/s", "records/s", 0, "more"),
    "transactions_per_s": Metric("transactions/s", "/s", 0, "more"),
    "commits_per_s": Metric("commits/s", "/s", 0, "more"),
    "beats_per_s": Metric("heartbeats/s", "/s", 0, ""),
    "cpu_s_per_gb": Metric("brokers' CPU s/GB", "s/GB", 2),
    "p50_ms": Metric("p50 ms", "ms", 2),
    "p99_ms": Metric("p99 ms", "ms", 2),
    "p999_ms": Metric("p99.9 ms", "ms", 2),
    "max_ms": Metric("max ms", "ms", 1, shown=False),
    "start_s": Metric("all brokers seen after s", "s", 2),
    "first_write_s": Metric("first write acknowledged after s", "s", 2),
    "gap_median_s": Metric("gap, median s", "s", 2),
    "gap_max_s": Metric("gap, max s", "s", 2),
    "seconds": Metric("s", "s", 2),
    "first_join_s": Metric("first join s", "s", 2),
    "max_s": Metric("max s", "s", 2),
    "cpu_s": Metric("brokers' CPU s", "s", 2),
    "cpu_percent": Metric("brokers' CPU, % of a core", "%", 1),
    "cpu_percent_per_node": Metric("a node's CPU, % of a core", "%", 2),
    "cpu_ms_per_request": Metric("brokers' CPU ms/request", "ms", 3),
    "read_bytes_per_request": Metric("bytes read/request", "bytes", 0),
    "rss_mb": Metric("largest node's memory, MB", "MB", 0),
    "written_per_byte": Metric("bytes written per byte sent", "", 2),
    "written_mb": Metric("MB written", "MB", 0, "", shown=False),
    "read_mb": Metric("MB read", "MB", 0, "", shown=False),
    "rounds": Metric("rounds", "", 0, ""),
    "failed": Metric("failed", "", 0, "", shown=False),
}


@dataclass(frozen=True, slots=True)
class Spread:
    """Of the rounds of one metric."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values), len(values))

    def text(self, digits: int) -> str:
        """Median, with the range when there is one that shows."""
        low, high = number(self.low, digits), number(self.high, digits)
        return number(self.median, digits) + (f" ({low}–{high})" if low != high else "")


def shown(value: float, metric: str) -> str:
    """With its unit."""
    return f"{number(value, METRICS[metric].digits)} {METRICS[metric].unit}".strip()


def number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def ratio(value: float, reference: float) -> float | None:
    """None where a ratio says nothing."""
    return value / reference if reference else None
