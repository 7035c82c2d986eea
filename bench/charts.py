"""Charts of a run: one bar a system, on a logarithmic scale, with the range over the rounds. Small PNG files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

from bench.report import Results, rounded
from bench.systems import FSYNC, OURS

CHARTS: tuple[tuple[str, str, tuple[tuple[str, str, str, float], ...]], ...] = (
    (
        "rates",
        "messages/s, 100 B, batches of 1,000",
        (
            ("rates", "publish_per_second", "publish, confirmed", 1.0),
            ("rates", "consume_per_second", "consume, acknowledged", 1.0),
        ),
    ),
    (
        "latency",
        "one in flight, milliseconds",
        (("one in flight", "p50_seconds", "p50", 1e3), ("one in flight", "p99_seconds", "p99", 1e3)),
    ),
    (
        "cpu",
        "server CPU, seconds per million messages",
        (
            ("rates", "publish_server_cpu_per_million", "publish", 1.0),
            ("rates", "consume_server_cpu_per_million", "consume", 1.0),
        ),
    ),
)


def source_of(results: Results) -> str:
    """Return what a chart says, where nobody sees it, of the run from which it was drawn."""
    records = json.dumps(results.records, sort_keys=True).encode()
    return f"records {hashlib.sha256(records).hexdigest()}"


def draw_all(results: Results, out: Path) -> None:
    """Draw every chart into *out*."""
    for name, title, panels in CHARTS:
        figure, axes = pyplot.subplots(1, len(panels), figsize=(10, 4.2), sharey=True, layout="constrained")
        figure.suptitle(title + "; dark: synced before confirm, pale: synced later", fontsize=10)
        for axis, panel in zip(axes, panels, strict=True):
            _draw(axis, results, panel)
        figure.savefig(out / f"{name}.png", dpi=80, metadata={"Source": source_of(results)})
        pyplot.close(figure)


def _draw(axis: Any, results: Results, panel: tuple[str, str, str, float]) -> None:
    scenario, figure_name, title, scale = panel
    systems = list(reversed(results.systems))
    for place, system in enumerate(systems):
        figure = results.figure(scenario, system.name, figure_name, size=100)
        if figure is None or not figure["median"]:
            continue
        median = figure["median"] * scale
        error = [[median - figure["least"] * scale], [figure["largest"] * scale - median]]
        color = "#c2410c" if system.name == OURS else "#334155" if system.promise == FSYNC else "#a8b5c6"
        axis.barh(place, median, xerr=error, color=color, ecolor="#888888", log=True)
        axis.annotate(" " + rounded(median), (figure["largest"] * scale, place), va="center", fontsize=7)
    axis.set_yticks(range(len(systems)), [system.title for system in systems], fontsize=8)
    axis.set_title(title, fontsize=9)
    axis.margins(x=0.15)
    axis.spines[["top", "right"]].set_visible(False)
