"""The simulator as part of the ordinary tests: many seeds, the same trace for the same seed, every fault kind seen, and mutants killed.

`CHRONIK_SIM_SEEDS` sets how many seeds run (100). A failure names its seed: `make sim SEED=n` shows it again.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.cluster import Result, run_seed
from tests.simulation.mutants import hunt
from tests.simulation.regressions import REGRESSIONS
from tests.simulation.run import run_caught
from tests.simulation.workload import REPLICATION

SEEDS = int(os.environ.get("CHRONIK_SIM_SEEDS", "100"))
FIRST = 1_000
FAULT_KINDS = (
    "crash_one",
    "crash_leader",
    "crash_voter",
    "crash_new_leader",
    "old_votes",
    "crash_majority",
    "crash_all",
    "power_loss_keeps_nothing",
    "stop_process",
    "cut_one_way",
    "isolate",
    "isolate_leader",
    "reset_sessions",
    "delay",
    "slow_answers",
    "loss",
    "duplication",
    "slow_disk",
    "fsync_error",
    "disk_full",
    "flip_bits",
    "transfer",
    "load",
    "move_replica",
)
EFFECTS = (
    "kernel_flushes",
    "suspected",
    "heard_again",
    "producers_waited",
    "torn_flush",
    "torn_background",
    "message_lost",
    "message_held_back",
    "message_duplicated",
    "vote_duplicated",
    "vote_delivered_again",
    "not_ready",
    "session_reset",
    "session_timed_out",
    "stopped_on_fault",
    "file_lost_writes",
    "file_lost_names",
    "file_sync_errors",
    "file_disk_full",
    "file_bit_flips",
    "rebuilt",
    "snapshots",
    "snapshot_installed",
    "allocated",
    "seals",
    "learner_added",
    "voters_changed",
    "journal_laps",
    "journal_copies",
    "truncations",
    "checkpoints",
    "segment_rolls",
    "acknowledged",
    "flooded",
    "read",
)


@pytest.mark.timeout(900)
def test_seeds() -> None:
    counts: Counter[str] = Counter()
    failed: list[str] = []
    with multiprocessing.Pool(2) as pool:
        for outcome in pool.imap_unordered(run_caught, [(seed, REPLICATION) for seed in range(FIRST, FIRST + SEEDS)]):
            if isinstance(outcome, Result):
                counts.update(outcome.counts)
            else:
                failed.append(outcome)
    assert not failed, f"{len(failed)} of {SEEDS} seeds failed; the first:\n{failed[0]}"
    if SEEDS >= 100:
        missing = [kind for kind in FAULT_KINDS if not counts[f"fault_{kind}"]] + [name for name in EFFECTS if not counts[name]]
        assert not missing, f"never happened in {SEEDS} seeds: {missing}"


@pytest.mark.parametrize("seed", REGRESSIONS, ids=str)
def test_regressions(seed: int) -> None:
    run_seed(seed)


def test_same_seed_same_trace_in_every_process() -> None:
    """Also with another hash seed: nothing may hang on the order of a set or on an address."""
    found = set()
    for hash_seed in ("1", "2"):
        program = "from tests.simulation.cluster import run_seed; r = run_seed(7); print(r.fingerprint, r.events, sorted(r.counts.items()))"
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=root, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    result = run_seed(7)
    found.add(f"{result.fingerprint} {result.events} {sorted(result.counts.items())}\n")
    assert len(found) == 1


QUICK_MUTANTS = (
    "vote before fsync",
    "leader counts itself before its fsync",
    "flush without fsync",
    "acknowledged when the leader has flushed",
)


@pytest.mark.interpreted("replaces functions of the code under test")
@pytest.mark.parametrize("name", QUICK_MUTANTS)
def test_mutants_are_killed(name: str) -> None:
    _, seeds, text = hunt((name, 30))
    assert seeds > 0, f"{name}: {text}"
