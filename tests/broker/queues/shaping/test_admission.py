"""Limits of publishing: how much is admitted in which span of time, and when the rest may come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.queues.shaping import admission
from sluicemq.broker.queues.shaping.admission import SLOTS, Admissions, Limiter

START = 1_800_000_000.0
"""The beginning of a minute by the clock."""


def limiter(said: str) -> Limiter:
    return Admissions().of(1, said, START).limiter


def admitted(limit: Limiter, now: float, messages: int = 1) -> bool:
    """Publish messages if they may be."""
    if limit.refuse(messages, now) is not None:
        return False
    limit.take(messages, now)
    return True


def pushed(limit: Limiter, begin: float, end: float) -> list[float]:
    """Publish one message after the other, each as soon as the refusal says; return when each was taken."""
    now, times = begin, []
    while now < end:
        refusal = limit.refuse(1, now)
        if refusal is None:
            limit.take(1, now)
            times.append(now)
        else:
            assert refusal.seconds > 0, "it says when"
            now += refusal.seconds + 1e-6
    return times


def test_a_token_bucket_takes_its_burst_and_then_its_rate():
    limit = limiter("token_bucket 10/s burst 30")
    times = pushed(limit, START, START + 10)
    assert times[:30] == [START] * 30
    assert len(times) == pytest.approx(30 + 100, abs=1)


def test_a_leaky_bucket_takes_messages_at_even_times_and_a_batch_of_any_size():
    limit = limiter("leaky_bucket 10/s")
    times = pushed(limit, START, START + 5)
    assert len(times) == pytest.approx(51, abs=1)
    assert admitted(limit, START + 6, 20), "it is empty"
    refusal = limit.refuse(1, START + 6)
    assert refusal is not None
    assert refusal.messages_max is None
    assert refusal.seconds == pytest.approx(2.0)
    assert admitted(limit, START + 8)


def test_a_leaky_bucket_with_a_burst_takes_what_it_has_room_for():
    limit = limiter("leaky_bucket 10/s burst 5")
    assert admitted(limit, START, 3)
    refusal = limit.refuse(3, START)
    assert refusal is not None
    assert refusal.messages_now == 2
    assert refusal.seconds == pytest.approx(0.1)
    assert admitted(limit, START, 2)


def test_a_fixed_window_begins_anew_at_every_minute_by_the_clock():
    limit = limiter("fixed_window 100/min")
    assert admitted(limit, START + 59, 100)
    refusal = limit.refuse(1, START + 59)
    assert refusal is not None
    assert refusal == (0, 100, 1.0)
    assert admitted(limit, START + 60, 100)


def test_a_sliding_window_has_no_minute_with_more():
    limit = limiter("sliding_window 100/min")
    assert admitted(limit, START + 59, 60)
    assert admitted(limit, START + 61, 40)
    assert not admitted(limit, START + 118.9)
    refusal = limit.refuse(60, START + 100)
    assert refusal is not None
    assert START + 100 + refusal.seconds == pytest.approx(START + 119, abs=60 / SLOTS)
    assert admitted(limit, START + 59 + 60 + 60 / SLOTS, 60)


@pytest.mark.parametrize("said", ["token_bucket 10/s burst 5", "fixed_window 5/s", "sliding_window 5/s"])
def test_a_batch_beyond_what_is_ever_taken_at_once_is_told_so(said):
    refusal = limiter(said).refuse(6, START)
    assert refusal is not None
    assert (refusal.messages_now, refusal.messages_max) == (5, 5)


@pytest.mark.parametrize(
    ("said", "rate", "burst"),
    [
        ("token_bucket 100/s burst 20", 100, 20),
        ("leaky_bucket 100/s burst 20", 100, 20),
        ("fixed_window 100/s", 100, 200),
        ("sliding_window 100/s", 100, 100),
    ],
)
@given(steps=st.lists(st.tuples(st.floats(0, 0.7), st.integers(1, 40)), min_size=1, max_size=80))
def test_no_span_of_time_takes_more_than_is_allowed(said, rate, burst, steps):
    limit = limiter(said)
    now, taken = START, []
    for gap, wanted in steps:
        now += gap
        refusal = limit.refuse(wanted, now)
        count = wanted if refusal is None else refusal.messages_now
        if count and admitted(limit, now, count):
            taken.append((now, count))
    # A leaky bucket that is empty takes one batch that is larger than it is.
    largest = max((count for _, count in taken), default=0) if said.startswith("leaky") else 0
    for start in range(len(taken)):
        total = 0
        for at, count in taken[start:]:
            total += count
            assert total <= max(burst, largest) + rate * (at - taken[start][0]) + 1e-3
            if said.startswith("sliding") and at - taken[start][0] < 1.0:
                assert total <= 100


def test_limits_that_are_declared_anew_count_anew_and_remember_what_they_refused():
    admissions = Admissions()
    known = admissions.of(1, "fixed_window 1/d", START)
    assert admitted(known.limiter, START)
    assert not admitted(known.limiter, START)
    known.refused_total += 1
    again = admissions.of(1, "fixed_window 2/d", START)
    assert again is known
    assert admitted(again.limiter, START, 2)
    assert again.refused_total == 1


def test_limits_of_what_is_gone_are_forgotten_before_they_are_many(monkeypatch):
    monkeypatch.setattr(admission, "LOOKED_AT_MIN", 10)
    admissions = Admissions()
    for number in range(100):
        admissions.forget_unless(lambda known: known % 10 == 0)
        admissions.of(number, "fixed_window 1/d", START)
    assert len(admissions) <= 30
    assert admissions.find(90) is not None
    admissions.forget(90)
    assert admissions.find(90) is None
