"""What clients do while everything around them breaks: they publish, consume, and write down what they saw.

They use the public client and nothing else, with time enough for every call, so that each error that reaches them is a
finding. Destinations: a plain queue, one with order by key, one whose messages are delayed, one with a window of
message ids, to which some are sent once more, and a topic with two subscriptions; what holds as a whole or not at all
is in `workload_of_transactions`. A producer waits for each confirm before it sends the next message, so that its order
is known.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import trio

from sluicemq.client import connect
from sluicemq.client.errors import LeaseLost, OutcomeUnknown, SluiceError
from tests.e2e.chaos import history as h
from tests.e2e.chaos.workload_of_transactions import FIRST_MOVER, HALVES, INPUTS, LEFT, RIGHT, Mover, Seller, insisting

if TYPE_CHECKING:
    from sluicemq.client import Client
    from sluicemq.client.message import Message
    from tests.e2e.chaos.history import History

TARGETS = {
    "plain": ("plain",),
    "keyed": ("keyed",),
    "later": ("later",),
    "events.eu": ("all-events", "eu-events"),
    "once": ("once",),
    INPUTS: (INPUTS,),
    HALVES: (HALVES,),
    LEFT: (LEFT,),
    RIGHT: (RIGHT,),
}
"""Queues that a message belongs to, by where it is sent."""
KEYS = 5
WORKERS = 2
"""Consumers of each queue, each with a client of its own."""
CALL_SECONDS = 120.0
GIVEN_BACK_SHARE = 0.02
AGAIN_SHARE = 0.3
"""Messages with an id that another client sends too, later or at the same time."""
AGAIN_SECONDS_MAX = 5.0
DEDUP_SECONDS = 3_600.0
DELAY_SECONDS_MAX = 3.0
DRAIN_SECONDS_MAX = 180.0


class Workload:
    """All clients of a run.

    Args:
        url: Where the brokers are.
        history: Where everything is written down.
        seed: For what chance decides.
        rate: Messages a second, of each producer.

    """

    def __init__(self, url: str, history: History, seed: int, rate: float = 25.0) -> None:
        self._url = url
        self._history = history
        self._seed = seed
        self._rate = rate
        self._stop_sending = trio.Event()
        self._senders = 0
        self._database: dict[bytes, bool] = {}
        self.sent = 0

    async def run(self, nursery: trio.Nursery) -> None:
        """Declare everything, then begin to send and to consume."""
        async with self._connect("declarer") as client:
            await client.declare_queue("plain", retry_delay=0.05)
            await client.declare_queue("keyed", ordering="key", retry_delay=0.05)
            await client.declare_queue("later", retry_delay=0.05)
            await client.declare_queue("once", retry_delay=0.05, dedup_window=DEDUP_SECONDS)
            for queue in (INPUTS, HALVES, LEFT, RIGHT):
                await client.declare_queue(queue, retry_delay=0.05)
            await client.declare_topic("events")
            await client.subscribe("events.#", "all-events", retry_delay=0.05)
            await client.subscribe("events.eu", "eu-events", retry_delay=0.05)
        producer = 0
        for destination, queues in TARGETS.items():
            for _ in range(0 if destination in (LEFT, RIGHT) else 2):
                producer += 1
                self._senders += 1
                nursery.start_soon(self._guarded, self._send, producer, destination)
            for queue in queues:
                for number in range(WORKERS):
                    if queue == INPUTS:
                        nursery.start_soon(self._guarded, self._move, FIRST_MOVER + number)
                    else:
                        nursery.start_soon(self._guarded, self._work, queue, f"{queue}-{number}")

    def _connect(self, name: str) -> Client:
        return connect(self._url, name=name, connect_timeout=CALL_SECONDS, request_timeout=CALL_SECONDS)

    async def _guarded(self, task, *arguments: object) -> None:
        try:
            await task(*arguments)
        except* SluiceError as errors:
            self._history.add(h.ERROR, text=f"{task.__name__}{arguments}: {errors.exceptions!r:.500}")

    async def _send(self, producer: int, destination: str) -> None:
        chance = random.Random(f"{self._seed} {producer}")
        try:
            async with (
                self._connect(f"producer-{producer}") as client,
                self._connect(f"repeater-{producer}") as repeater,
                client.producer(destination) as sender,
                trio.open_nursery() as repeating,
            ):
                seller = Seller(client, self._history, producer, chance, self._database)
                number = 0
                while not self._stop_sending.is_set():
                    await trio.sleep(chance.expovariate(self._rate))
                    number += 1
                    if destination == HALVES:
                        await seller.sell(number)
                        continue
                    if destination == "once" and chance.random() < AGAIN_SHARE:
                        pause = max(0.0, chance.uniform(-1.0, AGAIN_SECONDS_MAX))
                        repeating.start_soon(self._send_again, repeater, producer, number, pause)
                    await self._send_one(client, sender, producer, number, destination, chance)
        finally:
            self._senders -= 1

    async def _send_again(self, client: Client, producer: int, number: int, pause: float) -> None:
        """Send what another client sends too; only one of the two may be stored."""
        await trio.sleep(pause)
        facts = {"producer": producer, "number": number, "queue": "once"}
        body, name = json.dumps([producer, number]).encode(), f"{producer}-{number}"
        self._history.add(h.SENT, **facts)
        receipt = await insisting(lambda: client.send("once", body, message_id=name, timeout=CALL_SECONDS))
        self._history.add(h.AGAIN, **facts, position=receipt.position)

    async def _move(self, number: int) -> None:
        async with self._connect(f"mover-{number}") as client:
            await Mover(client, self._history, number, random.Random(f"{self._seed} {number}")).run()

    async def _send_one(self, client, sender, producer, number, destination, chance) -> None:
        key = f"key-{chance.randrange(KEYS)}" if destination == "keyed" else ""
        delay = chance.uniform(0.05, DELAY_SECONDS_MAX) if destination == "later" else 0.0
        facts = {"producer": producer, "number": number, "queue": destination, "key": key}
        body = json.dumps([producer, number]).encode()
        self._history.add(h.SENT, **facts, delay=delay)
        name = f"{producer}-{number}" if destination == "once" else None
        try:
            receipt = await insisting(
                lambda: sender.send(body, key=key or None, delay=delay or None, message_id=name, timeout=CALL_SECONDS)
            )
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
        except OutcomeUnknown as error:  # the session was lost for longer than brokers keep it: it may come again
            self._history.add(h.UNKNOWN, **facts, delivery=delivery, text=str(error))

    # --- the end ----------------------------------------------------------------------------------------------

    async def drain(self) -> list[str]:
        """Stop sending, and wait until every queue is empty; return which are not."""
        self._stop_sending.set()
        left: list[str] = []
        with trio.move_on_after(DRAIN_SECONDS_MAX):
            async with self._connect("drainer") as client:
                # Senders have left, and somebody must answer for what they left undecided.
                Seller(client, self._history, 0, random.Random(0), self._database)
                empty = False
                while True:
                    # What is decided afterwards is in its queue by the time that this is looked at; and twice, because
                    # queues are not looked at in one instant.
                    left = [f"undecided: {row['transaction']}" async for row in client.transactions()]
                    left += [
                        f"{info['name']}: {info['ready']} ready, {info['leased']} leased, {info['delayed']} delayed"
                        for info in await client.queues()
                        if info["ready"] or info["leased"] or info["delayed"]
                    ]
                    if not left and not self._senders:
                        if empty:
                            return []
                        empty = True
                    else:
                        empty = False
                    await trio.sleep(0.1)
        return left or [f"{self._senders} producers still wait for a confirm"]
