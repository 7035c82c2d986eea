"""How long messages took: by the tags that they were delivered under."""

from __future__ import annotations

from sluicemq.broker.queues.shaping.deliveries import Deliveries


def test_a_settlement_tells_the_queue_and_the_mean_time_of_its_messages():
    deliveries = Deliveries()
    deliveries.delivered(7, 1, 1, 1, 10, 100.0)
    deliveries.delivered(7, 1, 1, 11, 20, 102.0)
    assert deliveries.take(1, 1, [6, 15], 103.0) == (7, 10, 2.0)
    assert deliveries.take(1, 1, [1, 15], 104.0) == (7, 5, 4.0), "each counts once"
    assert deliveries.take(1, 1, [16, 20], 104.0) == (7, 5, 2.0)
    assert not deliveries, "nothing is left of what is settled"


def test_who_was_delivered_nothing_settles_nothing():
    deliveries = Deliveries()
    assert deliveries.take(1, 1, [1, 5], 1.0) == (0, 0, 0.0)
    deliveries.delivered(7, 1, 1, 1, 3, 0.0)
    assert deliveries.take(1, 2, [1, 3], 1.0) == (0, 0, 0.0)
    assert deliveries.take(1, 1, [8, 9], 1.0) == (7, 0, 0.0)


def test_a_session_that_goes_leaves_nothing():
    deliveries = Deliveries()
    deliveries.delivered(7, 1, 1, 1, 3, 0.0)
    deliveries.delivered(7, 2, 1, 1, 3, 0.0)
    deliveries.forget(1)
    assert deliveries.take(1, 1, [1, 3], 1.0) == (0, 0, 0.0)
    assert deliveries.take(2, 1, [1, 3], 1.0) == (7, 3, 1.0)
