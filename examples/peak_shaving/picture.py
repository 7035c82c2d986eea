"""Both sales as a picture: who came, what was served, what waited, how long an answer took."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot

from sluicemq.examples.peak_shaving.payment import CAPACITY_PER_SECOND
from sluicemq.examples.peak_shaving.plan import DIRECT, QUEUED, Plan
from sluicemq.examples.peak_shaving.sale import Run

BELOW: dict[str, Any] = {
    "fontsize": 8,
    "frameon": False,
    "loc": "upper center",
    "bbox_to_anchor": (0.5, 0),
    "ncols": 4,
}
"""Legends stand below their axes: within them they would cover a line in one run or another."""
TITLES = {DIRECT: "Payment in the request", QUEUED: "Payment behind a queue"}


def draw(runs: dict[str, Run], plan: Plan, target: Path) -> None:
    """Draw both and write the PNG to *target*."""
    figure, axes = pyplot.subplots(3, 2, figsize=(13, 9), layout="constrained", sharex=True, sharey="row")
    for column, (shop, run) in enumerate(runs.items()):
        rates, backlog, answers = axes[0][column], axes[1][column], axes[2][column]
        at = [sample.at for sample in run.samples]
        rates.plot(at, [sample.arrivals for sample in run.samples], color="#7f8c8d", label="customers")
        rates.plot(at, [sample.served for sample in run.samples], color="#27ae60", label="payments done")
        if shop == QUEUED:
            found = [(sample.at, sample.pace) for sample in run.samples if sample.pace is not None]
            if found:
                rates.plot(*zip(*found, strict=True), color="#8e44ad", linewidth=1, label="pace that the queue found")
        label = "what the service bears"
        rates.axhline(CAPACITY_PER_SECOND, color="#27ae60", linewidth=0.8, linestyle=":", label=label)
        # Who gets an error presses the button again, hundreds of times a second: that is cut off.
        rates.set(title=TITLES[shop], ylabel="a second", ylim=(0, 2.5 * max(plan.normal * plan.factor, 1)))
        rates.legend(**BELOW)
        backlog.fill_between(
            at, [sample.backlog for sample in run.samples], color="#f1c40f", label="payments that wait"
        )
        if shop == QUEUED:
            extras = [sample.extras for sample in run.samples]
            backlog.plot(at, extras, color="#2980b9", linewidth=1, label="points and recommendations that wait")
        backlog.set(ylabel="orders")
        backlog.legend(**BELOW)
        known = [(sample.at, sample.answer_seconds) for sample in run.samples if sample.answer_seconds is not None]
        if known:
            answers.plot(*zip(*known, strict=True), color="#c0392b")
        answers.set(xlabel="s", ylabel="longest answer, s", yscale="log")
        told = ", ".join(run.complaints()) or "nothing oversold, nobody charged twice, nobody misinformed"
        answers.set_title(fill(told, 90), fontsize=8, color="#c0392b" if run.complaints() else "#27ae60")
    figure.savefig(target, dpi=110)
    pyplot.close(figure)
