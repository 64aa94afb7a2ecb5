"""`python -m benchmarks.bench`: our cluster beside Apache Kafka and others, the same clients and workloads, in turn, on one machine.

Without a JVM the columns of Kafka are left out, and the report says so. Results go to benchmarks/results as JSON after every step, plots as PNG;
`--resume FILE` goes on with a run that was broken off, `--show FILE` prints one. Ctrl-C leaves no process behind.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import jars, plots, report
from benchmarks.processes import Children, Interrupted
from benchmarks.results import Results, about_machine, new_path
from benchmarks.runner import Options, Runner
from benchmarks.systems.base import System
from benchmarks.systems.chronik import Chronik
from benchmarks.systems.kafka import Kafka
from benchmarks.systems.others import Foreign, Yardstick
from benchmarks.workloads import catalogue

INTERRUPTED = 130


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--part", default="quick", help="quick (the goals), full, or part of a section's name: produce, latency, consume, coordinators, …"
    )
    parser.add_argument("--only", default="", help="only workloads whose name holds this")
    parser.add_argument(
        "--systems", default="chronik,kafka", help="of chronik, kafka, kafka-flush (an fsync on every append); in this order in each round"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=0, help="leave out rounds that would not end within this time")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the workloads; below 1 the figures mean little")
    parser.add_argument("--yardstick", type=Path, help="a yardstick program, measured as a further system where it can take part")
    parser.add_argument("--bootstrap", default="", help="a further system that runs already: its bootstrap address")
    parser.add_argument("--pids", default="", help="its processes, comma-separated, for CPU and memory")
    parser.add_argument("--name", default="other", help="its name")
    parser.add_argument("--dir", type=Path, help="where the data goes; by default the system's temporary directory")
    parser.add_argument("--output", type=Path, help="the result file; by default a new one in benchmarks/results")
    parser.add_argument("--resume", type=Path, help="go on with this result file")
    parser.add_argument("--show", type=Path, help="print the report of this result file, draw its plots, and end")
    options = parser.parse_args(arguments)
    if not catalogue.part(options.part):
        parser.error(f"no section's name holds {options.part!r}; there are {', '.join(section.name for section in catalogue.full())}, quick and full")
    if options.rounds < 1 or options.scale <= 0:
        parser.error("--rounds and --scale must be positive")
    return options


def choose_systems(options: argparse.Namespace, children: Children, results: Results) -> list[System]:
    """In the order asked for. A system that can not run here is named in the results, with the reason."""
    found: list[System] = []
    results.skipped_systems.clear()
    for name in filter(None, options.systems.split(",")):
        if name == "chronik":
            found.append(Chronik(children))
        elif name in ("kafka", "kafka-flush"):
            if why := jars.missing():
                results.skipped_systems[name] = why
            else:
                found.append(Kafka(children, flush=name == "kafka-flush"))
        else:
            raise SystemExit(f"error: there is no system {name!r}; --systems takes chronik, kafka and kafka-flush")
    if options.yardstick is not None:
        if not options.yardstick.is_file():
            raise SystemExit(f"error: there is no yardstick program at {options.yardstick}")
        found.append(Yardstick(children, options.yardstick))
    if options.bootstrap:
        found.append(Foreign(options.name, options.bootstrap, tuple(int(pid) for pid in options.pids.split(",") if pid)))
    return found


def show(results: Results) -> None:
    """Report to standard output, plots beside the results."""
    print(report.text(results))
    try:
        for path in plots.draw(results, results.path.parent):
            print(f"plot: {_near(path)}")
    except ImportError:
        print("no plots: matplotlib is not installed (pip install -e '.[dev]')")


def _near(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    options = parse(given)
    if options.show is not None:
        show(Results.load(options.show))
        return 0
    results = Results.load(options.resume) if options.resume is not None else Results(options.output or new_path(), about_machine(given))
    children = Children()
    children.guard()
    try:
        _measure(options, children, results)
        ended = int(report.has_failures(results))
    except Interrupted as signal:
        children.stop_all()
        print(f"\nended by {signal}; what is done is kept: --resume {_near(results.path)}", file=sys.stderr)
        ended = INTERRUPTED
    finally:
        children.stop_all()
    show(results)
    print(f"results: {_near(results.path)}")
    return ended


def _measure(options: argparse.Namespace, children: Children, results: Results) -> None:
    systems = choose_systems(options, children, results)
    for name, why in results.skipped_systems.items():
        print(f"{name} is SKIPPED: {why}", file=sys.stderr)
    results.about["systems"] = {system.name: system.about() for system in systems}
    results.save()
    runner = Runner(children, systems, results, Options(options.rounds, options.scale, options.minutes, options.only, options.dir))
    runner.run(catalogue.part(options.part))


if __name__ == "__main__":
    sys.exit(main())
