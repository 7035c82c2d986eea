"""How a place in a queue's past is written on the command line: a position, a time, or so long ago.

Must not know who reads from there.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import click

from sluicemq.broker.commands.manners import ParameterType

_AGO = re.compile(r"-((?:[0-9]+(?:\.[0-9]+)?(?:ms|[smhdw]))+)", re.ASCII)
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhdw])", re.ASCII)
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
            ago = _AGO.fullmatch(text)
            if ago is not None:
                return now - timedelta(seconds=sum(float(n) * _UNITS[unit] for n, unit in _PART.findall(ago[1])))
            return _time_or_position(text)
        except (ValueError, OverflowError):
            self.fail(
                f"{text!r:.80} is neither a position (0-100000005-0), a time (2026-11-21T08:00, 2026-11-21T08:00Z), "
                "so long ago (-2h, -1d12h; ms, s, m, h, d, w), now, nor start.",
                param,
                ctx,
            )


def _time_or_position(text: str) -> str | datetime:
    from sluicemq.wire.positions import parse_position

    try:
        # A date looks like a position of a log that nobody has: 2026-11-21.
        time = datetime.fromisoformat(text)
    except ValueError:
        parse_position(text)
        return text
    return time.astimezone()  # without a time zone it is local time
