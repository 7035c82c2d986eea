"""A queue that retains, over restarts and while the disk around it is given back: everything can be read again."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.client import connect
from sluicemq.client.errors import PositionExpired
from tests.e2e.broker_process import unused_port
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from sluicemq.client import Client
    from tests.e2e.broker_process import BrokerProcess
    from tests.e2e.conftest import StartBroker

SMALL = (
    *("--segment-bytes", "256KiB"),
    *("--batch-bytes-max", "32KiB"),
    *("--message-bytes-max", "16KiB"),
    *("--snapshot-every-bytes", "128KiB"),
    *("--cache-bytes-max", "1MiB"),
)
BATCHES = 120
BATCH_MESSAGES = 20


def bodies(number: int) -> list[bytes]:
    return [b"%d-%d " % (number, index) + b"x" * 500 for index in range(BATCH_MESSAGES)]


async def publish_and_take(client: Client, queue: str, batches: range) -> None:
    """Publish, and acknowledge all of it: nothing but what is retained stays alive."""
    async with client.producer(queue) as producer, client.consumer(queue) as consumer:
        for number in batches:
            await producer.send_many(bodies(number))
            taken = 0
            while taken < BATCH_MESSAGES:
                batch = await consumer.receive(max_messages=BATCH_MESSAGES - taken, max_wait=WAIT_SECONDS)
                await batch.ack()
                taken += len(batch)
        await consumer.flush()


async def stored_bytes(client: Client) -> int:
    figures = await client.statistics()
    return int(figures["live_bytes"]) + int(figures["log_bytes"])


@pytest.mark.parametrize("stop", ["SIGTERM", "SIGKILL"])
def test_all_that_is_retained_is_read_again_after_restarts_and_reclaims(stop: str, start_broker: StartBroker) -> None:
    broker = start_broker(options=SMALL)
    begun = datetime.now(UTC)

    async def fill() -> None:
        async with connect(broker.url) as client:
            await client.declare_queue("kept", retention={"seconds": 3600})
            await client.declare_queue("plain")
            for start in range(0, BATCHES, 20):
                await publish_and_take(client, "kept", range(start, start + 20))
                await publish_and_take(client, "plain", range(start, start + 20))
            info = await client.queue_info("kept")
            assert (info["ready"], info["retained"]) == (0, BATCHES * BATCH_MESSAGES)

    async def read_again() -> None:
        wanted = [body for number in range(BATCHES) for body in bodies(number)]
        async with connect(broker.url) as client:
            assert [message.body async for message in client.replay("kept")] == wanted
            assert [message.body async for message in client.replay("kept", begun)] == wanted
            messages = [message async for message in client.replay("kept")]
            middle = messages[len(messages) // 2].position
            assert [m.body async for m in client.replay("kept", middle)] == wanted[len(wanted) // 2 :]
            assert (await client.queue_info("kept"))["ready"] == 0, "reading changed nothing"

    async def let_go() -> None:
        async with connect(broker.url) as client:
            before = await stored_bytes(client)
            await client.declare_queue("kept", retention={"bytes": 100_000})
            deadline = time.monotonic() + WAIT_SECONDS
            while (await client.queue_info("kept"))["retained_bytes"] > 100_000:
                assert time.monotonic() < deadline, "what is too much goes at once"
            oldest = (await anext(client.replay("kept"))).position
            with pytest.raises(PositionExpired) as caught:
                await anext(client.replay("kept", begun))
            assert caught.value.oldest_position == oldest
            deadline = time.monotonic() + WAIT_SECONDS
            number = 0
            while await stored_bytes(client) > before // 2:
                assert time.monotonic() < deadline, "what is not retained any more leaves the disk"
                await publish_and_take(client, "plain", range(number, number + 10))
                number += 10

    trio.run(fill)
    for _ in range(2):
        restart(broker, stop)
        trio.run(read_again)
    trio.run(let_go)


def restart(broker: BrokerProcess, stop: str) -> None:
    if stop == "SIGTERM":
        broker.stop()
    else:
        broker.kill()
    broker.start()


def test_a_follower_goes_on_over_a_restart_and_misses_nothing(start_broker: StartBroker) -> None:
    broker = start_broker(options=SMALL, port=unused_port())
    seen: list[bytes] = []

    async def main() -> None:
        async with connect(broker.url) as client, trio.open_nursery() as nursery:
            await client.declare_queue("kept", retention={"seconds": 3600})
            changed = trio.Event()

            async def follow() -> None:
                nonlocal changed
                async for message in client.replay("kept", follow=True):
                    seen.append(message.body)
                    changed.set()
                    changed = trio.Event()

            async def until(count: int) -> None:
                with trio.fail_after(WAIT_SECONDS):
                    while len(seen) < count:
                        await changed.wait()

            nursery.start_soon(follow)
            for number in range(3):
                async with client.producer("kept") as producer:
                    await producer.send_many(bodies(number))
                await until(BATCH_MESSAGES * (number + 1))
                await trio.to_thread.run_sync(restart, broker, "SIGKILL")
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert seen == [body for number in range(3) for body in bodies(number)]
