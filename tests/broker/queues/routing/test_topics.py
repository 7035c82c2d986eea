"""Topics and subscriptions in the machine, told as stories; every entry is checked for broken invariants."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues.image import live_runs, load
from sluicemq.broker.queues.machine import Machine, MachineLimits
from sluicemq.broker.queues.outcomes import (
    Declared,
    Deleted,
    FillsUp,
    Outcome,
    ProducerOpened,
    Published,
    QueueGone,
    Ready,
    SessionOpened,
    Subscribed,
)
from sluicemq.broker.queues.routing import topic as topic_module
from sluicemq.broker.queues.routing.topic import Topic
from sluicemq.wire.errors import (
    Conflict,
    InvalidRequest,
    LimitReached,
    NameConflict,
    PositionExpired,
    QueueFull,
    QueueNotFound,
    RetentionOff,
    SessionNotFound,
    SluiceError,
    TopicInUse,
    TopicNotFound,
    UnknownOption,
)

T = TypeVar("T")
Address = tuple[int, int]


class Broker:
    """A machine with a topic `orders`, a producer and a session."""

    def __init__(self, limits: MachineLimits | None = None, **settings: object) -> None:
        self.machine = Machine(limits)
        self.now = 1_000
        self.zxid = 0
        self.sequence = 0
        self.apply(e.Epoch(self.now, 1))
        self.orders = self.get(Declared, self.declare_topic("orders", **settings)).queue_id
        self.producer = self.get(ProducerOpened, self.apply(e.ProducerOpen(self.now, "/", "", "ann"))).producer
        self.session = self.connect()

    def apply(self, entry: e.Entry) -> Outcome:
        self.zxid += 1
        outcome = self.machine.apply(self.zxid, entry)
        self.machine.check()
        return outcome

    @staticmethod
    def get(kind: type[T], outcome: Outcome) -> T:
        assert isinstance(outcome.value, kind), outcome
        return outcome.value

    @staticmethod
    def refused(kind: type[SluiceError], outcome: Outcome) -> SluiceError:
        assert type(outcome.error) is kind, outcome
        assert outcome.value is None
        assert not outcome.effects
        return outcome.error

    @property
    def topic(self) -> Topic:
        topic = self.machine.sources.get(self.orders)
        assert topic is not None
        return topic

    def declare_topic(self, name: str, **settings: object) -> Outcome:
        return self.apply(e.Declare(self.now, "/", "topic", name, settings))

    def declare(self, name: str, **settings: object) -> Outcome:
        return self.apply(e.Declare(self.now, "/", "queue", name, settings))

    def connect(self) -> int:
        return self.get(SessionOpened, self.apply(e.SessionOpen(self.now, "/", "ann", "client", b""))).session

    def subscribe(self, pattern: str, name: str = "", **more: Any) -> str:
        return self.get(Subscribed, self.try_subscribe(pattern, name, **more)).name

    def try_subscribe(self, pattern: str, name: str, settings: dict[str, object] | None = None, **more: int) -> Outcome:
        return self.apply(t.Subscribe(self.now, "/", "orders", pattern, name, settings or {}, **more))

    def publish(self, *routes: str, due_ms: int = 0, ttl_ms: int = 0) -> int:
        """Publish a message for each route, neighbours of one route as one group."""
        return self.get(Published, self.try_publish(*routes, due_ms=due_ms, ttl_ms=ttl_ms)).zxid

    def try_publish(self, *routes: str, due_ms: int = 0, ttl_ms: int = 0, topic: int = 0) -> Outcome:
        self.sequence += 1
        texts = sorted({route for route in routes if route})
        groups: list[int] = []
        for route in routes:
            groups += (1, due_ms, ttl_ms, 0, 0, texts.index(route) + 1 if route else 0)
        count = len(routes)
        payload = b"x" * 10 * count
        batch = (self.now, topic or self.orders, self.producer, self.sequence, count, len(payload), None, payload)
        entry = e.PublishGrouped(*batch, groups, texts) if texts or due_ms or ttl_ms else e.Publish(*batch)
        outcome = self.apply(entry)
        if outcome.error is not None:
            self.sequence -= 1
        return outcome

    def clock(self, now: int, items_max: int = 100) -> Outcome:
        self.now = now
        return self.apply(e.Clock(now, items_max))

    def fill(self, name: str, *runs: int, next_: Address, done: bool = False, start: Address | None = None) -> Outcome:
        queue = self.machine.find_queue("/", name)
        assert queue is not None
        filling = self.machine.sources.filling_of(queue.id)
        assert filling is not None
        return self.apply(t.Fill(self.now, queue.id, *(start or filling.next), list(runs), *next_, done))

    def holds(self, name: str) -> list[Address]:
        """Addresses of the ready messages of a queue, in order."""
        queue = self.machine.find_queue("/", name)
        assert queue is not None
        runs = self.machine.peek(queue.id, 0, 10**9)
        return [(run.zxid, index) for run in runs for index in range(run.first, run.first + run.size)]

    def rows(self, name: str) -> int:
        queue = self.machine.find_queue("/", name)
        assert queue is not None
        return len(queue.main)


@pytest.fixture
def broker() -> Broker:
    return Broker()


# --- routing ------------------------------------------------------------------------------------------------------


def test_each_subscription_gets_what_matches_its_pattern(broker: Broker) -> None:
    broker.subscribe("#", "all")
    broker.subscribe("*.paid", "paid")
    broker.subscribe("eu.#", "eu")
    broker.subscribe("", "plain")
    zxid = broker.publish("eu.paid", "eu.sent", "us.paid", "")
    assert broker.holds("all") == [(zxid, 0), (zxid, 1), (zxid, 2), (zxid, 3)]
    assert broker.holds("paid") == [(zxid, 0), (zxid, 2)]
    assert broker.holds("eu") == [(zxid, 0), (zxid, 1)]
    assert broker.holds("plain") == [(zxid, 3)]
    assert (broker.topic.published_total, broker.topic.unrouted_total) == (4, 0)


def test_neighbours_of_different_routes_are_one_row_where_a_subscription_gets_both(broker: Broker) -> None:
    broker.subscribe("#", "all")
    broker.subscribe("a.*", "some")
    broker.publish("a.1", "a.2", "b", "a.3", "a.3")
    assert broker.rows("all") == 1
    assert broker.rows("some") == 2


def test_what_matches_nobody_is_confirmed_and_counted(broker: Broker) -> None:
    broker.subscribe("eu.#", "eu")
    broker.publish("us.paid", "eu.paid", "us.sent")
    assert (broker.topic.published_total, broker.topic.unrouted_total) == (3, 2)


def test_a_resent_batch_reaches_nobody_twice(broker: Broker) -> None:
    broker.subscribe("#", "all")
    first = broker.publish("")
    broker.sequence -= 1
    assert broker.get(Published, broker.try_publish("")) == Published(first, 1, True)
    assert broker.holds("all") == [(first, 0)]


def test_the_leader_hears_of_every_queue_that_got_something(broker: Broker) -> None:
    broker.subscribe("#", "all")
    broker.subscribe("eu.*", "eu")
    queues = [queue.id for queue in broker.machine.queues()]
    assert broker.try_publish("eu.a").effects == tuple(map(Ready, queues))
    assert broker.try_publish("us.a").effects == (Ready(queues[0]),)


def test_a_message_lives_as_long_as_its_own_time_or_that_of_the_subscription(broker: Broker) -> None:
    broker.subscribe("#", "all")
    broker.publish("eu", ttl_ms=500)
    last = broker.publish("eu")
    broker.clock(1_500)
    assert broker.holds("all") == [(last, 0)]


# --- names ----------------------------------------------------------------------------------------------------------


def test_no_queue_lies_below_a_topic_and_none_has_its_name(broker: Broker) -> None:
    for name in ("orders", "orders.eu", "orders.eu.paid"):
        error = broker.refused(NameConflict, broker.declare(name))
        assert error.fields == {"name": name, "taken_by": "orders"}
        broker.refused(NameConflict, broker.try_subscribe("#", name))
    broker.get(Declared, broker.declare("ordersheet"))


def test_no_topic_lies_above_a_queue_and_none_has_its_name(broker: Broker) -> None:
    broker.declare("mail.out.urgent")
    broker.declare("mailbox")
    for name in ("mail", "mail.out", "mail.out.urgent"):
        error = broker.refused(NameConflict, broker.declare_topic(name))
        assert error.fields == {"name": name, "taken_by": "mail.out.urgent"}
    broker.get(Declared, broker.declare_topic("mail.in"))
    broker.get(Declared, broker.declare_topic("mail.out.urgent.too"))


def test_the_longest_topic_owns_a_destination(broker: Broker) -> None:
    broker.declare_topic("orders.eu")
    sources = broker.machine.sources
    for name, owner in (
        ("orders", "orders"),
        ("orders.us.paid", "orders"),
        ("orders.europe", "orders"),
        ("orders.eu", "orders.eu"),
        ("orders.eu.paid.late", "orders.eu"),
    ):
        topic = sources.owner_of("/", name)
        assert topic is not None
        assert topic.name == owner
    assert sources.owner_of("/", "order") is None
    assert sources.owner_of("other", "orders") is None


@pytest.mark.parametrize("name", ["", "orders.*", "#", "a\n"])
def test_a_topic_has_a_plain_name(broker: Broker, name: str) -> None:
    broker.refused(InvalidRequest, broker.declare_topic(name))


def test_topics_converge_and_are_listed_by_name(broker: Broker) -> None:
    changed = broker.get(Declared, broker.declare_topic("orders", message_bytes_max=7))
    assert (changed.outcome, changed.changes) == ("changed", {"message_bytes_max": [None, 7]})
    assert broker.get(Declared, broker.declare_topic("orders")).outcome == "unchanged"
    broker.declare_topic("events")
    broker.declare_topic("zoo")
    listed = broker.machine.sources.listed
    assert [topic.name for topic in listed("/")] == ["events", "orders", "zoo"]
    assert [topic.name for topic in listed("/", "events", 1)] == ["orders"]
    assert listed("other") == []
    with pytest.raises(UnknownOption):
        broker.declare_topic("orders", max_length=3)


def test_the_number_of_topics_is_bounded() -> None:
    broker = Broker(MachineLimits(topics_max=2))
    broker.declare_topic("second")
    broker.refused(LimitReached, broker.declare_topic("third"))
    broker.get(Declared, broker.declare_topic("second"))


# --- subscriptions --------------------------------------------------------------------------------------------------


def test_a_subscription_converges_to_pattern_and_settings(broker: Broker) -> None:
    made = broker.get(Subscribed, broker.try_subscribe("eu.#.#", "eu", {"retry_delay": 2}))
    assert made == Subscribed("eu", "orders", "created", {"retry_delay": [1.0, 2.0]})
    again = broker.get(Subscribed, broker.try_subscribe("eu.#", "eu"))
    assert again == Subscribed("eu", "orders", "unchanged", {})
    changed = broker.get(Subscribed, broker.try_subscribe("us.*", "eu", {"retry_delay": 3}))
    assert changed.changes == {"retry_delay": [2.0, 3.0], "pattern": ["orders.eu.#", "orders.us.*"]}
    zxid = broker.publish("eu.a", "us.a")
    assert broker.holds("eu") == [(zxid, 1)]


def test_a_subscription_is_a_queue_that_can_be_declared_purged_and_deleted(broker: Broker) -> None:
    broker.subscribe("#", "all")
    broker.publish("a", "b")
    assert broker.get(Declared, broker.declare("all", retry_delay=9)).outcome == "changed"
    queue = broker.machine.find_queue("/", "all")
    assert queue is not None
    broker.apply(e.Purge(broker.now, queue.id))
    assert broker.holds("all") == []
    broker.publish("a")
    assert broker.get(Deleted, broker.apply(e.Delete(broker.now, "/", "queue", "all", False))).count == 1
    broker.publish("a")
    assert broker.topic.unrouted_total == 1


def test_unsubscribing_takes_the_messages_and_ends_the_consumers(broker: Broker) -> None:
    broker.subscribe("#", "all")
    queue = broker.machine.find_queue("/", "all")
    assert queue is not None
    broker.publish("a", "b")
    outcome = broker.apply(t.Unsubscribe(broker.now, "/", "all"))
    assert broker.get(Deleted, outcome).count == 2
    assert outcome.effects == (QueueGone(queue.id, "all"),)
    broker.refused(QueueNotFound, broker.apply(t.Unsubscribe(broker.now, "/", "all")))
    broker.declare("plain")
    broker.refused(QueueNotFound, broker.apply(t.Unsubscribe(broker.now, "/", "plain")))


def test_what_cannot_be_subscribed_is_refused(broker: Broker) -> None:
    broker.refused(TopicNotFound, broker.apply(t.Subscribe(1, "/", "events", "#", "all", {})))
    broker.refused(InvalidRequest, broker.try_subscribe("eu*", "all"))
    broker.refused(InvalidRequest, broker.try_subscribe("#", "bad\n"))
    broker.refused(InvalidRequest, broker.try_subscribe("#", "all", {"retry_delay": -1}))
    broker.refused(SessionNotFound, broker.try_subscribe("#", "all", session=999))
    broker.refused(InvalidRequest, broker.try_subscribe("#", "all", start=9))
    broker.declare("mail")
    broker.refused(NameConflict, broker.try_subscribe("#", "mail"))
    broker.subscribe("#", "mine", session=broker.session)
    broker.refused(NameConflict, broker.try_subscribe("#", "mine"))
    broker.refused(NameConflict, broker.try_subscribe("#", "mine", session=broker.connect()))


def test_a_subscription_counts_as_a_queue() -> None:
    broker = Broker(MachineLimits(queues_max=1))
    broker.subscribe("#", "all")
    broker.refused(LimitReached, broker.try_subscribe("#", "more"))


def test_a_temporary_subscription_ends_with_its_session(broker: Broker) -> None:
    broker.subscribe("#", "stays")
    name = broker.subscribe("eu.*", session=broker.session)
    queue = broker.machine.find_queue("/", name)
    assert queue is not None
    assert name == f"temporary-{queue.id:x}"
    broker.publish("eu.a")
    outcome = broker.apply(e.SessionClose(broker.now, broker.session, "lost"))
    assert QueueGone(queue.id, name) in outcome.effects
    assert [queue.name for queue in broker.machine.queues()] == ["stays"]
    broker.publish("eu.b")
    assert len(broker.holds("stays")) == 2


def test_a_topic_with_subscriptions_goes_only_by_force(broker: Broker) -> None:
    broker.subscribe("#", "all")
    broker.subscribe("eu", "eu")
    broker.publish("eu")
    broker.publish("eu", due_ms=9_000)
    error = broker.refused(TopicInUse, broker.apply(e.Delete(broker.now, "/", "topic", "orders", True)))
    assert error.fields == {"topic": "orders", "subscriptions": 2}
    outcome = broker.apply(e.Delete(broker.now, "/", "topic", "orders", False))
    assert broker.get(Deleted, outcome).count == 3
    assert broker.machine.queues() == []
    assert broker.machine.next_due_ms() is None
    broker.refused(QueueNotFound, broker.try_publish("eu"))
    broker.refused(TopicNotFound, broker.apply(e.Delete(broker.now, "/", "topic", "orders", False)))
    broker.get(Declared, broker.declare("orders.eu"))


# --- later ----------------------------------------------------------------------------------------------------------


def test_a_delayed_message_goes_to_the_subscriptions_of_the_moment_in_which_it_is_ready(broker: Broker) -> None:
    broker.subscribe("#", "early")
    broker.subscribe("eu", "gone")
    zxid = broker.publish("eu", "us", due_ms=5_000)
    assert broker.topic.delayed.messages == 2
    broker.apply(t.Unsubscribe(broker.now, "/", "gone"))
    broker.subscribe("us", "late")
    broker.clock(5_000)
    assert broker.holds("early") == [(zxid, 0), (zxid, 1)]
    assert broker.holds("late") == [(zxid, 1)]
    assert len(broker.topic.routes) == 0


def test_delayed_messages_come_in_due_order_a_bounded_number_at_a_time(broker: Broker) -> None:
    broker.subscribe("#", "all")
    late, soon = broker.publish("a", "b", due_ms=3_000), broker.publish("c", due_ms=2_000)
    broker.clock(9_000, items_max=2)
    assert broker.holds("all") == [(soon, 0), (late, 0)]
    broker.clock(9_000)
    assert broker.holds("all") == [(soon, 0), (late, 0), (late, 1)]


def test_what_is_too_old_when_its_time_comes_is_counted(broker: Broker) -> None:
    broker.subscribe("#", "all")
    broker.publish("a", due_ms=2_000, ttl_ms=500)
    broker.clock(9_000)
    assert broker.holds("all") == []
    assert broker.topic.expired_total == 1


def test_the_routes_of_what_is_delayed_are_bounded(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_module, "ROUTES_MAX", 2)
    broker.publish("a", "b", "a", "", due_ms=5_000)
    broker.publish("b", due_ms=6_000)
    error = broker.refused(LimitReached, broker.try_publish("a", "c", due_ms=5_000))
    assert error.retryable
    broker.publish("c")
    broker.clock(5_000)
    broker.publish("c", due_ms=7_000)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_batch_is_refused_as_a_whole_where_a_subscription_has_no_room_and_says_so(broker: Broker) -> None:
    broker.subscribe("#", "all")
    broker.try_subscribe("eu", "small", {"max_length": 2})
    first = broker.publish("eu", "us", "us")
    error = broker.refused(QueueFull, broker.try_publish("eu", "eu", "us"))
    assert error.fields["queue"] == "small"
    second = broker.publish("eu")
    assert broker.holds("small") == [(first, 0), (second, 0)]
    assert len(broker.holds("all")) == 4


def test_a_subscription_that_makes_room_lets_its_oldest_messages_go_and_no_others(broker: Broker) -> None:
    broker.subscribe("#", "all")
    broker.try_subscribe("#", "newest", {"max_length": 2, "overflow": "drop_head"})
    zxids = [broker.publish("eu", due_ms=due_ms) for due_ms in (0, 0, 5_000)]
    assert broker.holds("newest") == [(zxids[0], 0), (zxids[1], 0)]
    broker.clock(5_000)
    assert broker.holds("newest") == [(zxids[1], 0), (zxids[2], 0)]
    assert len(broker.holds("all")) == 3


# --- from the past --------------------------------------------------------------------------------------------------

KEPT: dict[str, Any] = {"retention": {"seconds": 60}}


def test_a_subscription_begins_with_what_is_retained_and_new_messages_follow() -> None:
    broker = Broker(**KEPT)
    old = [broker.publish(route) for route in ("eu", "us", "eu")]
    outcome = broker.try_subscribe("eu", "eu", start=t.START_BEGINNING)
    queue = broker.machine.find_queue("/", "eu")
    assert queue is not None
    assert outcome.effects == (FillsUp(queue.id),)
    new = [broker.publish("eu", "us"), broker.publish("eu")]
    assert broker.holds("eu") == []
    first = broker.fill("eu", old[0], 0, 1, 1, 10, 1_000, 0, 0, 0, next_=(old[1], 0))
    assert first.effects == (Ready(queue.id), FillsUp(queue.id))
    assert broker.holds("eu") == [(old[0], 0)]
    last = broker.fill("eu", old[2], 0, 1, 1, 10, 1_000, 0, 0, 0, next_=(old[2], 1), done=True)
    assert last.effects == (Ready(queue.id),)
    newest = broker.publish("eu")
    assert broker.holds("eu") == [(old[0], 0), (old[2], 0), (new[0], 0), (new[1], 0), (newest, 0)]
    assert not broker.topic.fillings


def test_a_piece_counts_only_where_the_one_before_ended() -> None:
    broker = Broker(**KEPT)
    zxid = broker.publish("eu")
    broker.subscribe("eu", "eu", start=t.START_BEGINNING)
    row = (zxid, 0, 1, 1, 10, 1_000, 0, 0, 0)
    broker.fill("eu", *row, next_=(zxid, 1))
    broker.refused(Conflict, broker.fill("eu", *row, next_=(zxid, 1), start=(0, 0)))
    assert broker.holds("eu") == [(zxid, 0)]


def test_what_was_held_back_follows_a_bounded_number_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicemq.broker.queues.routing.filling.HELD_MOVED_MAX", 2)
    broker = Broker(**KEPT)
    broker.subscribe("#", "all", start=t.START_BEGINNING)
    new = [broker.publish("") for _ in range(3)]
    broker.fill("all", next_=(broker.zxid, 0), done=True)
    assert broker.holds("all") == [(zxid, 0) for zxid in new[:2]]
    new.append(broker.publish(""))
    broker.fill("all", next_=(broker.zxid, 0), done=True)
    assert broker.holds("all") == [(zxid, 0) for zxid in new]
    assert not broker.topic.fillings


def test_nothing_that_somebody_still_has_to_read_goes_from_what_is_retained() -> None:
    broker = Broker(retention={"seconds": 1})
    zxid = broker.publish("eu")
    broker.subscribe("#", "all", start=t.START_BEGINNING)
    broker.clock(9_000)
    assert broker.topic.history is not None
    assert broker.topic.history.messages == 1
    assert broker.machine.next_due_ms() is None, "CLOCK does not turn in a circle"
    broker.fill("all", zxid, 0, 1, 1, 10, 1_000, 0, 0, 0, next_=(zxid, 1), done=True)
    broker.clock(9_000)
    assert broker.topic.history.messages == 0
    assert broker.holds("all") == [(zxid, 0)]


def test_only_what_is_retained_can_be_caught_up_with() -> None:
    broker = Broker()
    broker.refused(RetentionOff, broker.try_subscribe("#", "all", start=t.START_BEGINNING))
    broker = Broker(retention={"seconds": 1})
    lost = broker.publish("")
    broker.clock(9_000)
    kept = broker.publish("")
    broker.refused(PositionExpired, broker.try_subscribe("#", "all", start=2, start_zxid=lost, start_index=0))
    broker.subscribe("#", "all", start=t.START_POSITION, start_zxid=kept, start_index=0)
    broker.refused(Conflict, broker.try_subscribe("eu", "all"))


def test_a_purge_and_the_end_of_retention_end_catching_up() -> None:
    broker = Broker(**KEPT)
    broker.publish("")
    for name in ("purged", "kept"):
        broker.subscribe("#", name, start=t.START_BEGINNING)
    new = broker.publish("")
    queue = broker.machine.find_queue("/", "purged")
    assert queue is not None
    broker.apply(e.Purge(broker.now, queue.id))
    assert queue.id not in broker.topic.fillings
    outcome = broker.declare_topic("orders", retention=None)
    kept = broker.machine.find_queue("/", "kept")
    assert kept is not None
    assert outcome.effects == (FillsUp(kept.id),)
    broker.fill("kept", next_=(0, 0), done=True)
    assert broker.holds("kept") == [(new, 0)]
    assert broker.holds("purged") == []


# --- what is alive --------------------------------------------------------------------------------------------------


def test_an_image_names_what_each_subscription_keeps_alive_as_shared() -> None:
    broker = Broker(**KEPT)
    broker.declare("plain")
    broker.subscribe("#", "all")
    zxid = broker.publish("eu", "us")
    broker.subscribe("#", "late", start=t.START_BEGINNING)
    held = broker.publish("eu")
    due = broker.publish("eu", due_ms=9_000)
    sections = broker.machine.freeze().pack(lambda: True)
    parts = list(live_runs(sections))
    assert all(part.shared for part in parts)
    assert sorted((part.place, [run.zxid for run in part.runs()]) for part in parts) == [
        ("delayed", [due]),
        ("held", [held]),
        ("ready", [zxid, held]),
        ("retained", [zxid, held]),
    ]
    assert load(sections).state_hash() == broker.machine.state_hash()
