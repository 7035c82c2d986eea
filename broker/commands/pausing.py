"""`pause` and `resume`, of queues and of topics: their options, and how they say what is paused."""

from __future__ import annotations

from collections.abc import Callable

import click

from sluicemq.broker.commands.manners import json_option, print_json, url_option

Pausing = Callable[[str, bool, bool, str, bool], None]
"""Takes the name, whether it is about publishing, about deliveries, the URL, and whether JSON is wanted."""


def pausing(group: click.Group, name: str, *, resume: bool) -> Callable[[Pausing], click.Command]:
    """Return what makes the command *name* of *group* of a function; no option means both."""
    done = "go on" if resume else "stop"

    def decorate(function: Pausing) -> click.Command:
        def run(name: str, publish: bool, deliver: bool, url: str, as_json: bool) -> None:
            both = publish == deliver
            function(name, publish or both, deliver or both, url, as_json)

        run.__doc__ = function.__doc__
        decorated = click.argument("name")(json_option(url_option(run)))
        decorated = click.option("--deliver", is_flag=True, help=f"Only let deliveries {done}.")(decorated)
        decorated = click.option("--publish", is_flag=True, help=f"Only let publishing {done}.")(decorated)
        return group.command(name=name)(decorated)

    return decorate


def say_paused(name: str, paused: list[str], as_json: bool) -> None:
    """Say what of *name* is paused now."""
    if as_json:
        print_json({"name": name, "paused": paused})
    else:
        click.echo(f"{name}: {' and '.join(paused) or 'nothing'} is paused")
