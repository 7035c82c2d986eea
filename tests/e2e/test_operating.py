"""What operators do to queues, against a real broker: delayed messages, pauses, policies and schedules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from sluicemq.client import NewMessage, connect
from sluicemq.wire.errors import InvalidRequest, QueueNotFound

if TYPE_CHECKING:
    from sluicemq.client import Client
    from tests.e2e.broker_process import BrokerProcess

pytestmark = pytest.mark.anyio

TEST_SECONDS_MAX = 60.0


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    return request.node.name.translate(str.maketrans("[]", "--"))


async def waiting(client: Client, queue: str) -> list[str]:
    return [message.position async for message in client.delayed(queue)]


def sluicemq(broker: BrokerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sluicemq.broker.cli", *arguments, "--url", broker.url],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ,
        check=False,
    )


async def test_what_waits_is_listed_by_due_time_and_goes_or_comes_at_once_as_one_says(
    broker: BrokerProcess, queue: str
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            now = datetime.now(UTC)
            receipts = [await client.send(queue, b"%d" % n, at=now + timedelta(hours=9 - n)) for n in range(8)]
            positions = [receipt.position for receipt in receipts]
            assert await waiting(client, queue) == positions[::-1]
            listed = [message async for message in client.delayed(queue, since=now + timedelta(hours=4.5))]
            assert [message.position for message in listed] == positions[4::-1]
            assert abs(listed[0].due_at - now - timedelta(hours=5)) < timedelta(milliseconds=2)
            until = [message async for message in client.delayed(queue, until=now + timedelta(hours=3))]
            assert [message.position for message in until] == positions[:6:-1]

            assert await client.cancel(queue, receipts[0]) == 1
            assert await client.cancel(queue, receipts[0]) == 0
            assert await client.cancel(queue, [listed[0], positions[3]]) == 2
            assert await client.reschedule(queue, receipts[1], at=now + timedelta(minutes=1)) == 1
            assert await waiting(client, queue) == [positions[1], *[positions[n] for n in (7, 6, 5, 2)]]
            # It is not due when its batch says: it has to be looked for.
            assert await client.cancel(queue, positions[1]) == 1

            assert await client.reschedule(queue, [positions[5], positions[7]], delay=0) == 2
            assert await client.reschedule(queue, positions[6], delay=0.05) == 1
            async with client.consumer(queue) as consumer:
                got = []
                for _ in range(3):
                    message = await anext(consumer)
                    got.append(message.position)
                    await message.ack()
            assert got == [positions[7], positions[5], positions[6]]
            state = await client.queue_info(queue)
            assert (state["delayed"], state["ready"]) == (1, 0)
            with pytest.raises(InvalidRequest, match="either at= or delay="):
                await client.reschedule(queue, positions[2])
            with pytest.raises(InvalidRequest, match="is no position"):
                await client.cancel(queue, "somewhere")
            with pytest.raises(QueueNotFound):
                await client.cancel("no-such-queue", positions[2])


async def test_a_list_of_many_that_are_due_together_comes_in_pages_each_once(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, client.producer(queue) as producer:
            await client.declare_queue(queue)
            later = datetime.now(UTC) + timedelta(days=300)
            receipts = await producer.send_many(
                [NewMessage(b"x", at=later + timedelta(seconds=n // 1500)) for n in range(4_000)]
            )
            assert await waiting(client, queue) == [receipt.position for receipt in receipts]
            assert await client.cancel(queue, list(receipts)[:2_500]) == 2_500
            assert len(await waiting(client, queue)) == 1_500


async def test_the_command_line_lists_cancels_and_fires(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            receipts = [await client.send(queue, b"%d" % n, delay=3_600 + n) for n in range(3)]
            positions = [receipt.position for receipt in receipts]

            async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
                return await anyio.to_thread.run_sync(sluicemq, broker, *arguments)

            listed = await run("delayed", "ls", queue, "--json")
            assert [json.loads(line)["position"] for line in listed.stdout.splitlines()] == positions, listed.stderr
            assert (await run("delayed", "cancel", queue, positions[0])).stdout == f"{queue}: 1 messages cancelled\n"
            later = await run("delayed", "reschedule", queue, positions[1], "--delay", "3d")
            assert later.stdout == f"{queue}: 1 messages rescheduled\n", later.stderr
            assert (await run("delayed", "fire", queue, positions[2])).stdout == f"{queue}: 1 messages made ready\n"
            assert positions[1] in (await run("delayed", "ls", queue)).stdout
            assert [message.body for message in await client.peek(queue)] == [b"2"]
            assert (await run("delayed", "reschedule", queue, positions[1])).returncode == 2
