"""When did publishing stop, and when did it go on? From the moments of confirms. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

STEADY_SECONDS = 2.0
"""So long confirms must have come without a stop before a fault counts as overcome."""
PAUSE_SECONDS_MAX = 0.25
WATCH_SECONDS_MIN = 3.0
"""So long after the fault is watched in any case: some fail only after a while."""
LOOKED_AT_MAX = 2_000
"""So many confirms at most are looked at to see whether they are steady."""


def longest_gap(confirms: Sequence[float], since: float, until: float) -> float:
    """Return the longest time between two confirms from *since* to *until*; both ends count as confirms."""
    moments = [since, *sorted(moment for moment in confirms if since < moment < until), until]
    return max(after - before for before, after in itertools.pairwise(moments))


def has_recovered(confirms: Sequence[float], fault: float, now: float) -> bool:
    """Return whether confirms have come steadily for a while after a *fault*; *confirms* are in their order."""
    since = now - STEADY_SECONDS
    if now < fault + WATCH_SECONDS_MIN or since < fault:
        return False
    return longest_gap(confirms[-LOOKED_AT_MAX:], since, now) <= PAUSE_SECONDS_MAX
