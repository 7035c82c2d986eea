"""A dead-letter queue of two subscriptions of a topic: one message may die in both, and lies in it twice then."""

from __future__ import annotations

from typing import Any

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues.dispatching.dispatcher import Dispatcher, grant_of
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.outcomes import Discarded, Granted, Redriven
from sluicemq.broker.queues.queue import Queue
from sluicemq.broker.queues.returned import ReturnedRuns
from sluicemq.broker.queues.runs import Run
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_RELEASE
from tests.broker.queues.routing.test_topics import Broker


class Graveyard(Broker):
    """Two subscriptions whose messages grow old, and the queue `grave` where they go."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.declare("grave", **settings)
        for name in ("first", "second"):
            self.try_subscribe("#", name, settings={"ttl": 1.0, "dead_letter": "grave"})

    @property
    def grave(self) -> Queue:
        queue = self.machine.find_queue("/", "grave")
        assert queue is not None
        return queue

    def wait(self, ms: int) -> None:
        self.now += ms
        self.apply(e.Clock(self.now, 100))

    def take(self, dispatcher: Dispatcher) -> int:
        """Grant whatever the dispatcher picks; return how many messages that were."""
        messages = 0
        while (pick := dispatcher.next_pick()) is not None:
            outcome = self.get(Granted, self.apply(grant_of(pick, self.now)))
            assert not outcome.void
            dispatcher.granted(pick)
            messages += pick.messages
        return messages


def both(broker: Graveyard) -> list[Run]:
    return broker.machine.peek(broker.grave.id, 0, 10)


@pytest.mark.parametrize("together", [True, False])
def test_both_are_taken_given_back_and_acknowledged(together: bool) -> None:
    broker = Graveyard()
    if not together:
        broker.try_subscribe("#", "second", settings={"ttl": 2.0, "dead_letter": "grave"})
    zxid = broker.publish("eu")
    broker.wait(1_500)
    broker.wait(1_500)
    assert [(run.zxid, run.first, run.size) for run in both(broker)] == [(zxid, 0, 1)] * 2
    tag = 1
    for _ in range(3):
        broker.apply(e.Grant(broker.now, broker.grave.id, broker.session, 1, tag, [zxid, 0, 1, zxid, 0, 1]))
        assert (broker.grave.ready, broker.grave.leased) == (0, 2)
        broker.apply(e.Settle(broker.now, broker.session, 1, VERDICT_RELEASE, [tag, tag + 1], 0, ""))
        tag += 2
        assert broker.grave.ready == len(both(broker)) == 2
        assert load(broker.machine.freeze().pack(lambda: True)).state_hash() == broker.machine.state_hash()
    broker.apply(e.Grant(broker.now, broker.grave.id, broker.session, 1, tag, [zxid, 0, 1, zxid, 0, 1]))
    broker.apply(e.Settle(broker.now, broker.session, 1, VERDICT_ACK, [tag, tag + 1], 0, ""))
    assert broker.grave.messages == 0


@pytest.mark.parametrize("ordering", ["fifo", "key"])
def test_the_dispatcher_hands_out_both_however_often_they_come_back(ordering: str) -> None:
    broker = Graveyard(ordering=ordering)
    broker.publish("eu", "us")
    broker.wait(1_500)
    dispatcher = Dispatcher(broker.machine)
    dispatcher.add_consumer(broker.session, 1, broker.grave.id, 100, 10_000)
    tag = 1
    for _ in range(3):
        assert broker.take(dispatcher) == 4
        tags = [tag, tag + 3]
        released = broker.apply(e.Settle(broker.now, broker.session, 1, VERDICT_RELEASE, tags, 0, ""))
        dispatcher.on_effects(released.effects)
        tag += 4


@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("given_back", [True, False])
def test_each_is_dropped_or_goes_to_where_it_came_from(drop: bool, given_back: bool) -> None:
    broker = Graveyard()
    zxid = broker.publish("eu")
    broker.wait(1_500)
    if given_back:
        broker.apply(e.Grant(broker.now, broker.grave.id, broker.session, 1, 1, [zxid, 0, 1, zxid, 0, 1]))
        broker.apply(e.Settle(broker.now, broker.session, 1, VERDICT_RELEASE, [1, 2], 0, ""))
    for left in (1, 0):
        run = both(broker)[0]
        flat = [run.ready, run.zxid, run.first, run.size]
        kind = q.Discard(broker.now, broker.grave.id, flat) if drop else q.Redrive(broker.now, broker.grave.id, flat, 0)
        assert broker.apply(kind).value == (Discarded(1) if drop else Redriven(1))
        assert broker.grave.messages == left
    if not drop:
        assert broker.holds("first") == broker.holds("second") == [(zxid, 0)]


def test_of_both_that_came_back_the_dispatcher_hands_out_the_one_that_is_left() -> None:
    broker = Graveyard(ordering="key")
    zxid = broker.publish("eu")
    broker.wait(1_500)
    dispatcher = Dispatcher(broker.machine)
    dispatcher.add_consumer(broker.session, 1, broker.grave.id, 100, 10_000)
    assert broker.take(dispatcher) == 2
    dispatcher.on_effects(broker.apply(e.Settle(broker.now, broker.session, 1, VERDICT_RELEASE, [1, 2], 0, "")).effects)
    (ready, *_), *_ = [(run.ready,) for run in both(broker)]
    discarded = broker.apply(q.Discard(broker.now, broker.grave.id, [ready, zxid, 0, 1]))
    assert discarded.value == Discarded(1)
    dispatcher.on_effects(discarded.effects)
    assert broker.take(dispatcher) == 1


def test_runs_at_one_place_lie_in_the_same_order_whoever_came_first() -> None:
    run = Run(5, 9, 0, 2, 4, 40, 1)
    copies = [run._replace(size=3, note=2), run, run._replace(note=1), run]
    orders = []
    for given in (copies, copies[::-1]):
        returned = ReturnedRuns()
        for each in given:
            returned.add(each)
        assert returned.messages == 9
        assert sorted(returned.frozen()) == sorted(copies)
        orders.append([*returned])
        for left in (3, 2, 1, 0):
            assert returned.take(5, 0, 2 if left else 3) is not None
            assert len(returned) == left
        assert returned.messages == 0
    assert orders[0] == orders[1]
