"""A topic: one publish, and everybody who subscribed to a fitting pattern gets it, each at its own pace."""

import os

import trio

from sluicemq.client import Client, connect

URL = os.environ.get("SLUICEMQ_URL", "sluicemq://127.0.0.1:7650")


async def read(client: Client, subscription: str, count: int) -> None:
    """Print so many messages of a subscription, which is a queue like any other."""
    async with client.consumer(subscription) as consumer:
        for _ in range(count):
            async with await anext(consumer) as message:
                print(f"{subscription}: {message.destination} {message.body.decode()}")


async def main() -> None:
    """Publish to names below a topic."""
    async with connect(URL) as client:
        await client.declare_topic("weather")
        await client.subscribe("weather.*.storm", "alarms")  # * is one word
        await client.subscribe("weather.#", "archive")  # # is any number of words

        await client.send("weather.coast.sun", b"21 degrees")
        await client.send("weather.coast.storm", b"wind 10")

        await read(client, "alarms", 1)
        await read(client, "archive", 2)


if __name__ == "__main__":
    trio.run(main)
