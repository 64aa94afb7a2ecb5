"""The coordinators in the simulator, as part of the ordinary tests. `CHRONIK_SIM_COORDINATOR_SEEDS` sets how many seeds run (36).

A failure names its seed: `make sim SEED=n WORKLOAD=coordinators` shows it again.
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
from tests.simulation.coordinating import COORDINATORS
from tests.simulation.mutants import hunt
from tests.simulation.regressions import COORDINATOR_REGRESSIONS
from tests.simulation.run import run_caught

SEEDS = int(os.environ.get("CHRONIK_SIM_COORDINATOR_SEEDS", "36"))
FIRST = 5_000
FAULT_KINDS = ("crash_coordinator", "crash_after_decision", "crash_after_answer", "isolate_coordinator", "transfer_coordinator")
EFFECTS = (
    "answer_lost",
    "assignments",
    "batch_given_up",
    "call_duplicated",
    "call_held_back",
    "call_late",
    "call_lost",
    "call_txn.markers",
    "call_txn.verify",
    "checkpoints",
    "commit_ILLEGAL_GENERATION",
    "commit_UNKNOWN_MEMBER_ID",
    "commit_late",
    "commit_refused",
    "group_commits",
    "listed",
    "member_died",
    "member_left",
    "member_slept",
    "not_shown",
    "offsets_unstable",
    "producer_killed",
    "read_committed",
    "request_late",
    "request_lost",
    "transaction_aborted",
    "transaction_committed",
    "transformed",
    "worker_killed",
    "worker_slept",
    "worker_zombies",
    "zombie_fenced",
)
RARE = ("commit_unknown", "rebuilt", "voters_changed")
"""Looked for when many seeds run."""


@pytest.mark.timeout(900)
def test_seeds() -> None:
    counts: Counter[str] = Counter()
    failed: list[str] = []
    with multiprocessing.Pool(2) as pool:
        for outcome in pool.imap_unordered(run_caught, [(seed, COORDINATORS) for seed in range(FIRST, FIRST + SEEDS)]):
            if isinstance(outcome, Result):
                counts.update(outcome.counts)
            else:
                failed.append(outcome)
    assert not failed, f"{len(failed)} of {SEEDS} seeds failed; the first:\n{failed[0]}"
    if SEEDS >= 36:
        wanted = EFFECTS + RARE if SEEDS >= 300 else EFFECTS
        missing = [kind for kind in FAULT_KINDS if not counts[f"fault_{kind}"]] + [name for name in wanted if not counts[name]]
        assert not missing, f"never happened in {SEEDS} seeds: {missing}"


@pytest.mark.parametrize("seed", COORDINATOR_REGRESSIONS, ids=str)
def test_regressions(seed: int) -> None:
    run_seed(seed, COORDINATORS)


def test_same_seed_same_trace_in_every_process() -> None:
    program = (
        "from tests.simulation.cluster import run_seed; r = run_seed(7, 'coordinators'); print(r.fingerprint, r.events, sorted(r.counts.items()))"
    )
    found = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1


QUICK_MUTANTS = (
    "transactions: reply before the commit",
    "transactions: no epoch bump at the end of a transaction",
    "transactions: marker lost at failover",
    "groups: commit accepted from an old generation",
)


@pytest.mark.interpreted("replaces functions of the code under test")
@pytest.mark.parametrize("name", QUICK_MUTANTS)
def test_mutants_are_killed(name: str) -> None:
    _, seeds, text = hunt((name, 30))
    assert seeds > 0, f"{name}: {text}"
