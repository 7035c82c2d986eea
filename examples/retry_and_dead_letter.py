"""Failure: a message comes again by the queue's policy, and is a dead letter in the end; an operator redrives it."""

import os

import trio

from sluicemq.client import Client, Reject, connect

URL = os.environ.get("SLUICEMQ_URL", "sluicemq://127.0.0.1:7650")
ATTEMPTS = 3


async def work(client: Client, deliveries: int, *, repaired: bool) -> None:
    """Handle so many deliveries of mails; before the repair, half of them fail."""
    async with client.consumer("mails", credit=1) as consumer:
        for _ in range(deliveries):
            message = await anext(consumer)
            try:
                async with message:
                    if message.body == b"nonsense":
                        raise Reject("no address in it")  # never again: a dead letter at once
                    if message.body == b"to bob" and not repaired:
                        raise ConnectionError("bob's mail server is down")
                    print("sent", message.body.decode(), "at attempt", message.attempt)
            except ConnectionError as error:
                print(f"attempt {message.attempt} failed: {error}")  # given back, comes again by the policy


async def main() -> None:
    """Fail, look at what died, repair, and let it be tried again."""
    async with connect(URL) as client:
        await client.declare_queue("mails", retry=[0.1, 0.5], max_deliveries=ATTEMPTS)
        async with client.producer("mails") as producer:
            await producer.send_many([b"to ann", b"to bob", b"nonsense"])

        await work(client, deliveries=2 + ATTEMPTS, repaired=False)

        dead = await client.dead_letters("mails")
        while len(dead) < 2:  # a verdict is on its way to the log for some milliseconds
            dead = await client.dead_letters("mails")
        for letter in dead:
            print("dead:", letter.message.body.decode(), "-", letter.death.reason, "-", letter.death.error)

        redriven = await client.redrive("mails", wanted=lambda letter: letter.death.reason == "max_deliveries")
        print("redriven:", redriven)
        await work(client, deliveries=1, repaired=True)


if __name__ == "__main__":
    trio.run(main)
