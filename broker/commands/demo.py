"""`sluicemq demo`: runs the example `first_look` and prints a short table of what happened."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from sluicemq.broker.commands.manners import Failure, json_option, print_json, print_table


@click.command(name="demo")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default="sluicemq-demo",
    show_default=True,
    metavar="DIR",
    help="Where broker and services keep their files; emptied first if it is an earlier demonstration's.",
)
@click.option(
    "--orders", type=click.IntRange(10, 100_000), default=200, show_default=True, help="How many orders are placed."
)
@json_option
def command(data: Path, orders: int, as_json: bool) -> None:
    """See it work: orders through a real broker, with processes killed on the way.

    A web front answers visitors as soon as an order is safe; stock, billing and notification follow as processes of
    their own. On the way, billing and the broker itself are killed without warning (kill -9) and started again. In the
    end every order that a visitor was promised is looked up by its id at each service. Exit code 0 only if none is
    lost.
    """
    from sluicemq.broker.commands.interrupts import clean_up_on_interrupt
    from sluicemq.examples.common.figures import percentile
    from sluicemq.examples.first_look.demo import SERVICES, DemoFailed, run_demo

    clean_up_on_interrupt()
    try:
        outcome = run_demo(data, orders)
    except DemoFailed as error:
        raise Failure(str(error)) from None
    answers = [percentile(outcome.answer_seconds, percent) for percent in (50, 99)]
    done = [percentile(outcome.done_seconds, percent) for percent in (50, 99)]
    if as_json:
        plain = dataclasses.asdict(outcome)
        for name, values in (("answer_seconds", answers), ("done_seconds", done)):
            plain[name] = dict(zip(("p50", "p99"), values, strict=True))
        print_json({**plain, "lost": outcome.lost})
    else:
        print_table(
            ("service", "queue", "orders handled", "delivered again", "repeats ignored"),
            [
                (service, queue, outcome.handled[service], outcome.redelivered[service], outcome.repeats[service])
                for service, queue in SERVICES.items()
            ],
        )
        rows = [
            ("orders accepted", str(outcome.accepted)),
            ("visitor's answer after", f"{answers[0] * 1e3:.1f} ms (p50), {answers[1] * 1e3:.1f} ms (p99)"),
            ("customer's mail after", f"{done[0] * 1e3:.1f} ms (p50), {done[1] * 1e3:.1f} ms (p99)"),
            ("killed with kill -9", "; ".join(outcome.kills)),
            ("log", "verified: whole" if outcome.log_is_whole else "DAMAGED"),
            ("orders lost", str(outcome.lost)),
        ]
        print_table(("what", "how it went"), rows)
    if outcome.lost or not outcome.log_is_whole or outcome.accepted == 0:
        raise click.exceptions.Exit(1)
