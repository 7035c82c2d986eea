"""`sluicemq schedule`: messages that the broker sends again and again."""

from __future__ import annotations

import click

from sluicemq.broker.commands.manners import json_option, print_json, print_table, url_option


@click.group(name="schedule")
def command() -> None:
    """Let the broker send messages again and again, by cron expressions."""


@command.command(name="set")
@click.argument("name")
@click.argument("cron")
@click.argument("destination")
@click.argument("body")
@click.option("--timezone", default="UTC", show_default=True, help="By which CRON is read: Europe/Berlin.")
@click.option(
    "--catch-up",
    type=click.Choice(("one", "all", "none")),
    default="one",
    show_default=True,
    help="What becomes of times while the broker is down.",
)
@url_option
@json_option
def put(
    name: str, cron: str, destination: str, body: str, timezone: str, catch_up: str, url: str, as_json: bool
) -> None:
    """Let BODY be sent to DESTINATION at all times of CRON.

    '0 6 * * MON-FRI'; with six fields, seconds first; or @hourly, @daily, @weekly, @monthly, @yearly.
    """
    from sluicemq.broker.commands.asking import with_client

    first = with_client(
        url,
        lambda client: client.schedule(
            name,
            cron,
            destination,
            body.encode(),
            timezone=timezone,
            catch_up=catch_up,  # type: ignore[arg-type]  # click has checked the choice
        ),
    )
    if as_json:
        print_json({"name": name, "next_at": first.isoformat()})
    else:
        click.echo(f"{name}: next at {first:%Y-%m-%d %H:%M:%S} UTC")


@command.command(name="ls")
@url_option
@json_option
def ls(url: str, as_json: bool) -> None:
    """List all schedules."""
    from sluicemq.broker.commands.asking import with_client

    found = with_client(url, lambda client: client.schedules())
    if as_json:
        print_json(
            [
                {
                    "name": one.name,
                    "cron": one.cron,
                    "timezone": one.timezone,
                    "destination": one.destination,
                    "catch_up": one.catch_up,
                    "next_at": one.next_at.isoformat(),
                    "published": one.published,
                    "failed": one.failed,
                    "problem": one.problem,
                }
                for one in found
            ]
        )
        return
    rows = [
        (
            one.name,
            one.cron,
            one.timezone,
            one.destination,
            f"{one.next_at:%Y-%m-%d %H:%M:%S} UTC",
            one.published,
            one.failed,
            one.problem or "-",
        )
        for one in found
    ]
    print_table(("name", "cron", "time zone", "destination", "next", "sent", "failed", "last problem"), rows)


@command.command(name="delete")
@click.argument("name")
@url_option
@json_option
def delete(name: str, url: str, as_json: bool) -> None:
    """Drop the schedule NAME."""
    from sluicemq.broker.commands.asking import with_client

    known = with_client(url, lambda client: client.unschedule(name))
    if as_json:
        print_json({"name": name, "known": known})
    else:
        click.echo(f"{name}: {'dropped' if known else 'there was none'}")
