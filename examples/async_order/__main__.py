"""`python -m sluicemq.examples.async_order`: runs the demonstration, prints a table, draws a picture."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import click
import trio
from rich.console import Console
from rich.table import Table

from sluicemq.examples.async_order.demo import ANSWERED, AT_ONCE, Outcome, Run, Shop
from sluicemq.examples.async_order.picture import draw
from sluicemq.examples.common.figures import percentile
from sluicemq.examples.common.processes import DemoFailed, leaves


def _in_words(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{percentile(values, 50) * 1000:,.0f} ms, {percentile(values, 99) * 1000:,.0f} ms"


def table_of(outcome: Outcome) -> Table:
    """Return both variants beside each other."""
    table = Table("", "everything in the request", "answered when it is safe", title="The same orders, taken two ways")
    runs: list[Run] = [outcome.runs[AT_ONCE], outcome.runs[ANSWERED]]
    books = [run.books for run in runs if run.books is not None]
    done = [[at - each.placed_at[number] for number, at in each.completed_at().items()] for each in books]
    table.add_row("orders", *(str(len(run.answers)) for run in runs))
    table.add_row("answer: p50, p99", *(_in_words([seconds for _at, seconds, _well in run.answers]) for run in runs))
    table.add_row("answered with an error", *(str(sum(not well for *_rest, well in run.answers)) for run in runs))
    table.add_row("all done: p50, p99", *(_in_words(each) for each in done))
    table.add_row("left half done", *(str(each.half_done()) for each in books))
    table.add_row("cancelled, not paid in time", "-", str(len(books[1].numbers("cancelled"))))
    again = ", ".join(f"{service} {count}" for service, count in outcome.redelivered.items() if count)
    table.add_row("delivered again", "-", again or "none")
    table.add_row("dead letters redriven", "-", str(outcome.redriven))
    table.add_row("books", "nobody knows", "[red]do not balance" if outcome.complaints else "[green]balance")
    return table


@click.command()
@click.option("--orders", type=click.IntRange(20, 10_000), default=240, show_default=True)
@click.option("--rate", type=click.FloatRange(1, 1000), default=40.0, show_default=True, help="Orders a second.")
@click.option(
    "--deadline", type=click.FloatRange(1, 600), default=8.0, show_default=True, help="Seconds for paying an order."
)
@click.option("--database", default="sqlite", show_default=True, help="Or postgresql+psycopg://...")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default="sluicemq-demo/shop")
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Default: in the folder."
)
def command(orders: int, rate: float, deadline: float, database: str, folder: Path, picture: Path | None) -> None:
    """Take the same orders two ways, kill a worker and the broker on the way, and audit the books."""
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave no process behind
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:5.1f} s  {text}", file=sys.stderr, flush=True)

    try:
        outcome = trio.run(Shop(folder, orders, rate, database, deadline, say=say).run)
    except* DemoFailed as failed:
        raise click.ClickException(" ".join(str(error) for error in leaves(failed))) from None
    console.print(table_of(outcome))
    target = picture or folder / "async_order.png"
    draw(outcome, target)
    print(f"picture: {target}")
    for complaint in outcome.complaints:
        print(complaint, file=sys.stderr)
    sys.exit(1 if outcome.complaints else 0)


if __name__ == "__main__":
    command()
