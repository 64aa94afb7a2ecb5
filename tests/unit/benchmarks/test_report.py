"""Statistics, goals and tables of results that are made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import goals, plots, report
from benchmarks.metrics import METRICS, Spread, ratio, shown
from benchmarks.results import Figure, Results, about_machine
from tests.unit.benchmarks.support import results, rounds


def test_spread_of_rounds() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread.of([1.0, 2.0]).median == 1.5
    assert Spread.of([2.0]).text(1) == "2.0"
    assert Spread.of([1234.5, 1000.0]).text(0) == "1,117 (1,000–1,234)"
    assert Spread.of([1.01, 1.04]).text(1) == "1.0"  # a range that does not show is not shown
    assert ratio(3.0, 2.0) == 1.5 and ratio(1.0, 0.0) is None
    assert shown(1.234, "cpu_s_per_gb") == "1.23 s/GB" and shown(3.0, "rounds") == "3"


def _verdict(rule: goals.Rule, *figures: Figure) -> goals.Verdict:
    return rule(results(*figures))


@pytest.mark.parametrize(
    ("ours", "theirs", "holds", "aim"),
    [(150.0, 100.0, True, "2.0 × not reached"), (149.0, 100.0, False, "2.0 × not reached"), (200.0, 100.0, True, "reached")],
)
def test_a_goal_where_more_is_better(ours: float, theirs: float, holds: bool, aim: str) -> None:
    rule = goals.against_theirs("rate", "w", "mb_per_s", 1.5, 2.0)
    found = _verdict(rule, *rounds("chronik", "w", "mb_per_s", ours, ours), *rounds("kafka", "w", "mb_per_s", theirs))
    assert (found.holds, found.aim) == (holds, aim)
    assert found.ratio == f"{ours / theirs:.2f} ×" and found.figure == f"{ours:.1f} MB/s"


def test_a_goal_where_less_is_better() -> None:
    rule = goals.against_theirs("cpu", "w", "cpu_s_per_gb", 0.6)
    assert _verdict(rule, *rounds("chronik", "w", "cpu_s_per_gb", 6.0), *rounds("kafka", "w", "cpu_s_per_gb", 10.0)).holds is True
    assert _verdict(rule, *rounds("chronik", "w", "cpu_s_per_gb", 6.1), *rounds("kafka", "w", "cpu_s_per_gb", 10.0)).holds is False
    missing = _verdict(rule, *rounds("chronik", "w", "cpu_s_per_gb", 6.0))
    assert missing.holds is None and missing.word == "not measured"


def test_a_limit_is_judged_by_the_median_but_a_maximum_by_the_worst_round() -> None:
    p99 = goals.at_most("p99", "w", "p99_ms", 10.0)
    assert _verdict(p99, *rounds("chronik", "w", "p99_ms", 30.0, 9.0, 8.0)).holds is True
    gap = goals.at_most("gap", "w", "gap_max_s", 2.0)
    assert _verdict(gap, *rounds("chronik", "w", "gap_max_s", 1.0, 2.5, 1.0)).holds is False
    assert _verdict(gap, *rounds("kafka", "w", "gap_max_s", 1.0)).holds is None


def test_ours_within_a_factor_of_ours() -> None:
    rate = goals.within("rate", "many", "few", "mb_per_s", 1.5)
    assert _verdict(rate, *rounds("chronik", "many", "mb_per_s", 70.0), *rounds("chronik", "few", "mb_per_s", 100.0)).holds is True
    assert _verdict(rate, *rounds("chronik", "many", "mb_per_s", 60.0), *rounds("chronik", "few", "mb_per_s", 100.0)).holds is False
    read = goals.within("read", "large", "none", "read_bytes_per_request", 1.1, 64)
    assert (
        _verdict(read, *rounds("chronik", "large", "read_bytes_per_request", 0.0), *rounds("chronik", "none", "read_bytes_per_request", 0.0)).holds
        is True
    )
    assert (
        _verdict(read, *rounds("chronik", "large", "read_bytes_per_request", 99.0), *rounds("chronik", "none", "read_bytes_per_request", 0.0)).holds
        is False
    )


def test_goals_name_workloads_and_metrics_that_exist() -> None:
    from benchmarks.workloads import catalogue

    known = {workload.name for section in (*catalogue.quick(), *catalogue.full()) for workload in section.workloads} | {goals.START}
    figures = [Figure(system, name, 0, dict.fromkeys(METRICS, 1.0)) for system in ("chronik", "kafka") for name in known]
    found = list(goals.verdicts(results(*figures)))
    assert len(found) == len(goals.GOALS) and all(verdict.holds is not None for verdict in found)
    quick = {workload.name for section in catalogue.quick() for workload in section.workloads} | {goals.START}
    assert {name for name in known - quick if name.startswith("log of")} == {"log of 0 GB", "log of 1 GB", "log of 10 GB"}


def test_the_table_has_medians_ranges_ratios_and_marks_noise() -> None:
    found = results(
        *rounds("chronik", "produce 1 KB", "mb_per_s", 200.0, 180.0, 190.0),
        *rounds("kafka", "produce 1 KB", "mb_per_s", 95.0),
        Figure("kafka", "latency", 0, {"p99_ms": 50.0}, {"others_cpu_percent": 90.0}),
        Figure("chronik", "latency", 0, {"p99_ms": 5.0}, {"others_cpu_percent": 1.0}),
    )
    lines = report.figures_table(found).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["workload", "", "chronik", "kafka", "chronik : kafka"]
    assert cells[2] == ["produce 1 KB", "MB/s", "190.0 (180.0–200.0)", "95.0", "2.00 ×"]
    assert cells[3] == ["latency", "p99 ms", "5.00", "50.00 ~", "0.10 ×"]
    assert len({len(line) for line in lines}) == 1
    assert "other processes" in report.text(found)


def test_what_was_skipped_and_what_failed_is_told() -> None:
    found = results(
        Figure("chronik", "a", 0, error="it broke"),
        Figure("chronik", "b", 0, {"failed": 3.0}),
        Figure("yardstick", "c", 0, error="it serves no Fetch", skipped=True),
    )
    found.skipped_systems["kafka"] = "there is no `java` on the PATH"
    assert report.troubles(found) == [
        "kafka: skipped, there is no `java` on the PATH",
        "chronik, a: FAILED, it broke",
        "chronik, b, round 1: 3 requests or records FAILED",
        "yardstick, c: skipped, it serves no Fetch",
    ]
    assert report.has_failures(found)
    assert "Apache Kafka was not measured" in report.text(found)
    assert not report.has_failures(results(Figure("kafka", "a", 0, error="it broke"), Figure("chronik", "c", 0, error="no kcat", skipped=True)))


def test_results_are_kept_after_each_step_and_resumed(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "run.json"
    first = Results(path, about_machine(["--yardstick", "/somewhere/on/this/machine.py"]))
    first.add(Figure("chronik", "w", 0, error="broken off"))
    first.add(Figure("chronik", "w", 1, {"mb_per_s": 5.0}, {"load": 0.5}))
    again = Results.load(path)
    assert again.figures == first.figures
    assert not again.has("chronik", "w", 0) and again.has("chronik", "w", 1)
    again.add(Figure("chronik", "w", 0, {"mb_per_s": 6.0}))
    assert again.spread("chronik", "w", "mb_per_s") == Spread(5.5, 5.0, 6.0, 2)
    assert [figure.error for figure in Results.load(path).figures] == ["", ""]
    assert "somewhere" not in path.read_text() and "machine.py" in path.read_text()
    path.write_text(json.dumps({"figures": []}))
    with pytest.raises(ValueError, match="format"):
        Results.load(path)


def test_plots_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = Results(
        tmp_path / "run.json", {}, rounds("chronik", "produce 1 KB", "mb_per_s", 1.0, 3.0) + rounds("kafka", "produce 1 KB", "mb_per_s", 1.0)
    )
    (path,) = plots.draw(found, tmp_path)
    assert path.name == "run-produce.png" and path.read_bytes().startswith(b"\x89PNG")
