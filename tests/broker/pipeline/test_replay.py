"""Reading what a queue retains when it is longer than the memory for it: on the simulated disk, without sockets."""

from __future__ import annotations

import pytest
import trio

from sluicemq.broker.pipeline.keeping import paging
from sluicemq.broker.pipeline.replay import Range
from sluicemq.broker.queues.chunks import RUN_BYTES
from sluicemq.broker.queues.entries import Forget
from sluicemq.broker.queues.history import START, Place
from sluicemq.wire.errors import MessageNotFound, PositionExpired
from sluicemq.wire.positions import format_position
from tests.broker.paged import make_chunks_small
from tests.broker.pipeline.roads import Client, ask, declare, open_producer, open_road, publish
from tests.patience import WAIT_SECONDS

RUNS = 4
CHUNKS_IN_MEMORY = 6
MESSAGES = 200


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """A chunk holds four batches, and only six chunks may stay in memory."""
    make_chunks_small(monkeypatch, RUNS)
    monkeypatch.setattr(paging, "BYTES_MIN", 0)
    monkeypatch.setattr(paging, "SHRINK_CHUNKS", 8)


def long_road():
    return open_road(index_memory_bytes_max=CHUNKS_IN_MEMORY * RUNS * RUN_BYTES)


async def until(condition):
    with trio.fail_after(WAIT_SECONDS):
        while not condition():
            await trio.lowlevel.checkpoint()


async def fill_and_take(road, queue):
    """Publish single messages and acknowledge all of them: only what is retained is left. Returns their batches."""
    producer = await open_producer(road)
    zxids = [(await publish(road, producer, number, [b"x"])).value.zxid for number in range(1, MESSAGES + 1)]
    client = await Client(road).open()
    consumer = client.consume(queue, credit=MESSAGES)
    await client.take(MESSAGES)
    await client.settle(consumer, [1, MESSAGES])
    assert queue.messages == 0
    await until(lambda: len(road.machine.pool.resident) <= CHUNKS_IN_MEMORY)
    return zxids


async def read_all(road, place=START, messages_max=7):
    found = []
    more = True
    while more:
        wanted = Range(place, None, None, None, messages_max, 1 << 20)
        page = (await road.replay.read("/", "orders", wanted)).page
        found += [run.zxid for run in page.runs]
        place, more = page.next, page.more
    return found


@pytest.mark.trio
async def test_what_is_retained_leaves_the_memory_and_is_read_back_page_by_page():
    async with long_road() as road:
        queue = await declare(road, retention={"seconds": 3600})
        zxids = await fill_and_take(road, queue)
        pool = road.machine.pool
        assert pool.absent >= MESSAGES // RUNS - CHUNKS_IN_MEMORY
        assert await read_all(road) == zxids
        assert await read_all(road, Place(zxids[90], 0)) == zxids[90:]
        await until(lambda: len(pool.resident) <= CHUNKS_IN_MEMORY)


@pytest.mark.trio
async def test_many_read_beside_each_other_in_a_memory_too_small_for_them():
    async with long_road() as road:
        queue = await declare(road, retention={"seconds": 3600})
        zxids = await fill_and_take(road, queue)
        read = []

        async def read_from(start):
            read.append(await read_all(road, Place(zxids[start], 0), messages_max=3) == zxids[start:])

        with trio.fail_after(WAIT_SECONDS):
            async with trio.open_nursery() as nursery:
                for start in range(0, 120, 10):
                    nursery.start_soon(read_from, start)
        assert read == [True] * 12


@pytest.mark.trio
async def test_what_has_to_go_goes_from_pages_too_and_gives_them_back():
    async with long_road() as road:
        queue = await declare(road, retention={"seconds": 3600})
        zxids = await fill_and_take(road, queue)
        size = queue.history.bytes // MESSAGES
        await declare(road, retention={"bytes": 50 * size})
        await until(lambda: queue.history.messages == 50)
        assert await read_all(road) == zxids[-50:]
        with pytest.raises(PositionExpired):
            await read_all(road, Place(zxids[-51], 0))

        producer = await open_producer(road)
        for number in range(1, 101):
            await publish(road, producer, number, [b"x"])
        assert queue.history.messages == 50, "each publish finds the chunk in front, or waits for it"
        await declare(road, retention=None)
        await ask(road.produce.purge_queue, "/", "orders")
        await until(lambda: not road.machine.pool.gone)
        assert road.pager._pages.statistics().used == 0


@pytest.mark.trio
async def test_what_a_repair_gave_up_is_told_with_the_position_to_go_on_at():
    async with long_road() as road:
        queue = await declare(road, retention={"seconds": 3600})
        zxids = await fill_and_take(road, queue)
        applied = trio.Event()
        road.propose(
            Forget(road.clock.now_ms(), queue.id, [zxids[50], zxids[59]]), on_applied=lambda _outcome: applied.set()
        )
        with trio.fail_after(WAIT_SECONDS):
            await applied.wait()
        with pytest.raises(MessageNotFound) as told:
            await read_all(road, Place(zxids[40], 0))
        assert told.value.fields["position"] == format_position(0, zxids[50], 0)
        following = told.value.fields["next_position"]
        assert following == format_position(0, zxids[59], 1)
        assert await read_all(road, Place(zxids[59] + 1, 0)) == zxids[60:]


@pytest.mark.trio
async def test_who_waits_is_told_whether_anything_came():
    async with long_road() as road:
        queue = await declare(road, retention={"seconds": 3600})
        found = await road.replay.read("/", "orders", Range(START, None, None, None, 7, 1 << 20))
        assert not await road.replay.wait(found, trio.current_time()), "nothing came"
        producer = await open_producer(road)
        await publish(road, producer, 1, [b"x"])
        assert await road.replay.wait(found, trio.current_time() + 5), "something is there already"
        assert queue.history.messages == 1
