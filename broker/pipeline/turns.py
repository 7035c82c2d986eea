"""How long the event loop was held by one turn of work, on the clock and on the processor.

Why two figures: on a busy machine the operating system takes the processor away from the broker in the middle of a
turn, and a clock cannot tell that from work. The thread's processor time can: it stands still meanwhile. What only the
clock shows came from outside, or from one of the broker's other threads that held the interpreter's lock. This module
must not know what a turn does.
"""

from __future__ import annotations

import time


class Turns:
    """Measures turns of the event loop's thread; they follow each other and never nest.

    Attributes:
        longest_seconds: The longest turn by the clock.
        longest_cpu_seconds: The most processor time that one turn took; it need not be the same turn.

    """

    def __init__(self) -> None:
        self.longest_seconds = 0.0
        self.longest_cpu_seconds = 0.0
        self._cpu_started = 0.0

    def begin(self) -> float:
        """Begin a turn, and return when that was (`time.perf_counter`)."""
        self._cpu_started = time.thread_time()
        return time.perf_counter()

    def end(self, started: float) -> None:
        """End the turn that began at *started*."""
        elapsed = time.perf_counter() - started
        if elapsed > self.longest_seconds:
            self.longest_seconds = elapsed
        # A turn takes no more of the processor than the clock shows, and asking is a call of the system.
        if elapsed > self.longest_cpu_seconds:
            self.longest_cpu_seconds = max(self.longest_cpu_seconds, time.thread_time() - self._cpu_started)
