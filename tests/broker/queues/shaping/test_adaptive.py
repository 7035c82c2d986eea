"""The adaptive rate: it finds what a service can take, follows it, and does not grow where nobody waits."""

from __future__ import annotations

import random

import pytest

from sluicemq.broker.queues.shaping.adaptive import ALLOWED_SECONDS_MIN, DECREASE_MAX, RATE_FIRST, AdaptiveRate
from sluicemq.wire.shaping import ADAPTIVE_DEFAULT
from tests.broker.queues.shaping.services import HALVES_AT, RECOVERS_AT, Service, halving, live, sent_within


@pytest.mark.parametrize(("kind", "latency"), [("refuses", None), ("queues", 0.2)])
@pytest.mark.parametrize("capacity", [50.0, 200.0, 1_000.0, 4_000.0])
def test_it_finds_the_capacity_within_ten_seconds_and_follows_it(kind, latency, capacity):
    sent = live(Service(kind, halving(capacity), random.Random(1), 2), latency=latency)
    for changed_at, able in ((0.0, capacity), (HALVES_AT, capacity / 2), (RECOVERS_AT, capacity)):
        found = sent_within(sent, changed_at + 10.0, changed_at + 15.0)
        assert found == pytest.approx(able, rel=0.1), f"ten seconds after {changed_at}"


@pytest.mark.parametrize("workers", [1, 4, 10, 50])
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0, 1.5, 3.0])
def test_a_latency_that_is_too_short_for_the_service_does_not_keep_it_from_its_capacity(share, workers):
    capacity = 200.0
    own = (workers + 1) / capacity
    service = Service("queues", lambda _now: capacity, random.Random(1), workers)
    found = sent_within(live(service, latency=share * own, end=20.0), 10.0, 20.0)
    assert found == pytest.approx(capacity, rel=0.1)


@pytest.mark.parametrize("workers", [1, 4])
def test_where_the_latency_is_too_short_it_follows_the_capacity_as_well(workers):
    sent = live(Service("queues", halving(1_000.0), random.Random(1), workers), latency=0.001)
    for changed_at, able in ((0.0, 1_000.0), (HALVES_AT, 500.0), (RECOVERS_AT, 1_000.0)):
        assert sent_within(sent, changed_at + 10.0, changed_at + 15.0) == pytest.approx(able, rel=0.1)


@pytest.mark.parametrize("workers", [1, 10, 50])
def test_what_queues_at_the_service_does_not_become_longer_and_longer(workers):
    own = (workers + 1) / 200.0
    service = Service("queues", lambda _now: 200.0, random.Random(1), workers)
    live(service, latency=own, end=200.0)
    longest = max(service.took[len(service.took) // 2 :])
    assert longest < 5 * own + 0.1, "though it is the rate alone that says what the shortest latency is"


def test_it_says_which_latency_it_goes_by():
    rate = adaptive(latency=0.5, max=1_000)
    assert rate.latency_allowed == 0.5, "nothing is known"
    lives(rate, 0.0, 3.0)
    assert rate.latency_allowed == 0.5
    rate.follow({**ADAPTIVE_DEFAULT, "latency": 0.001})
    assert rate.latency_allowed == ALLOWED_SECONDS_MIN
    assert adaptive().latency_allowed is None


def adaptive(**settings: float | None) -> AdaptiveRate:
    return AdaptiveRate({**ADAPTIVE_DEFAULT, **settings}, 0.0)


def lives(rate: AdaptiveRate, begin: float, seconds: float, *, failed: bool = False, waited: bool = True) -> float:
    """Let a service that takes 10 ms a message settle all that the rate gives it; return the rate at the end."""
    now = begin
    while now < begin + seconds - 1e-9:
        now += 0.1
        count = max(1, int(rate.rate * 0.1))
        rate.delivered(count)
        if waited:
            rate.waited_for()
        rate.settled(count, 0.01, failed, now)
        rate.look(now, 1)
    return rate.rate


def test_it_doubles_until_something_is_too_much():
    rate = adaptive(max=1_000)
    assert rate.rate == RATE_FIRST
    assert lives(rate, 0.0, 0.6) == 2 * RATE_FIRST
    assert lives(rate, 0.6, 10.0) == 1_000, "its bound"


def test_where_nobody_waits_it_stays_what_it_is():
    assert lives(adaptive(), 0.0, 10.0, waited=False) == RATE_FIRST


def test_it_falls_by_half_at_most_at_once_and_never_below_its_bound():
    rate = adaptive(min=3)
    assert lives(rate, 0.0, 0.6, failed=True) == RATE_FIRST * DECREASE_MAX
    assert lives(rate, 0.6, 10.0, failed=True) == 3


def test_a_failure_now_and_then_is_not_too_much():
    rate = adaptive()
    for second in range(0, 15, 3):
        rate.delivered(1)
        rate.settled(1, 0.01, True, second + 0.05)
        lives(rate, float(second), 3.0)
    assert rate.rate > 10 * RATE_FIRST


def test_a_dead_service_that_works_again_is_found_again():
    rate = adaptive(max=500)
    lives(rate, 0.0, 10.0)
    assert lives(rate, 10.0, 10.0, failed=True) < 5
    assert lives(rate, 20.0, 20.0) > 400


def test_a_service_that_was_dead_for_a_while_has_its_rate_back_soon():
    rate = adaptive()
    lives(rate, 0.0, 4.0)
    assert lives(rate, 4.0, 10.0, failed=True) < 3
    now = 14.0
    while now < 30.0:  # one message at a time, as long as there are few a second
        now += 1 / rate.rate
        rate.waited_for()
        rate.delivered(1)
        rate.settled(1, 0.01, False, now)
        rate.look(now, 1)
    assert rate.rate > 100


def test_other_bounds_hold_at_once():
    rate = adaptive()
    lives(rate, 0.0, 5.0)
    rate.follow({**ADAPTIVE_DEFAULT, "max": 5.0})
    assert rate.rate == 5.0


def test_messages_that_never_end_are_seen_though_none_of_them_is_settled():
    rate = adaptive(latency=1.0)
    for step in range(1, 40):
        now = step * 0.1
        rate.delivered(1)
        rate.waited_for()
        rate.settled(1, 0.01, False, now)
        rate.look(now, 10 * step)  # nine of ten are stuck
    assert rate.rate < RATE_FIRST


def test_what_is_asked_of_a_service_at_a_quiet_time_says_nothing_of_what_it_can_do():
    rate = adaptive(min=5, max=200, latency=0.4)
    now = 0.0
    for step in range(1, 31):  # six messages a second, and the third half second is a slow one
        now = step / 10
        if step % 5 in {2, 3, 4}:
            rate.delivered(1)
            rate.waited_for()
            rate.settled(1, 0.5 if step in {12, 13, 14} else 0.2, False, now)
        rate.look(now, 1)
    assert lives(rate, now, 4.0) == 200.0, "then many come, and it doubles as at the beginning"
