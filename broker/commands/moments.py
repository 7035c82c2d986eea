"""How times and durations are written on the command line: a place in a queue's past, a time to come, so long.

Must not know what they are for.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import click

from sluicemq.broker.commands.manners import ParameterType

_LONG = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|[smhdw]))+", re.ASCII)
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhdw])", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]+)?", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


class Moment(ParameterType):
    """A position, an ISO time (local, unless it says which), `-2h` or `-1d12h` (so long ago), `now` or `start`."""

    name = "TIME|POSITION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | datetime:
        """Return what `Client.replay` takes."""
        if isinstance(value, datetime):
            return value
        text = str(value)
        if text == "start":
            return text
        now = datetime.now().astimezone()
        if text == "now":
            return now
        try:
            if text.startswith("-") and _LONG.fullmatch(text, 1):
                return now - timedelta(seconds=_seconds(text))
            return _time_or_position(text)
        except (ValueError, OverflowError):
            self.fail(
                f"{text!r:.80} is neither a position (0-100000005-0), a time (2026-11-21T08:00, 2026-11-21T08:00Z), "
                "so long ago (-2h, -1d12h; ms, s, m, h, d, w), now, nor start.",
                param,
                ctx,
            )


class LongTime(ParameterType):
    """Seconds, or `90m`, `1d12h`, `250ms`."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        text = str(value)
        if _LONG.fullmatch(text):
            return _seconds(text)
        if not _NUMBER.fullmatch(text):
            self.fail(f"{text!r:.80} is no duration: write seconds, or 90m, 1d12h (ms, s, m, h, d, w).", param, ctx)
        return float(text)


class Time(ParameterType):
    """An ISO time; local, unless it says which."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return an aware time."""
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(str(value)).astimezone()
        except (ValueError, OverflowError):
            text = str(value)
            self.fail(f"{text!r:.80} is no time: write 2026-12-24T18:00, or 2026-12-24T18:00Z.", param, ctx)


def _seconds(text: str) -> float:
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def _time_or_position(text: str) -> str | datetime:
    from sluicemq.wire.positions import parse_position

    try:
        # A date looks like a position of a log that nobody has: 2026-11-21.
        time = datetime.fromisoformat(text)
    except ValueError:
        parse_position(text)
        return text
    return time.astimezone()  # without a time zone it is local time
