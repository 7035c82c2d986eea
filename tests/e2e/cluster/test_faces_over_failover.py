"""The leader is killed while queues are shaped and requests wait: limits go on holding, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.client import connect
from sluicemq.client.errors import LeaseLost, SluiceError
from tests.e2e.cluster.trio_of_brokers import Brokers

if TYPE_CHECKING:
    from sluicemq.client import Client, Message, PendingReply

pytestmark = pytest.mark.trio

TEST_SECONDS_MAX = 120.0
RATE, BURST = 100, 300
CAP = 5
ADAPTIVE_MAX = 200


async def fill(client: Client, queue: str, messages: int) -> None:
    async with client.producer(queue) as producer:
        await producer.send_many([b"x" * 50] * messages)


class Pace:
    """Consumes a queue, acknowledges at once, and writes down when each message came."""

    def __init__(self, url: str, queue: str) -> None:
        self._url = url
        self._queue = queue
        self.times: list[float] = []
        self._changed = trio.Event()

    async def run(self) -> None:
        async with connect(self._url) as client, client.consumer(self._queue, credit=2_000) as consumer:
            while True:
                batch = await consumer.receive(max_messages=1_000, max_wait=TEST_SECONDS_MAX)
                self.times += [trio.current_time()] * len(batch)
                self._changed.set()
                self._changed = trio.Event()
                await batch.ack()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def within(self, begin: float, seconds: float) -> int:
        """Return how many messages came in a span of time."""
        return sum(begin <= time < begin + seconds for time in self.times)

    async def first_after(self, moment: float) -> float:
        """Wait for a message that came later than *moment*, and return when that was."""
        await self.until(lambda: bool(self.times) and self.times[-1] > moment)
        return next(time for time in self.times if time > moment)


class Capped:
    """Handles messages of a queue with a cap, as many at once as come, and counts how many that are."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.in_hand = self.in_hand_max = self.handled = 0
        self.lost = 0

    async def _handle(self, message: Message) -> None:
        self.in_hand += 1
        self.in_hand_max = max(self.in_hand_max, self.in_hand)
        try:
            async with message:
                await trio.sleep(0.05)
        except LeaseLost:
            self.lost += 1
        self.in_hand -= 1
        self.handled += 1

    async def run(self) -> None:
        async with (
            connect(self._url) as client,
            client.consumer("capped", credit=100) as consumer,
            trio.open_nursery() as nursery,
        ):
            async for message in consumer:
                nursery.start_soon(self._handle, message)


async def test_rates_caps_and_adaptive_rates_hold_behind_a_new_leader(brokers: Brokers) -> None:
    with trio.fail_after(TEST_SECONDS_MAX):
        async with connect(brokers.url) as client, trio.open_nursery() as nursery:
            await client.declare_queue("paced", delivery_rate=RATE, delivery_burst=BURST)
            await client.declare_queue("capped", max_concurrency=CAP)
            await client.declare_queue("adaptive", delivery_adaptive={"max": ADAPTIVE_MAX})
            await fill(client, "paced", 10_000)
            await fill(client, "capped", 5_000)
            await fill(client, "adaptive", 20_000)
            paced, adaptive = Pace(brokers.url, "paced"), Pace(brokers.url, "adaptive")
            capped = Capped(brokers.url)
            for each in (paced, adaptive, capped):
                nursery.start_soon(each.run)
            await paced.until(lambda: len(paced.times) >= BURST + RATE)
            await adaptive.until(lambda: len(adaptive.times) >= 2 * ADAPTIVE_MAX)

            brokers.nodes[brokers.leader()].kill()
            killed = trio.current_time()
            handled = capped.handled

            again = await paced.first_after(killed + 0.2)
            await paced.first_after(again + 3.0)
            # A slice that was on its way when the leader died comes again, and is no burst.
            assert paced.within(again, 1.0) <= 1.2 * RATE + 10
            assert 2 * RATE <= paced.within(again, 3.0) <= 3.3 * RATE + 10

            found = await adaptive.first_after(killed + 0.2)
            await adaptive.first_after(found + 6.0)
            assert adaptive.within(found, 0.5) <= ADAPTIVE_MAX / 4, "the next leader begins carefully"
            assert adaptive.within(found + 4.0, 2.0) >= 1.6 * ADAPTIVE_MAX, "and finds the rate again"

            assert capped.handled > handled + 10 * CAP
            assert capped.in_hand_max <= CAP + capped.lost
            assert (await client.queue_info("capped"))["leased"] <= CAP
            nursery.cancel_scope.cancel()


async def test_requests_under_way_when_the_leader_dies_end_and_later_ones_are_answered(brokers: Brokers) -> None:
    requests = 40
    half_begun, go_on = trio.Event(), trio.Event()
    begun = 0

    async def answer(message: Message) -> None:
        nonlocal begun
        begun += 1
        if begun == requests // 2:
            half_begun.set()
        try:
            async with message:
                await go_on.wait()
                await message.reply(b"re: " + message.body)
        except SluiceError:
            return  # what this one held comes again, to somebody

    async def serve() -> None:
        async with (
            connect(brokers.url) as service,
            service.consumer("prices", credit=100) as consumer,
            trio.open_nursery() as nursery,
        ):
            async for message in consumer:
                nursery.start_soon(answer, message)

    with trio.fail_after(TEST_SECONDS_MAX):
        async with connect(brokers.url) as client, trio.open_nursery() as nursery:
            await client.declare_queue("prices")
            nursery.start_soon(serve)
            pending: list[PendingReply] = [
                await client.submit_request("prices", b"%d" % number, timeout=30.0) for number in range(requests)
            ]
            await half_begun.wait()
            brokers.nodes[brokers.leader()].kill()
            go_on.set()
            replies = [(await each).body for each in pending]
            assert replies == [b"re: %d" % number for number in range(requests)]
            for number in range(20):
                reply = await client.request("prices", b"later %d" % number, timeout=30.0)
                assert reply.body == b"re: later %d" % number
            figures = client.request_statistics()
            assert (figures.replied, figures.pending) == (requests + 20, 0)
            nursery.cancel_scope.cancel()
