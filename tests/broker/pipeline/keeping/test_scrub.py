"""The scrub on the whole road: what rots is found before anybody needs it, told, and healed where that can be."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.broker.pipeline.keeping import paging, scrub
from sluicemq.broker.pipeline.keeping.pace import Pace
from sluicemq.broker.pipeline.keeping.scrub import Scrub
from sluicemq.broker.queues.chunks import RUN_BYTES
from sluicemq.storage.errors import PageCorrupt
from sluicemq.storage.pagefile import SLOT_BYTES
from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.storage.segment import segment_name
from tests.broker.paged import make_chunks_small
from tests.broker.pipeline.keeping.test_snapshots import names_of, open_road, publish_singly
from tests.broker.pipeline.roads import Client, declare
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sluicemq.broker.pipeline.road import Road

MESSAGES = 120
BOTH = ("pages", "pages-copy")


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """A chunk holds four messages, and only six chunks stay in memory."""
    make_chunks_small(monkeypatch, 4)
    monkeypatch.setattr(paging, "BYTES_MIN", 0)


def scrub_of(road: Road, disk: SimulatedDisk) -> Scrub:
    assert road.pager is not None
    assert road.snapshots is not None
    return Scrub(
        road.log,
        disk,
        road.pager._pages,
        bytes_per_second=1,
        rows_of=road.pager.rows_of,
        renew=road.snapshots.renew,
        on_failure=road.fail,
        pace=Pace(1 << 40, sleep=lambda _seconds: None),
    )


@asynccontextmanager
async def long_road(disk: SimulatedDisk, failures: list[BaseException] | None = None) -> AsyncIterator[Road]:
    """A road with a queue of which every message is on a page and named by two snapshots."""
    async with open_road(disk, failures=failures, index_memory_bytes_max=6 * 4 * RUN_BYTES) as road:
        await declare(road)
        await publish_singly(road, MESSAGES)
        await road.snapshots.take()
        await declare(road, "another")
        await road.snapshots.take()
        yield road


def places(road: Road) -> list[int]:
    """Offsets of all pages."""
    return [PAGE_BYTES + slot * road.pager._pages.slot_bytes for slot in range(road.pager._pages.slots)]


async def drain(road: Road) -> None:
    client = await Client(road).open()
    consumer = client.consume(road.produce.find_queue("/", "orders"), credit=MESSAGES)
    await client.take(MESSAGES)
    await client.settle(consumer, [1, MESSAGES])
    assert [message.body for message in client.received] == [b"%d" % number for number in range(1, MESSAGES + 1)]


@pytest.mark.trio
async def test_a_healthy_disk_is_read_and_nothing_is_told(caplog):
    disk = SimulatedDisk(1)
    async with long_road(disk) as road:
        found = scrub_of(road, disk)
        await found.one_pass()

        # Every page twice, both snapshots, and the log.
        assert found.figures.read_bytes > 2 * len(places(road)) * 4 * RUN_BYTES + 10_000
        assert (found.figures.passes, found.figures.damaged, found.figures.healed) == (1, 0, 0)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.trio
@pytest.mark.parametrize("name", BOTH)
async def test_pages_that_one_file_lost_are_healed_before_anybody_reads_them(name, caplog):
    disk = SimulatedDisk(1)
    async with long_road(disk) as road:
        for offset in places(road):
            disk.flip_bit(name, offset + 7)
        await scrub_of(road, disk).one_pass()
        assert caplog.text.count("written again from the other file") == len(places(road))
        other = BOTH[name == "pages"]
        for offset in places(road):
            disk.flip_bit(other, offset + 9)
        await drain(road)


@pytest.mark.trio
async def test_a_page_that_both_files_lost_is_healed_from_memory_or_told(caplog):
    disk = SimulatedDisk(1)
    failures: list[BaseException] = []
    async with long_road(disk, failures) as road:
        slots = range(len(places(road)))
        resident = [slot for slot in slots if road.pager.rows_of(slot) is not None]
        lost = [slot for slot in slots if slot not in resident]
        assert resident
        assert lost
        for offset in places(road):
            for name in BOTH:
                disk.flip_bit(name, offset)

        found = scrub_of(road, disk)
        await found.one_pass()

        assert found.figures.healed == len(resident)
        assert found.figures.damaged == len(lost)
        for slot in lost:
            assert f"page {slot} in pages at offset {places(road)[slot]} is damaged" in caplog.text
        assert not failures, "it goes on as long as nobody needs them"
        client = await Client(road).open()
        client.consume(road.produce.find_queue("/", "orders"), credit=MESSAGES)
        with trio.fail_after(WAIT_SECONDS):
            while not failures:
                await trio.lowlevel.checkpoint()
    assert isinstance(failures[0], PageCorrupt)
    assert failures[0].offset in {PAGE_BYTES + slot * SLOT_BYTES for slot in lost}


@pytest.mark.trio
@pytest.mark.parametrize("which", [0, 1], ids=["older", "newest"])
async def test_a_snapshot_that_rots_is_replaced_at_once(which, caplog):
    disk = SimulatedDisk(1)
    async with long_road(disk) as road:
        old = names_of(disk)
        disk.flip_bit(old[which], PAGE_BYTES + 30)
        found = scrub_of(road, disk)
        await found.one_pass()

        with trio.fail_after(WAIT_SECONDS):
            while set(names_of(disk)) & set(old):
                await trio.lowlevel.checkpoint()
        assert len(names_of(disk)) == 2
        assert f"{old[which]}" in caplog.text
        await found.one_pass()
        assert found.figures.damaged == 1
        await drain(road)


@pytest.mark.trio
async def test_the_log_begins_behind_a_file_of_it_that_rots(caplog):
    """A start would refuse that file; with two snapshots behind it, no start reads it."""
    disk = SimulatedDisk(1)
    async with open_road(disk) as road:
        await declare(road)
        await publish_singly(road, 2000)
        assert road.log.first_segment_name == segment_name(1)
        assert segment_name(2) in disk.names()
        disk.flip_bit(segment_name(1), PAGE_BYTES + 5000)

        await scrub_of(road, disk).one_pass()

        with trio.fail_after(WAIT_SECONDS):
            while road.log.first_segment_name == segment_name(1):
                await trio.lowlevel.checkpoint()
    assert f"{segment_name(1)} at offset" in caplog.text
    async with open_road(disk.restart()) as road:
        assert road.machine.queues()[0].messages == 2000


@pytest.mark.trio
async def test_a_broker_scrubs_of_itself(monkeypatch):
    monkeypatch.setattr(scrub, "FIRST_SECONDS", 0)
    disk = SimulatedDisk(1)
    async with open_road(disk, scrub_bytes_per_second=1 << 40) as road:
        with trio.fail_after(WAIT_SECONDS):
            while not road.scrub.figures.passes:
                await trio.lowlevel.checkpoint()
