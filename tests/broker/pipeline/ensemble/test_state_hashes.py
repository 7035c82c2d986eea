"""Brokers that applied the same have the same digests, whatever lies in memory; who judged differently shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.broker.pipeline.ensemble import state_hashes
from sluicemq.broker.pipeline.ensemble.state_hashes import dump_of, state_hash
from sluicemq.broker.queues.image import load
from tests.broker.pipeline.roads import Client, ask, declare, open_producer, open_road, publish
from tests.disk import SimulatedDisk

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road


async def day_of(road: Road) -> None:
    """Leave something of everything behind."""
    for number in range(7):
        await declare(road, f"queue-{number}")
    await ask(road.topics.declare, "/", "events", {})
    await declare(road)
    producer = await open_producer(road)
    await publish(road, producer, 1, [b"one", b"two", b"three"])
    client = await Client(road).open()
    consumer = client.consume(road.produce.find_queue("/", "orders"))
    received = await client.take(2)
    await client.settle(consumer, [received[0].tag, received[0].tag])
    await road.wait_idle()


@pytest.mark.trio
async def test_an_image_has_the_digest_of_the_machine_it_was_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_hashes, "LOOKED_AT_MAX", 3)
    async with open_road() as road:
        await day_of(road)
        machine = road.machine
        zxid = machine.applied_zxid
        again = load(machine.freeze().pack(lambda: True))
        for place in range(zxid, zxid + (12 << 12), 1 << 12):
            assert state_hash(machine, place) == state_hash(again, place), "whichever queues have their turn"


@pytest.mark.trio
async def test_a_message_too_many_shows_in_the_digest_and_where() -> None:
    async with open_road() as road:
        await day_of(road)
        machine = road.machine
        before = state_hash(machine, machine.applied_zxid)
        machine.find_queue("/", "orders").settled_total += 1
        after = state_hash(machine, machine.applied_zxid)
        machine.find_queue("/", "orders").settled_total -= 1
        assert before.digest != after.digest
        differing = [name for (name, one), (_, other) in zip(before.parts, after.parts, strict=True) if one != other]
        assert differing == ["queues"]


@pytest.mark.trio
async def test_a_producer_that_is_elsewhere_shows_in_the_digest() -> None:
    async with open_road() as road:
        await day_of(road)
        for _ in range(3):
            await open_producer(road)
        machine = road.machine
        before = state_hash(machine, machine.applied_zxid)
        again = load(machine.freeze().pack(lambda: True))
        assert state_hash(again, machine.applied_zxid) == before
        first = next(iter(again.producers))
        assert first.last == 1
        first.last += 1
        after = state_hash(again, machine.applied_zxid)
        differing = [name for (name, one), (_, other) in zip(before.parts, after.parts, strict=True) if one != other]
        assert differing == ["producers"]


@pytest.mark.trio
async def test_a_dump_holds_the_whole_state() -> None:
    disk = SimulatedDisk(1)
    async with open_road() as road:
        await day_of(road)
        path = dump_of(road.machine, disk)
        data = disk.content_of(path.rpartition("/")[2])
        sections = []
        while data:
            kind, size = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:12], "little")
            sections.append((kind, data[12 : 12 + size]))
            data = data[12 + size :]
        assert load(sections).state_hash() == road.machine.state_hash()
        await trio.lowlevel.checkpoint()
