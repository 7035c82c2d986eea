"""The client library against real brokers, on trio and on asyncio: what `client.md` promises, seen from outside.

The library's own tests run against a scripted broker; here both sides are real, so that what one assumes of the other
is tested too.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from sluicemq.client import NewMessage, connect
from sluicemq.wire.errors import BatchTooLarge, LeaseLost, ProducerFenced, QueueNotFound
from tests.e2e.broker_process import unused_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sluicemq.client import Client
    from tests.e2e.broker_process import BrokerProcess
    from tests.e2e.conftest import StartBroker

pytestmark = pytest.mark.anyio

CONDITION_SECONDS_MAX = 60.0
TEST_SECONDS_MAX = 180.0


async def eventually(condition: Callable[[], Awaitable[bool]]) -> bool:
    """Ask until *condition* is true; false where that takes too long."""
    with anyio.move_on_after(CONDITION_SECONDS_MAX):
        while not await condition():  # noqa: ASYNC110 - no event tells that a broker's figures have changed
            await anyio.sleep(0.01)
        return True
    return False


async def counts(client: Client, queue: str) -> tuple[int, int, int]:
    """(ready, leased, delayed)"""
    state = await client.queue_info(queue)
    return state["ready"], state["leased"], state["delayed"]


async def wait_counts(client: Client, queue: str, expected: tuple[int, int, int]) -> None:
    seen = []

    async def reached() -> bool:
        seen.append(await counts(client, queue))
        return seen[-1] == expected

    assert await eventually(reached), f"(ready, leased, delayed) should become {expected}, but was {set(seen)}"


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


# --- the common road ------------------------------------------------------------------------------------------------


async def test_what_is_sent_is_received_once_and_in_order(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            async with client.producer(queue) as producer:
                receipts = await producer.send_many(numbered(500))
                last = await producer.send(b"500")
            received = []
            async with client.consumer(queue) as consumer:
                async for message in consumer:
                    async with message:
                        received.append((message.body, message.position))
                    if len(received) == 501:
                        break
            assert [body for body, _ in received] == numbered(501)
            assert [position for _, position in received] == [one.position for one in [*receipts, last]]
            await wait_counts(client, queue, (0, 0, 0))
        async with connect(broker.url) as client:
            assert (await client.queue_info(queue))["settled_total"] == 501


async def test_batches_are_received_and_acknowledged_as_a_whole(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            async with client.producer(queue) as producer:
                for start in range(0, 10_000, 1000):
                    await producer.send_many(numbered(1000, start))
            bodies: list[bytes] = []
            async with client.consumer(queue, credit=3000) as consumer:
                while len(bodies) < 10_000:
                    batch = await consumer.receive(max_messages=700, max_wait=10.0)
                    assert 0 < len(batch) <= 700
                    bodies += batch.bodies
                    await batch.ack()
                await consumer.flush()
                assert bodies == numbered(10_000)
                assert await counts(client, queue) == (0, 0, 0)
                began = time.monotonic()
                assert len(await consumer.receive(max_wait=0.2)) == 0
                assert 0.15 < time.monotonic() - began < 10


async def test_many_tasks_send_one_by_one_and_each_gets_its_own_receipt(broker: BrokerProcess, queue: str) -> None:
    positions: dict[bytes, str] = {}
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            async with client.producer(queue) as producer:

                async def send_some(place: int) -> None:
                    for number in range(25):
                        body = b"%d/%d" % (place, number)
                        positions[body] = (await producer.send(body)).position

                async with anyio.create_task_group() as tasks:
                    for place in range(64):
                        tasks.start_soon(send_some, place)
            async with client.consumer(queue) as consumer:
                received: dict[bytes, str] = {}
                while len(received) < 64 * 25:
                    batch = await consumer.receive(max_wait=10.0)
                    received.update({message.body: message.position for message in batch})
                    await batch.ack()
            assert received == positions
            assert len(set(positions.values())) == 64 * 25


async def test_two_consumers_share_a_queue_without_sharing_a_message(broker: BrokerProcess, queue: str) -> None:
    received: Counter[bytes] = Counter()
    takers: Counter[int] = Counter()
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as one, connect(broker.url) as other:
            await one.declare_queue(queue)
            async with one.producer(queue) as producer:
                await producer.send_many(numbered(2000))

            async def consume(client: Client, place: int) -> None:
                async with client.consumer(queue, credit=50) as consumer:
                    async for message in consumer:
                        async with message:
                            received[message.body] += 1
                            takers[place] += 1
                        if received.total() >= 2000:
                            tasks.cancel_scope.cancel()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume, one, 0)
                tasks.start_soon(consume, other, 1)
    assert received == Counter(numbered(2000))
    assert min(takers.values()) > 200, takers


# --- a broker that goes and comes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", ["SIGTERM", "SIGKILL"])
async def test_a_restart_of_the_broker_is_the_librarys_business_alone(
    stop: str, start_broker: StartBroker, queue: str
) -> None:
    broker = await anyio.to_thread.run_sync(lambda: start_broker(port=unused_port()))

    def restart() -> None:
        if stop == "SIGTERM":
            broker.stop()
        else:
            broker.kill()
        broker.start()

    received: Counter[bytes] = Counter()
    sent = 0
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, retry_delay=0.0)
            finished = anyio.Event()

            async def consume() -> None:
                async with client.consumer(queue, credit=200) as consumer:
                    consumer.on_lease_lost = lambda _error: None
                    async for message in consumer:
                        async with message:
                            received[message.body] += 1
                        if finished.is_set() and len(received) >= sent:
                            return

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume)
                async with client.producer(queue) as producer:
                    restarted = anyio.Event()

                    async def restart_in_a_thread() -> None:
                        await anyio.to_thread.run_sync(restart)
                        restarted.set()

                    tasks.start_soon(restart_in_a_thread)
                    while not restarted.is_set() or sent < 500:
                        receipts = await producer.send_many(numbered(10, sent))
                        assert len(receipts) == 10
                        sent += 10
                    sent += 1
                    finished.set()
                    await producer.send(b"%d" % (sent - 1))
            await wait_counts(client, queue, (0, 0, 0))
            state = await client.queue_info(queue)
            assert state["published_total"] == sent, "resent batches were recognized"
    assert set(received) == set(numbered(sent))
    broker.stop()


async def test_a_client_that_finds_no_broker_waits_for_one(start_broker: StartBroker, queue: str) -> None:
    broker = await anyio.to_thread.run_sync(lambda: start_broker(port=unused_port()))
    broker.kill()
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, lambda: broker.start())
            async with connect(broker.url, connect_timeout=60.0) as client:
                await client.declare_queue(queue)


# --- giving back ----------------------------------------------------------------------------------------------------


async def test_drain_gives_back_what_nobody_has_seen_and_ends_the_loop(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            async with client.producer(queue) as producer:
                await producer.send_many(numbered(300))
            handled = []
            async with client.consumer(queue, credit=200) as consumer:
                async for message in consumer:
                    async with message:
                        handled.append(message.body)
                        if len(handled) == 20:
                            await consumer.drain()
            assert handled == numbered(20), "the loop ends behind the message during which it was drained"
            await wait_counts(client, queue, (280, 0, 0))
            # They are at their former places, and nobody has tried them yet.
            async with client.consumer(queue) as consumer:
                batch = await consumer.receive(max_messages=280, max_wait=10.0)
                assert batch.bodies == numbered(280, 20)[: len(batch)]
                assert {message.attempt for message in batch} == {1}


async def test_leaving_a_consumer_gives_back_at_once(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            async with client.producer(queue) as producer:
                await producer.send_many(numbered(100))
            async with client.consumer(queue, lease=3600.0) as consumer:
                message = await anext(consumer)
            await wait_counts(client, queue, (99, 1, 0))
            await message.ack(confirm=True)
            assert await counts(client, queue) == (99, 0, 0)


async def test_a_nack_with_delay_brings_the_message_back_then_and_not_before(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            await client.send(queue, b"later")
            async with client.consumer(queue) as consumer:
                message = await anext(consumer)
                assert message.attempt == 1
                began = time.monotonic()
                await message.nack(delay=1.5)
                await consumer.flush()
                seen = await counts(client, queue)
                assert seen == (0, 0, 1) or time.monotonic() - began > 1.45, "it is delayed until it is due"
                again = await anext(consumer)
                waited = time.monotonic() - began
                assert (again.body, again.attempt, again.position) == (b"later", 2, message.position)
                assert 1.45 < waited < 30, waited
                await again.ack()


async def test_a_failing_handler_is_tried_again_after_the_queues_retry_delay(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, retry_delay=0.3)
            await client.send(queue, b"hard")
            attempts: list[float] = []
            async with client.consumer(queue) as consumer:
                async for message in consumer:
                    try:
                        async with message:
                            attempts.append(time.monotonic())
                            assert message.attempt == len(attempts)
                            if len(attempts) < 3:
                                raise ValueError("not yet")
                    except ValueError:
                        continue
                    break
            assert min(attempts[1] - attempts[0], attempts[2] - attempts[1]) > 0.28
            await wait_counts(client, queue, (0, 0, 0))


async def test_a_cancelled_handler_gives_its_message_back_without_an_attempt(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            await client.send(queue, b"interrupted")
            async with client.consumer(queue) as consumer:
                with anyio.CancelScope() as scope:
                    async with await anext(consumer):
                        scope.cancel()
                        await anyio.sleep_forever()
                message = await anext(consumer)
                assert message.attempt == 1
                await message.ack()


async def test_an_error_of_the_body_leaves_connect_as_it_is(broker: BrokerProcess, queue: str) -> None:
    mistake = KeyError("mine")

    async def work() -> None:
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            async with client.consumer(queue), client.producer(queue):
                raise mistake

    with pytest.raises(KeyError) as raised:
        await work()
    assert raised.value is mistake


# --- leases ---------------------------------------------------------------------------------------------------------


async def test_a_message_whose_lease_ran_out_goes_to_somebody_else(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as sleepy, connect(broker.url) as other:
            await sleepy.declare_queue(queue)
            # The client says that user code has it when a fifth of the lease is left: that must be more than a stall.
            async with sleepy.consumer(queue, lease=2.5, auto_renew=False) as holding:
                await sleepy.send(queue, b"held too long")
                message = await anext(holding)
                await holding.drain()
                async with other.consumer(queue, lease=1.0, auto_renew=False) as waiting:
                    again = await anext(waiting)
                    assert again.body == b"held too long"
                    assert again.attempt == 2, "user code had it, and the client said so before the lease ended"
                    with pytest.raises(LeaseLost):
                        await message.ack(confirm=True)
                    await waiting.drain()
                async with other.consumer(queue) as patient:
                    last = await anext(patient)
                    assert last.attempt == 3, "and so for the second one"
                    await last.ack(confirm=True)
            assert await counts(other, queue) == (0, 0, 0)


async def test_a_lease_is_renewed_as_long_as_the_handler_runs(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as slow, connect(broker.url) as other:
            await slow.declare_queue(queue)
            await slow.send(queue, b"takes long")
            async with slow.consumer(queue, lease=1.5) as working, other.consumer(queue) as waiting:
                async with await anext(working):
                    assert len(await waiting.receive(max_wait=3.5)) == 0, "more than twice the lease has passed"
                await working.flush()
            assert await counts(slow, queue) == (0, 0, 0)


# --- credit ---------------------------------------------------------------------------------------------------------


async def test_no_more_is_delivered_than_the_credit_allows(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            async with client.producer(queue) as producer:
                await producer.send_many(numbered(100))
            async with client.consumer(queue, credit=7) as consumer:
                held = [await anext(consumer) for _ in range(7)]
                await wait_counts(client, queue, (93, 7, 0))
                with anyio.move_on_after(0.3):
                    await anext(consumer)
                    pytest.fail("an eighth message came")
                await held[0].ack()
                assert (await anext(consumer)).body == b"7"
                await wait_counts(client, queue, (92, 7, 0))


async def test_credit_counts_bytes_too_but_one_message_always_comes(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            async with client.producer(queue) as producer:
                await producer.send_many([b"x" * 10_000] * 20)
                await producer.send(b"y" * 1_000_000)
            async with client.consumer(queue, credit_bytes=35_000) as consumer:
                first = await anext(consumer)
                assert await eventually(lambda: leased_between(client, queue, 3, 4))
                await first.ack()
                for _ in range(19):
                    await (await anext(consumer)).ack()
                large = await anext(consumer)
                assert len(large.body) == 1_000_000
                await large.ack()


async def leased_between(client: Client, queue: str, least: int, most: int) -> bool:
    _ready, leased, _delayed = await counts(client, queue)
    assert leased <= most
    return leased >= least


# --- operators at work while consumers run --------------------------------------------------------------------------


async def test_peek_changes_nothing(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            async with client.producer(queue) as producer:
                receipts = await producer.send_many(numbered(10))
            async with client.consumer(queue, credit=3) as consumer:
                held = [await anext(consumer) for _ in range(3)]
                await wait_counts(client, queue, (7, 3, 0))
                for _ in range(3):
                    seen = await client.peek(queue, 4, skip=1)
                    assert [message.body for message in seen] == [b"4", b"5", b"6", b"7"]
                    assert [message.position for message in seen] == [one.position for one in receipts[4:8]]
                assert await counts(client, queue) == (7, 3, 0)
                for message in held:
                    await message.ack()
                assert (await anext(consumer)).body == b"3"


async def test_purge_drops_what_is_ready_and_leaves_what_somebody_works_on(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            async with client.producer(queue) as producer:
                await producer.send_many(numbered(50))
                async with client.consumer(queue, credit=5) as consumer:
                    held = [await anext(consumer) for _ in range(5)]
                    await wait_counts(client, queue, (45, 5, 0))
                    assert await client.purge_queue(queue) == 45
                    assert await counts(client, queue) == (0, 5, 0)
                    for message in held:
                        await message.ack()
                    await producer.send(b"new")
                    assert (await anext(consumer)).body == b"new"


async def test_deleting_a_queue_ends_its_consumers_and_producers_with_its_name(
    broker: BrokerProcess, queue: str
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, connect(broker.url) as operator:
            await client.declare_queue(queue)
            async with client.producer(queue) as producer:
                await producer.send_many(numbered(10))
                async with client.consumer(queue, credit=2) as consumer:
                    held = [await anext(consumer) for _ in range(2)]
                    assert await operator.delete_queue(queue) == 10
                    with pytest.raises(QueueNotFound) as ended:
                        await anext(consumer)
                    assert ended.value.queue == queue
                    with pytest.raises(LeaseLost):
                        await held[0].ack(confirm=True)
                with pytest.raises(QueueNotFound):
                    await producer.send(b"to nowhere")
                # A queue of the same name is another queue.
                await operator.declare_queue(queue)
                await producer.send(b"to the new one")
            async with client.consumer(queue) as consumer:
                message = await anext(consumer)
                assert message.body == b"to the new one"
                await message.ack()


# --- refusals -------------------------------------------------------------------------------------------------------


async def test_a_newer_producer_of_the_name_fences_the_older_one(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as one, connect(broker.url) as other:
            await one.declare_queue(queue)
            async with one.producer(queue, name=queue) as older:
                await older.send(b"1")
                async with other.producer(queue, name=queue) as newer:
                    await newer.send(b"2")
                    with pytest.raises(ProducerFenced):
                        await older.send(b"3")
                    await newer.send(b"4")
            assert await counts(one, queue) == (3, 0, 0)


async def test_a_batch_that_is_too_large_is_refused_and_the_next_one_is_not(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            async with client.producer(queue) as producer:
                with pytest.raises(BatchTooLarge):
                    await producer.send_many([b"x" * 1_000_000] * 5)
                await producer.send_many([b"x" * 1_000_000] * 4)
            assert await counts(client, queue) == (4, 0, 0)
            await client.delete_queue(queue)


async def test_a_queue_that_does_not_exist_is_named(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            with pytest.raises(QueueNotFound, match="nowhere"):
                await client.send("nowhere", b"x")
            with pytest.raises(QueueNotFound, match="nowhere"):
                async with client.consumer("nowhere"):
                    pytest.fail("entered a consumer of a queue that does not exist")


async def test_a_delayed_message_arrives_at_its_time_and_not_before(broker: BrokerProcess, queue: str) -> None:
    async with connect(broker.url) as client:
        await client.declare_queue(queue)
        async with client.producer(queue) as producer, client.consumer(queue) as consumer:
            began = time.monotonic()
            at = datetime.now(UTC) + timedelta(seconds=0.3)
            # One batch comes at one moment: however late that is, they are due in this order.
            await producer.send_many(
                [
                    NewMessage(b"last", delay=0.6),
                    b"first",
                    NewMessage(b"second", at=at),
                    NewMessage(b"third", delay=0.4),
                ]
            )
            seen = await counts(client, queue)
            assert seen == (0, 1, 3) or time.monotonic() - began > 0.29, "each waits until it is due"
            arrived = []
            with anyio.fail_after(TEST_SECONDS_MAX):
                async for message in consumer:
                    await message.ack()
                    arrived.append((message.body, time.monotonic() - began))
                    if message.body == b"second":
                        assert datetime.now(UTC) >= at
                    if len(arrived) == 4:
                        break
    assert [body for body, _ in arrived] == [b"first", b"second", b"third", b"last"]
    assert [seconds > due for (_, seconds), due in zip(arrived, (0, 0.29, 0.39, 0.59), strict=True)] == [True] * 4
