"""More delayed messages than there is memory for: what a broker does with pages, on the simulated disk."""

from __future__ import annotations

import random

import pytest
import trio

from sluicemq.broker.pipeline.keeping import paging
from sluicemq.broker.queues.chunks import RUN_BYTES
from sluicemq.broker.queues.delayed_check import check_delayed
from sluicemq.broker.queues.entries import Clock
from sluicemq.wire import messages as m
from tests.broker.paged import make_chunks_small
from tests.broker.pipeline.roads import Client, ask, declare, open_producer, open_road, publish
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

RUNS = 4
CHUNKS_IN_MEMORY = 6
MESSAGES = 120
FIRST_DELAY = 3_600.0
STEP_SECONDS = 10.0
LATER_MS = 100_000_000
ITEMS_MAX = 2_000


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """A chunk holds four messages, and only six chunks may stay in memory."""
    make_chunks_small(monkeypatch, RUNS)
    monkeypatch.setattr(paging, "BYTES_MIN", 0)
    monkeypatch.setattr(paging, "TRIP_CHUNKS", 2)
    monkeypatch.setattr(paging, "SHRINK_CHUNKS", 8)


def small_road(disk=None):
    return open_road(disk, index_memory_bytes_max=CHUNKS_IN_MEMORY * RUNS * RUN_BYTES)


async def come_to_rest(road):
    await road.wait_idle()
    pool = road.machine.pool
    with trio.fail_after(WAIT_SECONDS):
        while pool.gone or len(pool.resident) > CHUNKS_IN_MEMORY:
            await trio.lowlevel.checkpoint()


async def delay(road, queue, delays):
    """Publish a message for each delay, named by its place in due order, and give each back alone."""
    producer = await open_producer(road)
    client = await Client(road).open()
    consumer = client.consume(queue, credit=len(delays))
    for sequence, steps in enumerate(delays, start=1):
        await publish(road, producer, sequence, [b"%d" % steps], queue.name)
        message = (await client.take(sequence))[-1]
        lost = await client.settle(
            consumer, [message.tag, message.tag], m.VERDICT_NACK, FIRST_DELAY + STEP_SECONDS * steps
        )
        assert not lost
    client.leave()
    await come_to_rest(road)


async def time_has_come(road, items_max=ITEMS_MAX):
    """One CLOCK at a time when all of them are due."""

    def propose(on_outcome):
        road.propose(Clock(road.clock.now_ms() + LATER_MS, items_max), on_applied=on_outcome)

    return (await ask(propose)).value.messages


async def consume(road, queue, count):
    client = await Client(road).open()
    consumer = client.consume(queue, credit=count)
    received = list(await client.take(count))
    assert not await client.settle(consumer, [1, received[-1].tag])
    return [int(message.body) for message in received]


@pytest.mark.trio
@pytest.mark.parametrize("order", ["one delay", "any order"])
async def test_more_delays_than_memory_come_in_order(order):
    places = list(range(MESSAGES))
    if order == "any order":
        random.Random(3).shuffle(places)
    async with small_road() as road:
        queue = await declare(road)
        await delay(road, queue, places)
        check_delayed(queue.delayed)
        assert queue.delayed.messages == MESSAGES
        assert road.machine.pool.absent >= MESSAGES // RUNS - CHUNKS_IN_MEMORY
        if order == "one delay":
            assert road.pager.filled_total == 0, "what goes behind all others needs nothing"

        moved = 0
        while moved < MESSAGES:
            taken = await time_has_come(road, 13)
            assert taken == min(13, MESSAGES - moved)
            moved += taken
        assert await consume(road, queue, MESSAGES) == list(range(MESSAGES))
        await come_to_rest(road)
        assert road.pager._pages.statistics().used == 0, "nothing is kept for messages that are gone"


@pytest.mark.trio
async def test_a_clock_that_needs_more_than_the_memory_holds_gets_it_all():
    async with small_road() as road:
        queues = [await declare(road, f"queue-{number}") for number in range(8)]
        for queue in queues:
            await delay(road, queue, list(range(3 * RUNS)))
        assert len(road.machine.prefetch(Clock(road.clock.now_ms() + LATER_MS, ITEMS_MAX))) > 2 * CHUNKS_IN_MEMORY
        assert await time_has_come(road) == 8 * 3 * RUNS
        for queue in queues:
            assert await consume(road, queue, 3 * RUNS) == list(range(3 * RUNS))
        await come_to_rest(road)


@pytest.mark.trio
async def test_a_restart_replays_delays_that_do_not_fit_into_memory():
    places = list(range(MESSAGES))
    random.Random(4).shuffle(places)
    disk = SimulatedDisk(1)
    async with small_road(disk) as road:
        await delay(road, await declare(road), places)
        await declare(road, "short")
        before = road.machine.find_queue("/", "orders").delayed.packed()
    async with small_road(disk) as road:
        queue = road.machine.find_queue("/", "orders")
        assert queue.delayed.packed() == before
        await come_to_rest(road)
        assert await time_has_come(road) == MESSAGES
        assert await consume(road, queue, MESSAGES) == list(range(MESSAGES))


@pytest.mark.trio
async def test_a_purge_releases_the_pages_of_delayed_messages_unread():
    async with small_road() as road:
        queue = await declare(road)
        await delay(road, queue, list(range(MESSAGES)))
        before = road.pager._pages.statistics().reads
        assert (await ask(road.produce.purge_queue, "/", "orders")).value.count == MESSAGES
        await come_to_rest(road)
        assert road.pager._pages.statistics().reads == before
        assert road.machine.pool.absent == 0
        assert road.machine.next_due_ms() is None


@pytest.mark.trio
async def test_rows_beside_their_chunks_count_as_memory(monkeypatch):
    monkeypatch.setattr("sluicemq.broker.queues.delayed.buffer_rows_max", lambda _base: 3)
    async with small_road() as road:
        queue = await declare(road)
        steps = list(range(MESSAGES))
        random.Random(3).shuffle(steps)
        await delay(road, queue, steps)
        pool = road.machine.pool
        await road.wait_idle()
        beside = pool.buffered_bytes // (RUNS * RUN_BYTES)
        assert beside >= 2
        allowed = max(CHUNKS_IN_MEMORY - beside, 4)
        with trio.fail_after(WAIT_SECONDS):
            while pool.gone or len(pool.resident) > allowed:
                await trio.lowlevel.checkpoint()
        assert queue.delayed.messages == MESSAGES
