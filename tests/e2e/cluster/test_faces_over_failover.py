"""The leader is killed while queues are shaped and requests wait: limits go on holding, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.broker.commands.log_files import LogFiles, ReadOnlyDirectory
from sluicemq.broker.queues.entries import Grant, GrantPlaced, decode_entry
from sluicemq.client import connect
from sluicemq.client.errors import LeaseLost, SluiceError
from sluicemq.wire.positions import parse_position
from tests.e2e.cluster.trio_of_brokers import Brokers

if TYPE_CHECKING:
    from pathlib import Path

    from sluicemq.client import Client, Message, PendingReply

pytestmark = pytest.mark.trio

TEST_SECONDS_MAX = 240.0
RATE, BURST = 100, 300
CAP = 5
ADAPTIVE_MAX = 200


async def fill(client: Client, queue: str, messages: int) -> set[int]:
    """Publish so many messages; return the zxids of their batches."""
    async with client.producer(queue) as producer:
        receipts = await producer.send_many([b"x" * 50] * messages)
    return {parse_position(receipt.position)[1] for receipt in receipts}


def granted(data: Path, batches: set[int], epoch: int) -> list[tuple[float, int]]:
    """Return what was given of these batches in the first later epoch in which any was: seconds and messages.

    The seconds are the leader's own, from the beginning of its epoch, so it makes no difference who stood still for how
    long between the broker and whoever measures.
    """
    began_ms: dict[int, int] = {}
    given: dict[int, list[tuple[float, int]]] = {}
    for found in LogFiles(ReadOnlyDirectory(data)).entries():
        its_epoch = found.head.zxid >> 32
        if its_epoch <= epoch:
            continue
        entry = decode_entry(found.head.kind, found.head.kind_version, found.header, found.payload)
        began = began_ms.setdefault(its_epoch, entry.log_time_ms)
        if isinstance(entry, Grant):
            numbers = 4 if isinstance(entry, GrantPlaced) else 3
            runs = zip(entry.runs[numbers - 3 :: numbers], entry.runs[numbers - 1 :: numbers], strict=True)
            messages = sum(count for zxid, count in runs if zxid in batches)
            if messages:
                given.setdefault(its_epoch, []).append(((entry.log_time_ms - began) / 1000, messages))
    return given[min(given)]


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

    async def until_as_fast_as(self, messages: int, seconds: float) -> None:
        """Wait until so many messages have come within so long."""
        await self.until(lambda: sum(time > self.times[-1] - seconds for time in self.times) >= messages)


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
            await fill(client, "capped", 5_000)
            paced_batches, adaptive_batches = (
                await fill(client, "paced", 10_000),
                await fill(client, "adaptive", 20_000),
            )
            paced, adaptive = Pace(brokers.url, "paced"), Pace(brokers.url, "adaptive")
            capped = Capped(brokers.url)
            for each in (paced, adaptive, capped):
                nursery.start_soon(each.run)
            await paced.until(lambda: len(paced.times) >= BURST + RATE)
            await adaptive.until(lambda: len(adaptive.times) >= 2 * ADAPTIVE_MAX)

            epoch = (await client.statistics())["epoch"]
            killed = brokers.leader()
            brokers.nodes[killed].kill()
            came, handled = len(paced.times), capped.handled

            await paced.until(lambda: len(paced.times) >= came + BURST + 3 * RATE)
            adaptive.times.clear()
            await adaptive.until_as_fast_as(int(1.6 * ADAPTIVE_MAX), 2.0)  # the next leader finds the rate again
            while capped.handled <= handled + 10 * CAP:  # noqa: ASYNC110 - others work
                await trio.sleep(0.05)

            data = next(node.data for number, node in brokers.nodes.items() if number != killed)
            given = granted(data, paced_batches, epoch)
            sums = accumulate(messages for _, messages in given)
            for (seconds, _), messages in zip(given, sums, strict=True):
                assert messages <= 1.1 * RATE * seconds + BURST / 5, f"a new leader has nothing saved: {given}"
            given = granted(data, adaptive_batches, epoch)
            at_first = sum(messages for seconds, messages in given if seconds < given[0][0] + 0.5)
            assert at_first <= ADAPTIVE_MAX / 4, f"the next leader begins carefully: {given}"

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
                await client.submit_request("prices", b"%d" % number, timeout=TEST_SECONDS_MAX / 2)
                for number in range(requests)
            ]
            await half_begun.wait()
            brokers.nodes[brokers.leader()].kill()
            go_on.set()
            replies = [(await each).body for each in pending]
            assert replies == [b"re: %d" % number for number in range(requests)]
            for number in range(20):
                reply = await client.request("prices", b"later %d" % number, timeout=TEST_SECONDS_MAX / 2)
                assert reply.body == b"re: later %d" % number
            figures = client.request_statistics()
            assert (figures.replied, figures.pending) == (requests + 20, 0)
            nursery.cancel_scope.cancel()
