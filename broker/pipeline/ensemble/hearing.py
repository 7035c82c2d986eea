"""What a broker has heard of whoever leads: when last, and what time the leader says it is.

Pure: clocks are arguments. This module must not know what else leaders say.
"""

from __future__ import annotations

from sluicemq.broker.pipeline.log_clock import SLEW_RATE_MAX

HEAR_SECONDS = 0.02
"""The leader's time is looked for in at most one message in so long: messages come by the thousand, and it is there."""


class Hearing:
    """Of one process, across leaders.

    Attributes:
        leader_at: When a leader was heard last, by the clock of its reader; None: never.
        log_time: Log time in milliseconds, and the monotonic time at which it was the present one; None: unknown.

    """

    def __init__(self) -> None:
        self.leader_at: float | None = None
        self.log_time: tuple[float, float] | None = None
        self._epoch = 0
        self._listens_from = 0.0

    def listens(self, monotonic: float) -> bool:
        """Return whether what is said now is worth a look; if so, it is not for a short while."""
        if monotonic < self._listens_from:
            return False
        self._listens_from = monotonic + HEAR_SECONDS
        return True

    def said(self, epoch: int, log_time_ms: int, monotonic: float) -> None:
        """The leader of *epoch* said that it is *log_time_ms*, and this arrived at *monotonic*.

        How long it was under way nobody knows, and a broker that has much to do may read it late. But log time goes at
        least as fast as `LogClock` lets it: where what was said before has become later than this since, that is
        believed. So of many words the quickest count, as with the sample of the least delay in NTP (RFC 5905,
        section 10), and no time is ever believed that is later than it is.
        """
        if epoch == self._epoch and self.log_time is not None:
            known_ms, known_at = self.log_time
            at_least_ms = known_ms + (monotonic - known_at) * 1000.0 * (1.0 - SLEW_RATE_MAX)
            self.log_time = max(float(log_time_ms), at_least_ms), monotonic
        else:
            self.log_time = float(log_time_ms), monotonic
        self._epoch = epoch

    def seconds_ago(self, now: float) -> float | None:
        """Return for how long no leader was heard; None: none ever was."""
        return None if self.leader_at is None else now - self.leader_at
