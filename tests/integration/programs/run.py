"""`python -m tests.integration.programs.run [--rounds 10] [--act NAME …] [--quiet]`: the programs again and again on one cluster, a kill in each.

Prints what each took and what was wrong; exit status 1 when anything was, or when a node's log has a surprise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.integration.programs.repertoire import REPERTOIRE, libraries_of
from tests.integration.programs.scene import ENVIRONMENT, Stage
from tests.processes import ProcessCluster


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.programs.run", description="Run the programs of applications again and again.")
    parser.add_argument("--rounds", type=int, default=10, help="how often each program is played (default 10)")
    parser.add_argument("--act", action="append", choices=list(REPERTOIRE), help="only these; may be repeated")
    parser.add_argument("--quiet", action="store_true", help="kill nobody")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="programs-") as directory, ProcessCluster(Path(directory), environment=ENVIRONMENT) as cluster:
        stage = Stage(cluster)
        for number in range(1, options.rounds + 1):
            for name in options.act or REPERTOIRE:
                act, start = REPERTOIRE[name], time.monotonic()
                problems = stage.run(name, act.program, libraries_of(name), not options.quiet, act.coordinators)
                found = [f"{library}: {problem}" for library, said in problems.items() for problem in said]
                print(f"round {number}: {name}: {time.monotonic() - start:.1f} s{'' if not found else f', {len(found)} problems'}", flush=True)
                for line in found:
                    print(f"  {line}", flush=True)
                wrong += len(found)
        surprises = cluster.surprises()
    for line in surprises:
        print(f"in the log of {line}")
    print(f"{options.rounds} rounds, {wrong} problems, {len(surprises)} surprises in the logs")
    return int(bool(wrong or surprises))


if __name__ == "__main__":
    sys.exit(main())
