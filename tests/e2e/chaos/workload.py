"""What clients do while everything around them breaks: they publish, consume, and write down what they saw.

They use the public client and nothing else, with time enough for every call, so that each error that reaches them is a
finding. Destinations: a plain queue, one with order by key, one whose messages are delayed, and a topic with two
subscriptions. A producer waits for each confirm before it sends the next message, so that its order is known.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import trio

from sluicemq.client import connect
from sluicemq.client.errors import LeaseLost, OutcomeUnknown, SluiceError
from tests.e2e.chaos import history as h

if TYPE_CHECKING:
    from sluicemq.client import Client
    from sluicemq.client.message import Message
    from tests.e2e.chaos.history import History

TARGETS = {
    "plain": ("plain",),
    "keyed": ("keyed",),
    "later": ("later",),
    "events.eu": ("all-events", "eu-events"),
}
"""Queues that a message belongs to, by where it is sent."""
KEYS = 5
WORKERS = 2
"""Consumers of each queue, each with a client of its own."""
CALL_SECONDS = 120.0
GIVEN_BACK_SHARE = 0.02
DELAY_SECONDS_MAX = 3.0
DRAIN_SECONDS_MAX = 60.0


class Workload:
    """All clients of a run.

    Args:
        url: Where the brokers are.
        history: Where everything is written down.
        seed: For what chance decides.
        rate: Messages a second, of each producer.

    """

    def __init__(self, url: str, history: History, seed: int, rate: float = 40.0) -> None:
        self._url = url
        self._history = history
        self._seed = seed
        self._rate = rate
        self._stop_sending = trio.Event()
        self._senders = 0
        self.sent = 0

    async def run(self, nursery: trio.Nursery) -> None:
        """Declare everything, then begin to send and to consume."""
        async with self._connect("declarer") as client:
            await client.declare_queue("plain", retry_delay=0.05)
            await client.declare_queue("keyed", ordering="key", retry_delay=0.05)
            await client.declare_queue("later", retry_delay=0.05)
            await client.declare_topic("events")
            await client.subscribe("events.#", "all-events", retry_delay=0.05)
            await client.subscribe("events.eu", "eu-events", retry_delay=0.05)
        producer = 0
        for destination, queues in TARGETS.items():
            for _ in range(2):
                producer += 1
                self._senders += 1
                nursery.start_soon(self._guarded, self._send, producer, destination)
            for queue in queues:
                for number in range(WORKERS):
                    nursery.start_soon(self._guarded, self._work, queue, f"{queue}-{number}")

    def _connect(self, name: str) -> Client:
        return connect(self._url, name=name, connect_timeout=CALL_SECONDS, request_timeout=CALL_SECONDS)

    async def _guarded(self, task, *arguments: object) -> None:
        try:
            await task(*arguments)
        except SluiceError as error:
            self._history.add(h.ERROR, text=f"{task.__name__}{arguments}: {error!r:.300}")

    async def _send(self, producer: int, destination: str) -> None:
        chance = random.Random(f"{self._seed} {producer}")
        try:
            async with self._connect(f"producer-{producer}") as client, client.producer(destination) as sender:
                number = 0
                while not self._stop_sending.is_set():
                    await trio.sleep(chance.expovariate(self._rate))
                    number += 1
                    await self._send_one(client, sender, producer, number, destination, chance)
        finally:
            self._senders -= 1

    async def _send_one(self, client, sender, producer, number, destination, chance) -> None:
        key = f"key-{chance.randrange(KEYS)}" if destination == "keyed" else ""
        delay = chance.uniform(0.05, DELAY_SECONDS_MAX) if destination == "later" else 0.0
        facts = {"producer": producer, "number": number, "queue": destination, "key": key}
        body = json.dumps([producer, number]).encode()
        self._history.add(h.SENT, **facts, delay=delay)
        try:
            receipt = await sender.send(body, key=key or None, delay=delay or None, timeout=CALL_SECONDS)
        except OutcomeUnknown as error:
            self._history.add(h.ERROR, text=f"send {facts}: {error!r:.300}")
            receipt = (await client.resend(error, timeout=CALL_SECONDS))[0]
        except SluiceError as error:
            self._history.add(h.REFUSED, **facts, text=repr(error)[:300])
            self._history.add(h.ERROR, text=f"send {facts}: {error!r:.300}")
            return
        self.sent += 1
        self._history.add(h.CONFIRMED, **facts, position=receipt.position)

    async def _work(self, queue: str, worker: str) -> None:
        chance = random.Random(f"{self._seed} {worker}")
        async with self._connect(worker) as client, client.consumer(queue, credit=20, lease=10.0) as consumer:
            consumer.on_lease_lost = lambda _error: None
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(self._handle_all, consumer, queue, worker, chance)

    async def _handle_all(self, consumer, queue: str, worker: str, chance: random.Random) -> None:
        async for message in consumer:
            await self._handle(message, queue, worker, chance)

    async def _handle(self, message: Message, queue: str, worker: str, chance: random.Random) -> None:
        producer, number = json.loads(message.body)
        facts = {"producer": producer, "number": number, "queue": queue, "worker": worker, "key": message.key or ""}
        delivery = message._run.deliveries
        self._history.add(
            h.HANDED, **facts, position=message.position, delivery=delivery, text=message.redelivery_reason or ""
        )
        await trio.sleep(chance.expovariate(200.0))
        try:
            if chance.random() < GIVEN_BACK_SHARE:
                self._history.add(h.GIVEN_BACK, **facts, delivery=delivery)
                await message.nack()
            else:
                self._history.add(h.SETTLES, **facts, delivery=delivery)
                await message.ack(confirm=True)
                self._history.add(h.SETTLED, **facts, delivery=delivery)
        except LeaseLost as error:
            self._history.add(h.LOST, **facts, delivery=delivery, text=str(error.reason))

    # --- the end ----------------------------------------------------------------------------------------------

    async def drain(self) -> list[str]:
        """Stop sending, and wait until every queue is empty; return which are not."""
        self._stop_sending.set()
        left: list[str] = []
        with trio.move_on_after(DRAIN_SECONDS_MAX):
            async with self._connect("drainer") as client:
                while True:
                    left = [
                        f"{info['name']}: {info['ready']} ready, {info['leased']} leased, {info['delayed']} delayed"
                        for info in await client.queues()
                        if info["ready"] or info["leased"] or info["delayed"]
                    ]
                    if not left and not self._senders:
                        return []
                    await trio.sleep(0.1)
        return left or [f"{self._senders} producers still wait for a confirm"]
