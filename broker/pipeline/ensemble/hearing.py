"""What a broker has heard of whoever leads: when last, and what time the leader says it is.

Pure: clocks are arguments. This module must not know what else leaders say.
"""

from __future__ import annotations

from sluicemq.broker.replication.history import epoch_of


class Hearing:
    """Of one process, across leaders.

    Attributes:
        leader_at: When a leader was heard last, by the clock of its reader; None: never.
        log_time: Log time in milliseconds, and the monotonic time at which it was the present one; None: unknown.

    """

    def __init__(self) -> None:
        self.leader_at: float | None = None
        self.log_time: tuple[int, float] | None = None
        # Epoch of the last entry that was applied, and the log time at which its first one was.
        self._began = (0, 0)

    def epoch_began(self, zxid: int, log_time_ms: int) -> None:
        """The entry *zxid* with which an epoch begins is applied, and the log said this time until then."""
        self._began = epoch_of(zxid), log_time_ms

    def applied(self, zxid: int, log_time_ms: int, epoch: int, monotonic: float) -> None:
        """Everything up to *zxid* is applied, the log says that it is *log_time_ms*, and the present epoch is *epoch*.

        What was in the log when it began may be old: only a time that moves within its epoch was said by its leader.
        """
        if epoch_of(zxid) != self._began[0]:
            self._began = epoch_of(zxid), log_time_ms
            return
        news = self.log_time is None or self.log_time[0] != log_time_ms
        if news and log_time_ms > self._began[1] and epoch_of(zxid) == epoch:
            self.log_time = log_time_ms, monotonic

    def seconds_ago(self, now: float) -> float | None:
        """Return for how long no leader was heard; None: none ever was."""
        return None if self.leader_at is None else now - self.leader_at
