"""`sluicemq queue`: declare, list, show, delete and peek; commands that choose messages stand in `choosing`."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from sluicemq.broker.commands import choosing
from sluicemq.broker.commands.limits import limit_options, limit_pairs
from sluicemq.broker.commands.manners import json_option, note, on_terminal, print_json, print_table, url_option
from sluicemq.broker.commands.pausing import pausing, say_paused
from sluicemq.broker.commands.set_options import settings_of

SKIP_MAX = 1_000_000_000_000
"""More messages than any queue holds."""


@click.group(name="queue")
def command() -> None:
    """Declare, list, show and delete queues; look at, move, copy and purge their messages."""


choosing.add_to(command)


@command.command(name="declare")
@click.argument("name")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the queue; may be repeated.")
@limit_options
@url_option
@json_option
def declare(name: str, settings: tuple[str, ...], url: str, as_json: bool, **limits: str | None) -> None:
    """Make the queue NAME, or bring an existing one to the given settings.

    Settings that are not named stay as they are, in a new queue at their defaults.
    """
    from sluicemq.broker.commands.asking import with_client

    wanted = settings_of((*settings, *limit_pairs(limits)), "queue")
    declared = with_client(url, lambda client: client.declare_queue(name, **wanted))
    if as_json:
        changes = dict(declared.changes)
        print_json({"name": name, "outcome": declared.outcome, "changes": changes, "warnings": list(declared.warnings)})
        return
    click.echo(f"{name}: {declared.outcome}")
    for setting, (before, after) in sorted(declared.changes.items()):
        click.echo(f"  {setting}: {before} -> {after}")


stale_option = click.option(
    "--stale", is_flag=True, help="As the first broker of --url knows it that answers, whether it leads or not."
)


@command.command(name="ls")
@stale_option
@url_option
@json_option
def ls(stale: bool, url: str, as_json: bool) -> None:
    """List all queues with what is in them."""
    from sluicemq.broker.commands.asking import with_client, with_stale_reads

    if stale:
        queues = with_stale_reads(url, lambda reads: reads.queues())
        _say_how_stale(queues)
    else:
        queues = with_client(url, lambda client: client.queues())
    if as_json:
        print_json(queues)
        return
    columns = (
        "name",
        "ready",
        "leased",
        "delayed",
        "dead",
        "consumers",
        "published",
        "settled",
        "oldest",
        "drained in",
    )
    print_table(
        columns,
        [
            (
                queue["name"],
                queue["ready"],
                queue["leased"],
                queue["delayed"],
                queue["dead"],
                queue.get("consumers"),
                queue["published_total"],
                queue["settled_total"],
                _oldest(queue),
                _drained(queue),
            )
            for queue in queues
        ],
    )


@command.command(name="show")
@click.argument("name")
@stale_option
@url_option
@json_option
def show(name: str, stale: bool, url: str, as_json: bool) -> None:
    """Show the state and the settings of one queue."""
    from sluicemq.broker.commands.asking import with_client, with_stale_reads

    if stale:
        queue = with_stale_reads(url, lambda reads: reads.queue_info(name))
        _say_how_stale([queue])
    else:
        queue = with_client(url, lambda client: client.queue_info(name))
    if as_json:
        print_json(queue)
        return
    queue.pop("stale", None)
    settings = queue.pop("settings")
    created = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(queue.pop("created_at") / 1000))
    oldest = _oldest(queue)
    queue.pop("oldest_age_seconds")
    attached = queue.pop("attached", [])
    retained_age = queue.pop("retained_age_seconds", 0.0)
    shaped = _shaped_rows(queue, settings)
    rows = [(figure.replace("_", " "), str(value)) for figure, value in queue.items()]
    rows += shaped
    rows += [("oldest", oldest)]
    rows += [("oldest retained", _age(retained_age))] if queue.get("retained") else []
    rows += [("created", created)]
    rows += [
        (
            f"consumer {consumer['session']}.{consumer['consumer']}",
            (
                f"{'active' if consumer['active'] else 'waiting'}, weight {consumer['weight']}, "
                f"{consumer['in_flight']} of {consumer['credit']} in flight, client {consumer['client'] or '-'}"
            ),
        )
        for consumer in attached
    ]
    rows += [(f"setting {setting}", str(value)) for setting, value in sorted(settings.items())]
    print_table(("figure", "value"), rows)


def _shaped_rows(queue: dict[str, Any], settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Take what a queue's pace and limits are out of its figures, and return it for people."""
    rows = [(f"{what} rate", f"{queue.pop(f'{what}_rate', 0.0):g}/s") for what in ("arrival", "delivery")]
    if "delivery_rate_now" in queue:
        allowed = queue.pop("delivery_rate_now")
        rows.append(("delivery rate allowed", "unlimited" if allowed is None else f"{allowed:g}/s"))
    if "delivery_latency_allowed" in queue:
        rows.append(("latency allowed", f"{queue.pop('delivery_latency_allowed'):g} s"))
    rows.append(("drained in", _drained(queue)))
    queue.pop("drain_seconds", None)
    if settings.get("max_concurrency") is not None:
        rows.append(("in flight", f"{queue['leased']} of {settings['max_concurrency']}"))
    return rows


def _drained(queue: dict[str, Any]) -> str:
    """Return when a queue will be empty at its present pace; "-": nobody knows, or never."""
    seconds = queue.get("drain_seconds")
    return "-" if seconds is None else _age(seconds)


@command.command(name="delete")
@click.argument("name")
@click.option("--if-empty", is_flag=True, help="Only when it holds no message.")
@click.option("--yes", is_flag=True, help="Do not ask, also on a terminal.")
@url_option
@json_option
def delete(name: str, if_empty: bool, yes: bool, url: str, as_json: bool) -> None:
    """Delete the queue NAME with all its messages."""
    from sluicemq.broker.commands.asking import with_client

    if not if_empty:
        _confirm(f"Delete the queue {name} with all its messages?", yes)
    messages = with_client(url, lambda client: client.delete_queue(name, if_empty=if_empty))
    if as_json:
        print_json({"name": name, "messages": messages})
    else:
        click.echo(f"{name}: deleted with {messages} messages")


@pausing(command, "pause", resume=False)
def pause(name: str, publish: bool, deliver: bool, url: str, as_json: bool) -> None:
    """Pause NAME until it is resumed: refuse messages, and deliver none. Consumers stay."""
    from sluicemq.broker.commands.asking import with_client

    with_client(url, lambda client: client.pause_queue(name, publish=publish, deliver=deliver))
    _say_paused(name, url, as_json)


@pausing(command, "resume", resume=True)
def resume(name: str, publish: bool, deliver: bool, url: str, as_json: bool) -> None:
    """Let NAME go on."""
    from sluicemq.broker.commands.asking import with_client

    with_client(url, lambda client: client.resume_queue(name, publish=publish, deliver=deliver))
    _say_paused(name, url, as_json)


def _say_paused(name: str, url: str, as_json: bool) -> None:
    from sluicemq.broker.commands.asking import with_client

    say_paused(name, with_client(url, lambda client: client.queue_info(name))["paused"], as_json)


@command.command(name="unpark")
@click.argument("name")
@click.argument("keys", nargs=-1, required=True)
@url_option
@json_option
def unpark(name: str, keys: tuple[str, ...], url: str, as_json: bool) -> None:
    """Let KEYS of NAME go on that stopped because of a message (poison_key=park)."""
    from sluicemq.broker.commands.asking import with_client

    freed = with_client(url, lambda client: client.unpark(name, keys))
    if as_json:
        print_json({"name": name, "keys": freed})
    else:
        click.echo(f"{name}: {freed} keys go on")


@command.command(name="peek")
@click.argument("name")
@click.option("--count", "-n", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many to show.")
@click.option(
    "--skip", type=click.IntRange(0, SKIP_MAX), default=0, show_default=True, help="How many to leave out in front."
)
@stale_option
@url_option
@json_option
def peek(name: str, count: int, skip: int, stale: bool, url: str, as_json: bool) -> None:
    """Look at the messages that are next in NAME; nothing changes."""
    from sluicemq.broker.commands.asking import with_client, with_stale_reads
    from sluicemq.broker.commands.consume import as_plain

    if stale:
        messages, mark = with_stale_reads(url, lambda reads: reads.peek(name, count=count, skip=skip))
        _say_how_stale([{"stale": mark}])
        plain = [{**as_plain(message), "stale": mark} for message in messages]
    else:
        messages = with_client(url, lambda client: client.peek(name, count=count, skip=skip))
        plain = [as_plain(message) for message in messages]
    if as_json:
        for one in plain:
            print_json(one)
        return
    rows = [
        (
            one["position"],
            one["published_at"],
            one["destination"],
            one["key"] or "-",
            one["attempts"],
            len(message.body),
            _short(one["body"]),
        )
        for one, message in zip(plain, messages, strict=True)
    ]
    print_table(("position", "published", "destination", "key", "attempts", "bytes", "body"), rows)


def _confirm(question: str, yes: bool) -> None:
    """Ask a person; a script has decided already."""
    if not yes and on_terminal(sys.stdin):
        click.confirm(question, abort=True, err=True)


def _short(body: str, characters_max: int = 60) -> str:
    line = "".join(letter if letter.isprintable() else "." for letter in body[: characters_max + 1])
    return line if len(body) <= characters_max else line[:characters_max] + "..."


def _say_how_stale(queues: list[dict[str, Any]]) -> None:
    """Tell who answered, and how far behind that may be."""
    for mark in {queue["stale"]["node"]: queue["stale"] for queue in queues}.values():
        heard = mark["heard_seconds"]
        ago = "has never heard of a leader" if heard is None else f"heard of a leader {heard:.1f} s ago"
        zxid = mark["applied_zxid"]
        note(f"node {mark['node']} ({mark['role']}) {ago}; it has applied up to {zxid >> 32}:{zxid & 0xFFFFFFFF}")


def _oldest(queue: dict[str, Any]) -> str:
    return _age(queue["oldest_age_seconds"]) if queue["ready"] else "-"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
