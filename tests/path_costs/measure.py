"""`python -m tests.path_costs.measure`: measures both figures of every case and compares them with the committed ones; `--commit` replaces those.

`--part calls | copies` measures one of them in this process and prints it as JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.path_costs.counting import ROOT, CallCounter, count_copies

COMMITTED = Path(__file__).parent / "figures.json"
TOLERANCE = {"calls": 1.05, "copies": 1.05}
SLACK = {"calls": 1.0, "copies": 64.0}
"""A figure may grow by its tolerance and its slack, per request."""
JOINED = "raft/transport: joined into messages between nodes"
UNITS = {"calls": "Python calls", "copies": "bytes copied"}
COMMAND = "python -m tests.path_costs.measure --commit"
PLACES_TOLD = 12

Figures = dict[str, dict[str, Any]]
"""By case: `per_request`, and `places`, where it is spent, per request."""


def measure_part(part: str) -> Figures:
    """In this process, which must be fresh for `copies`."""
    ledger = count_copies() if part == "copies" else None
    from tests.path_costs import cases
    from tests.path_costs.world import World

    world = World(cases.PARTITIONS)
    gc.disable()  # finalizers would run whenever the collector pleases
    found: Figures = {}
    for case in cases.CASES:
        for together in cases.frames(world, case, cases.WARM_UP):
            world.exchange(together)
        requests = cases.frames(world, case, cases.MEASURED)
        sent, reads = world.sent_bytes, world.nodes[1].disk.reads
        counter = ledger or CallCounter()
        counter.places.clear()
        with counter:
            answers = [answer for together in requests for answer in world.exchange(together)]
        cases.check(case, answers)
        places = counter.places
        if ledger is not None:
            places[JOINED] += world.sent_bytes - sent
        if case.from_disk != (world.nodes[1].disk.reads > reads):
            raise AssertionError(f"{case.name}: {world.nodes[1].disk.reads - reads} reads of old entries")
        most = {place: count / cases.MEASURED for place, count in places.most_common(PLACES_TOLD)}
        found[case.name] = {"per_request": sum(places.values()) / cases.MEASURED, "places": most}
    return found


def measure() -> dict[str, Figures]:
    """Both parts, each in a process of its own with a fixed hash seed."""
    found = {}
    for part in UNITS:
        command = [sys.executable, "-m", "tests.path_costs.measure", "--part", part]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"measuring {part} failed:\n{done.stderr[-3000:]}")
        found[part] = json.loads(done.stdout)
    return found


def too_much(measured: dict[str, Figures], committed: dict[str, dict[str, float]]) -> list[str]:
    """A text for each figure that grew beyond its tolerance, with the places where most of it is spent."""
    told = []
    for part, figures in measured.items():
        for case, figure in figures.items():
            before, now = committed.get(part, {}).get(case), figure["per_request"]
            if before is None:
                told.append(f"{case}: no figure of {UNITS[part]} is committed; {COMMAND} commits {now:,.1f}")
            elif now > before * TOLERANCE[part] + SLACK[part]:
                places = "".join(f"\n    {count:12,.1f}  {place}" for place, count in figure["places"].items())
                told.append(f"{case}: {now:,.1f} {UNITS[part]} per request, {before:,.1f} are committed. Most of them:{places}")
    return told


def load() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(COMMITTED.read_text())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(UNITS))
    parser.add_argument("--commit", action="store_true", help="replace the committed figures")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(measure_part(options.part)))
        return 0
    measured = measure()
    committed = load() if COMMITTED.exists() else {}
    for part, figures in measured.items():
        for case, figure in figures.items():
            before = committed.get(part, {}).get(case)
            print(f"{figure['per_request']:14,.1f} {UNITS[part]:13} {case}" + (f"  (committed {before:,.1f})" if before is not None else ""))
    if options.commit:
        content = {part: {case: round(figure["per_request"], 1) for case, figure in figures.items()} for part, figures in measured.items()}
        COMMITTED.write_text(json.dumps(content, indent=1) + "\n")
        print(f"written to {COMMITTED.relative_to(ROOT)}")
        return 0
    told = too_much(measured, committed)
    print("\n".join(told))
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
