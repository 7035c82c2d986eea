"""Random lives of message-id windows against a plain list: three machines, paged by chance, frozen, failed over.

The list holds every id that was ever recorded, with where and when. An id is known if its last entry there is young
enough and among the last so many. Everything else follows: what a batch is told, and what is in the queue.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sluicemq.broker.pipeline.identities import hashes_of
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues import window, window_index
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Declared, Published
from sluicemq.broker.queues.window import KNOWN_NUMBERS
from sluicemq.wire.errors import QueueFull
from sluicemq.wire.settings import DEDUP_IDS_MAX, DEDUP_SCOPES
from tests.broker.harness import Cluster
from tests.broker.paged import WhimsicalPager, make_chunks_small

IDS = st.lists(st.one_of(st.none(), st.sampled_from("abcdefgh")), min_size=1, max_size=12)
KEYS = st.sampled_from((None, "k", "l"))
BODY_BYTES = 10
LIMIT = 40


@dataclass
class Model:
    """What a window is: settings, and all ids that were ever recorded under this scope: (id, zxid, index, time)."""

    age_ms: int = 0
    ids_max: int = 0
    scope: int = 0
    rows: list[tuple[object, int, int, int]] = field(default_factory=list)
    confirmed: int = 0

    def change(self, seconds: float, count: int, scope: int, now: int) -> None:
        if not seconds or scope != self.scope:
            self.rows.clear()
            self.confirmed = 0
        if (round(seconds * 1000), count or DEDUP_IDS_MAX) != (self.age_ms, self.ids_max):
            # What counts no more never counts again.
            behind = len(self.rows)
            for number, (_, zxid, index, time) in enumerate(self.rows):
                if behind - number > self.ids_max or now >= time + self.age_ms:
                    self.rows[number] = (None, zxid, index, time)
        self.age_ms, self.ids_max, self.scope = round(seconds * 1000), count or DEDUP_IDS_MAX, scope

    def find(self, name: object, now: int) -> tuple[int, int] | None:
        for behind, (other, zxid, index, time) in enumerate(reversed(self.rows), 1):
            if other == name:
                return (zxid, index) if behind <= self.ids_max and now < time + self.age_ms else None
        return None

    def names(self, ids: list[str | None], keys: list[str | None]) -> list[object]:
        by_key = DEDUP_SCOPES[self.scope] == "key"
        return [None if id_ is None else (id_, key if by_key else 0) for id_, key in zip(ids, keys, strict=True)]

    def judge(self, names: list[object], zxid: int, now: int) -> dict[int, tuple[int, int]]:
        """Record what is new; return where the originals of the others are."""
        known: dict[int, tuple[int, int]] = {}
        for index, name in enumerate(names):
            if name is None or not self.age_ms:
                continue
            place = self.find(name, now)
            if place is None:
                self.rows.append((name, zxid, index, now))
            else:
                known[index] = place
        self.confirmed += len(known)
        return known


def spread(known: list[int]) -> dict[int, tuple[int, int]]:
    """What `Published.known` says, message by message."""
    found: dict[int, tuple[int, int]] = {}
    for first, count, zxid, index in zip(*(iter(known),) * KNOWN_NUMBERS, strict=True):
        for offset in range(count):
            found[first + offset] = (zxid, index + offset)
    return found


class Windows(RuleBasedStateMachine):
    """A queue and a topic with one subscription, to both of which the same few ids come again and again."""

    @initialize(seed=st.integers(0, 1 << 16), retention=st.booleans())
    def begin(self, seed: int, retention: bool) -> None:
        pagers = (None, WhimsicalPager(random.Random(seed)), WhimsicalPager(random.Random(seed + 1)))
        self.cluster = Cluster(pagers=pagers)
        self.models: dict[int, Model] = {}
        self.ready: dict[int, list[tuple[int, int]]] = {}
        kept = {"retention": {"bytes": 1 << 40}} if retention else {}
        for kind, name in (("queue", "orders"), ("topic", "events")):
            self.apply(e.Declare(self.now, "/", kind, name, kept))
        queue, topic = self.machine.find_queue("/", "orders"), self.machine.sources.find("/", "events")
        assert queue is not None
        assert topic is not None
        self.queue, self.topic = queue.id, topic.id
        self.apply(t.Subscribe(self.now, "/", "events", "#", "audit", {}, 0, t.START_NOW, 0, 0))
        audit = self.machine.find_queue("/", "audit")
        assert audit is not None
        self.audit = audit.id
        self.targets = {self.queue: self.queue, self.topic: self.audit}
        self.apply(e.ProducerOpen(self.now, "/", "", ""))
        self.producer = self.cluster.log[-1].zxid
        self.sequence = 0
        self.sent: list[tuple[e.PublishIdentified, list[object], int, int, int]] = []
        for number in self.targets:
            self.models[number] = Model()
            self.ready[number] = []
            self.change(number, 1.0, 0, 0)

    @property
    def now(self) -> int:
        return self.cluster.log_time_ms

    @property
    def machine(self) -> Machine:
        return self.cluster.machine

    def apply(self, entry: e.Entry):
        return self.cluster.apply(entry)

    def change(self, number: int, seconds: float, count: int, scope: int) -> None:
        kind, name = ("queue", "orders") if number == self.queue else ("topic", "events")
        wanted = {"dedup_window": seconds, "dedup_count": count, "dedup_scope": DEDUP_SCOPES[scope]}
        assert isinstance(self.apply(e.Declare(self.now, "/", kind, name, wanted)).value, Declared)
        self.models[number].change(seconds, count, scope, self.now)

    # --- what happens --------------------------------------------------------------------------------------------

    @rule(to_topic=st.booleans(), ids=IDS, key=KEYS, scope_of_before=st.booleans())
    def publish(self, to_topic: bool, ids: list[str | None], key: str | None, scope_of_before: bool) -> None:
        number = self.topic if to_topic else self.queue
        model = self.models[number]
        keys: list[str | None] = [key, *[None] * (len(ids) - 1)]
        scope = model.scope ^ 1 if scope_of_before and not len(ids) % 5 else model.scope
        hashes = hashes_of(ids, keys, scope)
        fields = self.now, number, self.producer, self.sequence + 1, len(ids), 0, None, b"x" * BODY_BYTES * len(ids)
        entry = e.PublishIdentified(*fields, [], [], scope, hashes)
        outcome = self.apply(entry)
        zxid = self.cluster.log[-1].zxid
        names: list[object] = model.names(ids, keys) if scope == model.scope else [None] * len(ids)
        if isinstance(outcome.error, QueueFull):
            fresh = [name for name in names if name is None or model.find(name, self.now) is None]
            assert fresh, "what is known is confirmed however full the queue is"
            assert not to_topic
            return
        self.sequence += 1
        known = model.judge(names, zxid, self.now)
        assert isinstance(outcome.value, Published)
        assert (outcome.value.zxid, outcome.value.count, outcome.value.duplicate) == (zxid, len(ids), False)
        assert spread(outcome.value.known) == known
        self.ready[number] += [(zxid, index) for index in range(len(ids)) if index not in known]
        self.sent.append((entry, names, zxid, self.sequence, model.scope))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """A batch that is sent again is told where each message lies: here, or where its id was first."""
        entry, names, zxid, sequence, scope = data.draw(st.sampled_from(self.sent))
        number = entry.queue
        model = self.models[number]
        value = self.apply(dataclasses.replace(entry, log_time_ms=self.now)).value
        assert isinstance(value, Published)
        assert (value.zxid, value.duplicate) == (zxid, True)
        known: dict[int, tuple[int, int]] = {}
        for index, name in enumerate(names):
            place = model.find(name, self.now) if name is not None and model.scope == entry.scope == scope else None
            if place is not None and place != (zxid, index) and model.age_ms:
                known[index] = place
        assert spread(value.known) == known
        assert sequence <= self.sequence

    @rule(milliseconds=st.sampled_from((1, 99, 500, 999, 1_000, 1_001, 60_000)), clock=st.booleans())
    def time_goes_on(self, milliseconds: int, clock: bool) -> None:
        self.cluster.log_time_ms += milliseconds
        if clock:
            self.apply(e.Clock(self.now, 1_000))

    @rule(
        to_topic=st.booleans(),
        seconds=st.sampled_from((0.0, 0.5, 1.0, 1.0, 30.0)),
        count=st.sampled_from((0, 0, 1, 3, 5, 10)),
        scope=st.sampled_from((0, 0, 1)),
    )
    def settings_change(self, to_topic: bool, seconds: float, count: int, scope: int) -> None:
        self.change(self.topic if to_topic else self.queue, seconds, count, scope)

    @rule(length=st.sampled_from((None, LIMIT)))
    def a_limit_comes_or_goes(self, length: int | None) -> None:
        self.apply(e.Declare(self.now, "/", "queue", "orders", {"max_length": length}))

    @rule()
    def the_queue_is_purged(self) -> None:
        """What is known stays known."""
        self.apply(e.Purge(self.now, self.queue))
        self.ready[self.queue].clear()

    @rule(steps=st.integers(1, 40))
    def a_follower_is_frozen(self, steps: int) -> None:
        self.cluster.freeze()
        self.cluster.pack(steps)

    @rule()
    def a_follower_is_rebuilt(self) -> None:
        self.cluster.freeze()
        self.cluster.pack(1_000_000)

    @rule()
    def the_leader_is_lost(self) -> None:
        for _ in self.cluster.fail_over():
            pass

    # --- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def every_message_that_is_no_duplicate_is_ready_once(self) -> None:
        for number, queue_id in getattr(self, "targets", {}).items():
            if number not in self.ready:
                continue
            queue = self.machine.existing_queue(queue_id)
            runs = self.cluster.peek(queue, 0, 1_000_000)
            found = [(run.zxid, run.first + offset) for run in runs for offset in range(run.size)]
            assert found == self.ready[number]

    @invariant()
    def duplicates_are_counted(self) -> None:
        for number, model in getattr(self, "models", {}).items():
            target = self.machine.queue(number) or self.machine.sources.get(number)
            assert target is not None
            if target.window is not None:
                assert target.window.confirmed_total == model.confirmed

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        again = self.cluster.replay()
        assert again.state_hash() == self.machine.state_hash(), "a broker that starts again finds the same"
        again.check()


@pytest.mark.parametrize("runs", [1, 4])
def test_a_window_knows_what_a_plain_list_of_all_ids_knows(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make_chunks_small(monkeypatch, runs)
    for module in (window, window_index):
        monkeypatch.setattr(module, "LEAF_MAX", 4)
    monkeypatch.setattr(window_index, "LEAF_FILL", 3)
    monkeypatch.setattr(window, "LEAVES_SWEPT", 1)
    run_state_machine_as_test(
        Windows,
        settings=settings(
            max_examples=150,
            stateful_step_count=30,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
