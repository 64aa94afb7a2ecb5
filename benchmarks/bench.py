"""`python -m benchmarks.bench`: a three-node cluster of plain processes, the workloads that users compare, one table.

The client (librdkafka) runs on the same machine, so figures compare systems in one run and say little by themselves; CPU seconds of the brokers
per GB vary least. Another system is measured by its bootstrap address (`--bootstrap`, with `--pids` of its processes), in turn with ours
(`--rounds`). Results go to benchmarks/results as JSON, with machine and versions. Ctrl-C leaves no process behind.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import confluent_kafka
import psutil
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from broker.version import VERSION
from tests.processes import ProcessCluster

RESULTS = Path(__file__).parent / "results"
KEPT_BACK = 1000  # every so many records one has a callback; one for each would measure the client


@dataclass(frozen=True)
class Figure:
    """One measured workload. Rates per second; cpu_s_per_gb and memory are of the brokers alone; latencies in ms."""

    system: str
    workload: str
    records_per_s: float = 0.0
    mb_per_s: float = 0.0
    cpu_s_per_gb: float = 0.0
    memory_mb: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    failed: int = 0


@dataclass(frozen=True)
class System:
    """Something that speaks Kafka: where it is, and its processes (for CPU and memory)."""

    name: str
    bootstrap: str
    pids: tuple[int, ...]

    def cpu_seconds(self) -> float:
        return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in self.pids)

    def memory_mb(self) -> int:
        return max((psutil.Process(pid).memory_info().rss >> 20 for pid in self.pids), default=0)

    def create(self, topic: str, partitions: int) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        admin.create_topics([NewTopic(topic, partitions, 3)])[topic].result(60)
        while True:
            found = admin.list_topics(topic, timeout=10).topics[topic].partitions
            if len(found) == partitions and all(p.leader >= 0 for p in found.values()):
                return
            time.sleep(0.1)


def produce(system: System, topic: str, partitions: int, records: int, size: int) -> Figure:
    """Send `records` of `size` bytes with acks=all as fast as the client can."""
    producer = Producer(
        {
            "bootstrap.servers": system.bootstrap,
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "acks": "all",
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 100_000,
        }
    )
    producer.list_topics(topic, timeout=15)
    value, failed = os.urandom(size), 0

    def delivered(error: object, _message: object) -> None:
        nonlocal failed
        failed += error is not None

    cpu, start = system.cpu_seconds(), time.perf_counter()
    for number in range(records):
        while True:
            try:
                producer.produce(topic, value, partition=number % partitions, on_delivery=delivered if number % KEPT_BACK == 0 else None)
                break
            except BufferError:
                producer.poll(0.005)
    failed += producer.flush(120)
    seconds, gigabytes = time.perf_counter() - start, records * size / 1e9
    return Figure(
        system.name,
        f"produce {size} B, {partitions} partitions",
        records / seconds,
        gigabytes * 1000 / seconds,
        (system.cpu_seconds() - cpu) / gigabytes,
        system.memory_mb(),
        failed=failed,
    )


def latency(system: System, topic: str, partitions: int, rate: int, seconds: int) -> Figure:
    """Send at a fixed rate with linger 0; from produce to acknowledgement, without the first fifth."""
    producer = Producer({"bootstrap.servers": system.bootstrap, "linger.ms": 0, "acks": "all", "socket.nagle.disable": True})
    producer.list_topics(topic, timeout=15)
    value, taken, failed = os.urandom(1024), [], 0
    start = time.perf_counter()
    for number in range(rate * seconds):
        while (wait := start + number / rate - time.perf_counter()) > 0:
            producer.poll(wait)

        def delivered(error: object, _message: object, sent: float = time.perf_counter()) -> None:
            nonlocal failed
            failed += error is not None
            taken.append(time.perf_counter() - sent)

        producer.produce(topic, value, partition=number % partitions, on_delivery=delivered)
        producer.poll(0)
    failed += producer.flush(60)
    steady = sorted(taken[len(taken) // 5 :])
    return Figure(
        system.name,
        f"latency at {rate}/s",
        p50_ms=statistics.median(steady) * 1000,
        p99_ms=steady[int(len(steady) * 0.99)] * 1000,
        memory_mb=system.memory_mb(),
        failed=failed,
    )


def consume(system: System, topic: str, partitions: int) -> Figure:
    """Read everything from the start, counting batches of messages only."""
    consumer = Consumer(
        {"bootstrap.servers": system.bootstrap, "group.id": "bench", "enable.partition.eof": True, "fetch.message.max.bytes": 4 << 20}
    )
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    records = size = ended = 0
    cpu, start = system.cpu_seconds(), time.perf_counter()
    while ended < partitions:
        for message in consumer.consume(10_000, 1.0):
            if message.error():
                ended += 1
            else:
                records += 1
                size += len(message.value() or b"")
    seconds = time.perf_counter() - start
    consumer.close()
    used = (system.cpu_seconds() - cpu) / (size / 1e9)
    return Figure(system.name, "consume, Python client", records / seconds, size / 1e6 / seconds, used, system.memory_mb())


def workloads(scale: float) -> Iterator[tuple[str, Callable[[System, str], Figure]]]:
    """(label, run) of each workload; `scale` 1 takes about a minute on two cores."""
    amount = int(300_000 * scale)
    yield "1 KB", lambda s, t: produce(s, t, 6, amount, 1024)
    yield "1 KB again", lambda s, t: produce(s, t, 6, amount, 1024)
    yield "consume", lambda s, t: consume(s, t, 6)
    yield "100 B", lambda s, t: produce(s, t, 6, 3 * amount, 100)
    yield "latency", lambda s, t: latency(s, t, 6, 1000, max(2, int(5 * scale)))


def measure(system: System, round_: int, scale: float) -> list[Figure]:
    """All workloads on one system, on topics of this round."""
    figures = []
    topic = f"bench-{round_}-{time.time_ns()}"
    system.create(topic, 6)
    for label, run in workloads(scale):
        print(f"  {system.name}, round {round_ + 1}: {label} …", file=sys.stderr, flush=True)
        figures.append(run(system, topic))
    many = int(300_000 * scale)
    for partitions in (64, 256):
        name = f"{topic}-{partitions}"
        system.create(name, partitions)
        figures.append(produce(system, name, partitions, many, 1024))
    return figures


@contextmanager
def own_cluster(directory: Path) -> Iterator[System]:
    """Three nodes of ours, as `chronik-server dev` starts them."""
    with ProcessCluster(directory) as cluster:
        yield System("chronik", cluster.bootstrap, tuple(node.pid for node in cluster.nodes.values()))


def table(figures: list[Figure]) -> str:
    """Medians over the rounds, one line per system and workload."""
    lines = [f"{'workload':34} {'system':10} {'records/s':>10} {'MB/s':>7} {'CPU s/GB':>9} {'MB mem':>7} {'p50 ms':>7} {'p99 ms':>7} {'failed':>6}"]
    for workload in dict.fromkeys(f.workload for f in figures):
        for system in dict.fromkeys(f.system for f in figures):
            found = [f for f in figures if f.workload == workload and f.system == system]
            if found:
                middle = {key: statistics.median(getattr(f, key) for f in found) for key in asdict(found[0]) if key not in ("system", "workload")}
                lines.append(
                    f"{workload:34} {system:10} {middle['records_per_s']:10.0f} {middle['mb_per_s']:7.1f} {middle['cpu_s_per_gb']:9.2f} "
                    f"{middle['memory_mb']:7.0f} {middle['p50_ms']:7.2f} {middle['p99_ms']:7.2f} {middle['failed']:6.0f}"
                )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the workloads")
    parser.add_argument("--bootstrap", default="", help="another system to measure in turn with ours")
    parser.add_argument("--pids", default="", help="its processes, comma-separated, for CPU and memory")
    options = parser.parse_args()
    others = [System("other", options.bootstrap, tuple(int(p) for p in options.pids.split(",") if p))] if options.bootstrap else []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as directory, own_cluster(Path(directory)) as ours:
        for round_ in range(options.rounds):
            for system in (ours, *others):
                figures += measure(system, round_, options.scale)
    print(table(figures))
    RESULTS.mkdir(exist_ok=True)
    about = {
        "version": VERSION,
        "python": platform.python_version(),
        "librdkafka": confluent_kafka.libversion()[0],
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "figures": [asdict(figure) for figure in figures],
    }
    path = RESULTS / f"bench-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps(about, indent=1) + "\n")
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return 1 if any(figure.failed for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
