"""Who gets what next: turns, credit, and plans that life overtakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.dispatching.dispatcher import Dispatcher, Pick
from sluicemq.broker.queues.dispatching.policies import RoundRobin
from sluicemq.broker.queues.outcomes import Declared, Granted, Outcome, ProducerOpened, SessionOpened
from sluicemq.broker.queues.runs import messages_in
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE
from tests.broker.harness import Cluster

if TYPE_CHECKING:
    from sluicemq.broker.queues.dispatching.line import Line

PLENTY = 10**9


def in_turn(line: Line) -> RoundRobin:
    """Return the policy of a line whose consumers take turns."""
    assert isinstance(line.policy, RoundRobin)
    return line.policy


class Place:
    """A cluster with the queue `orders`, a producer and a session; batches have 10 bytes a message."""

    def __init__(self, **options: int) -> None:
        self.cluster = Cluster(**options)  # type: ignore[arg-type]
        self.orders = self.declare("orders")
        opened = self.cluster.apply(e.ProducerOpen(1_000, "/", "", "ann")).value
        assert isinstance(opened, ProducerOpened)
        self.producer = opened.producer
        self.sequence = 0
        self.session = self.connect()

    @property
    def dispatcher(self) -> Dispatcher:
        return self.cluster.dispatcher

    def declare(self, name: str) -> int:
        value = self.cluster.apply(e.Declare(1_000, "/", "queue", name, {})).value
        assert isinstance(value, Declared)
        return value.queue_id

    def connect(self) -> int:
        value = self.cluster.apply(e.SessionOpen(1_000, "/", "", "", b"")).value
        assert isinstance(value, SessionOpened)
        return value.session

    def publish(self, *counts: int, queue: int | None = None) -> list[int]:
        """Publish and commit a batch for each count; return their zxids."""
        zxids = []
        for count in counts:
            self.sequence += 1
            payload = b"x" * 10 * count
            entry = e.Publish(
                1_000, queue or self.orders, self.producer, self.sequence, count, len(payload), None, payload
            )
            zxids.append(self.cluster.propose(entry))
            self.cluster.commit_all()
        return zxids

    def consume(self, consumer: int, messages: int = PLENTY, bytes_: int = PLENTY, *, queue: int | None = None) -> None:
        self.dispatcher.add_consumer(self.session, consumer, queue or self.orders, messages, bytes_)

    def pick(self) -> Pick:
        pick = self.cluster.pick()
        assert pick is not None, "there is something to dispatch"
        assert messages_in(pick.runs) == pick.messages
        return pick

    def picks(self) -> list[tuple[int, int]]:
        """(consumer, messages) of all picks until there is nothing more."""
        found = []
        while (pick := self.cluster.pick()) is not None:
            found.append((pick.consumer, pick.messages))
        return found

    def commit(self) -> list[Outcome]:
        return [applied.outcome for applied in self.cluster.commit_all()]

    def settle(self, verdict: int, consumer: int, *tags: int) -> None:
        self.cluster.apply(e.Settle(1_000, self.session, consumer, verdict, list(tags)))


@pytest.fixture
def place() -> Place:
    return Place()


# --- turns -------------------------------------------------------------------------------------------------------


def test_consumers_take_turns() -> None:
    place = Place(grant_messages_max=2)
    for consumer in (1, 2, 3):
        place.consume(consumer)
    place.publish(12)
    assert place.picks() == [(1, 2), (2, 2), (3, 2), (1, 2), (2, 2), (3, 2)]


def test_queues_take_turns() -> None:
    place = Place(grant_messages_max=2)
    mail = place.declare("mail")
    place.consume(1)
    place.consume(2, queue=mail)
    place.publish(6)
    place.publish(4, queue=mail)
    assert place.picks() == [(1, 2), (2, 2), (1, 2), (2, 2), (1, 2)]


def test_a_whole_batch_goes_as_one_run_and_many_single_messages_as_one_pick(place: Place) -> None:
    place.consume(1)
    big, *singles = place.publish(1000, *[1] * 50)
    pick = place.pick()
    assert [run.zxid for run in pick.runs] == [big, *singles]
    assert pick.runs[0].whole
    assert (pick.messages, pick.bytes, pick.first_tag) == (1050, 10_500, 1)


def test_nothing_is_picked_without_messages_or_consumers_or_queue(place: Place) -> None:
    assert place.cluster.pick() is None
    assert place.dispatcher.next_grant(12_345) is None
    place.publish(1)
    assert place.cluster.pick() is None
    place.consume(1)
    assert place.pick().messages == 1
    assert place.cluster.pick() is None
    assert place.cluster.pick(place.orders) is None


def test_a_blocked_queue_is_passed_over_until_it_is_ready_again(place: Place) -> None:
    mail = place.declare("mail")
    place.consume(1)
    place.consume(2, queue=mail)
    place.publish(1)
    place.publish(1, queue=mail)
    picked = place.dispatcher.next_pick({place.orders})
    assert picked is not None
    assert picked.queue_id == mail
    assert place.dispatcher.next_pick({place.orders}) is None
    assert place.dispatcher.next_pick() is None, "it is asked for again only once it is called ready"
    place.dispatcher.ready(place.orders)
    assert place.pick().queue_id == place.orders


def test_one_queue_can_be_asked_for_its_next_grant(place: Place) -> None:
    place.consume(1)
    place.publish(1)
    pick = place.cluster.pick(place.orders)
    assert pick is not None
    assert pick.queue_id == place.orders


# --- credit ------------------------------------------------------------------------------------------------------


def test_credit_in_messages_cuts_a_batch_and_comes_back_with_settlements(place: Place) -> None:
    place.consume(1, 4)
    (zxid,) = place.publish(10)
    assert [(run.first, run.size) for run in place.pick().runs] == [(0, 4)]
    assert place.cluster.pick() is None
    place.settle(VERDICT_ACK, 1, 2, 3)
    again = place.pick()
    assert [(run.zxid, run.first, run.size) for run in again.runs] == [(zxid, 4, 2)]
    assert again.first_tag == 5
    place.commit()
    place.settle(VERDICT_NACK, 1, 1, 1)
    assert [(run.first, run.size) for run in place.pick().runs] == [(6, 1)]


def test_credit_in_bytes_cuts_a_batch_by_its_mean(place: Place) -> None:
    place.consume(1, PLENTY, 35)
    place.publish(10)
    pick = place.pick()
    assert (pick.messages, pick.bytes) == (3, 30)
    assert place.pick().messages == 1, "some bytes are left, so one more message goes, however large"
    assert place.cluster.pick() is None
    assert place.dispatcher.held(place.session, 1) == (4, 40)


def test_credit_in_bytes_ends_a_pick_between_batches_as_well(place: Place) -> None:
    place.consume(1, PLENTY, 35)
    zxids = place.publish(1, 1, 1, 1, 1)
    assert [run.zxid for run in place.pick().runs] == zxids[:3]
    place.commit()
    place.settle(VERDICT_RELEASE, 1, 1, 3)
    assert [run.zxid for run in place.pick().runs] == zxids[:3], "the fourth has no room, and waits in its place"
    assert [run.zxid for run in place.pick().runs] == zxids[3:4]
    assert [outcome.value for outcome in place.commit()] == [Granted([]), Granted([])]


def test_a_message_larger_than_all_credit_goes_alone(place: Place) -> None:
    place.consume(1, PLENTY, 3)
    place.publish(1, 1)
    assert place.pick().messages == 1
    assert place.cluster.pick() is None
    place.settle(VERDICT_ACK, 1, 1, 1)
    assert place.pick().messages == 1


def test_a_batch_that_credit_has_room_for_is_not_cut_for_the_sake_of_one_pick(place: Place) -> None:
    place.cluster.dispatcher = Dispatcher(place.cluster.machine, grant_bytes_max=100)
    place.consume(1)
    place.publish(7, 7, 50)
    assert [messages for _, messages in place.picks()] == [7, 7, 50]


def test_a_pick_holds_no_more_bytes_than_a_grant_may(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicemq.broker.queues.dispatching.baskets.WHOLE_RUN_BYTES_MAX", 100)
    place.cluster.dispatcher = Dispatcher(place.cluster.machine, grant_bytes_max=100)
    place.consume(1)
    place.publish(7, 7, 50)
    assert [messages for _, messages in place.picks()] == [7, 7, 10, 10, 10, 10, 10]


def test_no_credit_pauses_a_consumer_and_others_go_on(place: Place) -> None:
    place.consume(1, 0)
    place.consume(2, 1)
    place.publish(1, 1)
    assert place.picks() == [(2, 1)]
    place.dispatcher.set_credit(place.session, 1, 5, PLENTY)
    assert place.picks() == [(1, 1)]


def test_lowered_credit_holds_until_enough_is_settled(place: Place) -> None:
    place.consume(1, 10)
    place.publish(20)
    place.pick()
    place.dispatcher.set_credit(place.session, 1, 3, PLENTY)
    place.settle(VERDICT_ACK, 1, 1, 7)
    assert place.cluster.pick() is None
    place.settle(VERDICT_ACK, 1, 8, 8)
    assert place.pick().messages == 1


def test_a_consumer_whose_turn_it_was_loses_it_with_its_credit(place: Place) -> None:
    place.consume(1)
    place.consume(2)
    place.dispatcher.set_credit(place.session, 1, 0, PLENTY)
    place.publish(3)
    assert place.picks() == [(2, 3)]


def test_a_consumer_whose_turn_it_was_loses_it_when_it_goes(place: Place) -> None:
    place.consume(1)
    place.consume(2)
    place.dispatcher.remove_consumer(place.session, 1)
    place.publish(3)
    assert place.picks() == [(2, 3)]


def test_raising_credit_twice_gives_no_second_turn() -> None:
    place = Place(grant_messages_max=1)
    place.consume(1, 0)
    place.consume(2)
    for credit in (1, 2, 3, 4):
        place.dispatcher.set_credit(place.session, 1, credit, PLENTY)
    place.publish(4)
    assert place.picks() == [(2, 1), (1, 1), (2, 1), (1, 1)]


def test_credit_is_restored_once(place: Place) -> None:
    place.consume(1, 4)
    place.publish(10)
    place.pick()
    for _ in range(3):
        place.dispatcher.settled(place.session, 1, [1, 2])
    assert place.dispatcher.held(place.session, 1) == (2, 20)
    place.dispatcher.settled(place.session, 9, [1, 2])
    place.dispatcher.settled(99, 1, [1, 2])
    place.dispatcher.set_credit(99, 1, 5, 5)
    place.dispatcher.remove_consumer(99, 1)


# --- what comes back ---------------------------------------------------------------------------------------------


def test_what_is_released_is_offered_before_all_others_in_its_old_order(place: Place) -> None:
    place.consume(1, 6)
    first, second, third = place.publish(3, 3, 3)
    place.pick()
    place.commit()
    place.settle(VERDICT_RELEASE, 1, 4, 5)
    place.settle(VERDICT_RELEASE, 1, 1, 1)
    pick = place.pick()
    assert [(run.zxid, run.first, run.size, run.deliveries) for run in pick.runs] == [
        (first, 0, 1, 1),
        (second, 0, 2, 1),
    ]
    assert place.commit()[-1].value == Granted([])
    place.settle(VERDICT_ACK, 1, 2, 3)
    assert [(run.zxid, run.first, run.size) for run in place.pick().runs] == [(third, 0, 2)]


def test_a_returned_run_can_go_to_several_consumers_in_parts(place: Place) -> None:
    (zxid,) = place.publish(9)
    place.consume(1, 9)
    place.pick()
    place.commit()
    place.dispatcher.set_credit(place.session, 1, 2, PLENTY)
    place.consume(2, 4)
    place.settle(VERDICT_RELEASE, 1, 1, 9)
    parts = [[(run.zxid, run.first, run.size) for run in place.pick().runs] for _ in range(2)]
    assert sorted(parts) == [[(zxid, 0, 4)], [(zxid, 4, 2)]]
    assert [outcome.value for outcome in place.commit()] == [Granted([]), Granted([])]


def test_messages_of_a_lost_session_go_to_the_others(place: Place) -> None:
    (zxid,) = place.publish(5)
    place.consume(1, 3)
    place.pick()
    gone = place.session
    place.cluster.apply(e.SessionClose(1_000, gone, "lost"))
    place.session = place.connect()
    place.consume(1)
    assert [(run.zxid, run.first, run.size) for run in place.pick().runs] == [(zxid, 0, 3), (zxid, 3, 2)]
    assert place.dispatcher.consumers_of(place.orders) == [(place.session, 1)]


# --- plans overtaken by life -------------------------------------------------------------------------------------


def test_what_is_in_flight_is_offered_to_nobody_else(place: Place) -> None:
    place.consume(1, 3)
    place.consume(2, 3)
    place.publish(2, 2, 2)
    assert place.picks() == [(1, 3), (2, 3)]
    assert [outcome.value for outcome in place.commit()] == [Granted([]), Granted([])]


def test_a_session_that_ends_while_its_grant_is_in_flight_disturbs_no_other_grant(place: Place) -> None:
    """Its messages return, those of the grant behind it are leased as planned."""
    leaving = place.session
    (zxid,) = place.publish(10)
    place.consume(1, 4)
    place.cluster.propose(e.SessionClose(1_000, leaving, "lost"))
    assert place.pick().session == leaving
    place.cluster.propose(e.SessionOpen(1_000, "/", "", "", b""))
    staying = place.cluster.in_flight[-1].zxid
    place.dispatcher.add_consumer(staying, 1, place.orders, 4, PLENTY)
    assert place.pick().session == staying
    outcomes = place.commit()
    assert [outcome.value for outcome in outcomes if isinstance(outcome.value, Granted)] == [
        Granted([1, 4]),
        Granted([]),
    ]
    place.dispatcher.set_credit(staying, 1, PLENTY, PLENTY)
    assert [(run.zxid, run.first, run.size) for run in place.pick().runs] == [(zxid, 0, 4), (zxid, 8, 2)]


def test_a_purge_voids_grants_in_flight_and_gives_their_credit_back(place: Place) -> None:
    place.consume(1, 5)
    place.publish(3, 9)
    place.cluster.propose(e.Purge(1_000, place.orders))
    assert place.pick().messages == 5
    _, grant = place.commit()
    assert grant.value == Granted([1, 5])
    assert place.dispatcher.held(place.session, 1) == (0, 0)
    (zxid,) = place.publish(2)
    pick = place.pick()
    assert [(run.zxid, run.size) for run in pick.runs] == [(zxid, 2)]
    assert pick.first_tag == 6, "no tag is used twice"
    assert place.commit()[-1].value == Granted([])


def test_a_purge_behind_a_grant_keeps_what_was_granted(place: Place) -> None:
    place.consume(1, 5)
    place.publish(9)
    place.pick()
    place.cluster.propose(e.Purge(1_000, place.orders))
    assert place.commit()[0].value == Granted([])
    assert place.dispatcher.held(place.session, 1) == (5, 50)
    place.dispatcher.set_credit(place.session, 1, PLENTY, PLENTY)
    assert place.cluster.pick() is None


def test_a_purge_forgets_what_was_returned(place: Place) -> None:
    place.consume(1, 5)
    place.publish(9)
    place.pick()
    place.settle(VERDICT_RELEASE, 1, 1, 3)
    place.cluster.apply(e.Purge(1_000, place.orders))
    assert place.cluster.pick() is None


def test_the_consumers_of_a_deleted_queue_are_gone_with_what_was_in_flight(place: Place) -> None:
    place.consume(1, 2)
    mail = place.declare("mail")
    place.consume(2, queue=mail)
    place.publish(9)
    place.pick()
    place.cluster.propose(e.Delete(1_000, "/", "queue", "orders", False))
    place.commit()
    assert place.dispatcher.consumers_of(place.orders) == []
    assert place.dispatcher.held(place.session, 1) == (0, 0)
    assert place.cluster.pick() is None
    place.publish(1, queue=mail)
    assert place.pick().consumer == 2


def test_a_cancelled_consumer_gets_nothing_more_but_may_settle(place: Place) -> None:
    place.consume(1, 4)
    place.consume(2, 4)
    place.publish(4)
    place.pick()
    place.commit()
    place.dispatcher.remove_consumer(place.session, 1)
    place.publish(4)
    assert place.picks() == [(2, 4)]
    place.settle(VERDICT_ACK, 1, 1, 4)
    queue = place.cluster.machine.queue(place.orders)
    assert queue is not None
    assert queue.settled_total == 4
    assert place.dispatcher.consumer_count(place.orders) == 1
    assert place.dispatcher.consumer_count(12_345) == 0


def test_what_was_in_flight_to_the_last_consumer_is_not_offered_to_the_next(place: Place) -> None:
    place.consume(1, 4)
    (zxid,) = place.publish(6)
    place.pick()
    place.dispatcher.remove_consumer(place.session, 1)
    place.consume(2)
    assert [(run.zxid, run.first, run.size) for run in place.pick().runs] == [(zxid, 4, 2)]
    assert [outcome.value for outcome in place.commit()] == [Granted([]), Granted([])]


def test_a_consumers_number_is_used_once(place: Place) -> None:
    place.consume(1)
    with pytest.raises(AssertionError, match="used once"):
        place.consume(1)


def test_the_cost_of_a_pick_does_not_grow_with_idle_queues_and_consumers(place: Place) -> None:
    """Counted in look-ups of the machine's index, not in time."""
    for consumer in range(2, 300):
        place.consume(consumer, 0)
    for number in range(50):
        place.consume(1000 + number, queue=place.declare(f"idle {number}"))
    assert place.cluster.pick() is None, "the first round finds that nothing is there"
    place.consume(1)
    place.publish(1)
    queue = place.cluster.machine.queue(place.orders)
    assert queue is not None
    waiting = place.dispatcher._waiting
    assert [line.queue for line in waiting] == [queue]
    assert [consumer.number for consumer in in_turn(waiting[0])._line] == [1]
    assert place.pick().consumer == 1


def test_consumers_that_come_and_go_leave_nothing_behind_on_an_idle_queue(place: Place) -> None:
    """Nothing is picked there, so nobody walks the line of those whose turn it is."""
    place.consume(1)
    for consumer in range(2, 2_002):
        place.consume(consumer)
        place.dispatcher.remove_consumer(place.session, consumer)
    line = place.dispatcher._lines[place.orders]
    assert len(in_turn(line)._line) <= 2
    place.publish(1)
    assert place.pick().consumer == 1


def test_consumers_that_leave_in_any_order_take_no_turn_from_the_others() -> None:
    place = Place(grant_messages_max=1)
    for consumer in range(1, 101):
        place.consume(consumer)
    staying = [consumer for consumer in range(1, 101) if consumer % 7 == 3]
    line = place.dispatcher._lines[place.orders]
    for consumer in range(100, 0, -1):
        if consumer not in staying:
            place.dispatcher.remove_consumer(place.session, consumer)
        assert len(in_turn(line)._line) <= 2 * len(line.consumers) + 1
    place.publish(2 * len(staying))
    assert place.picks() == [(consumer, 1) for consumer in staying * 2]
    assert in_turn(line)._stale == 0


def test_deleted_queues_do_not_wait_to_be_dispatched(place: Place) -> None:
    """A dispatcher that is asked for nothing meets none of them."""
    mail = place.declare("mail")
    for number in range(1, 301):
        queue = place.declare(f"reply-{number}")
        place.consume(number, queue=queue)
        if number == 150:
            place.consume(1_000, queue=mail)
        place.cluster.apply(e.Delete(1_000, "/", "queue", f"reply-{number}", False))
    assert len(place.dispatcher._waiting) <= 2
    place.publish(1, queue=mail)
    assert place.picks() == [(1_000, 1)]
    assert (len(place.dispatcher._waiting), place.dispatcher._lines_gone_waiting) == (0, 0)
