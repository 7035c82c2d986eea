"""The longest turn of the event loop, by the clock and on the processor."""

from __future__ import annotations

import itertools
import time

import pytest

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
