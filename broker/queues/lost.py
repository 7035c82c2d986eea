"""Entries whose messages are lost, as ranges of zxids, and what packed rows are without them.

Why apart: every index of a queue gives messages up in the same way. This module must not know why anything is lost, nor
in what order an index keeps its rows.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING

from sluicemq.broker.queues.chunks import RUN_BYTES, zxid_at, zxid_span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.queues.chunks import Chunk


def problem_of(ranges: Sequence[int]) -> str | None:
    """Return what is wrong with a flat list of ranges of entries (not ascending, overlapping, odd length), or None."""
    if not ranges:
        return "no entries are named"
    if len(ranges) % 2:
        return f"entries are ranges, but there are {len(ranges)} numbers"
    firsts, lasts = ranges[::2], ranges[1::2]
    if any(first > last for first, last in zip(firsts, lasts, strict=True)):
        return "a range of entries ends before it begins"
    if any(last >= first for last, first in zip(lasts, firsts[1:], strict=False)):
        return "ranges of entries overlap or do not ascend"
    return None


class LostEntries:
    """Ranges of entries of which nothing can be read any more.

    Args:
        ranges: `[first, last, first, last, ...]`, ascending, both ends included, checked by `problem_of`.

    Attributes:
        ranges: The same, as pairs.

    """

    def __init__(self, ranges: Sequence[int]) -> None:
        self._firsts = ranges[::2]
        self._lasts = ranges[1::2]
        self.ranges = list(zip(self._firsts, self._lasts, strict=True))

    def __contains__(self, zxid: int) -> bool:
        return self.meet(zxid, zxid)

    def meet(self, lowest_zxid: int, highest_zxid: int) -> bool:
        """Return whether a range has an entry from *lowest_zxid* to *highest_zxid*."""
        number = self.range_of(lowest_zxid)
        return number < len(self._firsts) and self._firsts[number] <= highest_zxid

    def range_of(self, zxid: int) -> int:
        """Return the number of the first range that ends at *zxid* or later."""
        return bisect_left(self._lasts, zxid)

    def may_be_in(self, chunk: Chunk) -> bool:
        """Return whether *chunk*, wherever its rows lie, may hold some of it."""
        if chunk.data is not None:
            return self.meet(*zxid_span(chunk.data))
        return self.meet(chunk.summary.lowest_zxid, chunk.summary.highest_zxid)

    def split(self, rows: bytes | bytearray) -> tuple[bytes | bytearray, bytes]:
        """Return packed *rows* without those of lost entries, and these; both in order."""
        if not rows or not self.meet(*zxid_span(rows)):
            return rows, b""
        count = len(rows) // RUN_BYTES
        gone = [row for row in range(count) if zxid_at(rows, row) in self]
        between = pairwise((-1, *gone, count))
        left = b"".join([rows[(before + 1) * RUN_BYTES : row * RUN_BYTES] for before, row in between])
        return left, b"".join([rows[row * RUN_BYTES : (row + 1) * RUN_BYTES] for row in gone])
