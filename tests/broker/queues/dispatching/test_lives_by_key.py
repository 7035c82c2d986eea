"""Random lives of one queue with an order, a mode and a policy: the dispatcher over the machine, all in flight.

Consumers come, go, pause and settle as they like, leaders are lost. At every pick: no message of a key overtakes an
earlier one, none is in two hands. Whenever nothing is picked any more, nobody could have had anything.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.dispatching import key_order
from sluicemq.broker.queues.dispatching.dispatcher import Dispatcher
from sluicemq.broker.queues.outcomes import Declared, ProducerOpened, Published, SessionClosed, SessionOpened
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_RELEASE
from tests.broker.harness import Cluster

if TYPE_CHECKING:
    from sluicemq.broker.queues.dispatching.dispatcher import Pick
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run

Address = tuple[int, int]

POLICIES = ("round_robin", "weighted", "random", "least_in_flight", "two_choices")
KEYS = 3
which = st.integers(0, 30)
keys = st.lists(st.integers(0, KEYS), min_size=1, max_size=8)
"""0 is a message without a key."""
verdicts = st.sampled_from((VERDICT_ACK, VERDICT_NACK, VERDICT_NACK, VERDICT_RELEASE, VERDICT_HANDED_OVER, e.ABANDONED))


def addresses(runs: list[Run]) -> list[Address]:
    return [(run.zxid, run.first + offset) for run in runs for offset in range(run.size)]


class LivesByKey(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.sessions: list[int] = []
        self.consumers: dict[tuple[int, int], int] = {}  # those attached, with their credit
        self.numbers = 0
        self.sequence = 0
        self.published = 0
        self.purged = 0

    @initialize(
        limit=st.integers(1, 3),
        grant_max=st.sampled_from((1, 2, 3, 100)),
        mode=st.sampled_from(("shared", "shared", "shared", "failover", "exclusive")),
        policy=st.sampled_from(POLICIES),
        ordering=st.sampled_from(("key", "key", "fifo")),
        round_runs=st.sampled_from((2, 5, 1_000)),
    )
    def begin(self, limit: int, grant_max: int, mode: str, policy: str, ordering: str, round_runs: int) -> None:
        key_order.ROUND_RUNS_MAX = round_runs
        self.keyed = ordering == "key"
        self.cluster = Cluster(grant_messages_max=grant_max, lease_seconds=10.0)
        self.grant_max = grant_max
        wanted = {"ordering": ordering, "mode": mode, "dispatch": policy, "key_in_flight_max": limit}
        declared = self.cluster.apply(e.Declare(self.now, "/", "queue", "orders", wanted)).value
        assert isinstance(declared, Declared)
        self.queue_id = declared.queue_id
        self.begin_to_dispatch()
        opened = self.cluster.apply(e.ProducerOpen(self.now, "/", "", "")).value
        assert isinstance(opened, ProducerOpened)
        self.producer = opened.producer
        for number in range(2):
            self.connect()
            self.consume(number, 5, 1)
        self.publish([1, 1, 2, 1, 0, 2, 3, 1])

    def begin_to_dispatch(self) -> None:
        self.cluster.dispatcher = Dispatcher(
            self.cluster.machine, chance=random.Random(1).randrange, grant_messages_max=self.grant_max
        )

    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            self.drain()
        key_order.ROUND_RUNS_MAX = 1_024

    @property
    def now(self) -> int:
        return self.cluster.log_time_ms

    @property
    def queue(self) -> Queue:
        queue = self.cluster.machine.queue(self.queue_id)
        assert queue is not None
        return queue

    # --- what clients do -----------------------------------------------------------------------------------------

    @rule()
    def connect(self) -> None:
        if len(self.sessions) < 3:
            self.commit(1_000)
            opened = self.cluster.apply(e.SessionOpen(self.now, "/", "", "", b"")).value
            assert isinstance(opened, SessionOpened)
            self.sessions.append(opened.session)

    @rule(number=which)
    def disconnect(self, number: int) -> None:
        if self.sessions:
            session = self.sessions.pop(number % len(self.sessions))
            self.cluster.propose(e.SessionClose(self.now, session, "gone"))

    @rule(number=which, credit=st.sampled_from((1, 2, 5, 1_000)), weight=st.integers(1, 3))
    def consume(self, number: int, credit: int, weight: int) -> None:
        if not self.sessions or len(self.consumers) >= 5:
            return
        if self.cluster.dispatcher.holder_against(self.queue_id) is not None:
            assert self.queue.settings["mode"] == "exclusive"
            return
        self.numbers += 1
        who = self.sessions[number % len(self.sessions)], self.numbers
        self.cluster.dispatcher.add_consumer(*who, self.queue_id, credit, 10**9, weight)
        self.consumers[who] = credit

    @rule(number=which)
    def cancel(self, number: int) -> None:
        if self.consumers:
            who = list(self.consumers)[number % len(self.consumers)]
            del self.consumers[who]
            self.cluster.dispatcher.remove_consumer(*who)

    @rule(number=which, credit=st.sampled_from((0, 1, 3, 1_000)))
    def change_credit(self, number: int, credit: int) -> None:
        if self.consumers:
            who = list(self.consumers)[number % len(self.consumers)]
            self.consumers[who] = credit
            self.cluster.dispatcher.set_credit(*who, credit, 10**9)

    @rule(number=which, verdict=verdicts, first=which, delay=st.sampled_from((0, 500)))
    def settle_and_go_on(self, number: int, verdict: int, first: int, delay: int) -> None:
        self.settle(number, verdict, first, 1, delay)
        self.deal()

    @rule(keys=keys)
    def publish(self, keys: list[int]) -> None:
        self.sequence += 1
        groups: list[int] = []
        for key in keys:
            if self.keyed and groups and groups[-2] == key:
                groups[-6] += 1
            else:
                groups += (1, 0, 0, 0, key if self.keyed else 0, 0)
        payload = b"x" * 10 * len(keys)
        common = self.now, self.queue_id, self.producer, self.sequence, len(keys), len(payload), None, payload
        self.cluster.propose(e.PublishGrouped(*common, groups))
        self.published += len(keys)

    @rule(number=which, verdict=verdicts, first=which, count=st.integers(1, 4), delay=st.sampled_from((0, 500)))
    def settle(self, number: int, verdict: int, first: int, count: int, delay: int) -> None:
        held = list(self.queue.leases.items())
        if not held:
            return
        (session, consumer), table = held[number % len(held)]
        tags = [tag + offset for tag, run, _ in table.pieces() for offset in range(run.size)]
        chosen = tags[first % len(tags) :][:count]
        ranges = [bound for tag in chosen for bound in (tag, tag)]
        due_ms = self.now + delay if delay and verdict == VERDICT_NACK else 0
        self.cluster.propose(e.Settle(self.now, session, consumer, verdict, ranges, due_ms))

    # --- what the leader does ------------------------------------------------------------------------------------

    @rule(steps=st.integers(1, 4))
    def pick(self, steps: int) -> None:
        for _ in range(steps):
            if self.look() is None:
                break

    @rule()
    def deal(self) -> None:
        """As it goes mostly: everything is committed, and all that may be picked is."""
        self.commit(1_000)
        for _ in range(100):
            if self.look() is None:
                break
        self.commit(1_000)

    def look(self) -> Pick | None:
        """Pick, and see that it keeps the order and takes nothing that is out."""
        queue = self.queue
        out = {
            address: (session, consumer)
            for (session, consumer), table in queue.leases.items()
            for _, run, _ in table.pieces()
            for address in addresses([run])
        }
        for planned in self.cluster.picks_in_flight.values():
            out |= dict.fromkeys(addresses(planned.runs), (planned.session, planned.consumer))
        ready = queue.peek(0, 10**6)
        key_of = {address: run.key for run in ready for address in addresses([run])}
        for table in queue.leases.values():
            for _, run, _ in table.pieces():
                key_of |= dict.fromkeys(addresses([run]), run.key)
        pick = self.cluster.pick()
        if pick is None:
            self.nobody_could_have_more(ready, out, key_of)
            return None
        who = pick.session, pick.consumer
        assert who in self.consumers, "only those who are there get messages"
        assert self.cluster.dispatcher.held(*who)[0] <= max(1, self.consumers[who]), "nobody gets more than his credit"
        taken = addresses(pick.runs)
        assert len(set(taken)) == len(taken)
        assert not out.keys() & set(taken), "what is out is in one hand"
        self.keeps_the_order(ready, out, key_of, taken, who)
        if queue.settings["mode"] != "shared":
            assert set(out.values()) <= {who}, "only the active one has messages"
        return pick

    def keeps_the_order(
        self,
        ready: list[Run],
        out: dict[Address, tuple[int, int]],
        key_of: dict[Address, int],
        taken: list[Address],
        who: tuple[int, int],
    ) -> None:
        if not self.keyed:
            left = [address for address in addresses(ready) if address not in out]
            assert left[: len(taken)] == taken, "first in, first out"
            return
        delayed = {run.key for run in self.queue.delayed.runs() if run.deliveries}
        for key in {key_of[address] for address in taken} - {0}:
            of_key = [address for address in taken if key_of[address] == key]
            left = [address for address in addresses(ready) if key_of[address] == key and address not in out]
            assert left[: len(of_key)] == of_key, "no message of a key overtakes an earlier one"
            assert key not in delayed, "a message that waits for another attempt holds up its key"
            holders = {holder for address, holder in out.items() if key_of[address] == key}
            assert holders <= {who}, "a key is in one hand"
            count = sum(key_of[address] == key for address in out) + len(of_key)
            assert count <= self.queue.settings["key_in_flight_max"]

    def nobody_could_have_more(
        self, ready: list[Run], out: dict[Address, tuple[int, int]], key_of: dict[Address, int]
    ) -> None:
        """Nothing stalls: whoever has credit has nothing that he may have."""
        queue, dispatcher = self.queue, self.cluster.dispatcher
        able = {
            (state.session, state.consumer)
            for state in dispatcher.attached(self.queue_id)
            if state.active and state.held_messages < state.credit_messages
        }
        if queue.settings["mode"] != "shared" and not set(out.values()) <= able:
            return
        if not able:
            return
        delayed = {run.key for run in queue.delayed.runs() if run.deliveries}
        for address in addresses(ready):
            if address in out:
                continue
            key = key_of[address]
            assert key, "a message without a key waits for nobody"
            if key in delayed:
                continue
            holders = {holder for other, holder in out.items() if key_of[other] == key}
            assert holders, "nobody has the key"
            count = sum(key_of[other] == key for other in out)
            assert not (holders <= able and count < queue.settings["key_in_flight_max"]), "its holder may have more"

    @rule(count=st.integers(1, 5))
    def commit(self, count: int) -> None:
        for _ in range(min(count, len(self.cluster.in_flight))):
            self.follow(self.cluster.commit())
        self.counts_agree()

    def follow(self, applied: object) -> None:
        outcome = applied.outcome  # type: ignore[attr-defined]
        assert outcome.error is None or isinstance(applied.entry, e.Settle), outcome.error  # type: ignore[attr-defined]
        if isinstance(outcome.value, Published):
            assert not outcome.value.duplicate
        if isinstance(outcome.value, SessionClosed):
            gone = applied.entry.session  # type: ignore[attr-defined]
            self.consumers = {who: credit for who, credit in self.consumers.items() if who[0] != gone}

    def counts_agree(self) -> None:
        """The dispatcher counts what is out as the machine and the grants in flight say."""
        line = self.cluster.dispatcher._lines.get(self.queue_id)
        if line is None or line.keys is None:
            return
        expected: dict[int, int] = {}
        runs = [run for table in self.queue.leases.values() for _, run, _ in table.pieces()]
        runs += [run for pick in self.cluster.picks_in_flight.values() for run in pick.runs]
        runs += [run for box in line.keys._boxes for run in box.runs]
        for run in runs:
            if run.key:
                expected[run.key] = expected.get(run.key, 0) + run.size
        assert {key: count for key, (_, count) in line.keys.in_flight().items()} == expected

    @rule(milliseconds=st.sampled_from((1, 400, 11_000)))
    def time_passes(self, milliseconds: int) -> None:
        self.cluster.log_time_ms += milliseconds
        self.cluster.expire()
        self.cluster.propose(e.Clock(self.now, 100))

    @rule()
    def purge(self) -> None:
        if self.published % 5 == 0:
            self.cluster.propose(e.Purge(self.now, self.queue_id))

    @precondition(lambda self: self.keyed)
    @rule(limit=st.integers(1, 3))
    def more_or_fewer_of_a_key(self, limit: int) -> None:
        self.commit(1_000)
        while self.look() is not None:
            pass
        self.commit(1_000)
        limit = max(limit, self.queue.settings["key_in_flight_max"])
        self.cluster.apply(e.Declare(self.now, "/", "queue", "orders", {"key_in_flight_max": limit}))

    @rule(mode=st.sampled_from(("shared", "failover")), policy=st.sampled_from(POLICIES))
    def change_mode(self, mode: str, policy: str) -> None:
        self.commit(1_000)
        if self.queue.settings["mode"] == "shared" and mode != "shared" and self.queue.leased:
            return  # several have messages, which the tests of modes tell
        self.cluster.apply(e.Declare(self.now, "/", "queue", "orders", {"mode": mode, "dispatch": policy}))

    @rule(survivors=st.integers(0, 3))
    def lose_the_leader(self, survivors: int) -> None:
        lost = list(self.cluster.in_flight)[survivors:]
        for record in lost:
            entry = record.entry()
            if isinstance(entry, e.PublishGrouped):
                self.published -= entry.count
                self.sequence = min(self.sequence, entry.sequence - 1)
        for applied in self.cluster.fail_over(survivors):
            self.follow(applied)
        self.sessions.clear()
        self.consumers.clear()
        self.begin_to_dispatch()

    def drain(self) -> None:
        """At the end of every life all that is left can be consumed, in the order of its keys."""
        self.commit(1_000)
        self.cluster.log_time_ms += 1_000
        self.cluster.expire()
        self.cluster.apply(e.Clock(self.now, 10_000))
        for who in list(self.consumers):
            self.cluster.dispatcher.set_credit(*who, 1_000, 10**9)
            self.consumers[who] = 1_000
        self.connect()
        self.consume(0, 1_000, 1)
        for _ in range(10_000):
            while self.look() is not None:
                pass
            self.commit(1_000)
            if not self.queue.messages:
                return
            for (session, consumer), table in sorted(self.queue.leases.items()):
                tags = [bound for tag, run, _ in table.pieces() for bound in (tag, tag + run.size - 1)]
                self.cluster.propose(e.Settle(self.now, session, consumer, VERDICT_ACK, tags))
            assert self.cluster.in_flight, f"{self.queue.messages} messages are left, and nobody gets them"
            self.commit(1_000)
        raise AssertionError("it goes on for ever")


TestLivesByKey = LivesByKey.TestCase
TestLivesByKey.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
