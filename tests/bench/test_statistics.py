"""Medians, ranges and ratios say what happened, and say nothing where nothing was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.statistics import paired_ratios, per_million, quantile, spread, summary, thinned

durations = st.lists(st.floats(min_value=1e-6, max_value=1e3), min_size=1, max_size=200)


def test_the_median_of_ten_durations_is_the_fifth() -> None:
    assert quantile([float(number) for number in range(1, 11)], 0.5) == 5.0


def test_the_last_of_a_hundred_is_beyond_the_99th_percentile() -> None:
    assert quantile([float(number) for number in range(1, 101)], 0.99) == 99.0


def test_nothing_measured_has_no_quantile_and_no_summary() -> None:
    assert quantile([], 0.5) is None
    assert summary([None, None]) is None
    assert paired_ratios([], [1.0]) is None


def test_a_round_that_failed_does_not_count() -> None:
    assert summary([3.0, None, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "largest": 3.0, "runs": 3}


def test_ratios_pair_the_rounds_and_leave_out_those_where_one_side_failed() -> None:
    ratio = paired_ratios([10.0, 30.0, 40.0, None], [1.0, 2.0, None, 5.0])
    assert ratio == {"median": 12.5, "least": 10.0, "largest": 15.0, "runs": 2}


def test_a_range_is_told_by_its_farther_end() -> None:
    assert spread({"median": 10.0, "least": 9.0, "largest": 13.0}) == pytest.approx(0.3)


def test_cpu_is_counted_for_a_million_messages() -> None:
    assert per_million(0.5, 250_000) == 2.0
    assert per_million(0.5, 0) is None
    assert per_million(None, 10) is None


@given(durations, st.floats(min_value=0.01, max_value=1.0))
def test_a_quantile_is_a_duration_that_was_seen_with_enough_below_it(samples: list[float], part: float) -> None:
    found = quantile(sorted(samples), part)
    assert found in samples
    assert sum(sample <= found for sample in samples) >= part * len(samples) - 1e-9


@given(durations, st.integers(min_value=2, max_value=50))
def test_thinning_keeps_the_extremes_and_invents_nothing(samples: list[float], most: int) -> None:
    kept = thinned(samples, most)
    assert len(kept) == min(most, len(samples))
    assert (kept[0], kept[-1]) == (min(samples), max(samples))
    assert set(kept) <= set(samples)
