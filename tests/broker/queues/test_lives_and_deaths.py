"""Random lives in which messages fail, age, make room and die: three machines and a dispatcher against a naive model.

After every step each message is at one place, the same that the model says: ready, leased, delayed, dead, settled,
expired, dropped or purged. At the end of every life the log makes the same machine, and whatever is ready can be had.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues.notes import NAMES
from sluicemq.wire.errors import QueueFull
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_REJECT, VERDICT_RELEASE
from tests.broker.harness import Cluster
from tests.broker.paged import WhimsicalPager, make_chunks_small
from tests.broker.queues.model_of_death import GONE, Message, Model

if TYPE_CHECKING:
    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run

ORDERS, GRAVE = "orders", "grave"
BYTES_A_MESSAGE = 10
VERDICTS = (
    VERDICT_ACK,
    VERDICT_NACK,
    VERDICT_NACK,
    VERDICT_REJECT,
    VERDICT_RELEASE,
    VERDICT_HANDED_OVER,
    e.EXPIRED,
    e.ABANDONED,
)
CHANGES: tuple[dict[str, Any], ...] = (
    {"retry": [0.0, 1.0, 2.5]},
    {"retry": {"initial": 0.5, "factor": 3.0, "max": 4.0, "jitter": 0.0}},
    {"retry": None, "retry_delay": 0.0},
    {"max_deliveries": 1},
    {"max_deliveries": 2},
    {"max_deliveries": None},
    {"dead_letter": GRAVE},
    {"dead_letter": "nowhere"},
    {"dead_letter": None},
    {"ttl": 2.0},
    {"ttl": None},
    {"max_length": 6, "overflow": "reject"},
    {"max_length": 6, "overflow": "drop_head"},
    {"max_length": 3, "overflow": "dead_letter"},
    {"max_length": None},
)
REASONS = ("out of stock", "timeout", "")
groups = st.lists(
    st.tuples(
        st.integers(1, 4), st.sampled_from((0, 0, 700)), st.sampled_from((0, 0, 0, 900)), st.sampled_from((0, 0, 4))
    ),
    min_size=1,
    max_size=3,
)
which = st.integers(0, 9)


class LivesAndDeaths(RuleBasedStateMachine):
    def __init__(self, pagers: tuple[WhimsicalPager | None, ...] = (None, None, None)) -> None:
        super().__init__()
        self.cluster = Cluster(grant_messages_max=5, pagers=pagers)
        self.model = Model()
        self.sequence = 0
        self.consumers: Counter[int] = Counter()

    # --- the road ------------------------------------------------------------------------------------------------

    def run(self, entry: e.Entry) -> tuple[int, Outcome]:
        zxid = self.cluster.propose(entry)
        outcome = self.cluster.commit().outcome
        self.model.time = max(self.model.time, entry.log_time_ms)
        return zxid, outcome

    @property
    def now(self) -> int:
        return self.cluster.log_time_ms

    def queue(self, name: str) -> Queue:
        found = self.cluster.machine.find_queue("/", name)
        assert found is not None
        return found

    @initialize()
    def begin(self) -> None:
        for name in (ORDERS, GRAVE):
            self.change(name, {})
        self.producer, _ = self.run(e.ProducerOpen(self.now, "/", "", "ann"))
        self.connect()

    def change(self, name: str, wanted: dict[str, Any]) -> None:
        entry = e.Declare(self.now, "/", "queue", name, wanted)
        zxid, outcome = self.run(entry)
        assert outcome.error is None
        self.model.declare(zxid, entry)

    def connect(self) -> None:
        self.session, _ = self.run(e.SessionOpen(self.now, "/", "bob", "", b""))
        for number, name in ((1, ORDERS), (2, GRAVE)):
            self.cluster.dispatcher.add_consumer(self.session, number, self.queue(name).id, 12, 10_000)

    # --- what happens --------------------------------------------------------------------------------------------

    @rule(change=st.sampled_from(CHANGES))
    def change_orders(self, change: dict[str, Any]) -> None:
        self.change(ORDERS, change)

    @rule(ttl=st.sampled_from((None, 3.0)))
    def change_grave(self, ttl: float | None) -> None:
        self.change(GRAVE, {"ttl": ttl})

    @rule(groups=groups)
    def publish(self, groups: list[tuple[int, int, int, int]]) -> None:
        flat: list[int] = []
        for size, delay, ttl, priority in groups:
            flat += (size, self.now + delay if delay else 0, ttl, priority, 0, 0)
        size = sum(flat[::6])
        batch = (self.now, self.queue(ORDERS).id, self.producer, self.sequence + 1, size, size, None)
        entry = e.PublishGrouped(*batch, bytes(BYTES_A_MESSAGE * size), flat)
        zxid, outcome = self.run(entry)
        taken = self.model.publish(zxid, entry)
        assert taken == (outcome.error is None)
        assert taken or isinstance(outcome.error, QueueFull)
        self.sequence += taken

    @rule(times=st.integers(1, 3))
    def deliver(self, times: int) -> None:
        for _ in range(times):
            pick = self.cluster.pick()
            if pick is None:
                return
            grant = self.cluster.in_flight[-1].entry()
            assert isinstance(grant, e.Grant)
            applied = self.cluster.commit()
            assert applied.outcome.value.void == [], "what is dispatched is there"
            # What is left of runs that lost a part to a redrive lies in front.
            self.model.grant(grant, grant.queue == self.queue(ORDERS).id)

    @rule(consumer=st.sampled_from((1, 1, 2)), verdict=st.sampled_from(VERDICTS), start=which, size=which, due=which)
    def settle(self, consumer: int, verdict: int, start: int, size: int, due: int) -> None:
        held = sorted(self.model.leased(self.session, consumer))[start % 4 :][: size + 1]
        if not held:
            return
        tags = [held[0], held[-1]]
        due_ms = 0
        if verdict == VERDICT_NACK:
            due_ms = (0, e.BY_RETRY_POLICY, e.BY_RETRY_POLICY, self.now + 600)[due % 4]
        kind = e.SettleJudged if due_ms == e.BY_RETRY_POLICY or verdict == VERDICT_REJECT else e.Settle
        entry = kind(self.now, self.session, consumer, verdict, tags, due_ms, REASONS[due % 3])
        zxid, _ = self.run(entry)
        self.model.settle(zxid, entry)

    @rule(consumer=st.sampled_from((1, 2)))
    def acknowledge_all(self, consumer: int) -> None:
        self.settle(consumer, VERDICT_ACK, 0, 9, 0)

    @rule(reason=st.sampled_from(REASONS), chance=which)
    def disconnect(self, reason: str, chance: int) -> None:
        if chance > 4:
            return
        zxid, _ = self.run(e.SessionClose(self.now, self.session, reason))
        self.model.close(zxid, self.session, reason)
        self.connect()

    @rule(ms=st.sampled_from((100, 500, 1_000, 5_000)))
    def wait(self, ms: int) -> None:
        self.cluster.log_time_ms += ms
        zxid, _ = self.run(e.Clock(self.now, 10_000))
        self.model.clock(zxid)

    @rule(name=st.sampled_from((ORDERS, GRAVE)), chance=which)
    def purge(self, name: str, chance: int) -> None:
        if chance < 2:
            entry = e.Purge(self.now, self.queue(name).id)
            self.run(entry)
            self.model.purge(entry)

    def dead(self, name: str) -> list[Run]:
        queue = self.queue(name)
        pager = self.cluster.pagers[self.cluster.leader]
        if pager is not None:
            pager.fill(queue.dead.missing(queue.dead.head, len(queue.dead)))
        strangers = [
            run
            for run in self.cluster.peek(queue, 0, 10**6)
            if (note := queue.notes.get(run.note)) is not None and note.origin
        ]
        return [*queue.dead.runs(), *strangers]

    @rule(name=st.sampled_from((ORDERS, GRAVE)), start=which, count=which, part=which, drop=st.booleans(), to=which)
    def move_dead_letters(self, name: str, start: int, count: int, part: int, drop: bool, to: int) -> None:
        """Redrive or discard some, also parts of runs."""
        runs = self.dead(name)[start % 3 :][: 1 + count % 3]
        flat: list[int] = []
        for run in runs:
            skip = part % run.size
            flat += (run.ready, run.zxid, run.first + skip, max((run.size - skip) // (1 + part % 2), 1))
        number = self.queue(name).id
        if drop:
            entry = q.Discard(self.now, number, flat)
            self.run(entry)
            self.model.discard(entry)
            return
        # To where they came from; from a grave to the other queue, where nobody else shall be.
        redrive = q.Redrive(self.now, number, flat, self.queue(ORDERS).id if to % 2 and name == GRAVE else 0)
        zxid, outcome = self.run(redrive)
        if outcome.error is None:
            self.model.redrive(zxid, redrive)
        else:
            assert not flat or isinstance(outcome.error, QueueFull)

    @rule()
    def freeze(self) -> None:
        self.cluster.freeze()

    @rule(steps=st.integers(1, 5))
    def pack(self, steps: int) -> None:
        self.cluster.pack(steps)

    @rule()
    def fail_over(self) -> None:
        old = self.session
        for applied in self.cluster.fail_over():
            if isinstance(applied.entry, e.SessionClose):
                self.model.time = max(self.model.time, applied.entry.log_time_ms)
                self.model.close(applied.zxid, old, applied.entry.reason)
        self.connect()

    # --- what must be --------------------------------------------------------------------------------------------

    @invariant()
    def every_message_is_where_the_model_says(self) -> None:
        for name in self.model.settings:
            queue = self.queue(name)
            notes = {number: (NAMES[n.kind], n.origin, n.text, n.attempts) for number, n in queue.notes.items()}

            def of_run(run: Run, extra: int = 0, notes: dict[int, Any] = notes) -> list[tuple[Any, ...]]:
                about = (run.deliveries, run.attempts, run.expires_ms, notes.get(run.note), run.priority, extra)
                return [(run.zxid, run.first + offset, *about) for offset in range(run.size)]

            ready = self.cluster.peek(queue, 0, 10**6)
            expected = self.model.ready(name)
            if name == ORDERS:  # of what dies of age at once the model does not know the order
                assert [each for run in ready for each in of_run(run)] == [of_message(m) for m in expected]
            assert sorted(map(repr, (x for run in ready for x in of_run(run)))) == sorted(
                repr(of_message(m)) for m in expected
            )
            delayed = [each for run in queue.delayed.runs() for each in of_run(run, run.ready)]
            assert delayed == [of_message(m, m["due"]) for m in self.model.delayed(name)]
            aside = sorted(repr(each) for run in queue.dead.runs() for each in of_run(run))
            assert aside == sorted(repr(of_message(m)) for m in self.model.where(name, "dead"))
            leased = sorted(repr(each) for run in queue.leased_runs() for each in of_run(run))
            assert leased == sorted(repr(of_message(m)) for m in self.model.where(name, "leased"))
            for state in GONE:
                # Each queue counts what went there; the model's message knows where it was last.
                assert getattr(queue, f"{state}_total") == len(self.model.where(name, state))
        assert sum(
            self.queue(name).published_total - self.queue(name).moved_total for name in self.model.settings
        ) == len(self.model.messages)

    def teardown(self) -> None:
        if not self.model.settings:
            return
        assert self.cluster.replay().state_hash() == self.cluster.machine.state_hash(), "the log makes the same machine"
        for consumer in (1, 2):
            self.cluster.dispatcher.set_credit(self.session, consumer, 10**6, 10**9)
        while self.cluster.pick() is not None:
            self.cluster.commit()
        assert not any(self.queue(name).ready for name in self.model.settings), "whatever is ready can be had"


def of_message(m: Message, extra: int = 0) -> tuple[Any, ...]:
    about = (m["deliveries"], m["attempts"], m["expires"], m["note"], m["priority"], extra)
    return (m["zxid"], m["index"], *about)


@pytest.mark.parametrize("seed", range(6))
def test_long_lives_of_which_most_lies_on_pages(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make_chunks_small(monkeypatch, 1 + seed % 3)
    rng = random.Random(seed)
    pagers = (WhimsicalPager(random.Random(seed)), WhimsicalPager(random.Random(seed + 100)), None)
    life = LivesAndDeaths(pagers)
    life.begin()
    number = lambda: rng.randrange(10)  # noqa: E731 - one line says it
    steps = {
        "publish": lambda: life.publish(
            [
                (rng.randint(1, 4), rng.choice((0, 0, 700)), rng.choice((0, 0, 900)), rng.choice((0, 0, 4)))
                for _ in range(rng.randint(1, 3))
            ]
        ),
        "deliver": lambda: life.deliver(3),
        "settle": lambda: life.settle(rng.choice((1, 1, 2)), rng.choice(VERDICTS), number(), number(), number()),
        "wait": lambda: life.wait(rng.choice((100, 500, 1_000))),
        "move": lambda: life.move_dead_letters(
            rng.choice((ORDERS, GRAVE)), number(), number(), number(), rng.random() < 0.2, number()
        ),
        "change": lambda: life.change_orders(rng.choice(CHANGES)),
        "disconnect": lambda: life.disconnect("gone", number()),
        "freeze": life.freeze,
        "pack": lambda: life.pack(3),
        "fail over": lambda: life.fail_over() if rng.random() < 0.2 else None,
    }
    weights = {"publish": 8, "deliver": 8, "settle": 12, "move": 4, "change": 3}
    for step in rng.choices(list(steps), [weights.get(name, 1) for name in steps], k=250):
        steps[step]()
        life.every_message_is_where_the_model_says()
    life.teardown()


TestLivesAndDeaths = LivesAndDeaths.TestCase
TestLivesAndDeaths.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
