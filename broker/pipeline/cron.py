"""Times by cron expressions, in a time zone: a thin shell around `cronsim`, which knows daylight saving time.

Pure; must not know clocks: it is told from when on.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from sluicemq.wire.errors import InvalidRequest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def next_due_ms(cron: str, timezone: str, after_ms: int) -> int:
    """Return the first time of *cron* after *after_ms*, both in milliseconds since 1970.

    Args:
        cron: Five fields (minute, hour, day of month, month, day of week), or six with seconds in front.
        timezone: Name of a time zone, such as Europe/Berlin. A time that is skipped when clocks go forward comes when
            they have; one that comes twice comes once.
        after_ms: From when on.

    Raises:
        InvalidRequest: No such expression or time zone, or it never comes.

    """
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, OSError, ValueError):  # not found, a folder, or no name at all
        raise InvalidRequest(f"{timezone!r:.80} is no time zone: write UTC, or a name such as Europe/Berlin") from None
    try:
        start = (_EPOCH + timedelta(milliseconds=after_ms)).astimezone(zone)
        found = next(CronSim(cron, start))
    except (CronSimError, StopIteration, OverflowError) as error:
        raise InvalidRequest(
            f"{cron!r:.200} is no cron expression that ever comes ({str(error) or 'not within 50 years'}): write five "
            "fields, such as 0 6 * * MON-FRI, or six with seconds in front"
        ) from None
    return int((found - _EPOCH) // timedelta(milliseconds=1))
