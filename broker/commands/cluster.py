"""`sluicemq cluster`: how the brokers of a cluster are, and who joins, votes, leads and leaves."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sluicemq.broker.commands.force_new import force_new
from sluicemq.broker.commands.manners import (
    EXIT_FAILED,
    SecondsRange,
    json_option,
    note,
    print_json,
    print_table,
    url_option,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sluicemq.client import Client
    from sluicemq.client.cluster import ClusterReport

WAIT_SECONDS_MAX = 86_400.0

COLUMNS = (
    "id",
    "role",
    "votes",
    "epoch",
    "last zxid",
    "committed",
    "lag",
    "lag bytes",
    "lag s",
    "free MiB",
    "sync ms",
    "address",
    "reachable",
)


@click.group(name="cluster")
def command() -> None:
    """Show the brokers of a cluster; add, promote, remove them, and choose who leads.

    They ask a broker that runs; only `force-new` works on a data directory, where none runs: for the day on which a
    majority is lost for good.
    """


@command.command(name="status")
@click.option(
    "--wait",
    "wait_seconds",
    type=SecondsRange(0.0, WAIT_SECONDS_MAX),
    metavar="SECONDS",
    help="Wait for at most so long until somebody leads, and all who vote are reachable and caught up.",
)
@url_option
@json_option
def status(url: str, wait_seconds: float | None, as_json: bool) -> None:
    """Show every broker of the cluster, as the first one of --url that answers knows it.

    Exit code 1: nobody leads, or not all who vote are reachable and able to (with --wait: and caught up).
    """
    import trio

    from sluicemq.broker.commands.interrupts import clean_up_on_interrupt
    from sluicemq.client.cluster_probe import LAG_SECONDS_MAX, probe_cluster, wait_for_cluster

    async def ask() -> ClusterReport:
        if wait_seconds is None:
            return await probe_cluster(url, name="sluicemq")
        return await wait_for_cluster(url, timeout_seconds=wait_seconds, name="sluicemq")

    clean_up_on_interrupt()
    report = trio.run(ask)
    if as_json:
        print_json(asdict(report))
    else:
        print_table(COLUMNS, [_row(each) for each in report.nodes])
        for each in report.nodes:
            if each["snapshot"]:
                sent, whole = each["snapshot"]["sent_bytes"], each["snapshot"]["snapshot_bytes"]
                note(f"node {each['id']} is sent a snapshot: {sent} bytes so far, its state alone has {whole}")
        if report.changing:
            note("a change of who votes is on its way")
    lacks = report.lacks(lag_seconds_max=None if wait_seconds is None else LAG_SECONDS_MAX)
    for lack in lacks:
        note(lack)
    if lacks:
        raise SystemExit(EXIT_FAILED)


def _row(each: dict[str, Any]) -> tuple[object, ...]:
    from sluicemq.client.cluster import vote_is_vacant

    votes = "joining" if each["joining"] else "vacant" if vote_is_vacant(each) else each["voter"]
    free, sync = each["disk_free_bytes"], each["sync_seconds"]
    return (
        each["id"],
        each["role"],
        votes,
        each["epoch"],
        _zxid(each["last_zxid"]),
        _zxid(each["committed_zxid"]),
        each["lag_entries"],
        each["lag_bytes"],
        each["lag_seconds"],
        None if free is None else free >> 20,
        None if sync is None else 1000 * sync,
        each["address"],
        each["reachable"],
    )


def _zxid(zxid: int | None) -> str | None:
    return None if zxid is None else f"{zxid >> 32}:{zxid & 0xFFFFFFFF}"


@command.command(name="add")
@click.argument("node", metavar="ID=HOST:PORT")
@url_option
@json_option
def add(node: str, url: str, as_json: bool) -> None:
    """Let the broker ID at HOST:PORT learn from the cluster; it votes after `promote`.

    Start it with --node-id ID, an empty --data, and --peers that name the others and itself, before or after this.
    """
    number, equals, address = node.partition("=")
    if not equals or not number.isdecimal() or not address:
        raise click.UsageError(f"{node!r:.80}: write ID=HOST:PORT")
    _change(url, int(number), "added", as_json, lambda client: client.add_node(int(number), address))


@command.command(name="promote")
@click.argument("node", metavar="ID", type=click.IntRange(1))
@url_option
@json_option
def promote(node: int, url: str, as_json: bool) -> None:
    """Let the broker ID vote; it must be connected and have caught up."""
    _change(url, node, "votes", as_json, lambda client: client.promote_node(node))


@command.command(name="remove")
@click.argument("node", metavar="ID", type=click.IntRange(1))
@url_option
@json_option
def remove(node: int, url: str, as_json: bool) -> None:
    """Let the broker ID vote no more and forget it; it may be switched off then.

    If it leads, another one leads first.
    """
    _change(url, node, "removed", as_json, lambda client: client.remove_node(node))


@command.command(name="transfer")
@click.argument("node", metavar="ID", type=click.IntRange(1))
@url_option
@json_option
def transfer(node: int, url: str, as_json: bool) -> None:
    """Let the broker ID lead, without an election; before the present leader is stopped, for one."""
    _change(url, node, "leads", as_json, lambda client: client.transfer_lead(node))


def _change(url: str, node: int, what: str, as_json: bool, change: Callable[[Client], Awaitable[bool]]) -> None:
    from sluicemq.broker.commands.asking import with_client

    changed = with_client(url, change)
    if as_json:
        print_json({"node": node, "outcome": "changed" if changed else "unchanged"})
    else:
        click.echo(f"node {node}: {what}" if changed else f"node {node}: {what} already")


command.add_command(force_new)
