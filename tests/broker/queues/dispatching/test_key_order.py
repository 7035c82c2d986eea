"""Order by key and priorities as stories: who may have what, while others have something."""

from __future__ import annotations

from typing import Any

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues.outcomes import Declared, ProducerOpened, SessionOpened
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE
from tests.broker.harness import Cluster

PLENTY = 10**9
RED, BLUE, GREEN = 1, 2, 3
SPREAD = [number * 2_654_435_761 % 2**32 for number in range(1, 51)]
"""Keys that lie all over the ring."""


class Place:
    """A cluster with a queue, a producer and a session; a batch holds one message for each key or priority named."""

    def __init__(self, **wanted: Any) -> None:
        self.cluster = Cluster()
        declared = self.cluster.apply(e.Declare(1_000, "/", "queue", "orders", wanted)).value
        opened = self.cluster.apply(e.ProducerOpen(1_000, "/", "", "")).value
        session = self.cluster.apply(e.SessionOpen(1_000, "/", "", "", b"")).value
        assert isinstance(declared, Declared)
        assert isinstance(opened, ProducerOpened)
        assert isinstance(session, SessionOpened)
        self.queue, self.producer, self.session = declared.queue_id, opened.producer, session.session
        self.sequence = 0

    def publish(self, *keys: int, priorities: tuple[int, ...] = (), due_ms: int = 0) -> None:
        self.sequence += 1
        groups: list[int] = []
        for key in keys:
            groups += (1, due_ms, 0, 0, key, 0)
        for priority in priorities:
            groups += (1, 0, 0, priority, 0, 0)
        count = len(keys) + len(priorities)
        common = 1_000, self.queue, self.producer, self.sequence, count, 10 * count, None, b"x" * 10 * count
        self.cluster.apply(e.PublishGrouped(*common, groups))

    def publish_two_that_expire(self, key: int) -> None:
        self.sequence += 1
        common = 1_000, self.queue, self.producer, self.sequence, 2, 20, None, b"x" * 20
        self.cluster.apply(e.PublishGrouped(*common, [2, 0, 500, 0, key, 0]))

    def clock(self, time_ms: int) -> None:
        self.cluster.log_time_ms = time_ms
        self.cluster.apply(e.Clock(time_ms, 100))

    def consume(self, consumer: int, credit: int = PLENTY) -> None:
        self.cluster.dispatcher.add_consumer(self.session, consumer, self.queue, credit, PLENTY)

    def settle(self, verdict: int, consumer: int, tag: int, due_ms: int = 0) -> None:
        self.cluster.apply(e.Settle(1_000, self.session, consumer, verdict, [tag, tag], due_ms))

    def deal(self) -> dict[int, list[int]]:
        """Pick all there is, and commit; return the indices of the messages that each consumer gets."""
        dealt: dict[int, list[int]] = {}
        while (pick := self.cluster.pick()) is not None:
            dealt.setdefault(pick.consumer, []).extend(run.first + at for run in pick.runs for at in range(run.size))
        self.cluster.commit_all()
        return dealt


def test_the_next_of_a_key_comes_when_the_one_before_is_settled() -> None:
    place = Place(ordering="key")
    place.consume(1)
    place.publish(RED, RED, BLUE, RED, BLUE)
    assert place.deal() == {1: [0, 2]}
    place.settle(VERDICT_ACK, 1, 2)
    assert place.deal() == {1: [4]}
    place.settle(VERDICT_ACK, 1, 1)
    assert place.deal() == {1: [1]}


def test_keys_that_are_freed_go_on_in_the_order_in_which_their_messages_wait() -> None:
    place = Place(ordering="key")
    place.consume(1)
    place.publish(RED, BLUE, GREEN, GREEN, BLUE, RED)
    assert place.deal() == {1: [0, 1, 2]}
    place.cluster.apply(e.Settle(1_000, place.session, 1, VERDICT_ACK, [1, 3], 0))
    assert place.deal() == {1: [3, 4, 5]}


def test_a_settlement_that_is_not_committed_frees_no_key() -> None:
    place = Place(ordering="key")
    place.consume(1)
    place.publish(RED, RED)
    place.deal()
    place.cluster.dispatcher.settled(place.session, 1, [1, 1])  # credit comes back at once
    assert place.deal() == {}


def test_messages_without_a_key_wait_for_nobody() -> None:
    place = Place(ordering="key")
    place.consume(1)
    place.publish(RED, RED, 0, 0)
    assert place.deal() == {1: [0, 2, 3]}


def test_a_key_stays_with_who_has_it_also_when_he_was_cancelled() -> None:
    place = Place(ordering="key", key_in_flight_max=2)
    place.consume(1, 1)
    place.publish(RED, RED, RED)
    assert place.deal() == {1: [0]}
    place.consume(2)
    assert place.deal() == {}, "one may be out beside it, but only with the same consumer"
    place.cluster.dispatcher.remove_consumer(place.session, 1)
    assert place.deal() == {}
    place.settle(VERDICT_RELEASE, 1, 1)
    assert place.deal() == {2: [0, 1]}


def test_a_holder_that_gets_credit_again_goes_on() -> None:
    place = Place(ordering="key", key_in_flight_max=3)
    place.consume(1, 1)
    place.publish(RED, RED, RED, RED)
    assert place.deal() == {1: [0]}
    place.cluster.dispatcher.set_credit(place.session, 1, 10, PLENTY)
    assert place.deal() == {1: [1, 2]}


def test_a_key_whose_owner_has_no_credit_goes_to_another() -> None:
    place = Place(ordering="key")
    place.consume(1, 1)
    place.consume(2)
    place.publish(*SPREAD)
    dealt = place.deal()
    assert len(dealt[1]) == 1
    assert len(dealt[2]) == 49


def test_a_message_that_waits_for_another_attempt_holds_up_its_key_and_comes_first_then() -> None:
    place = Place(ordering="key")
    place.consume(1)
    place.publish(RED, RED, BLUE)
    assert place.deal() == {1: [0, 2]}
    place.settle(VERDICT_NACK, 1, 1, due_ms=5_000)
    assert place.deal() == {}
    place.cluster.log_time_ms = 5_000
    place.cluster.apply(e.Clock(5_000, 100))
    assert place.deal() == {1: [0]}


def test_a_parked_key_stops_until_it_is_let_go() -> None:
    place = Place(ordering="key")
    place.consume(1)
    for machine in place.cluster.machines:
        queue = machine.queue(place.queue)
        assert queue is not None
        assert queue.keys is not None
        queue.keys.parked[RED] = None
    place.publish(RED, BLUE)
    assert place.deal() == {1: [1]}
    for machine in place.cluster.machines:
        del machine.queue(place.queue).keys.parked[RED]
    place.cluster.dispatcher.leases_over(place.queue, [RED, 0])
    assert place.deal() == {1: [0]}


def test_what_is_passed_over_is_bounded_and_goes_on_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicemq.broker.queues.dispatching.key_order.PASSED_RANGES_MAX", 2)
    place = Place(ordering="key")
    place.consume(1)
    place.publish(RED, BLUE, RED, BLUE, GREEN)
    assert place.deal() == {1: [0, 1]}, "a red one and a blue one are passed over: the green one is not seen"
    place.settle(VERDICT_ACK, 1, 2)
    assert place.deal() == {1: [3, 4]}
    place.settle(VERDICT_ACK, 1, 1)
    assert place.deal() == {1: [2]}


def test_keys_that_are_passed_over_last_still_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicemq.broker.queues.dispatching.key_order.PASSED_RANGES_MAX", 2)
    place = Place(ordering="key", key_in_flight_max=2)
    place.consume(1)
    place.publish(RED, BLUE, RED, BLUE, GREEN)
    assert place.deal() == {1: [0, 1, 2, 3, 4]}


def a_place_where_the_second_was_published_first(limit: int) -> Place:
    """Two messages of a key are out: one that was published later, and then one that had been delayed."""
    place = Place(ordering="key", key_in_flight_max=limit)
    place.publish(RED, due_ms=2_000)
    place.publish(BLUE, RED)
    place.clock(2_000)
    place.consume(1)
    assert place.deal() == {1: [0, 1, 0]}
    return place


def test_a_message_that_was_delayed_and_waits_for_another_attempt_overtakes_none_that_was_out_with_it() -> None:
    place = a_place_where_the_second_was_published_first(2)
    place.settle(VERDICT_NACK, 1, 3, due_ms=5_000)
    place.settle(VERDICT_RELEASE, 1, 2)
    assert place.deal() == {}, "the key waits for it"
    place.clock(5_000)
    assert place.deal() == {1: [1, 0]}


def test_a_place_is_kept_in_an_image_and_when_somebody_wants_the_message_now() -> None:
    place = a_place_where_the_second_was_published_first(2)
    place.settle(VERDICT_NACK, 1, 3, due_ms=5_000)
    place.settle(VERDICT_RELEASE, 1, 2)
    place.cluster.freeze()
    place.cluster.pack(10**6)
    assert place.cluster.rebuilt == 1
    delayed = place.cluster.machine.queue(place.queue).delayed.runs()[0]
    named = [5_000, delayed.zxid, delayed.first, delayed.size]
    place.cluster.apply(q.Reschedule(2_000, place.queue, named, 0))
    assert place.deal() == {1: [1, 0]}


def test_where_no_more_places_can_be_kept_a_message_comes_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicemq.broker.queues.keys.PLACES_MAX", 0)
    place = a_place_where_the_second_was_published_first(2)
    place.settle(VERDICT_NACK, 1, 3, due_ms=5_000)
    assert place.deal() == {1: [0]}


def test_what_expires_of_a_batch_that_was_cut_is_not_picked() -> None:
    place = Place(ordering="key")
    place.consume(1)
    place.publish_two_that_expire(RED)
    assert place.deal() == {1: [0]}
    place.publish(RED)
    place.clock(1_500)
    place.settle(VERDICT_ACK, 1, 1)
    pick = place.cluster.pick()
    assert pick is not None
    assert [run.zxid for run in pick.runs] == [place.cluster.log[-3].zxid], "the batch behind it"


def test_what_was_dealt_to_those_that_wait_now_is_taken_back() -> None:
    place = Place(ordering="key")
    place.consume(1)
    place.consume(2)
    place.publish(*SPREAD)
    first = place.cluster.pick()
    assert first is not None
    place.cluster.commit_all()
    place.cluster.apply(e.Declare(1_000, "/", "queue", "orders", {"mode": "failover"}))
    for tag in range(1, first.messages + 1):
        place.settle(VERDICT_ACK, first.consumer, tag)
    assert set(place.deal()) == {1}, "the other one is not active"


def test_what_was_dealt_and_not_handed_out_goes_to_others_when_its_consumer_goes() -> None:
    place = Place(ordering="key")
    place.consume(1, 1)
    place.consume(2, 1)
    place.publish(RED, BLUE)
    first = place.cluster.pick()
    assert first is not None
    other = 3 - first.consumer
    place.cluster.dispatcher.remove_consumer(place.session, other)
    assert place.deal() == {}
    place.consume(3)
    assert len(place.deal()[3]) == 1


def test_what_was_dealt_and_not_handed_out_waits_for_an_earlier_message_that_comes_back() -> None:
    place = Place(ordering="key", key_in_flight_max=2)
    place.consume(1)
    place.consume(2)
    place.publish(*SPREAD)
    dealt = place.deal()
    mine, others = SPREAD[dealt[1][0]], SPREAD[dealt[2][0]]
    for consumer, indices in dealt.items():
        for tag in range(1, len(indices) + 1):
            place.settle(VERDICT_ACK, consumer, tag)
    place.publish(mine)
    assert place.deal() == {1: [0]}
    place.publish(others, mine)
    first = place.cluster.pick()
    assert first is not None
    assert first.consumer == 2
    place.settle(VERDICT_NACK, 1, len(dealt[1]) + 1, due_ms=5_000)
    assert place.deal() == {}
    place.clock(5_000)
    assert place.deal() == {1: [0, 1]}


def test_a_purge_forgets_what_waits_and_not_what_is_out() -> None:
    place = Place(ordering="key")
    place.consume(1)
    place.publish(RED, RED)
    place.deal()
    place.cluster.apply(e.Purge(1_000, place.queue))
    place.publish(RED, BLUE)
    assert place.deal() == {1: [1]}
    place.settle(VERDICT_ACK, 1, 1)
    assert place.deal() == {1: [0]}


# --- priorities ----------------------------------------------------------------------------------------------------


def test_higher_priorities_come_first_and_within_one_the_first_is_first() -> None:
    place = Place()
    place.publish(priorities=(0, 9, 5, 0, 9, 5))
    place.consume(1)
    assert place.deal() == {1: [1, 4, 2, 5, 0, 3]}


def test_what_came_back_is_first_of_its_priority_and_of_no_higher_one() -> None:
    place = Place()
    place.publish(priorities=(0, 5, 5))
    place.consume(1, 2)
    assert place.deal() == {1: [1, 2]}
    place.settle(VERDICT_RELEASE, 1, 2)
    place.publish(priorities=(9, 5))
    place.cluster.dispatcher.set_credit(place.session, 1, PLENTY, PLENTY)
    pick = place.cluster.pick()
    assert pick is not None
    assert [(run.priority, run.first) for run in pick.runs] == [(9, 0), (5, 2), (5, 1), (0, 0)]


# --- one active consumer -------------------------------------------------------------------------------------------


def test_the_next_active_one_waits_until_the_leases_of_the_one_before_ended() -> None:
    place = Place(mode="failover")
    place.consume(1, 2)
    place.consume(2)
    place.publish(0, 0, 0)
    assert place.deal() == {1: [0, 1]}
    place.cluster.dispatcher.remove_consumer(place.session, 1)
    assert place.deal() == {}
    place.settle(VERDICT_ACK, 1, 1)
    assert place.deal() == {}
    place.settle(VERDICT_RELEASE, 1, 2)
    assert place.deal() == {2: [1, 2]}


def test_a_change_of_mode_lets_the_others_take_part() -> None:
    place = Place(mode="failover")
    place.consume(1, 1)
    place.consume(2)
    place.publish(0, 0, 0)
    assert place.deal() == {1: [0]}
    place.cluster.apply(e.Declare(1_000, "/", "queue", "orders", {"mode": "shared"}))
    assert place.deal() == {2: [1, 2]}
