"""A token bucket that is asked for many tokens at once, by somebody who may come late.

It fills at a rate up to its burst. Who finds it empty waits for a slice of tokens, some milliseconds' worth, and not
for a single one: so fifty thousand messages a second cost a hundred wake-ups. Tokens that come while somebody waits are
not lost when the wake-up comes late; else no rate would be reached exactly. This module must not know messages.
"""

from __future__ import annotations

import math

SLICE_SECONDS = 0.01
"""Who waits gets at least so much of the rate at once, or one token."""
LATE_SECONDS_MAX = 0.5
"""A wake-up that comes later than this lost its tokens: nobody waited that long."""
_NEARLY = 1e-6


class Bucket:
    """Tokens.

    Args:
        rate: Tokens a second; 0: none come, infinity: there is no end of them.
        burst: Most tokens that are saved while nobody wants any; None: a slice.
        level: Tokens at the beginning, at most a burst.
        now: When that is.

    Attributes:
        rate: As above.

    """

    __slots__ = ("_at", "_burst", "_level", "_waits_until", "rate")

    def __init__(self, rate: float, burst: float | None, now: float, level: float = math.inf) -> None:
        self.rate = rate
        self._burst = burst
        self._at = now
        self._level = min(level, self.burst)
        self._waits_until: float | None = None

    @property
    def burst(self) -> float:
        """Most tokens that are saved."""
        return self.slice if self._burst is None else self._burst

    @property
    def slice(self) -> float:
        """How many tokens are worth waking up for."""
        return max(1.0, self.rate * SLICE_SECONDS) if self.rate < math.inf else 1.0

    def change(self, rate: float, burst: float | None, now: float) -> None:
        """Fill at another rate from *now* on, up to another burst."""
        if self.rate == math.inf:
            self._level, self._at = 0.0, now  # what went without a limit saved nothing
        else:
            self._refill(now)
        self.rate = rate
        self._burst = burst
        self._level = min(self._level, self.burst)
        self._waits_until = None

    def room(self, now: float) -> float:
        """Return how many tokens there are; infinity where there is no end. Below one they are to be waited for."""
        if self.rate == math.inf:
            return math.inf
        if self.rate <= 0:
            return 0.0
        self._refill(now)
        return self._level + _NEARLY

    def take(self, tokens: float) -> None:
        """Take tokens at the time of the last look; more than there are make a debt, for which the next ones wait.

        Whoever took some is taken to want more until `rest` is called.
        """
        if self.rate < math.inf:
            self._level -= tokens
            self._waits_until = self._at

    def rest(self) -> None:
        """Note that nobody wants tokens for now: from here on no more than a burst is saved."""
        self._waits_until = None

    def wait(self, tokens: float, now: float) -> float:
        """Note that somebody waits; return when there are *tokens*, or a slice if that is more; infinity: never."""
        if self.rate <= 0:
            return math.inf
        missing = max(tokens, self.slice) - self._level
        self._waits_until = now + max(missing, 0.0) / self.rate
        return self._waits_until

    def _refill(self, now: float) -> None:
        elapsed, self._at = max(now - self._at, 0.0), max(now, self._at)
        filled = self._level + elapsed * self.rate
        if self._waits_until is not None and now <= self._waits_until + LATE_SECONDS_MAX:
            self._level = filled
        elif elapsed > LATE_SECONDS_MAX:
            self._level = min(filled, self.burst)
        else:
            self._level = max(self._level, min(filled, self.burst))
