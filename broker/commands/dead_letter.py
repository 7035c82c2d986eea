"""`sluicemq dead-letter`: what died in a queue, or came to it dead: list, show, try again, drop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from sluicemq.broker.commands.manners import (
    Failure,
    FiniteRange,
    json_option,
    on_terminal,
    print_json,
    print_table,
    url_option,
)
from sluicemq.broker.commands.moments import LongTime

if TYPE_CHECKING:
    from sluicemq.client.dead_letters import DeadLetter

COUNT_MAX = 100_000
REASONS = ("rejected", "max_deliveries", "ttl", "overflow")


@click.group(name="dead-letter")
def command() -> None:
    """Look at messages that died, let them be tried again, or drop them."""


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--reason", type=click.Choice(REASONS), help="Only those that died of this."),
        click.option("--error", metavar="TEXT", help="Only those whose last error holds this text."),
        click.option("--key", help="Only those with this key."),
        click.option("--origin", metavar="QUEUE", help="Only those that died in this queue."),
        click.option("--older-than", type=LongTime(), help="Only those that died so long ago: seconds, or 90m, 1d12h."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _wanted(
    reason: str | None, error: str | None, key: str | None, origin: str | None, older_than: float | None
) -> Callable[[DeadLetter], bool]:
    """Return what says of each dead letter whether all filters let it through."""
    until = None if older_than is None else datetime.now(UTC) - timedelta(seconds=older_than)

    def wanted(letter: DeadLetter) -> bool:
        death = letter.death
        return (
            reason in (None, death.reason)
            and (error is None or error in death.error)
            and key in (None, letter.message.key)
            and origin in (None, death.origin)
            and (until is None or death.died_at <= until)
        )

    return wanted


@command.command(name="ls")
@click.argument("queue")
@click.option("--count", "-n", type=click.IntRange(1, COUNT_MAX), default=20, show_default=True, help="Most to show.")
@_filters
@url_option
@json_option
def ls(queue: str, count: int, url: str, as_json: bool, **filters: Any) -> None:
    """List dead letters of QUEUE: those that lie aside in it, and those that died elsewhere and came to it."""
    from sluicemq.broker.commands.asking import with_client

    wanted = _wanted(**filters)
    letters = with_client(url, lambda client: client.dead_letters(queue, count, wanted=wanted))
    if as_json:
        for letter in letters:
            print_json(_plain(letter))
        return
    rows = [
        (
            letter.message.position,
            letter.death.died_at.strftime("%Y-%m-%d %H:%M:%S UTC"),
            letter.death.origin,
            letter.death.reason,
            letter.death.attempts,
            letter.message.key or "-",
            letter.death.error or "-",
        )
        for letter in letters
    ]
    print_table(("position", "died", "origin", "reason", "attempts", "key", "error"), rows)


@command.command(name="show")
@click.argument("queue")
@click.argument("positions", nargs=-1, required=True)
@url_option
@json_option
def show(queue: str, positions: tuple[str, ...], url: str, as_json: bool) -> None:
    """Show all that is known of the dead letters at POSITIONS, bodies included."""
    from sluicemq.broker.commands.asking import with_client

    wanted = _at(positions)
    letters = with_client(url, lambda client: client.dead_letters(queue, len(positions), wanted=wanted))
    if not letters:
        raise Failure(f"{queue} has no dead letter at {', '.join(positions)}")
    for letter in letters:
        if as_json:
            print_json(_plain(letter))
        else:
            print_table(("figure", "value"), [(name, str(value)) for name, value in _plain(letter).items()])


@command.command(name="redrive")
@click.argument("queue")
@click.argument("positions", nargs=-1)
@click.option("--to", metavar="QUEUE", help="Where they shall go; default: each where it died.")
@click.option("--count", "-n", type=click.IntRange(1), help="Most to move.")
@click.option("--rate", type=FiniteRange(0, min_open=True), help="Most messages a second.")
@_filters
@url_option
@json_option
def redrive(
    queue: str,
    positions: tuple[str, ...],
    to: str | None,
    count: int | None,
    rate: float | None,
    url: str,
    as_json: bool,
    **filters: Any,
) -> None:
    """Let dead letters of QUEUE be tried again: all of them, or those at POSITIONS, or those that the filters let
    through."""
    from sluicemq.broker.commands.asking import with_client

    wanted = _both(_at(positions), _wanted(**filters))
    moved = with_client(url, lambda client: client.redrive(queue, to, count=count, rate=rate, wanted=wanted))
    _say(queue, moved, "tried again", as_json)


@command.command(name="discard")
@click.argument("queue")
@click.argument("positions", nargs=-1)
@click.option("--count", "-n", type=click.IntRange(1), help="Most to drop.")
@click.option("--yes", is_flag=True, help="Do not ask, also on a terminal.")
@_filters
@url_option
@json_option
def discard(
    queue: str, positions: tuple[str, ...], count: int | None, yes: bool, url: str, as_json: bool, **filters: Any
) -> None:
    """Drop dead letters of QUEUE for good: all, or those at POSITIONS, or those that the filters let through."""
    from sluicemq.broker.commands.asking import with_client

    if not yes and on_terminal(sys.stdin):
        click.confirm(f"Drop dead letters of {queue} for good?", abort=True, err=True)
    wanted = _both(_at(positions), _wanted(**filters))
    dropped = with_client(url, lambda client: client.discard(queue, count=count, wanted=wanted))
    _say(queue, dropped, "dropped", as_json)


def _at(positions: tuple[str, ...]) -> Callable[[DeadLetter], bool]:
    return lambda letter: not positions or letter.message.position in positions


def _both(first: Callable[[DeadLetter], bool], second: Callable[[DeadLetter], bool]) -> Callable[[DeadLetter], bool]:
    return lambda letter: first(letter) and second(letter)


def _plain(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as JSON can carry it."""
    from sluicemq.broker.commands.consume import as_plain

    death = letter.death
    return {
        **as_plain(letter.message),
        "origin": death.origin,
        "reason": death.reason,
        "error": death.error,
        "attempts": death.attempts,
        "died_at": death.died_at.isoformat(),
    }


def _say(queue: str, messages: int, done: str, as_json: bool) -> None:
    if as_json:
        print_json({"queue": queue, "messages": messages})
    else:
        click.echo(f"{queue}: {messages} dead letters {done}")
