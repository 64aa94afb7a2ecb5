"""Compiled or not, the simulator sees the same: the same seed makes the same events, in the same order, to the same end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.compiled.loader import VARIABLE, current, read_builds

PROGRAM = """
import sys
from tests.simulation.cluster import WORKLOADS, run_seed
from broker.version import running
print(running(), file=sys.stderr)
for workload in WORKLOADS:
    for seed in map(int, sys.argv[1:]):
        result = run_seed(seed, workload)
        print(seed, result.fingerprint, result.events, sorted(result.counts.items()))
"""
SEEDS = ("7", "17", "27")
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(current(read_builds(ROOT)) is None, reason="the sources as they are were not compiled; `make compiled` does it")
def test_same_seed_same_trace_compiled_and_interpreted() -> None:
    traces = []
    for value, what in (("0", "interpreted"), ("1", "compiled")):
        command = [sys.executable, "-c", PROGRAM, *SEEDS]
        done = subprocess.run(command, env={**os.environ, VARIABLE: value}, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip() == what
        traces.append(done.stdout.splitlines())
    assert len(traces[0]) >= 2 * len(SEEDS)
    assert traces[0] == traces[1]
