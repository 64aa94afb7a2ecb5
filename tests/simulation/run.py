"""`python -m tests.simulation.run --seeds 1000 [--first 0]` or `--seed 17`: run seeds, print what was counted, and each failing seed."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import traceback
from collections import Counter

from tests.simulation.cluster import Result, run_seed


def run_caught(seed: int) -> Result | str:
    """The result, or the text of what went wrong."""
    try:
        return run_seed(seed)
    except Exception:  # noqa: BLE001 - reported with its seed
        return f"seed {seed}:\n{traceback.format_exc()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quiet", action="store_true", help="only the last line of a failure")
    options = parser.parse_args()
    if options.seed is not None:
        result = run_seed(options.seed)
        print(f"seed {result.seed}: trace {result.fingerprint}, {result.events} events")
        for name, count in sorted(result.counts.items()):
            print(f"  {name}: {count}")
        return 0
    counts: Counter[str] = Counter()
    failed: list[str] = []
    seeds = range(options.first, options.first + options.seeds)
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
    print(f"{options.seeds - len(failed)} of {options.seeds} seeds passed")
    for text in failed:
        print("replay with: make sim SEED=" + text.split(":", 1)[0].removeprefix("seed "))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
