"""Dispatch as stories: messages from memory and from disk, and consumers that leave, fill up or lose their queue."""

from __future__ import annotations

import threading

import pytest
import trio

from sluicemq.broker.pipeline import dispatch as dispatch_module
from sluicemq.broker.pipeline.commit import CommitStage
from sluicemq.wire import messages as m
from sluicemq.wire.errors import QueueNotFound
from tests.broker.pipeline.roads import Client, ask, declare, open_producer, open_road, publish
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

COLD = 1
"""A cache that keeps nothing but what came last: everything else is read from disk."""


class HeldReads:
    """Cold reads that wait until the test lets them go on."""

    def __init__(self, road, monkeypatch) -> None:
        self.begun = trio.Event()
        self.let_go = trio.Event()
        load = road.bodies.load

        async def held(zxids):
            self.begun.set()
            await self.let_go.wait()
            return await load(zxids)

        monkeypatch.setattr(road.bodies, "load", held)


async def fill(road, batches: int, messages: int = 1, queue: str = "orders", producer: int | None = None) -> None:
    producer = producer or await open_producer(road)
    for number in range(1, batches + 1):
        bodies = [b"%s %d.%d" % (queue.encode(), number, place) for place in range(messages)]
        assert (await publish(road, producer, number, bodies, queue)).error is None


@pytest.mark.trio
@pytest.mark.parametrize("cache_bytes_max", [COLD, 1 << 26])
async def test_messages_come_in_order_whether_from_memory_or_from_disk(cache_bytes_max):
    async with open_road(cache_bytes_max=cache_bytes_max) as road:
        queue = await declare(road)
        await fill(road, 50, messages=3)
        client = await Client(road).open()
        client.consume(queue, credit=7)
        client.on_deliver = lambda fresh: road.settle.settle(
            client.session, 1, m.VERDICT_ACK, [fresh[0].tag, fresh[-1].tag], None, "", lambda _outcome: None
        )
        received = await client.take(150)

        assert [message.body for message in received] == [
            b"orders %d.%d" % (batch, place) for batch in range(1, 51) for place in range(3)
        ]
        assert [message.tag for message in received] == list(range(1, 151))
        await road.wait_idle()
        assert queue.messages == 0


@pytest.mark.trio
async def test_a_queue_whose_bodies_are_being_read_keeps_its_order_and_holds_up_no_other(monkeypatch):
    async with open_road(cache_bytes_max=COLD) as road:
        cold, warm = await declare(road, "cold"), await declare(road, "warm")
        await fill(road, 10, queue="cold")
        held = HeldReads(road, monkeypatch)
        client = await Client(road).open()
        client.consume(cold, credit=3)
        client.consume(cold, credit=3)
        await held.begun.wait()
        client.consume(warm)
        await fill(road, 1, queue="warm")
        await client.take(1)

        assert client.received[0].body == b"warm 1.0"
        held.let_go.set()
        await client.take(7)
        assert [message.body for message in client.received[1:]] == [b"cold %d.0" % number for number in range(1, 7)]


@pytest.mark.trio
async def test_what_was_picked_for_a_consumer_that_is_cancelled_meanwhile_goes_to_another(monkeypatch):
    async with open_road(cache_bytes_max=COLD) as road:
        queue = await declare(road)
        await fill(road, 5)
        held = HeldReads(road, monkeypatch)
        client = await Client(road).open()
        leaver = client.consume(queue)
        await held.begun.wait()
        client.cancel(leaver)
        stayer = client.consume(queue)
        held.let_go.set()
        await client.take(5)

        assert {message.consumer for message in client.received} == {stayer}
        assert [message.body for message in client.received] == [b"orders %d.0" % number for number in range(1, 6)]
        await road.wait_idle()
        assert queue.leased == 5


@pytest.mark.trio
async def test_what_was_picked_for_a_session_that_ends_meanwhile_goes_to_another(monkeypatch):
    async with open_road(cache_bytes_max=COLD) as road:
        queue = await declare(road)
        await fill(road, 5)
        held = HeldReads(road, monkeypatch)
        leaver, stayer = await Client(road).open(), await Client(road).open()
        leaver.consume(queue)
        await held.begun.wait()
        leaver.leave()
        stayer.consume(queue)
        held.let_go.set()

        assert [message.body for message in await stayer.take(5)] == [b"orders %d.0" % number for number in range(1, 6)]


@pytest.mark.trio
async def test_a_queue_that_is_deleted_while_its_bodies_are_read_sends_nothing(monkeypatch):
    async with open_road(cache_bytes_max=COLD) as road:
        queue = await declare(road)
        await fill(road, 5)
        held = HeldReads(road, monkeypatch)
        client = await Client(road).open()
        consumer = client.consume(queue)
        await held.begun.wait()
        assert (await ask(road.produce.delete_queue, "/", "orders", False)).value.count == 5
        [(ended, error)] = client.ended
        assert (ended, type(error)) == (consumer, QueueNotFound)
        queue = await declare(road)
        client.consume(queue)
        held.let_go.set()
        await fill(road, 1)
        await client.take(1)

        assert [(message.consumer, message.body) for message in client.received] == [(2, b"orders 1.0")]


@pytest.mark.trio
async def test_a_purge_that_overtakes_a_grant_tells_the_consumer_and_gives_its_credit_back(monkeypatch):
    async with open_road(cache_bytes_max=COLD) as road:
        queue = await declare(road)
        await fill(road, 5)
        held = HeldReads(road, monkeypatch)
        client = await Client(road).open()
        client.consume(queue, credit=5)
        await held.begun.wait()
        # The purge is in the log before the grant of what was picked already.
        assert (await ask(road.produce.purge_queue, "/", "orders")).value.count == 5
        held.let_go.set()
        await client.until(lambda: bool(client.lost))
        assert client.lost == [(1, [1, 5], "purged")]
        await fill(road, 5)
        await client.take(10)

        assert [message.deliveries for message in client.received[5:]] == [1] * 5
        assert await client.settle(1, [1, 10]) == [1, 5]


@pytest.mark.trio
async def test_a_session_whose_buffer_is_full_gets_one_pick_however_many_consumers_it_has():
    async with open_road() as road:
        queues = [await declare(road, f"queue {number}") for number in range(20)]
        producer = await open_producer(road)
        for number, queue in enumerate(queues, 1):
            await publish(road, producer, number, [b"x"], queue.name)
        slow, other = await Client(road).open(), await Client(road).open()
        slow.room = False
        for queue in queues:
            slow.consume(queue)
        await slow.take(1)
        other.consume(queues[-1])
        await other.take(1)

        assert len(slow.received) == 1
        slow.room = True
        road.dispatch.session_has_room(slow.session)
        await slow.take(19)


@pytest.mark.trio
async def test_credit_that_changes_while_the_buffer_is_full_holds_once_there_is_room():
    async with open_road() as road:
        queue = await declare(road)
        await fill(road, 10)
        client = await Client(road).open()
        client.room = False
        consumer = client.consume(queue, credit=1)
        await client.take(1)
        road.dispatch.set_credit(client.session, consumer, 4, 1 << 30)
        late = client.consume(queue, credit=2)
        await road.wait_idle()
        await trio.testing.wait_all_tasks_blocked()
        assert len(client.received) == 1
        client.room = True
        road.dispatch.session_has_room(client.session)
        await client.take(6)

        assert sorted(message.consumer for message in client.received) == [consumer] * 4 + [late] * 2


@pytest.mark.trio
async def test_room_for_a_session_that_was_never_full_or_has_ended_is_no_news():
    async with open_road() as road:
        queue = await declare(road)
        client = await Client(road).open()
        client.consume(queue)
        road.dispatch.session_has_room(client.session)
        road.dispatch.session_has_room(0)
        client.leave()
        road.dispatch.session_has_room(client.session)
        await fill(road, 1)
        await road.wait_idle()

        assert client.received == []
        assert queue.ready == 1


@pytest.mark.trio
async def test_a_consumer_that_comes_and_goes_leaves_nothing_behind():
    async with open_road() as road:
        queue = await declare(road, retry_delay=0.0)
        client = await Client(road).open()
        for _ in range(1000):
            client.cancel(client.consume(queue))

        assert road.dispatch._queues_of_session == {}
        assert road.dispatch.consumer_count(queue.id) == 0


@pytest.mark.trio
async def test_a_cancelled_consumer_still_knows_its_queues_retry_delay_until_its_last_lease_is_over():
    async with open_road() as road:
        queue = await declare(road, retry_delay=3600.0)
        await fill(road, 2)
        client = await Client(road).open()
        consumer = client.consume(queue)
        await client.take(2)
        client.cancel(consumer)
        await client.settle(consumer, [1, 1], m.VERDICT_NACK)
        assert road.dispatch.queue_of(client.session, consumer) == queue.id
        await client.settle(consumer, [2, 2], m.VERDICT_NACK)

        assert queue.delayed.messages == 2
        assert road.dispatch.queue_of(client.session, consumer) is None


@pytest.mark.trio
async def test_one_message_of_each_of_many_large_batches_is_loaded_a_few_batches_at_a_time(monkeypatch):
    monkeypatch.setattr(dispatch_module, "LOAD_BYTES_MAX", 300_000)
    async with open_road(cache_bytes_max=COLD) as road:
        queue = await declare(road)
        producer = await open_producer(road)
        for number in range(1, 11):
            await publish(road, producer, number, [b"%d" % number, bytes(100_000)])
        hoarder = await Client(road).open()
        hoarder.consume(queue)
        await hoarder.take(20)
        hoarder.cancel(1)
        for tag in range(1, 20, 2):
            await hoarder.settle(1, [tag, tag], m.VERDICT_RELEASE)
        at_once = []
        load = road.bodies.load

        async def watched(zxids):
            loaded = await load(zxids)
            at_once.append(len(loaded))
            return loaded

        monkeypatch.setattr(road.bodies, "load", watched)
        other = await Client(road).open()
        other.consume(queue)
        await other.take(10)

        assert sorted(int(message.body) for message in other.received) == list(range(1, 11))
        assert max(at_once) <= 2


@pytest.mark.trio
async def test_a_log_that_cannot_be_read_ends_the_road():
    disk = SimulatedDisk(1)
    failed = threading.Event()
    async with open_road(disk, cache_bytes_max=COLD, expect_failure=True) as road:
        queue = await declare(road)
        await fill(road, 3, messages=2)
        name = next(name for name in disk.names() if "orders 2.1" in str(disk.content_of(name)))
        disk.flip_bit(name, disk.content_of(name).index(b"orders 2.1"))
        tell = road.ground.on_failure
        stopped = trio.Event()

        def hear(error: BaseException) -> None:
            tell(error)
            stopped.set()
            failed.set()

        road.ground.on_failure = hear
        client = await Client(road).open()
        client.consume(queue)
        with trio.fail_after(WAIT_SECONDS):
            await stopped.wait()

        assert road.failed
        road.ground.commit = CommitStage()
