"""A road ends, well or badly; the log it leaves must open again. And a full disk is a reason to refuse, not to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline.keeping import disk_space
from sluicemq.broker.pipeline.road import COUNTER_MAX, LoneRoad
from sluicemq.storage import LogOptions, SegmentLog
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import ProducerNotFound, ResourceLow
from tests.broker.pipeline.roads import Client, ask, declare, open_producer, open_road, publish
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable

SMALL = LogOptions(segment_bytes=64 * 1024, initial_bytes=8192, spares_max=1)


@pytest.mark.trio
async def test_a_road_that_fails_under_load_leaves_a_log_that_opens() -> None:
    disk = SimulatedDisk(7)
    async with open_road(disk, options=SMALL, expect_failure=True) as road:
        await declare(road)
        producer = await open_producer(road)
        batch = memoryview(encode_batch([b"x" * 500] * 20))
        for sequence in range(1, 200):
            road.produce.publish("/", "anonymous", "orders", producer, sequence, batch, lambda _outcome: None)
        road.fail(RuntimeError("a bug of ours"))
        road.ground.commit = type(road.commit)()  # nothing more is applied, so nothing is waited for
    SegmentLog.open(disk.restart(), options=SMALL).close()


@pytest.mark.trio
async def test_a_full_disk_refuses_publishing_and_takes_it_again_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disk_space, "LOOK_LOW_SECONDS", 0.001)
    disk = SimulatedDisk(7)
    async with open_road(disk, options=SMALL) as road:
        await declare(road)
        producer = await open_producer(road)
        with trio.fail_after(WAIT_SECONDS):
            while road.log.needs_spare:
                await trio.lowlevel.checkpoint()
        disk.capacity_bytes = disk.used_bytes() + 48 * 1024
        sequence = 0
        refused = None
        while refused is None:
            assert sequence < 1000, "the disk never filled"
            try:
                assert (await publish(road, producer, sequence + 1, [b"x" * 2000])).error is None
                sequence += 1
            except ResourceLow as error:
                refused = error
        assert refused.retryable
        assert refused.retry_after is not None
        assert not road.failed
        disk.capacity_bytes = None
        with trio.fail_after(WAIT_SECONDS):
            while road.space.refusing:
                await trio.lowlevel.checkpoint()
        assert (await publish(road, producer, sequence + 1, [b"again"])).error is None


@pytest.mark.trio
async def test_an_epoch_that_has_used_up_its_numbers_ends_the_broker_before_it_runs_into_the_next() -> None:
    failures: list[BaseException] = []
    log = SegmentLog.open(SimulatedDisk(1), options=SMALL)
    road = LoneRoad(log, node_id=1, cache_bytes_max=1 << 20, on_failure=failures.append)
    road.order.next_zxid = (road.epoch << 32) + COUNTER_MAX
    road.propose(road.settle.clock_entry())
    assert road.failed
    assert "used up" in str(failures[0])
    assert road.append.pending_bytes == 0, "nothing of it went to the log"


@pytest.mark.trio
async def test_a_resend_is_answered_without_a_second_copy_in_the_log() -> None:
    async with open_road() as road:
        await declare(road)
        producer = await open_producer(road)
        first = await publish(road, producer, 1, [b"once"])
        entries = road.entries_total
        again = await publish(road, producer, 1, [b"once"])
        assert again.value.zxid == first.value.zxid
        assert again.value.duplicate
        assert road.entries_total == entries


@pytest.mark.trio
async def test_a_producer_belongs_to_whoever_opened_it() -> None:
    async with open_road() as road:
        await declare(road)
        producer = await open_producer(road)
        with pytest.raises(ProducerNotFound, match="somebody else"):
            await ask(road.produce.publish, "/", "mallory", "orders", producer, 1, memoryview(encode_batch([b"x"])))
        with pytest.raises(ProducerNotFound, match="somebody else"):
            await ask(road.produce.close_producer, "/other", "anonymous", producer)


@pytest.mark.trio
async def test_a_leadership_that_ends_while_messages_are_read_for_a_consumer_delivers_nothing_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_road() as road:
        queue = await declare(road)
        producer = await open_producer(road)
        await publish(road, producer, 1, [b"cold"])
        await road.wait_idle()
        load, over = road.bodies.load, trio.Event()

        async def load_and_end(zxids: Iterable[int]) -> object:
            stored = await load(zxids)
            road.end()
            over.set()
            return stored

        monkeypatch.setattr(road.bodies, "get", lambda _zxid: None)
        monkeypatch.setattr(road.bodies, "load", load_and_end)
        client = await Client(road).open()
        client.consume(queue)
        with trio.fail_after(WAIT_SECONDS):
            await over.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert not road.failed
        assert client.received == []
