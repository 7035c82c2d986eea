"""Timers of the leader: something must happen at a time that keeps changing.

One task sleeps until the earliest known time and is woken only when an earlier one appears, so that an idle broker
does not wake at all. Must not know what is due.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

LATE_SECONDS = 0.02
"""An event loop that looks so much later than it meant to stood still, or had much to do."""
TURNS_TO_HEAR = 2
"""Turns of the event loop after which everything was read once that had come before."""


class DueTimer:
    """Calls *fire* when the time that *next_due* returns has come.

    Args:
        next_due: Returns seconds on the trio clock, or None when nothing is due.
        fire: Does what is due; called in the event loop; must be quick.
        hears_first: Called with how many seconds it is too late; whether to read first what came meanwhile, because
            that may change what is due. Never by default.

    Attributes:
        next_due: As above.

    """

    def __init__(
        self,
        next_due: Callable[[], float | None],
        fire: Callable[[], None],
        hears_first: Callable[[float], bool] = lambda _late_seconds: False,
    ) -> None:
        self.next_due = next_due
        self._fire = fire
        self._hears_first = hears_first
        self._sleeping_until = -math.inf
        self._earlier = trio.Event()

    def changed(self, due: float | None) -> None:
        """Tell the timer that something is due at *due*; cheap, and does nothing unless it is earlier than planned."""
        if due is not None and due < self._sleeping_until:
            self._sleeping_until = due
            self._earlier.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            due = self.next_due()
            self._earlier = trio.Event()
            self._sleeping_until = math.inf if due is None else due
            with trio.move_on_at(self._sleeping_until):
                await self._earlier.wait()
            self._sleeping_until = -math.inf
            due = self.next_due()
            late = 0.0 if due is None else trio.current_time() - due
            if late > LATE_SECONDS and self._hears_first(late):
                for _ in range(TURNS_TO_HEAR):
                    await trio.lowlevel.checkpoint()
                due = self.next_due()
            if due is not None and due <= trio.current_time():
                self._fire()
                await trio.lowlevel.checkpoint()
