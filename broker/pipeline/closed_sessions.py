"""What the log says of clients whose end closed the connection, so that the next leader waits no longer for them.

Only the leader sees how a connection ends. It gives back within moments what such a client held; but if it dies within
these moments, the next one would wait for as long as for a client of which nobody knows anything. So it is said in the
log, a short time later and of many sessions at once: of a client that is back by then nothing is said. That a client
came back of which it was said is said at once. What is on its way when the leadership ends may be lost: then the next
leader waits longer, as for anybody. Must not know sockets, nor how long a session is kept.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.queues.entries_of_sessions import MarkClosed

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road

GATHER_SECONDS = 0.05
"""So long it is waited for more, and for clients that come back, before it is said whose end closed its connection."""
MARKED_AT_ONCE_MAX = 1_000
"""Most sessions of one entry: 10 KB, and well under a millisecond to apply."""


class ClosedSessions:
    """Which sessions the log knows to be closed by their clients' ends, and what is to be said of others.

    Args:
        road: The road.

    """

    def __init__(self, road: Road) -> None:
        self._road = road
        self._said: set[int] = set()  # in the log, or on the way to it
        self._to_say: dict[int, bool] = {}  # by session: closed, or back
        self._due = math.inf  # of the first of them
        self._timer = road.timer(self._next_due, self._say)

    def start(self, nursery: trio.Nursery) -> None:
        """Run the timer in *nursery*."""
        nursery.start_soon(self._timer.run)

    def restore(self, number: int) -> None:
        """Take over that the log says it of session *number*."""
        self._said.add(number)

    def closed(self, number: int) -> None:
        """The client's end of session *number* closed the connection."""
        if number in self._said:
            self._to_say.pop(number, None)
        else:
            self._plan(number, closed=True, seconds=GATHER_SECONDS)

    def back(self, number: int) -> None:
        """The client came back to session *number*."""
        if number in self._said:
            self._plan(number, closed=False, seconds=0.0)
        else:
            self._to_say.pop(number, None)

    def gone(self, number: int) -> None:
        """Session *number* ends: nothing need be said of it any more."""
        self._said.discard(number)
        self._to_say.pop(number, None)

    def _plan(self, number: int, *, closed: bool, seconds: float) -> None:
        due = trio.current_time() + seconds
        self._due = min(self._due, due) if self._to_say else due
        self._to_say[number] = closed
        self._timer.changed(self._due)

    def _next_due(self) -> float | None:
        return self._due if self._to_say and not self._road.over else None

    def _say(self) -> None:
        road = self._road
        marked = list(islice(self._to_say.items(), MARKED_AT_ONCE_MAX))
        for number, _ in marked:
            del self._to_say[number]
        closed = [number for number, is_closed in marked if is_closed]
        back = [number for number, is_closed in marked if not is_closed]
        self._said.update(closed)
        self._said.difference_update(back)
        # What is left is due still, and follows when others had their turn.
        road.propose(MarkClosed(road.clock.now_ms(), closed, back), lazy=True)
