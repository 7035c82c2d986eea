"""What the machine answers, told as stories of one queue and its clients."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.applying.settling import VERDICTS
from sluicemq.broker.queues.machine import Machine, MachineLimits
from sluicemq.broker.queues.outcomes import (
    Clocked,
    Declared,
    Deleted,
    Granted,
    LeasesGone,
    Outcome,
    ProducerClosed,
    ProducerOpened,
    Published,
    Purged,
    QueueGone,
    QueuePurged,
    Ready,
    Returned,
    SessionClosed,
    SessionGone,
    SessionOpened,
    Settled,
)
from sluicemq.broker.queues.queue import Queue
from sluicemq.broker.queues.runs import DELIVERIES_MAX, Run
from sluicemq.broker.queues.tags import TAG_MAX
from sluicemq.broker.queues.window import CHUNKS_DROPPED_MAX
from sluicemq.broker.queues.windows import ITEMS_PER_CHUNK
from sluicemq.wire.errors import (
    Conflict,
    InvalidRequest,
    LimitReached,
    ProducerFenced,
    ProducerNotFound,
    QueueNotFound,
    SequenceGap,
    SessionNotFound,
    UnknownOption,
)
from sluicemq.wire.messages import NAME_BYTES_MAX, VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_RELEASE
from sluicemq.wire.settings import (
    DEDUP_IDS_MAX,
    DEDUP_SCOPES,
    QUEUE_SETTINGS_DEFAULT,
    RETRY_DELAY_SECONDS_MAX,
    compare_settings,
)

T = TypeVar("T")


class Broker:
    """A machine with a queue `orders`, a producer and a session; every entry is checked for broken invariants."""

    def __init__(self, limits: MachineLimits | None = None) -> None:
        self.machine = Machine(limits)
        self.now = 1_000
        self.zxid = 0
        self.sequence = 0
        self.apply(e.Epoch(self.now, 1))
        self.orders = self.get(Declared, self.declare("orders")).queue_id
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

    @property
    def queue(self) -> Queue:
        queue = self.machine.queue(self.orders)
        assert queue is not None
        return queue

    def declare(self, name: str, **settings: object) -> Outcome:
        return self.apply(e.Declare(self.now, "/", "queue", name, settings))

    def delete(self, name: str, *, if_empty: bool = False) -> Outcome:
        return self.apply(e.Delete(self.now, "/", "queue", name, if_empty))

    def connect(self) -> int:
        return self.get(SessionOpened, self.apply(e.SessionOpen(self.now, "/", "ann", "client", b""))).session

    def disconnect(self, session: int | None = None) -> Outcome:
        return self.apply(e.SessionClose(self.now, session or self.session, "lost"))

    def publish(self, count: int = 1) -> int:
        """Publish a batch; return its zxid."""
        self.sequence += 1
        payload = b"x" * 10 * count
        entry = e.Publish(self.now, self.orders, self.producer, self.sequence, count, len(payload), None, payload)
        assert self.get(Published, self.apply(entry)) == Published(self.zxid, count, False)
        return self.zxid

    def grant(self, first_tag: int, *runs: int, consumer: int = 1, session: int | None = None) -> Outcome:
        session = session or self.session
        return self.apply(e.Grant(self.now, self.orders, session, consumer, first_tag, list(runs)))

    def settle(self, verdict: int, *tags: int, due: int = 0, consumer: int = 1) -> Outcome:
        return self.apply(e.Settle(self.now, self.session, consumer, verdict, list(tags), due, "because"))

    def purge(self) -> Outcome:
        return self.apply(e.Purge(self.now, self.orders))

    def clock(self, now: int, items_max: int = 100) -> Outcome:
        self.now = now
        return self.apply(e.Clock(now, items_max))

    def ready(self) -> list[tuple[int, int, int]]:
        """(zxid, first, size) of all ready runs in order."""
        return [(run.zxid, run.first, run.size) for run in self.machine.peek(self.orders, 0, 10**9)]

    def counts(self) -> tuple[int, int, int, int]:
        return self.queue.ready, self.queue.leased, self.queue.delayed.messages, self.queue.settled_total


@pytest.fixture
def broker() -> Broker:
    return Broker()


# --- publishing --------------------------------------------------------------------------------------------------


def test_what_is_published_is_ready_in_order(broker: Broker) -> None:
    first, second = broker.publish(3), broker.publish(2)
    assert broker.ready() == [(first, 0, 3), (second, 0, 2)]
    assert broker.counts() == (5, 0, 0, 0)
    assert broker.queue.published_total == 5


def test_a_resent_batch_is_stored_once_and_gets_its_first_receipt(broker: Broker) -> None:
    zxid = broker.publish(3)
    again = broker.apply(e.Publish(broker.now, broker.orders, broker.producer, 1, 3, 30, None, b""))
    assert again == Outcome(Published(zxid, 3, True))
    assert broker.counts() == (3, 0, 0, 0)


@pytest.mark.parametrize("sequence", [2, 1], ids=["a new batch", "a duplicate"])
def test_the_verdict_on_the_sequence_comes_before_that_on_the_queue(broker: Broker, sequence: int) -> None:
    zxid = broker.publish()
    broker.delete("orders")
    outcome = broker.apply(e.Publish(broker.now, broker.orders, broker.producer, sequence, 1, 1, None, b"x"))
    if sequence == 1:
        assert outcome.value == Published(zxid, 1, True), "a duplicate is answered although the queue is gone"
    else:
        assert isinstance(outcome.error, QueueNotFound)


def test_a_refused_batch_burns_no_sequence(broker: Broker) -> None:
    gone = broker.apply(e.Publish(broker.now, 999, broker.producer, 1, 1, 1, None, b"x"))
    empty = broker.apply(e.Publish(broker.now, broker.orders, broker.producer, 1, 0, 0, None, b""))
    ahead = broker.apply(e.Publish(broker.now, broker.orders, broker.producer, 2, 1, 1, None, b"x"))
    assert [type(outcome.error) for outcome in (gone, empty, ahead)] == [QueueNotFound, InvalidRequest, SequenceGap]
    broker.publish()


def test_a_fenced_or_forgotten_producer_cannot_publish(broker: Broker) -> None:
    old = Broker.get(ProducerOpened, broker.apply(e.ProducerOpen(1, "/", "web", "ann"))).producer
    broker.apply(e.ProducerOpen(1, "/", "web", "ann"))
    fenced = broker.apply(e.Publish(broker.now, broker.orders, old, 1, 1, 1, None, b"x"))
    assert isinstance(fenced.error, ProducerFenced)
    assert broker.apply(e.ProducerClose(1, broker.producer)).value == ProducerClosed(True)
    assert broker.apply(e.ProducerClose(1, broker.producer)).value == ProducerClosed(False)
    closed = broker.apply(e.Publish(broker.now, broker.orders, broker.producer, 1, 1, 1, None, b"x"))
    assert isinstance(closed.error, ProducerNotFound)
    assert broker.counts() == (0, 0, 0, 0)


# --- granting ----------------------------------------------------------------------------------------------------


def test_a_batch_can_be_granted_in_parts(broker: Broker) -> None:
    zxid = broker.publish(10)
    assert broker.grant(1, zxid, 0, 4).value == Granted([])
    assert broker.grant(5, zxid, 4, 6).value == Granted([])
    assert broker.counts() == (0, 10, 0, 0)


def test_many_runs_in_one_grant_end_in_the_middle_of_the_last(broker: Broker) -> None:
    zxids = [broker.publish(3) for _ in range(5)]
    flat = [number for zxid in zxids[:4] for number in (zxid, 0, 3)]
    flat[-1] = 1
    assert broker.grant(1, *flat).value == Granted([])
    assert broker.ready() == [(zxids[3], 1, 2), (zxids[4], 0, 3)]


def test_a_grant_of_what_is_not_in_front_is_void_run_by_run(broker: Broker) -> None:
    first, second, third = broker.publish(2), broker.publish(2), broker.publish(2)
    outcome = broker.grant(1, second, 0, 2, first, 0, 2, first, 0, 1, second, 0, 3, second, 1, 1, third, 0, 0)
    assert outcome.value == Granted([1, 2, 5, 9])
    assert outcome.effects == (LeasesGone(broker.session, 1, [1, 2, 5, 9], "purged"),)
    assert broker.ready() == [(second, 0, 2), (third, 0, 2)]
    assert broker.settle(VERDICT_ACK, 1, 9).value == Settled([1, 2, 5, 9], 2)


def test_what_is_in_front_is_granted_although_the_rest_of_the_grant_is_void(broker: Broker) -> None:
    first, second, third = (broker.publish(3) for _ in range(3))
    assert broker.grant(1, first, 0, 2, third, 0, 3).value == Granted([3, 5])
    assert broker.grant(6, first, 2, 1, second, 0, 9).value == Granted([7, 15])
    assert broker.grant(16, second, 0, 1, second, 1, 2, third, 0, 4).value == Granted([19, 22])
    assert broker.ready() == [(third, 0, 3)]
    assert broker.counts() == (3, 6, 0, 0)


def test_a_grant_of_more_than_a_returned_run_holds_is_void(broker: Broker) -> None:
    zxid = broker.publish(3)
    broker.grant(1, zxid, 0, 2)
    broker.settle(VERDICT_RELEASE, 1, 2)
    assert broker.grant(3, zxid, 0, 3).value == Granted([3, 5])
    assert broker.grant(6, zxid, 0, 2, zxid, 2, 1).value == Granted([])


def test_a_grant_to_a_session_that_has_ended_counts_as_given_and_returned(broker: Broker) -> None:
    """The leader planned it before the connection broke; the grants behind it must find the queue as planned."""
    gone = broker.session
    first, second = broker.publish(4), broker.publish(4)
    broker.disconnect()
    broker.session = broker.connect()
    outcome = broker.grant(1, first, 0, 4, second, 0, 1, session=gone)
    returned = [
        Run(first, first, 0, 4, 4, 40, 1_000, deliveries=1),
        Run(second, second, 0, 1, 4, 40, 1_000, deliveries=1),
    ]
    assert outcome == Outcome(Granted([1, 5]), None, (Returned(broker.orders, returned),))
    assert broker.grant(1, second, 1, 3).value == Granted([])
    assert broker.grant(4, first, 0, 4, second, 0, 1).value == Granted([])
    assert broker.counts() == (0, 8, 0, 0)
    assert broker.queue.redelivered_total == 5


def test_a_grant_of_a_deleted_queue_is_void(broker: Broker) -> None:
    zxid = broker.publish(4)
    broker.delete("orders")
    outcome = broker.grant(1, zxid, 0, 4)
    assert outcome.value == Granted([1, 4])
    assert outcome.effects == (LeasesGone(broker.session, 1, [1, 4], "queue_deleted"),)


def test_a_tag_is_never_granted_twice(broker: Broker) -> None:
    first, second = broker.publish(), broker.publish()
    broker.grant(1, first, 0, 1)
    with pytest.raises(AssertionError, match="ascend"):
        broker.machine.apply(100, e.Grant(1, broker.orders, broker.session, 1, 1, [second, 0, 1]))


# --- settling ----------------------------------------------------------------------------------------------------


def test_acknowledged_messages_are_settled_and_a_second_verdict_is_lost(broker: Broker) -> None:
    broker.grant(1, broker.publish(10), 0, 10)
    assert broker.settle(VERDICT_ACK, 2, 3, 5, 5).value == Settled([], 3)
    assert broker.settle(VERDICT_ACK, 1, 12).value == Settled([2, 3, 5, 5, 11, 12], 7)
    assert broker.counts() == (0, 0, 0, 10)
    assert broker.settle(VERDICT_ACK, 1, 1).value == Settled([1, 1], 0)


def test_a_nack_puts_messages_behind_the_tail_and_counts_an_attempt(broker: Broker) -> None:
    zxid = broker.publish(4)
    broker.grant(1, zxid, 0, 4)
    later = broker.publish()
    outcome = broker.settle(VERDICT_NACK, 2, 3)
    assert outcome == Outcome(Settled([], 2), None, (Ready(broker.orders),))
    assert broker.ready() == [(later, 0, 1), (zxid, 1, 2)]
    run = broker.machine.peek(broker.orders, 1, 9)[0]
    assert (run.ready, run.deliveries, run.attempts) == (broker.zxid, 1, 1)


def test_nacked_pieces_keep_their_former_order(broker: Broker) -> None:
    first, second = broker.publish(2), broker.publish(2)
    broker.grant(1, first, 0, 2, second, 0, 2)
    broker.settle(VERDICT_RELEASE, 1, 2)
    broker.grant(5, first, 0, 2)
    broker.settle(VERDICT_NACK, 3, 6)
    assert broker.ready() == [(first, 0, 2), (second, 0, 2)], "the later tag was the earlier message"


def test_a_release_puts_messages_back_to_their_former_place_and_counts_no_attempt(broker: Broker) -> None:
    first, second, third = broker.publish(2), broker.publish(2), broker.publish(2)
    broker.grant(1, first, 0, 2, second, 0, 2)
    broker.settle(VERDICT_RELEASE, 3, 4)
    outcome = broker.settle(VERDICT_RELEASE, 2, 2)
    assert outcome.effects == (Returned(broker.orders, [Run(first, first, 1, 1, 2, 20, 1_000, 1, 0)]),)
    assert broker.ready() == [(first, 1, 1), (second, 0, 2), (third, 0, 2)]


def test_released_pieces_return_in_the_order_of_their_places_whatever_their_tags(broker: Broker) -> None:
    zxid = broker.publish(6)
    broker.grant(1, zxid, 0, 3)
    broker.grant(4, zxid, 3, 3)
    broker.settle(VERDICT_RELEASE, 1, 3)
    broker.grant(7, zxid, 0, 3)
    broker.settle(VERDICT_RELEASE, 4, 5)
    broker.grant(10, zxid, 3, 2)
    outcome = broker.settle(VERDICT_RELEASE, 6, 11)
    assert outcome.effects == (
        Returned(
            broker.orders,
            [
                Run(zxid, zxid, 0, 5, 6, 60, 1_000, deliveries=2),
                Run(zxid, zxid, 5, 1, 6, 60, 1_000, deliveries=1),
            ],
        ),
    )


def test_an_attempt_counts_once_it_was_handed_over(broker: Broker) -> None:
    zxid = broker.publish(4)
    broker.grant(1, zxid, 0, 4)
    assert broker.settle(VERDICT_HANDED_OVER, 1, 2, 9, 9).value == Settled([9, 9], 0)
    broker.settle(VERDICT_RELEASE, 2, 3)
    broker.settle(VERDICT_NACK, 1, 1)
    broker.disconnect()
    attempts = {run.first: (run.size, run.deliveries, run.attempts) for run in broker.machine.peek(broker.orders, 0, 9)}
    assert attempts == {0: (1, 1, 1), 1: (2, 1, 0), 3: (1, 1, 0)}


def test_a_release_counts_no_attempt_even_of_what_was_handed_over(broker: Broker) -> None:
    """A handler that is cancelled, or a consumer that drains, gives back what user code has already seen."""
    zxid = broker.publish(4)
    broker.grant(1, zxid, 0, 4)
    broker.settle(VERDICT_HANDED_OVER, 1, 4)
    broker.settle(VERDICT_RELEASE, 2, 3)
    runs = broker.machine.peek(broker.orders, 0, 9)
    assert [(run.first, run.size, run.deliveries, run.attempts) for run in runs] == [(1, 2, 1, 0)]


def test_what_a_session_abandoned_keeps_its_place_and_counts_the_attempts_that_had_begun(broker: Broker) -> None:
    zxid = broker.publish(4)
    broker.publish()
    broker.grant(1, zxid, 0, 4)
    broker.settle(VERDICT_HANDED_OVER, 2, 3)
    outcome = broker.settle(e.ABANDONED, 1, 4)
    assert outcome.value == Settled([], 4)
    assert [type(effect) for effect in outcome.effects] == [Returned]
    runs = broker.machine.peek(broker.orders, 0, 4)
    assert [(run.first, run.size, run.deliveries, run.attempts) for run in runs] == [
        (0, 1, 1, 0),
        (1, 2, 1, 1),
        (3, 1, 1, 0),
    ]


def test_a_lost_session_counts_the_attempts_that_had_begun_and_no_others(broker: Broker) -> None:
    zxid = broker.publish(4)
    broker.grant(1, zxid, 0, 4)
    broker.settle(VERDICT_HANDED_OVER, 2, 3)
    broker.disconnect()
    runs = broker.machine.peek(broker.orders, 0, 9)
    assert [(run.first, run.size, run.deliveries, run.attempts) for run in runs] == [
        (0, 1, 1, 0),
        (1, 2, 1, 1),
        (3, 1, 1, 0),
    ]


def test_a_mark_belongs_to_its_lease_alone(broker: Broker) -> None:
    zxid = broker.publish()
    broker.grant(1, zxid, 0, 1)
    broker.settle(VERDICT_HANDED_OVER, 1, 1)
    broker.settle(e.ABANDONED, 1, 1)
    broker.grant(2, zxid, 0, 1)
    broker.settle(e.ABANDONED, 2, 2)
    run = broker.machine.peek(broker.orders, 0, 9)[0]
    assert (run.deliveries, run.attempts) == (2, 1)


def test_an_expired_lease_goes_behind_the_tail_and_its_consumer_is_told(broker: Broker) -> None:
    zxid = broker.publish(3)
    broker.grant(1, zxid, 0, 3)
    broker.settle(VERDICT_ACK, 2, 2)
    broker.settle(VERDICT_HANDED_OVER, 3, 3)
    outcome = broker.settle(e.EXPIRED, 1, 3)
    assert outcome.value == Settled([2, 2], 2)
    assert outcome.effects == (LeasesGone(broker.session, 1, [1, 1, 3, 3], "expired"), Ready(broker.orders))
    assert [(run.first, run.attempts) for run in broker.machine.peek(broker.orders, 0, 9)] == [(0, 0), (2, 1)]


def test_a_frozen_client_charges_the_message_in_hand_and_not_its_whole_buffer(broker: Broker) -> None:
    zxid = broker.publish(500)
    broker.grant(1, zxid, 0, 500)
    broker.settle(VERDICT_HANDED_OVER, 1, 1)
    later = broker.publish()
    broker.settle(e.EXPIRED, 1, 500)
    assert broker.ready() == [(later, 0, 1), (zxid, 0, 1), (zxid, 1, 499)], "an expired lease goes behind the tail"
    runs = broker.machine.peek(broker.orders, 1, 500)
    assert [(run.size, run.deliveries, run.attempts) for run in runs] == [(1, 1, 1), (499, 1, 0)]


@pytest.mark.parametrize(
    ("verdict", "tags"),
    [
        (VERDICT_ACK, ()),
        (VERDICT_ACK, (2, 1)),
        (VERDICT_ACK, (1, 2, 2, 3)),
        (VERDICT_ACK, (0, 1)),
        (0, (1, 1)),
        (9, (1, 1)),
    ],
)
def test_a_verdict_that_makes_no_sense_changes_nothing(broker: Broker, verdict: int, tags: tuple[int, ...]) -> None:
    broker.grant(1, broker.publish(3), 0, 3)
    assert isinstance(broker.settle(verdict, *tags).error, InvalidRequest)
    assert broker.counts() == (0, 3, 0, 0)


def test_verdicts_of_strangers_are_lost(broker: Broker) -> None:
    broker.grant(1, broker.publish(3), 0, 3)
    assert broker.settle(VERDICT_ACK, 1, 3, consumer=2) == Outcome(Settled([1, 3], 0))
    stranger = broker.apply(e.Settle(broker.now, 999, 1, VERDICT_ACK, [1, 3]))
    assert stranger.value == Settled([1, 3], 0)
    assert isinstance(stranger.error, SessionNotFound)
    assert broker.counts() == (0, 3, 0, 0)


def test_a_batch_that_was_granted_in_a_hundred_pieces_comes_back_whole(broker: Broker) -> None:
    zxid = broker.publish(1000)
    for first in range(0, 1000, 10):
        broker.grant(first + 1, zxid, first, 10)
    broker.disconnect()
    assert broker.ready() == [(zxid, 0, 1000)], "what fell to pieces is whole again"


# --- delays ------------------------------------------------------------------------------------------------------


def test_a_nack_with_a_delay_waits_for_its_time(broker: Broker) -> None:
    zxid = broker.publish(4)
    broker.grant(1, zxid, 0, 4)
    assert broker.settle(VERDICT_NACK, 1, 2, due=5_000) == Outcome(Settled([], 2))
    broker.settle(VERDICT_NACK, 3, 3, due=3_000)
    assert broker.machine.next_due_ms() == 3_000
    assert broker.counts() == (0, 1, 3, 0)
    assert broker.clock(2_999) == Outcome(Clocked(0))
    assert broker.clock(3_000) == Outcome(Clocked(1), None, (Ready(broker.orders),))
    assert broker.clock(9_000).value == Clocked(2)
    assert broker.ready() == [(zxid, 2, 1), (zxid, 0, 2)]
    assert broker.machine.next_due_ms() is None


def test_a_delay_that_is_over_already_is_none(broker: Broker) -> None:
    broker.grant(1, broker.publish(), 0, 1)
    broker.settle(VERDICT_NACK, 1, 1, due=broker.now)
    assert broker.counts() == (1, 0, 0, 0)


def test_one_clock_entry_makes_a_bounded_number_of_runs_ready(broker: Broker) -> None:
    for tag in range(1, 6):
        broker.grant(tag, broker.publish(), 0, 1)
        broker.settle(VERDICT_NACK, tag, tag, due=2_000 + tag % 2)
    assert broker.clock(5_000, items_max=2) == Outcome(Clocked(2), None, (Ready(broker.orders),))
    assert broker.machine.next_due_ms() is not None, "more is due"
    assert broker.clock(5_000, items_max=2) == Outcome(Clocked(2), None, (Ready(broker.orders),))
    assert broker.machine.next_due_ms() is not None, "more is due"
    assert broker.clock(5_000, items_max=2) == Outcome(Clocked(1), None, (Ready(broker.orders),))
    assert broker.counts() == (5, 0, 0, 0)


def test_time_never_goes_back(broker: Broker) -> None:
    broker.grant(1, broker.publish(), 0, 1)
    broker.clock(50_000)
    broker.now = 10
    broker.settle(VERDICT_NACK, 1, 1, due=40_000)
    assert broker.machine.log_time_ms == 50_000
    assert broker.counts() == (1, 0, 0, 0), "40 s is over, whatever a later entry claims"


def test_delayed_messages_of_several_queues_come_by_time(broker: Broker) -> None:
    mail = Broker.get(Declared, broker.declare("mail")).queue_id
    for number, (queue, due) in enumerate([(broker.orders, 4_000), (mail, 3_000), (mail, 5_000)], start=1):
        broker.sequence += 1
        broker.apply(e.Publish(broker.now, queue, broker.producer, broker.sequence, 1, 1, None, b"x"))
        broker.apply(e.Grant(broker.now, queue, broker.session, number, 1, [broker.zxid, 0, 1]))
        broker.apply(e.Settle(broker.now, broker.session, number, VERDICT_NACK, [1, 1], due))
    assert broker.machine.due_times() == {mail: 3_000, broker.orders: 4_000}
    assert broker.clock(4_500).effects == (Ready(mail), Ready(broker.orders))
    assert broker.machine.due_times() == {mail: 5_000}


# --- sessions ----------------------------------------------------------------------------------------------------


def test_the_leases_of_a_lost_session_return_to_their_places(broker: Broker) -> None:
    first, second = broker.publish(4), broker.publish(4)
    broker.grant(1, first, 0, 3)
    broker.grant(1, first, 3, 1, second, 0, 2, consumer=2)
    outcome = broker.disconnect()
    assert outcome.value == SessionClosed(6)
    assert outcome.effects == (
        Returned(
            broker.orders,
            [
                Run(first, first, 0, 4, 4, 40, 1_000, 1, 0, note=1),
                Run(second, second, 0, 2, 4, 40, 1_000, 1, 0, note=1),
            ],
        ),
        SessionGone(broker.session),
    )
    assert broker.ready() == [(first, 0, 4), (second, 0, 2), (second, 2, 2)]


def test_a_session_ends_once(broker: Broker) -> None:
    broker.disconnect()
    assert isinstance(broker.disconnect().error, SessionNotFound)


def test_a_new_leader_finds_all_sessions_to_close(broker: Broker) -> None:
    others = [broker.connect() for _ in range(3)]
    assert broker.machine.sessions_to_close() == [broker.session, *others]


def test_the_number_of_sessions_is_bounded() -> None:
    broker = Broker(MachineLimits(sessions_max=2))
    broker.connect()
    refused = broker.apply(e.SessionOpen(1, "/", "ann", "client", b""))
    assert isinstance(refused.error, LimitReached)
    assert (refused.error.limit, refused.error.value) == ("sessions", 2)


# --- queues ------------------------------------------------------------------------------------------------------


def test_a_declaration_converges(broker: Broker) -> None:
    created = broker.declare("mail", retry_delay=5)
    mail = broker.zxid
    assert created.value == Declared(mail, "created", {"retry_delay": [1.0, 5.0]})
    assert broker.declare("mail").value == Declared(mail, "unchanged", {})
    assert broker.declare("mail", retry_delay=5.0).value == Declared(mail, "unchanged", {})
    assert broker.declare("mail", retry_delay=2.5).value == Declared(mail, "changed", {"retry_delay": [5.0, 2.5]})
    found = broker.machine.find_queue("/", "mail")
    assert found is not None
    assert (found.id, found.settings["retry_delay"]) == (mail, 2.5)
    assert found.settings == {**QUEUE_SETTINGS_DEFAULT, "retry_delay": 2.5}


def test_what_a_declaration_would_do_can_be_asked_before() -> None:
    assert compare_settings(None, {})[:2] == ("created", {})
    assert compare_settings({"retry_delay": 1.0}, {"retry_delay": 2.0})[:2] == ("changed", {"retry_delay": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("orders", {"retry_delay": "soon"}),
        ("orders", {"retry_delay": RETRY_DELAY_SECONDS_MAX + 1}),
        ("", {}),
        ("a*", {}),
        ("x" * 256, {}),
    ],
)
def test_a_bad_declaration_changes_nothing(broker: Broker, name: str, settings: dict[str, object]) -> None:
    before = broker.queue.settings.copy()
    assert type(broker.declare(name, **settings).error) is InvalidRequest
    assert broker.queue.settings == before
    assert len(broker.machine.queues()) == 1


def test_a_setting_that_only_a_newer_version_knows_stops_the_machine_instead_of_being_judged_otherwise(
    broker: Broker,
) -> None:
    with pytest.raises(UnknownOption, match="retry_delya"):
        broker.declare("orders", retry_delya=1)


def test_other_objects_than_queues_and_topics_are_refused(broker: Broker) -> None:
    assert isinstance(broker.apply(e.Declare(1, "/", "stream", "t", {})).error, InvalidRequest)
    assert isinstance(broker.apply(e.Delete(1, "/", "stream", "t", False)).error, InvalidRequest)


def test_queues_are_listed_by_name_within_their_vhost(broker: Broker) -> None:
    for name in ("mail", "zoo", "billing"):
        broker.declare(name)
    broker.apply(e.Declare(1, "/other", "queue", "orders", {}))
    assert [queue.name for queue in broker.machine.queues_of("/")] == ["billing", "mail", "orders", "zoo"]
    assert [queue.name for queue in broker.machine.queues_of("/", "mail", 1)] == ["orders"]
    assert [queue.name for queue in broker.machine.queues_of("/other")] == ["orders"]
    assert broker.machine.queues_of("/nowhere") == []
    assert broker.machine.find_queue("/other", "mail") is None


def test_the_number_of_queues_is_bounded() -> None:
    broker = Broker(MachineLimits(queues_max=1))
    assert isinstance(broker.declare("mail").error, LimitReached)
    assert broker.declare("orders", retry_delay=2).error is None, "what exists can still be changed"


def test_a_deleted_queue_takes_everything_with_it(broker: Broker) -> None:
    broker.grant(1, broker.publish(5), 0, 5)
    broker.settle(VERDICT_NACK, 1, 1, due=9_000)
    broker.settle(VERDICT_ACK, 3, 3)
    broker.publish(2)
    kept = broker.delete("orders", if_empty=True)
    assert isinstance(kept.error, Conflict)
    assert "6 messages" in kept.error.text
    outcome = broker.delete("orders")
    assert outcome.value == Deleted(6)
    assert outcome.effects == (
        LeasesGone(broker.session, 1, [2, 2, 4, 5], "queue_deleted"),
        QueueGone(broker.orders, "orders"),
    )
    assert broker.machine.next_due_ms() is None
    assert broker.settle(VERDICT_ACK, 2, 2).value == Settled([2, 2], 0)
    assert broker.machine.peek(broker.orders, 0, 9) == []
    assert isinstance(broker.delete("orders").error, QueueNotFound)
    assert isinstance(broker.purge().error, QueueNotFound)
    assert str(broker.purge().error) == "the queue was deleted meanwhile; declare it again", "people know no numbers"


def test_a_queue_of_the_same_name_is_another_queue(broker: Broker) -> None:
    old = broker.orders
    broker.publish()
    broker.delete("orders", if_empty=False)
    again = Broker.get(Declared, broker.declare("orders"))
    assert (again.outcome, again.queue_id != old) == ("created", True)


def test_an_empty_queue_can_be_deleted_if_empty(broker: Broker) -> None:
    broker.grant(1, broker.publish(), 0, 1)
    broker.settle(VERDICT_ACK, 1, 1)
    assert broker.delete("orders", if_empty=True).value == Deleted(0)


def test_a_purge_drops_ready_and_delayed_messages_and_keeps_leased_ones(broker: Broker) -> None:
    zxid = broker.publish(6)
    broker.grant(1, zxid, 0, 5)
    broker.settle(VERDICT_NACK, 1, 1, due=9_000)
    broker.settle(VERDICT_RELEASE, 2, 3)
    outcome = broker.purge()
    assert outcome == Outcome(Purged(4), None, (QueuePurged(broker.orders),))
    assert broker.counts() == (0, 2, 0, 0)
    assert broker.machine.next_due_ms() is None
    broker.settle(VERDICT_RELEASE, 4, 5)
    assert broker.ready() == [(zxid, 3, 2)]


# --- looking -----------------------------------------------------------------------------------------------------


def test_a_look_changes_nothing_and_starts_anywhere(broker: Broker) -> None:
    zxids = [broker.publish(3) for _ in range(4)]
    broker.grant(1, zxids[0], 0, 3)
    broker.settle(VERDICT_RELEASE, 2, 3)
    everything = [
        (run.zxid, run.first + i) for run in broker.machine.peek(broker.orders, 0, 99) for i in range(run.size)
    ]
    assert everything == [(zxids[0], 1), (zxids[0], 2), *[(zxid, i) for zxid in zxids[1:] for i in range(3)]]
    before = broker.machine.state_hash()
    for skip in range(13):
        for count in range(13):
            runs = broker.machine.peek(broker.orders, skip, count)
            seen = [(run.zxid, run.first + i) for run in runs for i in range(run.size)]
            assert seen == everything[skip : skip + count]
    assert broker.machine.state_hash() == before


def test_the_age_of_a_queue_is_that_of_the_message_in_front(broker: Broker) -> None:
    assert broker.queue.oldest_published_ms is None
    first = broker.publish()
    broker.now = 7_000
    broker.publish()
    assert broker.queue.oldest_published_ms == 1_000
    broker.grant(1, first, 0, 1)
    assert broker.queue.oldest_published_ms == 7_000
    broker.settle(VERDICT_RELEASE, 1, 1)
    assert broker.queue.oldest_published_ms == 1_000


# --- the log -----------------------------------------------------------------------------------------------------


def test_entries_are_applied_in_order(broker: Broker) -> None:
    with pytest.raises(AssertionError, match="order of the log"):
        broker.machine.apply(broker.zxid, e.Epoch(1, 1))


def test_the_epoch_is_that_of_the_last_entry() -> None:
    machine = Machine()
    machine.apply(7 << 32, e.Epoch(1, 1))
    assert (machine.epoch, machine.applied_zxid) == (7, 7 << 32)


def test_the_hash_tells_any_two_states_apart(broker: Broker) -> None:
    """Two machines that differ in one thing alone have different hashes."""

    def life(*, handed: bool = False, due: int = 5_000, name: str = "web", count: int = 3) -> bytes:
        broker = Broker()
        zxid = broker.publish(count)
        broker.grant(1, zxid, 0, 3)
        broker.settle(VERDICT_HANDED_OVER, 1 if handed else 2, 2)
        broker.settle(VERDICT_NACK, 3, 3, due=due)
        broker.apply(e.ProducerOpen(broker.now, "/", name, ""))
        return broker.machine.state_hash()

    hashes = [life(), life(handed=True), life(due=5_001), life(name="app"), life(count=4)]
    assert len(set(hashes)) == len(hashes)
    assert life() == life()


def test_what_apply_judges_by_is_frozen() -> None:
    """Every broker judges its whole log again when it starts, and must come to the verdicts that clients were given.

    If this test fails, somebody changed a value by which apply judges: a queue that was declared, a session that was
    opened or a batch that was accepted would be refused at replay, and its messages would be lost without a word. Do
    not adjust the numbers here. Write a new version of the entry, and judge old entries by the old value.
    """
    assert dataclasses.asdict(MachineLimits()) == {
        "producers_max": 100_000,
        "identity_producers_max": 50_000,
        "producer_silence_ms": 3_600_000,
        "receipts_max": 256,
        "fenced_max": 256,
        "queues_max": 100_000,
        "sessions_max": 100_000,
        "topics_max": 100_000,
    }
    assert RETRY_DELAY_SECONDS_MAX == 31_622_400.0
    assert QUEUE_SETTINGS_DEFAULT == {
        "retry_delay": 1.0,
        "retry": None,
        "max_deliveries": None,
        "dead_letter": None,
        "ttl": None,
        "expires": None,
        "max_length": None,
        "max_bytes": None,
        "overflow": "reject",
        "mode": "shared",
        "ordering": "fifo",
        "key_in_flight_max": 1,
        "poison_key": "dead_letter",
        "dispatch": "round_robin",
        "message_bytes_max": None,
        "retention": None,
        "dedup_window": 0.0,
        "dedup_count": 1_000_000,
        "dedup_scope": "queue",
        "settled_window": 0.0,
        "delivery_rate": None,
        "delivery_burst": None,
        "delivery_bytes_rate": None,
        "max_concurrency": None,
        "delivery_adaptive": None,
        "publish_limit": None,
    }
    assert (DEDUP_IDS_MAX, DEDUP_SCOPES) == (50_000_000, ("queue", "key"))
    assert (CHUNKS_DROPPED_MAX, ITEMS_PER_CHUNK) == (8, 100)
    assert NAME_BYTES_MAX == 255
    assert TAG_MAX == 2**64 - 1
    assert DELIVERIES_MAX == 65_535
    assert sorted(VERDICTS) == [1, 2, 3, 4, 16, 17]
    assert (VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE, VERDICT_HANDED_OVER) == (1, 2, 3, 4)
    assert (e.EXPIRED, e.ABANDONED) == (16, 17)
    assert {kind: entry.VERSION for kind, entry in e.ENTRIES.items()} == dict.fromkeys(
        [*range(1, 13), 17, *range(20, 37), 43, 47, 54, 60, 83], 1
    ) | {4: 2, 11: 2, 27: 2}
    assert {
        (4, 1): e.ProducerOpenUnlimited,
        (6, 2): e.PublishGrouped,
        (6, 3): e.PublishIdentified,
        (7, 2): e.GrantPlaced,
        (7, 3): e.GrantIdentified,
        (8, 2): e.SettleJudged,
    } == e.OTHER_VERSIONS
