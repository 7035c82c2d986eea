"""Log time: the milliseconds that entries carry, so that every broker agrees what is due.

Pure: clocks are arguments. Log time follows the leader's monotonic clock and slews towards wall time at a bounded
rate, so that a jump of the wall clock neither fires delays early nor freezes them (design section 3, "CLOCK").
"""

from __future__ import annotations

from collections.abc import Callable

SLEW_RATE_MAX = 0.05
"""Log time runs at most this fraction faster or slower than the monotonic clock while it catches up."""
SMALL_MILLISECONDS = 2_000
"""A difference to wall time up to this may be but a late word of the leader before, of a broker that had much to do:"""
SMALL_SLEW_RATE_MAX = 0.01
"""for it nothing that is delayed shall come earlier than by this fraction."""
ALARM_MILLISECONDS = 60_000
"""A difference to wall time beyond this raises the alarm."""


class LogClock:
    """Log time in milliseconds since 1970, never going back.

    Args:
        last_log_time_ms: Log time of the last entry in the log; log time starts at this or at what time it is now,
            whichever is later.
        wall: Seconds since 1970, such as `time.time`.
        monotonic: Seconds that never jump, such as `time.monotonic`.
        heard: A log time in milliseconds, and what *monotonic* said when it was the present one: what a broker that
            followed knows of the time of whoever led before. Log time goes on from there, whatever *wall* says: where
            it is ahead by a little, that may be what the news took to arrive, or what the leader's log time was behind;
            and then all that waits would come early by it. None: nothing is known; then *wall* counts, since time goes
            on while nobody leads.
        alarm: Called once with the difference in milliseconds when wall time and log time drift far apart.

    """

    def __init__(
        self,
        last_log_time_ms: int,
        *,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        heard: tuple[float, float] | None = None,
        alarm: Callable[[float], None] | None = None,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._alarm = alarm
        self._alarmed = False
        self._last_monotonic = monotonic()
        if heard is None:
            now_ms = wall() * 1000.0
        else:
            heard_ms, heard_at = heard
            now_ms = heard_ms + (self._last_monotonic - heard_at) * 1000.0
        self._now_ms = max(float(last_log_time_ms), now_ms)

    def now_ms(self) -> int:
        """Return log time, at least what it was before."""
        monotonic = self._monotonic()
        elapsed_ms = (monotonic - self._last_monotonic) * 1000.0
        if elapsed_ms <= 0:
            return int(self._now_ms)
        self._last_monotonic = monotonic
        difference = self._wall() * 1000.0 - (self._now_ms + elapsed_ms)
        rate = SLEW_RATE_MAX if abs(difference) > SMALL_MILLISECONDS else SMALL_SLEW_RATE_MAX
        slew = max(-elapsed_ms * rate, min(elapsed_ms * rate, difference))
        self._now_ms += elapsed_ms + slew
        if abs(difference) > ALARM_MILLISECONDS:
            if not self._alarmed and self._alarm is not None:
                self._alarm(difference)
            self._alarmed = True
        else:
            self._alarmed = False
        return int(self._now_ms)
