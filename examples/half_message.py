"""A message that nobody sees until your database has decided, and the question that is asked if you fall silent.

For those who cannot keep an outbox table. If you can, the outbox is simpler: see `outbox_with_sqlalchemy.py`.
"""

import os
import sqlite3

import trio

from sluicemq.client import Decision, Undecided, connect

URL = os.environ.get("SLUICEMQ_URL", "sluicemq://127.0.0.1:7650")


async def main() -> None:
    """Two orders; of the second one the sender does not learn whether its commit went through."""
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.execute("CREATE TABLE orders (number TEXT PRIMARY KEY)")

    def what_became_of_it(undecided: Undecided) -> Decision | None:
        number = undecided.body.decode()
        found = database.execute("SELECT 1 FROM orders WHERE number = ?", (number,)).fetchone()
        print("asked about", number)
        return Decision.COMMIT if found else Decision.ROLLBACK

    async with connect(URL) as client:
        await client.declare_queue("orders-to-ship")
        client.transaction_checker("shop", what_became_of_it)  # any live member of the group may be asked

        async with client.prepare("orders-to-ship", b"o-1", check="shop"):
            with database:
                database.execute("INSERT INTO orders VALUES ('o-1')")

        async with client.prepare("orders-to-ship", b"o-2", check="shop", check_after=2) as half:
            with database:
                database.execute("INSERT INTO orders VALUES ('o-2')")
            half.leave_undecided()  # as if the process had died here

        async with client.consumer("orders-to-ship") as consumer:
            for _ in range(2):
                async with await anext(consumer) as message:
                    print("ship", message.body.decode())
    database.close()


if __name__ == "__main__":
    trio.run(main)
