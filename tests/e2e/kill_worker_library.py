"""One client process of the kill rounds, on `sluicemq.client`: the same arguments and rules as `kill_worker`.

Here nobody reconnects or resends by hand: that is what the library promises. Each producing task is a producer of its
own to the judge, because tasks that share a `Producer` promise no order among each other.
"""

from __future__ import annotations

import logging
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from sluicemq.client import Batch, connect
from sluicemq.wire.errors import LeaseLost, OutcomeUnknown
from sluicemq.wire.positions import parse_position
from tests.e2e.journal import Journal
from tests.e2e.kill_worker import (
    BATCH_MESSAGES_MAX,
    CREDIT_MESSAGES,
    FINISH_SECONDS_MAX,
    TURN_SECONDS,
    listen_for_stop,
    runs_of,
)
from tests.e2e.total_queue import body_of
from tests.e2e.wire_client import DeliveredMessage

if TYPE_CHECKING:
    import threading

    from sluicemq.client import Client

TASKS = 8
BACKENDS = ("trio", "asyncio")
RECEIVE_MESSAGES_MAX = 100
LEASE_SECONDS = 120.0
"""Longer than any run: the library does not tell which grant a delivery is, so leases must not end by the clock."""


async def produce(client: Client, number: int, queue: str, journal: Journal, stopping: threading.Event) -> None:
    """Send batches from several tasks until stopped."""
    async with client.producer(queue, timeout=FINISH_SECONDS_MAX) as producer:

        async def send_batches(place: int) -> None:
            own, chance, counter, batch = number * TASKS + place, random.Random(place), 0, 0
            while not stopping.is_set():
                batch += 1
                count = chance.randint(1, BATCH_MESSAGES_MAX)
                journal.sends(own, batch, counter, count)
                try:
                    receipts = await producer.send_many([body_of(own, counter + place) for place in range(count)])
                except OutcomeUnknown as error:
                    journal.trouble(repr(error))
                else:
                    journal.confirmed(own, batch, parse_position(receipts[0].position)[1], receipts.duplicate)
                counter += count

        async with anyio.create_task_group() as tasks:
            for place in range(TASKS):
                tasks.start_soon(send_batches, place)


async def consume(client: Client, number: int, queue: str, journal: Journal, stopping: threading.Event) -> None:
    """Receive batches until stopped; acknowledge most, give some back."""
    chance = random.Random(number)
    delivery = 0
    async with client.consumer(queue, credit=CREDIT_MESSAGES, lease=LEASE_SECONDS) as consumer:
        while not stopping.is_set():
            batch = await consumer.receive(max_messages=RECEIVE_MESSAGES_MAX, max_wait=TURN_SECONDS)
            if not len(batch):
                continue
            delivery += 1
            journal.delivered(number, delivery, 0, 0, runs_of(_messages(batch), journal))
            acknowledge = chance.random() < 0.95
            journal.verdict(number, delivery, "ack" if acknowledge else "nack")
            try:
                if acknowledge:
                    await batch.ack(confirm=True)
                else:
                    await batch.nack(delay=0.0)
            except (LeaseLost, OutcomeUnknown) as error:
                journal.trouble(repr(error))
            else:
                if acknowledge:
                    journal.settled(number, delivery, [])


def _messages(batch: Batch) -> list[DeliveredMessage]:
    """Return the batch as the wire client would; the library does not tell which grant a delivery is."""
    found = []
    for message in batch:
        _group, zxid, index = parse_position(message.position)
        found.append(DeliveredMessage(0, zxid, index, 0, message.attempt, message.body))
    return found


async def work(role: str, number: int, url: str, queue: str, journal: Journal) -> None:
    """Run one role over one client."""
    stopping = listen_for_stop()
    async with connect(url, name=f"{role} {number}", close_timeout=FINISH_SECONDS_MAX) as client:
        journal.connected(0)
        await {"producer": produce, "consumer": consume}[role](client, number, queue, journal, stopping)


def main(arguments: list[str]) -> int:
    """Run one worker; odd numbers use asyncio."""
    role, number, url, queue, journal, _seed = arguments
    # It warns of each lease that a kill has cost, which is what this is about.
    logging.disable(logging.WARNING)
    backend = BACKENDS[int(number) % 2]
    anyio.run(work, role, int(number), url, queue, Journal(Path(journal)), backend=backend)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
