"""Which workloads a run consists of. A section is what one start of a system goes through; its rounds alternate between the systems."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.workloads import cluster, consume, coordinators, latency, produce
from benchmarks.workloads.base import Workload

QUICK_FAILOVERS, FULL_FAILOVERS = 3, 20
LATENCY_WARM_UP_S = 90.0
"""A JVM compiles what small requests need only after tens of thousands of them: until then its latencies are seconds."""


@dataclass(frozen=True, slots=True)
class Section:
    """`rounds`: at most so often, 0 = as often as asked for. `warm`: about 1 GB is produced before, as a JVM needs, then 1,000 small requests
    a second for `warm_requests_s`; every system gets it."""

    name: str
    workloads: tuple[Workload, ...]
    rounds: int = 0
    warm: bool = True
    warm_requests_s: float = 5.0


def quick() -> list[Section]:
    """The goals of the project, in ten minutes."""
    return [
        Section("goals", (produce.ONE_KB, consume.KCAT, produce.HUNDRED_BYTES, latency.THOUSAND, produce.ONE_KB_256)),
        Section("idle", (cluster.IDLE_EMPTY, cluster.IDLE_THOUSAND), rounds=1, warm=False),
        Section("failover", tuple(cluster.failovers(QUICK_FAILOVERS)), rounds=1, warm=False),
    ]


def full() -> list[Section]:
    """Everything; hours."""
    return [
        Section("produce sizes", tuple(produce.sizes())),
        Section("produce partitions", tuple(produce.partitions())),
        Section("produce promises", (*produce.promises(), produce.JVM_TOOL)),
        Section("produce compressions", tuple(produce.compressions())),
        Section("latency", tuple(latency.workloads()), warm_requests_s=LATENCY_WARM_UP_S),
        Section("consume", tuple(consume.workloads())),
        Section("topics", (cluster.TOPICS,), warm=False),
        Section("idle", tuple(cluster.idles()), rounds=2, warm=False),
        Section("connections", tuple(cluster.many_connections())),
        Section("log size", tuple(cluster.log_sizes()), rounds=1),
        Section("failover", tuple(cluster.failovers(FULL_FAILOVERS)), rounds=1, warm=False),
        Section("coordinators", tuple(coordinators.workloads())),
    ]


def part(name: str) -> list[Section]:
    """`quick`, `full`, or the sections of either whose names hold `name`."""
    if name in ("quick", "full"):
        return quick() if name == "quick" else full()
    return [section for section in full() if name in section.name]
