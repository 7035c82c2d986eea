"""The whole road with snapshots and the reclaimer in its thread: what was given back is delivered from what is left."""

from __future__ import annotations

import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.broker.pipeline.road import LoneRoad
from sluicemq.storage.live import LiveKind
from sluicemq.storage.log import SegmentLog
from sluicemq.storage.options import LogOptions
from sluicemq.storage.pagefile import PageFile
from sluicemq.storage.snapshots import SnapshotStore
from sluicemq.wire import messages as m
from tests.broker.pipeline.roads import Client, declare, open_producer, publish, running
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SEGMENT_BYTES = 256 * 1024
OPTIONS = LogOptions(segment_bytes=SEGMENT_BYTES, initial_bytes=SEGMENT_BYTES, spares_max=1)
HOUR = 3600.0
Address = tuple[int, int]


@asynccontextmanager
async def open_road(disk: SimulatedDisk, *, hours_later: float = 0.0) -> AsyncIterator[LoneRoad]:
    """Run a road that takes a snapshot for each quarter of a segment, on a day so many hours later."""
    log = SegmentLog.open(disk, options=OPTIONS)
    pages = PageFile.open(disk, cluster_id=log.cluster_id)
    failures: list[BaseException] = []

    def wall() -> float:
        return time.monotonic() + 1_700_000_000 + hours_later * HOUR

    road = LoneRoad(
        log,
        node_id=1,
        cache_bytes_max=1 << 16,
        on_failure=failures.append,
        pages=pages,
        snapshots=SnapshotStore(disk, log.cluster_id),
        snapshot_every_bytes=SEGMENT_BYTES // 4,
        wall=wall,
    )
    try:
        async with running(road):
            yield road
    finally:
        log.close()
        pages.close()
    assert not failures, failures


async def settle_all(client: Client, consumer: int, received: list, given_back: set[Address]) -> None:
    """Acknowledge everything, but for what is to be given back for an hour."""
    for verdict, delay, chosen in ((m.VERDICT_ACK, None, False), (m.VERDICT_NACK, HOUR, True)):
        tags = [
            tag
            for each in received
            if ((each.zxid, each.index) in given_back) is chosen
            for tag in (each.tag, each.tag)
        ]
        if tags:
            assert await client.settle(consumer, tags, verdict, delay) == []


async def until_reclaimed(road: LoneRoad, passes: int) -> None:
    """Wait until the reclaimer has worked through so many snapshots."""
    with trio.fail_after(WAIT_SECONDS):
        while road.reclaimer.figures().passes < passes:
            await trio.lowlevel.checkpoint()


@pytest.mark.trio
async def test_what_was_given_back_for_an_hour_is_delivered_once_after_a_restart_while_the_disk_stays_small():
    rng = random.Random(7)
    disk = SimulatedDisk(rng)
    bodies: dict[Address, bytes] = {}
    given_back: set[Address] = set()
    async with open_road(disk) as road:
        queue = await declare(road)
        producer = await open_producer(road)
        client = await Client(road).open()
        consumer = client.consume(queue, credit=10_000)
        sequence = count = 0
        for _ in range(40):
            for _ in range(10):
                sequence += 1
                batch = [rng.randbytes(rng.randint(1, 300)) for _ in range(40)]
                outcome = await publish(road, producer, sequence, batch)
                bodies.update({(outcome.value.zxid, index): body for index, body in enumerate(batch)})
            received = (await client.take(count + 400))[count:]
            count += 400
            chosen = {(each.zxid, each.index) for each in received if rng.random() < 0.01}
            given_back |= chosen
            await settle_all(client, consumer, received, chosen)
        await until_reclaimed(road, 4)
        assert len(given_back) > 100
        figures = road.reclaimer.figures()
        assert figures.rewritten_files > 3
        live = sum(len(bodies[address]) + 120 for address in given_back)
        assert figures.bytes <= 3 * live + 2 * SEGMENT_BYTES
        assert any(each.kind is LiveKind.SPARSE for each in road.log.live_files())
        client.leave()
        await road.wait_idle()
    async with open_road(disk.crash(), hours_later=1.1) as road:
        client = await Client(road).open()
        consumer = client.consume(road.produce.find_queue("/", "orders"), credit=10_000)
        received = await client.take(len(given_back))
        assert sorted((each.zxid, each.index) for each in received) == sorted(given_back), "each once, nothing else"
        assert {(each.zxid, each.index): each.body for each in received} == {key: bodies[key] for key in given_back}
        assert {each.deliveries for each in received} == {2}
