"""Random lives of topics and subscriptions beside a model that keeps a plain list of messages for each subscription.

The leader's part in catching up is the real one (`pipeline.filling.matching_rows`); the rest of it is played here.
After every step each subscription holds exactly what the model says, or, while it catches up, the beginning of that. At
any moment the machine may be written down, and go on as what was read again.
"""

from __future__ import annotations

import re
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sluicemq.broker.pipeline.bodies import Stored
from sluicemq.broker.pipeline.filling import Wanted, matching_rows
from sluicemq.broker.pipeline.grouping import groups_of, routes_of
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues.history import Place
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Declared, Outcome, ProducerOpened, Published, SessionOpened, Subscribed
from sluicemq.wire.batch import Batch, encode_batch

Address = tuple[int, int]
ROUTES = ("", "a", "b", "a.b", "a.b.a")
PATTERNS = ("", "#", "*", "a", "a.#", "#.b", "*.b", "#.a.#")


def matches(pattern: str, route: str) -> bool:
    parts = {"*": r"[^.]*\.", "#": r"(?:[^.]*\.)*"}
    regex = "".join(parts.get(word, re.escape(word) + r"\.") for word in pattern.split(".") if pattern)
    return re.fullmatch(regex, route + "." if route else "") is not None


class Subscription:
    """What the model knows of one: all that it must ever hold, in order, and how much of that waits behind the rest."""

    def __init__(self, number: int, pattern: str, session: int, old: list[Address]) -> None:
        self.number = number
        self.pattern = pattern
        self.session = session
        self.all = old
        self.catching_up = bool(old)


class Topics(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.machine = Machine()
        self.zxid = 0
        self.now = 1_000
        self.sequence = 0
        self.subscriptions: dict[str, Subscription] = {}
        self.published: list[tuple[Address, str]] = []
        self.visible: list[tuple[Address, Address, str]] = []  # where each became visible, in that order
        self.waiting: list[tuple[int, Address, str]] = []  # due, in the order of becoming ready
        self.log: dict[int, tuple[bytes, int]] = {}
        self.unrouted = 0
        self.sessions: list[int] = []
        declared = self.apply(e.Declare(self.now, "/", "topic", "t", {"retention": {"seconds": 1e6}})).value
        assert isinstance(declared, Declared)
        self.topic = declared.queue_id
        opened = self.apply(e.ProducerOpen(self.now, "/", "", "ann")).value
        assert isinstance(opened, ProducerOpened)
        self.producer = opened.producer

    def apply(self, entry: e.Entry) -> Outcome:
        self.zxid += 1
        return self.machine.apply(self.zxid, entry)

    def ready(self, messages: list[tuple[Address, Address, str]]) -> None:
        """Messages become ready at these places, in this order."""
        self.visible += messages
        for _, address, route in messages:
            got = [found for found in self.subscriptions.values() if matches(found.pattern, route)]
            self.unrouted += not got
            for subscription in got:
                subscription.all.append(address)

    @rule(
        parts=st.lists(st.tuples(st.sampled_from(ROUTES), st.sampled_from((0, 0, 0, 1, 2, 3))), min_size=1, max_size=6),
        shared=st.booleans(),
    )
    def publish(self, parts: list[tuple[str, int]], shared: bool) -> None:
        if shared and parts[0][0]:  # to a destination below the topic
            parts = [(parts[0][0], delay) for _, delay in parts]
        now = self.now
        batch = encode_batch(
            [b"x"] * len(parts),
            subjects=None if shared else [route or None for route, _ in parts],
            due_times=[-delay * 100 if delay else None for _, delay in parts],
        )
        numbers, texts = routes_of(Batch(batch), parts[0][0] if shared and parts[0][0] else "")
        if shared and not parts[0][0]:
            parts = [("", delay) for _, delay in parts]
        groups = groups_of(Batch(batch), now, routes=numbers)
        self.sequence += 1
        fields = (now, self.topic, self.producer, self.sequence, len(parts), len(parts), None, batch)
        entry = e.PublishGrouped(*fields, groups, texts) if groups else e.Publish(*fields)
        assert isinstance(self.apply(entry).value, Published)
        self.log[self.zxid] = (entry.header(), type(entry).VERSION)
        self.batches = {**getattr(self, "batches", {}), self.zxid: (batch, now, entry.route)}
        ready = []
        for index, (route, delay) in enumerate(parts):
            self.published.append(((self.zxid, index), route))
            if delay:
                self.waiting.append((now + delay * 100, (self.zxid, index), route))
            else:
                ready.append(((self.zxid, index), (self.zxid, index), route))
        self.waiting.sort(key=lambda each: each[0])
        self.ready(ready)

    @rule(milliseconds=st.integers(0, 250), items_max=st.sampled_from((1, 3, 100)))
    def clock(self, milliseconds: int, items_max: int) -> None:
        self.now += milliseconds
        before = self.delayed()
        self.apply(e.Clock(self.now, items_max))
        gone = len(before) - len(self.delayed())
        assert gone == len(before) or items_max < 100 or self.waiting[gone][0] > self.now, "all that is due is ready"
        assert all(due <= self.now for due, _, _ in self.waiting[:gone]), "nothing is early"
        due, self.waiting = self.waiting[:gone], self.waiting[gone:]
        self.ready([((self.zxid, number), address, route) for number, (_, address, route) in enumerate(due)])

    def delayed(self) -> list[Address]:
        topic = self.machine.sources.get(self.topic)
        assert topic is not None
        return [(run.zxid, index) for run in topic.delayed.runs() for index in range(run.first, run.first + run.size)]

    @rule()
    def open_session(self) -> None:
        opened = self.apply(e.SessionOpen(self.now, "/", "ann", "", b"")).value
        assert isinstance(opened, SessionOpened)
        self.sessions.append(opened.session)

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, 9))
    def close_session(self, which: int) -> None:
        session = self.sessions.pop(which % len(self.sessions))
        self.apply(e.SessionClose(self.now, session, ""))
        self.subscriptions = {n: each for n, each in self.subscriptions.items() if each.session != session}

    @rule(pattern=st.sampled_from(PATTERNS), old=st.booleans(), which=st.integers(0, 3), at=st.integers(0, 30))
    def subscribe(self, pattern: str, old: bool, which: int, at: int) -> None:
        session = self.sessions[which - 1] if 0 < which <= len(self.sessions) else 0
        start: tuple[int, ...] = (t.START_BEGINNING if old else t.START_NOW,)
        beginning: Address = (0, 0)
        if old and at < len(self.published):
            beginning = self.published[at][0]
            start = (t.START_POSITION, *beginning)
        name = "" if session else f"s{self.zxid}"
        made = self.apply(t.Subscribe(self.now, "/", "t", pattern, name, {}, session, *start)).value
        assert isinstance(made, Subscribed)
        queue = self.machine.find_queue("/", made.name)
        assert queue is not None
        past = [
            address for place, address, route in self.visible if old and place >= beginning and matches(pattern, route)
        ]
        self.subscriptions[made.name] = Subscription(queue.id, pattern, session, past)
        self.subscriptions[made.name].catching_up = old

    @precondition(lambda self: self.subscriptions)
    @rule(which=st.integers(0, 9))
    def unsubscribe(self, which: int) -> None:
        name = sorted(self.subscriptions)[which % len(self.subscriptions)]
        self.apply(t.Unsubscribe(self.now, "/", name))
        del self.subscriptions[name]

    @precondition(lambda self: any(each.catching_up for each in self.subscriptions.values()))
    @rule(which=st.integers(0, 9), messages_max=st.sampled_from((1, 2, 5, 100)), repeated=st.booleans())
    def fill(self, which: int, messages_max: int, repeated: bool) -> None:
        behind = [each for each in self.subscriptions.values() if each.catching_up]
        self.fill_one(behind[which % len(behind)], messages_max, repeated)

    def fill_one(self, subscription: Subscription, messages_max: int, repeated: bool = False) -> None:
        sources = self.machine.sources
        topic, filling = sources.topic_of(subscription.number), sources.filling_of(subscription.number)
        assert topic is not None
        assert filling is not None
        assert topic.history is not None
        end = Place(filling.end_zxid, 0)
        page = topic.history.read(filling.next, messages_max=messages_max, bytes_max=10**9, end=end)
        pairs = [(run, self.stored(run.zxid)) for run in page.runs]
        wanted = Wanted(topic.bindings[subscription.number].pattern, False, 0, self.now)
        rows, cut = matching_rows(pairs, wanted)
        assert cut is None
        entry = t.Fill(self.now, subscription.number, *filling.next, rows, *page.next, not page.more)
        assert self.apply(entry).error is None
        if repeated and page.more:
            assert self.apply(entry).error is not None, "a piece counts once"
        subscription.catching_up = sources.filling_of(subscription.number) is not None

    def stored(self, zxid: int) -> Stored:
        batch, published_ms, route = self.batches[zxid]
        return Stored(Batch(batch), published_ms, self.producer, 1, Batch(batch).count, None, route)

    @rule()
    def restart(self) -> None:
        before = self.machine.state_hash()
        self.machine = load(self.machine.freeze().pack(lambda: True))
        assert self.machine.state_hash() == before

    @invariant()
    def everybody_holds_what_the_model_says(self) -> None:
        self.machine.check()
        assert {queue.name for queue in self.machine.queues()} == set(self.subscriptions)
        topic = self.machine.sources.get(self.topic)
        assert topic is not None
        assert (topic.published_total, topic.unrouted_total) == (len(self.published), self.unrouted)
        assert self.delayed() == [address for _, address, _ in self.waiting]
        for subscription in self.subscriptions.values():
            held = self.held(subscription)
            if subscription.catching_up:
                assert held == subscription.all[: len(held)]
            else:
                assert held == subscription.all

    def held(self, subscription: Subscription) -> list[Address]:
        runs = self.machine.peek(subscription.number, 0, 10**9)
        return [(run.zxid, index) for run in runs for index in range(run.first, run.first + run.size)]

    def teardown(self) -> None:
        for subscription in getattr(self, "subscriptions", {}).values():
            while subscription.catching_up:
                self.fill_one(subscription, 3)
            assert self.held(subscription) == subscription.all


TestTopics: Any = Topics.TestCase
TestTopics.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
