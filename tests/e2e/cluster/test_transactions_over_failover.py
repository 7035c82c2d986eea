"""The leader dies in the middle of what holds as a whole or not at all: it is done once, whole, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.client import Decision, connect
from sluicemq.client.errors import LeaseLost
from tests.e2e.cluster.processes import each_once
from tests.e2e.cluster.trio_of_brokers import Brokers

if TYPE_CHECKING:
    from sluicemq.client import Client, Undecided

INPUTS = 60
DEATH_AT = 20
"""When so many inputs were moved, the leader is killed between two commits that are on their way."""
CALL_SECONDS = 60.0


async def bodies_in(client: Client, queue: str, count: int) -> list[bytes]:
    """Take so many messages, and see that there are no more."""
    received: list[bytes] = []
    async with client.consumer(queue, credit=100) as consumer:
        while len(received) < count:
            batch = await consumer.receive(max_messages=100, max_wait=5.0)
            received = each_once([*received, *batch.bodies])
            await batch.ack()
    state = await client.queue_info(queue)
    assert state["published_total"] == count
    return received


@pytest.mark.trio
async def test_transactions_on_their_way_when_the_leader_dies_are_done_whole_and_once(brokers: Brokers) -> None:
    moved: list[bytes] = []
    all_moved = trio.Event()

    async def move(message) -> None:
        try:
            async with message, client.transaction(timeout=CALL_SECONDS) as transaction:
                await transaction.send("billing", message.body)
                await transaction.send("shipping", message.body)
                await transaction.ack(message)
        except LeaseLost:
            return  # that it was delivered had not reached the next leader: it comes again
        moved.append(message.body)
        if len(moved) == INPUTS:
            all_moved.set()

    async def take(consumer, nursery) -> None:
        taken = 0
        async for message in consumer:
            if taken == DEATH_AT:
                brokers.nodes[brokers.leader()].kill()
            taken += 1
            nursery.start_soon(move, message)

    with trio.fail_after(240):
        async with connect(brokers.url, request_timeout=CALL_SECONDS) as client:
            for queue in ("orders", "billing", "shipping"):
                await client.declare_queue(queue)
            async with client.producer("orders") as producer:
                await producer.send_many([b"%d" % number for number in range(INPUTS)])
            async with client.consumer("orders", credit=10) as consumer, trio.open_nursery() as nursery:
                nursery.start_soon(take, consumer, nursery)
                await all_moved.wait()
                nursery.cancel_scope.cancel()
            expected = sorted(b"%d" % number for number in range(INPUTS))
            assert sorted(await bodies_in(client, "billing", INPUTS)) == expected
            assert sorted(await bodies_in(client, "shipping", INPUTS)) == expected
            state = await client.queue_info("orders")
            assert (state["ready"], state["leased"], state["settled_total"]) == (0, 0, INPUTS)


@pytest.mark.trio
async def test_prepared_messages_outlive_their_leader_and_are_asked_about_by_the_next_one(brokers: Brokers) -> None:
    database = {b"paid": True, b"forgotten": True}

    async def check(message: Undecided) -> Decision:
        return Decision.COMMIT if database.get(bytes(message.body), False) else Decision.ROLLBACK

    with trio.fail_after(240):
        async with connect(brokers.url, request_timeout=CALL_SECONDS) as client:
            await client.declare_queue("orders")
            half = client.prepare("orders", b"paid", check="shop", check_after=30.0, timeout=CALL_SECONDS)
            left = [client.prepare("orders", body, check="shop", check_after=0.5) for body in (b"forgotten", b"unpaid")]
            async with half:
                for each in left:
                    async with each:
                        each.leave_undecided()
                assert (await client.queue_info("orders"))["ready"] == 0
                brokers.nodes[brokers.leader()].kill()
                client.transaction_checker("shop", check)
            assert sorted(await bodies_in(client, "orders", 2)) == [b"forgotten", b"paid"]
            while [row async for row in client.transactions()]:
                await trio.lowlevel.checkpoint()
            assert (await client.queue_info("orders"))["published_total"] == 2
