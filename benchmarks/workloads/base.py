"""A workload: its name, what it needs, and how it runs. The names stand in results, goals and plots, and are not changed lightly."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from benchmarks import jars
from benchmarks.context import Context, Phase
from benchmarks.systems.base import System

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Workload:
    """`run` returns metrics by name (benchmarks.metrics). `needs`: administer, consume, restart, pids of the system; kcat, jvm."""

    name: str
    run: Callable[[Context], Values]
    needs: frozenset[str] = frozenset()
    partitions: int = 6

    def refusal(self, system: System) -> str:
        """Why the workload can not run with `system` here; "" when it can."""
        if not system.can_administer and ("administer" in self.needs or self.partitions != system.fixed_partitions):
            return "topics can not be created there"
        for need, able in (("consume", system.can_consume), ("restart", system.can_restart), ("pids", bool(system.pids()))):
            if need in self.needs and not able:
                return {"consume": "it serves no Fetch", "restart": "it is not ours to stop", "pids": "its processes are not known"}[need]
        return next((why for need in sorted(self.needs) if (why := _machine_lacks(need))), "")


@cache
def _machine_lacks(need: str) -> str:
    if need == "kcat":
        return "" if shutil.which("kcat") else "kcat is not installed"
    return jars.missing() if need == "jvm" else ""


def needs(*names: str) -> frozenset[str]:
    return frozenset(names)


def rates(phase: Phase) -> dict[str, float]:
    """Throughput and cost of a phase that moved `bytes` in `records`."""
    values = phase.values
    return {
        "records_per_s": values["records"] / values["seconds"],
        "mb_per_s": values["bytes"] / values["seconds"] / 1e6,
        "failed": values.get("failed", 0),
        **phase.cost.values(values["bytes"]),
    }


def timings(phase: Phase) -> dict[str, float]:
    """Percentiles and cost of a phase at a fixed rate."""
    kept = ("p50_ms", "p99_ms", "p999_ms", "max_ms", "failed")
    return {**{key: value for key, value in phase.values.items() if key in kept}, **phase.cost.values()}
