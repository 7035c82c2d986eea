"""`sluicemq policy`: settings for all queues whose names match a pattern."""

from __future__ import annotations

import json

import click

from sluicemq.broker.commands.manners import json_option, print_json, print_table, url_option
from sluicemq.broker.commands.set_options import settings_of


@click.group(name="policy")
def command() -> None:
    """Give settings to queues by patterns of their names."""


@command.command(name="set")
@click.argument("name")
@click.argument("pattern")
@click.option("--set", "settings", multiple=True, required=True, metavar="NAME=VALUE", help="A setting of queues.")
@click.option("--order", type=click.IntRange(0, 0xFFFF_FFFF), default=0, show_default=True, help="The largest holds.")
@url_option
@json_option
def put(name: str, pattern: str, settings: tuple[str, ...], order: int, url: str, as_json: bool) -> None:
    """Set the policy NAME for queues that match PATTERN (orders.*, #.tmp), unless they were declared otherwise."""
    from sluicemq.broker.commands.asking import with_client

    wanted = settings_of(settings, "queue")
    outcome = with_client(url, lambda client: client.set_policy(name, pattern, order=order, **wanted))
    if as_json:
        print_json({"name": name, "outcome": outcome})
    else:
        click.echo(f"{name}: {outcome}")


@command.command(name="ls")
@url_option
@json_option
def ls(url: str, as_json: bool) -> None:
    """List all policies."""
    from sluicemq.broker.commands.asking import with_client

    policies = with_client(url, lambda client: client.policies())
    if as_json:
        print_json(policies)
        return
    rows = [(one["name"], one["pattern"], one["order"], json.dumps(one["settings"])) for one in policies]
    print_table(("name", "pattern", "order", "settings"), rows)


@command.command(name="delete")
@click.argument("name")
@url_option
@json_option
def delete(name: str, url: str, as_json: bool) -> None:
    """Drop the policy NAME; its queues follow what is left."""
    from sluicemq.broker.commands.asking import with_client

    known = with_client(url, lambda client: client.delete_policy(name))
    if as_json:
        print_json({"name": name, "known": known})
    else:
        click.echo(f"{name}: {'dropped' if known else 'there was none'}")
