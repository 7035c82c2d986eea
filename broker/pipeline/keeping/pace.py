"""Working in the background without anybody noticing: small slices of processor time with pauses between, and a limit
for bytes a second.

Why slices: a thread that computes holds the interpreter's lock, and the event loop gets it back only after Python's
switch interval, each time it comes back from waiting. A thread that sleeps most of the time is in nobody's way. This
module must not know what the work is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

SLICE_SECONDS = 0.0005
"""Processor time after which a pause follows."""
SHARE_MAX = 0.5
"""Most of one processor that the work takes when it is urgent."""
PAUSE_SECONDS_MAX = 0.05
"""No sleep is longer: between two the thread looks whether it shall end."""
BURST_SECONDS = 0.02
"""So much of the limit may be used at once."""


class Pace:
    """Keeps one worker thread slow. Make it in the thread that works, or call `begin` there.

    Args:
        bytes_per_second_max: Bytes read and written a second, about, when the work is urgent.
        check: Called in each pause; raises when the work shall end. By default: when its trio task is cancelled.
        sleep: Sleeps.

    Attributes:
        paused_seconds: How long all pauses were.

    """

    def __init__(
        self,
        bytes_per_second_max: int,
        *,
        check: Callable[[], None] = trio.from_thread.check_cancelled,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bytes_per_second_max = bytes_per_second_max
        self._bytes_per_second = float(bytes_per_second_max)
        self._share = SHARE_MAX
        self._check = check
        self._sleep = sleep
        self._cpu_mark = 0.0
        self._free_at = 0.0
        self.paused_seconds = 0.0

    def begin(self) -> None:
        """Begin the work of this thread."""
        self._cpu_mark = time.thread_time()

    def hurry(self, urgency: float) -> None:
        """Take this part of what is allowed from now on, in bytes a second and in share of a processor: above 0; beyond
        1 is 1."""
        self._share = SHARE_MAX * min(1.0, urgency)
        self._bytes_per_second = self._bytes_per_second_max * min(1.0, urgency)

    def took(self, bytes_: int = 0) -> None:
        """Say that another *bytes_* were read or written, or only that work was done; pauses where it is time to."""
        pause = 0.0
        if bytes_:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - BURST_SECONDS) + bytes_ / self._bytes_per_second
            pause = self._free_at - now
        used = time.thread_time() - self._cpu_mark
        if used >= SLICE_SECONDS:
            pause = max(pause, used * (1 - self._share) / self._share)
        elif pause < BURST_SECONDS:
            return
        self._check()
        while pause > 0:
            step = min(pause, PAUSE_SECONDS_MAX)
            self._sleep(step)
            self.paused_seconds += step
            pause -= step
            self._check()
        self._cpu_mark = time.thread_time()
