"""Latency at fixed rates: to the acknowledgement, and end to end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.context import Context
from benchmarks.workloads.base import Values, Workload, needs, timings

SECONDS = 10


def latency(context: Context, rate: int, end_to_end: bool = False) -> Values:
    topic = context.create_topic(6)
    # At a low rate the percentiles need more time.
    seconds = max(2.0, SECONDS * context.scale * (2 if rate < 1000 else 1))
    phase = context.job("latency", topic=topic, partitions=6, rate=rate, seconds=seconds, end_to_end=int(end_to_end))
    return timings(phase)


def at(rate: int) -> Workload:
    return Workload(f"latency at {rate:,}/s", partial(latency, rate=rate))


THOUSAND = at(1000)


def workloads() -> Iterator[Workload]:
    for rate in (100, 1000, 5000):
        yield at(rate)
        yield Workload(f"end to end at {rate:,}/s", partial(latency, rate=rate, end_to_end=True), needs("consume", "administer"))
