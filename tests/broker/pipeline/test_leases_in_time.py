"""Leases, delays and verdicts on a whole road, with time that passes only when the story says so."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline import settle as settle_module
from sluicemq.broker.pipeline.log_clock import SLEW_RATE_MAX, LogClock
from sluicemq.broker.queues import outstanding as outstanding_module
from sluicemq.broker.queues.outstanding import DEADLINE_GRID_SECONDS
from sluicemq.wire import messages as m
from sluicemq.wire.errors import InvalidRequest
from tests.broker.pipeline.roads import Client, ask, declare, open_producer, open_road, publish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.queue import Queue

START = 1_800_000_000.0
GRAIN = 0.002
"""Log time counts whole milliseconds: what is due comes so much late at most."""


class Story:
    """A road with a queue, a consumer and clocks that the test moves.

    Attributes:
        wall: Wall time minus trio's time: add to it and the wall clock jumps.

    """

    def __init__(self, road: Road, clock: trio.testing.MockClock) -> None:
        self.road = road
        self.wall = START
        self.producer = 0
        self.sequence = 0
        self._clock = clock
        road.clock = LogClock(0, wall=self._wall, monotonic=trio.current_time)

    def _wall(self) -> float:
        return self.wall + trio.current_time()

    async def passes(self, seconds: float) -> None:
        """Let time pass, and everything happen that was due by then."""
        # In steps: the leader's timers look again while log time slews towards the wall clock.
        end = trio.current_time() + seconds
        while (left := end - trio.current_time()) > 1e-9:
            self._clock.jump(min(left, max(0.001, left / 16)))
            await self.rests()

    async def rests(self) -> None:
        """Wait until nothing is under way."""
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            await self.road.wait_idle()

    async def put(self, count: int) -> None:
        """Publish messages, one batch each."""
        for _ in range(count):
            self.sequence += 1
            outcome = await publish(self.road, self.producer, self.sequence, [b"message %d" % self.sequence])
            assert outcome.error is None


@asynccontextmanager
async def story(clock: trio.testing.MockClock) -> AsyncIterator[tuple[Story, Queue, Client]]:
    async with open_road() as road:
        told = Story(road, clock)
        queue = await declare(road)
        told.producer = await open_producer(road)
        yield told, queue, await Client(road).open()


# --- delays -------------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_nacked_message_comes_back_when_its_delay_is_over_and_not_before(mock_clock):
    async with story(mock_clock) as (it, queue, client):
        await it.put(1)
        consumer = client.consume(queue)
        await client.take(1)
        await client.settle(consumer, [1, 1], m.VERDICT_NACK, 5.0)
        await it.passes(4.99)
        assert len(client.received) == 1
        assert queue.delayed.messages == 1
        await it.passes(0.01 + GRAIN)

        assert [(message.tag, message.deliveries) for message in client.received] == [(1, 1), (2, 2)]


@pytest.mark.trio
async def test_a_shorter_delay_overtakes_a_longer_one(mock_clock):
    async with story(mock_clock) as (it, queue, client):
        await it.put(2)
        consumer = client.consume(queue, lease_seconds=10_000.0)
        await client.take(2)
        await client.settle(consumer, [1, 1], m.VERDICT_NACK, 3600.0)
        await it.rests()
        await client.settle(consumer, [2, 2], m.VERDICT_NACK, 5.0)
        await it.passes(5.0 + GRAIN)
        assert [message.body for message in client.received[2:]] == [b"message 2"]
        await it.passes(3595.0 + GRAIN)

        assert [message.body for message in client.received[2:]] == [b"message 2", b"message 1"]


@pytest.mark.trio
@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_a_jump_of_the_wall_clock_neither_fires_delays_early_nor_freezes_them(mock_clock, jump):
    async with story(mock_clock) as (it, queue, client):
        await it.put(1)
        consumer = client.consume(queue)
        await client.take(1)
        await client.settle(consumer, [1, 1], m.VERDICT_NACK, 100.0)
        it.wall += jump
        await it.passes(100.0 / (1 + SLEW_RATE_MAX) - 0.01)
        assert len(client.received) == 1
        await it.passes(100.0 / (1 - SLEW_RATE_MAX) - 100.0 / (1 + SLEW_RATE_MAX) + 0.01 + GRAIN)

        assert len(client.received) == 2


@pytest.mark.trio
async def test_many_messages_due_at_one_instant_become_ready_in_small_entries(mock_clock, monkeypatch):
    monkeypatch.setattr(settle_module, "CLOCK_ITEMS_MAX", 3)
    async with story(mock_clock) as (it, queue, client):
        await it.put(20)
        consumer = client.consume(queue)
        await client.take(20)
        for tag in range(20, 0, -1):  # each a run of its own
            await client.settle(consumer, [tag, tag], m.VERDICT_NACK, 50.0)
        await it.rests()
        entries = it.road.entries_total
        await it.passes(50.0 + GRAIN)
        await client.take(40)

        assert it.road.entries_total - entries >= 7
        assert queue.delayed.messages == 0


@pytest.mark.trio
async def test_what_is_due_while_the_disk_is_slow_does_not_wait_for_what_was_due_before(mock_clock):
    """Else each message would wait for two turns of the disk, and more where others write as well."""
    disk_is_free = threading.Event()
    async with story(mock_clock) as (it, queue, client):
        await it.put(3)
        consumer = client.consume(queue, lease_seconds=10_000.0)
        await client.take(3)
        for tag in (3, 2, 1):
            await client.settle(consumer, [tag, tag], m.VERDICT_NACK, 50.0 - tag)
        await it.rests()
        entries = it.road.entries_total
        try:
            it.road.append.send_errand(disk_is_free.wait, lambda: None)
            for seconds in (46.5, 1.0, 1.0, 1.0, 1.0):
                mock_clock.jump(seconds)
                await trio.testing.wait_all_tasks_blocked()
            assert it.road.entries_total - entries == 3, "an entry for each, and none for nothing"
            assert len(client.received) == 3
        finally:
            disk_is_free.set()
        await client.take(6)

        assert [message.body for message in client.received[3:]] == [b"message 3", b"message 2", b"message 1"]


# --- leases -------------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_lease_ends_at_its_deadline_and_its_message_goes_to_another(mock_clock):
    async with story(mock_clock) as (it, queue, sleeper):
        await it.put(1)
        asleep = sleeper.consume(queue, lease_seconds=30.0)
        await sleeper.take(1)
        other = await Client(it.road).open()
        other.consume(queue)
        await it.passes(29.99)
        assert sleeper.lost == []
        assert other.received == []
        await it.passes(0.01 + DEADLINE_GRID_SECONDS)
        assert sleeper.lost == [(asleep, [1, 1], "expired")]
        sleeper.cancel(asleep)
        await it.rests()
        received = sleeper.received[1:] + other.received
        assert [(message.body, message.deliveries) for message in received] == [(b"message 1", 2)]
        assert await sleeper.settle(asleep, [1, 1]) == [1, 1], "too late: the message is another's"

        assert queue.messages == 1


@pytest.mark.trio
async def test_extending_puts_a_lease_off_and_tells_what_was_lost_before(mock_clock):
    async with story(mock_clock) as (it, queue, client):
        await it.put(3)
        consumer = client.consume(queue, credit=3, lease_seconds=30.0)
        await client.take(3)
        await client.settle(consumer, [2, 2])
        await it.passes(20.0)
        assert it.road.settle.extend(client.session, consumer, [1, 5], 60.0) == [2, 2, 4, 5]
        await it.passes(59.99)
        assert client.lost == []
        await it.passes(0.01 + DEADLINE_GRID_SECONDS)

        assert client.lost == [(consumer, [1, 1, 3, 3], "expired")]


@pytest.mark.trio
async def test_extending_may_also_shorten_a_lease(mock_clock):
    async with story(mock_clock) as (it, queue, client):
        await it.put(1)
        consumer = client.consume(queue, credit=1, lease_seconds=3600.0)
        await client.take(1)
        await it.rests()
        assert it.road.settle.extend(client.session, consumer, [1, 1], 1.0) == []
        await it.rests()
        await it.passes(1.0 + DEADLINE_GRID_SECONDS)

        assert client.lost == [(consumer, [1, 1], "expired")]


@pytest.mark.trio
async def test_nothing_is_extended_of_a_consumer_that_holds_nothing(mock_clock):
    async with story(mock_clock) as (it, queue, client):
        consumer = client.consume(queue)
        assert it.road.settle.extend(client.session, consumer, [1, 7], 60.0) == [1, 7]
        with pytest.raises(InvalidRequest):
            it.road.settle.extend(client.session, consumer, [7, 1], 60.0)


@pytest.mark.trio
async def test_thousands_of_leases_that_end_together_end_in_turns(mock_clock, monkeypatch):
    monkeypatch.setattr(outstanding_module, "EXPIRED_SPANS_MAX", 2)
    monkeypatch.setattr(outstanding_module.Outstanding.expired, "__defaults__", (2,))
    async with story(mock_clock) as (it, queue, client):
        await it.put(20)
        consumer = client.consume(queue, credit=20, lease_seconds=30.0)
        await client.take(20)
        for tag in range(2, 21, 2):
            await client.settle(consumer, [tag, tag])  # ten spans are left
        await it.passes(30.0 + DEADLINE_GRID_SECONDS)
        await it.rests()

        assert sorted(tags for _, tags, _ in client.lost) == sorted(
            [tag, tag, tag + 2, tag + 2] for tag in range(1, 20, 4)
        )
        await client.take(30)


@pytest.mark.trio
async def test_leases_of_a_session_that_leaves_end_at_once_and_nothing_expires_later(mock_clock):
    async with story(mock_clock) as (it, queue, client):
        await it.put(4)
        client.consume(queue, lease_seconds=30.0)
        await client.take(4)
        client.leave()
        await it.rests()
        assert (queue.ready, queue.leased) == (4, 0)
        entries = it.road.entries_total
        await it.passes(60.0)

        assert it.road.entries_total == entries
        assert client.lost == []


# --- verdicts -----------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_verdict_on_many_messages_is_several_entries_and_one_answer(mock_clock, monkeypatch):
    monkeypatch.setattr(settle_module, "ENTRY_TAGS_MAX", 3)
    async with story(mock_clock) as (it, queue, client):
        await it.put(10)
        consumer = client.consume(queue)
        await client.take(10)
        await it.rests()
        await client.settle(consumer, [4, 4])
        entries = it.road.entries_total
        outcome = await ask(it.road.settle.settle, client.session, consumer, m.VERDICT_ACK, [1, 8, 10, 12], None, "")
        assert it.road.entries_total == entries + 3

        assert outcome.value.lost == [4, 4, 11, 12]
        assert outcome.value.settled == 8
        assert queue.messages == 1
        assert it.road.settle.acknowledged_messages_total == 9


@pytest.mark.trio
async def test_a_verdict_that_comes_behind_the_end_of_its_session_is_one_error(mock_clock, monkeypatch):
    monkeypatch.setattr(settle_module, "ENTRY_TAGS_MAX", 1)
    async with story(mock_clock) as (it, queue, client):
        await it.put(2)
        consumer = client.consume(queue)
        await client.take(2)
        await it.rests()
        it.road.produce.close_session(client.session, "gone")
        outcome = await ask(it.road.settle.settle, client.session, consumer, m.VERDICT_ACK, [1, 2], None, "")

        assert outcome.error is not None
        assert outcome.value.lost == [1, 1, 2, 2]
        assert queue.ready == 2


@pytest.mark.trio
async def test_a_verdict_on_nothing_that_is_held_is_answered_without_an_entry(mock_clock):
    async with story(mock_clock) as (it, queue, client):
        consumer = client.consume(queue)
        await it.rests()
        entries = it.road.entries_total
        outcome = await ask(it.road.settle.settle, client.session, consumer, m.VERDICT_ACK, [5, 9], None, "")

        assert (outcome.value.lost, outcome.value.settled, outcome.error) == ([5, 9], 0, None)
        assert it.road.entries_total == entries


@pytest.mark.trio
async def test_a_message_that_was_handed_over_is_still_held_and_its_attempt_counts(mock_clock):
    async with story(mock_clock) as (it, queue, client):
        await it.put(1)
        consumer = client.consume(queue, lease_seconds=30.0)
        await client.take(1)
        assert await client.settle(consumer, [1, 1], m.VERDICT_HANDED_OVER) == []
        assert it.road.settle.holds(client.session, consumer)
        await it.passes(30.0 + DEADLINE_GRID_SECONDS)
        await it.rests()

        assert client.lost == [(consumer, [1, 1], "expired")]
        (_, again) = client.received
        assert again.deliveries == 2


@pytest.mark.trio
async def test_too_many_ranges_in_one_frame_are_refused_before_anything_is_settled(mock_clock):
    async with story(mock_clock) as (it, queue, client):
        await it.put(1)
        consumer = client.consume(queue)
        await client.take(1)
        ranges = [tag for tag in range(1, 2 * m.RANGES_MAX + 3, 2) for _ in range(2)]
        with pytest.raises(InvalidRequest, match="several frames"):
            await client.settle(consumer, ranges)
        with pytest.raises(InvalidRequest, match="verdict 77"):
            await client.settle(consumer, [1, 1], 77)

        assert await client.settle(consumer, [1, 1]) == []
