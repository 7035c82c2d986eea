"""Pauses, policies, and delayed messages that are cancelled or put off, as the machine judges them."""

from __future__ import annotations

from typing import Any

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues import policies as policies_module
from sluicemq.broker.queues.applying.operating import FOLLOW_ITEMS
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import (
    Altered,
    Cancelled,
    Fired,
    LeasesOver,
    MayExpire,
    Outcome,
    PolicyPut,
    Published,
    Ready,
)
from sluicemq.broker.queues.queue import Queue
from sluicemq.wire.errors import Conflict, InvalidRequest, LimitReached, QueueNotFound, QueuePaused
from sluicemq.wire.messages import VERDICT_NACK

NOW = 1_000_000
HOUR = 3_600_000


class Place:
    """A machine with a queue and a producer."""

    def __init__(self, **settings: Any) -> None:
        self.machine = Machine()
        self.zxid = 0
        self.sequence = 0
        self.now = NOW
        self.orders = self.declare("orders", **settings)
        self.producer = self.do(e.ProducerOpen(self.now, "/", "", "ann")).value.producer

    def do(self, entry: e.Entry) -> Outcome:
        self.zxid += 1
        outcome = self.machine.apply(self.zxid, entry)
        self.machine.check()
        return outcome

    def declare(self, name: str, **settings: Any) -> Queue:
        self.do(e.Declare(self.now, "/", "queue", name, settings))
        queue = self.machine.find_queue("/", name)
        assert queue is not None
        return queue

    def publish(self, *groups: int, queue: Queue | None = None) -> Outcome:
        """Publish (count, due, ttl, priority, key, route)s."""
        flat = list(groups) or [1, 0, 0, 0, 0, 0]
        count = sum(flat[::6])
        target = (queue or self.orders).id
        fields = self.now, target, self.producer, self.sequence + 1, count, 10, None, b"x" * 10
        outcome = self.do(e.PublishGrouped(*fields, flat))
        self.sequence += outcome.error is None
        return outcome

    def clock(self, items: int = 100) -> None:
        self.do(e.Clock(self.now, items))

    def follow(self) -> None:
        while self.machine.policies.next_due_ms is not None:
            self.clock()

    def reloaded(self) -> Machine:
        """The machine as its image says that it is."""
        again = load(self.machine.freeze().pack(lambda: True))
        again.check()
        assert again.state_hash() == self.machine.state_hash()
        return again


# --- delayed messages -------------------------------------------------------------------------------------------------


def test_what_is_cancelled_never_comes_and_is_counted() -> None:
    place = Place()
    place.publish(3, NOW + HOUR, 0, 0, 0, 0)
    zxid = place.zxid
    assert place.do(q.Cancel(NOW, place.orders.id, [NOW + HOUR, zxid, 1, 1])).value == Cancelled(1)
    assert place.do(q.Cancel(NOW, place.orders.id, [NOW + HOUR, zxid, 1, 1])).value == Cancelled(0)
    assert place.do(q.Cancel(NOW, place.orders.id, [NOW + 1, zxid, 0, 1, NOW + HOUR, zxid, 2, 9])).value == Cancelled(1)
    place.now += HOUR
    place.clock()
    assert [(run.first, run.size) for run in place.machine.peek(place.orders.id, 0, 9)] == [(0, 1)]
    assert place.orders.purged_total == 2
    assert isinstance(place.do(q.Cancel(NOW, 12_345, [])).error, QueueNotFound)


def test_what_is_put_off_comes_then_and_lives_as_long_from_then() -> None:
    place = Place()
    place.publish(2, NOW + HOUR, 5_000, 0, 0, 0)
    where = [NOW + HOUR, place.zxid, 0, 2]
    assert place.do(q.Reschedule(NOW, place.orders.id, where, NOW + 2 * HOUR)).value == Cancelled(2)
    place.now += HOUR
    place.clock()
    assert place.orders.ready == 0
    place.now += HOUR
    place.clock()
    (run,) = place.machine.peek(place.orders.id, 0, 9)
    assert run.expires_ms == NOW + 2 * HOUR + 5_000


def test_what_shall_come_at_once_goes_behind_the_tail_in_due_order() -> None:
    place = Place()
    place.publish(1, NOW + 2 * HOUR, 0, 0, 0, 0, 1, NOW + HOUR, 0, 0, 0, 0)
    zxid = place.zxid
    place.publish()
    flat = [NOW + 2 * HOUR, zxid, 0, 1, NOW + HOUR, zxid, 1, 1]
    outcome = place.do(q.Reschedule(NOW, place.orders.id, flat, 0))
    assert outcome.value == Cancelled(2)
    assert outcome.effects == (Ready(place.orders.id),)
    assert [(run.zxid, run.first) for run in place.machine.peek(place.orders.id, 0, 9)] == [
        (zxid + 1, 0),
        (zxid, 1),
        (zxid, 0),
    ]


def test_a_key_that_waited_for_a_cancelled_attempt_goes_on() -> None:
    place = Place(ordering="key")
    place.publish(1, 0, 0, 0, 77, 0)
    zxid = place.zxid
    session = place.do(e.SessionOpen(NOW, "/", "", "", b"")).value.session
    place.do(e.GrantPlaced(NOW, place.orders.id, session, 1, 1, [zxid, zxid, 0, 1]))
    place.do(e.Settle(NOW, session, 1, VERDICT_NACK, [1, 1], NOW + HOUR))
    assert place.orders.keys is not None
    assert not place.orders.keys.is_open(77)
    outcome = place.do(q.Cancel(NOW, place.orders.id, [NOW + HOUR, zxid, 0, 1]))
    assert outcome.effects == (LeasesOver(place.orders.id, [77, 0]),)
    assert place.orders.keys.is_open(77)


# --- pauses -----------------------------------------------------------------------------------------------------------


def test_a_paused_queue_refuses_what_is_published_and_burns_no_number() -> None:
    place = Place()
    pause = q.Alter(NOW, "/", "queue", "orders", {"pause_publish": True})
    assert place.do(pause).value == Altered({"pause_publish": [False, True]})
    assert place.do(pause).value == Altered({})
    error = place.publish().error
    assert isinstance(error, QueuePaused)
    assert error.retryable
    fields = NOW, place.orders.id, place.producer, place.sequence + 1, 1, 1, None, b"x"
    assert isinstance(place.do(e.Publish(*fields)).error, QueuePaused)
    again = place.reloaded().find_queue("/", "orders")
    assert again is not None
    assert again.paused == place.orders.paused
    assert not again.is_plain
    outcome = place.do(q.Alter(NOW, "/", "queue", "orders", {"pause_publish": False}))
    assert outcome.effects == (Ready(place.orders.id),)
    assert isinstance(place.do(e.Publish(*fields)).value, Published)
    assert isinstance(place.do(q.Alter(NOW, "/", "queue", "nowhere", {})).error, QueueNotFound)


def test_parked_keys_go_on_when_somebody_says_so() -> None:
    place = Place(ordering="key")
    assert place.orders.keys is not None
    place.orders.keys.parked.update({5: None, 6: None})
    outcome = place.do(q.Alter(NOW, "/", "queue", "orders", {"unpark": [6, 9]}))
    assert outcome.value == Altered({"parked": [2, 1]})
    assert outcome.effects == (LeasesOver(place.orders.id, [6, 0]),)
    assert list(place.orders.keys.parked) == [5]


# --- policies ---------------------------------------------------------------------------------------------------------


def put(name: str, pattern: str, order: int = 0, **settings: Any) -> q.Policy:
    return q.Policy(NOW, "/", name, pattern, order, settings)


def test_declared_comes_before_policy_comes_before_default() -> None:
    place = Place(retry_delay=4.0)
    free = place.declare("free")
    assert place.do(put("all", "#", ttl=60.0, retry_delay=9.0)).value == PolicyPut("created")
    assert free.settings["ttl"] is None, "queues follow in CLOCK entries"
    place.follow()
    assert [place.orders.settings[name] for name in ("retry_delay", "ttl")] == [4.0, 60.0]
    assert [free.settings[name] for name in ("retry_delay", "ttl")] == [9.0, 60.0]
    place.reloaded()
    assert place.do(put("all", "#")).value == PolicyPut("dropped")
    assert place.do(put("all", "#")).value == PolicyPut("unchanged")
    place.follow()
    assert (place.orders.settings["retry_delay"], place.orders.settings["ttl"]) == (4.0, None)
    assert (free.settings["retry_delay"], free.settings["ttl"]) == (1.0, None)


def test_of_several_that_match_the_one_of_the_largest_order_holds_and_of_those_the_first_by_name() -> None:
    place = Place()
    for name, pattern, order, seconds in (("b", "orders", 1, 2.0), ("a", "*", 1, 3.0), ("c", "#", 0, 4.0)):
        place.do(put(name, pattern, order, retry_delay=seconds))
    place.follow()
    assert place.orders.settings["retry_delay"] == 3.0
    place.do(put("c", "#", 2, retry_delay=4.0))
    place.follow()
    assert place.orders.settings["retry_delay"] == 4.0
    assert place.declare("late").settings["retry_delay"] == 4.0


def test_many_queues_follow_in_slices_and_an_image_knows_how_far_they_are() -> None:
    place = Place()
    for number in range(30):
        place.declare(f"many.{number:02}")
    place.do(put("all", "many.*", retry_delay=2.0))
    place.clock(7 * FOLLOW_ITEMS)
    place.clock(7 * FOLLOW_ITEMS)
    again = place.reloaded()
    assert place.machine.next_due_ms() == NOW
    followed = [queue.name for queue in place.machine.queues() if queue.settings["retry_delay"] == 2.0]
    assert followed == [f"many.{number:02}" for number in range(14)], "the first by name"
    zxid = place.zxid
    while again.next_due_ms() is not None:
        zxid += 1
        again.apply(zxid, e.Clock(NOW, 7 * FOLLOW_ITEMS))
    assert [queue.settings["retry_delay"] for queue in again.queues()] == [1.0] + [2.0] * 30
    again.check()


def test_what_cannot_change_while_messages_lie_there_stays_and_the_rest_follows() -> None:
    place = Place()
    place.publish()
    place.do(put("all", "#", ordering="key", retry_delay=2.0))
    place.follow()
    assert (place.orders.settings["ordering"], place.orders.settings["retry_delay"]) == ("fifo", 2.0)


def test_a_queue_that_expires_by_a_policy_counts_from_then_and_the_leader_hears_of_it() -> None:
    place = Place()
    place.now += HOUR
    place.do(put("short-lived", "#", expires=60.0))
    outcome = place.do(e.Clock(place.now, 100))
    assert outcome.effects == (Ready(place.orders.id), MayExpire(place.orders.id))
    assert place.orders.used_ms == place.now
    early = place.do(q.ExpireQueue(place.now + 59_999, place.orders.id, 0))
    assert isinstance(early.error, Conflict)
    assert place.do(q.ExpireQueue(place.now + 60_000, place.orders.id, 0)).error is None


def test_a_policy_that_orders_by_key_says_so_as_long_as_it_stands() -> None:
    place = Place()
    policies = place.machine.policies
    assert not policies.orders_by_key("/")
    place.do(put("keyed", "eu.#", ordering="key"))
    place.do(put("other", "#", ttl=1.0))
    assert policies.orders_by_key("/")
    assert not policies.orders_by_key("elsewhere")
    assert place.reloaded().policies.orders_by_key("/")
    place.do(put("keyed", "eu.#", ordering="fifo"))
    assert not policies.orders_by_key("/")


def test_a_subscription_that_a_policy_orders_by_key_is_known_to_its_topic_as_such() -> None:
    place = Place()
    topic = place.do(e.Declare(NOW, "/", "topic", "events", {})).value.queue_id
    place.do(t.Subscribe(NOW, "/", "events", "#", "audit", {}, 0, t.START_NOW, 0, 0))
    audit = place.machine.find_queue("/", "audit")
    assert audit is not None
    place.do(put("keyed", "audit", ordering="key"))
    place.follow()
    assert place.machine.sources.get(topic).keyed == {audit.id}
    place.do(t.Subscribe(NOW, "/", "events", "#", "later", {}, 0, t.START_NOW, 0, 0))
    place.do(put("keyed", "audit"))
    place.follow()
    assert place.machine.sources.get(topic).keyed == set()


def test_policies_are_refused_that_make_no_sense_and_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place()
    assert isinstance(place.do(put("all", "a*b", ttl=1.0)).error, InvalidRequest)
    assert isinstance(place.do(put("all", "#", ttl=-1.0)).error, InvalidRequest)
    assert policies_module.POLICIES_MAX >= 1_000
    monkeypatch.setattr("sluicemq.broker.queues.applying.operating.POLICIES_MAX", 1)
    place.do(put("one", "#", ttl=1.0))
    assert isinstance(place.do(put("two", "#", ttl=1.0)).error, LimitReached)
    assert place.do(put("one", "#", ttl=2.0)).value == PolicyPut("changed")


# --- schedules --------------------------------------------------------------------------------------------------------


def test_a_schedule_counts_the_times_that_were_refused_and_knows_why_the_last_one_was() -> None:
    place = Place()
    number = place.zxid + 1
    place.do(t.Schedule(NOW, "/", "report", "@daily", "UTC", "orders", 1, 1, NOW + 1, "one", b"x"))
    assert place.do(t.Fire(NOW, number, NOW + 1, NOW + 2, 0, "no such queue")).value == Fired(True)
    assert place.do(t.Fire(NOW, number, NOW + 1, NOW + 3, 0, "twice")).value == Fired(False)
    row = place.reloaded().schedules.get(number)
    assert row is not None
    assert (row.published, row.failed, row.problem, row.next_due_ms) == (0, 1, "no such queue", NOW + 2)
    place.do(t.Fire(NOW, number, NOW + 2, NOW + 3, 1))
    row = place.reloaded().schedules.get(number)
    assert row is not None
    assert (row.published, row.failed, row.problem) == (1, 1, "")
