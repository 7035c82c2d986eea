"""The report compares like with like, marks what does not repeat, and shows no figure that was not measured."""

from __future__ import annotations

from typing import Any

import pytest

from bench.compare import comparison
from bench.report import Results, ratio_table, report, rounded, table, times, with_range
from bench.scenarios import count_syncs
from bench.systems import BY_NAME, FSYNC, SYSTEMS


def rate(system: str, number: int, publish: float | None, size: int = 100, vary: bool = True) -> dict[str, Any]:
    record = {"scenario": "rates", "system": system, "round": number, "size": size, "vary": vary, "load": 1.0}
    return record if publish is None else {**record, "publish_per_second": publish}


def results_of(*records: dict[str, Any]) -> Results:
    facts: dict[str, Any] = {
        "date": "2026-01-01",
        "commit": "abc",
        "processors": 2,
        "processor": "a processor",
        "memory_bytes": 2**30,
        "kernel": "6",
        "file_system": "ext4",
        "python": "3.11",
        "libraries": {"pika": "1"},
        "servers": {"redis-server": "7"},
    }
    return Results({"facts": facts, "left_out": [], "seconds": 1.0, "quick": False, "records": list(records)})


def test_ratios_are_ours_through_theirs_round_by_round() -> None:
    results = results_of(
        rate("sluicemq", 0, 1000.0),
        rate("redis-always", 0, 100.0),
        rate("sluicemq", 1, 3000.0),
        rate("redis-always", 1, 150.0),
    )
    ratio = results.ratio("rates", "redis-always", "publish_per_second", size=100)
    assert ratio is not None
    assert (ratio["least"], ratio["largest"]) == (10.0, 20.0)


def test_the_fast_path_of_equal_lengths_stays_out_of_the_ratios() -> None:
    results = results_of(rate("sluicemq", 0, 9999.0, vary=False), rate("sluicemq", 0, 10.0), rate("nats", 0, 5.0))
    ratio = results.ratio("rates", "nats", "publish_per_second", size=100)
    assert ratio is not None
    assert ratio["median"] == 2.0


def test_a_ratio_that_does_not_repeat_is_marked() -> None:
    assert times({"median": 10.0, "least": 9.0, "largest": 11.0}) == "10"
    assert times({"median": 10.0, "least": 5.0, "largest": 11.0}) == "~10"
    assert times(None) == "-"


def test_a_failed_round_leaves_a_dash_and_is_named() -> None:
    results = results_of(rate("sluicemq", 0, None), {**rate("nats", 0, None), "error": "the worker of nats ended"})
    assert "| NATS JetStream | - |" in ratio_table(results, [BY_NAME["nats"]])
    assert "failed: rates, nats: the worker of nats ended" in report(results)


def test_a_system_that_syncs_later_is_not_compared_like_with_like() -> None:
    results = results_of(rate("sluicemq", 0, 10.0), rate("redis-everysec", 0, 5.0), rate("redis-always", 0, 2.0))
    like, _, others = report(results).partition("## Each one's default")
    assert "everysec" not in like
    assert "Redis Streams, fsync always" in like
    assert "Redis Streams, everysec" in others


def test_a_busy_machine_is_said() -> None:
    busy = {**rate("sluicemq", 0, 10.0), "load": 3.1}
    assert "other work may have disturbed" in report(results_of(busy))
    assert "other work may have disturbed" not in report(results_of(rate("sluicemq", 0, 10.0)))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.12345, "0.123"), (12.345, "12.3"), (1234.5, "1,230"), (1_656_839.0, "1,660,000"), (999.6, "1,000")],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert rounded(value) == text


def test_a_figure_shows_its_range_where_there_is_one() -> None:
    assert with_range({"median": 0.002, "least": 0.001, "largest": 0.004, "runs": 3}, 1e3) == "2 (1 to 4)"
    assert with_range({"median": 2.0, "least": 2.0, "largest": 2.0, "runs": 1}) == "2"
    assert with_range(None) == "-"


def test_a_table_has_a_line_a_row() -> None:
    assert table(("a", "b"), [("x", "1")]).splitlines() == ["| a | b |", "| --- | ---: |", "| x | 1 |"]


def test_syncs_in_a_trace_count_once_although_threads_split_them() -> None:
    trace = (
        "12 fdatasync(5 <unfinished ...>\n"
        "13 fsync(6)                          = 0\n"
        "12 <... fdatasync resumed>)          = 0\n"
        "12 +++ exited with 0 +++\n"
    )
    assert count_syncs(trace) == 2


def test_two_commits_are_shown_with_the_ratio_of_the_second_to_the_first() -> None:
    text = comparison({("publish", "messages_per_second"): ([100.0, 200.0], [110.0, 220.0])}, "old", "new")
    assert "| publish: messages_per_second | 150 (100 to 200) | 165 (110 to 220) | 1.1 | 1.1 to 1.1 |" in text


def test_every_system_says_what_its_confirm_means() -> None:
    assert all(system.durability for system in SYSTEMS)
    assert BY_NAME["sluicemq"].promise == FSYNC
    assert len(BY_NAME) == len(SYSTEMS)
