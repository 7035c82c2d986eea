"""`sluicemq topic`: declare, list, delete, subscribe and unsubscribe."""

from __future__ import annotations

import sys
from datetime import datetime

import click

from sluicemq.broker.commands.manners import json_option, on_terminal, print_json, print_table, url_option
from sluicemq.broker.commands.pausing import pausing, say_paused
from sluicemq.broker.commands.set_options import settings_of


@click.group(name="topic")
def command() -> None:
    """Declare, list and delete topics; subscribe and unsubscribe."""


@command.command(name="declare")
@click.argument("name")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the topic; may be repeated.")
@url_option
@json_option
def declare(name: str, settings: tuple[str, ...], url: str, as_json: bool) -> None:
    """Make the topic NAME, or bring an existing one to the given settings.

    It owns its name and everything below it: publish to NAME, NAME.eu.paid and so on.
    """
    from sluicemq.broker.commands.asking import with_client

    wanted = settings_of(settings, "topic")
    declared = with_client(url, lambda client: client.declare_topic(name, **wanted))
    _tell(name, declared.outcome, dict(declared.changes), as_json)


@command.command(name="ls")
@url_option
@json_option
def ls(url: str, as_json: bool) -> None:
    """List all topics with what was published to them."""
    from sluicemq.broker.commands.asking import with_client

    topics = with_client(url, lambda client: client.topics())
    if as_json:
        print_json(topics)
        return
    names = ("name", "subscriptions", "published_total", "unrouted_total", "delayed", "retained")
    columns = ("name", "subscriptions", "published", "unrouted", "delayed", "retained")
    print_table(columns, [tuple(topic[name] for name in names) for topic in topics])


@command.command(name="delete")
@click.argument("name")
@click.option("--force", is_flag=True, help="Delete its subscriptions too, with all their messages.")
@click.option("--yes", is_flag=True, help="Do not ask, also on a terminal.")
@url_option
@json_option
def delete(name: str, force: bool, yes: bool, url: str, as_json: bool) -> None:
    """Delete the topic NAME; it must have no subscriptions, unless --force."""
    from sluicemq.broker.commands.asking import with_client

    if force:
        _confirm(f"Delete the topic {name} with all its subscriptions and their messages?", yes)
    messages = with_client(url, lambda client: client.delete_topic(name, force=force))
    if as_json:
        print_json({"name": name, "messages": messages})
    else:
        click.echo(f"{name}: deleted with {messages} messages")


@pausing(command, "pause", resume=False)
def pause(name: str, publish: bool, deliver: bool, url: str, as_json: bool) -> None:
    """Pause the topic NAME until it is resumed: refuse messages, and let no subscription deliver any."""
    from sluicemq.broker.commands.asking import with_client

    with_client(url, lambda client: client.pause_topic(name, publish=publish, deliver=deliver))
    _say_paused(name, url, as_json)


@pausing(command, "resume", resume=True)
def resume(name: str, publish: bool, deliver: bool, url: str, as_json: bool) -> None:
    """Let the topic NAME go on."""
    from sluicemq.broker.commands.asking import with_client

    with_client(url, lambda client: client.resume_topic(name, publish=publish, deliver=deliver))
    _say_paused(name, url, as_json)


def _say_paused(name: str, url: str, as_json: bool) -> None:
    from sluicemq.broker.commands.asking import with_client

    topics = with_client(url, lambda client: client.topics())
    say_paused(name, next((topic["paused"] for topic in topics if topic["name"] == name), []), as_json)


@command.command(name="subscribe")
@click.argument("pattern")
@click.argument("name")
@click.option(
    "--start",
    default="now",
    show_default=True,
    help="With which messages to begin: now, beginning, a time such as 2026-12-24T18:00+01:00, or a position.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the queue; may be repeated.")
@url_option
@json_option
def subscribe(pattern: str, name: str, start: str, settings: tuple[str, ...], url: str, as_json: bool) -> None:
    """Make the subscription NAME: a queue that gets what matches PATTERN.

    PATTERN begins with the name of a topic; * stands for one word, # for any number: "orders.*.paid", "orders.#". An
    existing subscription is brought to pattern and settings.
    """
    from sluicemq.broker.commands.asking import with_client

    wanted = settings_of(settings, "queue")
    begin = _start(start)
    made = with_client(url, lambda client: client.subscribe(pattern, name, start=begin, **wanted))
    _tell(name, made.outcome, dict(made.changes), as_json)


def _start(start: str) -> str | datetime:
    """Read a start; what is neither a word nor a time is left to the client as a position."""
    try:
        moment = datetime.fromisoformat(start)
    except ValueError:
        return start
    return moment if moment.tzinfo is not None else moment.astimezone()


@command.command(name="unsubscribe")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask, also on a terminal.")
@url_option
@json_option
def unsubscribe(name: str, yes: bool, url: str, as_json: bool) -> None:
    """Delete the subscription NAME with all its messages."""
    from sluicemq.broker.commands.asking import with_client

    _confirm(f"Delete the subscription {name} with all its messages?", yes)
    messages = with_client(url, lambda client: client.unsubscribe(name))
    if as_json:
        print_json({"name": name, "messages": messages})
    else:
        click.echo(f"{name}: deleted with {messages} messages")


def _tell(name: str, outcome: str, changes: dict[str, tuple[object, object]], as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "outcome": outcome, "changes": changes})
        return
    click.echo(f"{name}: {outcome}")
    for setting, (before, after) in sorted(changes.items()):
        click.echo(f"  {setting}: {before} -> {after}")


def _confirm(question: str, yes: bool) -> None:
    """Ask a person; a script has decided already."""
    if not yes and on_terminal(sys.stdin):
        click.confirm(question, abort=True, err=True)
