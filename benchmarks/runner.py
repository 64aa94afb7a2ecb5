"""Runs the sections: systems in turn, round after round, one system at a time, results saved after each step.

Only the system that is measured runs, so that nobody pays for the others' idle threads; each start of a system is a figure of its own.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException, Producer

from benchmarks.client.job import PROMPT
from benchmarks.context import Context, WorkloadError
from benchmarks.goals import START
from benchmarks.metrics import shown
from benchmarks.processes import Children
from benchmarks.results import Figure, Results
from benchmarks.systems.base import StartError, System
from benchmarks.systems.processes import ProcessSystem
from benchmarks.workloads.base import Workload
from benchmarks.workloads.catalogue import Section

WARM_UP_RECORD_BYTES = 1024
DISK_BYTES = 16 << 30
"""What three replicas of the largest ordinary section need; those of a large log look for themselves."""
OF_PROCESSES = ("cpu", "rss", "read", "written")
"""How metrics begin that are known only where the brokers' processes are."""
TOLD = {
    "mb_per_s": "",
    "records_per_s": "",
    "transactions_per_s": "",
    "commits_per_s": "",
    "cpu_s_per_gb": " CPU",
    "p50_ms": " (p50)",
    "p99_ms": " (p99)",
    "gap_max_s": " (longest gap)",
    "seconds": "",
    "cpu_percent_per_node": " of a core a node",
    "rss_mb": " memory",
}
"""What a line of progress shows."""


@dataclass(frozen=True, slots=True)
class Options:
    """`minutes`: rounds that would not fit any more are left out; 0 = no limit. `only`: workloads whose name holds it."""

    rounds: int = 3
    scale: float = 1.0
    minutes: float = 0.0
    only: str = ""
    directory: Path | None = None


@dataclass
class Runner:
    """One run over `systems`, which are tried in this order in each round."""

    children: Children
    systems: Sequence[System]
    results: Results
    options: Options
    _durations: dict[str, list[float]] = field(default_factory=dict)
    _start: float = field(default_factory=lambda: time.perf_counter())

    def run(self, sections: Sequence[Section]) -> None:
        for section, round_ in self._plan(sections):
            if not self._fits(section):
                self._tell("", f"{section.name}, round {round_ + 1}: left out, it would not end within {self.options.minutes:.0f} minutes")
                continue
            begin = time.perf_counter()
            for system in self.systems:
                self._visit(system, section, round_)
            self._durations.setdefault(section.name, []).append(time.perf_counter() - begin)

    def _plan(self, sections: Sequence[Section]) -> Iterator[tuple[Section, int]]:
        """Section by section; with a time limit round by round, so that everything is measured once before anything is measured again."""
        rounds = {section.name: min(section.rounds or self.options.rounds, self.options.rounds) for section in sections}
        if self.options.minutes:
            yield from ((section, n) for n in range(self.options.rounds) for section in sections if n < rounds[section.name])
        else:
            yield from ((section, n) for section in sections for n in range(rounds[section.name]))

    def _fits(self, section: Section) -> bool:
        took = self._durations.get(section.name)
        if not self.options.minutes or not took:
            return True
        return time.perf_counter() - self._start + statistics.mean(took) <= self.options.minutes * 60

    def _visit(self, system: System, section: Section, round_: int) -> None:
        """Start the system, run what of the section is not done yet, stop it."""
        missing = [w for w in section.workloads if self.options.only in w.name and not self.results.has(system.name, w.name, round_)]
        if not missing:
            return
        label = f"{section.name}, round {round_ + 1}, {system.name}"
        with tempfile.TemporaryDirectory(prefix=f"bench-{system.name}-", dir=self.options.directory, ignore_cleanup_errors=True) as name:
            context = Context(system, self.children, Path(name), self.options.scale)
            try:
                if (free := shutil.disk_usage(context.directory).free) < DISK_BYTES * self.options.scale:
                    raise StartError(f"{free / 1e9:.1f} GB of disk are free, and {DISK_BYTES * self.options.scale / 1e9:.1f} are needed; see --dir")
                self._tell(label, "starting …")
                self._start_system(context)
                if section.warm:
                    self._tell(label, "warming up …")
                    warm_up(context, section.warm_requests_s)
                for workload in missing:
                    self._step(context, workload, round_, label)
            except (StartError, TimeoutError, WorkloadError, KafkaException) as error:
                self._tell(label, f"FAILED: {error}")
                for workload in missing:
                    if not any(figure.key == (system.name, workload.name, round_) for figure in self.results.figures):
                        self.results.add(Figure(system.name, workload.name, round_, error=f"the system did not start: {error}"))
            finally:
                system.stop()

    def _start_system(self, context: Context) -> None:
        system = context.system
        begin = time.perf_counter()
        system.start(context.directory)
        if isinstance(system, ProcessSystem):
            healthy = time.perf_counter()
            acknowledge_one(context)
            values = {"start_s": system.start_seconds, "first_write_s": system.start_seconds + time.perf_counter() - healthy}
            self.results.add(Figure(system.name, START, len(self.results.of(system.name, START)), values))
        self._tell(system.name, f"healthy after {time.perf_counter() - begin:.1f} s, what it takes to prepare a first start included")

    def _step(self, context: Context, workload: Workload, round_: int, label: str) -> None:
        system = context.system
        if why := workload.refusal(system):
            self._tell(label, f"{workload.name}: skipped, {why}")
            self.results.add(Figure(system.name, workload.name, round_, error=why, skipped=True))
            return
        context.machine.clear()
        try:
            values = workload.run(context)
        except (WorkloadError, StartError, TimeoutError, ValueError, KafkaException) as error:
            self._tell(label, f"{workload.name}: FAILED: {error}")
            self.results.add(Figure(system.name, workload.name, round_, machine=context.machine_state(), error=str(error) or type(error).__name__))
            return
        if not system.pids():
            values = {key: value for key, value in values.items() if not key.startswith(OF_PROCESSES)}
        self.results.add(Figure(system.name, workload.name, round_, dict(values), context.machine_state()))
        told = [f"{shown(values[key], key)}{TOLD[key]}" for key in TOLD if key in values]
        if failed := values.get("failed"):
            told.append(f"{failed:,.0f} requests or records FAILED")
        self._tell(label, f"{workload.name}: {', '.join(told)}")

    def _tell(self, label: str, text: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')}] {label}{': ' if label else ''}{text}", file=sys.stderr, flush=True)


def warm_up(context: Context, requests_s: float) -> None:
    """About 1 GB of produce, then `requests_s` seconds of small requests.

    A JVM compiles what is hot, and memory and page cache that a machine gave back to its host are slow on first touch.
    """
    topic = context.create_topic(6)
    records = context.amount(context.system.warm_up_bytes // WARM_UP_RECORD_BYTES)
    context.job("produce", topic=topic, partitions=6, records=records, size=WARM_UP_RECORD_BYTES)
    # A GB is about a thousand large requests; small ones are compiled only when there are many of them.
    context.job("latency", topic=topic, partitions=6, rate=1000, seconds=max(1.0, requests_s * context.scale))


def acknowledge_one(context: Context) -> None:
    """Create a topic and wait for the acknowledgement of one record."""
    topic = context.create_topic(1)
    failed: list[object] = []
    producer = Producer({**PROMPT, "bootstrap.servers": context.system.bootstrap, "acks": "all"})
    producer.produce(topic, b"first", partition=0, on_delivery=lambda error, _message: failed.append(error) if error else None)
    if producer.flush(60) or failed:
        raise StartError(f"{context.system.name} did not acknowledge its first record: {failed or 'no answer in 60 s'}")
