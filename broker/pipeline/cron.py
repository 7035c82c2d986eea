"""Times by cron expressions, in a time zone: a thin shell around `cronsim`, which knows daylight saving time.

Pure; must not know clocks: it is told from when on.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

from sluicemq.broker.pipeline.zones import zone_named
from sluicemq.wire.errors import InvalidRequest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CRON_CHARACTERS_MAX = 400
"""Longest expression: every value of every field fits."""
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_ADVICE = "write five fields, such as 0 6 * * MON-FRI, or six with seconds in front, or one of " + ", ".join(NICKNAMES)
_FIELDS = (
    ("second", 59),
    ("minute", 59),
    ("hour", 23),
    ("day of month", 31),
    ("month", 12),
    ("day of week", 7),
)
_STEP = re.compile("/([0-9]+)")


def next_due_ms(cron: str, timezone: str, after_ms: int) -> int:
    """Return the first time of *cron* after *after_ms*, both in milliseconds since 1970.

    Args:
        cron: Five fields (minute, hour, day of month, month, day of week), or six with seconds in front, or one of
            `NICKNAMES`.
        timezone: Name of a time zone, such as Europe/Berlin. A time that is skipped when clocks go forward comes when
            they have; one that comes twice comes once.
        after_ms: From when on.

    Raises:
        InvalidRequest: No such expression or time zone, or it never comes.

    """
    zone = zone_named(timezone)
    if zone is None:
        raise InvalidRequest(f"{timezone!r:.80} is no time zone: write UTC, or a name such as Europe/Berlin")
    start = (_EPOCH + timedelta(milliseconds=after_ms)).astimezone(zone)
    times = _times(cron, start)
    try:
        found = next(times)
    except (StopIteration, OverflowError):
        raise _never(cron) from None
    return int((found - _EPOCH) // timedelta(milliseconds=1))


def _times(cron: str, start: datetime) -> CronSim:
    """Return the times of *cron* behind *start*. Raises `InvalidRequest` for what is no expression."""
    if len(cron) > CRON_CHARACTERS_MAX:
        raise InvalidRequest(
            f"a cron expression of {len(cron)} characters; allowed are {CRON_CHARACTERS_MAX}: make several schedules"
        )
    expression = NICKNAMES.get(cron.strip().lower(), cron)
    if expression.lstrip().startswith("@"):
        raise InvalidRequest(f"{cron!r:.80} is no time that is known by a name: {_ADVICE}")
    fields = expression.split()
    if len(fields) not in (5, 6):
        raise InvalidRequest(f"{cron!r:.200} is no cron expression, it has {len(fields)} fields: {_ADVICE}")
    for field, (name, largest) in zip(reversed(fields), reversed(_FIELDS), strict=False):
        for step in _STEP.findall(field):
            # A larger one would mean "the first value only", which nobody wants who writes a step.
            if len(step) > len(str(largest)) or not 0 < int(step) <= largest:
                raise InvalidRequest(
                    f"{cron!r:.200}: the step /{step:.20} of the {name} is not between 1 and {largest}: "
                    "a step counts within one field; for longer intervals give values to the fields before it"
                )
    try:
        return CronSim(expression, start)
    except (CronSimError, ValueError, TypeError, AssertionError):
        pass
    # Which field is it? None of them: then it is a day that none of the months has.
    for number, (name, _) in enumerate(reversed(_FIELDS[-len(fields) :])):
        alone = ["0", "0", "0", "*", "*", "*"][-len(fields) :]
        field = alone[-1 - number] = fields[-1 - number]
        try:
            CronSim(" ".join(alone), start)
        except (CronSimError, ValueError, TypeError, AssertionError):
            raise InvalidRequest(f"{cron!r:.200}: {field!r:.80} is no {name}: {_ADVICE}") from None
    raise _never(cron)


def _never(cron: str) -> InvalidRequest:
    return InvalidRequest(
        f"{cron!r:.200} never comes: none of its months has such a day, within the next 50 years at least; "
        "change the day or the month"
    )
