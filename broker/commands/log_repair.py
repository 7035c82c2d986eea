"""`sluicemq log repair`: shows what is damaged and what would be lost, asks, and then goes on without it.

This module owns what the operator sees and agrees to; what is done stands in `repairing` and `forgetting`.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sluicemq.broker.commands.manners import confirm_by_typing, data_option, json_option, note, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.commands.log_repair_plan import Plan

CONFIRMATION = "repair"


@click.command(name="repair")
@data_option
@click.option("--yes", is_flag=True, help="Do it without asking; for programs.")
@click.option("--dry-run", is_flag=True, help="Show what is damaged and what would be lost, and change nothing.")
@json_option
def repair(data: Path, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Put a damaged directory in order, without what cannot be read any more.

    The last resort, for a broker that refuses to start and has neither a backup nor others to fetch its data from. No
    broker may run. Shows first what is lost: entries, and messages by queue as far as known. Every damaged file is kept
    under damaged/ in the directory.
    """
    from sluicemq.broker.commands.forgetting import forget_lost
    from sluicemq.broker.commands.log_files import ReadOnlyDirectory
    from sluicemq.broker.commands.repairing import Repair

    ReadOnlyDirectory(data)  # refuses what is no directory, which the other one would make
    repairing = Repair(data)
    lock = repairing.directory.lock()
    try:
        plan = repairing.examine()
        pending = repairing.pending_lost()
        if plan.empty and not pending:
            _print_whole(as_json)
            return
        if not as_json or not yes:
            _show(plan)
            if pending:
                note(
                    f"An interrupted repair is finished: what {len(pending)} lost stretches of the log held is settled."
                )
        if dry_run:
            if as_json:
                print_json(_facts(plan))
            return
        confirm_by_typing(CONFIRMATION, yes=yes)
        with _stopping(data):
            folder = data if plan.empty else repairing.carry_out()
    finally:
        lock.release()
    with _stopping(data):
        settled = forget_lost(data, [*pending, *plan.lost])
        repairing.lost_is_settled()
    if as_json:
        print_json({**_facts(plan), "kept_in": str(folder), "settled": dict(settled)})
        return
    click.echo("Repaired." if plan.empty else f"Repaired. The damaged files are in {folder}.")
    for queue, messages in settled.items():
        click.echo(f"{messages} messages of {queue} are lost, and given up so that no broker looks for them.")
    click.echo("`sluicemq log verify` checks the rest; `sluicemq serve` starts.")


@contextmanager
def _stopping(data: Path) -> Iterator[None]:
    """Say of an error of the disk what it stopped, and the way on."""
    from sluicemq.broker.commands.log_repair_plan import RepairStopped

    try:
        yield
    except OSError as error:
        raise RepairStopped(str(data), error) from error


def _print_whole(as_json: bool) -> None:
    if as_json:
        print_json({"damaged": [], "lost": []})
    else:
        click.echo("Nothing is damaged; nothing was changed.")


def _facts(plan: Plan) -> dict[str, Any]:
    from sluicemq.storage.errors import format_zxid

    return {
        "damaged": [each._asdict() for each in plan.damaged],
        "lost": [
            {
                "first_zxid": format_zxid(span.first_zxid),
                "last_zxid": format_zxid(span.last_zxid),
                "entries": span.entries,
                "entries_or_more": span.over_epochs,
            }
            for span in plan.lost
        ],
        "lost_messages": dict(plan.lost_messages),
        "notes": plan.notes,
    }


def _show(plan: Plan) -> None:
    click.echo("Damaged:", err=True)
    for each in plan.damaged:
        click.echo(f"  {each.name} at offset {each.offset}: {each.reason}", err=True)
        click.echo(f"    -> {each.remedy}", err=True)
    if plan.lost:
        click.echo("Lost for ever, if you go on:", err=True)
        for span in plan.lost:
            limit = "or more: how far the epoch before went is not known" if span.over_epochs else "at most"
            click.echo(f"  entries {span} ({span.entries} {limit})", err=True)
        for queue, messages in plan.lost_messages.items():
            click.echo(f"  {messages} messages of {queue}", err=True)
        if not plan.lost_messages:
            click.echo("  no message that is known to be unsettled", err=True)
    else:
        click.echo("No entry is lost.", err=True)
    for text in plan.notes:
        click.echo(f"Note: {text}.", err=True)
