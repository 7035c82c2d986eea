"""kill -9 with every feature in use: `python -m tests.e2e.feature_rounds --seconds 60 --seed 1 [--backend asyncio]`.

Producers, consumers, an undertaker and a gardener use retries, rejection, dead letters (inside and named), lifetimes,
limits with each overflow, topics, subscriptions from now and from the beginning, temporary ones, deletion by force and
queues that expire, while the broker is killed every second. Then everything is drained and accounted for: each
confirmed message was settled, expired, was dropped, or is dead, exactly one of them; what was refused or settled never
comes again; the broker's totals agree. Exits with 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from sluicemq.client import Client, NewMessage, connect
from sluicemq.client.errors import (
    Conflict,
    LeaseLost,
    OutcomeUnknown,
    QueueFull,
    QueueNotFound,
    TopicNotFound,
)
from tests.e2e.broker_process import BrokerProcess, unused_port

if TYPE_CHECKING:
    from sluicemq.client import Batch, Consumer, DeadLetter

GRAVES = "graves"
RETRY = {"initial": 0.02, "factor": 2.0, "max": 0.2, "jitter": 0.5}
QUEUES: dict[str, dict[str, Any]] = {
    "inside": {"retry": RETRY, "max_deliveries": 3},
    "named": {"retry": [0.01, 0.05], "max_deliveries": 3, "dead_letter": GRAVES},
    "short": {"ttl": 0.3, "retry_delay": 0.05},
    "short-buried": {"ttl": 0.3, "retry_delay": 0.05, "dead_letter": GRAVES},
    "drops": {"max_length": 40, "overflow": "drop_head", "retry_delay": 0.05},
    "buries": {"max_length": 40, "overflow": "dead_letter", "dead_letter": GRAVES, "retry_delay": 0.05},
    "buries-inside": {"max_bytes": 8_000, "overflow": "dead_letter", "max_deliveries": 5, "retry_delay": 0.05},
    "refuses": {"max_length": 40, "overflow": "reject", "retry_delay": 0.05, "max_deliveries": 4},
}
TOPIC = "events"
SUBSCRIPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "all": (f"{TOPIC}.#", {"retry_delay": 0.02}),
    "paid": (f"{TOPIC}.*.paid", {"retry": [0.02], "max_deliveries": 2, "dead_letter": GRAVES}),
}
SUBJECTS = ("eu.paid", "us.paid", "eu.sent", "eu")
VANISHING = ("short", "short-buried", "drops", "buries", "buries-inside")
"""Where messages may end without a consumer: expired or dropped, by their count."""
LIFE_SECONDS = 1.0
DRAIN_SECONDS_MAX = 60.0
EXPIRES_SECONDS = 1.0

Fate = tuple[str, bytes]


@dataclass
class Book:
    """What the clients of one run wrote down."""

    confirmed: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    unknown: set[Fate] = field(default_factory=set)
    refused: set[Fate] = field(default_factory=set)
    settled: set[Fate] = field(default_factory=set)
    perhaps: set[Fate] = field(default_factory=set)
    discarded: set[Fate] = field(default_factory=set)
    deleted_topics: list[str] = field(default_factory=list)
    brief: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def delivered(self, queue: str, batch: Batch) -> None:
        """Judge what a consumer got."""
        for message in batch:
            fate = (queue, message.body)
            self.counts["delivered"] += 1
            if fate in self.settled:
                self.violations.append(f"{fate} came again after it was settled, attempt {message.attempt}")
            if fate in self.refused:
                self.violations.append(f"{fate} came though it was refused")
            attempts_max = QUEUES.get(queue, SUBSCRIPTIONS.get(queue, ("", {}))[1]).get("max_deliveries")
            if attempts_max and message.attempt > attempts_max:
                self.violations.append(f"{fate} came for attempt {message.attempt} of {attempts_max}")


class Run:
    """One run against one broker that is killed again and again."""

    def __init__(self, broker: BrokerProcess, seed: int) -> None:
        self.broker = broker
        self.chance = random.Random(seed)
        self.book = Book()
        self.publishing = True
        self.is_over = False

    async def work(self, seconds: float) -> None:
        """Everybody works, the broker dies every second, then all is drained and judged."""
        async with connect(self.broker.url, connect_timeout=30) as client:
            await client.declare_queue(GRAVES)
            for name, settings in QUEUES.items():
                await client.declare_queue(name, **settings)
            await client.declare_topic(TOPIC, retention={"seconds": 3600})
            for name, (pattern, settings) in SUBSCRIPTIONS.items():
                await client.subscribe(pattern, name, **settings)
            async with anyio.create_task_group() as consumers:
                for name in [*QUEUES, *SUBSCRIPTIONS]:
                    consumers.start_soon(self.consume, client, name)
                consumers.start_soon(self.overhear, client)
                async with anyio.create_task_group() as others:
                    for name in [*QUEUES, TOPIC]:
                        others.start_soon(self.produce, client, name)
                    others.start_soon(self.bury, client)
                    others.start_soon(self.garden, client)
                    deadline = time.monotonic() + seconds
                    while time.monotonic() < deadline:
                        await anyio.sleep(LIFE_SECONDS)
                        await to_thread.run_sync(self.kill_and_start)
                    self.publishing = False
                await self.drain(client)
                self.is_over = True
            await self.judge(client)
        await to_thread.run_sync(self.broker.stop)

    def kill_and_start(self) -> None:
        """One death of the broker."""
        self.broker.check_calm()
        self.broker.kill()
        self.broker.start()
        self.book.counts["kills"] += 1

    async def produce(self, client: Client, destination: str) -> None:
        """Publish batches, and write down what became of each."""
        number, queues = 0, [destination] if destination != TOPIC else list(SUBSCRIPTIONS)
        async with client.producer(destination) as producer:
            while self.publishing:
                batch: list[tuple[list[str], NewMessage]] = []
                for _ in range(self.chance.randint(1, 20)):
                    body = f"{destination}/{number}/".encode() + b"." * self.chance.randint(0, 200)
                    number += 1
                    options: dict[str, Any] = {}
                    if destination != TOPIC and self.chance.random() < 0.2:
                        options["delay"] = self.chance.uniform(0.01, 0.5)
                    if destination in VANISHING[:2] and self.chance.random() < 0.2:
                        options["ttl"] = self.chance.uniform(0.01, 1.0)
                    names = queues
                    if destination == TOPIC:
                        subject = self.chance.choice(SUBJECTS)
                        options["subject"] = subject
                        names = queues if subject.endswith("paid") else queues[:1]
                    batch.append((names, NewMessage(body, **options)))
                fates = [(name, bytes(message.body)) for names, message in batch for name in names]
                try:
                    await producer.send_many([message for _, message in batch], timeout=30)
                except QueueFull:
                    self.book.counts["refused"] += len(batch)
                    self.book.refused.update(fates)
                except OutcomeUnknown:
                    self.book.unknown.update(fates)
                else:
                    for name, body in fates:
                        self.book.confirmed[name].append(body)
                await anyio.sleep(self.chance.uniform(0, 0.05))

    async def consume(self, client: Client, queue: str) -> None:
        """Settle what comes, in one of all ways; when nobody publishes any more, acknowledge everything."""
        while not self.is_over:
            async with client.consumer(queue, credit=30, lease=5) as consumer:
                for _ in range(self.chance.randint(1, 200)):
                    batch = await consumer.receive(max_messages=15, max_wait=0.2)
                    self.book.delivered(queue, batch)
                    if not batch:
                        break  # what was forgotten is given back as the consumer goes
                    await self.settle(consumer, queue, batch)

    async def settle(self, consumer: Consumer, queue: str, batch: Batch) -> None:
        """Give a verdict on each message, and learn what became of most."""
        fates = [(queue, message.body) for message in batch]
        if not self.publishing or self.chance.random() < 0.5:
            try:
                await batch.ack(confirm=True)
            except (LeaseLost, OutcomeUnknown):
                self.book.perhaps.update(fates)
            else:
                self.book.settled.update(fates)
            return
        acked: list[Fate] = []
        for message, fate in zip(batch, fates, strict=True):
            choice = self.chance.random()
            with contextlib.suppress(LeaseLost, OutcomeUnknown):
                if choice < 0.3:
                    self.book.perhaps.add(fate)
                    await message.ack()
                    acked.append(fate)
                elif choice < 0.6:
                    await message.nack(reason="random")
                elif choice < 0.75:
                    await message.nack(delay=self.chance.uniform(0, 0.3))
                elif choice < 0.85:
                    await message.reject("random")
                # Else forgotten: given back when the consumer goes, or its lease ends.
        if self.chance.random() < 0.9:  # others never learn whether their last words arrived
            with contextlib.suppress(LeaseLost, OutcomeUnknown):
                await consumer.flush()
                self.book.settled.update(acked)
        if self.chance.random() < 0.5:
            await anyio.sleep(self.chance.uniform(0, 0.1))

    async def overhear(self, client: Client) -> None:
        """A temporary subscription: its messages come in order, each settled once."""
        found = await client.subscribe(f"{TOPIC}.#")
        last = -1
        async with client.consumer(found.name) as consumer:
            while not self.is_over:
                batch = await consumer.receive(max_wait=0.2)
                numbers = [int(message.body.split(b"/")[1]) for message in batch]
                if numbers and (numbers != sorted(set(numbers)) or numbers[0] <= last):
                    self.book.violations.append(f"the temporary subscription got {numbers[:5]} after {last}")
                try:
                    await batch.ack(confirm=True)
                except (LeaseLost, OutcomeUnknown):
                    continue
                last = max([last, *numbers])
                self.book.counts["overheard"] += len(numbers)

    async def bury(self, client: Client) -> None:
        """Redrive and discard dead letters."""

        def marked(letter: DeadLetter) -> bool:
            chosen = int(letter.message.body.split(b"/")[1]) % 7 == 0
            if chosen:
                self.book.discarded.add((letter.death.origin, letter.message.body))
            return chosen

        while self.publishing:
            for queue in ("inside", GRAVES, "buries-inside"):
                with contextlib.suppress(OutcomeUnknown, QueueFull, Conflict):
                    if self.chance.random() < 0.7:
                        self.book.counts["redriven"] += await client.redrive(queue, count=self.chance.randint(1, 200))
                    else:
                        self.book.counts["discarded"] += await client.discard(queue, wanted=marked)
            await anyio.sleep(self.chance.uniform(0, 0.3))

    async def garden(self, client: Client) -> None:
        """Topics that go by force, queues that expire, subscriptions that begin in the past."""
        number = 0
        while self.publishing:
            number += 1
            topic, brief, early = f"weed-{number}", f"brief-{number}", f"early-{number}"
            with contextlib.suppress(OutcomeUnknown):
                await client.declare_topic(topic)
                await client.subscribe(f"{topic}.#", f"{topic}-all")
                await client.subscribe(f"{topic}.a", f"{topic}-a", expires=600)
                await client.send(f"{topic}.a", b"x")
                with contextlib.suppress(TopicNotFound):
                    while True:
                        with contextlib.suppress(OutcomeUnknown):
                            await client.delete_topic(topic, force=True)
                self.book.deleted_topics.append(topic)
            await client.declare_queue(brief, expires=EXPIRES_SECONDS)
            with contextlib.suppress(QueueNotFound, OutcomeUnknown):
                await client.send(brief, b"x")
            self.book.brief.append(brief)
            if number % 5 == 0:
                await client.subscribe(f"{TOPIC}.#", early, start="beginning")
                self.book.early.append(early)
            await anyio.sleep(self.chance.uniform(0.1, 0.6))

    async def drain(self, client: Client) -> None:
        """Return when nothing is left that could still come."""
        names = [*QUEUES, *SUBSCRIPTIONS]
        with anyio.move_on_after(DRAIN_SECONDS_MAX):
            while True:
                states = [await client.queue_info(name) for name in names]
                if not any(state[figure] for state in states for figure in ("ready", "leased", "delayed")):
                    return
                await anyio.sleep(0.1)
        held = {state["name"]: [state[figure] for figure in ("ready", "leased", "delayed")] for state in states}
        self.book.violations.append(f"not drained after {DRAIN_SECONDS_MAX} s: {held}")

    async def judge(self, client: Client) -> None:
        """Account for every message."""
        book = self.book
        dead: Counter[Fate] = Counter()
        for name in [GRAVES, *QUEUES, *SUBSCRIPTIONS]:
            for letter in await client.dead_letters(name, count=1_000_000):
                dead[letter.death.origin, letter.message.body] += 1
        book.counts["dead in the end"] = dead.total()
        book.violations += [f"{fate} is dead {count} times" for fate, count in dead.items() if count > 1]
        book.violations += [f"{fate} is dead though it was settled" for fate in dead.keys() & book.settled]
        book.violations += [f"{fate} is dead though it was refused" for fate in dead.keys() & book.refused]
        for name in [*QUEUES, *SUBSCRIPTIONS]:
            state = await client.queue_info(name)
            known = book.settled | book.perhaps | book.discarded | dead.keys()
            missing = [body for body in book.confirmed[name] if (name, body) not in known]
            vanished = state["expired_total"] + state["dropped_total"]
            sure = sum(1 for body in book.confirmed[name] if (name, body) in book.settled or dead[name, body])
            book.counts["confirmed"] += len(book.confirmed[name])
            book.counts["vanished"] += vanished
            unsure = sum(1 for body in book.confirmed[name] if (name, body) in known) - sure
            unsure += sum(1 for origin, _ in book.unknown if origin == name)
            print(
                f"{name:14} {len(book.confirmed[name]):7,} confirmed {sure:7,} settled or dead {unsure:5,} unsure "
                f"{vanished:6,} expired or dropped"
            )
            if len(missing) > vanished:
                book.violations.append(f"{name}: {len(missing)} missing, {vanished} expired or dropped: {missing[:5]}")
            if vanished > len(missing) + unsure:
                book.violations.append(f"{name}: {vanished} expired or dropped, but only {len(missing)} are missing")
        await self.judge_gardening(client)

    async def judge_gardening(self, client: Client) -> None:
        """What was to go is gone, and what began in the past has everything."""
        book = self.book
        await anyio.sleep(EXPIRES_SECONDS + 2)
        queues = {state["name"]: state for state in await client.queues()}
        topics = {state["name"] for state in await client.topics()}
        stays = [name for name in book.brief if name in queues]
        stays += [name for name in book.deleted_topics if name in topics or f"{name}-all" in queues]
        if stays:
            book.violations.append(f"these ought to be gone: {stays[:10]}")
        expected = book.confirmed["all"]
        for name in book.early:
            got: list[bytes] = []
            async with client.consumer(name, credit=10_000) as consumer:
                while batch := await consumer.receive(max_wait=2):
                    got += batch.bodies
                    await batch.ack(confirm=True)
            if set(got) - {body for _, body in book.unknown} != set(expected) or len(got) != len(set(got)):
                book.violations.append(f"{name} got {len(got)} of {len(expected)} messages, {len(set(got))} different")
            elif [body for body in got if ("all", body) not in book.unknown] != expected:
                book.violations.append(f"{name} got its messages in another order")
        book.counts["subscriptions from the beginning"] = len(book.early)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backend", choices=("trio", "asyncio"), default="trio")
    parser.add_argument("--directory", type=Path, help="keep the data here (default: a temporary directory)")
    chosen = parser.parse_args(arguments)
    logging.getLogger("sluicemq.client").setLevel(logging.ERROR)  # what is lost and forgotten here is no news
    options = ("--segment-bytes", "256KiB", "--snapshot-every-entries", "500", "--log-level", "warning")
    with tempfile.TemporaryDirectory(prefix="sluicemq-features-") as temporary:
        broker = BrokerProcess((chosen.directory or Path(temporary)) / "data", port=unused_port(), options=options)
        with broker:
            run = Run(broker, chosen.seed)
            try:
                anyio.run(run.work, chosen.seconds, backend=chosen.backend)
            except BaseException:
                print(broker.stderr, file=sys.stderr)
                raise
    for name, value in sorted(run.book.counts.items()):
        print(f"{name:34} {value:10,}")
    for violation in run.book.violations[:50]:
        print(f"VIOLATED {violation}")
    print("FAILED" if run.book.violations else "every promise held")
    return 1 if run.book.violations else 0


if __name__ == "__main__":
    sys.exit(main())
