"""Which messages were seen before: so that what lies in several places is counted once.

Batches are known by number, what was seen of each by ranges; most were seen whole or in one piece, which takes one
number. This module must not know queues, nor what is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.broker.queues.sparse import Ranges

__all__ = ["SEEN_BATCHES_MAX", "Coverage", "joined_ranges"]

SEEN_BATCHES_MAX = 500_000
"""Batches of one queue that those remember who count what is missing: 80 MB. Others may count twice."""
_SIZE = 0xFFFF_FFFF


class Coverage:
    """What was seen.

    Args:
        batches_max: Of so many batches it is remembered, about 150 bytes each; what comes of others counts each time.

    """

    __slots__ = ("_batches_max", "_seen")

    def __init__(self, batches_max: int) -> None:
        self._batches_max = batches_max
        # Of each batch `first << 32 | size`, or several of them, ascending.
        self._seen: dict[int, int | tuple[int, ...]] = {}

    def knows(self, zxid: int) -> bool:
        """Whether anything was seen of the batch."""
        return zxid in self._seen

    def add(self, zxid: int, first: int, size: int) -> int:
        """See *size* messages from *first* on of a batch; return how many of them were not seen before."""
        place = first << 32 | size
        known = self._seen.get(zxid)
        if known is None:
            if len(self._seen) < self._batches_max:
                self._seen[zxid] = place
            return size
        if known == place:
            return 0
        before = (known,) if isinstance(known, int) else known
        ranges = joined_ranges(sorted((*before, place)))
        self._seen[zxid] = tuple([start << 32 | count for start, count in ranges])
        return sum(count for _, count in ranges) - sum(each & _SIZE for each in before)


def joined_ranges(places: Iterable[int]) -> Ranges:
    """Return the ranges of ascending `first << 32 | size`, neighbours made one; they may overlap."""
    ranges: list[tuple[int, int]] = []
    start = end = 0
    for place in places:
        first, size = place >> 32, place & _SIZE
        if first > end or end == 0:
            if end:
                ranges.append((start, end - start))
            start = first
        end = max(end, first + size)
    ranges.append((start, end - start))
    return tuple(ranges)
