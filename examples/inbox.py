"""The inbox: a message that comes twice has its effect once, because its id is stored together with the effect."""

import os
import sqlite3

import trio

from sluicemq.client import Inbox, connect

URL = os.environ.get("SLUICEMQ_URL", "sluicemq://127.0.0.1:7650")


async def main() -> None:
    """Somebody sends a payment twice; it is booked once."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE bookings (amount INTEGER)")
    inbox = Inbox("bookkeeping")
    await inbox.create_table(database)
    database.commit()

    async with connect(URL) as client:
        await client.declare_queue("bookings")
        for _ in range(2):
            await client.send("bookings", b"42", message_id="payment-1")

        async with client.consumer("bookings") as consumer:
            for _ in range(2):
                message = await anext(consumer)
                async with message, inbox.once(message, database) as fresh:
                    if fresh:
                        database.execute("INSERT INTO bookings VALUES (?)", (int(message.body),))
                    database.commit()  # effect and id together; the acknowledgement comes after it
                    print("booked" if fresh else "known already")

    print("sum:", database.execute("SELECT SUM(amount) FROM bookings").fetchone()[0])
    database.close()


if __name__ == "__main__":
    trio.run(main)
