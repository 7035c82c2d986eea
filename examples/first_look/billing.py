"""Billing: charges the customer, then lets the customer be told.

    python -m sluicemq.examples.first_look.billing URL DIRECTORY

Takes orders from the queue `billing`, and publishes each to `notifications` before it acknowledges.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio

from sluicemq.client import connect
from sluicemq.examples.first_look.common import drain_on_sigterm, handle_once, open_database


async def main(url: str, directory: Path) -> None:
    """Handle orders until SIGTERM."""
    database = open_database(directory / "billing.sqlite")
    async with connect(url, name="billing") as client:
        await client.declare_queue("billing")
        await client.declare_queue("notifications")
        async with (
            client.producer("notifications") as notifications,
            client.consumer("billing") as bills,
            trio.open_nursery() as tasks,
        ):
            tasks.start_soon(drain_on_sigterm, bills)
            async for message in bills:
                async with message:
                    order = json.loads(message.body)
                    if handle_once(database, order["id"], f"charged {order['cents'] / 100:.2f}"):
                        await trio.sleep(0.01)  # the bank takes its time
                    await notifications.send(message.body, key=message.key, message_id=order["id"])
            tasks.cancel_scope.cancel()
    database.close()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], Path(sys.argv[2]))
