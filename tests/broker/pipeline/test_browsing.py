"""A page of a search is bounded in what it reads, however large the batches are that lie there."""

from __future__ import annotations

import pytest

from sluicemq.broker.pipeline import browsing
from sluicemq.broker.pipeline.browsing import Filter, browse
from sluicemq.wire.messages import FOUND_LEASED, FOUND_READY, VERDICT_RELEASE
from tests.broker.pipeline.roads import Client, declare, open_producer, open_road, publish

pytestmark = pytest.mark.trio


async def searched(count: int, bodies: list[bytes], monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """Search through *count* batches of *bodies* for a key that nobody has.

    Returns:
        How many batches were read at once each time, and how many messages each page looked at.

    """
    loads: list[int] = []
    pages: list[int] = []
    async with open_road() as road:
        queue = await declare(road)
        producer = await open_producer(road)
        for number in range(count):
            await publish(road, producer, number + 1, bodies)
        load = road.bodies.load_to_show

        async def counted(zxids):
            wanted = list(zxids)
            loads.append(len(wanted))
            return await load(wanted)

        monkeypatch.setattr(road.bodies, "load_to_show", counted)
        cursor: list[int] = []
        while True:
            page = await browse(road, queue, FOUND_READY, Filter(key="nobody's"), cursor, 100)
            pages.append(page.looked_at)
            assert not page.runs
            cursor = page.cursor
            if not cursor:
                return loads, pages


async def test_large_batches_are_read_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(browsing, "LOAD_BYTES_MAX", 10_000)
    monkeypatch.setattr(browsing, "LOOKED_BYTES_MAX", 15_000)
    loads, pages = await searched(8, [b"x" * 4_000], monkeypatch)
    assert loads == [2] * 4
    assert pages == [4, 4, 0]


async def test_batches_of_many_messages_are_looked_at_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(browsing, "LOAD_MESSAGES_MAX", 250)
    monkeypatch.setattr(browsing, "LOOKED_MESSAGES_MAX", 400)
    loads, pages = await searched(9, [b"x"] * 100, monkeypatch)
    assert max(loads) == 2
    assert sum(pages) == 900
    assert max(pages) == 400


async def test_a_batch_that_is_larger_than_that_is_read_alone(monkeypatch):
    monkeypatch.setattr(browsing, "LOAD_BYTES_MAX", 100)
    loads, pages = await searched(3, [b"x" * 4_000], monkeypatch)
    assert loads == [1] * 3
    assert sum(pages) == 3


async def test_small_batches_are_read_together(monkeypatch):
    loads, _ = await searched(browsing.LOAD_RUNS + 1, [b"x"], monkeypatch)
    assert loads == [browsing.LOAD_RUNS, 1]


async def test_what_is_leased_and_what_came_back_is_seen_once_whatever_a_page_holds(monkeypatch):
    monkeypatch.setattr(browsing, "STEP_RUNS", 3)
    async with open_road() as road:
        queue = await declare(road)
        producer = await open_producer(road)
        zxids = [(await publish(road, producer, number + 1, [b"x"] * 5)).value.zxid for number in range(8)]
        clients = [await Client(road).open() for _ in range(2)]
        consumers = [client.consume(queue, credit=20) for client in clients]
        for client in clients:
            await client.take(20)
        await road.wait_idle()

        async def seen(state: str, count: int) -> list[tuple[int, int]]:
            found: list[tuple[int, int]] = []
            cursor: list[int] = []
            while True:
                page = await browse(road, queue, state, Filter(), cursor, count)
                found += [(run.zxid, index) for run in page.runs for index in range(run.first, run.first + run.size)]
                if state == FOUND_LEASED:
                    assert len(page.holders) == len(page.runs)
                cursor = page.cursor
                if not cursor:
                    return found

        everything = sorted((zxid, index) for zxid in zxids for index in range(5))
        for count in (1, 4, 7, 100):
            assert sorted(await seen(FOUND_LEASED, count)) == everything
            assert await seen(FOUND_READY, count) == []
        for client, consumer in zip(clients, consumers, strict=True):
            client.cancel(consumer)
            await client.settle(consumer, [1, 20], VERDICT_RELEASE)
        await road.wait_idle()
        for count in (1, 4, 7, 100):
            assert await seen(FOUND_READY, count) == everything
            assert await seen(FOUND_LEASED, count) == []
