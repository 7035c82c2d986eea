"""A cursor: how far one lane of a queue is picked.

It counts runs since the beginning of the lane, so whatever is consumed, purged or removed in front of it moves nothing.
This module must not know consumers, nor what came back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.chunks import AHEAD_RUNS

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.dispatching.baskets import Basket
    from sluicemq.broker.queues.fifo import RunFifo
    from sluicemq.broker.queues.runs import Run

_READ_RUNS_MIN = 4
_READ_RUNS_MAX = 512


class Cursor:
    """How far one lane is picked.

    Args:
        priority: Priority of the lane.
        lane: The lane; read, never changed.

    Attributes:
        priority: As above.
        lane: As above.
        ordinal: The run that comes next,
        first: and the index within its batch of the first message that was not picked yet.
        stalled: Whether the last look met a run that is not in memory.

    """

    __slots__ = ("first", "lane", "ordinal", "priority", "stalled")

    def __init__(self, priority: int, lane: RunFifo) -> None:
        self.priority = priority
        self.lane = lane
        self.ordinal = lane.head
        self.first = 0
        self.stalled = False

    def begin(self) -> None:
        """Go back to the front of the lane."""
        self.ordinal, self.first = self.lane.head, 0

    def fill(self, basket: Basket) -> bool:
        """Put what comes next into *basket*, as much as it takes; return whether it is still open at the lane's end."""
        lane = self.lane
        if self.ordinal < lane.head:  # granted or purged, as it lies behind the cursor or is gone
            self.begin()
        read_max = _READ_RUNS_MIN
        while self.ordinal < lane.tail:
            found = lane.read(self.ordinal, read_max)
            behind = lane.read_ordinal
            if self.first and found:
                found[0] = self._unpicked(found[0])
            for position, run in enumerate(found):
                rest = basket.add(run)
                if rest is not None or not basket.open:
                    self._stop(position, rest)
                    return False
            self.ordinal = behind
            if not found and behind < lane.tail:
                self.stalled = True
                return False
            read_max = min(2 * read_max, _READ_RUNS_MAX)
        return basket.open

    def _unpicked(self, run: Run) -> Run:
        """Return what was not picked of the first run read, if that is the one that was cut: it may have left."""
        first, self.first = self.first, 0
        if run.first >= first or self._ordinal_of(0) != self.ordinal:
            return run
        return run.split(first - run.first)[1]

    def _stop(self, position: int, rest: Run | None) -> None:
        """Stop at the run read at *position*, of which *rest* was not taken; None: behind it."""
        ordinal = self._ordinal_of(position)
        self.ordinal, self.first = (ordinal + 1, 0) if rest is None else (ordinal, rest.first)

    def _ordinal_of(self, position: int) -> int:
        """Return the ordinal of the run that was read at *position*, counted from the cursor."""
        if not self.lane.has_holes:
            return self.ordinal + position
        return self.lane.read_with_ordinals(self.ordinal, position + 1)[0][position]

    def missing(self) -> list[Chunk]:
        """Return the chunks that the last look needed and that are not in memory, and some that follow them."""
        if not self.stalled:
            return []
        self.stalled = False
        return self.lane.missing(self.ordinal, AHEAD_RUNS)
