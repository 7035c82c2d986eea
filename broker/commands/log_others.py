"""Reads what lies beside the log proper without changing a byte: old files, their indexes, the newest state.

Why beside `log_files`: these files do not follow each other without gaps, and what is missing of them is no damage by
itself. This module adds its findings to those of the log; it must not know the command line.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.commands.log_files import Located, LogFiles, Problem, ReadOnlyDirectory, lost_text
from sluicemq.broker.pipeline.keeping.liveness import Span
from sluicemq.broker.pipeline.keeping.restart import apply_records
from sluicemq.broker.queues.chunks import CHUNK_BYTES, ChunkPool
from sluicemq.broker.queues.image import live_runs, load, pages_named
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.sections import QUEUES, TOPICS, decode
from sluicemq.storage.decisions_files import Purpose
from sluicemq.storage.errors import (
    FileReadFailed,
    LogCorrupt,
    PageCorrupt,
    SnapshotDamaged,
    SnapshotMissing,
    StorageError,
    format_zxid,
)
from sluicemq.storage.files import refuse_odd
from sluicemq.storage.names import purpose_of
from sluicemq.storage.pagefile import PageFile
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged
from sluicemq.storage.record import MARK, Record
from sluicemq.storage.salvage import Opened, missing_between, opened, readable_records
from sluicemq.storage.scan import BLANK, Walk, find_traces
from sluicemq.storage.segment import SegmentHeader, segment_name, segment_sequence
from sluicemq.storage.segment_index import SealedIndex, index_name, index_sequence
from sluicemq.storage.snapshot_file import SectionWalk, snapshot_name, snapshot_zxid
from sluicemq.storage.sparse import SparseHeader, sparse_range
from sluicemq.wire.errors import SluiceError

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import Chunk, Page
    from sluicemq.broker.queues.image import LiveRuns
    from sluicemq.storage.files import Directory
    from sluicemq.storage.scan import Found
    from sluicemq.storage.superblock import Superblock

READ_BYTES = 4 * 1024 * 1024
FILLED_BYTES_MAX = 32 * 1024 * 1024
"""Parts of indexes that a replay has read back are dropped beyond this."""
_STRIDE_BYTES = 32 * 1024


def live_names(directory: ReadOnlyDirectory, superblock: Superblock) -> list[str]:
    """Names of the files of the live store, in the order of their entries."""
    found: list[tuple[int, str]] = []
    for name in directory.names():
        sequence, span = segment_sequence(name), sparse_range(name)
        if sequence is not None and sequence < superblock.first_segment:
            found.append((sequence, name))
        elif span is not None:
            found.append((span[0], name))
    return [name for _, name in sorted(found)]


class Missing(NamedTuple):
    """Messages of one queue whose old file is gone; *file* is the one beside it."""

    file: str
    reason: str
    first_zxid: int
    last_zxid: int
    queue: str
    messages: int
    last_good_zxid: int


class _Held:
    """Which entries the old files really hold: stretches of entries that follow each other, 20 bytes each."""

    def __init__(self) -> None:
        self._firsts = array("Q")
        self._lasts = array("Q")
        self._files = array("I")
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self._lasts)

    def add(self, zxid: int, name: str) -> None:
        """Note the next entry and the file that holds it; entries and files come in order."""
        if not self._names or self._names[-1] != name:
            self._names.append(name)
        elif self._lasts[-1] + 1 == zxid:
            self._lasts[-1] = zxid
            return
        self._firsts.append(zxid)
        self._lasts.append(zxid)
        self._files.append(len(self._names) - 1)

    def place(self, zxid: int) -> int:
        """Return the number of the first stretch that ends at *zxid* or later."""
        return bisect_left(self._lasts, zxid)

    def holds(self, first_zxid: int, last_zxid: int) -> bool:
        """Return whether all entries between these lie in one stretch."""
        place = self.place(first_zxid)
        return place < len(self) and self._firsts[place] <= first_zxid and last_zxid <= self._lasts[place]

    def name(self, place: int) -> str:
        """Return the file of a stretch."""
        return self._names[self._files[place]]

    def last_zxid(self, place: int) -> int:
        """Return the last entry of a stretch."""
        return self._lasts[place]


@dataclass(slots=True)
class OtherFiles:
    """What lies beside the log proper.

    Attributes:
        files: The log's reader, which takes the problems and notes.
        superblock: The directory's.
        live_files: Old files read.
        live_records: Entries in them.
        indexes: Index files checked.

    """

    files: LogFiles
    superblock: Superblock
    live_files: int = 0
    live_records: int = 0
    indexes: int = 0
    _ends: dict[int, tuple[int, int]] = field(default_factory=dict)
    _held: _Held = field(default_factory=_Held)

    def live_entries(self) -> Iterator[Located]:
        """Yield every good record of the live store, in order; damage goes to the problems."""
        directory = self.files.directory
        for name in live_names(directory, self.superblock):
            try:
                with opened(directory, self.superblock, name) as live:
                    self.live_files += 1
                    yield from self._walk(name, live)
            except FileNotFoundError:
                if self.files.served_by is None:
                    raise
                # A broker removes old files at any time.
            except LogCorrupt as error:
                self._problem(name, error.offset, error.reason)
            except StorageError as error:
                self._problem(name, 0, str(error))

    def _walk(self, name: str, live: Opened) -> Iterator[Located]:
        walk = Walk(live.file, live.seed, PAGE_BYTES, live.end_offset, live.previous, live.chain, READ_BYTES)
        last_zxid = live.previous
        for found in walk:
            if found.kind != MARK:
                self._held.add(found.zxid, name)
                self.live_records += 1
                last_zxid = found.zxid
                yield Located(name, found.offset, found.head, found.header, found.payload, found.chain)
        if isinstance(live.header, SparseHeader):
            whole = walk.offset == live.end_offset
        else:
            traces = find_traces(live.file, live.seed, walk.offset, live.end_offset, READ_BYTES)
            whole = walk.reason == BLANK and next(traces, None) is None
            if whole:
                self._ends[live.header.sequence] = (walk.offset, last_zxid)
        directory = self.files.directory
        if not whole:
            end = live.header.last_zxid if isinstance(live.header, SparseHeader) else None
            lost = lost_text(missing_between(self._readable(name, live, last_zxid), live.previous, end))
            self._problem(name, walk.offset, directory.why(name, walk.offset, walk.reason) + lost, last_zxid)
        elif isinstance(live.header, SegmentHeader) and (gap := directory.gap_behind(name, walk.offset)) is not None:
            self._problem(name, gap.start, f"{gap}; nothing tells whether entries were there", last_zxid)

    def _readable(self, name: str, live: Opened, last_zxid: int) -> Iterator[Found]:
        """Yield all entries of a damaged file that can be read, and note those behind *last_zxid*: they are held."""
        for found in readable_records(live.file, live.seed, live.end_offset):
            if found.zxid > last_zxid:
                self._held.add(found.zxid, name)
            yield found

    def check_missing(self, machine: Machine | None) -> None:
        """Name what is `missing`, where no broker serves; after `live_entries`.

        *machine* is what the log leads to. Where damage keeps that from being known (None), the newest snapshot says
        what was alive when it was taken: some of it may be settled since.
        """
        if self.files.served_by is not None:
            return
        then = ""
        if machine is None:
            machine = self._newest_snapshot()
            if machine is None:
                return
            then = f" (as of the snapshot at {format_zxid(machine.applied_zxid)})"
        try:
            for each in self.missing(machine):
                self._problem(each.file, 0, each.reason + then, each.last_good_zxid)
        except (StorageError, SluiceError) as error:
            self.files.notes.append(f"what is alive in old files could not be told: {error}")

    def missing(self, machine: Machine) -> list[Missing]:
        """Return what is alive in *machine* and should lie in an old file, but lies in none; after `live_entries`.

        Gaps in old files and between them are what died, so a missing file or record shows in nothing else.
        """
        start_zxid = self.start_zxid()
        held = self._held
        by_place: dict[tuple[int, int], tuple[int, int, int]] = {}
        for part in live_parts(machine):
            low, high = part.summary.lowest_zxid, part.summary.highest_zxid
            if low > start_zxid or held.holds(low, high):
                continue
            for run in part.runs(self.read_page):
                if run.zxid <= start_zxid and not held.holds(run.zxid, run.zxid):
                    key = held.place(run.zxid), part.queue
                    first, last, messages = by_place.get(key, (run.zxid, run.zxid, 0))
                    by_place[key] = min(first, run.zxid), max(last, run.zxid), messages + run.size
        found: list[Missing] = []
        for (place, queue_id), (first, last, messages) in sorted(by_place.items()):
            owner = machine.queue(queue_id) or machine.sources.get(queue_id)
            name = format_zxid(queue_id) if owner is None else owner.name
            if place:
                file, last_good_zxid = held.name(place - 1), held.last_zxid(place - 1)
                inside = place < len(held) and held.name(place) == file
                what = "records of this file are missing" if inside else "the old file behind this one is missing"
            else:
                file = held.name(0) if len(held) else segment_name(self.superblock.first_segment)
                what, last_good_zxid = "the old file in front of this one is missing", 0
            reason = (
                f"{what}: {messages} messages of {name} are alive in entries {format_zxid(first)} to "
                f"{format_zxid(last)}, which no file holds"
            )
            found.append(Missing(file, reason, first, last, name, messages, last_good_zxid))
        return found

    def check_indexes(self) -> None:
        """Check every index against the segment that it belongs to; after `live_entries`."""
        directory = self.files.directory
        for sequence, end in sorted(self._ends.items()):
            name = index_name(sequence)
            if name not in directory.names():
                self.files.notes.append(f"{name} is missing; it is made anew when the segment is read")
                continue
            with opened(directory, self.superblock, segment_name(sequence)) as live:
                file = directory.open(name)
                try:
                    sealed = SealedIndex.read(file, sequence, live.header.generation, _STRIDE_BYTES)
                except PageDamaged as damage:
                    self.files.notes.append(f"{name} is damaged ({damage}); it is made anew when the segment is read")
                    continue
                finally:
                    file.close()
            self.indexes += 1
            if (sealed.end_offset, sealed.last_zxid) != end:
                self._problem(name, 0, f"it ends at {sealed.end_offset}, the segment at {end[0]}")

    def check_all(self) -> None:
        """Check indexes and names, after `live_entries`. While a broker serves, indexes come and go: left out."""
        files = self.files
        self.check_names()
        if files.served_by is not None:
            files.notes.append("indexes of old files are checked only where no broker serves")
            return
        self.check_indexes()

    def start_zxid(self) -> int:
        """Return the position before the log's first entry."""
        if not self.superblock.first_segment:
            return 0
        with opened(self.files.directory, self.superblock, segment_name(self.superblock.first_segment)) as first:
            return first.previous

    def spans(self) -> list[tuple[str, str, Span, int]]:
        """Return name, kind (dense, sparse, log), zxids and size in bytes of each file of entries, in order."""
        directory, superblock = self.files.directory, self.superblock
        proper = [number for name in directory.names() if (number := segment_sequence(name)) is not None]
        proper = sorted(number for number in proper if superblock.first_segment and number >= superblock.first_segment)
        names = [*live_names(directory, superblock), *map(segment_name, proper)]
        starts: list[int] = []
        for name in names:
            with opened(directory, superblock, name) as one:
                starts.append(one.previous)
        for _ in self.files.entries():
            pass
        ends = [*starts[1:], max(self.files.last_zxid, *starts[-1:], 0)]
        found = []
        for name, start, end in zip(names, starts, ends, strict=True):
            kind = "sparse" if sparse_range(name) else "log" if segment_sequence(name) in proper else "dense"
            found.append((name, kind, Span(start + 1, end), (directory.path / name).stat().st_size))
        return found

    def _newest_snapshot(self) -> Machine | None:
        """Return the machine of the newest snapshot that can be read."""
        for name in sorted((name for name in self.files.directory.names() if snapshot_zxid(name)), reverse=True):
            try:
                return self.load(name)
            except (OSError, StorageError, SluiceError):
                continue  # it is among the problems already
        return None

    def newest(self) -> Machine:
        """Return the machine of the newest good snapshot and the log behind it.

        Raises:
            StorageError: There is none, and the log does not begin with the first entry.

        """
        directory, start = self.files.directory, self.start_zxid()
        machine, reasons = Machine(), []
        for name in sorted((name for name in directory.names() if snapshot_zxid(name) is not None), reverse=True):
            try:
                machine = self.load(name)
                break
            except (StorageError, SluiceError) as error:
                reasons.append(str(error))
        if machine.applied_zxid < start:
            raise SnapshotMissing(start, tuple(reasons))
        filler = _Filler(self, machine)
        for located in LogFiles(directory).entries():
            if located.head.zxid > machine.applied_zxid:
                apply_records(machine, filler, [record_of_located(located)])  # type: ignore[arg-type] # fills as a pager
                drop_read_back(machine.pool)
        return machine

    def queue_names(self) -> dict[int, str]:
        """Return the names of queues and topics that the newest snapshot knows, as far as it can be read."""
        directory = self.files.directory
        for name in sorted((name for name in directory.names() if snapshot_zxid(name) is not None), reverse=True):
            found: dict[int, str] = {}
            try:
                file = directory.open(name)
                try:
                    walk = SectionWalk(file, directory.path_of(name))
                    walk.take_page()
                    for kind, data in walk.sections():
                        if kind in (QUEUES, TOPICS):
                            columns = decode(kind, data)
                            found.update(zip(columns["id"], columns["name"], strict=True))
                finally:
                    file.close()
            except (OSError, StorageError, SluiceError):
                continue
            return found
        return {}

    def check_names(self) -> None:
        """Note files that nobody knows, and those that an interruption left."""
        dense = {number for name in self.files.directory.names() if (number := segment_sequence(name)) is not None}
        for name in self.files.directory.names():
            purpose = purpose_of(name, dense)
            if purpose is not Purpose.STRANGE:
                refuse_odd(self.files.directory.path / name)
            told = purpose is Purpose.STRANGE or (purpose is not Purpose.IN_USE and self.files.served_by is None)
            # Every start looks after indexes without their segments.
            if told and index_sequence(name) is None:
                self.files.notes.append(f"{name}: {purpose.value}")

    def load(self, name: str) -> Machine:
        """Return the machine of a snapshot, with all its pages read.

        Raises:
            SnapshotDamaged, ImageDamaged: It is not whole.

        """
        directory = self.files.directory
        path = directory.path_of(name)
        file = directory.open(name)
        try:
            walk = SectionWalk(file, path)
            zxid, _chain, _generation = walk.accept_page(self.superblock.cluster_id, self.superblock.group_id)
            if snapshot_name(zxid) != name:
                raise SnapshotDamaged(path, 0, f"it was written as {snapshot_name(zxid)}")
            for page in pages_named(walk.sections()):
                self.read_page(page, path)
            walk = SectionWalk(file, path)
            walk.take_page()
            machine = load(walk.sections(), ChunkPool(self._read_chunk))
        finally:
            file.close()
        if machine.applied_zxid != zxid:
            raise SnapshotDamaged(path, 0, f"its image is of {format_zxid(machine.applied_zxid)}")
        return machine

    def _read_chunk(self, chunk: Chunk) -> bytes:
        assert chunk.page is not None, "what is not in memory is on a page"
        return self.read_page(chunk.page)

    def read_page(self, page: Page, named_by: str = "a snapshot") -> bytes:
        """Return the rows of a page. Raises SnapshotDamaged where it is not what a snapshot says."""
        return read_page(self.files.directory, self.superblock, page, named_by)

    def _problem(self, name: str, offset: int, reason: str, last_good_zxid: int = 0) -> None:
        self.files.problems.append(Problem(self.files.directory.path_of(name), offset, reason, last_good_zxid))


def read_page(directory: Directory, superblock: Superblock, page: Page, named_by: str = "a snapshot") -> bytes:
    """Return the rows of a page, from whichever file has them. Raises SnapshotDamaged where neither does."""
    try:
        pages = PageFile.open(directory, cluster_id=superblock.cluster_id, group_id=superblock.group_id, read_only=True)
        try:
            return pages.read(page.slot, CHUNK_BYTES, page.checksum)
        finally:
            pages.close()
    except PageCorrupt as error:
        reason = f"slot {page.slot} does not hold what {named_by} names: {error.reason}"
        raise SnapshotDamaged(error.file, error.offset, reason) from None
    except FileReadFailed as error:
        raise SnapshotDamaged(error.file, error.offset, f"slot {page.slot} cannot be read: {error}") from None


def live_parts(machine: Machine) -> Iterator[LiveRuns]:
    """Yield what is alive in *machine*, a chunk or so at a time: it is packed no faster than it is looked at."""
    freeze = machine.freeze()

    def sections() -> Iterator[tuple[int, bytes]]:
        while not freeze.done:
            yield from freeze.pack(lambda: False)

    return live_runs(sections())


def drop_read_back(pool: ChunkPool | None) -> None:
    """Drop parts of indexes that were read back, when they are many; what has no page stays."""
    if pool is not None and pool.resident_bytes > FILLED_BYTES_MAX:
        pool.let_kept_go()
        for chunk in [chunk for chunk in pool.resident if chunk.page is not None and not chunk.gone]:
            pool.drop(chunk)


class _Filler:
    """Reads chunks back, where a broker has its pager."""

    def __init__(self, others: OtherFiles, machine: Machine) -> None:
        self._others = others
        self._pool = machine.pool

    def fill_now(self, chunks: list[Chunk]) -> None:
        """Fill them."""
        assert self._pool is not None, "chunks lie on pages only with a pool"
        for chunk in chunks:
            if chunk.data is None and chunk.page is not None:
                self._pool.fill(chunk, self._others.read_page(chunk.page))


def record_of_located(located: Located) -> Record:
    """Return the record that was found somewhere."""
    head = located.head
    return Record(head.zxid, head.kind, head.kind_version, head.flags, located.header, located.payload)
