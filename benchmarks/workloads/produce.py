"""Producing: sizes, partitions, acknowledgements, compression, producers; and by the JVM's own tool."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from benchmarks import jars
from benchmarks.client.job import BATCH
from benchmarks.context import Context, Loaded
from benchmarks.workloads.base import Values, Workload, needs, rates

KB = 1024
RECORDS_1_KB = 600_000
"""Several seconds on a fast system: long enough to be past its first segment roll."""
KEPT = "1 KB"


def produce(
    context: Context,
    *,
    records: int,
    size: int = KB,
    partitions: int = 6,
    acks: str = "all",
    idempotence: bool = False,
    compression: str = "none",
    producers: int = 1,
    keep: str = "",
) -> Values:
    """`keep`: name under which workloads that read find the topic."""
    topic = context.create_topic(partitions)
    amount = context.amount(records)
    phase = context.job(
        "produce",
        topic=topic,
        partitions=partitions,
        records=amount,
        size=size,
        acks=acks,
        idempotence=int(idempotence),
        compression=compression,
        producers=producers,
    )
    if keep:
        context.loaded[keep] = Loaded(topic, partitions, amount, size)
    return rates(phase)


def _workload(name: str, *more: str, **what: object) -> Workload:
    partitions = what.get("partitions", 6)
    return Workload(f"produce {name}", partial(produce, **what), needs(*more), partitions if isinstance(partitions, int) else 6)  # type: ignore[arg-type]


ONE_KB = _workload("1 KB", records=RECORDS_1_KB, keep=KEPT)
ONE_KB_256 = _workload("1 KB, 256 partitions", records=RECORDS_1_KB // 2, partitions=256)
HUNDRED_BYTES = _workload("100 B", records=1_500_000, size=100)


def sizes() -> Iterator[Workload]:
    yield ONE_KB
    yield HUNDRED_BYTES
    yield _workload("10 KB", records=60_000, size=10 * KB)
    yield _workload("100 KB", records=6_000, size=100 * KB)


def partitions() -> Iterator[Workload]:
    yield _workload("1 KB, 1 partition", records=RECORDS_1_KB // 2, partitions=1)
    yield ONE_KB
    yield _workload("1 KB, 64 partitions", records=RECORDS_1_KB // 2, partitions=64)
    yield ONE_KB_256
    yield _workload("1 KB, 1,000 partitions", records=RECORDS_1_KB // 4, partitions=1000)


def promises() -> Iterator[Workload]:
    """acks and idempotence, many producers."""
    yield _workload("1 KB, acks=1", records=RECORDS_1_KB // 2, acks="1")
    yield _workload("1 KB, idempotent", records=RECORDS_1_KB // 2, idempotence=True)
    yield _workload("1 KB, 50 producers", records=RECORDS_1_KB // 2, producers=50)


def compressions() -> Iterator[Workload]:
    for name in ("gzip", "snappy", "lz4", "zstd"):
        yield _workload(f"1 KB, {name}", records=RECORDS_1_KB // 2, compression=name)


def parse_producer_tool(output: str) -> dict[str, float]:
    """Last line of kafka-producer-perf-test: records/s, and its latencies in ms."""
    found = re.search(
        r"(\d+) records sent, ([\d.]+) records/sec.*?([\d.]+) ms avg latency.*?(\d+) ms 50th.*?(\d+) ms 99th", output.strip().splitlines()[-1]
    )
    if found is None:
        raise ValueError(f"the output of kafka-producer-perf-test is not understood: {output.strip()[-300:]}")
    return {"records_per_s": float(found[2]), "p50_ms": float(found[4]), "p99_ms": float(found[5])}


def by_jvm_tool(context: Context) -> Values:
    """kafka-producer-perf-test with the batches that librdkafka gets."""
    topic = context.create_topic(6)
    records = context.amount(RECORDS_1_KB)
    properties = {
        "bootstrap.servers": context.system.bootstrap,
        "acks": "all",
        "linger.ms": BATCH["linger.ms"],
        "batch.size": BATCH["batch.size"],
        "buffer.memory": BATCH["queue.buffering.max.kbytes"] * 1024,
        "enable.idempotence": "false",
    }
    command = jars.java(
        "org.apache.kafka.tools.ProducerPerformance",
        *("--topic", topic, "--num-records", str(records), "--record-size", str(KB), "--throughput", "-1"),
        *("--producer-props", *(f"{key}={value}" for key, value in properties.items())),
        options=("-Xmx512m", "-Dlog4j2.level=ERROR"),
    )
    done = context.external(command)
    values = parse_producer_tool(done.outputs[0])
    values["mb_per_s"] = values["records_per_s"] * KB / 1e6
    # The brokers' CPU is not told: a second of it belongs to the time in which the tool only starts.
    return {**values, "rss_mb": done.cost.used.rss_mb}


JVM_TOOL = Workload("produce 1 KB, kafka-producer-perf-test", by_jvm_tool, needs("jvm", "administer"))
