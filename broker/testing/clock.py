"""The time of a broker within a test: it runs like everybody's, and can be moved on.

Log time, leases and all timers of the broker go by it; a client's own timers do not, nor do those that tell whether a
connection is alive. It is the broker's for good: what was moved on stays so over crashes. Time cannot be moved back.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio.to_thread
import trio.abc

from sluicemq.broker.testing.durations import seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta


class VirtualClock(trio.abc.Clock):
    """Real time and what was added to it.

    Attributes:
        ahead: Seconds that were added.

    """

    def __init__(self) -> None:
        self.ahead = 0.0

    def start_clock(self) -> None:
        """Nothing is to be done."""

    def current_time(self) -> float:
        """Seconds since some moment."""
        return time.monotonic() + self.ahead

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return for how many real seconds to sleep; whoever moves the time is awake, and so is the loop then."""
        return deadline - self.current_time()

    def wall(self) -> float:
        """Seconds since 1970."""
        return time.time() + self.ahead

    def jump(self, to: float) -> float:
        """Let it be *to*, if that is not past; return by how many seconds it moved."""
        seconds = max(0.0, to - self.current_time())
        self.ahead += seconds
        return seconds


class BrokerClock:
    """The broker's time, to be read and to be moved on.

    Args:
        clock: What the broker goes by.
        move: Moves the time on by so many seconds, lets the broker do what is due meanwhile, and blocks until it has;
            told whether to keep leases.

    """

    def __init__(self, clock: VirtualClock, move: Callable[[float, bool], None]) -> None:
        self._clock = clock
        self._move = move

    def now(self) -> datetime:
        """Return what time it is for the broker: an aware UTC datetime. Use it where you name moments (`at=`)."""
        return datetime.fromtimestamp(self._clock.wall(), UTC)

    @property
    def ahead_seconds(self) -> float:
        """By how much it was moved on in all."""
        return self._clock.ahead

    async def advance(self, duration: str | float | timedelta, *, keep_leases: bool = False) -> None:
        """Move the time on, and return when the broker has done all that became due meanwhile, in its order.

        It goes from one due time to the next: what is delayed is delivered, leases end, messages expire, schedules
        fire, retained messages go, senders of prepared messages are asked. That takes milliseconds for each such
        moment, however long they are apart.

        Your client's own time stands still, and nobody could have settled or renewed anything in between. So leases
        that are held when the time moves end when their time comes, whatever `auto_renew` says; while those that are
        given meanwhile begin when it has arrived. After each delivery the broker waits a moment for the consumers.

        Args:
            duration: "3 days", "1.5 h", "90 s", "1 day 2 hours", a timedelta, or seconds.
            keep_leases: Treat connected consumers as if they had renewed their leases all the time: none of them ends.

        Raises:
            ValueError: It is no duration.
            BrokerDied: The broker ended by itself.

        """
        seconds = seconds_of(duration)
        await anyio.to_thread.run_sync(self._move, seconds, keep_leases)

    def advance_blocking(self, duration: str | float | timedelta, *, keep_leases: bool = False) -> None:
        """Move the time on as `advance` does, in a test without an event loop."""
        self._move(seconds_of(duration), keep_leases)
