"""Notification: tells the customer that all is done.

    python -m sluicemq.examples.first_look.notification URL DIRECTORY

Takes orders from the queue `notifications`, the last station of each.
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
    database = open_database(directory / "notification.sqlite")
    async with connect(url, name="notification") as client:
        await client.declare_queue("notifications")
        async with client.consumer("notifications") as notifications, trio.open_nursery() as tasks:
            tasks.start_soon(drain_on_sigterm, notifications)
            async for message in notifications:
                async with message:
                    order = json.loads(message.body)
                    handle_once(database, order["id"], "mail sent")
            tasks.cancel_scope.cancel()
    database.close()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], Path(sys.argv[2]))
