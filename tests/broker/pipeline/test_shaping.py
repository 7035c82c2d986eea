"""Peak shaving on a whole road, with time that passes only when the story says so."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline.log_clock import LogClock
from sluicemq.wire import messages as m
from sluicemq.wire.errors import InvalidRequest, PublishLimited, QueueFull
from tests.broker.pipeline.roads import Client, declare, open_producer, open_road, publish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.queue import Queue

BEFORE_NINE = 1_805_014_790.0
"""Ten seconds before 9:00 UTC, which is 5:00 in New York, where the clocks went forward two hours ago."""


class Story:
    """A road whose time the test moves; deliveries are written down with their time."""

    def __init__(self, clock: MockClock, road: Road, queue: Queue, client: Client, producer: int) -> None:
        self._clock = clock
        self.road = road
        self.queue = queue
        self.client = client
        self.producer = producer
        self.sequence = 0
        self.times: list[float] = []
        client.on_deliver = lambda received: self.times.extend([trio.current_time()] * len(received))

    async def passes(self, seconds: float) -> None:
        """Let time pass, and everything happen that was due by then."""
        end = trio.current_time() + seconds
        while True:
            for _ in range(2):
                await trio.testing.wait_all_tasks_blocked()
                await self.road.wait_idle()
            left = end - trio.current_time()
            if left <= 1e-9:
                return
            due = self.road.shaping.gates.next_due
            # A little late, as wake-ups are.
            self._clock.jump(left if due is None else min(left, max(due - trio.current_time(), 0.0) + 1e-4))

    async def put(self, *counts: int) -> None:
        """Publish batches of so many messages."""
        for count in counts:
            self.sequence += 1
            outcome = await publish(self.road, self.producer, self.sequence, [b"x" * 100] * count)
            assert outcome.error is None

    async def becomes(self, **settings: Any) -> None:
        """Declare the queue anew."""
        await declare(self.road, **settings)


@asynccontextmanager
async def story(clock: MockClock, wall: float = BEFORE_NINE, **settings: Any) -> AsyncIterator[Story]:
    async with open_road() as road:
        road.clock = LogClock(0, wall=lambda: wall + trio.current_time(), monotonic=trio.current_time)
        queue = await declare(road, **settings)
        yield Story(clock, road, queue, await Client(road).open(), await open_producer(road))


@pytest.mark.trio
async def test_at_ten_a_second_messages_come_one_by_one_at_even_times(mock_clock):
    async with story(mock_clock, delivery_rate=10, delivery_burst=1) as it:
        await it.put(60, 60)
        it.client.consume(it.queue, credit=1_000)
        await it.passes(10.0)

        assert len(it.times) == pytest.approx(100, abs=1)
        gaps = [after - before for before, after in zip(it.times, it.times[1:], strict=False)]
        assert min(gaps) == pytest.approx(0.1, abs=0.001)
        assert max(gaps) == pytest.approx(0.1, abs=0.001)


@pytest.mark.trio
async def test_a_burst_goes_at_once_and_the_rest_at_the_rate(mock_clock):
    async with story(mock_clock, delivery_rate=10, delivery_burst=25) as it:
        assert it.road.shaping.state_of(it.queue)["delivery_rate_now"] == 10, "before anybody consumes"
        await it.put(100)
        began = trio.current_time()
        it.client.consume(it.queue, credit=1_000)
        await it.passes(2.05)

        assert sum(time == pytest.approx(began, abs=0.01) for time in it.times) == 25
        assert len(it.times) == 25 + 20


@pytest.mark.trio
async def test_fifty_thousand_a_second_go_in_small_slices(mock_clock):
    async with story(mock_clock, delivery_rate=50_000) as it:
        await it.put(*[1_000] * 12)
        began = trio.current_time()
        it.client.consume(it.queue, credit=100_000)
        await it.passes(0.2001)

        assert len(it.times) == pytest.approx(10_000, rel=0.06)
        assert len(set(it.times)) == pytest.approx(20, abs=2), "one wake-up every ten milliseconds"
        assert it.times[0] == pytest.approx(began, abs=0.01)


@pytest.mark.trio
async def test_a_redelivery_counts_as_a_delivery(mock_clock):
    async with story(mock_clock, delivery_rate=10, delivery_burst=1) as it:
        await it.put(1)
        consumer = it.client.consume(it.queue)
        for tag in range(1, 11):
            await it.client.take(tag)
            await it.client.settle(consumer, [tag, tag], m.VERDICT_RELEASE)
            await it.passes(0.1001)
        assert it.times[9] - it.times[0] == pytest.approx(0.9, abs=0.01)
        assert len(set(it.times)) == len(it.times)


@pytest.mark.trio
async def test_consumers_share_what_may_go(mock_clock):
    async with story(mock_clock, delivery_rate=10, delivery_burst=40) as it:
        await it.put(200)
        others = [await Client(it.road).open() for _ in range(3)]
        for client in (it.client, *others):
            client.consume(it.queue, credit=1_000)
        await it.passes(1.0)
        counts = [len(client.received) for client in (it.client, *others)]
        assert sum(counts) == pytest.approx(50, abs=1)
        assert max(counts) - min(counts) <= 6


@pytest.mark.trio
async def test_bytes_a_second_bound_what_goes_too(mock_clock):
    async with story(mock_clock, delivery_bytes_rate=10_000) as it:
        await it.put(*[1] * 1_000)
        it.client.consume(it.queue, credit=1_000)
        await it.passes(5.0)
        a_message = it.road.machine.existing_queue(it.queue.id).main.read(0, 1)[0].batch_bytes
        assert len(it.times) * a_message == pytest.approx(50_000, rel=0.02)


@pytest.mark.trio
async def test_no_more_are_out_than_the_cap_over_all_consumers_allows(mock_clock):
    async with story(mock_clock, max_concurrency=8) as it:
        await it.put(100)
        other = await Client(it.road).open()
        mine = it.client.consume(it.queue, credit=1_000)
        theirs = other.consume(it.queue, credit=1_000)
        await it.passes(1.0)
        assert len(it.client.received) + len(other.received) == 8
        assert it.client.received, "both have some"
        assert other.received, "both have some"

        await it.client.settle(mine, [1, 2])
        await other.settle(theirs, [1, 1], m.VERDICT_NACK, 100.0)
        await it.passes(1.0)
        assert len(it.client.received) + len(other.received) == 11
        assert it.queue.leased == 8

        it.client.leave()
        await it.passes(1.0)
        assert it.queue.leased == 8
        assert len(other.received) >= 8, "what one had who left goes to the others"


@pytest.mark.trio
async def test_keys_keep_to_the_limits_too(mock_clock):
    async with story(mock_clock, max_concurrency=5, delivery_rate=100, delivery_burst=3, ordering="key") as it:
        await it.put(*[1] * 50)
        for _ in range(3):
            it.client.consume(it.queue, credit=1_000)
        await it.passes(0.001)
        assert len(it.times) == 3
        await it.passes(1.0)
        assert len(it.times) == it.queue.leased == 5


@pytest.mark.trio
async def test_limits_change_while_messages_wait_for_them(mock_clock):
    async with story(mock_clock, delivery_rate="1/h", delivery_burst=1, max_concurrency=1) as it:
        await it.put(100)
        it.client.consume(it.queue, credit=1_000)
        await it.passes(10.0)
        assert len(it.times) == 1
        await it.becomes(delivery_rate=10, max_concurrency=None)
        await it.passes(2.05)
        assert len(it.times) == pytest.approx(21, abs=1)
        await it.becomes(delivery_rate=None)
        await it.passes(0.01)
        assert len(it.times) == 100


@pytest.mark.trio
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
async def test_a_rate_holds_in_its_hours(mock_clock, zone):
    hour = {"UTC": 9, "America/New_York": 5}[zone]
    rate = f"10/s from 0 to {hour}; 100/s; in {zone}"
    async with story(mock_clock, delivery_rate=rate, delivery_burst=1) as it:
        await it.put(*[1_000] * 3)
        it.client.consume(it.queue, credit=10_000)
        await it.passes(10.0)
        assert len(it.times) == pytest.approx(100, abs=2)
        await it.passes(10.0)
        assert len(it.times) == pytest.approx(1_100, abs=4)


@pytest.mark.trio
async def test_nothing_goes_in_hours_at_rate_zero_and_nobody_looks_all_the_time(mock_clock):
    async with story(mock_clock, BEFORE_NINE, delivery_rate="0/s from 0 to 24; 5/s") as it:
        await it.put(10)
        it.client.consume(it.queue)
        await it.passes(3_000.0)
        assert it.times == []
        due = it.road.shaping.gates.next_due
        assert due is not None
        assert due - trio.current_time() > 60


@pytest.mark.trio
async def test_whoever_looks_often_while_a_gate_is_closed_leaves_nothing_behind(mock_clock):
    async with story(mock_clock, delivery_rate="1/h", delivery_burst=1) as it:
        await it.put(10)
        consumer = it.client.consume(it.queue)
        await it.client.take(1)
        for number in range(100):
            it.road.dispatch.set_credit(it.client.session, consumer, 50 + number, 1 << 30)
            await it.passes(0.7)
        assert len(it.road.shaping.gates._due) <= 2


@pytest.mark.trio
async def test_a_time_zone_that_nobody_knows_is_refused(mock_clock):
    async with story(mock_clock) as it:
        with pytest.raises(InvalidRequest, match="'Europe/Atlantis' is no time zone that this broker knows"):
            await it.becomes(delivery_rate="5/s from 1 to 2; 6/s; in Europe/Atlantis")


@pytest.mark.trio
async def test_a_new_leader_counts_bursts_as_used_up(mock_clock):
    async with story(mock_clock, delivery_rate=10, delivery_burst=25) as it:
        it.road.shaping.gates._began_ms = it.queue.created_ms + 1  # as if the queue were older than this leadership
        it.road.shaping.begin()
        await it.put(100)
        it.client.consume(it.queue, credit=1_000)
        await it.passes(1.05)
        assert len(it.times) == pytest.approx(10, abs=1)


@pytest.mark.trio
async def test_a_queue_that_goes_takes_its_gate_along(mock_clock):
    async with story(mock_clock, delivery_rate=1, delivery_burst=1) as it:
        await it.put(10)
        it.client.consume(it.queue)
        await it.client.take(1)
        assert len(it.road.shaping.gates) == 1
        it.road.produce.delete_queue("/", "orders", False, lambda _outcome: None)
        await it.passes(5.0)
        assert len(it.road.shaping.gates) == 0
        assert it.road.shaping.gates.next_due is None


@pytest.mark.trio
async def test_an_adaptive_rate_grows_by_what_is_acknowledged_and_falls_by_what_is_not(mock_clock):
    async with story(mock_clock, delivery_adaptive={"max": 200}) as it:
        await it.put(*[500] * 4)
        consumer = it.client.consume(it.queue, credit=10_000)
        gate = it.road.shaping.gates

        async def lives(seconds: float, verdict: int) -> float:
            settled = len(it.client.received)
            for _ in range(round(seconds / 0.1)):
                await it.passes(0.1)
                if len(it.client.received) > settled:
                    tags = [it.client.received[settled].tag, it.client.received[-1].tag]
                    settled = len(it.client.received)
                    await it.client.settle(consumer, tags, verdict, 1_000.0 if verdict == m.VERDICT_NACK else None)
            found = gate.find(it.queue.id)
            assert found is not None
            rate = found.rate
            assert rate is not None
            return rate

        assert await lives(4.0, m.VERDICT_ACK) == 200
        assert await lives(3.0, m.VERDICT_NACK) < 20
        assert it.road.shaping.state_of(it.queue)["delivery_rate_now"] < 20
        await it.becomes(delivery_adaptive=None)
        await it.passes(0.1)
        assert gate.find(it.queue.id) is None
        assert not it.road.shaping._deliveries or it.queue.leased


@pytest.mark.trio
async def test_messages_that_a_transaction_rejects_say_nothing_against_the_service(mock_clock):
    async with story(mock_clock, delivery_adaptive={"max": 200}) as it:
        await it.put(500, 500)
        consumer = it.client.consume(it.queue, credit=10_000)
        settled = 0

        async def lives(seconds: float, verdict: int) -> float:
            nonlocal settled
            for _ in range(round(seconds / 0.1)):
                await it.passes(0.1)
                arrived = it.client.received[settled:]
                if arrived:
                    settled = len(it.client.received)
                    tags = [arrived[0].tag, arrived[-1].tag]
                    it.road.settle.settled_elsewhere(it.client.session, consumer, tags, verdict)
            rate = it.road.shaping.state_of(it.queue)["delivery_rate_now"]
            assert isinstance(rate, float)
            return rate

        assert await lives(3.0, m.VERDICT_REJECT) > 100
        assert await lives(1.5, m.VERDICT_NACK) < 100


@pytest.mark.trio
@pytest.mark.parametrize("window", [0, 3_600])
async def test_what_is_sent_again_is_not_counted_again(mock_clock, window):
    async with story(mock_clock, publish_limit="fixed_window 10/min", dedup_window=window) as it:
        await it.put(10)
        again = await publish(it.road, it.producer, it.sequence, [b"x" * 100] * 10)
        assert again.error is None
        assert again.value.duplicate
        with pytest.raises(PublishLimited):
            await it.put(1)


@pytest.mark.trio
async def test_what_is_refused_for_another_reason_does_not_count(mock_clock):
    async with story(mock_clock, publish_limit="fixed_window 10/min", max_length=5, overflow="reject") as it:
        with pytest.raises(QueueFull):
            await it.put(9)
        it.sequence -= 1
        await it.put(5)
        await it.becomes(publish_limit="fixed_window 10/min", max_length=100, overflow="reject")
        await it.put(5)
        with pytest.raises(PublishLimited):
            await it.put(1)
