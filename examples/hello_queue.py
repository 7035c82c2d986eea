"""A queue: send, receive, acknowledge. Run `sluicemq serve` first, then `python examples/hello_queue.py`."""

import os

import trio

from sluicemq.client import connect

URL = os.environ.get("SLUICEMQ_URL", "sluicemq://127.0.0.1:7650")


async def main() -> None:
    """Send three messages and take them."""
    async with connect(URL) as client:
        await client.declare_queue("hello")

        async with client.producer("hello") as producer:
            receipt = await producer.send(b"hello")  # returns when it is on disk
            print("stored at", receipt.position)
            await producer.send_many([b"queue", b"world"])  # one entry of the log

        async with client.consumer("hello") as consumer:
            for _ in range(3):
                async with await anext(consumer) as message:  # acknowledged at the end of the block
                    print("received", message.body.decode())


if __name__ == "__main__":
    trio.run(main)
