"""Reads the log of a data directory without changing a byte of it, and lists what is wrong.

Why beside recovery: recovery repairs and refuses at the first damage; an operator wants to see all of it, and to look
while a broker serves. The rules of what a good record is are storage's own (`Walk`, `judge_end`); this module adds
only the way through the files. It must not know what an entry means.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple, NoReturn

from sluicemq.storage.errors import LogCorrupt, StorageError, SuperblockMissing, format_zxid
from sluicemq.storage.files import LOCK_NAME, File, RealDirectory, RealFile, naming, refuse_odd
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged
from sluicemq.storage.record import MARK, Head
from sluicemq.storage.recovery import Verdict, judge_end
from sluicemq.storage.salvage import missing_between, readable_records
from sluicemq.storage.scan import Walk, find_traces
from sluicemq.storage.segment import Segment, SegmentHeader, segment_name
from sluicemq.storage.segment_files import open_segment, segment_sequences
from sluicemq.storage.superblock import SUPERBLOCK_NAME, Superblock, SuperblockStore
from sluicemq.storage.unreadable import AroundGaps, Gap, Gaps

READ_BYTES = 4 * 1024 * 1024
_STRIDE_BYTES = 1 << 30
"""No index is built here, so one place for each segment is enough."""
_SPANS_MAX = 8
"""Most stretches of lost entries that one text names."""


class _NamedFile(RealFile):
    """A file that says its name where it cannot be read: nobody else does it for a tool."""

    def __init__(self, descriptor: int, path: str) -> None:
        super().__init__(descriptor)
        self._path = path

    def pread(self, length: int, offset: int) -> bytes:
        """Read up to *length* bytes."""
        with naming(self._path):
            return super().pread(length, offset)


class ReadOnlyDirectory(RealDirectory):
    """A directory whose files are opened for reading only; whatever would change it is refused."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise FileNotFoundError(errno.ENOENT, "there is no such data directory", str(path))
        self.path = path
        self._gaps: dict[str, Gaps] = {}

    def open(self, name: str, *, create: bool = False) -> File:
        """Open a file for reading; zeros stand for what the disk does not give back, and `gap_behind` says where."""
        if create:
            self._refuse(name)
        refuse_odd(self.path / name)
        file = _NamedFile(os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC), self.path_of(name))
        return AroundGaps(file, self._gaps.setdefault(name, Gaps()))

    def gap_behind(self, name: str, offset: int) -> Gap | None:
        """Return the first part of a file, at *offset* or behind it, that was met and could not be read."""
        gaps = self._gaps.get(name)
        return None if gaps is None else next((gap for gap in gaps if gap.end > offset), None)

    def why(self, name: str, offset: int, reason: str) -> str:
        """Return the *reason* why reading ended at *offset*, with what could not be read there."""
        gap = self.gap_behind(name, offset)
        return reason if gap is None else f"{reason}: {gap}"

    def rename(self, old: str, new: str) -> None:
        """Refused."""
        del new
        self._refuse(old)

    def unlink(self, name: str) -> None:
        """Refused."""
        self._refuse(name)

    def _refuse(self, name: str) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), self.path_of(name))

    def holder(self) -> int | None:
        """Return the process id of the broker that serves this directory (0 where it is not known), or None."""
        refuse_odd(self.path / LOCK_NAME)
        try:
            descriptor = os.open(self.path / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            # Given up at once: a broker must be able to start while somebody looks.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            digits = os.pread(descriptor, 32, 0).split(b"\n")[0]
            return int(digits) if digits.isdigit() else 0
        finally:
            os.close(descriptor)
        return None


class Located(NamedTuple):
    """One good record and where it lies."""

    file: str
    offset: int
    head: Head
    header: bytes
    payload: bytes
    chain: bytes


class SegmentStart(NamedTuple):
    """The entry before a file's first, and the chain there."""

    zxid: int
    chain: bytes


_UNREADABLE = SegmentStart(-1, b"")
"""Some file follows, but its first page cannot be read: that is one damage, and reported where it lies."""


class Problem(NamedTuple):
    """One place that is not as it should be."""

    file: str
    offset: int
    reason: str
    last_good_zxid: int


@dataclass(slots=True)
class LogFiles:
    """The log of one directory. Iterate `entries` to its end, then look at the rest.

    Attributes:
        directory: Where it lies.
        problems: Damage, in the order of the log.
        notes: What is worth knowing and no damage.
        segments: Files read.
        records: Entries read.
        marks: Marks read: the log's own notes.
        read_bytes: Bytes of good records.
        first_zxid: The first entry, 0 without any.
        last_zxid: The last one.
        served_by: Process id of a broker that serves the directory (0: unknown), None when there is none.

    """

    directory: ReadOnlyDirectory
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    segments: int = 0
    records: int = 0
    marks: int = 0
    read_bytes: int = 0
    first_zxid: int = 0
    last_zxid: int = 0
    served_by: int | None = None
    superblock: Superblock | None = None
    """Read instead of the directory's own, by whoever repairs it and so holds its lock."""

    _last_segment: int = 0
    _synced_zxid: int = 0

    def size_bytes(self) -> int:
        """Bytes of all segment files, for a progress bar."""
        paths = [self.directory.path / segment_name(number) for number in self._sequences()]
        for path in paths:
            refuse_odd(path)
        return sum(path.stat().st_size for path in paths)

    def _sequences(self) -> list[int]:
        return segment_sequences(self.directory)

    def entries(self) -> Iterator[Located]:
        """Yield every good record but marks, in order.

        Damage is noted in `problems`, and reading goes on at the next file.

        Raises:
            StorageError: There is no log, or its superblock cannot be read.

        """
        self.served_by = None if self.superblock is not None else self.directory.holder()
        if self.served_by is not None:
            self.notes.append(
                f"a broker (process {self.served_by or 'unknown'}) serves this directory; reading changes nothing, and "
                "ends where the log ended when it was read"
            )
        superblock = self.superblock or self._superblock()
        self._last_segment, self._synced_zxid = superblock.last_segment, superblock.synced_zxid
        if superblock.first_segment == 0:
            self.notes.append("the log was never begun; a broker's next start begins it")
            return
        older: Segment | None = None
        number = superblock.first_segment
        # The superblock knows how far the files must reach: one that is gone from the end leaves no other trace.
        while number <= max(*self._sequences(), superblock.last_segment, superblock.first_segment):
            older = yield from self._read_segment(superblock, number, older)
            number += 1

    def read_superblock(self) -> Superblock:
        """Return the superblock, or what stands for it; nothing is noted. Raises as `entries`."""
        notes = list(self.notes)
        try:
            return self.superblock or self._superblock()
        finally:
            self.notes = notes

    def _superblock(self) -> Superblock:
        try:
            store = SuperblockStore.load(self.directory)
        except FileNotFoundError:
            names = tuple(segment_name(number) for number in self._sequences())
            path = self.directory.path_of(SUPERBLOCK_NAME)
            if names:
                raise SuperblockMissing(path, names) from None
            place = str(self.directory.path)
            raise FileNotFoundError(errno.ENOENT, "this is no data directory of a broker", place) from None
        store.close()
        if store.repaired and self.served_by is None:
            self.notes.append("one copy of the superblock is damaged or older; a broker's next start mends it")
        if store.current.truncation is not None:
            self.notes.append("a truncation was interrupted; a broker's next start finishes it")
        return store.current

    def report(self, located: Located, reason: str) -> None:
        """Note that a whole record holds something that makes no sense."""
        self._problem(located.file, located.offset, reason)

    def _problem(self, file: str, offset: int, reason: str) -> None:
        self.problems.append(Problem(self.directory.path_of(file), offset, reason, self.last_zxid))

    def _read_segment(
        self, superblock: Superblock, number: int, older: Segment | None
    ) -> Generator[Located, None, Segment | None]:
        """Read one file; return it as far as it is good, or None where its end is damaged."""
        try:
            segment = open_segment(self.directory, superblock, number, _STRIDE_BYTES, self.last_zxid)
        except FileNotFoundError:
            if self.served_by is None:
                self._problem(segment_name(number), 0, "this segment is missing")
            return None
        except LogCorrupt as error:
            self._problem(segment_name(number), error.offset, error.reason)
            return None
        except StorageError as error:
            self._problem(segment_name(number), 0, str(error))
            return None
        self.segments += 1
        try:
            start = SegmentStart(segment.header.first_previous_zxid, segment.header.chain)
            if older is not None and SegmentStart(older.last_zxid, older.chain) != start:
                self._problem(segment.name, 0, f"the header continues another history than that of {older.name}")
            good = yield from self._walk(segment, _end_of(superblock, segment))
            return segment if good else None
        finally:
            segment.file.close()

    def _walk(self, segment: Segment, end_offset: int) -> Generator[Located, None, bool]:
        """Read the records of a file and judge why they end."""
        again = self.served_by is not None
        while True:
            start = segment.end_offset
            walk = Walk(segment.file, segment.seed, start, end_offset, segment.last_zxid, segment.chain, READ_BYTES)
            for found in walk:
                if found.head.kind == MARK:
                    self.marks += 1
                    continue
                self.records += 1
                self.first_zxid = self.first_zxid or found.head.zxid
                self.last_zxid = found.head.zxid
                yield Located(segment.name, found.offset, found.head, found.header, found.payload, found.chain)
            assert walk.last_zxid is not None
            assert walk.chain is not None
            segment.end_offset, segment.last_zxid, segment.chain = walk.offset, walk.last_zxid, walk.chain
            self.read_bytes += walk.offset - start
            newer = self._after(segment)
            if newer is not None and newer == SegmentStart(segment.last_zxid, segment.chain):
                return True
            if newer is not None and again:
                again = False  # the broker finished this file while it was read: the rest stands there now
                continue
            return self._judge(segment, walk, end_offset, newer)

    def _judge(self, segment: Segment, walk: Walk, end_offset: int, newer: SegmentStart | None) -> bool:
        if newer is not None and newer is not _UNREADABLE:
            self._damage(segment, walk, end_offset, newer.zxid)
            return False
        if self.served_by is not None:
            return True
        traces = find_traces(segment.file, segment.seed, walk.offset, end_offset, READ_BYTES)
        # Where the next file is missing, that one is the damage.
        synced_zxid = self._synced_zxid if segment.header.sequence >= self._last_segment else 0
        end = judge_end(segment.last_zxid, walk.offset, walk.reason, traces, synced_zxid)
        # A file is synced before the next one is begun: what is torn in it was durable.
        if end.verdict is Verdict.DAMAGED or (end.verdict is Verdict.TORN and newer is _UNREADABLE):
            self._damage(segment, walk, end_offset, synced_zxid or None)
            return False
        gap = self.directory.gap_behind(segment.name, walk.offset)
        if gap is not None:
            self._problem(segment.name, gap.start, f"{gap}; nothing tells whether entries were there")
            return False
        if end.verdict is Verdict.TORN:
            self.notes.append(
                f"{segment.name} ends with {end.end_offset - walk.offset} bytes of a write that was never confirmed; a "
                "broker's next start cuts them off"
            )
        return True

    def _damage(self, segment: Segment, walk: Walk, end_offset: int, last_zxid: int | None) -> None:
        """Note where reading ended and why, and which entries of the file are lost."""
        records = readable_records(segment.file, segment.seed, end_offset)
        lost = lost_text(missing_between(records, segment.first_previous_zxid, last_zxid))
        self._problem(segment.name, walk.offset, self.directory.why(segment.name, walk.offset, walk.reason) + lost)

    def _after(self, segment: Segment) -> SegmentStart | None:
        """Return where the next file starts, if there is one and its first page can be read."""
        name = segment_name(segment.header.sequence + 1)
        try:
            file = self.directory.open(name)
        except FileNotFoundError:
            return None
        try:
            _version, header = SegmentHeader.from_page(file.pread(PAGE_BYTES, 0))
        except PageDamaged:
            return _UNREADABLE
        finally:
            file.close()
        return SegmentStart(header.first_previous_zxid, header.chain)


def lost_text(spans: Iterator[tuple[int, int]]) -> str:
    """Return, for the end of a text, which entries are lost; empty where that is not known."""
    named = [f"{format_zxid(first)} to {format_zxid(last)}" for first, last in islice(spans, _SPANS_MAX)]
    more = sum(1 for _ in spans)
    if more:
        named.append(f"{more} more stretches")
    return f"; lost are entries {', '.join(named)}" if named else ""


def _end_of(superblock: Superblock, segment: Segment) -> int:
    """Where reading must stop: an interrupted truncation has condemned what lies behind its offset."""
    cut = superblock.truncation
    if cut is not None and cut.segment == segment.header.sequence:
        return min(cut.offset, segment.allocated_bytes)
    return segment.allocated_bytes
