"""What the choice of messages and consumers costs: microseconds a message, by order and policy. One line a figure.

    python -m bench dispatch

No log, no connections: the dispatcher over a queue machine in memory, whose messages were published in batches. What is
measured is `next_pick` alone. Run it alone: other load shows.
"""

from __future__ import annotations

import random
import statistics
import time
from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.dispatching.consumers import Consumer
from sluicemq.broker.queues.dispatching.dispatcher import Dispatcher
from sluicemq.broker.queues.dispatching.ring import Ring
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Declared, ProducerOpened, SessionOpened

if TYPE_CHECKING:
    from collections.abc import Callable

BATCHES = 100
BATCH_MESSAGES = 1_000
CONSUMERS = 10
KEYS = 5_000
ROUNDS = 3
PLENTY = 10**9
POLICIES = ("round_robin", "weighted", "random", "least_in_flight", "two_choices")


def _plain() -> list[int]:
    return [BATCH_MESSAGES, 0, 0, 0, 0, 0]


def _by_key() -> list[int]:
    chance = random.Random(1)
    groups: list[int] = []
    for _ in range(BATCH_MESSAGES):
        groups += (1, 0, 0, 0, 1 + chance.randrange(KEYS) * 858_993, 0)
    return groups


def _by_priority() -> list[int]:
    groups: list[int] = []
    for number in range(BATCH_MESSAGES):
        groups += (1, 0, 0, number % 10, 0, 0)
    return groups


def drained(groups: Callable[[], list[int]], grant_messages_max: int = 4_096, **settings: Any) -> tuple[float, float]:
    """Pick all that may be picked of a full queue.

    Returns:
        Microseconds a pick, and a message in the queue, whether it was picked or passed over.

    """
    machine = Machine()
    declared = machine.apply(1, e.Declare(1_000, "/", "queue", "orders", settings)).value
    producer = machine.apply(2, e.ProducerOpen(1_000, "/", "", "")).value
    session = machine.apply(3, e.SessionOpen(1_000, "/", "", "", b"")).value
    assert isinstance(declared, Declared)
    assert isinstance(producer, ProducerOpened)
    assert isinstance(session, SessionOpened)
    payload = b"x" * 100 * BATCH_MESSAGES
    for number in range(1, BATCHES + 1):
        common = 1_000, declared.queue_id, producer.producer, number, BATCH_MESSAGES, len(payload), None, payload
        machine.apply(3 + number, e.PublishGrouped(*common, groups()))
    dispatcher = Dispatcher(machine, chance=random.Random(1).randrange, grant_messages_max=grant_messages_max)
    for number in range(1, CONSUMERS + 1):
        dispatcher.add_consumer(session.session, number, declared.queue_id, PLENTY, PLENTY, number)
    picks = 0
    began = time.perf_counter()
    while True:
        pick = dispatcher.next_pick()
        if pick is not None:
            picks += 1
        elif not dispatcher.unfinished:
            break
    spent = (time.perf_counter() - began) * 1e6
    return spent / picks, spent / (BATCHES * BATCH_MESSAGES)


def _say(name: str, groups: Callable[[], list[int]], grant_messages_max: int = 4_096, **settings: Any) -> None:
    figures = [drained(groups, grant_messages_max, **settings) for _ in range(ROUNDS)]
    a_pick, a_message = (statistics.median(column) for column in zip(*figures, strict=True))
    print(f"{name:<44} {a_pick:9.1f} µs a pick {a_message:8.3f} µs a message", flush=True)


def _ring(count: int) -> None:
    """Say what consumers that join, and the first key after that, cost, and every other key."""
    ring = Ring()
    consumers = []
    for number in range(1, count + 2):
        consumer = Consumer(1, number, PLENTY, PLENTY)
        consumer.arrival = number
        consumers.append(consumer)
    began = time.perf_counter()
    for consumer in consumers[:-1]:
        ring.add(consumer)
    ring.owner(1)
    all_join = time.perf_counter() - began
    began = time.perf_counter()
    ring.add(consumers[-1])
    ring.owner(1)
    one_joins = time.perf_counter() - began
    keys = [number * 2_654_435_761 % 2**32 for number in range(10_000)]
    began = time.perf_counter()
    for key in keys:
        ring.owner(key)
    a_key = (time.perf_counter() - began) / len(keys)
    shown = f"ring of {count:,} consumers"
    print(
        f"{shown:<44} {all_join * 1e3:.1f} ms all join, {one_joins * 1e3:.2f} ms one more, {a_key * 1e6:.2f} µs a key"
    )


def measure() -> int:
    """Measure everything; return the exit code."""
    print(f"{BATCHES * BATCH_MESSAGES:,} messages in batches of {BATCH_MESSAGES:,}, {CONSUMERS} consumers")
    _say("shared, whole batches", _plain)
    for policy in POLICIES:
        _say(f"shared, {policy}, one message a pick", _plain, 1, dispatch=policy)
    _say("ten priorities, message by message", _by_priority)
    for limit in (1, 1_000):
        name = f"by key, {KEYS:,} keys, {limit:,} of a key out"
        _say(name, _by_key, ordering="key", key_in_flight_max=limit)
    for count in (10, 100, 1_000):
        _ring(count)
    return 0
