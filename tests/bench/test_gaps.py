"""A gap is where confirms stop, also at the ends; a fault is overcome when they come steadily again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.gaps import PAUSE_SECONDS_MAX, STEADY_SECONDS, WATCH_SECONDS_MIN, has_recovered, longest_gap


def steady(since: float, until: float) -> list[float]:
    """Return confirms every 5 ms."""
    return [since + 0.005 * number for number in range(int((until - since) / 0.005))]


def test_the_gap_is_between_the_confirms_around_the_failure() -> None:
    assert longest_gap([1.0, 1.1, 3.5, 3.6], 1.0, 4.0) == pytest.approx(2.4)


def test_confirms_that_never_come_back_are_a_gap_to_the_end() -> None:
    assert longest_gap([1.0, 1.1], 1.0, 9.0) == pytest.approx(7.9)
    assert longest_gap([], 1.0, 9.0) == pytest.approx(8.0)


def test_confirms_of_before_the_failure_do_not_count() -> None:
    assert longest_gap([0.0, 0.9], 1.0, 2.0) == pytest.approx(1.0)


def test_steady_confirms_after_a_gap_end_the_watch() -> None:
    confirms = steady(0.0, 1.0) + steady(1.5, 6.0)
    assert has_recovered(confirms, 1.0, 6.0)


def test_each_fault_is_watched_for_a_while_even_if_nothing_stops() -> None:
    confirms = steady(0.0, 10.0)
    assert not has_recovered(confirms, 1.0, 1.0 + WATCH_SECONDS_MIN - 0.01)
    assert has_recovered(confirms, 1.0, 1.0 + WATCH_SECONDS_MIN)


def test_confirms_that_stop_again_are_no_recovery() -> None:
    confirms = steady(0.0, 4.0) + steady(4.0 + 2 * PAUSE_SECONDS_MAX, 5.0)
    assert not has_recovered(confirms, 1.0, 5.0)
    assert has_recovered(confirms + steady(5.0, 5.0 + STEADY_SECONDS), 1.0, 5.0 + STEADY_SECONDS)


def test_without_any_confirm_nothing_has_recovered() -> None:
    assert not has_recovered([], 1.0, 100.0)


@given(st.lists(st.floats(min_value=0, max_value=10)), st.floats(min_value=0, max_value=10))
def test_no_stretch_without_confirms_is_longer_than_the_gap(confirms: list[float], start: float) -> None:
    gap = longest_gap(confirms, 0.0, 10.0)
    assert 0 <= gap <= 10
    end = start + gap + 1e-9
    assert end > 10 or any(start <= moment <= end for moment in confirms)
