"""Meters: how fast messages come to a queue and go, of late, and when it will be empty at that pace.

Counters are read once a second for queues where anything happened, and when somebody asks: so a message costs nothing,
and a queue at rest neither. What is older than some seconds fades out. This module must not know who counts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

FADE_SECONDS = 10.0
"""What is so old counts about a third."""


class Counters(NamedTuple):
    """What is counted of a queue: messages published and delivered since ever, and those ready now."""

    published: int
    delivered: int
    ready: int


class Pace(NamedTuple):
    """How fast a queue is.

    Attributes:
        arriving: Messages published a second.
        delivering: Messages delivered a second.
        drain_seconds: When nothing will be ready any more at this pace; None: it does not become less.

    """

    arriving: float
    delivering: float
    drain_seconds: float | None


class Meter:
    """The pace of one queue.

    Args:
        counters: What is counted now.
        now: When that is.

    """

    __slots__ = ("_arriving", "_at", "_delivering", "_growing", "_last", "_weight")

    def __init__(self, counters: Counters, now: float) -> None:
        self._last = counters
        self._at = now
        self._arriving = self._delivering = self._growing = 0.0
        self._weight = 0.0

    def read(self, counters: Counters, now: float) -> None:
        """Take in what is counted now."""
        elapsed = now - self._at
        if elapsed <= 0:
            return
        last, self._last, self._at = self._last, counters, now
        share = 1.0 - math.exp(-elapsed / FADE_SECONDS)
        self._weight += share * (1.0 - self._weight)
        self._arriving += share * ((counters.published - last.published) / elapsed - self._arriving)
        self._delivering += share * ((counters.delivered - last.delivered) / elapsed - self._delivering)
        self._growing += share * ((counters.ready - last.ready) / elapsed - self._growing)

    def pace(self) -> Pace:
        """Return the pace of late."""
        ready = self._last.ready
        drain: float | None = 0.0 if not ready else None
        if not self._weight:
            return Pace(0.0, 0.0, drain)
        growing = self._growing / self._weight
        if ready and growing < 0:
            drain = ready / -growing
        return Pace(self._arriving / self._weight, max(self._delivering / self._weight, 0.0), drain)
