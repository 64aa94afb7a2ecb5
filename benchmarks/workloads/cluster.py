"""What an operator sees: topic creation, failover, idle cost, many connections, and cost against the size of the log."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.context import Context, WorkloadError
from benchmarks.workloads.base import Values, Workload, needs, timings

SETTLE_SECONDS, IDLE_SECONDS = 8.0, 10.0
LOG_RATE, LOG_SECONDS, LOG_REPEATS = 1000, 10, 3


def create_thousand(context: Context) -> Values:
    """1,000 topics of one partition by one client, until all are led."""
    count = context.amount(1000)
    meter, start = context.meter(), time.perf_counter()
    names = [f"many-{number}" for number in range(count)]
    context.create_topics(names, 1)
    seconds = time.perf_counter() - start
    cost = meter.read()
    context.note(cost)
    return {"seconds": seconds, "cpu_s": cost.used.cpu_s}


def failover(context: Context, signal: str, rounds: int) -> Values:
    """Kill or stop the leader of a partition, again and again."""
    topic = context.create_topic(1)

    def next_round(event: dict[str, Any]) -> dict[int, int]:
        if signal == "KILL":
            context.system.restart_node(int(event["node"]))
        return dict(context.system.pids())

    phase = context.job("failover", next_round, topic=topic, partitions=1, signal=signal, rounds=rounds, pids=dict(context.system.pids()))
    return {key: value for key, value in phase.values.items() if key in ("gap_median_s", "gap_max_s", "rounds", "failed")}


def idle(context: Context, partitions: int) -> Values:
    if partitions:
        context.create_topic(partitions)
    time.sleep(SETTLE_SECONDS * min(1.0, context.scale))
    meter = context.meter()
    time.sleep(max(1.0, IDLE_SECONDS * min(1.0, context.scale)))
    cost = meter.read()
    context.note(cost)
    return {"cpu_percent_per_node": cost.used.cpu_s / cost.seconds * 100 / context.system.nodes, "rss_mb": cost.used.rss_mb}


def connections(context: Context, count: int) -> Values:
    """`count` connections that do nothing, and the latency of a producer beside them."""
    topic = context.create_topic(6)
    seconds = max(2.0, 5 * context.scale)
    with context.start_job("hold", connections=count) as held:
        held.follow(until="begin")
        meter = context.meter()
        time.sleep(seconds)
        cost = meter.read()
        phase = context.job("latency", topic=topic, partitions=6, rate=1000, seconds=seconds)
        held.say({})
        held.follow()
    return {**timings(phase), "cpu_percent": cost.used.cpu_s / cost.seconds * 100, "rss_mb": cost.used.rss_mb}


def log_size(context: Context, gigabytes: int) -> Values:
    """A steady producer of 1,000 records/s with a reader at the tail, on a topic that holds so much already; medians
    of several runs. Bytes read are those from the disk."""
    topic = context.create_topic(6)
    size = int(gigabytes * 1e9 * min(1.0, context.scale))
    needed = int(size * context.system.nodes * 1.15) + (2 << 30)
    free = shutil.disk_usage(context.directory).free
    if free < needed:
        raise WorkloadError(f"{needed / 1e9:.0f} GB of disk are needed for three replicas of {gigabytes} GB, {free / 1e9:.0f} GB are free")
    if size:
        context.job("produce", topic=topic, partitions=6, records=size // 10_240, size=10_240)
        time.sleep(SETTLE_SECONDS * min(1.0, context.scale))
    seconds = max(2.0, LOG_SECONDS * context.scale)
    phases = [context.job("latency", topic=topic, partitions=6, rate=LOG_RATE, seconds=seconds, end_to_end=1) for _ in range(LOG_REPEATS)]
    records = LOG_RATE * seconds
    used = [phase.cost.used for phase in phases]
    return {
        "cpu_ms_per_request": statistics.median(one.cpu_s for one in used) * 1000 / records,
        "read_bytes_per_request": statistics.median(one.read_bytes for one in used) / records,
        **{key: statistics.median(phase.values[key] for phase in phases) for key in ("p50_ms", "p99_ms")},
        "failed": sum(phase.values["failed"] for phase in phases),
    }


TOPICS = Workload("create 1,000 topics", create_thousand, needs("administer"), 1)
IDLE_EMPTY = Workload("idle, no partitions", partial(idle, partitions=0), needs("pids"))
IDLE_THOUSAND = Workload("idle, 1,000 partitions", partial(idle, partitions=1000), needs("pids", "administer"), 1000)


def failovers(rounds: int) -> Iterator[Workload]:
    for signal, word in (("KILL", "kill -9"), ("STOP", "SIGSTOP")):
        yield Workload(f"failover, {word}", partial(failover, signal=signal, rounds=rounds), needs("restart", "consume", "administer", "pids"), 1)


def idles() -> Iterator[Workload]:
    yield IDLE_EMPTY
    yield Workload("idle, 100 partitions", partial(idle, partitions=100), needs("pids", "administer"), 100)
    yield IDLE_THOUSAND


def log_sizes() -> Iterator[Workload]:
    for gigabytes in (0, 1, 10):
        yield Workload(f"log of {gigabytes} GB", partial(log_size, gigabytes=gigabytes), needs("pids", "administer", "consume"))


def many_connections() -> Iterator[Workload]:
    for count in (10, 1000):
        yield Workload(f"{count:,} connections", partial(connections, count=count), needs("pids", "administer"))
