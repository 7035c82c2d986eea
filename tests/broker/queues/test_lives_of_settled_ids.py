"""Random lives of ids that were acknowledged, against a plain list: machines paged by chance, frozen, failed over.

The test is the leader: it grants what it likes, with the ids that the messages have, and claims of any of them that its
id was acknowledged before. The machines must settle exactly those of which the list says so, and give back the others.
"""

from __future__ import annotations

import random
from collections import deque

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
from sluicemq.broker.queues import window, window_index
from sluicemq.broker.queues.outcomes import Settled
from sluicemq.broker.queues.queue import Queue
from sluicemq.broker.queues.tags import add_range
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE
from tests.broker.harness import Cluster
from tests.broker.paged import WhimsicalPager, make_chunks_small

IDS = st.lists(st.one_of(st.none(), st.sampled_from("abcdef")), min_size=1, max_size=8)
Address = tuple[int, int]


class SettledIds(RuleBasedStateMachine):
    """One queue that remembers what was acknowledged, and one consumer."""

    @initialize(seed=st.integers(0, 1 << 16))
    def begin(self, seed: int) -> None:
        pagers = (None, WhimsicalPager(random.Random(seed)), WhimsicalPager(random.Random(seed + 1)))
        self.cluster = Cluster(pagers=pagers)
        self.apply(e.Declare(self.now, "/", "queue", "orders", {"settled_window": 1.0}))
        self.queue_id = self.cluster.log[-1].zxid
        self.apply(e.ProducerOpen(self.now, "/", "", ""))
        self.producer = self.cluster.log[-1].zxid
        self.sequence = 0
        self.age_ms = 1_000
        self.ids: dict[Address, str | None] = {}
        self.ready: set[Address] = set()
        self.leased: dict[int, Address] = {}
        self.settled: list[tuple[str, int]] = []  # id and time of every acknowledgement, oldest first
        self.gone = 0
        self.known = 0
        self.connect()

    @property
    def now(self) -> int:
        return self.cluster.log_time_ms

    @property
    def queue(self) -> Queue:
        return self.cluster.machine.existing_queue(self.queue_id)

    def apply(self, entry: e.Entry):
        return self.cluster.apply(entry)

    def connect(self) -> None:
        self.apply(e.SessionOpen(self.now, "/", "ann", "", b""))
        self.session = self.cluster.log[-1].zxid
        self.next_tag = 1

    def is_known(self, id_: str | None) -> bool:
        return any(id_ == other and self.now < time + self.age_ms for other, time in self.settled)

    # --- what happens --------------------------------------------------------------------------------------------

    @rule(ids=IDS)
    def publish(self, ids: list[str | None]) -> None:
        self.sequence += 1
        fields = self.now, self.queue_id, self.producer, self.sequence, len(ids), 0, None, b"x" * len(ids)
        assert self.apply(e.Publish(*fields)).error is None
        zxid = self.cluster.log[-1].zxid
        for index, id_ in enumerate(ids):
            self.ids[zxid, index] = id_
            self.ready.add((zxid, index))

    @rule(count=st.integers(1, 6))
    def grant(self, count: int) -> None:
        """Messages are leased, each with its id."""
        runs = self.cluster.peek(self.queue, 0, count)
        if not runs:
            return
        places = [number for run in runs for number in (run.ready, run.zxid, run.first, run.size)]
        addresses = [(run.zxid, run.first + offset) for run in runs for offset in range(run.size)]
        ids = hashes_of([self.ids[address] for address in addresses], None, 0)
        outcome = self.apply(e.GrantIdentified(self.now, self.queue_id, self.session, 1, self.next_tag, places, ids))
        assert outcome.error is None
        for address in addresses:
            self.leased[self.next_tag] = address
            self.next_tag += 1
            self.ready.remove(address)

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), verdict=st.sampled_from((VERDICT_ACK, VERDICT_ACK, VERDICT_RELEASE, VERDICT_NACK)))
    def settle(self, data: st.DataObject, verdict: int) -> None:
        chosen = sorted(data.draw(st.sets(st.sampled_from(sorted(self.leased)), min_size=1, max_size=5)))
        tags: list[int] = []
        for tag in chosen:
            add_range(tags, tag, tag)
        assert self.apply(e.Settle(self.now, self.session, 1, verdict, tags)).value == Settled([], len(chosen))
        for tag in chosen:
            address = self.leased.pop(tag)
            id_ = self.ids[address]
            if verdict != VERDICT_ACK:
                self.ready.add(address)
                continue
            self.gone += 1
            if id_ is not None:
                self.settled.append((id_, self.now))

    @precondition(lambda self: self.leased)
    @rule(wide=st.booleans())
    def claim_that_all_were_settled_before(self, wide: bool) -> None:
        """Exactly those that were are settled; no others are lost."""
        tags = [1, 1 << 40] if wide else [min(self.leased), max(self.leased)]
        value = self.apply(e.SettleJudged(self.now, self.session, 1, e.SETTLED_BEFORE, tags)).value
        assert isinstance(value, Settled)
        assert value.settled == len(self.leased)
        for tag in list(self.leased):
            address = self.leased.pop(tag)
            if self.is_known(self.ids[address]):
                self.known += 1
                self.gone += 1
            else:
                self.ready.add(address)

    @rule(milliseconds=st.sampled_from((1, 500, 999, 1_000, 1_001)), clock=st.booleans())
    def time_goes_on(self, milliseconds: int, clock: bool) -> None:
        self.cluster.log_time_ms += milliseconds
        self.apply(e.Clock(self.now, 1_000) if clock else e.Epoch(self.now, 1))

    @rule(seconds=st.sampled_from((0.0, 0.5, 1.0, 5.0)))
    def settings_change(self, seconds: float) -> None:
        self.apply(e.Declare(self.now, "/", "queue", "orders", {"settled_window": seconds}))
        self.settled = [(id_, time) for id_, time in self.settled if self.now < time + self.age_ms and seconds]
        self.age_ms = round(seconds * 1000)
        if not seconds:
            self.known = 0

    @rule()
    def the_session_ends(self) -> None:
        self.apply(e.SessionClose(self.now, self.session, "gone"))
        self.ready |= set(self.leased.values())
        self.leased.clear()
        self.connect()

    @rule(steps=st.sampled_from((5, 40, 1_000_000)))
    def a_follower_is_frozen(self, steps: int) -> None:
        self.cluster.freeze()
        self.cluster.pack(steps)

    @rule()
    def the_leader_is_lost(self) -> None:
        deque(self.cluster.fail_over(), maxlen=0)
        self.ready |= set(self.leased.values())
        self.leased.clear()
        self.connect()

    # --- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def every_message_is_ready_leased_or_settled(self) -> None:
        if not hasattr(self, "ready"):
            return
        runs = self.cluster.peek(self.queue, 0, 1_000_000)
        found = {(run.zxid, run.first + offset) for run in runs for offset in range(run.size)}
        assert found == self.ready
        assert (self.queue.leased, self.queue.settled_total) == (len(self.leased), self.gone)
        if self.queue.settled_window is not None:
            assert self.queue.settled_window.confirmed_total == self.known

    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            assert self.cluster.replay().state_hash() == self.cluster.machine.state_hash(), "a start finds the same"


@pytest.mark.parametrize("runs", [1, 4])
def test_a_queue_knows_what_was_acknowledged_as_a_plain_list_does(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make_chunks_small(monkeypatch, runs)
    for module in (window, window_index):
        monkeypatch.setattr(module, "LEAF_MAX", 4)
    monkeypatch.setattr(window_index, "LEAF_FILL", 3)
    run_state_machine_as_test(
        SettledIds,
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
