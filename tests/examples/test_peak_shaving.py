"""The flash sale: a short one for real, and that its verdict can be bad."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluicemq.examples.peak_shaving.front import Front
from sluicemq.examples.peak_shaving.plan import DIRECT, QUEUED, Plan
from sluicemq.examples.peak_shaving.sale import Run, Sample
from sluicemq.examples.peak_shaving.view import in_one_line, sparkline, view_of
from tests.examples.programs import run_demonstration


@pytest.mark.timeout(250)
def test_behind_the_queue_nothing_is_oversold_and_nobody_is_charged_twice(tmp_path: Path) -> None:
    outcome = run_demonstration("peak_shaving", tmp_path, "--seconds", "2", "--pieces", "60", seconds_max=240)
    assert "customers told: queued" in outcome.stdout


def test_customers_come_ten_times_as_often_while_the_sale_lasts() -> None:
    arrivals = list(Plan(normal=10, factor=10, before_seconds=2, sale_seconds=3).arrivals())
    assert sum(at < 2 for at in arrivals) == pytest.approx(20, abs=1)
    assert sum(at >= 2 for at in arrivals) == pytest.approx(300, abs=1)


@pytest.mark.parametrize(("ready", "is_long"), [(0, False), (90, False), (110, True)])
def test_the_unimportant_stands_back_behind_a_long_line_also_while_it_grows(
    tmp_path: Path, ready: int, is_long: bool
) -> None:
    front = Front("sluicemq://127.0.0.1:1", tmp_path, 1)
    front.line = {"ready": ready, "delivery_rate": 25.0, "drain_seconds": None}
    assert front.is_long() is is_long


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        ({"oversold": 1, "sold": 5, "charged": 5}, "1 pieces were sold that are not there"),
        ({"charged_twice": 2, "sold": 5, "charged": 5}, "2 customers were charged twice"),
        ({"told_wrong": 3, "sold": 5, "charged": 5}, "3 customers were charged and told that it failed"),
        ({"sold": 4, "charged": 5}, "4 pieces were promised and 5 paid"),
    ],
)
def test_the_verdict_says_what_went_wrong(harm: dict[str, int], complaint: str) -> None:
    run = Run(QUEUED)
    for name, value in harm.items():
        setattr(run, name, value)
    assert run.complaints() == [complaint]


def test_errors_that_customers_got_are_a_complaint() -> None:
    run = Run(DIRECT)
    run.answers.update({502: 2, 504: 1, 200: 7})
    assert run.complaints() == ["3 customers got an error"]
    assert Run(QUEUED, sold=5, charged=5).complaints() == []


def test_the_live_view_shows_the_last_samples() -> None:
    run = Run(QUEUED, samples=[Sample(0.5, 6.0, 6.0, 1, 0.01, None), Sample(1.0, 60.0, 24.0, 30, 0.02, 24.0)])
    assert view_of(run).title == "payment behind a queue"
    assert "60.0 customers/s" in in_one_line(run.samples[-1])
    assert sparkline([0.0, 5.0, 10.0], 10.0) == " ▄█"
