"""Deadlines of leases, span by span; against a dict with one deadline a tag."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.queues.outstanding import DEADLINE_GRID_SECONDS, Outstanding
from sluicemq.broker.queues.tags import add_range, range_pairs


def ranges_of(tags: set[int]) -> list[int]:
    ranges: list[int] = []
    for tag in sorted(tags):
        add_range(ranges, tag, tag)
    return ranges


def test_a_lease_expires_at_its_deadline_and_once() -> None:
    outstanding = Outstanding()
    outstanding.granted(1, 1, 1, 100, 1000, 30.0)
    assert outstanding.next_deadline() == 30.0
    assert outstanding.expired(29.9) == []
    assert outstanding.expired(30.0) == [(1, 1, [1, 100])]
    assert outstanding.expired(99.0) == []
    assert outstanding.next_deadline() is None
    assert len(outstanding) == 0


def test_what_is_settled_does_not_expire() -> None:
    outstanding = Outstanding()
    outstanding.granted(1, 1, 1, 100, 1000, 30.0)
    assert outstanding.take(1, 1, [11, 20, 96, 120]) == (15, 150)
    assert outstanding.take(1, 1, [11, 20]) == (0, 0)
    assert outstanding.take(1, 2, [1, 9]) == (0, 0)
    assert outstanding.expired(30.0) == [(1, 1, [1, 10, 21, 95])]


def test_an_extended_lease_lives_on() -> None:
    outstanding = Outstanding()
    outstanding.granted(1, 1, 1, 10, 100, 30.0)
    assert outstanding.extend(1, 1, [4, 6, 10, 12], 60.0) == [11, 12]
    assert outstanding.extend(2, 1, [4, 6], 60.0) == [4, 6]
    assert outstanding.expired(30.0) == [(1, 1, [1, 3, 7, 9])]
    assert outstanding.next_deadline() == 60.0
    assert outstanding.take(1, 1, [1, 10]) == (4, 40)


def test_renewing_everything_makes_one_span_of_many() -> None:
    outstanding = Outstanding()
    for number in range(50):
        outstanding.granted(1, 1, 10 * number + 1, 10 * number + 10, 100, 30.0 + number)
    assert len(outstanding) == 50
    assert outstanding.extend(1, 1, [1, 500], 90.0) == []
    assert len(outstanding) == 1


def test_grants_of_one_moment_share_a_span() -> None:
    outstanding = Outstanding()
    outstanding.granted(1, 1, 1, 10, 100, 30.0)
    outstanding.granted(1, 1, 11, 20, 300, 30.0)
    outstanding.granted(1, 1, 22, 30, 90, 30.0)
    outstanding.granted(1, 2, 1, 10, 100, 30.0)
    assert len(outstanding) == 3
    assert outstanding.take(1, 1, [1, 20]) == (20, 400)


@given(st.floats(0, 1e9))
def test_a_lease_never_ends_early_and_at_most_one_step_late(deadline: float) -> None:
    outstanding = Outstanding()
    outstanding.granted(1, 1, 1, 1, 10, deadline)
    ends = outstanding.next_deadline()
    assert ends is not None
    assert deadline <= ends <= deadline + DEADLINE_GRID_SECONDS * (1 + 1e-9) + 1e-6


def test_grants_within_one_step_of_the_grid_share_a_span() -> None:
    outstanding = Outstanding()
    for number in range(1_000):
        outstanding.granted(1, 1, number + 1, number + 1, 10, 30.0 + number * 0.001)
    assert len(outstanding) == 21, "a second has twenty steps, and 30.0 itself is one"
    assert outstanding.tags_of(1, 1) == [1, 1_000]


def test_leases_extended_one_after_the_other_share_a_span() -> None:
    outstanding = Outstanding()
    for tag in range(1, 101):
        outstanding.granted(1, 1, tag, tag, 10, float(tag))
    for tag in (*range(2, 101, 2), *range(99, 0, -2)):
        assert outstanding.extend(1, 1, [tag, tag], 999.99) == []
    assert len(outstanding) == 1
    assert outstanding.next_deadline() == 1_000.0
    assert outstanding.take(1, 1, [1, 100]) == (100, 1_000)


def test_one_call_expires_a_bounded_number_of_spans_earliest_first() -> None:
    outstanding = Outstanding()
    for tag in range(1, 26):
        outstanding.granted(1, 1, tag, tag, 10, 100.0 - tag)
    assert outstanding.expired(100.0, 10) == [(1, 1, [16, 25])]
    assert outstanding.expired(100.0, 10) == [(1, 1, [6, 15])]
    assert outstanding.next_deadline() == 95.0, "whoever calls sees that more is due"
    assert outstanding.expired(100.0, 10) == [(1, 1, [1, 5])]
    assert not outstanding.holds(1, 1)


def test_what_expires_together_is_told_together_by_consumer() -> None:
    outstanding = Outstanding()
    outstanding.granted(1, 1, 1, 10, 0, 31.0)
    outstanding.granted(1, 2, 1, 5, 0, 30.0)
    outstanding.granted(1, 1, 11, 20, 0, 30.0)
    outstanding.granted(2, 1, 1, 5, 0, 40.0)
    assert sorted(outstanding.expired(35.0)) == [(1, 1, [1, 20]), (1, 2, [1, 5])]


def test_a_session_that_ended_expires_no_more() -> None:
    outstanding = Outstanding()
    outstanding.granted(1, 1, 1, 10, 0, 30.0)
    outstanding.granted(1, 2, 1, 10, 0, 30.0)
    outstanding.granted(2, 1, 1, 10, 0, 50.0)
    assert outstanding.consumers_of(1) == [1, 2]
    outstanding.forget_session(1)
    assert outstanding.consumers_of(1) == []
    outstanding.forget_session(1)
    assert outstanding.next_deadline() == 50.0
    assert outstanding.expired(99.0) == [(2, 1, [1, 10])]


def test_a_cancelled_consumers_leases_can_be_forgotten_alone() -> None:
    outstanding = Outstanding()
    outstanding.granted(1, 1, 1, 10, 0, 30.0)
    outstanding.granted(1, 2, 1, 10, 0, 30.0)
    outstanding.take(1, 1, [3, 4])
    outstanding.forget_consumer(1, 1)
    assert outstanding.tags_of(1, 1) == []
    assert outstanding.tags_of(1, 2) == [1, 10]
    assert outstanding.expired(99.0) == [(1, 2, [1, 10])]


@pytest.mark.parametrize("seed", range(30))
def test_any_life_agrees_with_one_deadline_a_tag(seed: int) -> None:
    rng = random.Random(seed)
    outstanding = Outstanding()
    naive: dict[tuple[int, int], dict[int, float]] = {(s, c): {} for s in (1, 2) for c in (1, 2)}
    next_tag = dict.fromkeys(naive, 1)
    now = 0.0
    granted = taken = 0
    for _ in range(300):
        who = rng.choice(list(naive))
        tags = naive[who]
        first = rng.randint(1, next_tag[who] + 2)
        last = first + rng.choice((0, 2, 15))
        inside = {tag for tag in tags if first <= tag <= last}
        action = rng.choice(("grant", "grant", "take", "take", "extend", "time", "forget"))
        if action == "grant":
            first = next_tag[who] + rng.choice((0, 0, 3))
            last = first + rng.randint(0, 9)
            deadline = now + rng.choice((5.0, 5.0, 10.0))
            outstanding.granted(*who, first, last, 7 * (last - first + 1), deadline)
            tags.update(dict.fromkeys(range(first, last + 1), deadline))
            next_tag[who] = last + 1
            granted += 7 * (last - first + 1)
        elif action == "take":
            assert outstanding.take(*who, [first, last]) == (len(inside), 7 * len(inside))
            for tag in inside:
                del tags[tag]
            taken += 7 * len(inside)
        elif action == "extend":
            lost = outstanding.extend(*who, [first, last], now + 8.0)
            assert {tag for a, b in range_pairs(lost) for tag in range(a, b + 1)} == {*range(first, last + 1)} - inside
            tags.update(dict.fromkeys(inside, now + 8.0))
        elif action == "time":
            now += 1.5
            expired = {who: {t for t, deadline in tags.items() if deadline <= now} for who, tags in naive.items()}
            found = {(session, consumer): ranges for session, consumer, ranges in outstanding.expired(now)}
            assert found == {who: ranges_of(tags) for who, tags in expired.items() if tags}
            for someone, gone in expired.items():
                for tag in gone:
                    del naive[someone][tag]
        elif rng.random() < 0.2:
            outstanding.forget_session(who[0])
            for someone in naive:
                if someone[0] == who[0]:
                    naive[someone].clear()
        deadlines = [deadline for tags in naive.values() for deadline in tags.values()]
        assert outstanding.next_deadline() == min(deadlines, default=None)
        for someone, left in naive.items():
            assert outstanding.tags_of(*someone) == ranges_of(set(left))
    assert granted > taken > 0
