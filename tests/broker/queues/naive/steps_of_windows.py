"""Steps of messages with ids, of windows that know them, and of producers that come and go."""

from __future__ import annotations

import dataclasses
from typing import Any

from sluicemq.broker.pipeline.identities import hashes_of
from sluicemq.broker.queues import entries as e
from tests.broker.queues.naive.choices import One, step
from tests.broker.queues.naive.steps import BUSY, GROUPS, SUBSCRIPTIONS, WHICH
from tests.broker.queues.naive.steps_of_moving import StepsOfMoving
from tests.broker.queues.naive.steps_of_transactions import IDS, Group, cycled
from tests.broker.queues.naive.windows import holder_of
from tests.broker.queues.naive.world import BYTES_A_MESSAGE

DEDUPS: tuple[dict[str, Any], ...] = (
    {"dedup_window": 1.0},
    {"dedup_window": 30.0, "dedup_count": 3},
    {"dedup_window": 30.0, "dedup_count": 0},
    {"dedup_scope": "key"},
    {"dedup_scope": "queue"},
    {"dedup_window": 0.0},
)
SETTLED: tuple[dict[str, Any], ...] = ({"settled_window": 1.0}, {"settled_window": 30.0}, {"settled_window": 0.0})
NAMES = One("", "seller", "buyer")


class AllSteps(StepsOfMoving):
    """All steps that there are."""

    @step(2, name=One("orders", "orders", "mail", *SUBSCRIPTIONS), settings=One(*DEDUPS, *SETTLED))
    def declare_windows(self, name: str, settings: dict[str, Any]) -> None:
        if self.world.queue_named(name) is not None:
            self.run(e.Declare(self.now, "/", "queue", name, settings))

    @step(1, name=One("news", "sport"), settings=One(*DEDUPS))
    def declare_windows_of_a_topic(self, name: str, settings: dict[str, Any]) -> None:
        if self.world.topic_named(name) is not None:
            self.run(e.Declare(self.now, "/", "topic", name, settings))

    @step(6, which=BUSY, to_topic=One(False, False, True), groups=GROUPS, ids=IDS, other=WHICH, again=WHICH)
    def publish_with_ids(
        self, which: int, to_topic: bool, groups: list[Group], ids: list[str | None], other: int, again: int
    ) -> None:
        """Now and then of the scope that was before, or twice."""
        number = self.a_target(which, to_topic)
        holder = holder_of(self.world, number)
        window = None if holder is None else holder["window"]
        scope = (0 if window is None else window.scope) ^ (other == 9)
        routes: list[str] = []
        flat = self.groups_for(number, groups, routes)
        count = sum(group[0] for group in groups)
        keys: list[str | None] = [str(group[3]) for group in groups for _ in range(group[0])]
        sequence = len(self.world.producers[self.producer]) + 1
        fields = self.now, number, self.producer, sequence, count, count, None, b"x" * count * BYTES_A_MESSAGE
        hashes = hashes_of(cycled(ids, count), keys, scope)
        if len(groups) == 1 and not any(flat[1:]):
            flat = []
        entry = e.PublishIdentified(*fields, flat, routes, scope, hashes)
        zxid, answer = self.run(entry)
        if isinstance(answer, tuple):
            self.note_names(zxid, cycled(ids, count), keys)
        if again > 7:
            self.run(dataclasses.replace(entry, log_time_ms=self.now))

    @step(1, name=NAMES)
    def a_producer_comes(self, name: str) -> None:
        """Whoever had its name before must stop."""
        number, _ = self.run(e.ProducerOpen(self.now, "/", name, "ann"))
        self.producers.append(number)

    @step(2, which=WHICH, queue=BUSY, ahead=One(1, 1, 1, 0, 2, -3), groups=GROUPS)
    def another_producer_publishes(self, which: int, queue: int, ahead: int, groups: list[Group]) -> None:
        """It may be one that was closed, or that has lost its name."""
        if self.producers:
            number = self.producers[which % len(self.producers)]
            sequence = len(self.world.producers.get(number, ())) + ahead
            self.send(self.a_queue(queue)["id"], number, max(sequence, 0), groups)

    @step(1, which=WHICH, chance=WHICH)
    def a_producer_goes(self, which: int, chance: int) -> None:
        if self.producers and chance < 6:
            self.run(e.ProducerClose(self.now, self.producers[which % len(self.producers)]))

    def begin(self, *arguments: Any, **named: Any) -> None:
        self.producers: list[int] = []
        super().begin(*arguments, **named)
