"""The benchmark harness on our own cluster, with workloads too small to say anything: it runs, reports, resumes, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.cluster


def _command(tmp_path: Path, *more: str) -> list[str]:
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    small = ["--systems", "chronik", "--scale", "0.01", "--rounds", "1", "--dir", str(data)]
    return [sys.executable, "-m", "benchmarks", *small, *more]


def test_a_tiny_run_measures_reports_and_is_resumed(tmp_path: Path) -> None:
    output = tmp_path / "run.json"
    command = _command(tmp_path, "--part", "latency", "--only", "at 1,000/s", "--output", str(output))
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert first.returncode == 0, first.stderr
    figures = {figure["workload"]: figure for figure in json.loads(output.read_text())["figures"]}
    assert figures.keys() == {"start", "latency at 1,000/s", "end to end at 1,000/s"}
    assert 0 < figures["start"]["values"]["start_s"] <= figures["start"]["values"]["first_write_s"]
    for name in ("latency at 1,000/s", "end to end at 1,000/s"):
        values = figures[name]["values"]
        assert 0 < values["p50_ms"] <= values["p99_ms"] and values["failed"] == 0
        assert values["cpu_percent"] > 0 and values["rss_mb"] > 10
        assert figures[name]["machine"]["others_cpu_percent"] >= 0
    assert re.search(r"\| latency at 1,000/s +\| p50 ms", first.stdout) and "p99 at 1,000/s ≤ 10 ms" in first.stdout
    assert list((tmp_path / "data").iterdir()) == []
    # Everything is done: nothing is started again.
    again = subprocess.run([*command[:-2], "--resume", str(output)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0 and "starting" not in again.stderr
    assert "end to end at 1,000/s" in again.stdout


def test_ctrl_c_leaves_no_process_and_no_file_behind(tmp_path: Path) -> None:
    output = tmp_path / "run.json"
    harness = subprocess.Popen(
        _command(tmp_path, "--part", "latency", "--scale", "1", "--output", str(output)),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert harness.stderr is not None
        for line in harness.stderr:
            if "warming up" in line:
                break
        end = time.monotonic() + 20
        while len(family := psutil.Process(harness.pid).children(recursive=True)) < 4 and time.monotonic() < end:
            time.sleep(0.05)
        assert len(family) >= 4, "three nodes and a client"
        harness.send_signal(signal.SIGINT)
        text, errors = harness.communicate(timeout=30)
        assert harness.returncode == 130, errors
        assert "ended by SIGINT" in errors and "Traceback" not in errors
        _, alive = psutil.wait_procs(family, timeout=10)
        assert alive == []
        assert list((tmp_path / "data").iterdir()) == []
        assert "start" in text and output.exists()
    finally:
        harness.kill()
        harness.wait()
