"""Brokers that applied the same have the same digests, whatever lies in memory; who judged differently shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.broker.pipeline.ensemble import contents, state_hashes
from sluicemq.broker.pipeline.ensemble.state_hashes import dump_of, state_hash
from sluicemq.broker.queues.image import load
from tests.broker.pipeline.roads import Client, ask, declare, open_producer, open_road, publish
from tests.disk import SimulatedDisk

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.machine import Machine


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


def one_more_attempt(machine: Machine) -> None:
    """A message under lease was tried once more than elsewhere."""
    (table,) = machine.find_queue("/", "orders").leases.values()
    block = table._blocks[0]
    block.runs[0] = block.runs[0]._replace(attempts=block.runs[0].attempts + 1)


def another_tag(machine: Machine) -> None:
    """Its worker knows it by another tag."""
    (table,) = machine.find_queue("/", "orders").leases.values()
    table._blocks[0].firsts[0] += 1


def another_place(machine: Machine) -> None:
    """A ready message lies elsewhere in the log."""
    ((_, lane),) = machine.find_queue("/", "once").lanes.items()
    lane._open[0] ^= 1


def another_id(machine: Machine) -> None:
    """A window has seen one id more."""
    machine.find_queue("/", "once").window.add(b"an id like no 2!", machine.applied_zxid, machine.log_time_ms)


@pytest.mark.parametrize(
    ("change", "part"),
    [(one_more_attempt, "leases"), (another_tag, "leases"), (another_place, "contents"), (another_id, "contents")],
)
@pytest.mark.trio
async def test_content_that_differs_where_all_counts_are_equal_shows_in_the_digest_and_where(
    change: Callable[[Machine], None], part: str
) -> None:
    async with open_road() as road:
        await day_of(road)
        await declare(road, "once", dedup_window=60.0)
        await publish(road, await open_producer(road), 1, [b"ready", b"and waiting"], "once")
        machine = road.machine
        again = load(machine.freeze().pack(lambda: True))
        before = state_hash(machine, machine.applied_zxid)
        assert state_hash(again, machine.applied_zxid) == before
        change(again)
        after = state_hash(again, machine.applied_zxid)
        assert before.digest != after.digest
        differing = [name for (name, one), (_, other) in zip(before.parts, after.parts, strict=True) if one != other]
        assert differing == [part]


@pytest.mark.trio
async def test_every_queue_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "QUEUES_MAX", 3)
    async with open_road() as road:
        await day_of(road)
        machine = road.machine
        turns = [contents.contents(machine, turn)["contents"] for turn in range(4)]
        looked_into = {queue[0][0] for turn in turns for queue in turn}
        assert looked_into == {queue.id for queue in machine.queues()}
        assert all(len(turn) == 3 for turn in turns)


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
