"""`sluicemq transaction`: prepared messages that nobody has decided: list, show, commit, roll back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sluicemq.broker.commands.manners import json_option, print_json, print_table, url_option

if TYPE_CHECKING:
    from sluicemq.client import Client
    from sluicemq.client.peeked import PeekedMessage

COUNT_MAX = 100_000


@click.group(name="transaction")
def command() -> None:
    """Look at prepared messages, and decide those whose senders do not."""


@command.command(name="ls")
@click.option("--group", default="", help="Only those of this group.")
@click.option("--parked", is_flag=True, help="Only those about which nobody is asked any more.")
@click.option("--count", "-n", type=click.IntRange(1, COUNT_MAX), default=100, show_default=True, help="Most to show.")
@url_option
@json_option
def ls(group: str, parked: bool, count: int, url: str, as_json: bool) -> None:
    """List prepared messages that are undecided, oldest first."""
    from sluicemq.broker.commands.asking import with_client

    async def work(client: Client) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async for row in client.transactions(group):
            if not parked or row["state"] == "parked":
                found.append(row)
            if len(found) == count:
                break
        return found

    rows = with_client(url, work)
    if as_json:
        for row in rows:
            print_json(row)
        return
    columns = ("transaction", "state", "destination", "group", "prepared", "checks", "next check", "members")
    print_table(columns, [_row(row) for row in rows])


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        row["transaction"],
        row["state"],
        row["destination"],
        row["group"],
        _shown(row["prepared_at"]),
        row["checks"],
        _shown(row["next_check_at"]),
        row["members"],
    )


@command.command(name="show")
@click.argument("transaction")
@url_option
@json_option
def show(transaction: str, url: str, as_json: bool) -> None:
    """Show one prepared message with its body, or how it was decided."""
    from sluicemq.broker.commands.asking import with_client

    async def work(client: Client) -> tuple[dict[str, Any], list[PeekedMessage]]:
        return await client.show_transaction(transaction)

    row, messages = with_client(url, work)
    if as_json:
        shown = [
            {
                "body": message.body.decode(errors="backslashreplace"),
                "key": message.key,
                "headers": dict(message.headers),
                "message_id": message.message_id,
            }
            for message in messages
        ]
        print_json({**row, "contents": shown})
        return
    for name, value in row.items():
        click.echo(f"{name}: {_shown(value) if name.endswith('_at') else value}")
    for message in messages:
        click.echo(f"message {message.message_id}, key {message.key or '-'}, {len(message.body)} bytes:")
        click.echo(message.body.decode(errors="backslashreplace"))


@command.command(name="commit")
@click.argument("transactions", nargs=-1, required=True)
@url_option
@json_option
def commit(transactions: tuple[str, ...], url: str, as_json: bool) -> None:
    """Let the consumers have prepared messages. The first decision holds."""
    _resolve(transactions, url, as_json, commit=True)


@command.command(name="rollback")
@click.argument("transactions", nargs=-1, required=True)
@url_option
@json_option
def rollback(transactions: tuple[str, ...], url: str, as_json: bool) -> None:
    """Let nobody ever have prepared messages. The first decision holds."""
    _resolve(transactions, url, as_json, commit=False)


def _resolve(transactions: tuple[str, ...], url: str, as_json: bool, *, commit: bool) -> None:
    from sluicemq.broker.commands.asking import with_client

    async def work(client: Client) -> list[bool]:
        return [await client.resolve_transaction(name, commit=commit) for name in transactions]

    again = with_client(url, work)
    done = "committed" if commit else "rolled back"
    for name, before in zip(transactions, again, strict=True):
        if as_json:
            print_json({"transaction": name, "committed": commit, "again": before})
        else:
            click.echo(f"{name} {'was ' if before else ''}{done}{' before' if before else ''}")


def _shown(ms: int | None) -> str:
    from datetime import UTC, datetime

    return "-" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
