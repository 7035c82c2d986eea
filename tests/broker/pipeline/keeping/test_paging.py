"""A queue longer than the memory for it: what a broker does with pages, on the simulated disk."""

from __future__ import annotations

import errno

import pytest
import trio

from sluicemq.broker.pipeline.keeping import paging
from sluicemq.broker.queues.chunks import RUN_BYTES, Page
from sluicemq.storage.errors import FileReadFailed, FileWriteFailed, PageCorrupt
from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.wire.batch import encode_batch
from tests.broker.paged import make_chunks_small
from tests.broker.pipeline.roads import Client, ask, declare, open_producer, open_road, publish
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

RUNS = 4
CHUNKS_IN_MEMORY = 6
MESSAGES = 200
BODIES = [b"%d" % number for number in range(1, MESSAGES + 1)]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """A chunk holds four messages, and only six chunks may stay in memory."""
    make_chunks_small(monkeypatch, RUNS)
    monkeypatch.setattr(paging, "BYTES_MIN", 0)
    monkeypatch.setattr(paging, "SHRINK_CHUNKS", 8)


def long_road(disk=None, **options):
    return open_road(disk, index_memory_bytes_max=CHUNKS_IN_MEMORY * RUNS * RUN_BYTES, **options)


async def until(condition):
    with trio.fail_after(WAIT_SECONDS):
        while not condition():
            await trio.lowlevel.checkpoint()


async def come_to_rest(road):
    await road.wait_idle()
    await until(lambda: not road.machine.pool.gone)
    await until(lambda: len(road.machine.pool.resident) <= CHUNKS_IN_MEMORY)


async def fill(road, bodies=BODIES):
    producer = await open_producer(road)
    for sequence, body in enumerate(bodies, start=1):
        await publish(road, producer, sequence, [body])
    await come_to_rest(road)


async def drain(road, queue, bodies=BODIES):
    client = await Client(road).open()
    await settle_all(client, client.consume(queue, credit=30), len(bodies))
    assert [message.body for message in client.received] == bodies
    await come_to_rest(road)


def hear_failures(road, failures):
    tell = road.ground.on_failure

    def on_failure(error):
        failures.append(error)
        tell(error)

    road.ground.on_failure = on_failure


def statistics(road):
    return road.pager._pages.statistics()


@pytest.mark.trio
async def test_a_queue_longer_than_its_memory_is_drained_in_order():
    async with long_road() as road:
        queue = await declare(road)
        await fill(road)
        assert road.machine.pool.absent >= MESSAGES // RUNS - CHUNKS_IN_MEMORY
        await drain(road, queue)

        assert queue.messages == 0
        assert road.pager.filled_total >= MESSAGES // RUNS - CHUNKS_IN_MEMORY


@pytest.mark.trio
async def test_each_chunk_is_written_once_however_often_it_comes_and_goes():
    async with long_road() as road:
        queue = await declare(road)
        await fill(road)
        written = statistics(road).writes
        for skip in (150, 0, 100, 150, 0, 100):
            assert len(await road.peek(queue.id, skip, 12)) == 12
            await come_to_rest(road)

        # What had stayed in memory until now may have to make room for what was looked at.
        assert statistics(road).writes <= written + CHUNKS_IN_MEMORY


@pytest.mark.trio
async def test_a_look_far_into_the_queue_reads_only_what_it_shows():
    async with long_road() as road:
        queue = await declare(road)
        await fill(road)
        before = road.pager.filled_total
        runs = await road.peek(queue.id, MESSAGES - 60, 8)

        assert [run.zxid for run in runs] == [run.zxid for run in queue.main.runs()[MESSAGES - 60 : MESSAGES - 52]]
        assert road.pager.filled_total - before <= 3


@pytest.mark.trio
@pytest.mark.parametrize("way", ["purge_queue", "delete_queue"])
async def test_who_empties_a_long_queue_reads_nothing_and_gets_the_file_back(way):
    disk = SimulatedDisk(1)
    async with long_road(disk) as road:
        await declare(road)
        await fill(road)
        reads = statistics(road).reads
        if way == "purge_queue":
            await ask(road.produce.purge_queue, "/", "orders")
        else:
            await ask(road.produce.delete_queue, "/", "orders", False)
        await come_to_rest(road)

        assert statistics(road).reads == reads
        await until(lambda: (statistics(road).used, statistics(road).waiting) == (0, 0))
        assert road.machine.pool.absent == 0


@pytest.mark.trio
async def test_a_restart_keeps_within_the_memory_and_loses_nothing():
    disk = SimulatedDisk(1)
    async with long_road(disk) as road:
        queue = await declare(road)
        await fill(road)
        client = await Client(road).open()
        consumer = client.consume(queue, credit=50)
        await client.take(50)
        await client.settle(consumer, [1, 50])
        await come_to_rest(road)
        state = road.machine.state_hash()
    async with long_road(disk.restart()) as road:
        await come_to_rest(road)
        assert state != road.machine.state_hash(), "sessions ended, and an epoch began"
        queue = road.produce.find_queue("/", "orders")
        await drain(road, queue, BODIES[50:])


@pytest.mark.trio
async def test_an_entry_whose_chunk_left_meanwhile_waits_for_it_and_all_behind_it_wait_too():
    disk = SimulatedDisk(1)
    async with long_road(disk) as road:
        queue = await declare(road)
        await fill(road)
        client = await Client(road).open()
        await road.wait_idle()
        held = disk.hold_syncs("segment")
        client.consume(queue, credit=2 * RUNS)
        await client.take(2 * RUNS)  # messages are sent at once; their grant is applied when it is durable
        assert queue.leased == 0
        pages = road.pager._pages
        for chunk in queue.main.image().chunks[:2]:
            if chunk.page is None:
                slot = pages.allocate()
                chunk.page = Page(slot, pages.write(slot, chunk.data))
            road.machine.pool.drop(chunk)
        filled = road.pager.filled_total
        applied = []
        road.propose(road.settle.clock_entry(), on_applied=lambda _outcome: applied.append(queue.leased))
        held.let_go()
        await road.wait_idle()

        assert applied == [2 * RUNS], "the clock stands behind the grant"
        assert road.pager.filled_total == filled + 2


@pytest.mark.trio
@pytest.mark.parametrize("damage", ["bit", "unreadable"])
async def test_a_page_that_cannot_be_read_back_ends_the_broker_and_is_named(damage):
    disk = SimulatedDisk(1)
    failures: list[BaseException] = []
    async with long_road(disk, expect_failure=True) as road:
        queue = await declare(road)
        await fill(road)
        hear_failures(road, failures)
        for slot in range(statistics(road).slots):
            offset = PAGE_BYTES + slot * statistics(road).slot_bytes
            for name in ("pages", "pages-copy"):
                if damage == "bit":
                    disk.flip_bit(name, offset)
                else:
                    disk.make_unreadable(name, offset, 1)
        client = await Client(road).open()
        client.consume(queue, credit=MESSAGES)
        await until(lambda: failures)

    assert isinstance(failures[0], PageCorrupt if damage == "bit" else FileReadFailed)
    assert f"pages at offset {failures[0].offset}" in str(failures[0])


@pytest.mark.trio
@pytest.mark.parametrize("name", ["pages", "pages-copy"])
async def test_pages_that_rot_in_one_file_cost_nothing_and_are_told(name, caplog):
    disk = SimulatedDisk(1)
    async with long_road(disk) as road:
        queue = await declare(road)
        await fill(road)
        for slot in range(statistics(road).slots):
            disk.flip_bit(name, PAGE_BYTES + slot * statistics(road).slot_bytes)
        await drain(road, queue)

    assert ("was written again from the other file" in caplog.text) == (name == "pages"), "only one is read"


@pytest.mark.trio
async def test_a_whole_file_that_rots_does_not_fill_the_log(monkeypatch, caplog):
    monkeypatch.setattr(paging, "ROT_LINES_MAX", 5)
    disk = SimulatedDisk(1)
    async with long_road(disk) as road:
        queue = await declare(road)
        await fill(road)
        road.pager._pages.sync()
        disk.overwrite("pages", PAGE_BYTES, b"\xff" * statistics(road).file_bytes)
        await drain(road, queue)
        mended = statistics(road).mended

    assert mended >= 20
    assert caplog.text.count("written again from the other file") == 4 + mended // 5
    assert f"that was rotten page {5 * (mended // 5)}; of the next 5 one is told" in caplog.text


@pytest.mark.trio
async def test_a_failing_disk_ends_the_broker():
    disk = SimulatedDisk(1)
    failures: list[BaseException] = []
    async with long_road(disk, expect_failure=True) as road:
        await declare(road)
        hear_failures(road, failures)
        disk.fail_after(1, errno.EIO, "write", "pages")
        producer = await open_producer(road)
        data = memoryview(encode_batch([b"x"]))
        for sequence in range(1, 60):
            # Nobody waits: a broker that fails answers no more.
            road.produce.publish("/", "anonymous", "orders", producer, sequence, data, lambda _outcome: None)
        await until(lambda: failures)

    assert isinstance(failures[0], FileWriteFailed)


@pytest.mark.trio
async def test_without_room_on_the_disk_chunks_stay_in_memory_and_leave_when_there_is_room(caplog):
    disk = SimulatedDisk(1)
    async with long_road(disk) as road:
        queue = await declare(road)
        for number in range(1, 6):
            disk.fail_after(number, errno.ENOSPC, "write", "pages")
        producer = await open_producer(road)
        for sequence, body in enumerate(BODIES, start=1):
            await publish(road, producer, sequence, [body])
        await road.wait_idle()
        assert "stay in memory until there is room" in caplog.text
        assert caplog.text.count("stay in memory") == 1, "it is said once"
        road.pager._retry_at = 0.0
        road.again()
        await drain(road, queue)


@pytest.mark.trio
async def test_many_cold_queues_share_a_memory_that_is_too_small_for_their_fronts():
    names = [f"queue {number}" for number in range(3 * CHUNKS_IN_MEMORY)]
    bodies = BODIES[: 4 * RUNS]
    async with long_road() as road:
        queues = [await declare(road, name) for name in names]
        for name in names:
            producer = await open_producer(road)
            for sequence, body in enumerate(bodies, start=1):
                await publish(road, producer, sequence, [body], name)
        await come_to_rest(road)
        assert road.machine.pool.absent >= 3 * len(names)
        clients = [await Client(road).open() for _ in names]
        consumers = [client.consume(queue, credit=3) for client, queue in zip(clients, queues, strict=True)]
        looks: list[int] = []
        async with trio.open_nursery() as nursery:
            for client, consumer, queue in zip(clients, consumers, queues, strict=True):
                nursery.start_soon(settle_all, client, consumer, len(bodies))
                nursery.start_soon(look, road, queue, looks)

        for client in clients:
            assert [message.body for message in client.received] == bodies
        assert len(looks) == len(names)


async def settle_all(client, consumer, messages):
    settled = 0
    while settled < messages:
        last = (await client.take(settled + 1))[-1].tag
        await client.settle(consumer, [settled + 1, last])
        settled = last


async def look(road, queue, looks):
    looks.append(len(await road.peek(queue.id, 0, 2 * RUNS)))
