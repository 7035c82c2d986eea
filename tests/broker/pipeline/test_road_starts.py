"""A road begins: what it takes over from the log, what it refuses to, and how large an entry may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sluicemq.broker.pipeline.epochs import EPOCH_BITS
from sluicemq.broker.pipeline.road import LoneRoad
from sluicemq.broker.queues.entries import Publish
from sluicemq.storage import LogOptions, Record, SegmentLog
from sluicemq.storage.record import HEAD_BYTES
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import InternalError, LimitReached
from tests.broker.pipeline.roads import Client, ask, declare, open_producer, open_road, publish
from tests.disk import SimulatedDisk

if TYPE_CHECKING:
    from sluicemq.broker.queues.outcomes import Outcome

SMALL = LogOptions(segment_bytes=64 * 1024, initial_bytes=8192, spares_max=0)


@pytest.mark.trio
async def test_a_road_goes_on_where_the_last_one_ended_in_a_new_epoch_and_without_its_sessions():
    disk = SimulatedDisk(1)
    async with open_road(disk) as road:
        queue = await declare(road)
        producer = await open_producer(road)
        first = await publish(road, producer, 1, [b"one", b"two"])
        client = await Client(road).open()
        client.consume(queue)
        await client.take(2)
        await client.settle(1, [1, 1])
        epoch = road.epoch
    async with open_road(disk.restart()) as road:
        assert road.epoch == epoch + 1
        assert road.machine.sessions_to_close() == []
        queue = road.produce.find_queue("/", "orders")
        assert (queue.ready, queue.leased) == (1, 0)
        again = await publish(road, producer, 1, [b"one", b"two"])
        assert (again.value.zxid, again.value.duplicate) == (first.value.zxid, True)
        second = await publish(road, producer, 2, [b"three"])
        assert second.value.zxid >> EPOCH_BITS == epoch + 1
        late = await ask(road.produce.declare_queue, "/", "orders", {})
        assert late.value.outcome == "unchanged"
        client = await Client(road).open()
        client.consume(queue)

        assert [message.body for message in await client.take(2)] == [b"two", b"three"]


@pytest.mark.trio
async def test_an_epoch_is_used_once_even_where_a_start_wrote_nothing():
    disk = SimulatedDisk(1)
    epochs = []
    for _start in range(3):
        log = SegmentLog.open(disk, options=SMALL)
        epochs.append(LoneRoad(log, node_id=1, cache_bytes_max=1, on_failure=lambda _error: None).epoch)
        log.close()
        disk = disk.crash()

    assert epochs == [1, 2, 3]


@pytest.mark.trio
@pytest.mark.parametrize(("kind", "header"), [(200, b""), (1, b"no msgpack \xc1")])
async def test_an_entry_that_cannot_be_read_stops_the_start_and_is_named(kind, header):
    disk = SimulatedDisk(1)
    log = SegmentLog.open(disk, options=SMALL)
    log.append([Record((3 << EPOCH_BITS) + 0, kind, 1, 0, header, b"")])
    log.sync()
    with pytest.raises(InternalError, match=rf"entry 3\.0 \(kind {kind}\) .*nothing was changed"):
        LoneRoad(log, node_id=1, cache_bytes_max=1, on_failure=lambda _error: None)

    assert log.promised_epoch == 0, "nobody took this log"
    log.close()


@pytest.mark.trio
async def test_the_largest_entry_passes_and_one_byte_more_is_refused_and_ends_nothing():
    disk = SimulatedDisk(1)
    async with open_road(disk, options=SMALL) as road:
        queue = await declare(road)
        producer = await open_producer(road)
        probe = encode_batch([b""])

        def entry_with(body_bytes: int) -> Publish:
            payload = encode_batch([bytes(body_bytes)])
            return Publish(road.clock.now_ms(), queue.id, producer, 1, 1, body_bytes, payload=payload)

        room = SMALL.entry_bytes_max - HEAD_BYTES
        sizes = {
            body_bytes: len(entry_with(body_bytes).header()) + len(entry_with(body_bytes).payload)
            for body_bytes in range(room - len(probe) - 200, room)
        }
        fitting = max(body_bytes for body_bytes, size in sizes.items() if size <= room)
        assert sizes[fitting + 1] > room
        too_large = entry_with(fitting + 1)
        with pytest.raises(LimitReached, match="the log takes"):
            road.propose(too_large, bytes(too_large.payload))
        largest = entry_with(fitting)
        answers: list[Outcome] = []
        road.propose(largest, bytes(largest.payload), on_applied=answers.append)
        assert (await publish(road, producer, 2, [b"the next"])).error is None

        assert answers[0].error is None
        assert not road.failed
