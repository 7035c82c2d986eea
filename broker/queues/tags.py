"""Delivery tags: ranges of them, and a ledger of spans of tags with their bytes.

Tags are dense: a consumer's messages are numbered from 1 in the order of delivery. So whole grants are spans, and
what a span costs does not depend on how many messages it holds. Flat lists of ranges are `[first, last, ...]`, both
ends included. This module must not know what a tag stands for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import compress, islice, repeat
from operator import le, lt, ne, sub
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TAG_MAX = (1 << 64) - 1


def ranges_problem(tags: Sequence[int]) -> str | None:
    """Return what is wrong with a flat list of ranges (not ascending, overlapping, odd length), or None."""
    if len(tags) == 2 and 0 < tags[0] <= tags[1] <= TAG_MAX:  # by far the most common
        return None
    if len(tags) % 2:
        return f"tags are ranges, but there are {len(tags)} numbers"
    if not tags:
        return "no tags are named"
    firsts, lasts = tags[::2], tags[1::2]
    if not all(map(le, firsts, lasts)):
        return "a range of tags ends before it begins"
    if not all(map(lt, lasts, islice(firsts, 1, None))):
        return "ranges of tags overlap or do not ascend"
    if firsts[0] < 1 or lasts[-1] > TAG_MAX:
        return f"tags are numbers from 1 to {TAG_MAX}"
    return None


def range_pairs(tags: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of each range."""
    numbers = iter(tags)
    return zip(numbers, numbers, strict=True)


def add_range(tags: list[int], first: int, last: int) -> None:
    """Append a range to the flat list *tags*, joining it to the last one where they touch."""
    if tags and tags[-1] + 1 == first:
        tags[-1] = last
    else:
        tags += (first, last)


def count_tags(tags: Sequence[int]) -> int:
    """Return how many tags the ranges hold."""
    return sum(tags[1::2]) - sum(tags[::2]) + len(tags) // 2


def without(tags: Sequence[int], holes: Sequence[int]) -> list[int]:
    """Return the ranges *tags* without the ranges *holes*; a hole may reach over several ranges that touch."""
    if not holes:
        return list(tags)
    left: list[int] = []
    gaps = range_pairs(holes)
    gap = next(gaps, None)
    for first, last in range_pairs(tags):
        start = first
        while gap is not None and gap[0] <= last:
            if start < gap[0]:
                left += (start, gap[0] - 1)
            start = max(start, gap[1] + 1)
            if gap[1] > last:
                break
            gap = next(gaps, None)
        if start <= last:
            left += (start, last)
    return left


class Span:
    """Neighbouring tags with their bytes.

    Attributes:
        first: First tag.
        last: Last tag.
        bytes: Bytes of all messages together, estimated.
        key: Whatever the owner of the ledger needs to find its own record of the span.

    """

    __slots__ = ("bytes", "first", "key", "last")

    def __init__(self, first: int, last: int, bytes_: int, key: tuple[float, int] | None = None) -> None:
        self.first = first
        self.last = last
        self.bytes = bytes_
        self.key = key

    def __len__(self) -> int:
        return self.last - self.first + 1

    def cut_front(self, last: int) -> Span:
        """Cut off the tags up to *last*, which lies inside, and return them with their share of the bytes."""
        share = self.bytes * (last - self.first + 1) // len(self)
        front = Span(self.first, last, share, self.key)
        self.first = last + 1
        self.bytes -= share
        return front


class TagLedger:
    """Spans of tags of one consumer, ascending and disjoint.

    Bytes are conserved: whatever way spans are cut, the bytes that come out are those that went in.

    Spans leave mostly from the front. So the lists keep what left in front of `_head` until that is the larger half:
    then it is dropped at once, and taking one span out of a hundred thousand moves no others.
    """

    __slots__ = ("_firsts", "_head", "_spans")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._spans: list[Span] = []
        self._head = 0

    def __len__(self) -> int:
        return len(self._spans) - self._head

    def __iter__(self) -> Iterator[Span]:
        return islice(self._spans, self._head, None)

    @property
    def last(self) -> Span | None:
        """The span with the highest tags."""
        return self._spans[-1] if self._spans else None

    def ranges(self) -> list[int]:
        """Return the ranges of all tags; spans that touch are one range. Costs about 0.1 µs a span."""
        firsts = self._firsts[self._head :]
        lasts = [span.last for span in self]
        steps = list(map(sub, islice(firsts, 1, None), lasts))
        if 1 in steps:
            ends = list(map(ne, steps, repeat(1)))
            firsts = [firsts[0], *compress(islice(firsts, 1, None), ends)]
            lasts = [*compress(lasts, ends), lasts[-1]]
        tags = [0] * (2 * len(firsts))
        tags[::2] = firsts
        tags[1::2] = lasts
        return tags

    def beside(self, span: Span) -> tuple[Span | None, Span | None]:
        """Return the spans that touch *span* in front and behind; *span* itself is not there yet."""
        index = bisect_left(self._firsts, span.first, self._head)
        before = self._spans[index - 1] if index > self._head else None
        after = self._spans[index] if index < len(self._spans) else None
        return (
            before if before is not None and before.last + 1 == span.first else None,
            after if after is not None and span.last + 1 == after.first else None,
        )

    def append(self, span: Span) -> None:
        """Add *span*, whose tags are higher than all others."""
        assert not self._spans or self._spans[-1].last < span.first, "tags of a consumer ascend"
        self._firsts.append(span.first)
        self._spans.append(span)

    def insert(self, span: Span) -> None:
        """Add *span*, whose tags are not there yet."""
        self._put(bisect_left(self._firsts, span.first, self._head), span)

    def cut(self, first: int, last: int) -> tuple[list[Span], Span | None]:
        """Take the tags *first* to *last* out, as far as they are there.

        Returns:
            The spans taken out, and the span that is left in front where a cut went through one (else None). Where a
            span is cut, the part behind stays the old object; the part in front is a new one with the same key.

        """
        end, _ = self._border(last + 1)
        length = len(self._spans)
        index, left = self._border(first)
        end += len(self._spans) - length
        taken = self._spans[index:end]
        if index == self._head:
            self._head = end
            if 2 * end >= len(self._spans):
                del self._spans[:end]
                del self._firsts[:end]
                self._head = 0
        else:
            del self._spans[index:end]
            del self._firsts[index:end]
        return taken, left

    def _put(self, index: int, span: Span) -> int:
        """Add *span* at *index*; return where what stood there stands now."""
        if index == self._head and index:
            self._head = index - 1
            self._firsts[self._head] = span.first
            self._spans[self._head] = span
            return index
        self._firsts.insert(index, span.first)
        self._spans.insert(index, span)
        return index + 1

    def _border(self, tag: int) -> tuple[int, Span | None]:
        """Return the index of the first span at or behind *tag*, after cutting the span inside which it falls."""
        index = bisect_right(self._firsts, tag, self._head) - 1
        if index < self._head:
            return self._head, None
        span = self._spans[index]
        if span.first == tag:
            return index, None
        if span.last < tag:
            return index + 1, None
        front = span.cut_front(tag - 1)
        self._firsts[index] = tag
        return self._put(index, front), front
