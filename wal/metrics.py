"""Counting that costs next to nothing: histograms with fixed buckets over plain integers.

Owns: the one metric type that every layer may use. Knows neither Prometheus nor names. One writer thread per histogram; readers may be late by one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

LATENCY_BOUNDS_MS: tuple[float, ...] = (0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 250, 500, 1_000, 2_500, 5_000, 10_000)


class Histogram:
    """Counts observations. Invariants: bounds ascend; counts[i] counts what is in (bounds[i-1], bounds[i]], the last one what is above all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = LATENCY_BOUNDS_MS) -> None:
        if not bounds or any(low >= high for low, high in pairwise(bounds)):
            raise ValueError("bounds must ascend")
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The value below which `share` (0..1) of the observations lie, interpolated within its bucket; 0.0 without observations.

        What lies above the last bound is reported as the last bound.
        """
        wanted = share * self.count
        seen, low = 0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and seen + count >= wanted:
                return low + (bound - low) * max(0.0, wanted - seen) / count
            seen += count
            low = bound
        return low if seen < self.count else 0.0
