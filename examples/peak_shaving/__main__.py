"""`python -m sluicemq.examples.peak_shaving`: runs both sales, shows them live, prints a table, draws a picture."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import click
import trio
from rich.console import Console
from rich.live import Live
from rich.table import Table

from sluicemq.examples.common.figures import percentile
from sluicemq.examples.common.processes import DemoFailed, leaves
from sluicemq.examples.peak_shaving.picture import draw
from sluicemq.examples.peak_shaving.plan import DIRECT, QUEUED, Plan
from sluicemq.examples.peak_shaving.sale import Run, Sale
from sluicemq.examples.peak_shaving.view import WORDS, in_one_line, view_of


def table_of(runs: dict[str, Run]) -> Table:
    """Return both beside each other."""
    both = [runs[DIRECT], runs[QUEUED]]
    table = Table("", "payment in the request", "payment behind a queue", title="The same sale, twice")
    for code in sorted({code for run in both for code in run.answers}):
        table.add_row(f"customers told: {WORDS.get(code, str(code))}", *(str(run.answers[code]) for run in both))
    table.add_row(
        "answer: p50, p99",
        *(
            f"{percentile(run.seconds, 50) * 1000:,.0f} ms, {percentile(run.seconds, 99) * 1000:,.0f} ms"
            for run in both
        ),
    )
    table.add_row("most payments waiting", *(str(max(sample.backlog for sample in run.samples)) for run in both))
    table.add_row("pieces sold", *(str(run.sold) for run in both))
    table.add_row("oversold", *(str(run.oversold) for run in both))
    table.add_row("customers charged twice", *(str(run.charged_twice) for run in both))
    table.add_row("charged, and told that it failed", *(str(run.told_wrong) for run in both))
    table.add_row("all is well", *("[red]no" if run.complaints() else "[green]yes" for run in both))
    return table


DEFAULT = Plan()


@click.command()
@click.option(
    "--normal", type=click.FloatRange(1, 100), default=DEFAULT.normal, show_default=True, help="Customers a second."
)
@click.option(
    "--factor", type=click.FloatRange(1, 100), default=DEFAULT.factor, show_default=True, help="More at the sale."
)
@click.option("--seconds", type=click.FloatRange(1, 600), default=DEFAULT.sale_seconds, show_default=True)
@click.option("--pieces", type=click.IntRange(1, 100_000), default=DEFAULT.pieces, show_default=True)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default="sluicemq-demo/sale")
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Default: in the folder."
)
def command(normal: float, factor: float, seconds: float, pieces: int, folder: Path, picture: Path | None) -> None:
    """Sell the same things to the same crowd, without a queue in front of the payment service and with one."""
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave no process behind
    started = time.monotonic()
    plan = Plan(normal=normal, factor=factor, sale_seconds=seconds, pieces=pieces)

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:5.1f} s  {text}", file=sys.stderr, flush=True)

    try:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                sale = Sale(folder, plan, say, lambda run: live.update(view_of(run), refresh=True))
                runs = trio.run(sale.run)
        else:
            runs = trio.run(Sale(folder, plan, say, lambda run: say(in_one_line(run.samples[-1]))).run)
    except* DemoFailed as failed:
        raise click.ClickException(" ".join(str(error) for error in leaves(failed))) from None
    console.print(table_of(runs))
    target = picture or folder / "peak_shaving.png"
    draw(runs, plan, target)
    print(f"picture: {target}")
    for complaint in runs[QUEUED].complaints():
        print(complaint, file=sys.stderr)
    sys.exit(1 if runs[QUEUED].complaints() else 0)


if __name__ == "__main__":
    command()
