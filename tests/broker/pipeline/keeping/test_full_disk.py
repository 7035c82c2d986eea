"""A broker whose disk is full: who is refused, who goes on from the reserve, and how it goes on when there is room."""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline.commit import CommitStage
from sluicemq.broker.pipeline.keeping import disk_space, snapshots
from sluicemq.broker.pipeline.keeping.disk_space import Level
from sluicemq.broker.pipeline.road import LoneRoad
from sluicemq.storage import FileWriteFailed, LogOptions, LogWriteFailed, SegmentLog
from sluicemq.storage.snapshots import SnapshotStore
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import ResourceLow
from tests.broker.pipeline.roads import Client, ask, declare, open_producer, publish, running
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SEGMENT_BYTES = 64 * 1024
OPTIONS = LogOptions(segment_bytes=SEGMENT_BYTES, initial_bytes=8192, spares_max=2)
MARK = 2 * SEGMENT_BYTES
MESSAGES = 3_000
BATCH = memoryview(encode_batch([b"x" * 1000]))


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is looked at all the time, so that no test waits for a second to pass."""
    monkeypatch.setattr(disk_space, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(disk_space, "LOOK_LOW_SECONDS", 0.001)
    monkeypatch.setattr(disk_space, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(snapshots, "HURRY_SECONDS", 0.001)
    monkeypatch.setattr(snapshots, "HURRY_SHARE", 0)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_SECONDS):
        while not condition():
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def road_on(
    disk: SimulatedDisk, failures: list[BaseException] | None = None, **settings: Any
) -> AsyncIterator[LoneRoad]:
    """A road whose prepared segments are ready. Without *failures* none is expected."""
    log = SegmentLog.open(disk, options=OPTIONS)
    told: list[BaseException] = [] if failures is None else failures
    road = LoneRoad(
        log,
        node_id=1,
        cache_bytes_max=1 << 20,
        on_failure=told.append,
        disk_free_bytes_min=MARK,
        snapshots=SnapshotStore(disk, log.cluster_id),
        **settings,
    )
    async with running(road):
        await until(lambda: not log.spares.needed or disk.capacity_bytes is not None)
        yield road
    if failures is None:
        assert told == []
        road.machine.check()
        log.close()


async def filled_by_a_stranger(disk: SimulatedDisk, road: LoneRoad) -> None:
    disk.capacity_bytes = disk.used_bytes()
    await until(lambda: road.space.refusing)


@pytest.mark.trio
async def test_settlements_go_on_through_two_whole_segments_while_publishing_is_refused():
    disk = SimulatedDisk(1)
    async with road_on(disk) as road:
        queue = await declare(road)
        await declare(road, "other")
        producer = await open_producer(road)
        await publish(road, producer, 1, [b"%d" % number for number in range(MESSAGES)])
        client = await Client(road).open()
        consumer = client.consume(queue, credit=MESSAGES)
        await client.take(MESSAGES)
        await filled_by_a_stranger(disk, road)
        with pytest.raises(ResourceLow):
            await publish(road, producer, 2, [b"no"])

        rolls, tag = road.log.statistics().rolls, 0
        while road.log.statistics().rolls < rolls + 2:
            tag += 1
            assert await client.settle(consumer, [tag, tag]) == []
        await ask(road.produce.purge_queue, "/", "orders")
        await ask(road.produce.delete_queue, "/", "other", False)
        late = await Client(road).open()
        late.leave()
        assert queue.settled_total >= tag
        with pytest.raises(ResourceLow):
            await publish(road, producer, 2, [b"no"])

        disk.capacity_bytes = None
        await until(lambda: not road.space.refusing)
        assert (await publish(road, producer, 2, [b"yes"])).error is None, "the refused ones burned no number"
        await until(lambda: not road.log.spares.needed)  # the reserve is whole again
        client.leave()


@pytest.mark.trio
async def test_new_queues_and_producers_are_taken_until_the_reserve_is_in_use():
    disk = SimulatedDisk(1)
    async with road_on(disk) as road:
        await declare(road)
        await filled_by_a_stranger(disk, road)
        await declare(road, "second")
        await open_producer(road)
        while road.log.spares.ready:
            await road_rolls(road)
        await until(lambda: road.space.view.level is Level.RESERVE)
        with pytest.raises(ResourceLow, match="making a queue"):
            await declare(road, "third")
        with pytest.raises(ResourceLow, match="opening a producer"):
            await open_producer(road)
        await declare(road)  # who only says what is there already is not refused
        assert (await Client(road).open()).session


async def road_rolls(road: LoneRoad) -> None:
    """Let sessions come and go until the log goes on in another segment."""
    rolls = road.log.statistics().rolls
    while road.log.statistics().rolls == rolls:
        client = await Client(road).open()
        client.leave()


@pytest.mark.trio
async def test_settled_history_makes_room_before_anybody_is_slowed_or_refused():
    disk = SimulatedDisk(1)
    everything: dict[str, Any] = {"history_bytes_max": 1 << 30, "snapshot_every_bytes": SEGMENT_BYTES // 2}
    async with road_on(disk, **everything) as road:
        queue = await declare(road)
        producer = await open_producer(road)
        client = await Client(road).open()
        consumer = client.consume(queue, credit=MESSAGES)
        for sequence in range(1, 21):
            await publish(road, producer, sequence, [b"x" * 1000] * 30)
            await client.take(30 * sequence)
            await client.settle(consumer, [30 * sequence - 29, 30 * sequence])
        for name in ("first", "second"):  # the log proper begins at the older of two
            await declare(road, name)
            await road.write_down()
        await until(lambda: road.reclaimer.is_idle and road.reclaimer.figures().history_bytes > 4 * SEGMENT_BYTES)
        history = road.reclaimer.figures().history_bytes
        disk.capacity_bytes = disk.used_bytes() + 2 * MARK + SEGMENT_BYTES // 2  # a stranger takes the rest
        await until(lambda: road.reclaimer.figures().history_bytes < history and not road.space.is_tight)
        assert road.reclaimer.figures().history_bytes > 0, "no more went than was missing"
        assert road.space.view.level is Level.OK
        assert road.space.low_total == 0
        client.leave()


@pytest.mark.trio
async def test_what_consumers_settle_is_given_back_before_a_snapshot_is_due():
    disk = SimulatedDisk(1)
    async with road_on(disk) as road:
        queue = await declare(road)
        producer = await open_producer(road)
        disk.capacity_bytes = disk.used_bytes() + 12 * SEGMENT_BYTES
        count = 0
        while not road.space.refusing:
            assert (await publish(road, producer, count + 1, [b"x" * 4000])).error is None
            count += 1
        client = await Client(road).open()
        consumer = client.consume(queue, credit=count)
        await client.take(count)
        assert await client.settle(consumer, [1, count]) == []
        await until(lambda: not road.space.refusing)
        assert (await publish(road, producer, count + 1, [b"again"])).error is None
        assert road.snapshots is not None
        assert road.snapshots.figures.taken >= 2
        client.leave()


async def another_look(road: LoneRoad) -> None:
    before = road.space.view
    await until(lambda: road.space.view is not before)


@pytest.mark.trio
async def test_a_disk_that_stays_low_is_not_filled_with_snapshots_of_the_same():
    disk = SimulatedDisk(1)
    async with road_on(disk) as road:
        disk.capacity_bytes = disk.used_bytes() + MARK - 1
        assert road.snapshots is not None
        await until(lambda: road.snapshots is not None and road.snapshots.figures.taken >= 2)
        taken = 0
        with trio.fail_after(WAIT_SECONDS):
            while taken < road.snapshots.figures.taken:  # it comes to an end
                taken = road.snapshots.figures.taken
                for _ in range(20):
                    await another_look(road)
        assert road.space.low_total == 1


@pytest.mark.trio
async def test_a_broker_that_starts_on_a_full_disk_refuses_from_the_first_publish_on():
    disk = SimulatedDisk(1)
    async with road_on(disk) as road:
        queue = await declare(road)
        producer = await open_producer(road)
        await publish(road, producer, 1, [b"before"])
    disk = disk.restart()
    disk.capacity_bytes = disk.used_bytes()
    async with road_on(disk) as road:
        with pytest.raises(ResourceLow):
            await publish(road, producer, 2, [b"no"])
        client = await Client(road).open()
        queue = road.produce.find_queue("/", "orders")
        consumer = client.consume(queue)
        (message,) = await client.take(1)
        assert message.body == b"before"
        assert await client.settle(consumer, [message.tag, message.tag]) == []
        client.leave()


@pytest.mark.trio
async def test_an_append_that_finds_no_space_all_the_same_ends_the_broker_and_confirms_nothing():
    disk = SimulatedDisk(1)
    failures: list[BaseException] = []
    async with road_on(disk, failures) as road:
        await declare(road)
        producer = await open_producer(road)
        confirmed: list[int] = []
        disk.fail_after(1, errno.ENOSPC, "write", "segment-")
        road.produce.publish("/", "anonymous", "orders", producer, 1, BATCH, lambda _outcome: confirmed.append(1))
        await until(lambda: bool(failures))
        assert confirmed == []

    (failure,) = failures
    assert isinstance(failure, LogWriteFailed)
    assert "segment-" in str(failure)
    assert "ENOSPC, errno 28" in str(failure)
    road.ground.commit = CommitStage()  # nothing of it is waited for


@pytest.mark.trio
@pytest.mark.parametrize("kind", ["write", "sync"])
async def test_a_segment_that_cannot_be_prepared_for_want_of_a_sound_disk_ends_the_broker(kind):
    disk = SimulatedDisk(1)
    failures: list[BaseException] = []
    async with road_on(disk, failures) as road:
        disk.fail_after(1, errno.EIO, kind, "zeroing-")
        await declare(road)
        producer = await open_producer(road)
        for sequence in range(1, 101):
            # Nobody waits: a broker that fails answers no more.
            road.produce.publish("/", "anonymous", "orders", producer, sequence, BATCH, lambda _outcome: None)
        await until(lambda: bool(failures))
        road.ground.commit = CommitStage()

    (failure,) = failures
    assert isinstance(failure, FileWriteFailed)
    assert "zeroing-" in str(failure)
    assert "EIO, errno 5" in str(failure)


@pytest.mark.trio
async def test_a_broker_that_stops_does_not_wait_for_a_segment_to_be_prepared():
    disk = SimulatedDisk(1)
    options = LogOptions(segment_bytes=1 << 20, initial_bytes=8192, spares_max=2, zero_piece_bytes=8192)
    log = SegmentLog.open(disk, options=options)
    failures: list[BaseException] = []
    road = LoneRoad(log, node_id=1, cache_bytes_max=1 << 20, on_failure=failures.append)
    held = disk.hold_syncs("zeroing-")
    await road.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(road.stop)
        await trio.testing.wait_all_tasks_blocked()
        held.let_go()
    assert failures == []
    assert log.spares.ready == 0
    log.close()
    assert not [name for name in disk.names() if name.startswith(("zeroing-", "spare-"))]
