"""What happened, as a picture: answers over time, time until all was done, and what came again."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot

from sluicemq.examples.async_order.demo import ANSWERED, AT_ONCE, Outcome

COLORS = {AT_ONCE: "#c0392b", ANSWERED: "#2471a3"}
NAMES = {AT_ONCE: "everything in the request", ANSWERED: "answered when it is safe"}


def draw(outcome: Outcome, target: Path) -> None:
    """Draw both variants and write the PNG to *target*."""
    figure, (answers, done, again) = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for variant, run in outcome.runs.items():
        for well, marker in ((True, "o"), (False, "x")):
            points = [(at - run.started, seconds) for at, seconds, fine in run.answers if fine is well]
            if points:
                label = NAMES[variant] + ("" if well else ": error")
                answers.scatter(*zip(*points, strict=True), s=14, marker=marker, color=COLORS[variant], label=label)
    started = outcome.runs[ANSWERED].started
    for at, text in outcome.events:
        if text != "redriven":
            answers.axvline(at - started, color=COLORS[ANSWERED], linewidth=0.8, linestyle=":")
            answers.annotate(
                text,
                (at - started, 0.5),
                xycoords=("data", "axes fraction"),
                rotation=90,
                va="center",
                ha="right",
                fontsize=8,
            )
    answers.set_yscale("log")
    answers.set(xlabel="order placed after, s", ylabel="answered after, s", title="How long a customer waits")
    answers.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False)
    for variant, run in outcome.runs.items():
        assert run.books is not None, "the run is over"
        times = sorted(at - run.books.placed_at[number] for number, at in run.books.completed_at().items())
        placed = len(run.books.numbers("paid"))
        done.step(
            times, [(place + 1) / placed for place in range(len(times))], color=COLORS[variant], label=NAMES[variant]
        )
    done.set_xscale("log")
    done.set(
        xlabel="after, s",
        ylabel="share of paid orders",
        ylim=(0, 1.02),
        title="Stock, points, mail, parcel, invoice: all done",
    )
    done.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False)
    names = list(outcome.redelivered)
    again.bar(names, [outcome.redelivered[name] for name in names], color=COLORS[ANSWERED])
    again.tick_params(axis="x", rotation=30)
    again.set(ylabel="deliveries", title=f"Delivered again ({outcome.redriven} dead letters redriven)")
    figure.savefig(target, dpi=110)
    pyplot.close(figure)
