"""The web front: takes orders, and answers as soon as the broker has confirmed them.

    python -m sluicemq.examples.first_look.web URL DIRECTORY ORDERS

`place_order` is what stands behind `POST /orders` in your web framework. Here, visitors are tasks that call it.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
import uuid
from pathlib import Path

import trio

from sluicemq.client import Producer, connect
from sluicemq.client.errors import SluiceError

VISITORS = 10
THINKING_SECONDS = 0.25


async def place_order(orders: Producer, item: str) -> str:
    """Take one order. When this returns, the order is safe: neither our end nor the broker's can lose it.

    The answer waits for one durable write at the broker, not for stock, billing and mail. While the broker restarts,
    the client reconnects and sends again by itself, without making two orders of one.
    """
    order_id = str(uuid.uuid4())
    order = {"id": order_id, "item": item, "cents": 4200}
    await orders.send(json.dumps(order).encode(), key=order_id, message_id=order_id)
    return order_id


async def visit(orders: Producer, database: sqlite3.Connection, count: int) -> None:
    """One visitor, who orders now and then; what was answered is written down, so that the demo can check it."""
    for _ in range(count):
        asked_at = time.time()
        try:
            order_id = await place_order(orders, "lamp")
        except SluiceError as error:
            print(f"web: the visitor is asked to try again later: {error}", file=sys.stderr)
        else:
            with database:
                database.execute("INSERT INTO accepted VALUES (?, ?, ?)", (order_id, asked_at, time.time()))
        await trio.sleep(THINKING_SECONDS)


async def main(url: str, directory: Path, count: int) -> None:
    """Serve all visitors, then end."""
    database = sqlite3.connect(directory / "web.sqlite")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE accepted (order_id TEXT PRIMARY KEY, asked_at REAL, answered_at REAL)")
    database.commit()
    async with connect(url, name="web") as client:
        await client.declare_queue("orders")
        async with client.producer("orders") as orders, trio.open_nursery() as visitors:
            for number in range(VISITORS):
                visitors.start_soon(visit, orders, database, (count + number) // VISITORS)
    database.close()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
