"""The project's goals, each as a rule over results: its figure, the other side, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.metrics import METRICS, shown
from benchmarks.results import Results

OURS, THEIRS = "chronik", "kafka"
START = "start"
DISK_SLACK_BYTES = 64
"""Bytes per request below which reading is not told from nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`holds` is None when something was not measured; `aim` likewise where there is no further aim."""

    goal: str
    figure: str
    against: str
    ratio: str
    holds: bool | None
    aim: str = ""

    @property
    def word(self) -> str:
        return {True: "holds", False: "does not hold", None: "not measured"}[self.holds]


Rule = Callable[[Results], Verdict]


def against_theirs(goal: str, workload: str, metric: str, limit: float, aim: float | None = None) -> Rule:
    """Ours : theirs, at least `limit` where more is better, at most where less is."""

    def judge(results: Results) -> Verdict:
        ours, theirs = results.median(OURS, workload, metric), results.median(THEIRS, workload, metric)
        spec = METRICS[metric]
        if ours is None or theirs is None:
            return Verdict(goal, _shown(ours, metric), _shown(theirs, metric), "", None)
        more = spec.better == "more"
        found = ours / theirs if theirs else float("inf")
        holds = found >= limit if more else found <= limit
        further = "" if aim is None else ("reached" if (found >= aim if more else found <= aim) else f"{aim} × not reached")
        return Verdict(goal, _shown(ours, metric), _shown(theirs, metric), f"{found:.2f} ×", holds, further)

    return judge


def at_most(goal: str, workload: str, metric: str, limit: float) -> Rule:
    """The worst round for metrics that are maxima, the median for others."""

    def judge(results: Results) -> Verdict:
        spread, theirs = results.spread(OURS, workload, metric), results.median(THEIRS, workload, metric)
        if spread is None:
            return Verdict(goal, "", _shown(theirs, metric), "", None)
        value = spread.high if metric.startswith(("gap_max", "max")) else spread.median
        return Verdict(goal, _shown(value, metric), _shown(theirs, metric), "", value <= limit)

    return judge


def within(goal: str, workload: str, base: str, metric: str, factor: float, slack: float = 0.0) -> Rule:
    """Ours with ours: `workload` costs at most `factor` times what `base` does (or has at least 1 : factor of its rate)."""

    def judge(results: Results) -> Verdict:
        value, reference = results.median(OURS, workload, metric), results.median(OURS, base, metric)
        if value is None or reference is None:
            return Verdict(goal, _shown(value, metric), _shown(reference, metric), "", None)
        if METRICS[metric].better == "more":
            found = reference / value if value else float("inf")
        else:
            found = value / reference if reference else (1.0 if value <= slack else float("inf"))
        holds = found <= factor or (METRICS[metric].better != "more" and value <= reference + slack)
        return Verdict(goal, _shown(value, metric), f"{_shown(reference, metric)} ({base})", f"{found:.2f} ×", holds)

    return judge


def _shown(value: float | None, metric: str) -> str:
    return "" if value is None else shown(value, metric)


ONE_KB, HUNDRED, MANY = "produce 1 KB", "produce 100 B", "produce 1 KB, 256 partitions"
GOALS: tuple[Rule, ...] = (
    against_theirs("1 KB: rate ≥ 1.5 × Kafka's (aim 2 ×)", ONE_KB, "mb_per_s", 1.5, 2.0),
    against_theirs("1 KB: CPU s/GB ≤ 0.6 × (aim 0.4 ×)", ONE_KB, "cpu_s_per_gb", 0.6, 0.4),
    against_theirs("100 B: rate ≥ 2 ×", HUNDRED, "records_per_s", 2.0),
    against_theirs("p99 at 1,000/s ≤ 0.25 ×", "latency at 1,000/s", "p99_ms", 0.25),
    at_most("p99 at 1,000/s ≤ 10 ms", "latency at 1,000/s", "p99_ms", 10.0),
    against_theirs("consume of 1 KB with kcat: rate ≥ 1 ×", "consume, kcat", "mb_per_s", 1.0),
    against_theirs("consume of 1 KB with kcat: CPU s/GB ≤ 1 ×", "consume, kcat", "cpu_s_per_gb", 1.0),
    at_most("kill -9 of a leader ≤ 2 s in every round", "failover, kill -9", "gap_max_s", 2.0),
    at_most("SIGSTOP of a leader ≤ 2 s in every round", "failover, SIGSTOP", "gap_max_s", 2.0),
    against_theirs("three nodes start in ≤ 0.5 × its time", START, "start_s", 0.5),
    at_most("idle memory ≤ 150 MB a node", "idle, no partitions", "rss_mb", 150.0),
    at_most("idle memory ≤ 150 MB a node, 1,000 partitions", "idle, 1,000 partitions", "rss_mb", 150.0),
    against_theirs("idle CPU with 1,000 partitions ≤ Kafka's", "idle, 1,000 partitions", "cpu_percent_per_node", 1.0),
    within("256 partitions within 1.5 × of 6: rate", MANY, ONE_KB, "mb_per_s", 1.5),
    within("256 partitions within 1.5 × of 6: CPU s/GB", MANY, ONE_KB, "cpu_s_per_gb", 1.5),
    within("10 GB of log within 10 % of none: CPU per request", "log of 10 GB", "log of 0 GB", "cpu_ms_per_request", 1.1),
    within(
        "10 GB of log within 10 % of none: bytes read per request", "log of 10 GB", "log of 0 GB", "read_bytes_per_request", 1.1, DISK_SLACK_BYTES
    ),
)


def verdicts(results: Results) -> Iterator[Verdict]:
    """Every goal of which at least our side was measured."""
    for rule in GOALS:
        found = rule(results)
        if found.figure:
            yield found
