"""What a broker does while its time is moved on: everything in its order, and clients have their turn."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.broker.testing.durations import seconds_of
from sluicemq.client import Decision, Message, connect

if TYPE_CHECKING:
    from sluicemq.broker.testing import InProcessBroker
    from sluicemq.client import Client, Undecided

HOURS = 3_600


class Worker:
    """Takes everything from a queue in the background, as a program does that a test looks at from outside."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.attempts: list[int] = []
        self.failing = 0

    async def run(self, client: Client, queue: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with client.consumer(queue, lease=30.0) as consumer:
            task_status.started()
            async for message in consumer:
                with contextlib.suppress(OSError):
                    async with message:
                        self.handle(message)

    def handle(self, message: Message) -> None:
        self.bodies.append(message.body)
        self.attempts.append(message.attempt)
        if self.failing:
            self.failing -= 1
            raise OSError("not now")


@pytest.mark.trio
async def test_what_is_delayed_comes_in_its_order_each_in_its_own_time(sluicemq: InProcessBroker) -> None:
    async with connect(sluicemq.url) as client, trio.open_nursery() as nursery:
        # In one leap all but the last would have expired before anybody could have had them.
        await client.declare_queue("jobs", ttl=60.0)
        for hour in (50, 3, 70, 24):
            await client.send("jobs", b"%d" % hour, delay=hour * HOURS)
        worker = Worker()
        await nursery.start(worker.run, client, "jobs")
        await sluicemq.clock.advance("3 days")
        assert worker.bodies == [b"3", b"24", b"50", b"70"]
        assert set(worker.attempts) == {1}, "nobody was late: leases begin when the time has come to rest"
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_schedule_misses_none_of_its_times(sluicemq: InProcessBroker) -> None:
    async with connect(sluicemq.url) as client:
        await client.declare_queue("reports")
        # Its time passes as everybody's while the test runs: none of the schedule's times may come just then.
        await sluicemq.clock.advance(timedelta(minutes=60 - sluicemq.clock.now().minute))
        await client.schedule("hourly", "30 * * * *", "reports", b"report")
        await sluicemq.clock.advance("3 days")
        assert (await client.queue_info("reports"))["ready"] == 72


@pytest.mark.trio
async def test_what_fails_is_tried_again_on_the_way(sluicemq: InProcessBroker) -> None:
    async with connect(sluicemq.url) as client, trio.open_nursery() as nursery:
        await client.declare_queue("jobs", retry=[60.0, 3600.0], max_deliveries=3)
        await client.send("jobs", b"dig", delay=60.0)
        worker = Worker()
        worker.failing = 2
        await nursery.start(worker.run, client, "jobs")
        await sluicemq.clock.advance("1 min")
        assert worker.attempts == [1]
        await sluicemq.clock.advance("30 s")
        assert worker.attempts == [1]
        await sluicemq.clock.advance("2 h")
        assert worker.attempts == [1, 2, 3]
        assert (await client.queue_info("jobs"))["leased"] == 0
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_lease_that_is_held_ends_when_its_time_comes(sluicemq: InProcessBroker) -> None:
    async with connect(sluicemq.url) as client:
        await client.declare_queue("jobs")
        await client.send("jobs", b"dig")
        async with client.consumer("jobs", lease=3600.0) as consumer:
            first = await anext(consumer)
            await sluicemq.clock.advance("58 min")
            assert (await client.queue_info("jobs"))["leased"] == 1
            await sluicemq.clock.advance("3 min")
            again = await anext(consumer)
            assert again.position == first.position
            await again.ack(confirm=True)
        assert (await client.queue_info("jobs"))["leased"] == 0


@pytest.mark.trio
async def test_leases_may_be_kept_as_by_consumers_that_renew_them(sluicemq: InProcessBroker) -> None:
    async with connect(sluicemq.url) as client:
        await client.declare_queue("jobs")
        for body in (b"dig", b"fill"):
            await client.send("jobs", body)
        async with client.consumer("jobs", lease=30.0) as consumer:
            message = await anext(consumer)
            await sluicemq.clock.advance("1 day", keep_leases=True)
            await message.ack(confirm=True)
            async with await anext(consumer) as message:
                assert (message.body, message.attempt) == (b"fill", 1)
            await consumer.flush()
        assert (await client.queue_info("jobs"))["redelivered_total"] == 0


@pytest.mark.trio
async def test_what_was_acknowledged_without_waiting_counts(sluicemq: InProcessBroker) -> None:
    async with connect(sluicemq.url) as client:
        await client.declare_queue("jobs")
        for number in range(20):
            await client.send("jobs", b"%d" % number)
            async with client.consumer("jobs", lease=30.0) as consumer:
                message = await anext(consumer)
                await message.ack()
                await sluicemq.clock.advance("1 min")
        assert (await client.queue_info("jobs"))["ready"] == 0


@pytest.mark.trio
async def test_connections_and_idle_consumers_outlive_any_time(sluicemq: InProcessBroker) -> None:
    async with connect(sluicemq.url) as client:
        await client.declare_queue("jobs", expires=60.0)
        async with client.consumer("jobs") as consumer:
            for _ in range(3):
                await sluicemq.clock.advance("1 week")
            await client.send("jobs", b"dig")
            async with await anext(consumer) as message:
                assert message.body == b"dig"
        await sluicemq.clock.advance("2 min")
        assert "jobs" not in [queue["name"] for queue in await client.queues()], "unused for a minute"


@pytest.mark.trio
async def test_ids_and_retained_messages_go_when_their_time_has_come(sluicemq: InProcessBroker) -> None:
    async with connect(sluicemq.url) as client:
        await client.declare_queue("orders", dedup_window=86_400.0, retention={"seconds": 7 * 86_400})
        await client.send("orders", b"first", message_id="42")
        await sluicemq.clock.advance("23 h")
        assert (await client.send("orders", b"again", message_id="42")).duplicate
        await sluicemq.clock.advance("2 h")
        assert not (await client.send("orders", b"anew", message_id="42")).duplicate
        await sluicemq.clock.advance("6 days")
        assert (await client.queue_info("orders"))["retained"] == 1


@pytest.mark.trio
async def test_a_silent_sender_is_asked_and_its_answer_counts(sluicemq: InProcessBroker) -> None:
    asked: list[int] = []

    def decide(undecided: Undecided) -> Decision:
        asked.append(undecided.checks)
        return Decision.COMMIT if len(asked) == 3 else Decision.UNKNOWN

    async with connect(sluicemq.url) as client:
        await client.declare_queue("orders")
        client.transaction_checker("shop", decide)
        async with client.prepare("orders", b"paid", check="shop", check_after=60.0) as half:
            half.leave_undecided()
        await sluicemq.clock.advance("1 day")
        assert asked == [1, 2, 3]
        assert (await client.queue_info("orders"))["ready"] == 1


@pytest.mark.trio
async def test_moments_are_named_by_the_clock_of_the_broker(sluicemq: InProcessBroker) -> None:
    async with connect(sluicemq.url) as client:
        await client.declare_queue("orders")
        await sluicemq.clock.advance("10 days")
        before = sluicemq.clock.now()
        await client.send("orders", b"now")
        async with client.consumer("orders") as consumer, await anext(consumer) as message:
            assert abs((message.published_at - before).total_seconds()) < 60


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3 days", 259_200),
        ("1.5h", 5_400),
        ("90 s", 90),
        ("1 day 2 hours", 93_600),
        ("1 Week, 1 minute", 604_860),
        ("250ms", 0.25),
        (7, 7),
        ("0 s", 0),
    ],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "3", "three days", "3 moons", "-1 s", "1e9 s", "101 weeks 5200 weeks", "1 day x"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no duration|is no time to move on by"):
        seconds_of(text)


@pytest.mark.trio
async def test_a_queue_that_delivers_slowly_does_so_while_the_time_moves(sluicemq: InProcessBroker) -> None:
    async with connect(sluicemq.url) as client, trio.open_nursery() as nursery:
        await client.declare_queue("jobs", delivery_rate="6/min", delivery_burst=1)
        worker = Worker()
        await nursery.start(worker.run, client, "jobs")
        async with client.producer("jobs") as producer:
            await producer.send_many([b"%d" % number for number in range(20)])
        await sluicemq.clock.advance("1 min 1 s")
        # One at once, and one every ten seconds.
        assert worker.bodies == [b"%d" % number for number in range(7)]
        nursery.cancel_scope.cancel()
