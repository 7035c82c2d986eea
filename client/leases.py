"""Which delivered messages are still ours, and until when. Pure: the caller brings the time.

A book belongs to one consumer on one session. It maps each tag that was delivered and is not settled yet to the time
at which its lease ends, as few ranges of equal ends. It must not know frames, sockets or messages.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from math import inf

from sluicemq.client.tag_ranges import FlatRanges

HAND_OVER_MARKS_MAX = 10_000
"""Most remembered points "up to this tag at that time"; beyond it neighbours melt together."""


class LeaseBook:
    """Leases of one consumer on one session.

    Attributes:
        safe_until: No lease in the book ends before this time. May be too early, never too late; one comparison with
            the clock thus settles the common case.

    """

    __slots__ = ("_ends", "_firsts", "_lasts", "_marks", "_old_tag", "safe_until")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._ends: list[float] = []
        self._marks: deque[tuple[float, int]] = deque()
        self._old_tag = 0
        self.safe_until = inf

    def __contains__(self, tag: int) -> bool:
        index = bisect_right(self._firsts, tag) - 1
        return index >= 0 and tag <= self._lasts[index]

    def __bool__(self) -> bool:
        return bool(self._firsts)

    @property
    def count(self) -> int:
        """How many messages are held."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def delivered(self, first: int, last: int, end: float) -> None:
        """Enter the tags *first* to *last*, which are above all others, with leases that end at *end*."""
        if self._lasts and self._lasts[-1] == first - 1 and self._ends[-1] == end:
            self._lasts[-1] = last
        else:
            self._firsts.append(first)
            self._lasts.append(last)
            self._ends.append(end)
        if end < self.safe_until or len(self._firsts) == 1:
            self.safe_until = end

    def settle(self, tag: int) -> bool:
        """Take *tag* out; return whether it was there."""
        firsts, lasts = self._firsts, self._lasts
        if not firsts:
            return False
        # In order is the common case, and then the tag is the very first one.
        index = 0 if tag == firsts[0] else bisect_right(firsts, tag) - 1
        if index < 0 or tag > lasts[index]:
            return False
        first, last = firsts[index], lasts[index]
        if first == last:
            del firsts[index], lasts[index], self._ends[index]
        elif tag == first:
            firsts[index] = tag + 1
        elif tag == last:
            lasts[index] = tag - 1
        else:
            firsts.insert(index + 1, tag + 1)
            lasts[index] = tag - 1
            lasts.insert(index + 1, last)
            self._ends.insert(index + 1, self._ends[index])
        return True

    def take(self, first: int, last: int) -> FlatRanges:
        """Take out those of *first* to *last* that are there, and return them."""
        start = bisect_left(self._lasts, first)
        stop = bisect_right(self._firsts, last)
        if start >= stop:
            return []
        taken: FlatRanges = []
        kept: list[tuple[int, int, float]] = []
        for index in range(start, stop):
            low, high, end = self._firsts[index], self._lasts[index], self._ends[index]
            _append(taken, max(first, low), min(last, high))
            if low < first:
                kept.append((low, first - 1, end))
            if high > last:
                kept.append((last + 1, high, end))
        self._firsts[start:stop] = [low for low, _, _ in kept]
        self._lasts[start:stop] = [high for _, high, _ in kept]
        self._ends[start:stop] = [end for _, _, end in kept]
        return taken

    def held(self, first: int, last: int) -> FlatRanges:
        """Return those of *first* to *last* that are there."""
        held: FlatRanges = []
        for index in range(bisect_left(self._lasts, first), bisect_right(self._firsts, last)):
            _append(held, max(first, self._firsts[index]), min(last, self._lasts[index]))
        return held

    def end_of(self, tag: int) -> float | None:
        """Return when the lease of *tag* ends, or None if it is not held."""
        index = bisect_right(self._firsts, tag) - 1
        return self._ends[index] if index >= 0 and tag <= self._lasts[index] else None

    def ending(self, first: int, last: int, by: float, after: float = -inf) -> FlatRanges:
        """Return those of *first* to *last* whose leases end later than *after* and no later than *by*."""
        found: FlatRanges = []
        for index in range(bisect_left(self._lasts, first), bisect_right(self._firsts, last)):
            if after < self._ends[index] <= by:
                _append(found, max(first, self._firsts[index]), min(last, self._lasts[index]))
        return found

    def next_end(self, after: float) -> float:
        """Return the first end of a lease later than *after*, or infinity; brings `safe_until` up to date."""
        self.safe_until = min(self._ends, default=inf)
        return min((end for end in self._ends if end > after), default=inf)

    def expire(self, now: float) -> FlatRanges:
        """Take out and return every tag whose lease ended at *now* or before; brings `safe_until` up to date."""
        expired: FlatRanges = []
        kept: list[tuple[int, int, float]] = []
        for low, high, end in zip(self._firsts, self._lasts, self._ends, strict=True):
            if end <= now:
                _append(expired, low, high)
            else:
                kept.append((low, high, end))
        if expired:
            self._firsts = [low for low, _, _ in kept]
            self._lasts = [high for _, high, _ in kept]
            self._ends = [end for _, _, end in kept]
        self.safe_until = min(self._ends, default=inf)
        return expired

    def hand_over(self, next_tag: int, now: float) -> None:
        """Note that by *now* every tag below *next_tag* was handed to user code."""
        if self._marks and self._marks[-1][1] >= next_tag - 1:
            return
        if len(self._marks) >= HAND_OVER_MARKS_MAX:
            # Forgetting the oldest mark counts its messages with the next one: renewed a little longer.
            self._marks.popleft()
        self._marks.append((now, next_tag - 1))

    def to_renew(self, handed_after: float, end: float) -> FlatRanges:
        """Return the tags whose leases should be made to end at *end*.

        Those that were handed over at *handed_after* or before are left out, and those that end later anyway.
        """
        marks = self._marks
        while marks and marks[0][0] <= handed_after:
            self._old_tag = marks.popleft()[1]
        ranges: FlatRanges = []
        for low, high, until in zip(self._firsts, self._lasts, self._ends, strict=True):
            if high > self._old_tag and until < end:
                _append(ranges, max(low, self._old_tag + 1), high)
        return ranges

    def renewed(self, ranges: FlatRanges, end: float) -> None:
        """Let the leases of those in *ranges* that are still held end at *end*."""
        entries: list[tuple[int, int, float]] = []
        for index in range(0, len(ranges), 2):
            taken = self.take(ranges[index], ranges[index + 1])
            entries.extend((taken[i], taken[i + 1], end) for i in range(0, len(taken), 2))
        entries.extend(zip(self._firsts, self._lasts, self._ends, strict=True))
        entries.sort()
        self._firsts, self._lasts, self._ends = [], [], []
        for low, high, until in entries:
            if self._lasts and self._lasts[-1] == low - 1 and self._ends[-1] == until:
                self._lasts[-1] = high
            else:
                self._firsts.append(low)
                self._lasts.append(high)
                self._ends.append(until)
        self.safe_until = min(self._ends, default=inf)


def _append(flat: FlatRanges, first: int, last: int) -> None:
    if flat and flat[-1] == first - 1:
        flat[-1] = last
    else:
        flat.append(first)
        flat.append(last)
