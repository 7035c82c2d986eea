"""How people write a place in a queue's past."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import click
import pytest

from sluicemq.broker.commands.moments import Moment


def read(text: str) -> str | datetime:
    return Moment().convert(text, None, None)


@pytest.mark.parametrize("text", ["start", "0-100000005-0", "0-0-0", "3-ff-1"])
def test_a_position_and_the_start_stay_as_they_are(text):
    assert read(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21T08:00Z", datetime(2026, 11, 21, 8, tzinfo=UTC)),
        ("2026-11-21T08:00:30.250+02:00", datetime(2026, 11, 21, 8, 0, 30, 250_000, timezone(timedelta(hours=2)))),
        ("2026-11-21 08:00", datetime(2026, 11, 21, 8).astimezone()),
        ("2026-11-21", datetime(2026, 11, 21).astimezone()),
    ],
)
def test_a_time_is_local_unless_it_says_otherwise(text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("-2h", 7_200), ("-1d12h", 129_600), ("-90s", 90), ("-1.5m", 90), ("-250ms", 0.25), ("-1w", 604_800), ("now", 0)],
)
def test_so_long_ago(text, seconds):
    before = datetime.now(UTC)
    moment = read(text)
    assert isinstance(moment, datetime)
    assert before <= moment + timedelta(seconds=seconds) <= datetime.now(UTC)


@pytest.mark.parametrize("text", ["", "2h", "-2", "-2y", "-h", "yesterday", "0-1", "-99999999999d", "0-G-0", "-1h-2m"])
def test_anything_else_is_refused_with_what_would_be_right(text):
    with pytest.raises(click.BadParameter, match="neither a position"):
        read(text)
