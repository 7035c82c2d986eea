"""Virtual time: a heap of what will happen, one source of chance, and a trace.

Why: a run must be the same whenever its seed is the same. So nothing here may ask a real clock, and whoever needs
chance takes it from `World.random`, in the order of events. Every event goes into a digest: two runs of a seed must
agree in it.

This module must not know what the events do.
"""

from __future__ import annotations

import heapq
import random
import struct
import zlib
from typing import TYPE_CHECKING, Any

from tests.sim.once import Archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_pack = struct.Struct("<dQ").pack
TRACE_LINES_MAX = 200_000
"""A trace keeps so many of the last lines."""


class Violation(Exception):
    """An invariant is broken. The text begins with its name."""


class Timer:
    """Something that will happen, unless it is cancelled."""

    __slots__ = ("action", "arguments")

    def __init__(self, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.action: Callable[..., None] | None = action
        self.arguments = arguments

    def cancel(self) -> None:
        """It will not happen."""
        self.action = None
        self.arguments = ()


class World:
    """Time, chance and trace of one run.

    Args:
        seed: Decides all.
        tracing: Keep a line for every transition.

    Attributes:
        now: Seconds since the beginning.
        random: The only source of chance while the run goes on.
        events: How many events have happened.
        digest: Of all of them.
        archive: Ids of messages, which stand in the log of every node.

    """

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.seed = seed
        self.random = random.Random(f"run/{seed}")
        self.now = 0.0
        self.events = 0
        self.digest = 0
        self.lines: list[tuple[float, int, str]] | None = [] if tracing else None
        self.archive = Archive()
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0

    def after(self, seconds: float, action: Callable[..., None], *arguments: Any) -> Timer:
        """Let *action* happen so many seconds from now."""
        timer = Timer(action, arguments)
        self._count += 1
        heapq.heappush(self._heap, (self.now + seconds, self._count, timer))
        return timer

    def run_until(self, when: float, done: Callable[[], bool] | None = None) -> bool:
        """Let everything happen that is due by *when*; stop early, with True, once *done* says so (asked now and then).

        Time stands at *when* afterwards, or where it stopped.
        """
        heap = self._heap
        pop = heapq.heappop
        countdown = 0
        while heap and heap[0][0] <= when:
            if done is not None:
                countdown -= 1
                if countdown < 0:
                    if done():
                        return True
                    countdown = 20
            now, count, timer = pop(heap)
            action = timer.action
            if action is None:
                continue
            self.now = now
            self.events += 1
            self.digest = zlib.crc32(_pack(now, count), self.digest)
            action(*timer.arguments)
        self.now = when
        return done is not None and done()

    def waiting(self) -> Iterator[tuple[float, Callable[..., None]]]:
        """What is still to happen, and when, in no order."""
        for when, _, timer in self._heap:
            if timer.action is not None:
                yield when, timer.action

    def say(self, node: int, text: str) -> None:
        """Add a line to the trace, if one is kept. Ask `tracing` before making an expensive text."""
        if self.lines is not None:
            if len(self.lines) >= TRACE_LINES_MAX:
                del self.lines[: TRACE_LINES_MAX // 2]
            self.lines.append((self.now, node, text))

    @property
    def tracing(self) -> bool:
        """Whether a trace is kept."""
        return self.lines is not None


def require(holds: bool, invariant: str, text: str) -> None:
    """Raise Violation unless it holds. For expensive texts test first, and raise yourself."""
    if not holds:
        raise Violation(f"{invariant}: {text}")
