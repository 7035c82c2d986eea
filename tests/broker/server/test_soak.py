"""The disorderly day in a length that fits every test run.

The long run: `python -m tests.broker.server.soak --seconds 60 --seed 1`.
"""

from __future__ import annotations

from tests.broker.server.soak import DEEDS_MIN, run_day


def test_after_a_disorderly_day_everything_drains_without_a_push():
    day = run_day(1, 3.0)

    assert day.published > DEEDS_MIN
    assert day.received > DEEDS_MIN
