"""All or nothing: what is consumed is settled, and what follows from it is sent, as one entry of the log."""

import os

import trio

from sluicemq.client import connect

URL = os.environ.get("SLUICEMQ_URL", "sluicemq://127.0.0.1:7650")


async def main() -> None:
    """Consume, transform, produce; once with a crash in the middle."""
    async with connect(URL) as client:
        for name in ("baskets", "invoices", "parcels"):
            await client.declare_queue(name, retry_delay=0.1)
        await client.send("baskets", b"two lamps")

        crashed = False
        async with client.consumer("baskets") as consumer:
            while True:
                message = await anext(consumer)
                try:
                    async with message, client.transaction() as transaction:
                        await transaction.send("invoices", b"invoice: " + message.body)
                        if not crashed:
                            crashed = True
                            raise RuntimeError("the machine stumbled")
                        await transaction.send("parcels", b"parcel: " + message.body)
                        await transaction.ack(message)
                    break
                except RuntimeError as error:
                    print("rolled back:", error)

        for name in ("invoices", "parcels"):
            info = await client.queue_info(name)
            print(f"{name}: {info['ready']} ready")


if __name__ == "__main__":
    trio.run(main)
