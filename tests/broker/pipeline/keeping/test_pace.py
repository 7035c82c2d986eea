"""How a worker keeps out of the way: it sleeps most of the time, keeps to its bytes a second, and ends when told to."""

from __future__ import annotations

import time
from unittest import mock

import pytest

from sluicemq.broker.pipeline.keeping.pace import BURST_SECONDS, PAUSE_SECONDS_MAX, SHARE_MAX, SLICE_SECONDS, Pace


class Clocks:
    """Time that passes only where somebody sleeps or works."""

    def __init__(self) -> None:
        self.now = self.cpu = 0.0
        self.sleeps: list[float] = []

    def read_now(self) -> float:
        return self.now

    def read_cpu(self) -> float:
        return self.cpu

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.cpu += seconds


@pytest.fixture
def clocks():
    made = Clocks()
    with (
        mock.patch.object(time, "monotonic", made.read_now),
        mock.patch.object(time, "thread_time", made.read_cpu),
    ):
        yield made


def paced(clocks, bytes_per_second_max=1 << 40, check=lambda: None):
    pace = Pace(bytes_per_second_max, check=check, sleep=clocks.sleep)
    pace.begin()
    return pace


def test_work_takes_no_more_than_its_share_of_a_processor(clocks):
    pace = paced(clocks)
    for _ in range(1_000):
        clocks.work(0.0003)
        pace.took()
    assert clocks.cpu == pytest.approx(SHARE_MAX * clocks.now, rel=0.05)


def test_what_is_not_urgent_takes_its_part_only(clocks):
    pace = paced(clocks, 1_000_000)
    pace.hurry(0.25)
    for _ in range(1_000):
        pace.took(1_000)
    assert clocks.now == pytest.approx(4.0, abs=4 * BURST_SECONDS)
    pace.hurry(7.0)
    for _ in range(1_000):
        pace.took(1_000)
    assert clocks.now == pytest.approx(5.0, abs=5 * BURST_SECONDS)


def test_no_slice_of_work_is_much_longer_than_allowed(clocks):
    pace = paced(clocks)
    while not clocks.sleeps:
        clocks.work(0.0001)
        pace.took()
    assert clocks.cpu == pytest.approx(SLICE_SECONDS, rel=0.11)


def test_bytes_keep_to_their_limit(clocks):
    pace = paced(clocks, 1_000_000)
    for _ in range(1_000):
        pace.took(10_000)
    assert clocks.now == pytest.approx(10.0, abs=2 * BURST_SECONDS)
    assert pace.paused_seconds == pytest.approx(clocks.now)


def test_who_worked_little_is_not_held_up(clocks):
    pace = paced(clocks, 1_000_000)
    pace.took(100)
    clocks.work(SLICE_SECONDS / 2)
    pace.took()
    assert clocks.sleeps == []


def test_a_long_pause_ends_soon_when_the_work_shall_end(clocks):
    def check() -> None:
        if clocks.now > 1.0:
            raise KeyboardInterrupt

    pace = paced(clocks, 1_000, check)
    with pytest.raises(KeyboardInterrupt):
        pace.took(1_000_000)
    assert clocks.now < 1.0 + 2 * PAUSE_SECONDS_MAX
