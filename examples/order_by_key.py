"""Order where it matters: messages of one key are worked on one after the other, whoever works; other keys go on."""

import os
from collections import defaultdict

import trio

from sluicemq.client import Client, connect

URL = os.environ.get("SLUICEMQ_URL", "sluicemq://127.0.0.1:7650")
STEPS = ("open", "deposit", "withdraw", "close")


async def clerk(client: Client, seen: dict[str, list[str]], done: trio.Event) -> None:
    """Work until all is done, beside other clerks."""
    async with client.consumer("accounts", credit=20) as consumer:
        async for message in consumer:
            async with message:
                assert message.key is not None
                await trio.lowlevel.checkpoint()  # what takes time in real life
                seen[message.key].append(message.body.decode())
            if sum(map(len, seen.values())) == 5 * len(STEPS):
                done.set()


async def main() -> None:
    """Three clerks, five accounts, four steps each."""
    async with connect(URL) as client:
        await client.declare_queue("accounts", ordering="key")
        async with client.producer("accounts") as producer:
            for step in STEPS:
                for number in range(5):
                    await producer.send(step.encode(), key=f"account-{number}")

        seen: dict[str, list[str]] = defaultdict(list)
        done = trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(clerk, client, seen, done)
            await done.wait()
            nursery.cancel_scope.cancel()
        for account in sorted(seen):
            print(account, " ".join(seen[account]))


if __name__ == "__main__":
    trio.run(main)
