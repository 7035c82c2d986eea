"""One timekeeper for everything in a client that must happen later: deadlines, lease renewals, heartbeats.

A timer per send would cost more than the send. So each part keeps one timer for its earliest deadline, and looks
itself at what is due. Callbacks run in the timekeeper's task, must be quick, and must not raise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

import anyio

from sluicemq.client.runtime import Runtime, Slot

CANCELLED_TIMERS_MAX = 1_000
"""So many timers that were cancelled may wait on, or as many as live; beyond them they are swept out."""


class Timer:
    """A callback that is due at a time; *due* may be compared with the clock to see how late it came."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never call the callback."""
        self.callback = None


class Timers:
    """The timekeeper of one client."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._sweep_beyond = CANCELLED_TIMERS_MAX
        self._sleeper = Slot()
        self._sleeps_until = math.inf

    @property
    def waiting(self) -> int:
        """How many timers wait, cancelled ones that were not swept out included."""
        return len(self._heap)

    def call_at(self, due: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* once the loop's clock reaches *due*."""
        timer = Timer(due, callback)
        if len(self._heap) > self._sweep_beyond:
            self._heap = [item for item in self._heap if item[2].callback is not None]
            heapify(self._heap)
            # As many again may come first, so that thousands that live are not looked through for each new one.
            self._sweep_beyond = max(CANCELLED_TIMERS_MAX, 2 * len(self._heap))
        heappush(self._heap, (due, next(self._numbers), timer))
        if due < self._sleeps_until:
            self._runtime.wake(self._sleeper)
        return timer

    def call_after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* after *seconds*."""
        return self.call_at(self._runtime.now() + seconds, callback)

    async def run(self) -> None:
        """Keep time until cancelled."""
        while True:
            now = self._runtime.now()
            while self._heap and (self._heap[0][0] <= now or self._heap[0][2].callback is None):
                callback = heappop(self._heap)[2].callback
                if callback is not None:
                    callback()
            self._sleeps_until = self._heap[0][0] if self._heap else math.inf
            if self._sleeps_until > self._runtime.now():
                with anyio.CancelScope(deadline=self._sleeps_until):
                    await self._runtime.park(self._sleeper)
                self._sleeps_until = -math.inf
            else:
                await self._runtime.checkpoint()
