"""`sluicemq explain`: the life of one message, from the broker's log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sluicemq.broker.commands.manners import json_option, note, print_json, print_table, url_option

if TYPE_CHECKING:
    from sluicemq.client import Client, Explanation, LifeEvent


@click.command(name="explain")
@click.argument("message")
@click.option("--queue", help="The queue or topic that it was published to; needed for ids that senders give.")
@click.option("--key", help="Its key, where ids are unique within keys (dedup_scope=key).")
@url_option
@json_option
def command(message: str, queue: str | None, key: str | None, url: str, as_json: bool) -> None:
    """Tell the life of one MESSAGE: when it was accepted, each delivery, each verdict, and where it is now.

    MESSAGE is its position (0-100000005-0), as receipts, messages and `queue peek` show it, or its id. The log does not
    reach back for ever: the answer says whether it reaches back far enough.
    """
    from sluicemq.broker.commands.asking import with_client
    from sluicemq.wire.errors import InvalidRequest
    from sluicemq.wire.positions import parse_position

    async def work(client: Client) -> Explanation:
        try:
            parse_position(message)
        except InvalidRequest:
            return await client.explain(message_id=message, queue=queue, key=key)
        return await client.explain(message, queue=queue)

    life = with_client(url, work)
    if as_json:
        print_json(
            {
                "position": life.position,
                "message_id": life.message_id,
                "status": life.status,
                "complete": life.complete,
                "facts": dict(life.facts),
                "events": [_plain(event) for event in life.events],
                "places": [dict(place) for place in life.places],
            }
        )
        return
    title = f"{life.position}  id {life.message_id}: {life.status}"
    rows = [
        (
            f"{event.at.strftime('%Y-%m-%d %H:%M:%S.%f')[:-3]} UTC",
            f"{event.zxid:x}",
            event.queue or "-",
            event.what,
            ", ".join(f"{name} {value}" for name, value in event.facts.items() if value not in ("", None)) or "-",
        )
        for event in life.events
    ]
    print_table(("when", "zxid", "queue", "what", "more"), rows, title=title)
    if not life.complete:
        note("the log does not reach back to when it was published: earlier events are not known any more")
    if life.facts.get("events_left_out"):
        note(f"{life.facts['events_left_out']} events in the middle are left out")


def _plain(event: LifeEvent) -> dict[str, Any]:
    return {
        "what": event.what,
        "at": event.at.isoformat(),
        "zxid": event.zxid,
        "queue": event.queue,
        **event.facts,
    }
