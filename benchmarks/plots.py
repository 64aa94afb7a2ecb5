"""Bar charts of a run as PNG, one for each kind of figure; medians with the range of the rounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.metrics import METRICS
from benchmarks.results import Results

COLOURS = ("#1f6f8b", "#d9822b", "#8c8c8c", "#6b4e9b", "#4b8f3c")
HEIGHT_INCHES, WIDTH_MIN_INCHES, WIDTH_PER_GROUP_INCHES = 4.0, 5.0, 1.1


@dataclass(frozen=True, slots=True)
class Plot:
    """`workloads`: how the names of the workloads begin that are shown. `logarithmic`: where systems differ by more than a bar can show."""

    file: str
    title: str
    metric: str
    workloads: tuple[str, ...]
    logarithmic: bool = False


PLOTS = (
    Plot("produce", "Produce, MB/s (more is better)", "mb_per_s", ("produce",)),
    Plot("produce-cpu", "Produce, CPU seconds of the brokers per GB (less is better)", "cpu_s_per_gb", ("produce",)),
    Plot("consume", "Consume, MB/s (more is better)", "mb_per_s", ("consume", "mixed")),
    Plot("consume-cpu", "Consume, CPU seconds of the brokers per GB (less is better)", "cpu_s_per_gb", ("consume", "mixed")),
    Plot("latency", "p99 in ms (less is better)", "p99_ms", ("latency", "end to end", "tail"), True),
    Plot("failover", "Longest time without an acknowledgement, s (less is better)", "gap_max_s", ("failover",)),
    Plot("start", "Start of three nodes, s (less is better)", "start_s", ("start",)),
    Plot("idle-cpu", "CPU of an idle node, % of a core (less is better)", "cpu_percent_per_node", ("idle",)),
    Plot("idle-memory", "Memory of an idle node, MB (less is better)", "rss_mb", ("idle",)),
    Plot("log-size", "CPU per request against the size of the log, ms (less is better)", "cpu_ms_per_request", ("log of",)),
    Plot("transactions", "Transactions per second (more is better)", "transactions_per_s", ("transactions",), True),
)


def draw(results: Results, folder: Path) -> list[Path]:
    """Write every plot that has something to show; names begin with the result file's. Needs matplotlib (a development dependency)."""
    import matplotlib

    matplotlib.use("Agg")
    return [path for plot in PLOTS if (path := _draw(results, plot, folder)) is not None]


def _draw(results: Results, plot: Plot, folder: Path) -> Path | None:
    from matplotlib import pyplot

    workloads = [
        workload
        for workload in results.workloads
        if workload.startswith(plot.workloads) and any(results.spread(system, workload, plot.metric) for system in results.systems)
    ]
    systems = [system for system in results.systems if any(results.spread(system, workload, plot.metric) for workload in workloads)]
    if not workloads:
        return None
    figure, axes = pyplot.subplots(figsize=(max(WIDTH_MIN_INCHES, WIDTH_PER_GROUP_INCHES * len(workloads) + 2), HEIGHT_INCHES), layout="constrained")
    width = 0.8 / len(systems)
    for number, system in enumerate(systems):
        found = [(place, spread) for place, workload in enumerate(workloads) if (spread := results.spread(system, workload, plot.metric)) is not None]
        positions = [place + (number - (len(systems) - 1) / 2) * width for place, _ in found]
        medians = [spread.median for _, spread in found]
        errors = [[spread.median - spread.low for _, spread in found], [spread.high - spread.median for _, spread in found]]
        bars = axes.bar(positions, medians, width, label=system, yerr=errors, capsize=2, color=COLOURS[number % len(COLOURS)])
        axes.bar_label(bars, fmt=f"%.{min(METRICS[plot.metric].digits, 1)}f", fontsize=7, padding=2)
    axes.set_xticks(range(len(workloads)), [workload.removeprefix("produce ") for workload in workloads], fontsize=8, rotation=25, ha="right")
    axes.set_title(plot.title, fontsize=10)
    if plot.logarithmic:
        axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    path = folder / f"{results.path.stem}-{plot.file}.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
