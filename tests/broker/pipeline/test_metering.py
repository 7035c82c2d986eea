"""The pace of queues on a whole road, with time that passes only when the story says so."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline import metering
from tests.broker.pipeline.roads import Client, declare, open_producer, open_road, publish


async def passes(clock: trio.testing.MockClock, seconds: int) -> None:
    """Let so many seconds pass, one by one."""
    for _ in range(seconds):
        clock.jump(1.0)
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.trio
async def test_a_queue_knows_its_pace_and_a_broker_at_rest_reads_nothing(mock_clock):
    async with open_road() as road:
        queue = await declare(road)
        assert road.metering.pace(queue).drain_seconds == 0.0
        producer = await open_producer(road)
        for sequence in range(1, 11):
            await publish(road, producer, sequence, [b"x"] * 20)
            await passes(mock_clock, 1)
        pace = road.metering.pace(queue)
        assert pace.arriving == pytest.approx(18, abs=3)
        assert (pace.delivering, pace.drain_seconds) == (0.0, None)

        (await Client(road).open()).consume(queue, credit=1_000)
        await passes(mock_clock, 2)
        assert road.metering.pace(queue).drain_seconds == 0.0
        await passes(mock_clock, 1_000)
        assert road.metering._due is None
        assert road.metering.pace(queue).arriving == pytest.approx(0, abs=0.01)


@pytest.mark.trio
async def test_many_busy_queues_are_read_in_turns_and_those_that_go_are_forgotten(mock_clock, monkeypatch):
    monkeypatch.setattr(metering, "READ_QUEUES_MAX", 2)
    async with open_road() as road:
        producer = await open_producer(road)
        queues = [await declare(road, f"queue {number}") for number in range(5)]
        for sequence in range(1, 11):
            queue = queues[(sequence - 1) % 5]
            await publish(road, producer, sequence, [b"x"] * 7, queue.name)
        await passes(mock_clock, 2)
        assert {road.metering.pace(queue).arriving > 0 for queue in queues} == {True}
        road.produce.delete_queue("/", "queue 1", False, lambda _outcome: None)
        await road.wait_idle()
        assert queues[1].id not in road.metering._meters
