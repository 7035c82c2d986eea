"""Snapshots on the whole road: when they are taken, what a start makes of them, and what a bad disk does to them."""

from __future__ import annotations

import errno
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.broker.pipeline.keeping.paging import INDEX_MEMORY_BYTES_DEFAULT, Pager
from sluicemq.broker.pipeline.keeping.restart import Restart, apply_records, load_newest, replay
from sluicemq.broker.pipeline.road import LoneRoad
from sluicemq.broker.queues.machine import Machine
from sluicemq.storage.errors import FileWriteFailed, SnapshotContradictsLog, SnapshotMissing
from sluicemq.storage.files import RealDirectory
from sluicemq.storage.log import SegmentLog
from sluicemq.storage.options import LogOptions
from sluicemq.storage.pagefile import PageFile
from sluicemq.storage.snapshot_file import snapshot_zxid
from sluicemq.storage.snapshots import SnapshotStore
from sluicemq.wire.batch import encode_batch
from tests.broker.pipeline.roads import Client, ask, declare, open_producer, publish, running
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sluicemq.storage.files import Directory

OPTIONS = LogOptions(segment_bytes=128 << 10, initial_bytes=128 << 10, spares_max=1)
NEVER = 1 << 40


@asynccontextmanager
async def open_road(
    disk: Directory,
    *,
    every_entries: int = NEVER,
    every_bytes: int = NEVER,
    failures: list[BaseException] | None = None,
    in_order: bool = True,
    index_memory_bytes_max: int = INDEX_MEMORY_BYTES_DEFAULT,
    scrub_bytes_per_second: int = 0,
) -> AsyncIterator[LoneRoad]:
    """Run a road with snapshots; it ends in order, with a last one, or as a process that is killed."""
    log = SegmentLog.open(disk, options=OPTIONS)
    unexpected: list[BaseException] = []
    pages = PageFile.open(disk, cluster_id=log.cluster_id)
    try:
        road = LoneRoad(
            log,
            node_id=1,
            cache_bytes_max=1 << 20,
            on_failure=(unexpected if failures is None else failures).append,
            pages=pages,
            snapshots=SnapshotStore(disk, log.cluster_id),
            snapshot_every_bytes=every_bytes,
            snapshot_every_entries=every_entries,
            index_memory_bytes_max=index_memory_bytes_max,
            scrub_bytes_per_second=scrub_bytes_per_second,
        )
        async with running(road):
            yield road
            if not road.failed:
                with trio.fail_after(WAIT_SECONDS):
                    await road.wait_idle()
                    if in_order:
                        await road.write_down()
        if unexpected:
            raise unexpected[0]
    finally:
        log.close()
        pages.close()


async def publish_singly(road: LoneRoad, count: int) -> None:
    """Publish *count* batches of one message to the queue `orders`."""
    producer = await open_producer(road)
    left = count
    done = trio.Event()

    def published(_outcome) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    for sequence in range(1, count + 1):
        payload = memoryview(encode_batch([b"%d" % sequence]))
        road.produce.publish("/", "anonymous", "orders", producer, sequence, payload, published)
        if sequence % 500 == 0:
            await road.wait_idle()
    with trio.fail_after(WAIT_SECONDS):
        await done.wait()


async def consume_some(road: LoneRoad, count: int) -> None:
    """Take *count* messages in order, acknowledge every second one, and leave."""
    client = await Client(road).open()
    consumer = client.consume(road.produce.find_queue("/", "orders"), credit=count)
    await client.take(count)
    for tag in range(1, count, 2):
        await client.settle(consumer, [tag, tag])
    client.leave()


def names_of(disk: Directory) -> list[str]:
    """Return the names of all snapshots, oldest first."""
    return sorted(name for name in disk.names() if snapshot_zxid(name) is not None)


def state_of(disk: Directory, *, whole: bool = False) -> bytes:
    """Return the digest of the machine that a start would make; with *whole* of every entry since the first."""
    log = SegmentLog.open(disk, options=OPTIONS)
    pages = PageFile.open(disk, cluster_id=log.cluster_id)
    try:
        restart = Restart()
        if whole:
            machine, pager = Machine(), None
            for file in log.live_files():
                apply_records(machine, None, list(log.walk_live(file)))
        else:
            machine = load_newest(log, SnapshotStore(disk, log.cluster_id), pages, restart)
            assert machine.pool is not None
            pager = Pager(pages, machine.pool, bytes_max=1 << 30, on_failure=lambda error: None)
        replay(log, machine, pager, restart)
        machine.check()
        return machine.state_hash()
    finally:
        pages.close()
        log.close()


@pytest.fixture(params=["simulated", "real"])
def disk(request, tmp_path) -> Directory:
    """A simulated disk, and a directory of this machine."""
    return SimulatedDisk(1) if request.param == "simulated" else RealDirectory(tmp_path)


# --- when ----------------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_snapshots_come_with_the_entries_while_messages_are_published_and_consumed(disk):
    async with open_road(disk, every_entries=500, in_order=False) as road:
        await declare(road)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_singly, road, 4000)
            nursery.start_soon(consume_some, road, 300)
        with trio.fail_after(WAIT_SECONDS):
            while road.snapshots.figures.taken < 2:  # a slow disk takes its time
                await publish_singly(road, 500)
        await road.wait_idle()
        state = road.machine.state_hash()

    assert len(names_of(disk)) == 2
    assert state_of(disk) == state == state_of(disk, whole=True)


@pytest.mark.trio
async def test_a_snapshot_waits_until_the_log_has_grown_by_four_times_its_size():
    disk = SimulatedDisk(1)
    async with open_road(disk, every_entries=1, in_order=False) as road:
        await declare(road)
        with trio.fail_after(WAIT_SECONDS):
            while road.snapshots.figures.taken < 3:
                await publish_singly(road, 200)
        await road.wait_idle()
        figures, log_bytes = road.snapshots.figures, road.entry_bytes_total

    assert 3 <= figures.taken <= 1 + log_bytes / (4 * 4096)  # a snapshot is never smaller than its first page


@pytest.mark.trio
async def test_a_start_after_an_orderly_end_replays_nothing(disk):
    async with open_road(disk) as road:
        await declare(road)
        await publish_singly(road, 3000)
        await consume_some(road, 100)
        await road.wait_idle()
        state = road.machine.state_hash()
    assert state_of(disk) == state

    async with open_road(disk) as road:
        restart = road.restart

    assert restart.replayed_entries == 0
    assert restart.snapshot is not None


@pytest.mark.trio
async def test_the_log_proper_begins_at_the_older_of_two_snapshots_and_the_start_reads_no_more():
    disk = SimulatedDisk(1)
    async with open_road(disk, in_order=False) as road:
        await declare(road)
        for _ in range(3):
            await publish_singly(road, 1500)
            await road.snapshots.take()
        kept = [zxid for name in names_of(disk) if (zxid := snapshot_zxid(name)) is not None]
        start = road.log.start_zxid

    assert 0 < start <= kept[0] < kept[1]
    async with open_road(disk, in_order=False) as road:
        assert road.log.start_zxid == start
        assert road.restart.replayed_entries == road.log.recovery.entries - (kept[1] - start)


# --- what a bad disk does ------------------------------------------------------------------------------------------


async def two_snapshots(disk: SimulatedDisk) -> bytes:
    """Leave two snapshots and a log that no longer begins at its first entry; return the machine's digest."""
    async with open_road(disk, in_order=False) as road:
        await declare(road)
        for _ in range(3):
            await publish_singly(road, 1500)
            await road.snapshots.take()
        assert road.log.start_zxid
        await consume_some(road, 50)
        await road.wait_idle()
        return road.machine.state_hash()


@pytest.mark.trio
async def test_a_damaged_newest_snapshot_falls_back_to_the_older_and_says_what_was_wrong(caplog):
    disk = SimulatedDisk(1)
    state = await two_snapshots(disk)
    newest = names_of(disk)[-1]
    disk.flip_bit(newest, 5000)

    with caplog.at_level(logging.WARNING):
        assert state_of(disk) == state

    warning = next(record.getMessage() for record in caplog.records)
    assert newest in warning
    assert "damaged at offset" in warning
    assert newest not in disk.names()


@pytest.mark.trio
async def test_no_good_snapshot_where_the_log_has_lost_its_beginning_is_refused_with_every_reason():
    disk = SimulatedDisk(1)
    await two_snapshots(disk)
    before = {name: disk.open(name).size() for name in disk.names()}
    for name in names_of(disk):
        disk.flip_bit(name, 5000)

    with pytest.raises(SnapshotMissing) as refused:
        state_of(disk)

    assert all(name in str(refused.value) for name in names_of(disk))
    assert "backup" in str(refused.value)
    assert {name: disk.open(name).size() for name in disk.names()} == before


@pytest.mark.trio
async def test_no_good_snapshot_where_the_log_is_whole_replays_it():
    disk = SimulatedDisk(1)
    async with open_road(disk) as road:
        await declare(road)
        await publish_singly(road, 50)
        await road.wait_idle()
        state = road.machine.state_hash()
    disk.flip_bit(names_of(disk)[-1], 5000)

    assert state_of(disk) == state


@pytest.mark.trio
async def test_a_snapshot_of_another_log_is_refused():
    disk = SimulatedDisk(1)
    await two_snapshots(disk)
    log = SegmentLog.open(disk, options=OPTIONS)
    cluster_id, last_zxid = log.cluster_id, log.last_zxid
    log.close()
    store = SnapshotStore(disk, cluster_id)
    writer = store.begin(last_zxid, b"8 others", 9)
    writer.add(1, b"whatever")
    writer.finish()

    with pytest.raises(SnapshotContradictsLog, match="another log"):
        state_of(disk)


@pytest.mark.trio
async def test_a_full_disk_costs_the_snapshot_and_nothing_else(caplog):
    disk = SimulatedDisk(1)
    async with open_road(disk) as road:
        await declare(road)
        await publish_singly(road, 100)
        assert await road.snapshots.take() is not None
        await publish_singly(road, 100)
        disk.fail_after(1, errno.ENOSPC, "create", "snapshot.new")

        with caplog.at_level(logging.WARNING):
            assert await road.snapshots.take() is None

        assert road.snapshots.figures.failed == 1
        assert "no space" in caplog.text
        await publish_singly(road, 10)
        assert await road.snapshots.take() is not None
        state = road.machine.state_hash()
    assert state_of(disk) == state


@pytest.mark.trio
async def test_a_failing_disk_under_a_snapshot_ends_the_broker():
    disk = SimulatedDisk(1)
    failures: list[BaseException] = []
    async with open_road(disk, failures=failures) as road:
        await declare(road)
        await publish_singly(road, 100)
        disk.fail_after(1, errno.EIO, "sync", "snapshot.new")

        await road.write_down()

    assert isinstance(failures[0], FileWriteFailed)
    assert "snapshot.new" in str(failures[0])


@pytest.mark.trio
async def test_a_snapshot_that_does_not_read_back_does_not_count(caplog):
    disk = SimulatedDisk(1)
    async with open_road(disk) as road:
        await declare(road)
        await publish_singly(road, 100)
        first = await road.snapshots.take()
        await publish_singly(road, 100)
        disk.lose_write_after(1, "snapshot.new")

        with caplog.at_level(logging.WARNING):
            assert await road.snapshots.take() is None

        assert "does not read back" in caplog.text
        assert road.snapshots.figures.zxid == first.zxid
        state = road.machine.state_hash()
    assert state_of(disk) == state


@pytest.mark.trio
async def test_the_very_first_snapshot_may_fail_to_read_back_too(caplog):
    disk = SimulatedDisk(1)
    async with open_road(disk) as road:
        await declare(road)
        await publish_singly(road, 100)
        disk.lose_write_after(1, "snapshot.new")

        with caplog.at_level(logging.WARNING):
            assert await road.snapshots.take() is None

        assert "does not read back" in caplog.text
        await publish_singly(road, 1)
        assert await road.snapshots.take() is not None


# --- sealed chunks -------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_long_queue_is_named_by_its_pages_and_comes_back_from_them(disk):
    async with open_road(disk) as road:
        await declare(road)
        await publish_singly(road, 5000)
        await road.wait_idle()
        chunks = len(road.machine.pool.resident)
        info = await road.snapshots.take()
        state = road.machine.state_hash()

    assert chunks >= 4
    assert info.file_bytes < chunks * 1024 * 64
    async with open_road(disk) as road:
        assert road.machine.pool.absent == chunks
        client = await Client(road).open()
        client.consume(road.produce.find_queue("/", "orders"), credit=5000)
        received = await client.take(5000)
        assert [message.body for message in received] == [b"%d" % number for number in range(1, 5001)]
        client.leave()
    assert state


@pytest.mark.trio
async def test_who_was_told_of_a_snapshot_gets_it_open_with_the_oldest_one_kept():
    disk = SimulatedDisk(1)
    told = []
    async with open_road(disk) as road:
        await declare(road)
        road.snapshots.on_taken = lambda snapshot, through: told.append((snapshot, through))
        first = await road.snapshots.take()
        await ask(road.produce.open_producer, "/", "", "anonymous")
        second = await road.snapshots.take()
        road.snapshots.on_taken = None
        await publish(road, await open_producer(road), 1, [b"more"])

    ((snapshot, through),) = told
    with snapshot:
        assert (snapshot.zxid, through) == (second.zxid, first.zxid)
        assert sum(1 for _ in snapshot.sections()) == second.sections
