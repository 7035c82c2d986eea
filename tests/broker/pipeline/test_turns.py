"""The longest turn of the event loop, by the clock and on the processor."""

from __future__ import annotations

import gc
import itertools
import time

import pytest

from sluicemq.broker.node import GARBAGE_COLLECTION_THRESHOLDS
from sluicemq.broker.pipeline.turns import Turns


def run_turns(monkeypatch: pytest.MonkeyPatch, *turns: tuple[float, float]) -> Turns:
    """Let turns pass that take so many seconds by the clock and on the processor."""
    measured = Turns()
    clock, processor = 100.0, 7.0
    for elapsed, worked in turns:
        monkeypatch.setattr(time, "perf_counter", itertools.chain([clock, clock + elapsed]).__next__)
        monkeypatch.setattr(time, "thread_time", itertools.chain([processor, processor + worked]).__next__)
        measured.end(measured.begin())
        clock, processor = clock + elapsed + 1, processor + worked + 1
    return measured


def test_a_turn_that_lost_the_processor_is_long_by_the_clock_alone(monkeypatch):
    measured = run_turns(monkeypatch, (0.050, 0.002))
    assert measured.longest_seconds == pytest.approx(0.050)
    assert measured.longest_cpu_seconds == pytest.approx(0.002)


def test_each_figure_is_the_largest_of_all_turns(monkeypatch):
    measured = run_turns(monkeypatch, (0.001, 0.001), (0.050, 0.002), (0.010, 0.009), (0.001, 0.001))
    assert measured.longest_seconds == pytest.approx(0.050)
    assert measured.longest_cpu_seconds == pytest.approx(0.009)


def test_what_happens_between_turns_counts_for_nothing(monkeypatch):
    assert run_turns(monkeypatch, (0.001, 0.001), (0.001, 0.001)).longest_seconds == pytest.approx(0.001)


def test_a_collection_of_young_garbage_fits_into_a_turn():
    """Full collections are rare. All others may find everything alive that was made since the last of their kind."""
    youngest, steps, _ = GARBAGE_COLLECTION_THRESHOLDS
    times = []
    for _ in range(3):
        gc.collect()
        alive = [[number] for number in range(youngest * (steps + 1))]
        started = time.thread_time()
        gc.collect(1)
        times.append(time.thread_time() - started)
        assert len(alive) == youngest * (steps + 1)
    # Under 2 ms here. In a busy broker, with nothing in the processor's cache, it takes up to five times as long.
    assert min(times) < 0.004
