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
from sluicemq.broker.queues.coverage import Coverage, joined_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sluicemq.broker.queues.chunks import Page
    from sluicemq.broker.queues.image import LiveRuns
    from sluicemq.broker.queues.sparse import Ranges

__all__ = ["RECORD_OVERHEAD_BYTES", "Liveness", "Span", "Survivors"]

RECORD_OVERHEAD_BYTES = 96
"""About what a record takes beside its messages: head, header, padding."""
SHARED_BATCHES_MAX = 500_000
"""Batches that are remembered to count once what several places keep alive: 80 MB while it is counted. Beyond them each
place counts for itself: more seems alive than is, and less is rewritten."""
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
        runs: Runs that are alive in each file, in every place where they lie: as many as `Survivors` finds there; 0
            exactly when nothing is.
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
        self._shared = Coverage(SHARED_BATCHES_MAX)

    def add(self, part: LiveRuns) -> None:
        """Count *part*; takes microseconds, or up to a millisecond a chunk where its rows must be looked at."""
        summary = part.summary
        low = bisect_left(self._lasts, summary.lowest_zxid)
        if low == len(self._lasts) and summary.lowest_zxid > self._through_zxid:
            return  # in the log proper
        high = bisect_left(self._lasts, summary.highest_zxid)
        if (
            low != high
            or low == len(self._lasts)
            or part.partial
            or part.shared
            or summary.lowest_zxid < self._firsts[low]
        ):
            self._add_rows(part)
            return
        self.bytes[low] += summary.bytes + RECORD_OVERHEAD_BYTES * part.row_count
        self.runs[low] += part.row_count
        self.messages[low] += summary.messages
        self._note_oldest(part.queue, summary.lowest_zxid)

    def _add_rows(self, part: LiveRuns) -> None:
        rows = part.rows(self._read_page)
        self.rows_read += len(rows) // RUN_BYTES
        firsts, lasts, shared = self._firsts, self._lasts, self._shared
        number, first, last, previous, oldest = -1, 1, 0, 0, 0
        for zxid, _ready, run_first, size, batch_count, batch_bytes, *_ in ROW.iter_unpack(rows):
            if not first <= zxid <= last:
                found = bisect_left(lasts, zxid)
                if found == len(lasts) or zxid < firsts[found]:
                    self.missing_runs += zxid <= self._through_zxid
                    continue
                number, first, last = found, firsts[found], lasts[found]
            self.runs[number] += 1
            if not oldest or zxid < oldest:
                oldest = zxid
            counted = size
            if part.shared:
                # The pieces of one batch become one record, whoever keeps them alive.
                if shared.knows(zxid):
                    previous = zxid
                counted = shared.add(zxid, run_first, size)
                if not counted:
                    continue
            bytes_ = span_bytes(batch_bytes, batch_count, run_first, counted)
            # The pieces of one batch lie together mostly, and become one record.
            self.bytes[number] += bytes_ if zxid == previous else bytes_ + RECORD_OVERHEAD_BYTES
            self.messages[number] += counted
            previous = zxid
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
                    yield zxid, joined_ranges(place for _, place in group)


_zxid_of = itemgetter(0)
