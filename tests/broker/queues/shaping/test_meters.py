"""The pace of a queue: what comes, what goes, and when it will be empty."""

from __future__ import annotations

import pytest

from sluicemq.broker.queues.shaping.meters import FADE_SECONDS, Counters, Meter, Pace


def read_each_second(meter: Meter, begin: int, seconds: int, arriving: int, delivering: int, ready: int) -> Pace:
    """Let messages come and go at even rates, from so many ready on."""
    for second in range(1, seconds + 1):
        left = ready + (arriving - delivering) * second
        meter.read(Counters(arriving * (begin + second), delivering * (begin + second), left), float(begin + second))
    return meter.pace()


def test_even_rates_are_known_after_one_reading():
    meter = Meter(Counters(0, 0, 1_000), 0.0)
    pace = read_each_second(meter, 0, 1, 10, 50, 1_000)
    assert pace.arriving == pytest.approx(10)
    assert pace.delivering == pytest.approx(50)
    assert pace.drain_seconds == pytest.approx(960 / 40)


def test_a_queue_that_grows_is_never_empty():
    assert read_each_second(Meter(Counters(0, 0, 0), 0.0), 0, 5, 50, 10, 0).drain_seconds is None


def test_an_empty_queue_is_empty_now():
    assert Meter(Counters(5, 5, 0), 0.0).pace() == Pace(0.0, 0.0, 0.0)


def test_nothing_is_known_before_the_first_reading():
    meter = Meter(Counters(5, 0, 5), 1.0)
    meter.read(Counters(9, 0, 9), 1.0)
    assert meter.pace() == Pace(0.0, 0.0, None)


def test_what_was_long_ago_fades():
    meter = Meter(Counters(0, 0, 10_000), 0.0)
    read_each_second(meter, 0, 20, 0, 100, 10_000)
    meter.read(Counters(0, 2_000, 8_000), 20.0 + 5 * FADE_SECONDS)
    assert meter.pace().delivering < 2


def test_the_pace_follows_what_changes():
    meter = Meter(Counters(0, 0, 100_000), 0.0)
    read_each_second(meter, 0, 30, 0, 100, 100_000)
    for second in range(1, 31):
        meter.read(Counters(0, 3_000 + 500 * second, 97_000 - 500 * second), 30.0 + second)
    assert meter.pace().delivering == pytest.approx(500, rel=0.06)
