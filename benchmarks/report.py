"""Tables of a run as Markdown, which is also what the terminal shows: figures with ratios and spread, goals, and what was skipped or failed."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.goals import OURS, THEIRS, verdicts
from benchmarks.metrics import METRICS, ratio
from benchmarks.results import Results

NOISY_PERCENT = 20.0
"""CPU of strangers, in % of one core, above which a figure is marked."""
NOISY_MARK = " ~"


def render(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    """A Markdown table with aligned columns; the first two are texts, the others figures."""
    widths = [max(len(row[place]) for row in (headers, *rows)) for place in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        return (
            "| "
            + " | ".join(cell.ljust(width) if place < 2 else cell.rjust(width) for place, (cell, width) in enumerate(zip(cells, widths, strict=True)))
            + " |"
        )

    rule = "|" + "|".join("-" * (width + 2) if place < 2 else "-" * (width + 1) + ":" for place, width in enumerate(widths)) + "|"
    return "\n".join([line(headers), rule, *(line(row) for row in rows)])


def _noisy(results: Results, system: str, workload: str) -> bool:
    return any(figure.machine.get("others_cpu_percent", 0.0) > NOISY_PERCENT for figure in results.of(system, workload))


def figures_table(results: Results) -> str:
    """One line per workload and metric: median and range of each system, and our ratio to each other one."""
    systems = results.systems
    others = [system for system in systems if system != OURS] if OURS in systems else []
    rows = []
    for workload in results.workloads:
        name = workload
        for key, metric in METRICS.items():
            spreads = {system: results.spread(system, workload, key) for system in systems}
            if not metric.shown or all(spread is None for spread in spreads.values()):
                continue
            cells = [
                "" if spread is None else spread.text(metric.digits) + (NOISY_MARK if _noisy(results, system, workload) else "")
                for system, spread in spreads.items()
            ]
            ours = spreads.get(OURS)
            ratios = []
            for other in others:
                theirs = spreads[other]
                found = ratio(ours.median, theirs.median) if ours and theirs and metric.better else None
                ratios.append("" if found is None else f"{found:.2f} ×")
            rows.append([name, metric.label, *cells, *ratios])
            name = ""
    return render(rows, ["workload", "", *systems, *(f"{OURS} : {other}" for other in others)])


def goals_table(results: Results) -> str:
    rows = [[v.goal, v.word + (f", {v.aim}" if v.aim else ""), v.figure, v.against, v.ratio] for v in verdicts(results)]
    return render(rows, ["goal", "", OURS, "against", "ratio"]) if rows else "No goal was measured."


def troubles(results: Results) -> list[str]:
    """What was skipped and what failed, each once."""
    found = [f"{system}: skipped, {why}" for system, why in results.skipped_systems.items()]
    for figure in results.figures:
        if figure.error:
            found.append(f"{figure.system}, {figure.workload}: {'skipped' if figure.skipped else 'FAILED'}, {figure.error}")
        elif figure.values.get("failed"):
            found.append(f"{figure.system}, {figure.workload}, round {figure.round + 1}: {figure.values['failed']:.0f} requests or records FAILED")
    return list(dict.fromkeys(found))


def has_failures(results: Results) -> bool:
    """Of ours."""
    return any(f.system == OURS and ((f.error and not f.skipped) or f.values.get("failed")) for f in results.figures)


def describe(results: Results) -> list[str]:
    """The machine, and every system with its version and what its acknowledgement promises."""
    about = results.about
    machine = [f"{about[key]}{unit}" for key, unit in (("processor", ""), ("cores", " cores"), ("memory_gb", " GB"), ("kernel", "")) if key in about]
    lines = [f"{about.get('began', '')}, commit {about.get('commit', '')}, librdkafka {about.get('librdkafka', '')}; {', '.join(machine)}"]
    systems = about.get("systems")
    if isinstance(systems, dict):
        lines += [f"{name}: {', '.join(f'{key} {value}' for key, value in described.items())}" for name, described in systems.items()]
    return lines


def text(results: Results) -> str:
    """The whole report. Figures of noisy machines carry a mark."""
    parts = [*describe(results), "", figures_table(results), "", goals_table(results)]
    if any(_noisy(results, figure.system, figure.workload) for figure in results.figures):
        parts += ["", f"{NOISY_MARK.strip()} other processes used more than {NOISY_PERCENT:.0f} % of a core meanwhile."]
    if THEIRS not in results.systems:
        parts += ["", "Apache Kafka was not measured: ratios to it are missing."]
    return "\n".join([*parts, "", *troubles(results)])
