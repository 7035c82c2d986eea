"""The sale as one sees it in a terminal while it runs."""

from __future__ import annotations

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sluicemq.examples.peak_shaving.plan import DIRECT
from sluicemq.examples.peak_shaving.sale import Run, Sample

BARS = " ▁▂▃▄▅▆▇█"
WIDTH = 70
TITLES = {DIRECT: "payment in the request", "queued": "payment behind a queue"}


def sparkline(values: list[float], largest: float) -> str:
    """Return one character a value, the last `WIDTH` of them."""
    top = max(largest, 1e-9)
    return "".join(BARS[min(len(BARS) - 1, round(value / top * (len(BARS) - 1)))] for value in values[-WIDTH:])


def view_of(run: Run) -> Panel:
    """Return how the sale stands."""
    table = Table.grid(padding=(0, 2))
    samples = run.samples
    fastest = max((sample.arrivals for sample in samples), default=1.0)

    def line(name: str, unit: str, values: list[float], color: str, largest: float | None = None) -> None:
        top = max(values, default=1.0) if largest is None else largest
        now = f"{values[-1]:,.1f} {unit}" if values else "-"
        table.add_row(name, Text(sparkline(values, top), style=color), now)

    line("customers", "/s", [sample.arrivals for sample in samples], "cyan", fastest)
    line("payments", "/s", [sample.served for sample in samples], "green", fastest)
    line("waiting", "", [float(sample.backlog) for sample in samples], "yellow")
    line("answer", "s", [sample.answer_seconds or 0.0 for sample in samples], "red", 2.0)
    if run.shop != DIRECT:
        line("pace found", "/s", [sample.pace or 0.0 for sample in samples], "magenta", fastest)
        line("unimportant", "", [float(sample.extras) for sample in samples], "blue")
    told = ", ".join(f"{count} {WORDS.get(code, str(code))}" for code, count in sorted(run.answers.items()))
    return Panel(Group(table, Text(told or " ")), title=TITLES[run.shop], width=110)


WORDS = {200: "bought", 202: "queued", 410: "sold out", 429: "come again", 502: "refused", 504: "no answer"}


def in_one_line(sample: Sample) -> str:
    """Return a sample for those who have no terminal."""
    return (
        f"{sample.at:5.1f} s  {sample.arrivals:5.1f} customers/s  {sample.served:5.1f} payments/s  "
        f"{sample.backlog:5d} waiting  answer {sample.answer_seconds or 0:6.3f} s"
    )
