"""Time zones by their names, as this machine knows them.

`zoneinfo` brings a megabyte along, and few queues and schedules name a zone: it is loaded with the first that does.
This module must not know what the zones are for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import tzinfo


def zone_named(name: str) -> tzinfo | None:
    """Return the time zone *name*, such as Europe/Berlin; None when this machine knows none."""
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # not found, a folder, or no name at all
        return None
