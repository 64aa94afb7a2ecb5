"""Consuming: what was just written, what lies on the disk, and the tail; one reader and twenty."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial

from benchmarks import jars
from benchmarks.context import COUNTED_MARK, Context, External, Loaded, WorkloadError, finish_external, kcat, start_external
from benchmarks.measure import drop_page_cache
from benchmarks.workloads.base import Values, Workload, needs, rates
from benchmarks.workloads.produce import KB, KEPT, RECORDS_1_KB

TAIL_RATE, TAIL_SECONDS = 5000, 6


def loaded(context: Context) -> Loaded:
    """The topic with 1 KB records that the produce workload of the round kept, or one like it."""
    if KEPT not in context.loaded:
        topic, records = context.create_topic(6), context.amount(RECORDS_1_KB)
        context.job("produce", topic=topic, partitions=6, records=records, size=KB)
        context.loaded[KEPT] = Loaded(topic, 6, records, KB)
    return context.loaded[KEPT]


def _rates(done: External, records: int, size_bytes: int) -> dict[str, float]:
    return {"records_per_s": records / done.seconds, "mb_per_s": records * size_bytes / done.seconds / 1e6, **done.cost.values(records * size_bytes)}


def _missing(outputs: list[str], each: int) -> int:
    """Records that readers did not count."""
    return sum(abs(each - output.count(COUNTED_MARK.decode())) for output in outputs)


def by_kcat(context: Context, readers: int = 1, from_disk: bool = False) -> Values:
    """Every reader reads everything; rates are sums."""
    found = loaded(context)
    if from_disk:
        drop_page_cache(str(context.directory))
    done = context.external(kcat(context.system.bootstrap, found.topic, "-c", str(found.records)), readers)
    return {**_rates(done, found.records * readers, found.size_bytes), "failed": _missing(done.outputs, found.records)}


def parse_consumer_tool(output: str) -> dict[str, float]:
    """kafka-consumer-perf-test: a line of names and one of values, after whatever it warns about."""
    lines = [line for line in output.splitlines() if line.count(", ") >= 5]
    if len(lines) < 2:
        raise ValueError(f"the output of kafka-consumer-perf-test is not understood: {output.strip()[-300:]}")
    names, values = (next(csv.reader([line], skipinitialspace=True)) for line in lines[-2:])
    found = dict(zip((name.strip() for name in names), values, strict=True))
    fetching = float(found["fetch.time.ms"]) / 1000
    consumed = float(found["data.consumed.in.MB"]) * (1 << 20)
    records = float(found.get("data.consumed.in.nMsg", found.get("data.consumed.in.nMsgs", "0")))
    return {"records": records, "records_per_s": records / fetching, "mb_per_s": consumed / fetching / 1e6}


def by_jvm_tool(context: Context) -> Values:
    """Its own rates, while it fetched. The brokers' CPU is not told: seconds of it belong to the time in which the tool only starts."""
    found = loaded(context)
    command = jars.java(
        "org.apache.kafka.tools.ConsumerPerformance",
        *("--bootstrap-server", context.system.bootstrap, "--topic", found.topic, "--messages", str(found.records)),
        options=("-Xmx1g", "-Dlog4j2.level=ERROR"),
    )
    done = context.external(command)
    values = parse_consumer_tool(done.outputs[0])
    read = values.pop("records")
    return {**values, "failed": max(0.0, found.records - read), "rss_mb": done.cost.used.rss_mb}


def by_python(context: Context) -> Values:
    found = loaded(context)
    return rates(context.job("consume", topic=found.topic, partitions=found.partitions, records=found.records))


def tail(context: Context, readers: int) -> Values:
    """Readers follow a producer of 5,000 records/s; its latencies to the acknowledgement, and the cost of all."""
    topic = context.create_topic(6)
    seconds = max(1.0, TAIL_SECONDS * context.scale)
    records = int(TAIL_RATE * seconds)
    running = start_external(context, kcat(context.system.bootstrap, topic, "-c", str(records)), readers)
    try:
        phase = context.job("latency", topic=topic, partitions=6, rate=TAIL_RATE, seconds=seconds, size=KB)
    finally:
        done = finish_external(context, running, 30)
    missing = _missing(done.outputs, records)
    if missing:
        raise WorkloadError(f"{missing} records did not reach their readers")
    kept = {key: value for key, value in phase.values.items() if key in ("p50_ms", "p99_ms", "p999_ms", "failed")}
    return {**kept, **phase.cost.values(records * KB * readers)}


def mixed(context: Context) -> Values:
    """A producer as fast as it can, five readers that follow it, and one that reads old records."""
    found = loaded(context)
    topic = context.create_topic(6)
    records = context.amount(RECORDS_1_KB // 2)
    followers = start_external(context, kcat(context.system.bootstrap, topic, "-c", str(records)), 5)
    old = start_external(context, kcat(context.system.bootstrap, found.topic, "-c", str(found.records)))
    try:
        phase = context.job("produce", topic=topic, partitions=6, records=records, size=KB)
    finally:
        ends = [finish_external(context, followers, 120), finish_external(context, old, 120)]
    missing = _missing(ends[0].outputs, records) + _missing(ends[1].outputs, found.records)
    # Everything written once and read five times, and the old records: the whole until the last reader was done.
    moved = records * KB * 6 + found.records * KB
    return {
        "mb_per_s": moved / max(end.seconds for end in ends) / 1e6,
        "records_per_s": phase.values["records"] / phase.values["seconds"],
        "failed": missing,
        **ends[0].cost.values(moved),
    }


KCAT = Workload("consume, kcat", by_kcat, needs("consume", "kcat"))


def workloads() -> Iterator[Workload]:
    yield KCAT
    yield Workload("consume, 20 × kcat", partial(by_kcat, readers=20), needs("consume", "kcat"))
    yield Workload("consume from disk, kcat", partial(by_kcat, from_disk=True), needs("consume", "kcat"))
    yield Workload("consume from disk, 20 × kcat", partial(by_kcat, readers=20, from_disk=True), needs("consume", "kcat"))
    yield Workload("consume, kafka-consumer-perf-test", by_jvm_tool, needs("consume", "jvm"))
    yield Workload("consume, librdkafka from Python", by_python, needs("consume"))
    yield Workload("tail at 5,000/s, 1 reader", partial(tail, readers=1), needs("consume", "kcat", "administer"))
    yield Workload("tail at 5,000/s, 20 readers", partial(tail, readers=20), needs("consume", "kcat", "administer"))
    yield Workload("mixed", mixed, needs("consume", "kcat", "administer"))
