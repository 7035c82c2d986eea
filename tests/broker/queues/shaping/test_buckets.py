"""Token buckets: what is saved, what is waited for, and what a late wake-up may not lose."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.queues.shaping.buckets import LATE_SECONDS_MAX, Bucket


def taken(bucket: Bucket, now: float, wanted: int = 1 << 40) -> int:
    """Take all whole tokens that there are, at most as many as are wanted."""
    room = bucket.room(now)
    count = min(wanted, int(room)) if room >= 1 else 0
    if count:
        bucket.take(count)
    if count < room - 1:
        bucket.rest()
    return count


def drained(bucket: Bucket, begin: float, end: float, lateness: float = 0.0) -> list[tuple[float, int]]:
    """Take whatever there is whenever the bucket says that there is some, so much later; return when how much."""
    now, found = begin, []
    while now < end:
        count = taken(bucket, now)
        if count:
            found.append((now, count))
        due = bucket.wait(1, now)
        now = due + lateness
    return found


def test_a_full_bucket_gives_its_burst_and_not_one_token_more():
    bucket = Bucket(10, 100, 0.0)
    assert taken(bucket, 0.0) == 100
    assert taken(bucket, 0.0) == 0
    bucket.rest()
    assert taken(bucket, 1_000.0) == 100, "however long it was quiet"


def test_slow_tokens_come_one_by_one_at_even_times():
    found = drained(Bucket(10, 1, 0.0), 0.0, 10.05)
    assert [count for _, count in found] == [1] * 101
    gaps = [after - before for (before, _), (after, _) in pairwise(found)]
    assert min(gaps) == pytest.approx(0.1)
    assert max(gaps) == pytest.approx(0.1)


def test_fast_tokens_come_in_slices_of_ten_milliseconds():
    found = drained(Bucket(50_000, None, 0.0), 0.0, 1.0)
    assert {count for _, count in found} == {500}
    assert len(found) == pytest.approx(100, abs=1)


@pytest.mark.parametrize("rate", [10, 333, 50_000])
@pytest.mark.parametrize("lateness", [0.0, 0.003, 0.2])
def test_who_waits_and_is_woken_late_still_gets_the_rate(rate, lateness):
    found = drained(Bucket(rate, 1, 0.0), 0.0, 20.0, lateness)
    seconds = found[-1][0]
    assert sum(count for _, count in found) == pytest.approx(rate * seconds, rel=0.001, abs=max(2, rate * 0.01))


def test_who_does_not_wait_finds_no_more_than_the_burst():
    bucket = Bucket(1_000, 5, 0.0)
    assert taken(bucket, 0.0, 2) == 2, "three are left, so nobody waits for any"
    assert taken(bucket, 0.1) == 5


def test_who_took_all_and_could_not_look_again_at_once_still_gets_the_rate():
    bucket = Bucket(1_000, 1, 0.0)
    assert taken(bucket, 0.0) == 1
    assert taken(bucket, 0.05) == 50


def test_whoever_waited_and_gave_up_saved_no_more_than_the_burst():
    bucket = Bucket(100, 5, 0.0)
    assert taken(bucket, 0.0) == 5
    due = bucket.wait(1, 0.0)
    assert taken(bucket, due + LATE_SECONDS_MAX + 10) == 5


def test_a_debt_is_paid_before_anybody_gets_a_token():
    bucket = Bucket(10, 1, 0.0)
    bucket.take(21)  # one token, and twenty of debt
    assert bucket.room(1.9) < 1
    assert bucket.wait(1, 1.9) == pytest.approx(2.1)


def test_no_tokens_at_all_and_no_end_of_them():
    assert Bucket(0, 5, 0.0).room(100.0) == 0
    assert Bucket(0, 5, 0.0).wait(1, 0.0) == math.inf
    assert Bucket(math.inf, 5, 0.0).room(0.0) == math.inf


def test_a_bucket_that_had_no_limit_has_saved_nothing_when_it_gets_one():
    bucket = Bucket(math.inf, 100, 0.0)
    bucket.take(1_000_000)
    bucket.change(10, 100, 5.0)
    assert taken(bucket, 5.0) == 0
    assert taken(bucket, 6.0) == 10


def test_another_rate_holds_from_the_moment_of_the_change():
    bucket = Bucket(10, 1_000, 0.0)
    assert taken(bucket, 0.0) == 1_000
    bucket.change(100, 1_000, 1.0)
    assert taken(bucket, 1.0) == 10
    assert taken(bucket, 2.0) == 100


@given(
    st.floats(0.01, 100_000),
    st.integers(1, 1_000),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 500)), max_size=60),
)
def test_in_no_span_of_time_more_than_the_burst_and_the_rate_allow(rate, burst, steps):
    bucket = Bucket(rate, burst, 0.0)
    slack = max(1.0, rate * 0.01) + rate * LATE_SECONDS_MAX
    times, now = [], 0.0
    for gap, wanted in steps:
        now += gap
        count = taken(bucket, now, wanted)
        if not count:
            bucket.wait(1, now)
        times.append((now, count))
    for start in range(len(times)):
        total = 0
        for at, count in times[start:]:
            total += count
            assert total <= burst + rate * (at - times[start][0]) + slack + 1e-3
