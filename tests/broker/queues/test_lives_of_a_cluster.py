"""Random lives of a cluster: the machine, the dispatcher and the outstanding leases against a naive model.

Anything may be in flight when anything else happens, and the leader may be lost between any two entries. After every
step nothing is lost, no message is leased twice, credit adds up, three machines agree; at the end of every life
everything that was published can be consumed.
"""

from __future__ import annotations

import inspect
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.outcomes import (
    Clocked,
    Declared,
    Deleted,
    Forgotten,
    Granted,
    Outcome,
    ProducerClosed,
    ProducerOpened,
    Published,
    Purged,
    SessionClosed,
    SessionOpened,
    Settled,
)
from sluicemq.broker.queues.runs import Run
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_RELEASE
from tests.broker.harness import Applied, Cluster
from tests.broker.paged import WhimsicalPager, make_chunks_small
from tests.broker.queues.model import Message, Model, tags_in

NAMES = ("orders", "billing", "mail")
BYTES_A_MESSAGE = 10

VERDICTS = (VERDICT_ACK, VERDICT_NACK, VERDICT_NACK, VERDICT_RELEASE, e.ABANDONED, VERDICT_HANDED_OVER)
verdicts = st.sampled_from(VERDICTS)
counts = st.lists(st.sampled_from((1, 1, 2, 3, 8)), min_size=1, max_size=6)
any_pair = st.tuples(st.integers(0, 5), st.integers(0, 5))
retentions = st.sampled_from(
    (None, {"seconds": 1.0}, {"seconds": 20.0}, {"bytes": 100}, {"seconds": 5.0, "bytes": 250}, {"bytes": 10_000})
)
which = st.integers(0, 19)
"""Chooses among those who are there."""


def exploded(runs: list[Run]) -> list[tuple[int, int, int, int, int]]:
    return [
        (run.zxid, run.first + offset, run.ready, run.deliveries, run.attempts)
        for run in runs
        for offset in range(run.size)
    ]


def described(messages: list[Message]) -> list[tuple[int, int, int, int, int]]:
    return [(m["zxid"], m["index"], m["ready"], m["deliveries"], m["attempts"]) for m in messages]


def plain(outcome: Outcome) -> Any:
    """The answer of the machine in the model's terms."""
    value = outcome.value
    match value:
        case _ if outcome.error is not None:
            return type(outcome.error)
        case SessionOpened(session):
            return session
        case SessionClosed(messages) | Clocked(messages):
            return messages
        case ProducerOpened(producer):
            return producer
        case ProducerClosed(known):
            return known
        case Published(zxid, count, duplicate):
            return zxid, count, duplicate
        case Granted(void):
            return tags_in(void)
        case Settled(lost, settled):
            return tags_in(lost), settled
        case Declared(queue_id, done, changes):
            return queue_id, done, changes
        case Deleted(count) | Purged(count):
            return count
        case Forgotten(messages, batches):
            return messages, batches
    return value


class LivesOfACluster(RuleBasedStateMachine):
    def __init__(self, pagers: tuple[WhimsicalPager | None, ...] = (None, None, None)) -> None:
        super().__init__()
        self.cluster = Cluster(grant_messages_max=16, lease_seconds=1.0, pagers=pagers)
        self.model = Model()
        self.consumer_numbers: Counter[int] = Counter()
        self.queue_of: dict[tuple[int, int], int] = {}
        self.credit_of: dict[tuple[int, int], tuple[int, int]] = {}
        for written in self.cluster.log:
            self.model.apply(written.zxid, written.entry())

    # --- the road ------------------------------------------------------------------------------------------------

    def follow(self, applied: Applied) -> Outcome:
        """Ask the model about an entry that the machines have applied."""
        entry, outcome = applied.entry, applied.outcome
        if isinstance(entry, e.Clock):
            assert isinstance(outcome.value, Clocked)
            self.model.time = max(self.model.time, entry.log_time_ms)
            expected = self.model.Clock(applied.zxid, entry, outcome.value.messages, self.forget())
            next_due_ms = self.cluster.machine.next_due_ms()
            more = next_due_ms is not None and next_due_ms <= self.cluster.machine.log_time_ms
            left = any(map(self.model.must_forget, self.model.queues))
            assert more == (bool(self.model.due()) or left), "more is due or it is not"
        else:
            expected = self.model.apply(applied.zxid, entry)
            self.forget()
        assert plain(outcome) == expected, f"{entry} answered {outcome}, the model says {expected}"
        return outcome

    def forget(self) -> int:
        """Let the model follow what the machine retains; return how many batches it let go."""
        gone = 0
        for number, naive in self.model.queues.items():
            queue = self.cluster.machine.queue(number)
            assert queue is not None
            if queue.history is None:
                naive["history"] = []
            else:
                kept = [(r.zxid, r.size, r.batch_bytes, r.published_ms) for r in queue.history.runs.runs()]
                gone += self.model.forget(number, kept)
        return gone

    def run(self, entry: e.Entry) -> Outcome:
        """Propose an entry and commit everything up to it."""
        self.cluster.propose(entry)
        while len(self.cluster.in_flight) > 1:
            self.follow(self.cluster.commit())
        return self.follow(self.cluster.commit())

    @property
    def now(self) -> int:
        return self.cluster.log_time_ms

    # --- who is there --------------------------------------------------------------------------------------------

    def a_queue(self, which: int) -> int:
        """One of the queues; sometimes one that does not exist any more."""
        alive = sorted(self.model.queues)
        return alive[which % len(alive)] if alive and which < 18 else 12_345

    def a_producer(self, which: int) -> int:
        alive = sorted(self.model.producers)
        return alive[which % len(alive)] if alive and which < 18 else 54_321

    def a_consumer(self, which: int) -> tuple[int, int]:
        alive = [who for who in self.queue_of if who[0] in self.model.sessions]
        return alive[which % len(alive)] if alive and which < 19 else (99_999, 1)

    # --- what clients do -----------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.declare("orders", None)
        self.open_producer("")
        self.consume(0, 0, 20)

    @rule(name=st.sampled_from(NAMES), delay=st.none() | st.sampled_from((0.0, 1.0, 5.0)))
    def declare(self, name: str, delay: float | None) -> None:
        self.run(e.Declare(self.now, "/", "queue", name, {} if delay is None else {"retry_delay": delay}))

    @rule(name=st.sampled_from(NAMES), retention=retentions)
    def retain(self, name: str, retention: dict[str, float] | None) -> None:
        self.run(e.Declare(self.now, "/", "queue", name, {"retention": retention}))

    @rule(name=st.sampled_from(NAMES), if_empty=st.integers(0, 3))
    def delete(self, name: str, if_empty: int) -> None:
        self.cluster.propose(e.Delete(self.now, "/", "queue", name, bool(if_empty)))

    @rule(queue=which, chance=st.integers(0, 2))
    def purge(self, queue: int, chance: int) -> None:
        if not chance:
            self.cluster.propose(e.Purge(self.now, self.a_queue(queue)))

    @rule(
        queue=which,
        spans=st.lists(st.tuples(which, st.integers(0, 3)), min_size=1, max_size=3),
        chance=st.integers(0, 2),
    )
    def lose(self, queue: int, spans: list[tuple[int, int]], chance: int) -> None:
        """Entries cannot be read any more, and somebody says so; now and then in words that make no sense."""
        number = self.a_queue(queue)
        zxids = sorted({m["zxid"] for m in self.model.messages.values() if m["queue"] == number})
        ranges = [
            (zxids[at % len(zxids)], zxids[min(at % len(zxids) + more, len(zxids) - 1)]) for at, more in spans if zxids
        ]
        entries = [zxid for pair in ranges for zxid in pair]
        if chance:
            joined: list[int] = []
            for first, last in sorted(ranges):
                if joined and first <= joined[-1]:
                    joined[-1] = max(joined[-1], last)
                else:
                    joined += (first, last)
            entries = joined
        self.cluster.propose(e.Forget(self.now, number, entries, "lost"))

    @rule(name=st.sampled_from(("", "", "web")))
    def open_producer(self, name: str) -> None:
        self.run(e.ProducerOpen(self.now, "/", name, "someone"))

    @rule(producer=which, chance=st.integers(0, 3))
    def close_producer(self, producer: int, chance: int) -> None:
        if chance:
            return
        number = self.a_producer(producer)
        known = self.model.producers.get(number)
        if known is None or not known["name"]:
            self.run(e.ProducerClose(self.now, number))

    @rule(producer=which, queue=which, counts=counts)
    def publish(self, producer: int, queue: int, counts: list[int]) -> None:
        number = self.a_producer(producer)
        for count in counts:
            known = self.model.producers.get(number, {"zxids": []})
            entries = [written.entry() for written in self.cluster.in_flight]
            in_flight = sum(1 for entry in entries if isinstance(entry, e.Publish) and entry.producer == number)
            sequence = len(known["zxids"]) + in_flight + 1
            payload = b"x" * BYTES_A_MESSAGE * count
            entry = e.Publish(self.now, self.a_queue(queue), number, sequence, count, len(payload), None, payload)
            self.cluster.propose(entry)

    @rule(producer=which, queue=which, sequence=st.integers(0, 5))
    def publish_out_of_sequence(self, producer: int, queue: int, sequence: int) -> None:
        self.run(e.Publish(self.now, self.a_queue(queue), self.a_producer(producer), sequence, 1, 1, None, b"x" * 10))

    @rule(who=which, chance=st.integers(0, 2))
    def disconnect(self, who: int, chance: int) -> None:
        if not chance:
            self.cluster.propose(e.SessionClose(self.now, self.a_consumer(who)[0], "connection lost"))

    @rule(session=which, queue=which, credit=st.integers(0, 20))
    def consume(self, session: int, queue: int, credit: int) -> None:
        """A consumer joins, in a session of its own or in one that exists."""
        sessions = sorted(self.model.sessions)
        if session % 2 or not sessions:
            self.run(e.SessionOpen(self.now, "/", "someone", "a client", b""))
            sessions = [max(self.model.sessions)]
        number = self.a_queue(queue)
        if number in self.model.queues:
            chosen = sessions[session % len(sessions)]
            self.consumer_numbers[chosen] += 1
            consumer = self.consumer_numbers[chosen]
            self.cluster.dispatcher.add_consumer(chosen, consumer, number, credit, 100)
            self.queue_of[chosen, consumer] = number
            self.credit_of[chosen, consumer] = credit, 100

    @rule(who=which, credit=st.integers(0, 30), bytes_=st.integers(0, 200))
    def change_credit(self, who: int, credit: int, bytes_: int) -> None:
        consumer = self.a_consumer(who)
        self.credit_of[consumer] = credit, bytes_
        self.cluster.dispatcher.set_credit(*consumer, credit, bytes_)

    @rule(who=which, chance=st.integers(0, 2))
    def cancel(self, who: int, chance: int) -> None:
        if not chance:
            self.cluster.dispatcher.remove_consumer(*self.a_consumer(who))

    @rule(who=which, verdict=verdicts, numbers=st.sets(st.integers(0, 12), min_size=1, max_size=6), due=st.booleans())
    def settle(self, who: int, verdict: int, numbers: set[int], due: bool) -> None:
        """A verdict on ranges of tags, held or not, in flight or not, across the borders of runs."""
        consumer = self.a_consumer(who)
        tags = set(self.model.leased(*consumer)) | self.tags_in_flight(consumer)
        lowest = max(min(tags, default=1) - 1, 1)
        ordered = [lowest + number for number in sorted(numbers)]
        ordered = ordered[: len(ordered) // 2 * 2] or [ordered[0]] * 2
        due_time_ms = self.now + 700 if due and verdict == VERDICT_NACK else 0
        self.cluster.propose(e.Settle(self.now, *consumer, verdict, ordered, due_time_ms, "because"))

    @rule(producer=which, who=which, counts=counts, credit=st.integers(5, 20), chance=st.integers(0, 3))
    def deliver(self, producer: int, who: int, counts: list[int], credit: int, chance: int) -> None:
        """Messages come, and go to whoever may have them; now and then the grants stay in flight."""
        consumer = self.a_consumer(who)
        alive = sorted(self.model.queues)
        self.publish(
            producer, alive.index(self.queue_of[consumer]) if self.queue_of.get(consumer) in alive else 0, counts
        )
        self.commit_some(100)
        self.change_credit(who, credit, 1_000)
        self.dispatch_all()
        if chance:
            self.commit_some(100)

    @rule(who=which, verdict=verdicts, start=st.integers(0, 3), size=st.integers(1, 4), due=st.booleans())
    def settle_a_range(self, who: int, verdict: int, start: int, size: int, due: bool) -> None:
        """A verdict on tags that are held, across the borders of runs."""
        consumer = self.a_consumer(who)
        held = sorted(self.model.leased(*consumer))[start : start + size]
        if held:
            due_time_ms = self.now + 700 if due and verdict == VERDICT_NACK else 0
            self.cluster.propose(e.Settle(self.now, *consumer, verdict, [held[0], held[-1]], due_time_ms, "because"))

    @rule(who=which, verdict=verdicts)
    def settle_everything(self, who: int, verdict: int) -> None:
        consumer = self.a_consumer(who)
        tags: list[int] = []
        for tag in sorted(self.model.leased(*consumer)):
            tags += (tag, tag)
        if tags:
            self.cluster.propose(e.Settle(self.now, *consumer, verdict, tags))

    @rule(
        who=which,
        verdict=st.sampled_from((0, 1, 2, 5, 15, 18)),
        pairs=st.lists(st.tuples(*[st.integers(0, 5)] * 2), max_size=3),
    )
    def settle_nonsense(self, who: int, verdict: int, pairs: list[tuple[int, int]]) -> None:
        tags = [tag for pair in pairs for tag in pair]
        self.cluster.propose(e.Settle(self.now, *self.a_consumer(who), verdict, tags))

    # --- what the leader does ------------------------------------------------------------------------------------

    @rule()
    def dispatch(self) -> None:
        self.dispatched()

    def dispatched(self) -> bool:
        """Let the leader pick once, within the consumer's credit; return whether there was anything to pick."""
        pick = self.cluster.pick()
        if pick is None:
            return False
        who = pick.session, pick.consumer
        messages_max, bytes_max = self.credit_of[who]
        messages, bytes_ = self.cluster.dispatcher.held(*who)
        assert self.queue_of[who] == pick.queue_id
        assert messages <= messages_max, "credit in messages is never exceeded"
        assert bytes_ < max(bytes_max, 1) + BYTES_A_MESSAGE, "credit in bytes is exceeded by one message at most"
        return True

    @rule()
    def dispatch_all(self) -> None:
        while self.dispatched():
            pass

    @rule()
    def come_to_rest(self) -> None:
        """When everything is committed and dispatched, nothing waits that somebody could have."""
        self.commit_some(1000)
        self.dispatch_all()
        self.commit_some(1000)
        self.dispatch_all()
        self.commit_some(1000)
        for number in self.model.queues:
            for who in self.cluster.dispatcher.consumers_of(number):
                messages, bytes_ = self.cluster.dispatcher.held(*who)
                messages_max, bytes_max = self.credit_of[who]
                if messages < messages_max and (bytes_ < bytes_max or not messages):
                    assert not self.model.ready(number), "messages are ready and a consumer has credit"

    @rule(ms=st.sampled_from((0, 100, 800, 800, 20_000)))
    def time_passes(self, ms: int) -> None:
        self.cluster.log_time_ms += ms
        self.cluster.expire()

    @rule(items_max=st.integers(1, 4))
    def clock(self, items_max: int) -> None:
        self.cluster.propose(e.Clock(self.now, items_max))

    @rule()
    def commit_one(self) -> None:
        self.commit_some(1)

    @rule(count=st.integers(1, 10))
    def commit_some(self, count: int) -> None:
        for _ in range(min(count, len(self.cluster.in_flight))):
            self.follow(self.cluster.commit())

    @rule(survivors=st.integers(0, 5), chance=st.integers(0, 2))
    def lose_the_leader(self, survivors: int, chance: int) -> None:
        if chance:
            return
        for applied in self.cluster.fail_over(survivors):
            self.follow(applied)
        assert not self.model.sessions, "the new leader has closed all sessions"

    # --- images --------------------------------------------------------------------------------------------------

    @rule()
    def freeze(self) -> None:
        self.cluster.freeze()

    @rule(steps=st.integers(1, 5))
    def pack(self, steps: int) -> None:
        self.cluster.pack(steps)

    # --- what always holds ---------------------------------------------------------------------------------------

    def tags_in_flight(self, who: tuple[int, int]) -> set[int]:
        tags: set[int] = set()
        for written in self.cluster.in_flight:
            entry = written.entry()
            if isinstance(entry, e.Grant) and (entry.session, entry.consumer) == who:
                tags.update(range(entry.first_tag, entry.first_tag + sum(entry.runs[2::3])))
        return tags

    @invariant()
    def every_message_is_at_one_place(self) -> None:
        for number, naive in self.model.queues.items():
            queue = self.cluster.machine.queue(number)
            assert queue is not None
            assert queue.name == naive["name"]
            assert queue.settings == naive["settings"]
            states = Counter(m["state"] for m in self.model.messages.values() if m["queue"] == number)
            assert queue.ready == states["ready"]
            assert queue.leased == states["leased"]
            assert queue.delayed.messages == states["delayed"]
            assert queue.settled_total == states["settled"]
            assert queue.purged_total == states["purged"]
            assert queue.published_total == states.total()
            ready = self.model.ready(number)
            assert exploded(self.cluster.peek(queue, 0, 10**6)) == described(ready), (
                "order, deliveries and attempts are the model's"
            )
            assert exploded(self.cluster.peek(queue, 3, 4)) == described(ready)[3:7]
        assert {q.id for q in self.cluster.machine.queues()} == set(self.model.queues)

    @invariant()
    def leases_are_the_models(self) -> None:
        for session in self.cluster.machine.sessions.values():
            for consumer, table in session.leases.items():
                found = {
                    first_tag + offset: (run.zxid, run.first + offset, bool(handed))
                    for first_tag, run, handed in table.pieces()
                    for offset in range(run.size)
                }
                naive = self.model.leased(session.number, consumer)
                assert found == {tag: (m["zxid"], m["index"], m["handed"]) for tag, m in naive.items()}

    @invariant()
    def credit_is_what_is_in_flight_or_leased(self) -> None:
        for who in self.queue_of:
            if who[0] not in self.model.sessions or self.queue_of[who] not in self.model.queues:
                continue
            if who not in self.cluster.dispatcher.consumers_of(self.queue_of[who]):
                continue
            tags = self.tags_in_flight(who) | set(self.model.leased(*who))
            messages, bytes_ = self.cluster.dispatcher.held(*who)
            assert messages == len(tags), "the credit of a settled message comes back, that of another does not"
            assert bytes_ == BYTES_A_MESSAGE * messages or messages, "no bytes are held without messages"
            expiring = {
                tag
                for written in self.cluster.in_flight
                if isinstance(entry := written.entry(), e.Settle)
                and entry.verdict == e.EXPIRED
                and (entry.session, entry.consumer) == who
                for tag in tags_in(entry.tags)
            }
            assert set(tags_in(self.cluster.outstanding.tags_of(*who))) == tags - expiring

    def teardown(self) -> None:
        """Everything that was published can be consumed, by the same leader and its dispatcher."""
        self.cluster.pack(10**6)
        while self.cluster.in_flight:
            self.follow(self.cluster.commit())
        for session in sorted(self.model.sessions):
            self.run(e.SessionClose(self.now, session, "done"))
        opened = self.run(e.SessionOpen(self.now, "/", "", "the last consumer", b"")).value
        assert isinstance(opened, SessionOpened)
        self.cluster.log_time_ms += 1_000_000
        while any(m["state"] == "delayed" for m in self.model.messages.values()):
            self.run(e.Clock(self.now, 3))
        for number, queue in enumerate(self.model.queues, start=1):
            self.cluster.dispatcher.add_consumer(opened.session, number, queue, 7, 10**6)
        while (pick := self.cluster.pick()) is not None:
            outcome = self.follow(self.cluster.commit())
            assert outcome.value == Granted([]), "nothing that is picked is void when nothing interferes"
            last = pick.first_tag + pick.messages - 1
            self.run(e.Settle(self.now, pick.session, pick.consumer, VERDICT_ACK, [pick.first_tag, last]))
        left = {m["state"] for m in self.model.messages.values()}
        assert left <= {"settled", "purged"}, f"messages are left behind: {left}"
        assert self.cluster.replay().state_hash() == self.cluster.machine.state_hash(), "the log tells the same story"


# How often things happen in a long life, beside one another. Hypothesis tries what is odd; this tries what is common.
WEIGHTS: dict[str, int] = {
    "deliver": 12,
    "publish": 4,
    "settle_a_range": 14,
    "settle": 4,
    "settle_everything": 3,
    "dispatch": 3,
    "dispatch_all": 3,
    "come_to_rest": 2,
    "commit_one": 4,
    "commit_some": 8,
    "consume": 3,
    "change_credit": 3,
    "time_passes": 3,
    "clock": 4,
    "disconnect": 2,
    "cancel": 1,
    "purge": 1,
    "lose": 2,
    "delete": 1,
    "declare": 2,
    "open_producer": 1,
    "close_producer": 1,
    "publish_out_of_sequence": 1,
    "settle_nonsense": 1,
    "lose_the_leader": 2,
    "freeze": 4,
    "pack": 6,
}
LONG_LIFE_STEPS = 200


def any_arguments(rng: random.Random) -> dict[str, Callable[[], Any]]:
    """How to choose the argument of each name."""
    return {
        "producer": lambda: rng.randint(0, 17),
        "queue": lambda: rng.randint(0, 18),
        "who": lambda: rng.randint(0, 18),
        "session": lambda: rng.randint(0, 9),
        "counts": lambda: rng.choices((1, 1, 2, 3, 8), k=rng.randint(1, 5)),
        "credit": lambda: rng.randint(0, 25),
        "bytes_": lambda: rng.choice((0, 50, 200, 1000)),
        "chance": lambda: rng.randint(0, 1),
        "verdict": lambda: rng.choice(VERDICTS),
        "numbers": lambda: set(rng.sample(range(13), rng.randint(1, 6))),
        "start": lambda: rng.randint(0, 3),
        "size": lambda: rng.randint(1, 6),
        "due": lambda: rng.random() < 0.5,
        "count": lambda: rng.randint(1, 10),
        "ms": lambda: rng.choice((0, 100, 400, 800, 1_500)),
        "items_max": lambda: rng.randint(1, 4),
        "steps": lambda: rng.randint(1, 5),
        "survivors": lambda: rng.randint(0, 8),
        "name": lambda: rng.choice(NAMES),
        "delay": lambda: rng.choice((None, 1.0, 5.0)),
        "if_empty": lambda: rng.randint(0, 3),
        "sequence": lambda: rng.randint(0, 5),
        "spans": lambda: [(rng.randint(0, 19), rng.randint(0, 3)) for _ in range(rng.randint(1, 3))],
        "pairs": lambda: [(rng.randint(0, 5), rng.randint(0, 5)) for _ in range(rng.randint(0, 3))],
    }


@pytest.mark.parametrize("seed", range(40))
def test_a_long_life(seed: int) -> None:
    live_long(LivesOfACluster(), random.Random(seed))


@pytest.mark.parametrize("first_seed", range(0, 40, 4))
def test_long_lives_of_which_most_lies_on_pages(first_seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One machine keeps everything, two page by chance; any of them may lead, and they never differ."""
    drops = fills = 0
    for seed in range(first_seed, first_seed + 4):
        make_chunks_small(monkeypatch, 1 + seed % 3)
        pagers = (WhimsicalPager(random.Random(seed)), WhimsicalPager(random.Random(seed + 1000)), None)
        life = LivesOfACluster(pagers)
        live_long(life, random.Random(seed))
        for pager, machine in zip(pagers, life.cluster.machines, strict=True):
            if pager is not None:
                pager.settle_accounts(machine)
                drops += pager.drops
                fills += pager.fills
    assert drops, "something was on pages only"
    assert fills, "and was needed again"


def live_long(life: LivesOfACluster, rng: random.Random) -> None:
    choose = any_arguments(rng)
    life.begin()
    for step in rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=LONG_LIFE_STEPS):
        action = getattr(life, step)
        action(**{name: choose[name]() for name in inspect.signature(action).parameters})
        life.every_message_is_at_one_place()
        life.leases_are_the_models()
        life.credit_is_what_is_in_flight_or_leased()
    life.teardown()


TestLivesOfACluster = LivesOfACluster.TestCase
TestLivesOfACluster.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
