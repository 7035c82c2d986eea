"""Messages that user code let go of without a verdict: what the garbage collector says of them. Pure.

Nobody can settle such a message any more but `Consumer.ack_through`, so it would be renewed until the client closes,
and in a queue that is ordered by key its key would stand still. Whoever looks at them brings the time. This module must
not know frames, sockets or loops: a collector may call from any thread, at any moment.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from sluicemq.client.tag_ranges import FlatRanges, pairs

if TYPE_CHECKING:
    from sluicemq.client.leases import LeaseBook

GRACE_SECONDS_MAX = 30.0
"""So long after it was let go of, or for its lease if that is shorter, a message may still be settled by others."""


def what_is_dropped(messages: int, queue: str, lease_seconds: float) -> str:
    """Return what to say to whoever wrote the program."""
    return (
        f"{messages} messages of {queue!r} were let go of without ack, nack or reject: they are nacked after "
        f"{min(lease_seconds, GRACE_SECONDS_MAX):g} seconds, and so are others later; statistics().dropped counts them"
    )


class DroppedMessages:
    """What was let go of on one attachment; never more than what user code may have in hand."""

    __slots__ = ("_let_go", "_waiting")

    def __init__(self) -> None:
        self._let_go: deque[tuple[int, int]] = deque()
        self._waiting: deque[tuple[float, FlatRanges]] = deque()

    def note(self, first: int, last: int) -> None:
        """Note that nobody has the messages *first* to *last* in hand any more; called while they are collected."""
        self._let_go.append((first, last))

    def look(self, now: float, book: LeaseBook) -> int:
        """Take up what was noted; return how many of these messages have no verdict."""
        ranges: list[tuple[int, int]] = []
        while self._let_go:
            ranges.append(self._let_go.popleft())
        held: FlatRanges = []
        for first, last in sorted(ranges):
            held += book.held(first, last)
        if not held:
            return 0
        self._waiting.append((now, held))
        return sum(last - first + 1 for first, last in pairs(held))

    def due(self, by: float) -> FlatRanges:
        """Take out and return what was taken up at *by* or before."""
        due: FlatRanges = []
        while self._waiting and self._waiting[0][0] <= by:
            due += self._waiting.popleft()[1]
        return due

    def clear(self) -> None:
        """Forget everything."""
        self._let_go.clear()
        self._waiting.clear()
