"""What applications ask of coordinators: many groups, offset commits, transactions, a rebalance."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial

from benchmarks.context import Context
from benchmarks.workloads.base import Values, Workload, needs

GROUPS, MEMBERS, WARM_GROUPS = 1000, 5, 100
SECONDS, WARM_SECONDS = 10, 5


def join_all(context: Context) -> Values:
    """1,000 groups of 5 members, all of which join at once, and then beat every 3 s."""
    topic = context.create_topic(6)
    seconds = max(2.0, SECONDS * context.scale)
    groups = max(2, int(GROUPS * context.scale))
    joined, steady = context.phases(
        "groups",
        topic=topic,
        partitions=6,
        groups=groups,
        members=MEMBERS,
        seconds=seconds,
        beat_seconds=3 * min(1.0, context.scale),
        warm_groups=max(1, int(WARM_GROUPS * context.scale)),
    )
    return {
        "seconds": joined.values["seconds"],
        "cpu_s": joined.cost.used.cpu_s,
        "cpu_percent": steady.cost.used.cpu_s / steady.cost.seconds * 100,
        "beats_per_s": steady.values["beats_per_s"],
        "p99_ms": steady.values["p99_ms"],
        "rss_mb": steady.cost.used.rss_mb,
    }


def commits(context: Context) -> Values:
    """100 groups, each with one commit of one offset under way at any time."""
    topic = context.create_topic(6)
    seconds = max(1.0, SECONDS / 2 * context.scale)
    phase = context.job(
        "commits",
        topic=topic,
        partitions=6,
        connections=max(5, int(100 * min(1.0, context.scale))),
        seconds=seconds,
        warm_seconds=WARM_SECONDS * context.scale,
    )
    values = phase.values
    cpu_ms = phase.cost.used.cpu_s * 1000 / max(1.0, values["commits_per_s"] * values["seconds"])
    return {**{key: values[key] for key in ("commits_per_s", "p50_ms", "p99_ms", "failed")}, "cpu_ms_per_request": cpu_ms}


def transactions(context: Context, records: int, producers: int) -> Values:
    topic = context.create_topic(6)
    seconds = max(2.0, SECONDS * context.scale)
    phase = context.job(
        "transactions", topic=topic, partitions=6, records=records, producers=producers, seconds=seconds, warm_seconds=WARM_SECONDS * context.scale
    )
    values = phase.values
    cpu_ms = phase.cost.used.cpu_s * 1000 / max(1.0, values["transactions_per_s"] * values["seconds"])
    return {**{key: values[key] for key in ("transactions_per_s", "p50_ms", "p99_ms", "failed")}, "cpu_ms_per_request": cpu_ms}


def rebalance(context: Context) -> Values:
    """50 members join a new group (the initial delay of 3 s is in it); then one more, three times, while the others beat every 100 ms."""
    topic = context.create_topic(6)
    first, *later = context.phases("rebalance", topic=topic, partitions=6, members=50, rounds=3)
    taken = [phase.values["seconds"] for phase in later]
    return {"first_join_s": first.values["seconds"], "seconds": statistics.median(taken), "max_s": max(taken)}


def workloads() -> Iterator[Workload]:
    need = needs("administer", "consume")
    yield Workload("1,000 groups of 5 members", join_all, need)
    yield Workload("offset commits, 100 groups", commits, need)
    for records in (1, 100):
        word = "record" if records == 1 else "records"
        for producers in (1, 10):
            name = f"transactions of {records} {word}, {producers} producer{'s' if producers > 1 else ''}"
            yield Workload(name, partial(transactions, records=records, producers=producers), need)
    yield Workload("rebalance of 50 members", rebalance, need)
