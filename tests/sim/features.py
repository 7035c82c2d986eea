"""What a seed may ask of queues beside the plain: orders, priorities, delays, lifetimes, limits, topics, dead letters.

It is drawn once for a run; clients and the leader's part of the service read it here. `full_account` follows all of it
with the naive world of the queue machine. This module must not know nodes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues import entries_of_topics as t
from tests.sim.once import Once, identified
from tests.sim.once import draw as draw_once

if TYPE_CHECKING:
    import random

    from sluicemq.broker.queues.machine import Machine

VHOST = "/"
TOPIC = "news"
GRAVE = "grave"
SUBSCRIPTIONS = {"everything": "#", "some": "*.a"}
ROUTES = ("", "x.a", "x.b", "y.a")
KEYS = 5
KEYS_IN_FLIGHT_AT_LAST = 64
Request = tuple[Any, ...]

BEHAVIOURS: tuple[dict[str, Any], ...] = (
    {},
    {"dead_letter": GRAVE, "max_deliveries": 2},
    {"max_deliveries": 3, "retry": [0.0, 0.3, 1.0]},
    {"ordering": "key"},
    {"ordering": "key", "key_in_flight_max": 3, "dead_letter": GRAVE, "max_deliveries": 2},
    {"ordering": "key", "poison_key": "park", "max_deliveries": 2},
    {"ordering": "key", "poison_key": "skip", "max_deliveries": 1, "mode": "failover"},
    {"mode": "failover", "retry": {"initial": 0.2, "factor": 2.0, "max": 1.0, "jitter": 0.0}},
    {"max_length": 40, "overflow": "reject"},
    {"max_length": 30, "overflow": "drop_head"},
    {"max_length": 30, "overflow": "dead_letter", "dead_letter": GRAVE},
    {"ttl": 2.0},
    {"ttl": 1.0, "dead_letter": GRAVE},
    {"dispatch": "weighted"},
    {"dispatch": "least_in_flight"},
)


@dataclasses.dataclass(frozen=True)
class Features:
    """The choice of one seed.

    Attributes:
        settings: Of each queue and subscription.
        has_topic: Whether there is a topic.
        delays: Whether messages are delayed.
        lifetimes: Whether messages expire.
        once: What has to happen once; None: nothing beside what every producer wants.
        topic: Settings of the topic.

    """

    settings: dict[str, dict[str, Any]]
    has_topic: bool
    delays: bool
    lifetimes: bool
    once: Once | None = None
    topic: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def queues(self) -> list[str]:
        """All queues that somebody has to consume."""
        return list(self.settings)

    def set_up(self) -> list[Request]:
        """What an operator does at first."""
        requests: list[Request] = [("declare", "queue", GRAVE, {})]
        if self.once is not None:
            requests += [("declare", "queue", name, self.settings[name]) for name in self.once.queues]
        if self.has_topic:
            requests.append(("declare", "topic", TOPIC, self.topic))
            requests += [("subscribe", name, SUBSCRIPTIONS[name], self.settings[name]) for name in SUBSCRIPTIONS]
        return requests

    def whim(self, chance: random.Random) -> Request:
        """What an operator does now and then."""
        queue = chance.choice(self.queues)
        if chance.random() < 0.4:
            what = chance.choice(("pause_publish", "pause_deliver"))
            return ("alter", queue, {what: chance.random() < 0.4})
        return chance.choice((("redrive", queue), ("unpark", queue), ("cancel", queue), ("put_off", queue)))

    def let_go_on(self) -> list[Request]:
        """What an operator does at last: nothing is paused or parked any more, and no key waits for each confirmation.

        With one message of a key at a time, and entries that wait for each other on a slow network, a few hundred
        messages would take longer than a cluster may take to be one again, though nothing is wrong.
        """
        requests: list[Request] = []
        for queue, settings in self.settings.items():
            if settings.get("ordering") == "key":
                requests.append(("declare", "queue", queue, {"key_in_flight_max": KEYS_IN_FLIGHT_AT_LAST}))
            requests += [("alter", queue, {"pause_publish": False, "pause_deliver": False}), ("unpark", queue)]
        return requests


def draw(chance: random.Random, queues: list[str]) -> Features:
    """Let chance decide. Limits and lifetimes do not meet in subscriptions: their order is nobody's promise."""
    has_topic = chance.random() < 0.6
    lifetimes = chance.random() < 0.4
    settings = {name: chance.choice(BEHAVIOURS) for name in queues}
    if has_topic:
        harmless = [each for each in BEHAVIOURS if not each.keys() & {"max_length", "ttl"}]
        settings |= {name: chance.choice(harmless) for name in SUBSCRIPTIONS}
    return Features({**settings, GRAVE: {}}, has_topic, chance.random() < 0.5, lifetimes)


def with_once(chance: random.Random, features: Features) -> Features:
    """Let chance decide what has to happen once beside the rest."""
    once = draw_once(chance)
    settings = {name: each | once.windows(chance) for name, each in features.settings.items()}
    settings |= {name: once.windows(chance) for name in once.queues}
    return dataclasses.replace(features, settings=settings, once=once, topic=once.windows(chance, topic=True))


def groups_for(chance: random.Random, features: Features, queue: str, count: int) -> list[tuple[int, ...]]:
    """Return (messages, delay, lifetime, rank, route) of the parts of a batch, times in milliseconds."""
    groups: list[tuple[int, ...]] = []
    while count:
        size = chance.randint(1, count)
        count -= size
        delay = chance.choice((0, 0, 300, 1_500)) if features.delays else 0
        lifetime = chance.choice((0, 0, 1_000)) if features.lifetimes else 0
        groups.append((size, delay, lifetime, chance.randint(0, KEYS), chance.randrange(len(ROUTES))))
    return groups


# --- the leader's part ----------------------------------------------------------------------------------------------


def publishing(
    machine: Machine, time_ms: int, name: str, producer: int, sequence: int, count: int, payload: bytes, groups: Any
) -> e.Publish | None:
    """Return the entry for a batch, as a leader writes it; None where nothing of the name is there."""
    queue = machine.find_queue(VHOST, name)
    topic = machine.sources.find(VHOST, name)
    if queue is None and topic is None:
        return None
    number = queue.id if queue is not None else topic.id if topic is not None else 0
    fields = time_ms, number, producer, sequence, count, len(payload), None, payload
    if not groups:
        return identified(machine, e.Publish(*fields))
    keyed = queue is None or queue.settings["ordering"] == "key"
    flat: list[int] = []
    for size, delay, lifetime, rank, route in groups:
        due_ms = time_ms + delay if delay else 0
        priority = 0 if queue is not None and keyed else rank
        flat += (size, due_ms, lifetime, priority, rank if keyed else 0, route if topic is not None else 0)
    return identified(machine, e.PublishGrouped(*fields, flat, list(ROUTES[1:]) if topic is not None else []))


def operating(machine: Machine, time_ms: int, kind: str, arguments: list[Any]) -> e.Entry | None:
    """Return the entry for an operator's wish; None where there is nothing to do."""
    if kind == "subscribe":
        name, pattern, settings = arguments
        return t.Subscribe(time_ms, VHOST, TOPIC, pattern, name, settings)
    queue = machine.find_queue(VHOST, arguments[0])
    if queue is None:
        return None
    if kind == "alter":
        return q.Alter(time_ms, VHOST, "queue", queue.name, arguments[1])
    if kind == "unpark":
        parked = [] if queue.keys is None else list(queue.keys.parked)
        return q.Alter(time_ms, VHOST, "queue", queue.name, {"unpark": parked})
    if kind == "redrive":
        flat = [number for run in queue.dead.runs()[:3] for number in (run.ready, run.zxid, run.first, run.size)]
        return q.Redrive(time_ms, queue.id, flat, 0) if flat else None
    delayed = [number for run in queue.delayed.runs()[:2] for number in (run.ready, run.zxid, run.first, run.size)]
    if not delayed:
        return None
    if kind == "cancel":
        return q.Cancel(time_ms, queue.id, delayed)
    assert kind == "put_off", f"unknown request {kind}"
    return q.Reschedule(time_ms, queue.id, delayed, time_ms + 500)
