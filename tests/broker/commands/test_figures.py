"""The arithmetic of `sluicemq bench`: percentiles, rates, and what is taken from whom."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.commands.benchmark.disk import against_bare_disk, file_system_of, sync_latency
from sluicemq.broker.commands.benchmark.figures import Histogram, WorkerResult, figures_of
from sluicemq.broker.commands.benchmark.plan import Plan

BEFORE = {
    "cpu_user_seconds": 10.0,
    "cpu_system_seconds": 5.0,
    "fsyncs_total": 100,
    "uptime_seconds": 50.0,
    "memory_resident_bytes": 1,
}
AFTER = {
    "cpu_user_seconds": 11.0,
    "cpu_system_seconds": 5.5,
    "fsyncs_total": 300,
    "uptime_seconds": 60.0,
    "memory_resident_bytes": 2,
}


def histogram(*durations: float) -> Histogram:
    made = Histogram()
    made.add_all(durations)
    return made


durations = st.lists(st.floats(min_value=1e-6, max_value=1000.0), min_size=1, max_size=200)


@given(durations, st.floats(min_value=0.0, max_value=1.0))
def test_a_percentile_is_right_to_one_percent(values: list[float], part: float) -> None:
    rank = max(1, math.ceil(len(values) * part))
    assert histogram(*values).quantile(part) == pytest.approx(sorted(values)[rank - 1], rel=0.0051)


def test_percentiles_of_known_values() -> None:
    values = [number / 1000 for number in range(1, 1001)]
    random.Random(1).shuffle(values)
    made = histogram(*values)
    assert made.quantile(0.5) == pytest.approx(0.5, rel=0.01)
    assert made.quantile(0.99) == pytest.approx(0.99, rel=0.01)
    assert made.quantile(1.0) == pytest.approx(1.0, rel=0.01)
    assert made.largest == 1.0
    assert Histogram().quantile(0.5) is None


@given(durations, durations)
def test_two_processes_count_like_one(first: list[float], second: list[float]) -> None:
    merged = histogram(*first)
    merged.merge(Histogram.from_plain(json.loads(json.dumps(histogram(*second).to_plain()))))
    together = histogram(*first, *second)
    assert merged == together


def result(role: str, messages: int, started: float, ended: float, cpu: float, *latencies: float) -> WorkerResult:
    return WorkerResult(role, messages, started, ended, cpu, histogram(*latencies))


def test_producers_alone() -> None:
    results = [result("producer", 1_000_000, 1.0, 3.0, 0.5, 0.001), result("producer", 2_000_000, 1.5, 4.0, 1.0, 0.003)]
    figures = figures_of(results, 100, BEFORE, AFTER)
    assert figures["messages"] == 3_000_000
    assert figures["seconds"] == 3.0
    assert figures["messages_per_second"] == 1_000_000
    assert figures["megabytes_per_second"] == 100.0
    assert figures["broker_cpu_seconds_per_million"] == 0.5
    assert figures["producer_cpu_seconds_per_million"] == 0.5
    assert figures["consumer_cpu_seconds_per_million"] is None
    assert (figures["fsyncs"], figures["fsyncs_per_second"]) == (200, 20.0)
    assert figures["latency_max_seconds"] == 0.003
    assert "sent_messages" not in figures


def test_what_consumers_settled_counts_where_there_are_any() -> None:
    results = [result("producer", 5000, 0.0, 1.0, 0.1, 9.0), result("consumer", 4000, 0.1, 2.0, 0.2, 0.01)]
    figures = figures_of(results, 10, BEFORE, AFTER)
    assert figures["messages"] == 4000
    assert figures["messages_per_second"] == 2000
    assert figures["latency_max_seconds"] == 0.01
    assert figures["sent_messages_per_second"] == 5000


def test_a_worker_result_survives_its_pipe() -> None:
    sent = result("consumer", 7, 1.0, 2.0, 0.25, 0.5, 0.75)
    assert WorkerResult.from_plain(json.loads(json.dumps(sent.to_plain()))) == sent


def test_nothing_done_is_no_division_by_zero() -> None:
    figures = figures_of([result("consumer", 0, 1.0, 1.0, 0.0)], 100, BEFORE, AFTER)
    assert figures["messages_per_second"] == 0.0
    assert figures["broker_cpu_seconds_per_million"] is None
    assert figures["latency_p50_seconds"] is None


def test_a_plan_crosses_to_the_workers() -> None:
    plan = Plan(mode="through", url="sluicemq://h:1", queue="q", messages=10, producers=3)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.share(3) == 4
    assert Plan(mode="send", url="", queue="").share(3) == 0


def test_the_bare_disk_is_measured_and_leaves_nothing(tmp_path: Path) -> None:
    measured = sync_latency(tmp_path, rounds=5)
    assert measured.counts.total() == 5
    assert list(tmp_path.iterdir()) == []
    assert file_system_of(tmp_path)


def test_a_disk_that_others_use_is_called_so() -> None:
    steady = against_bare_disk(0.0007, histogram(0.0003), histogram(0.00031))
    assert steady["bare_sync_steady"] is True
    assert steady["above_bare_sync_seconds"] == pytest.approx(0.0004, rel=0.02)
    assert against_bare_disk(0.0007, histogram(0.0003), histogram(0.0009))["bare_sync_steady"] is False
