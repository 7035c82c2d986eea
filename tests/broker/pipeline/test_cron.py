"""When a schedule comes next: cron expressions, time zones, and the nights in which clocks change."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sluicemq.broker.pipeline.cron import next_due_ms
from sluicemq.wire.errors import InvalidRequest


def after(cron: str, timezone: str, text: str) -> str:
    start = int(datetime.fromisoformat(text).timestamp() * 1000)
    return datetime.fromtimestamp(next_due_ms(cron, timezone, start) / 1000, UTC).isoformat()


@pytest.mark.parametrize(
    ("cron", "timezone", "start", "due"),
    [
        ("0 6 * * *", "UTC", "2026-11-21T05:59:59.999Z", "2026-11-21T06:00:00+00:00"),
        ("0 6 * * *", "UTC", "2026-11-21T06:00:00Z", "2026-11-22T06:00:00+00:00"),
        ("0 6 * * MON-FRI", "Europe/Berlin", "2026-11-20T12:00Z", "2026-11-23T05:00:00+00:00"),
        ("*/10 * * * * *", "UTC", "2026-11-21T06:00:01Z", "2026-11-21T06:00:10+00:00"),
        ("0 0 29 2 *", "UTC", "2026-11-21T06:00Z", "2028-02-29T00:00:00+00:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", "2026-03-29T01:00:00+00:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", "2026-10-25T00:30:00+00:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30Z", "2026-10-26T01:30:00+00:00"),
    ],
)
def test_the_next_time_is_the_first_behind(cron: str, timezone: str, start: str, due: str) -> None:
    assert after(cron, timezone, start) == due


@pytest.mark.parametrize(
    ("cron", "timezone"),
    [("61 * * * *", "UTC"), ("", "UTC"), ("* * *", "UTC"), ("0 0 31 2 *", "UTC"), ("* * * * *", "Mars/Olympus")],
)
def test_what_never_comes_or_is_unknown_is_refused(cron: str, timezone: str) -> None:
    with pytest.raises(InvalidRequest):
        next_due_ms(cron, timezone, 0)
