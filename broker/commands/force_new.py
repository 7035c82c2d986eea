"""`sluicemq cluster force-new`: shows how far a directory's log goes, asks, and makes a new cluster of it.

This module owns what the operator sees and agrees to; what is done, and in which order, stands in `forcing`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sluicemq.broker.commands.manners import confirm_by_typing, data_option, json_option, note, print_json
from sluicemq.broker.config import NODE_ID_MAX

if TYPE_CHECKING:
    from sluicemq.broker.commands.forcing import NewCluster, Standing

CONFIRMATION = "force-new"


@click.command(name="force-new")
@data_option
@click.option(
    "--node-id",
    "node",
    type=click.IntRange(1, NODE_ID_MAX),
    required=True,
    metavar="N",
    help="The broker's number, as `sluicemq serve` is given it.",
)
@click.option("--yes", is_flag=True, help="Do it without asking; for programs.")
@click.option("--dry-run", is_flag=True, help="Show how far this copy goes and who votes by it, and change nothing.")
@json_option
def force_new(data: Path, node: int, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Make one broker's directory the first of a new cluster, in which it alone votes.

    The last resort, when a majority is lost for good, or a copy of a cluster's directory is to be restored. No broker
    may run on it. All that its log holds is kept, and counts as confirmed; what the old cluster confirmed and this disk
    had not got yet is lost. So compare all copies there are with --dry-run first, and take the one with the greatest
    last entry.

    The cluster gets a new id: brokers of the old one refuse it, and it refuses them. Then `sluicemq serve` it, start
    the others on empty directories, and `sluicemq cluster promote` them. If it is interrupted, run it again.
    """
    from sluicemq.broker.commands.forcing import examine, force_new, refuse_unless_forcible
    from sluicemq.broker.commands.log_files import ReadOnlyDirectory
    from sluicemq.storage.files import RealDirectory

    looked_at = ReadOnlyDirectory(data)  # refuses what is no directory, which the other one would make
    if dry_run:
        standing = examine(looked_at)
        if as_json:
            print_json(_facts(standing))
        else:
            _show(standing, to_stderr=False)
        refuse_unless_forcible(str(data), standing, node)
        return
    directory = RealDirectory(data)
    lock = directory.lock()
    try:
        standing = examine(looked_at)
        refuse_unless_forcible(str(data), standing, node)
        if not yes:
            _show(standing, to_stderr=True)
            others = ", ".join(str(each) for each in standing.voters if each != node)
            note(f"What brokers {others} have beyond that is lost to this one; they can join it on empty disks only.")
        confirm_by_typing(CONFIRMATION, yes=yes)
    finally:
        lock.release()
    made = force_new(directory, node)
    if as_json:
        print_json({**_facts(made.before), "new_cluster_id": made.cluster_id, "new_epoch": made.epoch})
        return
    _say(made, node)


def _facts(standing: Standing) -> dict[str, Any]:
    from sluicemq.storage.errors import format_zxid

    return {
        "node_id": standing.node_id,
        "cluster_id": standing.cluster_id,
        "voters": standing.voters,
        "last_zxid": format_zxid(standing.last_zxid),
        "epoch": standing.epoch,
        "promised_epoch": standing.promised_epoch,
        "log_time": _moment(standing).isoformat(),
    }


def _moment(standing: Standing) -> datetime:
    return datetime.fromtimestamp(standing.log_time_ms / 1000, UTC)


def _show(standing: Standing, *, to_stderr: bool) -> None:
    from sluicemq.storage.errors import format_zxid

    whose = "a broker that does not vote" if standing.node_id is None else f"node {standing.node_id}"
    voters = ", ".join(map(str, standing.voters)) or "not known"
    for line in (
        f"directory of  {whose}",
        f"cluster       {standing.cluster_id.hex()}",
        f"voters        {voters}",
        f"last entry    {format_zxid(standing.last_zxid)} (epoch.counter; the greatest is furthest)",
        f"log time      {_moment(standing).strftime('%Y-%m-%d %H:%M:%S UTC')}",
        f"promised      epoch {standing.promised_epoch}",
    ):
        click.echo(line, err=to_stderr)


def _say(made: NewCluster, node: int) -> None:
    from sluicemq.storage.errors import format_zxid

    click.echo(f"Node {node} is the only voter of the new cluster {made.cluster_id.hex()}, from epoch {made.epoch} on.")
    click.echo(f"All entries up to {format_zxid(made.before.last_zxid)} are kept.")
    click.echo(
        "`sluicemq serve` starts it; start others on empty directories, then `sluicemq cluster add` and "
        "`sluicemq cluster promote` them."
    )
