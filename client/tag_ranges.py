"""Sets of whole numbers kept as disjoint, ascending ranges: how the client speaks of delivery tags. Pure.

Tags are dense and mostly handled in order, so that a few ranges stand for thousands of messages. Adding next to the
last range and taking from the first one are the fast cases.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

FlatRanges = list[int]
"""[first, last, first, last, ...], both ends included, ascending, as on the wire."""


class TagRanges:
    """A set of tags."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, flat: Iterable[int] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        numbers = iter(flat)
        for first, last in zip(numbers, numbers, strict=True):
            self.add(first, last)

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __contains__(self, tag: int) -> bool:
        index = bisect_right(self._firsts, tag) - 1
        return index >= 0 and tag <= self._lasts[index]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._firsts, self._lasts, strict=True)))

    @property
    def count(self) -> int:
        """How many tags the set holds."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    @property
    def ranges(self) -> int:
        """How many ranges hold them."""
        return len(self._firsts)

    def flat(self) -> FlatRanges:
        """Return the ranges as one flat list."""
        flat = [0] * (2 * len(self._firsts))
        flat[::2] = self._firsts
        flat[1::2] = self._lasts
        return flat

    def clear(self) -> None:
        """Forget every tag."""
        self._firsts.clear()
        self._lasts.clear()

    def add(self, first: int, last: int) -> None:
        """Put *first* to *last* into the set; those which are there already do no harm."""
        lasts = self._lasts
        if not lasts or first > lasts[-1] + 1:
            self._firsts.append(first)
            lasts.append(last)
            return
        if first == lasts[-1] + 1:
            lasts[-1] = last
            return
        firsts = self._firsts
        # Ranges start..end-1 overlap or touch the new one and melt into it.
        start = bisect_left(lasts, first - 1)
        end = bisect_right(firsts, last + 1)
        if start < end:
            first, last = min(first, firsts[start]), max(last, lasts[end - 1])
        firsts[start:end] = [first]
        lasts[start:end] = [last]

    def take(self, first: int, last: int) -> FlatRanges:
        """Remove *first* to *last* and return those of them which were in the set."""
        firsts, lasts = self._firsts, self._lasts
        start = bisect_left(lasts, first)
        end = bisect_right(firsts, last)
        if start >= end:
            return []
        taken: FlatRanges = []
        for index in range(start, end):
            taken.append(max(first, firsts[index]))
            taken.append(min(last, lasts[index]))
        kept_firsts, kept_lasts = [], []
        if firsts[start] < first:
            kept_firsts.append(firsts[start])
            kept_lasts.append(first - 1)
        if lasts[end - 1] > last:
            kept_firsts.append(last + 1)
            kept_lasts.append(lasts[end - 1])
        firsts[start:end] = kept_firsts
        lasts[start:end] = kept_lasts
        return taken


def pairs(flat: FlatRanges) -> Iterator[tuple[int, int]]:
    """Return the ranges of *flat* one by one."""
    numbers = iter(flat)
    return zip(numbers, numbers, strict=True)


def without(flat: FlatRanges, holes: FlatRanges) -> FlatRanges:
    """Return *flat* without the tags of *holes*."""
    if not holes:
        return flat
    left = TagRanges(flat)
    for first, last in pairs(holes):
        left.take(first, last)
    return left.flat()


def within(flat: FlatRanges, others: FlatRanges) -> FlatRanges:
    """Return the tags of *flat* that are in *others* too."""
    return without(flat, without(flat, others))


def count_tags(flat: FlatRanges) -> int:
    """Return how many tags *flat* covers."""
    return sum(flat[1::2]) - sum(flat[::2]) + len(flat) // 2
