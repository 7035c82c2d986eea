"""Every publish sent three times, with reconnects in between: `python -m tests.e2e.three_times [--messages 1000000]`.

One broker in a process of its own, one queue with a `dedup_window`. Each message, with an id of its own, is published
by three producers one after the other, who know nothing of each other: nothing but the id tells that it is the same.
In between the broker is killed or the client reconnects, as chance has it. At the end exactly so many messages are in
the queue, each once, and every receipt of the second and third time leads to the position of the first. Printed are the
rates and what the broker's processor took a message: without ids, for new ids, and for known ones.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
from pathlib import Path

import trio

from sluicemq.client import NewMessage, connect
from sluicemq.wire.positions import parse_position
from tests.e2e.broker_process import BrokerProcess

BATCH = 1_000
BODY = b"x" * 20
IN_FLIGHT = 4
"""Batches on their way at a time."""


async def publish(url: str, queue: str, first: int, end: int, with_ids: bool, places: list[str | None]) -> int:
    """Publish messages *first* to *end* - 1 by a new producer; compare their positions; return how many were known."""
    known = 0
    limit = trio.CapacityLimiter(IN_FLIGHT)

    async def send(start: int) -> None:
        nonlocal known
        numbers = range(start, min(start + BATCH, end))
        async with limit:
            if not with_ids:
                await producer.send_many([BODY] * len(numbers))
                return
            receipts = await producer.send_many([NewMessage(BODY, message_id=f"m-{number}") for number in numbers])
        for number, receipt in zip(numbers, receipts, strict=True):
            known += receipt.duplicate
            if places[number] is None:
                places[number] = receipt.position
            assert places[number] == receipt.position, f"message {number} lies at one place"

    async with connect(url) as client, client.producer(queue) as producer, trio.open_nursery() as nursery:
        for start in range(first, end, BATCH):
            async with limit:
                pass  # no more tasks than can send
            nursery.start_soon(send, start)
    return known


async def count_all(url: str, messages: int) -> tuple[int, set[str]]:
    """Consume all there is; return how many messages, and their ids."""
    ids: set[str] = set()
    found = 0
    async with connect(url) as client, client.consumer("once", credit=20_000) as consumer:
        while batch := await consumer.receive(max_messages=5_000, max_wait=2.0 if found >= messages else 30.0):
            found += len(batch)
            ids.update(message.message_id for message in batch)
            await batch.ack()
    return found, ids


async def declare(url: str) -> None:
    async with connect(url) as client:
        await client.declare_queue("plain")
        await client.declare_queue("once", dedup_window=86_400, dedup_count=0)


def report(what: str, messages: int, broker: BrokerProcess, cpu_before: float, started: float) -> None:
    cpu = broker.usage().cpu_seconds - cpu_before
    rate = messages / (time.monotonic() - started)
    print(
        f"{what}: {rate:,.0f} messages/s, {cpu / messages * 1e6:.2f} µs of the broker's processor a message", flush=True
    )


def run(messages: int, kills: int, seed: int, folder: Path) -> None:
    rng = random.Random(seed)
    places: list[str | None] = [None] * messages
    broker = BrokerProcess(folder / "data").start()
    try:
        trio.run(declare, broker.url)
        for what, queue, with_ids in (("without ids", "plain", False), ("new ids", "once", True)):
            before, started = broker.usage().cpu_seconds, time.monotonic()
            known = trio.run(publish, broker.url, queue, 0, messages, with_ids, places)
            assert not known, "new ids are new"
            report(what, messages, broker, before, started)
        for turn in ("second", "third"):
            borders = sorted(rng.sample(range(1, max(messages // BATCH, 2)), min(kills, max(messages // BATCH - 1, 1))))
            pieces = [0, *(border * BATCH for border in borders), messages]
            known = 0
            broker.kill()
            broker.start()
            before, started, spent = broker.usage().cpu_seconds, time.monotonic(), 0.0
            for first, end in itertools.pairwise(pieces):
                known += trio.run(publish, broker.url, "once", first, end, True, places)
                if rng.random() < 0.5 and end < messages:
                    spent += broker.usage().cpu_seconds - before
                    broker.kill()
                    broker.start()
                    before = broker.usage().cpu_seconds
            assert known == messages, f"{known} of {messages} were confirmed as duplicates"
            report(f"the {turn} time", messages, broker, before - spent, started)
        found, ids = trio.run(count_all, broker.url, messages)
        assert (found, len(ids)) == (messages, messages), f"{found} messages with {len(ids)} ids"
        assert len({parse_position(place) for place in places if place}) == messages
        print(f"{messages} messages published three times each, delivered {found} times in all")
    finally:
        broker.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=5, help="at most so many pieces and kills each time")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="three-times-") as folder:
        run(options.messages, options.kills, options.seed, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
