"""`sluicemq delayed`: what waits for its time in a queue: list, cancel, reschedule, deliver at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sluicemq.broker.commands.manners import json_option, print_json, print_table, url_option
from sluicemq.broker.commands.moments import LongTime, Time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from sluicemq.client import Client
    from sluicemq.client.delays import DelayedMessage

COUNT_MAX = 100_000


@click.group(name="delayed")
def command() -> None:
    """Look at messages that wait for their time, cancel them, or let them come at another."""


@command.command(name="ls")
@click.argument("queue")
@click.option("--count", "-n", type=click.IntRange(1, COUNT_MAX), default=20, show_default=True, help="Most to show.")
@url_option
@json_option
def ls(queue: str, count: int, url: str, as_json: bool) -> None:
    """List what waits in QUEUE, in the order in which it is due."""
    from sluicemq.broker.commands.asking import with_client

    async def work(client: Client) -> list[DelayedMessage]:
        found: list[DelayedMessage] = []
        waiting: AsyncIterator[DelayedMessage] = client.delayed(queue)
        async for message in waiting:
            found.append(message)
            if len(found) == count:
                break
        return found

    messages = with_client(url, work)
    if as_json:
        for one in messages:
            print_json(
                {
                    "position": one.position,
                    "due_at": one.due_at.isoformat(),
                    "published_at": one.published_at.isoformat(),
                    "deliveries": one.deliveries,
                    "attempts": one.attempts,
                }
            )
        return
    rows = [(one.position, _shown(one.due_at), _shown(one.published_at), one.attempts) for one in messages]
    print_table(("position", "due", "published", "attempts"), rows)


@command.command(name="cancel")
@click.argument("queue")
@click.argument("positions", nargs=-1, required=True)
@url_option
@json_option
def cancel(queue: str, positions: tuple[str, ...], url: str, as_json: bool) -> None:
    """Drop the messages at POSITIONS if they still wait in QUEUE."""
    from sluicemq.broker.commands.asking import with_client

    messages = with_client(url, lambda client: client.cancel(queue, list(positions)))
    _say(queue, messages, "cancelled", as_json)


@command.command(name="reschedule")
@click.argument("queue")
@click.argument("positions", nargs=-1, required=True)
@click.option("--delay", type=LongTime(), help="So long from now: seconds, or 90m, 1d12h.")
@click.option("--at", type=Time(), help="Then: 2026-12-24T18:00 (local), 2026-12-24T18:00Z.")
@url_option
@json_option
def reschedule(
    queue: str, positions: tuple[str, ...], delay: float | None, at: datetime | None, url: str, as_json: bool
) -> None:
    """Let the messages at POSITIONS be due at another time if they still wait in QUEUE."""
    from sluicemq.broker.commands.asking import with_client

    if (delay is None) == (at is None):
        raise click.UsageError("say when: either --delay or --at")
    messages = with_client(url, lambda client: client.reschedule(queue, list(positions), at=at, delay=delay))
    _say(queue, messages, "rescheduled", as_json)


@command.command(name="fire")
@click.argument("queue")
@click.argument("positions", nargs=-1, required=True)
@url_option
@json_option
def fire(queue: str, positions: tuple[str, ...], url: str, as_json: bool) -> None:
    """Let the messages at POSITIONS be delivered now if they still wait in QUEUE."""
    from sluicemq.broker.commands.asking import with_client

    messages = with_client(url, lambda client: client.reschedule(queue, list(positions), delay=0))
    _say(queue, messages, "made ready", as_json)


def _say(queue: str, messages: int, done: str, as_json: bool) -> None:
    if as_json:
        print_json({"queue": queue, "messages": messages})
    else:
        click.echo(f"{queue}: {messages} messages {done}")


def _shown(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
