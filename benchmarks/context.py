"""What a workload is given: the running system, ways to start clients beside it, and topics.

Client processes run one after another or side by side; `begin` and `end` of a Python client bound what is measured, while a foreign tool is measured
from its start to its end, start-up included.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from benchmarks.client.job import READ
from benchmarks.measure import Cost, Meter
from benchmarks.processes import Children
from benchmarks.systems.base import System, wait_until

JOB_SECONDS = 900.0
COUNTED_MARK = b"."


class WorkloadError(Exception):
    """A client failed; the text is the last it said."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What a client measured between a `begin` and its `end`, and what the brokers used meanwhile."""

    name: str
    values: dict[str, float]
    cost: Cost


@dataclass(frozen=True, slots=True)
class Loaded:
    """A topic that holds this much."""

    topic: str
    partitions: int
    records: int
    size_bytes: int


Answer = Callable[[dict[str, Any]], Any]


@dataclass
class Context:
    """One system in one round. `loaded`: topics by a name that workloads agree on. `machine` gathers the state of the machine of all phases."""

    system: System
    children: Children
    directory: Path
    scale: float = 1.0
    loaded: dict[str, Loaded] = field(default_factory=dict)
    machine: list[dict[str, float]] = field(default_factory=list)
    _topics: itertools.count[int] = field(default_factory=itertools.count)

    def amount(self, records: int) -> int:
        """Scaled, and never too few to say something."""
        return max(100, int(records * self.scale))

    # Topics. None is deleted while the system runs: Kafka would remove the files a minute later, in the middle of another workload.

    def create_topic(self, partitions: int) -> str:
        """A new topic with three replicas, all of whose partitions are led. Of a system with one fixed topic: that one."""
        if not self.system.can_administer:
            if partitions != self.system.fixed_partitions:
                raise WorkloadError(f"{self.system.name} has {self.system.fixed_partitions} partitions only")
            return self.system.fixed_topic
        name = f"bench-{next(self._topics)}-{partitions}"
        self.create_topics([name], partitions)
        return name

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.system.bootstrap, "log_level": 0})

    def create_topics(self, names: Sequence[str], partitions: int) -> None:
        """Returns when every partition of every topic has a leader."""
        admin = self.admin()
        created = admin.create_topics([NewTopic(name, partitions, 3) for name in names], operation_timeout=120, request_timeout=150)
        _finish(created, f"creating {len(names)} topics with {partitions} partitions", 180)
        wanted = set(names)

        def led() -> bool:
            try:
                found = admin.list_topics(timeout=10).topics
            except KafkaException:
                return False
            return wanted <= found.keys() and all(
                len(found[name].partitions) == partitions and all(p.leader >= 0 for p in found[name].partitions.values()) for name in wanted
            )

        wait_until(f"leaders of {len(names)} topics with {partitions} partitions", led, 180)

    # Clients

    def meter(self) -> Meter:
        return Meter(self.system.pids().values())

    def job(self, kind: str, answer: Answer | None = None, **what: Any) -> Phase:
        """Run a client process to its end; the phase that it measured last. `answer` is asked for what the client waits for."""
        return self.phases(kind, answer, **what)[-1]

    def phases(self, kind: str, answer: Answer | None = None, **what: Any) -> list[Phase]:
        with self.start_job(kind, **what) as client:
            client.follow(answer)
            return client.phases

    def start_job(self, kind: str, **what: Any) -> Client:
        job = {"kind": kind, "bootstrap": self.system.bootstrap, **what}
        return Client(self, [sys.executable, "-m", "benchmarks.client", json.dumps(job)])

    def external(self, command: Sequence[str], copies: int = 1, seconds: float = 300) -> External:
        """Run a foreign tool, or several copies of it side by side, to their ends; raises WorkloadError when one fails."""
        return finish_external(self, start_external(self, command, copies), seconds)

    def note(self, cost: Cost) -> None:
        self.machine.append(cost.machine)

    def machine_state(self) -> dict[str, float]:
        """The worst of all phases."""
        return {key: max(state[key] for state in self.machine) for key in (self.machine[0] if self.machine else ())}


def _finish(futures: Mapping[str, Future[None]], what: str, seconds: float) -> None:
    """All results; TimeoutError says what was waited for."""
    for done in futures.values():
        try:
            done.result(seconds)
        except FutureTimeoutError:
            raise TimeoutError(f"{what} was not answered within {seconds:.0f} s") from None


class Client:
    """A running client process of ours. Use as a context manager: it is ended with it."""

    def __init__(self, context: Context, command: Sequence[str]) -> None:
        self._context = context
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = context.children.start(command, output=subprocess.PIPE, source=subprocess.PIPE, errors=self._errors)
        self._meter: Meter | None = None
        self.phases: list[Phase] = []

    def follow(self, answer: Answer | None = None, until: str = "", seconds: float = JOB_SECONDS) -> None:
        """Take events until the client ends, or until the event named `until`."""
        timer = threading.Timer(seconds, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            for line in self._process.stdout or ():
                event = json.loads(line)
                self._take(event, answer)
                if event["event"] == until:
                    return
        finally:
            timer.cancel()
        if self._process.wait() or not self.phases:
            raise WorkloadError(f"the client ended with {self._process.returncode}: {self._last_words()}")

    def _take(self, event: dict[str, Any], answer: Answer | None) -> None:
        if event["event"] == "begin":
            self._meter = self._context.meter()
        elif event["event"] == "end" and self._meter is not None:
            cost = self._meter.read(event["client_cpu_s"])
            self._context.note(cost)
            self.phases.append(Phase(event["phase"], event["values"], cost))
        elif answer is not None:
            self.say(answer(event))

    def say(self, what: Any) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.children.kill(self._process)
        self._errors.close()


@dataclass(frozen=True, slots=True)
class External:
    """What foreign tools said, and what the brokers used from their start to their end."""

    outputs: list[str]
    seconds: float
    cost: Cost


@dataclass(frozen=True, slots=True)
class Running:
    processes: list[subprocess.Popen[bytes]]
    files: list[Any]
    meter: Meter
    start: float


def start_external(context: Context, command: Sequence[str], copies: int = 1) -> Running:
    files = [tempfile.TemporaryFile() for _ in range(copies)]  # noqa: SIM115 - closed in finish_external
    meter, start = context.meter(), time.perf_counter()
    processes = [context.children.start(command, output=file) for file in files]
    return Running(processes, files, meter, start)


def finish_external(context: Context, running: Running, seconds: float = 300) -> External:
    cpu = 0.0
    failed: list[int] = []

    def end() -> None:
        for process in running.processes:
            process.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        for process in running.processes:
            _, status, resources = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu += resources.ru_utime + resources.ru_stime
            if process.returncode:
                failed.append(process.returncode)
    finally:
        timer.cancel()
        took = time.perf_counter() - running.start
        cost = running.meter.read(cpu)
        for process in running.processes:
            context.children.kill(process)
    context.note(cost)
    outputs = []
    for file in running.files:
        file.seek(0)
        outputs.append(file.read().decode(errors="replace"))
        file.close()
    if failed:
        raise WorkloadError(f"a tool ended with {failed[0]}: {outputs[0].strip()[-500:]}")
    return External(outputs, took, cost)


def kcat(bootstrap: str, topic: str, *more: str) -> list[str]:
    """kcat from the start of a topic; it prints one mark for each record, so that records are counted and printing costs nothing."""
    settings = [option for key, value in READ.items() for option in ("-X", f"{key}={value}")]
    return ["kcat", "-C", "-q", "-b", bootstrap, "-t", topic, "-o", "beginning", "-f", COUNTED_MARK.decode(), *settings, *more]
