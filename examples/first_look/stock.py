"""Stock: reserves what was ordered, then hands the order on to billing.

    python -m sluicemq.examples.first_look.stock URL DIRECTORY

Takes orders from the queue `orders`, and publishes each to `billing` before it acknowledges: an order is always in one
queue at least.
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
    database = open_database(directory / "stock.sqlite")
    async with connect(url, name="stock") as client:
        await client.declare_queue("orders")
        await client.declare_queue("billing")
        async with (
            client.producer("billing") as billing,
            client.consumer("orders") as orders,
            trio.open_nursery() as tasks,
        ):
            tasks.start_soon(drain_on_sigterm, orders)
            async for message in orders:
                async with message:  # acknowledges at its end; gives the message back on an exception
                    order = json.loads(message.body)
                    handle_once(database, order["id"], f"reserved one {order['item']}")
                    # The order goes on in any case: the first time may have ended between the effect and this line.
                    await billing.send(message.body, key=message.key, message_id=order["id"])
            tasks.cancel_scope.cancel()
    database.close()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], Path(sys.argv[2]))
