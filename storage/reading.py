"""Reading entries back, from any thread, while the log thread appends, cuts and recycles.

How it stays safe without a lock on the hot path: the log publishes its segments as a tuple, and publishes the new tuple
before it touches any byte that readers of the old one may want. A reader that meets a bad record looks whether the
tuple changed meanwhile: if so it starts over, if not the record is damaged. This module never writes.
"""

from __future__ import annotations

import errno
import threading
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sluicemq.storage.errors import LogCorrupt, LogReadFailed, ZxidNotFound
from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.storage.record import MARK, Record
from sluicemq.storage.scan import Found, Walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.storage.segment import Segment

__all__ = ["CURSORS_MAX", "LogReader", "Place"]

_Answer = TypeVar("_Answer")

CURSORS_MAX = 256  # how many sequential readers are remembered, so that each continues without a search


class Place(NamedTuple):
    """A position between records: `offset` is where the record after `zxid` starts or would start."""

    segment: Segment
    zxid: int
    offset: int
    chain: bytes


class _BadPlaceError(Exception):
    def __init__(self, segment: Segment, walk: Walk) -> None:
        super().__init__()
        self.segment = segment
        self.walk = walk


def _first_previous(segment: Segment) -> int:
    return segment.header.first_previous_zxid


class LogReader:
    """Finds and verifies entries.

    `segments` is replaced by the log thread; every other attribute belongs to this class.
    """

    def __init__(self, path_of: Callable[[str], str], read_bytes: int) -> None:
        self.segments: tuple[Segment, ...] = ()
        self._path_of = path_of
        self._read_bytes = read_bytes
        self._cursors: dict[int, Place] = {}
        self._cursors_guard = threading.Lock()

    @property
    def start_zxid(self) -> int:
        """The position before the log's first entry."""
        return self.segments[0].header.first_previous_zxid

    @property
    def first_zxid(self) -> int:
        """The log's first entry; 0 when it has none."""
        return next((first for segment in self.segments if (first := segment.first_zxid) is not None), 0)

    def read(self, zxid: int) -> Record:
        """One entry. Raises ZxidNotFound, LogCorrupt, LogReadFailed."""
        return self._with_retry(lambda segments: _record(self._find(segments, zxid)[1]))

    def place_after(self, zxid: int) -> Place:
        """The position directly after an entry, or at the log's start. Raises as `read`."""
        return self._with_retry(lambda segments: self._place_after(segments, zxid))

    def read_after(self, zxid: int, bytes_max: int) -> list[Record]:
        """Entries that follow `zxid`, in order: at least one if there is one, and no further one once `bytes_max` is
        reached.

        Raises as `read`.
        """
        return self._with_retry(lambda segments: self._read_after(segments, zxid, bytes_max))

    def _with_retry(self, attempt: Callable[[tuple[Segment, ...]], _Answer]) -> _Answer:
        while True:
            segments = self.segments
            try:
                return attempt(segments)
            except _BadPlaceError as bad:
                if self.segments is segments:
                    walk = bad.walk
                    path = self._path_of(bad.segment.name)
                    raise LogCorrupt(path, walk.offset, walk.reason, walk.last_zxid or self.start_zxid) from None
            except OSError as error:
                if self.segments is segments:
                    path = self._path_of(segments[-1].name)
                    raise LogReadFailed(path, 0, error.errno or errno.EIO) from error

    def _not_found(self, segments: tuple[Segment, ...], zxid: int) -> ZxidNotFound:
        return ZxidNotFound(zxid, segments[0].header.first_previous_zxid, segments[-1].last_zxid)

    def _find(self, segments: tuple[Segment, ...], zxid: int) -> tuple[Segment, Found]:
        # The last segment that starts below: if two start at one position, the older of them is empty.
        position = bisect_left(segments, zxid, key=_first_previous) - 1
        if position < 0 or zxid > segments[position].last_zxid:
            raise self._not_found(segments, zxid)
        segment = segments[position]
        start, end = segment.span_of(zxid)
        walk = Walk(segment.file, segment.seed, start, end, None, None, end - start)
        for found in walk:
            if found.zxid == zxid and found.kind != MARK:
                return segment, found
            if found.zxid > zxid:
                raise self._not_found(segments, zxid)
        if walk.offset < end:
            raise _BadPlaceError(segment, walk)
        raise self._not_found(segments, zxid)

    def _place_after(self, segments: tuple[Segment, ...], zxid: int) -> Place:
        first = segments[0]
        if zxid == first.header.first_previous_zxid:
            return Place(first, zxid, PAGE_BYTES, first.header.chain)
        segment, found = self._find(segments, zxid)
        return Place(segment, zxid, found.end_offset, found.chain)

    def _read_after(self, segments: tuple[Segment, ...], zxid: int, bytes_max: int) -> list[Record]:
        if zxid == segments[-1].last_zxid:
            return []
        place = self._cursor(segments, zxid) or self._search(segments, zxid)
        position = bisect_right(segments, zxid, key=_first_previous) - 1
        if segments[position] is not place.segment:
            # The place is at the very end of the segment before.
            place = _start_of(segments[position])
        window_bytes = min(self._read_bytes, bytes_max + PAGE_BYTES)
        records: list[Record] = []
        total = 0
        while True:
            segment = place.segment
            end = segment.end_offset
            walk = Walk(segment.file, segment.seed, place.offset, end, place.zxid, place.chain, window_bytes)
            for found in walk:
                if found.kind == MARK:
                    continue
                records.append(_record(found))
                total += found.end_offset - found.offset
                if total >= bytes_max:
                    self._remember(Place(segment, found.zxid, found.end_offset, found.chain))
                    return records
            if walk.offset < end:
                raise _BadPlaceError(segment, walk)
            position += 1
            if position == len(segments):
                if records:
                    assert walk.chain is not None
                    self._remember(Place(segment, records[-1].zxid, walk.offset, walk.chain))
                return records
            place = _start_of(segments[position])

    def _search(self, segments: tuple[Segment, ...], zxid: int) -> Place:
        position = bisect_right(segments, zxid, key=_first_previous) - 1
        if position >= 0 and segments[position].header.first_previous_zxid == zxid:
            return _start_of(segments[position])
        return self._place_after(segments, zxid)

    def _cursor(self, segments: tuple[Segment, ...], zxid: int) -> Place | None:
        with self._cursors_guard:
            place = self._cursors.pop(zxid, None)
        return place if place is not None and place.segment in segments else None

    def _remember(self, place: Place) -> None:
        with self._cursors_guard:
            if len(self._cursors) >= CURSORS_MAX:
                del self._cursors[next(iter(self._cursors))]
            self._cursors[place.zxid] = place


def _start_of(segment: Segment) -> Place:
    return Place(segment, segment.header.first_previous_zxid, PAGE_BYTES, segment.header.chain)


def _record(found: Found) -> Record:
    return Record(found.zxid, found.kind, found.kind_version, found.flags, found.header, found.payload)
