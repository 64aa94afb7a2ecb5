"""Compiled or not, the simulator sees the same: the same seed makes the same events, in the same order, to the same end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.compiled import build as building
from cli.compiled.loader import VARIABLE

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


@pytest.mark.skipif(bool(building.missing()), reason=f"nothing can be compiled here: {building.missing()}")
@pytest.mark.timeout(900)  # most of it, if any, is the compiler's
def test_same_seed_same_trace_compiled_and_interpreted() -> None:
    building.build()
    traces = []
    for value, what in (("0", "interpreted"), ("1", "compiled")):
        command = [sys.executable, "-c", PROGRAM, *SEEDS]
        done = subprocess.run(command, env={**os.environ, VARIABLE: value}, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip() == what
        traces.append(done.stdout.splitlines())
    assert len(traces[0]) >= 2 * len(SEEDS)
    assert traces[0] == traces[1]
