"""Which handed-out messages have lost their leases, and why. Pure.

The reason that the broker gave outlives what happens afterwards: a queue that was deleted ends its consumer too, and a
late verdict must still hear of the queue. It must not know time, frames or who asks.
"""

from __future__ import annotations

from sluicemq.client.tag_ranges import FlatRanges, TagRanges, pairs

LOST_RANGES_MAX = 10_000
"""Most remembered ranges of lost leases; of older messages only is known that they are not ours."""
LOST_REASONS_MAX = 16
"""Most reasons that are told apart; the broker names three."""

EXPIRED = "expired"
CONNECTION_ENDED = "connection ended"
CONSUMER_ENDED = "consumer ended"
FORKED = "forked"
_EXPLANATIONS = {
    EXPIRED: "it was not renewed or settled in time; it will be delivered again",
    CONNECTION_ENDED: "the connection that delivered it has ended; it will be delivered again",
    CONSUMER_ENDED: "the broker has ended the consumer; it will be delivered again",
    FORKED: "the process was forked, and the message stayed with the parent",
    "queue_deleted": "its queue was deleted, and the message with it",
    "purged": "its queue was purged, and the message with it",
}
_FORGOTTEN = "it ended long ago; it will be delivered again if nobody has settled it"


class LostLeases:
    """Tags of messages that user code had when their leases ended without a verdict."""

    __slots__ = ("_by_reason", "_floor")

    def __init__(self) -> None:
        self._by_reason: dict[str, TagRanges] = {}
        self._floor = 0

    def __bool__(self) -> bool:
        return bool(self._by_reason) or self._floor > 0

    def __contains__(self, tag: int) -> bool:
        return tag <= self._floor or any(tag in ranges for ranges in self._by_reason.values())

    def add(self, first: int, last: int, reason: str) -> None:
        """Note that *first* to *last* are lost because of *reason*; none of them was before."""
        ranges = self._by_reason.get(reason)
        if ranges is None:
            if len(self._by_reason) >= LOST_REASONS_MAX:
                reason = next(iter(self._by_reason))
            ranges = self._by_reason.setdefault(reason, TagRanges())
        ranges.add(first, last)
        if sum(known.ranges for known in self._by_reason.values()) > LOST_RANGES_MAX:
            self._forget_lowest()

    def _forget_lowest(self) -> None:
        first, last, ranges = min(
            (*next(iter(ranges)), ranges) for ranges in self._by_reason.values() if ranges
        )  # fmt: skip
        ranges.take(first, last)
        self._floor = max(self._floor, last)

    def count(self, first: int, last: int) -> int:
        """Return how many of *first* to *last* are lost."""
        lost = max(0, min(last, self._floor) - first + 1)
        first = max(first, self._floor + 1)
        return lost + sum(
            min(last, high) - max(first, low) + 1
            for ranges in self._by_reason.values()
            for low, high in ranges
            if low <= last and high >= first
        )

    def reason_of(self, tags: FlatRanges) -> str | None:
        """Return why the first lost one of *tags* is lost; None if that is not known."""
        for first, last in pairs(tags):
            for reason, ranges in self._by_reason.items():
                if any(low <= last and high >= first for low, high in ranges):
                    return reason
        return None


def explain(reason: str | None) -> str:
    """Return in words what *reason* means for the message."""
    if reason is None:
        return _FORGOTTEN
    return _EXPLANATIONS.get(reason, f"the broker says {reason!r}; it may be delivered again")
