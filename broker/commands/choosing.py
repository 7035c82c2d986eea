"""`sluicemq queue search|move|copy|purge`: messages of a queue that are chosen by what they say and when they came."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from sluicemq.broker.commands.manners import json_option, on_terminal, print_json, print_table, url_option
from sluicemq.broker.commands.moments import Time

if TYPE_CHECKING:
    from sluicemq.client import FoundMessage

COUNT_MAX = 100_000
STATES = ("ready", "leased", "delayed", "dead")


def _header(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the headers that NAME=VALUE name; a value that is JSON is what it says, any other a text."""
    headers: dict[str, Any] = {}
    for text in values:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise click.BadParameter(f"{text!r:.80} is no NAME=VALUE")
        try:
            headers[name] = json.loads(value)
        except ValueError:
            headers[name] = value
    return headers or None


def filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose messages."""
    return _with(
        function,
        click.option("--id", "message_id", metavar="ID", help="Only the one with this id."),
        click.option("--key", help="Only those with this key."),
        click.option("--subject", help="Only those with this subject."),
        click.option(
            "--header",
            "headers",
            multiple=True,
            metavar="NAME=VALUE",
            callback=_header,
            help="Only those with this header; may be repeated. VALUE is JSON, or else a text.",
        ),
        click.option("--after", type=Time(), help="Only those published then or later."),
        click.option("--before", type=Time(), help="Only those published before."),
    )


def _with(function: Callable[..., Any], *decorators: Callable[..., Any]) -> Callable[..., Any]:
    """Return *function* as if *decorators* stood above it, in this order."""
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def _state(*states: str) -> Callable[..., Any]:
    return click.option(
        "--state", type=click.Choice(states), default="ready", show_default=True, help="Which of the queue's."
    )


_most = click.option("--count", "-n", type=click.IntRange(1), help="Most messages; default: all.")


def _to_another_queue(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what a command is told that lets messages of one queue go to another."""
    places = click.argument("name"), click.argument("to")
    return _with(function, *places, _most, _state("ready", "dead"), filters, url_option, json_option)


def add_to(group: click.Group) -> None:
    """Add the commands to `sluicemq queue`."""
    for command in (search, move, copy, purge):
        group.add_command(command)


@click.command(name="search")
@click.argument("name")
@click.option("--count", "-n", type=click.IntRange(1, COUNT_MAX), default=20, show_default=True, help="Most to show.")
@_state(*STATES)
@filters
@url_option
@json_option
def search(name: str, count: int, state: str, url: str, as_json: bool, **wanted: Any) -> None:
    """Look for messages of NAME; nothing changes."""
    from sluicemq.broker.commands.asking import with_client

    found = with_client(url, lambda client: client.search(name, state=state, count=count, **wanted))
    rows = [_plain(each) for each in found]
    if as_json:
        for row in rows:
            print_json(row)
        return
    names = ("position", "published_at", "message_id", "key", "subject", "attempts", "body")
    cells = [[_short(str(row[each])) if row[each] is not None else "-" for each in names] for row in rows]
    print_table(("position", "published", "id", "key", "subject", "attempts", "body"), cells)


@click.command(name="move")
@_to_another_queue
def move(name: str, to: str, url: str, as_json: bool, **chosen: Any) -> None:
    """Move messages of NAME behind those of the queue TO; their bodies stay where they are."""
    from sluicemq.broker.commands.asking import with_client

    moved = with_client(url, lambda client: client.move(name, to, **chosen))
    _say(name, moved, f"moved to {to}", as_json)


@click.command(name="copy")
@_to_another_queue
def copy(name: str, to: str, url: str, as_json: bool, **chosen: Any) -> None:
    """Copy messages of NAME behind those of the queue TO; both share one stored body."""
    from sluicemq.broker.commands.asking import with_client

    copied = with_client(url, lambda client: client.copy(name, to, **chosen))
    _say(name, copied, f"copied to {to}", as_json)


@click.command(name="purge")
@click.argument("name")
@click.option("--state", type=click.Choice(("ready", "delayed", "dead")), help="Which; default: ready and delayed.")
@_most
@filters
@click.option("--dry-run", is_flag=True, help="Drop nothing; say how many would go.")
@click.option("--yes", is_flag=True, help="Do not ask, also on a terminal.")
@url_option
@json_option
def purge(
    name: str, state: str | None, count: int | None, dry_run: bool, yes: bool, url: str, as_json: bool, **wanted: Any
) -> None:
    """Drop messages of NAME for good: those that the filters let through; those that a consumer holds stay."""
    from sluicemq.broker.commands.asking import with_client

    chosen = count is not None or any(value is not None for value in wanted.values())
    if not dry_run and not yes and on_terminal(sys.stdin):
        click.confirm(
            f"Drop {'these' if chosen or state else 'all'} messages of the queue {name}?", abort=True, err=True
        )
    if not chosen and state is None and not dry_run:
        messages = with_client(url, lambda client: client.purge_queue(name))
    else:
        messages = 0
        for each in ("ready", "delayed") if state is None else (state,):
            left = None if count is None else count - messages
            if left != 0:
                messages += with_client(
                    url,
                    lambda client, each=each, left=left: client.purge(  # type: ignore[misc]
                        name, state=each, count=left, dry_run=dry_run, **wanted
                    ),
                )
    if as_json:
        print_json({"name": name, "messages": messages, **({"dry_run": True} if dry_run else {})})
    else:
        click.echo(f"{name}: {messages} messages {'would be dropped' if dry_run else 'dropped'}")


def _plain(found: FoundMessage) -> dict[str, Any]:
    from sluicemq.broker.commands.consume import as_plain

    row = {**as_plain(found.message), "state": found.state, "message_id": found.message.message_id}
    row["subject"] = found.message.subject
    if found.due_at is not None:
        row["due_at"] = found.due_at.isoformat()
    if found.holder is not None:
        row["session"], row["consumer"], row["tag"] = found.holder
    return row


def _short(text: str, characters_max: int = 60) -> str:
    line = "".join(letter if letter.isprintable() else "." for letter in text[: characters_max + 1])
    return line if len(text) <= characters_max else line[:characters_max] + "..."


def _say(name: str, messages: int, done: str, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "messages": messages})
    else:
        click.echo(f"{name}: {messages} messages {done}")
