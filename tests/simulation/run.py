"""`python -m tests.simulation.run --seeds 1000 [--first 0]` or `--seed 17`: run seeds, print what was counted, and each failing seed.

`--workload` names what the clients do (WORKLOADS of `tests.simulation.cluster`); without it many seeds run each of them, a single one the first.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import traceback
from collections import Counter

from tests.simulation.cluster import WORKLOADS, Result, run_seed


def run_caught(job: tuple[int, str]) -> Result | str:
    """The result of (seed, workload), or the text of what went wrong."""
    try:
        return run_seed(*job)
    except Exception:  # noqa: BLE001 - reported with its seed
        return f"seed {job[0]} of {job[1]}:\n{traceback.format_exc()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workload", choices=[*WORKLOADS], default="")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quiet", action="store_true", help="only the last line of a failure")
    options = parser.parse_args()
    if options.seed is not None:
        result = run_seed(options.seed, options.workload or next(iter(WORKLOADS)))
        print(f"seed {result.seed}: trace {result.fingerprint}, {result.events} events")
        for name, count in sorted(result.counts.items()):
            print(f"  {name}: {count}")
        return 0
    failed = [text for workload in WORKLOADS if options.workload in ("", workload) for text in run_many(workload, options)]
    for text in failed:
        seed, _, workload = text.split(":", 1)[0].removeprefix("seed ").partition(" of ")
        print(f"replay with: make sim SEED={seed} WORKLOAD={workload}")
    return 1 if failed else 0


def run_many(workload: str, options: argparse.Namespace) -> list[str]:
    """Run seeds; returns the texts of those that failed."""
    counts: Counter[str] = Counter()
    failed: list[str] = []
    seeds = [(seed, workload) for seed in range(options.first, options.first + options.seeds)]
    print(f"{workload}:")
    with multiprocessing.Pool(options.processes) as pool:
        for done, outcome in enumerate(pool.imap_unordered(run_caught, seeds), 1):
            if isinstance(outcome, str):
                failed.append(outcome)
                print(outcome.split("\n", 1)[0] + " " + outcome.strip().rsplit("\n", 1)[-1] if options.quiet else outcome, flush=True)
            else:
                counts.update(outcome.counts)
            if done % 50 == 0 and sys.stderr.isatty():
                print(f"{done}/{options.seeds}", file=sys.stderr)
    for name, count in sorted(counts.items()):
        print(f"  {name}: {count}")
    print(f"{options.seeds - len(failed)} of {options.seeds} seeds of {workload} passed", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
