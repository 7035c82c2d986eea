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
        ("@daily", "UTC", "2026-11-21T06:00Z", "2026-11-22T00:00:00+00:00"),
        (" @Weekly ", "UTC", "2026-11-21T06:00Z", "2026-11-22T00:00:00+00:00"),
        ("@hourly", "UTC", "2026-11-21T06:00Z", "2026-11-21T07:00:00+00:00"),
        ("@yearly", "UTC", "2026-11-21T06:00Z", "2027-01-01T00:00:00+00:00"),
        ("0 0 30 2 MON", "UTC", "2026-11-21T06:00Z", "2027-02-01T00:00:00+00:00"),
        ("*/59 * * * *", "UTC", "2026-11-21T06:00Z", "2026-11-21T06:59:00+00:00"),
    ],
)
def test_the_next_time_is_the_first_behind(cron: str, timezone: str, start: str, due: str) -> None:
    assert after(cron, timezone, start) == due


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        ("61 * * * *", "'61' is no minute"),
        ("0 0 * * FUNDAY", "'FUNDAY' is no day of week"),
        ("0 24 * * *", "'24' is no hour"),
        ("0 0 1#2/3 * *", "'1#2/3' is no day of month"),
        ("0 0 * * 1#2/3", "'1#2/3' is no day of week"),
        ("", "has 0 fields"),
        ("* * *", "has 3 fields"),
        ("@reboot", "no time that is known by a name: .* @daily"),
        ("0 0 31 2 *", "never comes"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 2,4 *", "never comes"),
        ("*/60 * * * *", "the step /60 of the minute is not between 1 and 59"),
        ("*/0 * * * *", "the step /0 of the minute"),
        ("0 0 */" + "9" * 200 + " * *", "of the day of month is not between 1 and 31"),
        ("* * * * " + "1," * 5_000, "10008 characters; allowed are 400"),
        ("9" * 399 + " * * * *", "characters; allowed are 400"),
    ],
)
def test_what_is_no_time_is_refused_with_the_field_that_is_wrong(cron: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        next_due_ms(cron, "UTC", 0)
    assert len(str(refused.value)) < 600


def test_a_time_zone_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'Mars/Olympus' is no time zone"):
        next_due_ms("* * * * *", "Mars/Olympus", 0)
