"""Reading entries back, from any thread, while the log thread appends, cuts and recycles.

How it stays safe without a lock on the hot path: the log publishes its files as one immutable view, and publishes the
new view before it touches any byte that readers of the old one may want. A reader that meets a bad record looks whether
the view changed meanwhile: if so it starts over, if not the record is damaged. This module never writes.
"""

from __future__ import annotations

import errno
import threading
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sluicemq.storage.errors import LogCorrupt, LogReadFailed, ZxidNotFound
from sluicemq.storage.live import LiveKind
from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.storage.record import MARK, Record
from sluicemq.storage.scan import BadPlaceError, Found, Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sluicemq.storage.live import LiveFile
    from sluicemq.storage.segment import Segment

__all__ = ["CURSORS_MAX", "LogReader", "Place", "View", "WholeFile"]

_Answer = TypeVar("_Answer")

WALK_BYTES = 256 * 1024  # a walk in the background reads so much at once: traffic keeps its share of disk and memory
CURSORS_MAX = 256  # how many sequential readers are remembered, so that each continues without a search


class Place(NamedTuple):
    """A position between records: `offset` is where the record after `zxid` starts or would start."""

    segment: Segment
    zxid: int
    offset: int
    chain: bytes


class WholeFile(NamedTuple):
    """A segment as the log wrote it, of which nothing is left out.

    Attributes:
        sequence: Its number.
        first_zxid: The lowest zxid that an entry in it could have.
        last_zxid: The highest one.
        bytes: What it takes on the disk; of the log proper, what is written of it.
        in_log: Whether it is of the log proper.

    """

    sequence: int
    first_zxid: int
    last_zxid: int
    bytes: int
    in_log: bool


class View(NamedTuple):
    """All files at one moment, in the order of their entries: the live store, then the log proper."""

    live: tuple[LiveFile, ...]
    segments: tuple[Segment, ...]
    live_bytes: int

    @classmethod
    def of(cls, live: tuple[LiveFile, ...], segments: tuple[Segment, ...]) -> View:
        """A view, its bytes counted."""
        return cls(live, segments, sum(each.bytes for each in live))


def _first_previous(source: Segment | LiveFile) -> int:
    return source.first_previous_zxid


class LogReader:
    """Finds and verifies entries.

    `view` is replaced as a whole, by `change`; every other attribute belongs to this class.
    """

    def __init__(self, path_of: Callable[[str], str], read_bytes: int, view: View) -> None:
        self.view = view
        self._path_of = path_of
        self._read_bytes = read_bytes
        self._changing = threading.Lock()
        self._cursors: dict[int, Place] = {}
        self._cursors_guard = threading.Lock()

    def change(
        self,
        change: Callable[[tuple[LiveFile, ...], tuple[Segment, ...]], tuple[tuple[LiveFile, ...], tuple[Segment, ...]]],
    ) -> None:
        """Publish other files, from the live store and the segments of this moment. From any thread."""
        with self._changing:
            live, segments = change(self.view.live, self.view.segments)
            if live is self.view.live:
                self.view = View(live, segments, self.view.live_bytes)
            else:
                self.view = View.of(live, segments)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The log proper."""
        return self.view.segments

    @segments.setter
    def segments(self, segments: tuple[Segment, ...]) -> None:
        self.change(lambda live, _segments: (live, segments))

    @property
    def start_zxid(self) -> int:
        """The position before the log's first entry."""
        return self.segments[0].first_previous_zxid

    @property
    def first_zxid(self) -> int:
        """The log's first entry; 0 when it has none."""
        return next((first for segment in self.segments if (first := segment.first_zxid) is not None), 0)

    def read(self, zxid: int) -> Record:
        """One entry, of the log or the live store. Raises ZxidNotFound, LogCorrupt, LogReadFailed."""
        return self._with_retry(lambda view: _record(self._find(_source_of(view, zxid), zxid)))

    def read_along(self, zxid: int, bytes_max: int, *, exact: bool = True) -> list[Record]:
        """One entry and those behind it in the same file, until `bytes_max` is reached. Raises as `read`.

        Unless *exact*, it need not exist: the answer begins somewhat before it, and may end there.
        """
        return self._with_retry(lambda view: self._read_along(_source_of(view, zxid), zxid, bytes_max, exact=exact))

    def place_after(self, zxid: int) -> Place:
        """The position directly after an entry of the log, or at the log's start. Raises as `read`."""
        return self._with_retry(lambda view: self._place_after(view.segments, zxid))

    def bytes_after(self, zxid: int) -> int:
        """How many bytes of the log lie behind an entry; all of them where it is older. Raises as `read`."""
        segments = self.segments
        if zxid < segments[0].first_previous_zxid:
            return sum(each.end_offset - PAGE_BYTES for each in segments)
        place = self.place_after(min(zxid, segments[-1].last_zxid))
        later = segments[segments.index(place.segment) + 1 :] if place.segment in segments else ()
        return place.segment.end_offset - place.offset + sum(each.end_offset - PAGE_BYTES for each in later)

    def read_after(self, zxid: int, bytes_max: int) -> list[Record]:
        """Entries of the log that follow `zxid`, in order: at least one if there is one, and no further one once
        `bytes_max` is reached.

        Raises as `read`.
        """
        return self._with_retry(lambda view: self._read_after(view.segments, zxid, bytes_max))

    def live_files(self) -> list[LiveFile]:
        """The live store; it is known then how far each file reaches. Reads indexes if need be. Raises as `read`."""
        return self._with_retry(_with_known_ends)

    def whole_files(self) -> list[WholeFile]:
        """The log proper, and in front of it the segments of the live store that were never rewritten, without a gap.

        In the order of their entries; looks at no file.
        """
        view = self.view
        found = [
            WholeFile(each.header.sequence, each.first_previous_zxid + 1, each.last_zxid, each.end_offset, in_log=True)
            for each in view.segments
        ]
        found.reverse()
        for live in reversed(view.live):
            behind = found[-1]
            if live.kind is not LiveKind.DENSE or live.last_sequence + 1 != behind.sequence:
                break
            first, last = live.first_previous_zxid + 1, behind.first_zxid - 1
            found.append(WholeFile(live.last_sequence, first, last, live.bytes, in_log=False))
        found.reverse()
        return found

    def walk_live(self, live: LiveFile) -> Iterator[Record]:
        """All entries of a file of the live store, verified one by one and against each other, in bounded reads.

        For whoever alone changes the live store: there is no second try. Raises LogCorrupt, LogReadFailed.
        """
        start = live.first_previous_zxid
        try:
            end = live.end_offset
            window_bytes = min(self._read_bytes, WALK_BYTES)
            walk = Walk(live, live.seed, PAGE_BYTES, end, start, live.start_chain, window_bytes)
            for found in walk:
                if found.kind != MARK:
                    yield _record(found)
            if walk.offset < end:
                raise BadPlaceError(live.name, walk.offset, walk.reason, walk.last_zxid or start)
        except BadPlaceError as bad:
            raise self._corrupt(bad) from None
        except OSError as error:
            raise LogReadFailed(self._path_of(live.name), 0, error.errno or errno.EIO) from error

    def _with_retry(self, attempt: Callable[[View], _Answer]) -> _Answer:
        while True:
            view = self.view
            try:
                return attempt(view)
            except BadPlaceError as bad:
                if self.view is view:
                    raise self._corrupt(bad) from None
            except OSError as error:
                if self.view is view:
                    name = error.filename or view.segments[-1].name
                    raise LogReadFailed(self._path_of(name), 0, error.errno or errno.EIO) from error

    def _corrupt(self, bad: BadPlaceError) -> LogCorrupt:
        return LogCorrupt(self._path_of(bad.name), bad.offset, bad.reason, bad.last_good_zxid)

    def _find(self, source: Segment | LiveFile, zxid: int) -> Found:
        start, end = source.span_of(zxid)
        walk = Walk(source, source.seed, start, end, None, None, end - start)
        for found in walk:
            if found.zxid == zxid and found.kind != MARK:
                return found
            if found.zxid > zxid:
                raise self._not_found(zxid)
        if walk.offset < end:
            raise BadPlaceError(source.name, walk.offset, walk.reason, walk.last_zxid or source.first_previous_zxid)
        raise self._not_found(zxid)

    def _not_found(self, zxid: int) -> ZxidNotFound:
        view = self.view
        oldest = view.live[0] if view.live else view.segments[0]
        return ZxidNotFound(zxid, oldest.first_previous_zxid, view.segments[-1].last_zxid)

    def _read_along(self, source: Segment | LiveFile, zxid: int, bytes_max: int, *, exact: bool) -> list[Record]:
        start, span_end = source.span_of(zxid)
        end = source.end_offset
        window_bytes = min(self._read_bytes, span_end - start + bytes_max)
        walk = Walk(source, source.seed, start, end, None, None, window_bytes)
        records: list[Record] = []
        total = 0
        for found in walk:
            if found.kind == MARK or (exact and found.zxid < zxid):
                continue
            if exact and not records and found.zxid != zxid:
                raise self._not_found(zxid)
            records.append(_record(found))
            total += found.end_offset - found.offset
            if total >= bytes_max:
                break
        # A bad place behind the entry that was asked for is reported to whoever asks for it.
        if not records and walk.offset < end:
            raise BadPlaceError(source.name, walk.offset, walk.reason, walk.last_zxid or source.first_previous_zxid)
        if not records:
            raise self._not_found(zxid)
        return records

    def _place_after(self, segments: tuple[Segment, ...], zxid: int) -> Place:
        first = segments[0]
        if zxid == first.first_previous_zxid:
            return Place(first, zxid, PAGE_BYTES, first.header.chain)
        segment = _segment_of(segments, zxid)
        found = self._find(segment, zxid)
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
            walk = Walk(segment, segment.seed, place.offset, end, place.zxid, place.chain, window_bytes)
            for found in walk:
                if found.kind == MARK:
                    continue
                records.append(_record(found))
                total += found.end_offset - found.offset
                if total >= bytes_max:
                    self._remember(Place(segment, found.zxid, found.end_offset, found.chain))
                    return records
            if walk.offset < end:
                raise BadPlaceError(segment.name, walk.offset, walk.reason, walk.last_zxid or place.zxid)
            position += 1
            if position == len(segments):
                if records:
                    assert walk.chain is not None
                    self._remember(Place(segment, records[-1].zxid, walk.offset, walk.chain))
                return records
            place = _start_of(segments[position])

    def _search(self, segments: tuple[Segment, ...], zxid: int) -> Place:
        position = bisect_right(segments, zxid, key=_first_previous) - 1
        if position >= 0 and segments[position].first_previous_zxid == zxid:
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


def _with_known_ends(view: View) -> list[LiveFile]:
    for each in view.live:
        _ = each.last_zxid
    return list(view.live)


def _source_of(view: View, zxid: int) -> Segment | LiveFile:
    """The file that holds an entry if any does."""
    if zxid > view.segments[0].first_previous_zxid:
        return _segment_of(view.segments, zxid)
    position = bisect_left(view.live, zxid, key=_first_previous) - 1
    if position < 0:
        oldest = view.live[0] if view.live else view.segments[0]
        raise ZxidNotFound(zxid, oldest.first_previous_zxid, view.segments[-1].last_zxid)
    return view.live[position]


def _segment_of(segments: tuple[Segment, ...], zxid: int) -> Segment:
    # The last segment that starts below: if two start at one position, the older of them is empty.
    position = bisect_left(segments, zxid, key=_first_previous) - 1
    if position < 0 or zxid > segments[position].last_zxid:
        raise ZxidNotFound(zxid, segments[0].first_previous_zxid, segments[-1].last_zxid)
    return segments[position]


def _start_of(segment: Segment) -> Place:
    return Place(segment, segment.first_previous_zxid, PAGE_BYTES, segment.header.chain)


def _record(found: Found) -> Record:
    return Record(found.zxid, found.kind, found.kind_version, found.flags, found.header, found.payload)
