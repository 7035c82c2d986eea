"""Durations as people write them in tests: "3 days", "1.5 h", timedelta(hours=1), 90."""

from __future__ import annotations

import math
import re
from datetime import timedelta

_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_NAMES = {
    "ms": "ms", "millisecond": "ms", "milliseconds": "ms",
    "s": "s", "sec": "s", "second": "s", "seconds": "s",
    "m": "min", "min": "min", "minute": "min", "minutes": "min",
    "h": "h", "hour": "h", "hours": "h",
    "d": "d", "day": "d", "days": "d",
    "w": "w", "week": "w", "weeks": "w",
}  # fmt: skip
_PART = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([a-z]+)\s*,?")

DURATION_SECONDS_MAX = 100 * 365 * 86_400.0
"""A hundred years: beyond that, times have no names any more."""


def seconds_of(duration: str | float | timedelta) -> float:
    """Return a duration in seconds.

    Args:
        duration: Seconds, a timedelta, or a text of numbers with units: ms, s, min, h, days, weeks, also in full.

    Raises:
        ValueError: It is none of these, negative, or longer than `DURATION_SECONDS_MAX`.

    """
    if isinstance(duration, str):
        seconds = _parsed(duration)
    elif isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    else:
        seconds = float(duration)
    if not (math.isfinite(seconds) and 0 <= seconds <= DURATION_SECONDS_MAX):
        raise ValueError(f"{duration!r:.80} is no time to move on by: 0 s to 100 years are")
    return seconds


def _parsed(text: str) -> float:
    seconds, place, lowered = 0.0, 0, text.strip().lower()
    while place < len(lowered):
        match = _PART.match(lowered, place)
        if match is None or match[2] not in _NAMES:
            place = 0
            break
        seconds += float(match[1]) * _UNITS[_NAMES[match[2]]]
        place = match.end()
    if not place:
        raise ValueError(f'{text!r:.80} is no duration; write "3 days", "1.5 h", "30 s" or "1 day 2 hours"')
    return seconds
