"""The order of a run, what is left out, children that never stay, and the outputs of foreign tools."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from benchmarks import bench, jars, measure, runner
from benchmarks.client.job import Job, latencies_ms, percentile
from benchmarks.client.produce import payloads
from benchmarks.context import Context, WorkloadError, kcat
from benchmarks.processes import Children
from benchmarks.results import Results
from benchmarks.runner import Options, Runner
from benchmarks.systems.base import StartError, System
from benchmarks.systems.kafka import Kafka
from benchmarks.workloads import catalogue
from benchmarks.workloads.base import Values, Workload, needs
from benchmarks.workloads.catalogue import Section
from benchmarks.workloads.consume import parse_consumer_tool
from benchmarks.workloads.produce import parse_producer_tool


@pytest.fixture
def children() -> Iterator[Children]:
    found = Children()
    yield found
    found.stop_all()


class Recorded(System):
    """Writes down what happens to it."""

    can_restart = False

    def __init__(self, name: str, log: list[str], broken: bool = False) -> None:
        self.name = name
        self.log = log
        self.broken = broken

    def start(self, directory: Path) -> None:
        self.log.append(f"start {self.name}")
        if self.broken:
            raise StartError("no room")

    def stop(self) -> None:
        self.log.append(f"stop {self.name}")

    def pids(self) -> Mapping[int, int]:
        return {}

    def about(self) -> dict[str, str]:
        return {}


def _workload(name: str, log: list[str], needed: frozenset[str] = frozenset(), error: str = "", failed: float = 0) -> Workload:
    def run(context: Context) -> Values:
        log.append(f"{name} {context.system.name}")
        if error:
            raise WorkloadError(error)
        return {"seconds": 1.0, "failed": failed}

    return Workload(name, run, needed)


def _run(children: Children, tmp_path: Path, systems: list[System], sections: list[Section], options: Options) -> Results:
    results = Results(tmp_path / "run.json")
    Runner(children, systems, results, options).run(sections)
    return results


def test_systems_alternate_and_only_one_runs_at_a_time(children: Children, tmp_path: Path) -> None:
    log: list[str] = []
    section = Section("s", (_workload("w", log),), warm=False)
    _run(children, tmp_path, [Recorded("A", log), Recorded("B", log)], [section], Options(rounds=2))
    one = ["start A", "w A", "stop A", "start B", "w B", "stop B"]
    assert log == one * 2


def test_what_fails_and_what_can_not_run_is_kept_with_its_reason(children: Children, tmp_path: Path) -> None:
    log: list[str] = []
    workloads = (_workload("fails", log, error="it broke"), _workload("restarts", log, needs("restart")), _workload("works", log))
    results = _run(
        children, tmp_path, [Recorded("A", log), Recorded("B", log, broken=True)], [Section("s", workloads, warm=False)], Options(rounds=1)
    )
    found = {(f.system, f.workload): (f.error, f.skipped) for f in results.figures}
    assert found[("A", "fails")] == ("it broke", False)
    assert found[("A", "restarts")] == ("it is not ours to stop", True)
    assert found[("A", "works")] == ("", False)
    assert found[("B", "works")] == ("the system did not start: no room", False)
    assert log[-1] == "stop B"


def test_a_resumed_run_does_only_what_is_missing(children: Children, tmp_path: Path) -> None:
    log: list[str] = []
    sections = [Section("s", (_workload("w", log), _workload("x", log)), warm=False)]
    results = Results(tmp_path / "run.json")
    Runner(children, [Recorded("A", log)], results, Options(rounds=1, only="w")).run(sections)
    log.clear()
    Runner(children, [Recorded("A", log)], Results.load(results.path), Options(rounds=2)).run(sections)
    assert log == ["start A", "x A", "stop A", "start A", "w A", "x A", "stop A"]


def test_records_that_failed_are_told_and_done_again(children: Children, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log: list[str] = []
    results = Results(tmp_path / "run.json")
    Runner(children, [Recorded("A", log)], results, Options(rounds=1)).run([Section("s", (_workload("w", log, failed=74_702),), warm=False)])
    assert "74,702 requests or records FAILED" in capsys.readouterr().err
    log.clear()
    Runner(children, [Recorded("A", log)], Results.load(results.path), Options(rounds=1)).run([Section("s", (_workload("w", log),), warm=False)])
    assert log == ["start A", "w A", "stop A"]


def test_with_a_time_limit_everything_comes_once_before_anything_comes_again(
    children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    sections = [Section("a", (_workload("a", log),), warm=False), Section("b", (_workload("b", log),), rounds=1, warm=False)]
    _run(children, tmp_path, [Recorded("A", log)], sections, Options(rounds=3, minutes=60))
    assert [entry for entry in log if "A" in entry and not entry.startswith("st")] == ["a A", "b A", "a A", "a A"]
    log.clear()
    # Every look at the clock costs a minute: after the first round nothing fits any more.
    ticks = iter(range(0, 100_000, 60))
    monkeypatch.setattr(runner.time, "perf_counter", lambda: float(next(ticks)))
    _run(children, tmp_path, [Recorded("A", log)], sections, Options(rounds=3, minutes=3))
    assert [entry for entry in log if not entry.startswith("st")] == ["a A", "b A"]


def test_without_a_jvm_kafka_is_skipped_with_a_reason(children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars.shutil, "which", lambda name: None)
    results = Results(tmp_path / "run.json")
    found = bench.choose_systems(bench.parse(["--systems", "chronik,kafka"]), children, results)
    assert [system.name for system in found] == ["chronik"]
    assert results.skipped_systems == {"kafka": "there is no `java` on the PATH"}


@pytest.mark.parametrize("arguments", [["--part", "nonsense"], ["--rounds", "0"], ["--scale", "0"]])
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.parse(arguments)
    assert "error" in capsys.readouterr().err


def test_sections_have_different_names_and_parts_find_them() -> None:
    names = [section.name for section in catalogue.full()]
    assert len(set(names)) == len(names)
    assert [section.name for section in catalogue.part("produce")] == [name for name in names if name.startswith("produce")]
    for sections in (catalogue.quick(), catalogue.full()):
        for section in sections:
            workloads = [workload.name for workload in section.workloads]
            assert len(set(workloads)) == len(workloads)


def test_kafka_gets_what_three_replicas_need_and_the_second_column_its_flush(children: Children) -> None:
    for flush in (False, True):
        kafka = Kafka(children, flush)
        kafka.ports = {1: (11, 12), 2: (21, 22), 3: (31, 32)}
        properties = kafka.properties(2)
        assert properties["controller.quorum.voters"] == "1@127.0.0.1:12,2@127.0.0.1:22,3@127.0.0.1:32"
        assert properties["min.insync.replicas"] == "2" and properties["default.replication.factor"] == "3"
        assert (properties.get("log.flush.interval.messages") == "1") is flush


# Children


def _ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _wait_ended(pids: list[int], seconds: float = 10.0) -> list[int]:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not all(map(_ended, pids)):
        time.sleep(0.02)
    return [pid for pid in pids if not _ended(pid)]


FAMILY = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True)
time.sleep(60)
"""


def test_a_child_ends_with_its_own_children(children: Children) -> None:
    child = children.start([sys.executable, "-c", FAMILY], output=subprocess.PIPE)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    assert children.pids == [child.pid]
    children.kill(child)
    assert _wait_ended([child.pid, grandchild]) == []
    assert children.pids == []
    children.kill(child)  # once more does no harm


def test_a_stopped_child_ends_too(children: Children) -> None:
    child = children.start([sys.executable, "-c", "import time; time.sleep(60)"])
    psutil.Process(child.pid).suspend()
    children.stop(child, seconds=5)
    assert child.returncode == -15


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent died")
def test_children_die_with_a_harness_that_is_killed() -> None:
    program = (
        "import subprocess, sys, time\nfrom benchmarks.processes import Children\nchildren = Children()\nchildren.guard()\n"
        "print(children.start([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True)\ntime.sleep(60)"
    )
    harness = subprocess.Popen([sys.executable, "-c", program], cwd=jars.ROOT, stdout=subprocess.PIPE)
    assert harness.stdout is not None
    child = int(harness.stdout.readline())
    harness.kill()
    harness.wait()
    harness.stdout.close()
    assert _wait_ended([child]) == []


# Measuring


def test_usage_counts_cpu_and_writes_of_living_processes(children: Children, tmp_path: Path) -> None:
    program = f"""
import os, time
x = sum(range(3_000_000))
with open({str(tmp_path / "file")!r}, "wb") as file:
    file.write(bytes(1 << 20))
    file.flush()
    os.fsync(file.fileno())
print("done", flush=True)
time.sleep(60)
"""
    child = children.start([sys.executable, "-c", program], output=subprocess.PIPE)
    meter = measure.Meter([child.pid])
    assert child.stdout is not None
    child.stdout.readline()
    cost = meter.read()
    assert cost.used.cpu_s > 0 and cost.used.rss_mb > 1 and cost.used.written_bytes >= 0
    values = cost.values(1e9)
    assert values["cpu_s_per_gb"] == cost.used.cpu_s and values["cpu_percent"] > 0
    assert measure.Meter([]).read().values(1e9) == {}
    children.kill(child)
    assert measure.usage([child.pid]) == measure.Usage()


def test_percentiles_by_rank_without_the_warm_up() -> None:
    assert percentile([], 99) == 0.0
    assert percentile([float(n) for n in range(1, 101)], 99) == 100.0
    assert percentile([float(n) for n in range(1, 101)], 50) == 51.0
    found = latencies_ms([9.0, 9.0, *([0.001] * 7), 0.002])
    assert (found["p50_ms"], found["max_ms"], found["n"]) == (1.0, 2.0, 8)


def test_payloads() -> None:
    (one,) = payloads(1000, compressible=False)
    assert len(one) == 1000
    many = payloads(1000, compressible=True)
    assert {len(value) for value in many} == {1000} and len(set(many)) > 200
    import zlib

    assert len(zlib.compress(many[0])) < 700 < 950 < len(zlib.compress(one))


def test_jobs_are_read_from_json() -> None:
    job = Job('{"kind": "produce", "bootstrap": "h:1", "topic": "t", "partitions": 6, "records": 10, "rate": 0.5}')
    assert (job.kind, job.bootstrap, job.topic, job.partitions) == ("produce", "h:1", "t", 6)
    assert job.count("records") == 10 and job.number("rate") == 0.5 and job.count("missing", 7) == 7 and job.mapping("none") == {}


# What foreign tools say


def test_output_of_the_producer_tool() -> None:
    output = (
        "SLF4J: something\n100000 records sent, 50000.0 records/sec (48.83 MB/sec), 9.0 ms avg latency, 20.0 ms max latency.\n"
        "600000 records sent, 81234.5 records/sec (79.33 MB/sec), 12.34 ms avg latency, 250.00 ms max latency, "
        "9 ms 50th, 40 ms 95th, 90 ms 99th, 200 ms 99.9th.\n"
    )
    assert parse_producer_tool(output) == {"records_per_s": 81234.5, "p50_ms": 9.0, "p99_ms": 90.0}
    with pytest.raises(ValueError, match="not understood"):
        parse_producer_tool("Exception in thread main")


def test_output_of_the_consumer_tool() -> None:
    output = (
        "WARNING: option deprecated\n"
        "start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, "
        "rebalance.time.ms, fetch.time.ms, fetch.MB.sec, fetch.nMsg.sec\n"
        "2026-01-01 00:00:00:000, 2026-01-01 00:00:05:000, 585.9375, 117.1875, 600000, 120000.0, 3000, 2000, 292.97, 300000.0\n"
    )
    found = parse_consumer_tool(output)
    assert found["records"] == 600_000 and found["records_per_s"] == 300_000
    assert found["mb_per_s"] == pytest.approx(585.9375 * 1.048576 / 2)
    with pytest.raises(ValueError, match="not understood"):
        parse_consumer_tool("nothing, at all")


def test_kcat_gets_the_settings_of_every_consumer() -> None:
    from benchmarks.client.job import READ

    command = kcat("h:1", "t", "-c", "5")
    assert all(f"{key}={value}" in command for key, value in READ.items())
