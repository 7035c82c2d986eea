"""Time: a message that is due later, one that is taken back before, and one that is put off."""

import os
from datetime import UTC, datetime, timedelta

import trio

from sluicemq.client import connect

URL = os.environ.get("SLUICEMQ_URL", "sluicemq://127.0.0.1:7650")


async def main() -> None:
    """Delay, cancel, reschedule."""
    async with connect(URL) as client:
        await client.declare_queue("reservations")
        async with client.producer("reservations") as producer:
            paid = await producer.send(b"release seat 7 unless paid", delay=1800.0)
            await producer.send(b"release seat 8 unless paid", delay=0.3)
            party = await producer.send(b"release the hall", at=datetime.now(UTC) + timedelta(days=365))

        print("seat 7 was paid; taken back:", await client.cancel("reservations", paid))
        print("the hall is wanted now; put forward:", await client.reschedule("reservations", party, delay=0.6))

        async with client.consumer("reservations") as consumer:
            for _ in range(2):
                async with await anext(consumer) as message:
                    print("due:", message.body.decode())


if __name__ == "__main__":
    trio.run(main)
