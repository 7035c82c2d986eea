"""`sluicemq config`: shows which settings are in effect, and where each came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sluicemq.broker.commands.manners import json_option, print_json, print_table
from sluicemq.broker.commands.settings import config_of, settings_options
from sluicemq.broker.config import format_setting


@click.command(name="config")
@settings_options
@click.option("--check", is_flag=True, help="Say only whether the settings are right.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, check: bool, as_json: bool, **_settings: object) -> None:
    """Show each setting of a broker, its value, and where the value comes from.

    Takes the options, variables and file that `sluicemq serve` takes, and starts nothing. Exit code 2: a setting is
    wrong, and the text names it.
    """
    config, origins = config_of(ctx)
    settings = config.settings()
    if as_json:
        print_json(
            {
                name: {"value": _plain(name, value), "origin": origins[name].kind, "origin_name": origins[name].name}
                for name, value in settings.items()
            }
        )
    elif check:
        click.echo("The settings are right.")
    else:
        rows = [
            (name, format_setting(name, value) or "-", origins[name].kind, origins[name].name or "-")
            for name, value in settings.items()
        ]
        print_table(("setting", "value", "from", "named"), rows)


def _plain(name: str, value: Any) -> Any:
    """As JSON holds it: numbers stay numbers."""
    if isinstance(value, Path):
        return str(value)
    if name == "listen":
        return format_setting(name, value)
    return {str(number): address for number, address in value.items()} if name == "peers" else value
