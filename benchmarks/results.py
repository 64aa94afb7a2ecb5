"""The results of a run as JSON, written after every step, so that a run that was broken off can be resumed or at least be read."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import confluent_kafka
import psutil

from benchmarks.metrics import Spread
from benchmarks.processes import ROOT

FOLDER = Path(__file__).parent / "results"
FORMAT = 2


@dataclass(frozen=True, slots=True)
class Figure:
    """One workload on one system in one round. `machine`: what else went on. `error`: why there are no values; `skipped`: it was not tried."""

    system: str
    workload: str
    round: int
    values: Mapping[str, float] = field(default_factory=dict)
    machine: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    skipped: bool = False

    @property
    def key(self) -> tuple[str, str, int]:
        return self.system, self.workload, self.round


@dataclass
class Results:
    """All figures of one run, in the order in which they were taken. `skipped_systems`: why a system was left out."""

    path: Path
    about: dict[str, object] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    skipped_systems: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Raises ValueError for a file of another format."""
        found = json.loads(path.read_text())
        if found.get("format") != FORMAT:
            raise ValueError(f"{path} has format {found.get('format')}, not {FORMAT}; it can not be resumed or shown")
        return cls(path, found["about"], [Figure(**figure) for figure in found["figures"]], found["skipped_systems"])

    def add(self, figure: Figure) -> None:
        """A figure of the same system, workload and round is replaced: it failed before, or the run was repeated."""
        self.figures = [old for old in self.figures if old.key != figure.key]
        self.figures.append(figure)
        self.save()

    def save(self) -> None:
        """The whole file anew, beside and renamed: a run that is killed leaves the file of the step before."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "about": self.about, "skipped_systems": self.skipped_systems, "figures": [asdict(f) for f in self.figures]}
        beside = self.path.with_suffix(".tmp")
        beside.write_text(json.dumps(content, indent=1) + "\n")
        beside.replace(self.path)

    def has(self, system: str, workload: str, round_: int) -> bool:
        """Whether the step is done; one that failed is not."""
        return any(figure.key == (system, workload, round_) and not figure.error and not figure.values.get("failed") for figure in self.figures)

    @property
    def systems(self) -> list[str]:
        return list(dict.fromkeys(figure.system for figure in self.figures))

    @property
    def workloads(self) -> list[str]:
        return list(dict.fromkeys(figure.workload for figure in self.figures))

    def of(self, system: str, workload: str) -> list[Figure]:
        return [figure for figure in self.figures if figure.system == system and figure.workload == workload]

    def spread(self, system: str, workload: str, metric: str) -> Spread | None:
        """Over the rounds that have the metric; None when none has."""
        values = [figure.values[metric] for figure in self.of(system, workload) if metric in figure.values]
        return Spread.of(values) if values else None

    def median(self, system: str, workload: str, metric: str) -> float | None:
        found = self.spread(system, workload, metric)
        return found.median if found is not None else None


def new_path() -> Path:
    return FOLDER / f"bench-{time.strftime('%Y%m%d-%H%M%S')}.json"


def _commit() -> str:
    """Of the checkout; "" outside one. A mark when there are changes that are not committed."""
    try:
        shown = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return shown.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def about_machine(arguments: Iterable[str]) -> dict[str, object]:
    return {
        "began": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "arguments": [argument.rpartition("/")[2] for argument in arguments],  # where things lie on this machine is nobody's business
        "commit": _commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "librdkafka": confluent_kafka.libversion()[0],
        "load_before": os.getloadavg(),
    }
