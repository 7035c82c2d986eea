"""A question and its answer: a request is a message like any other, and its reply goes straight back to who asked."""

import os

import trio

from sluicemq.client import Client, Reject, connect
from sluicemq.client.errors import RequestFailed

URL = os.environ.get("SLUICEMQ_URL", "sluicemq://127.0.0.1:7650")
PRICES = {b"apples": b"1.20", b"pears": b"1.80"}


async def serve(client: Client) -> None:
    """Answer; several processes may do so, each request goes to one of them."""
    async with client.consumer("pricing") as consumer:
        async for message in consumer:
            async with message:
                if message.body not in PRICES:
                    raise Reject("no such product")
                await message.reply(PRICES[message.body])


async def main() -> None:
    """Ask for two prices."""
    async with connect(URL) as client:
        await client.declare_queue("pricing")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, client)
            reply = await client.request("pricing", b"apples", timeout=5.0)
            print("apples cost", reply.body.decode())
            try:
                await client.request("pricing", b"plums", timeout=5.0)
            except RequestFailed as error:
                print("plums:", error)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
