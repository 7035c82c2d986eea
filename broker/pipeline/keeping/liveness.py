"""What a snapshot keeps alive, file by file: how much, how old, and where exactly.

A snapshot names every message that was alive at its zxid; what it does not name was dead there and stays dead. Most of
it comes as chunks of an index with a summary, and most chunks lie within one file: those are counted without a look at
their rows. Only a chunk that reaches over a border, or whose front is consumed, is looked at row by row.

This module must not know files, threads or what becomes of the figures; pages are read by whoever gives `read_page`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.queues.chunks import ROW, RUN_BYTES, span_bytes
from sluicemq.broker.queues.image import LiveRuns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sluicemq.broker.queues.chunks import Page
    from sluicemq.broker.queues.sparse import Ranges

__all__ = ["RECORD_OVERHEAD_BYTES", "Liveness", "Span", "Survivors"]

RECORD_OVERHEAD_BYTES = 96
"""About what a record takes beside its messages: head, header, padding."""
SHARED_RUNS_MAX = 500_000
"""Runs of topics that are remembered to count what several subscriptions keep alive once: 60 MB while it is counted.
Beyond them each subscription counts for itself: more seems alive than is, and less is rewritten."""
_WINDOW_BITS = 12
"""Survivors are sorted so many zxids (as a power of two) at a time: no sort holds the interpreter for long."""


class Span(NamedTuple):
    """The zxids of one file, both included."""

    first_zxid: int
    last_zxid: int


class Liveness:
    """Counts what is alive in each file.

    Args:
        files: Spans of the files, ascending; there may be gaps.
        read_page: Returns the rows of a page.
        through_zxid: Every entry up to here that has anything alive must be in one of the files.

    Attributes:
        bytes: What is alive in each file, about, in bytes of records.
        runs: Runs that are alive in each file; 0 exactly when nothing is.
        messages: Messages that are alive in each file, about.
        oldest: Of each queue that has anything alive in these files, by number, the lowest zxid of it.
        missing_runs: Runs that are alive, should lie in a file, and are in none. None should be, unless the snapshot
            is older than the one by which files were dropped.
        rows_read: Rows that were looked at one by one.

    """

    def __init__(self, files: Sequence[Span], read_page: Callable[[Page], bytes], through_zxid: int) -> None:
        self._firsts = [each.first_zxid for each in files]
        self._lasts = [each.last_zxid for each in files]
        self._read_page = read_page
        self._through_zxid = max(through_zxid, *self._lasts) if files else through_zxid
        self.bytes = [0] * len(files)
        self.runs = [0] * len(files)
        self.messages = [0] * len(files)
        self.oldest: dict[int, int] = {}
        self.missing_runs = 0
        self.rows_read = 0
        # (zxid, first and size) of what was counted of topics and their subscriptions.
        self._shared: set[tuple[int, int]] = set()

    def add(self, part: LiveRuns) -> None:
        """Count *part*; takes microseconds, or up to a millisecond a chunk where its rows must be looked at."""
        summary = part.summary
        low = bisect_left(self._lasts, summary.lowest_zxid)
        if low == len(self._lasts) and summary.lowest_zxid > self._through_zxid:
            return  # in the log proper
        if part.shared:
            self._add_shared(part)
            return
        high = bisect_left(self._lasts, summary.highest_zxid)
        if low != high or low == len(self._lasts) or part.partial or summary.lowest_zxid < self._firsts[low]:
            self._add_rows(part)
            return
        self.bytes[low] += summary.bytes + RECORD_OVERHEAD_BYTES * part.row_count
        self.runs[low] += part.row_count
        self.messages[low] += summary.messages
        self._note_oldest(part.queue, summary.lowest_zxid)

    def _add_shared(self, part: LiveRuns) -> None:
        """Count of *part* what no other subscription was counted for; the oldest counts for each of them."""
        rows = part.rows(self._read_page)
        if not rows:
            return
        words = memoryview(rows).cast("Q")
        places = list(zip(words[:: RUN_BYTES // 8].tolist(), words[2 :: RUN_BYTES // 8].tolist(), strict=True))
        oldest = min(places)[0]
        if self._firsts and oldest <= self._through_zxid:
            self._note_oldest(part.queue, oldest)
        known = self._shared
        if len(known) < SHARED_RUNS_MAX:
            new = [number for number, place in enumerate(places) if place not in known]
            known.update(places)
            if len(new) < len(places):
                rows = b"".join([rows[number * RUN_BYTES : (number + 1) * RUN_BYTES] for number in new])
        if rows:
            self._add_rows(LiveRuns(part.queue, part.place, part.summary, None, rows))

    def _add_rows(self, part: LiveRuns) -> None:
        rows = part.rows(self._read_page)
        self.rows_read += len(rows) // RUN_BYTES
        firsts, lasts = self._firsts, self._lasts
        number, first, last, previous, oldest = -1, 1, 0, 0, 0
        for zxid, _ready, run_first, size, batch_count, batch_bytes, *_ in ROW.iter_unpack(rows):
            if not first <= zxid <= last:
                found = bisect_left(lasts, zxid)
                if found == len(lasts) or zxid < firsts[found]:
                    self.missing_runs += zxid <= self._through_zxid
                    continue
                number, first, last = found, firsts[found], lasts[found]
            bytes_ = span_bytes(batch_bytes, batch_count, run_first, size)
            # The pieces of one batch lie together mostly, and become one record.
            self.bytes[number] += bytes_ if zxid == previous else bytes_ + RECORD_OVERHEAD_BYTES
            self.runs[number] += 1
            self.messages[number] += size
            previous = zxid
            if not oldest or zxid < oldest:
                oldest = zxid
        if oldest:
            self._note_oldest(part.queue, oldest)

    def _note_oldest(self, queue: int, zxid: int) -> None:
        known = self.oldest.get(queue)
        if known is None or zxid < known:
            self.oldest[queue] = zxid


class Survivors:
    """Which messages of some spans are alive, each message once; 16 bytes a run.

    Args:
        spans: Of what zxids, apart.
        read_page: Returns the rows of a page.

    """

    def __init__(self, spans: Iterable[Span], read_page: Callable[[Page], bytes]) -> None:
        ordered = sorted(spans)
        self._firsts = [each.first_zxid for each in ordered]
        self._lasts = [each.last_zxid for each in ordered]
        self._counts = [0] * len(ordered)
        self._read_page = read_page
        self._windows: dict[int, tuple[array[int], array[int]]] = {}

    def add(self, part: LiveRuns) -> None:
        """Keep what of *part* lies in the spans."""
        summary = part.summary
        firsts, lasts = self._firsts, self._lasts
        number = bisect_left(lasts, summary.lowest_zxid)
        if number == len(lasts) or summary.highest_zxid < firsts[number]:
            return
        windows, counts = self._windows, self._counts
        low, high = 1, 0
        for zxid, _ready, start, size, *_ in ROW.iter_unpack(part.rows(self._read_page)):
            if not low <= zxid <= high:
                found = bisect_left(lasts, zxid)
                if found == len(lasts) or zxid < firsts[found]:
                    continue
                number, low, high = found, firsts[found], lasts[found]
            window = windows.get(zxid >> _WINDOW_BITS)
            if window is None:
                window = windows[zxid >> _WINDOW_BITS] = (array("Q"), array("Q"))
            window[0].append(zxid)
            window[1].append(start << 32 | size)
            counts[number] += 1

    def runs(self, first_zxid: int) -> int:
        """Return how many runs were kept of the span that begins at *first_zxid*."""
        return self._counts[self._firsts.index(first_zxid)]

    def within(self, first_zxid: int, last_zxid: int) -> Iterator[tuple[int, Ranges]]:
        """Yield each entry of which something is alive, ascending, with the numbers of those messages."""
        first_window, last_window = first_zxid >> _WINDOW_BITS, last_zxid >> _WINDOW_BITS
        for number in sorted(number for number in self._windows if first_window <= number <= last_window):
            pairs = sorted(zip(*self._windows[number], strict=True))
            for zxid, group in groupby(pairs, key=_zxid_of):
                if first_zxid <= zxid <= last_zxid:
                    yield zxid, _joined(place for _, place in group)


_zxid_of = itemgetter(0)


def _joined(places: Iterator[int]) -> Ranges:
    """Return the ranges of ascending `first << 32 | size`, neighbours made one; those of subscriptions may overlap."""
    ranges: list[tuple[int, int]] = []
    start = end = 0
    for place in places:
        first, size = place >> 32, place & 0xFFFF_FFFF
        if first > end or end == 0:
            if end:
                ranges.append((start, end - start))
            start = first
        end = max(end, first + size)
    ranges.append((start, end - start))
    return tuple(ranges)
