"""The segment log: append, sync, read, cut. One per broker, one stream of syncs for everything.

Threads: one thread (the log thread) calls everything that changes the log. What reads, and the properties, may be used
from any thread, `prepare_spare` from one more, `reclaim` and `install_sparse` from another. No call here waits for one
of another thread, beyond a save of the superblock: group commit is the caller's loop (append what came, sync, append
what came meanwhile).

What is older than the log proper is the live store: whole segments, and rewritten ones. `live_store` owns it.

After a failed write or sync the log is dead: see LogWriteFailed. This module knows no clock, no event loop and no
meaning of kinds.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, TypeVar

from sluicemq.storage.admission import admit
from sluicemq.storage.errors import LogClosed, LogCorrupt, LogWriteFailed
from sluicemq.storage.files import NO_SPACE
from sluicemq.storage.forming import begin_log, create_superblock, load_superblock
from sluicemq.storage.installing import Installation, finish_installation
from sluicemq.storage.live import LiveFile, OpenFiles
from sluicemq.storage.live_store import LiveStore
from sluicemq.storage.options import LogOptions, LogStatistics, RecoveryReport
from sluicemq.storage.reading import LogReader, View, WholeFile
from sluicemq.storage.record import (
    HEAD_BYTES,
    PADDING,
    Record,
    encode_head,
    encode_mark,
)
from sluicemq.storage.recovery import Recovered, carry_out, recover
from sluicemq.storage.scan import BadPlaceError
from sluicemq.storage.segment import Segment, SegmentHeader, install, segment_name
from sluicemq.storage.spares import Spare, SparePool
from sluicemq.storage.sparse import SPARSE_NEW_NAME
from sluicemq.storage.superblock import SUPERBLOCK_NAME, Generations, SuperblockStore, Truncation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sluicemq.storage.files import Directory, DirectoryLock

__all__ = ["SegmentLog"]

_Answer = TypeVar("_Answer")


class SegmentLog:
    """A durable, ordered log of records. Made by `SegmentLog.open`."""

    def __init__(
        self,
        directory: Directory,
        lock: DirectoryLock,
        options: LogOptions,
        store: SuperblockStore,
        pool: SparePool,
        generations: Generations,
        files: OpenFiles,
        recovered: Recovered,
        recovery: RecoveryReport,
    ) -> None:
        self.recovery = recovery
        self._directory = directory
        self._lock = lock
        self._options = options
        self._store = store
        self._pool = pool
        self._generations = generations
        self._reader = LogReader(
            directory.path_of, options.read_bytes, View.of(recovered.live, tuple(recovered.segments))
        )
        self._live = LiveStore(directory, store, pool, generations, options, self._reader, files)
        self._live_changing = threading.Lock()
        self._active = recovered.segments[-1]
        self._last_zxid = self._active.last_zxid
        self._last_chain = self._active.chain
        self._synced_zxid = self._last_zxid
        self._dirty = False
        # The highest `synced up to` in the file, and the highest that is durable there: what recovery could prove.
        self._written_proof = self._proven_zxid = recovered.proven_zxid
        self._failure: LogWriteFailed | None = None
        self._closed = False
        self._writes = self._syncs = self._rolls = 0

    # --- Opening

    @classmethod
    def open(
        cls,
        directory: Directory,
        *,
        options: LogOptions | None = None,
        cluster_id: bytes | None = None,
        group_id: int = 0,
    ) -> SegmentLog:
        """Lock the directory and recover its log, or make a new one in an empty directory.

        Args:
            directory: where the files are.
            options: limits; the defaults are those of a broker. `segment_bytes` may change between runs.
            cluster_id: 16 bytes. The data must be of this cluster; None accepts any, and lets an empty directory invent
            one. group_id: the data must be of this group.

        Raises:
            DirectoryLocked, ForeignData, NewerFormat, SuperblockDamaged, SuperblockMissing, LogCorrupt: refuse to
                start and show the text.
            OSError: the directory or a file cannot be opened, read or written.
        """
        options = options or LogOptions()
        lock = directory.lock()
        try:
            return cls._open_locked(directory, lock, options, cluster_id, group_id)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _open_locked(
        cls, directory: Directory, lock: DirectoryLock, options: LogOptions, cluster_id: bytes | None, group_id: int
    ) -> SegmentLog:
        created = SUPERBLOCK_NAME not in directory.names()
        if created:
            store = create_superblock(directory, options, cluster_id, group_id)
        else:
            store = load_superblock(directory, cluster_id, group_id)
        # A new superblock has reserved some that nobody took yet.
        first_generation = 1 if created else store.current.generation_next
        generations = Generations(store, first_generation, options.generations_reserved)
        pool = SparePool(directory, options.segment_bytes, options.spares_max, options.zero_piece_bytes)
        files = OpenFiles(directory, options)
        try:
            directory.sync()
            finish_installation(directory, store)
            pool.adopt()
            begin_log(directory, store, pool, options, generations)
            recovered = recover(directory, store, pool, options, files)
        except BaseException:
            pool.close()
            store.close()
            raise
        report = recovered.report(created=created, superblock_repaired=store.repaired)
        return cls(directory, lock, options, store, pool, generations, files, recovered, report)

    # --- Looking

    @property
    def last_zxid(self) -> int:
        """The last appended entry, synced or not; `start_zxid` while there is none."""
        return self._last_zxid

    @property
    def synced_zxid(self) -> int:
        """The last entry that is known to be durable."""
        return self._synced_zxid

    @property
    def last_chain(self) -> bytes:
        """The chain value (8 bytes) at `last_zxid`: equal on two brokers iff their histories are."""
        return self._last_chain

    @property
    def start_zxid(self) -> int:
        """The position before the first entry: 0 for a whole history, else what `begin_at` left."""
        return self._reader.start_zxid

    @property
    def first_zxid(self) -> int:
        """The first entry in the log; 0 while there is none."""
        return self._reader.first_zxid

    @property
    def cluster_id(self) -> bytes:
        """What every file bears, 16 bytes; whose broker it is, `superblock.current.known_as` says."""
        return self._store.current.cluster_id

    @property
    def group_id(self) -> int:
        """The group whose log this is."""
        return self._store.current.group_id

    @property
    def incarnation(self) -> bytes:
        """16 bytes, new for every directory that starts empty: a wiped broker is another one."""
        return self._store.current.incarnation

    @property
    def superblock(self) -> SuperblockStore:
        """What is known beside the log; saved by the log thread."""
        return self._store

    @property
    def promised_epoch(self) -> int:
        """The highest epoch that was promised durably."""
        return self._store.current.promised_epoch

    @property
    def entry_bytes_max(self) -> int:
        """The most bytes that an entry may take on disk, its 56-byte head included."""
        return self._options.entry_bytes_max

    @property
    def needs_spare(self) -> bool:
        """`prepare_spare` would do something."""
        return self._pool.needed

    @property
    def spares(self) -> SparePool:
        """The segments that wait for use; only for looking at them, and for ending a preparation early."""
        return self._pool

    @property
    def free_bytes(self) -> int:
        """Bytes free on the disk. Raises OSError."""
        return self._directory.free_bytes()

    def statistics(self) -> LogStatistics:
        """Figures of this moment."""
        view = self._reader.view
        segments, active, files = view.segments, self._active, self._live.files
        return LogStatistics(
            segments=len(segments),
            log_bytes=sum(segment.end_offset for segment in segments),
            live_files=len(view.live),
            live_bytes=view.live_bytes,
            live_files_open=files.open_count,
            indexes_rebuilt=files.indexes_rebuilt,
            index_bytes=sum(segment.index.memory_bytes for segment in segments) + files.index_bytes,
            writes=self._writes,
            syncs=self._syncs,
            rolls=self._rolls,
            growing=active.allocated_bytes < self._options.segment_bytes,
            spares=self._pool.ready,
            recycled=self._pool.recycled,
            start_zxid=segments[0].first_previous_zxid,
            last_zxid=self._last_zxid,
            synced_zxid=self._synced_zxid,
        )

    # --- Reading: any thread

    def read(self, zxid: int) -> Record:
        """One entry, of the log proper or the live store, verified. Raises ZxidNotFound, LogCorrupt, LogReadFailed."""
        return self._reader.read(zxid)

    def read_along(self, zxid: int, bytes_max: int = 256 * 1024, *, exact: bool = True) -> list[Record]:
        """One entry and its neighbours behind it, of the log proper or the live store, each verified.

        The first is the one asked for, or unless *exact* one shortly before where it would lie; more follow until
        `bytes_max` (bytes on disk) is reached or the file ends. Dead ones may be missing between. Raises as `read`.
        """
        return self._reader.read_along(zxid, bytes_max, exact=exact)

    def read_after(self, zxid: int, bytes_max: int = 4 * 1024 * 1024) -> list[Record]:
        """Entries of the log proper that follow `zxid` in order, verified one by one and against each other.

        At least one if there is one, then more until `bytes_max` (bytes on disk) is reached. `zxid` is an entry of the
        log, or `start_zxid`; at `last_zxid` the answer is empty. Entries that are not synced yet are returned too.
        Whoever calls again with the last entry's zxid continues without a search.

        Raises ZxidNotFound, LogCorrupt, LogReadFailed.
        """
        return self._reader.read_after(zxid, bytes_max)

    def bytes_after(self, zxid: int) -> int:
        """Bytes of the log proper behind an entry; all of them where it is older. Raises as `read`."""
        return self._reader.bytes_after(zxid)

    def chain_at(self, zxid: int) -> bytes:
        """The chain value at an entry or at `start_zxid`. Raises as `read`."""
        return self._reader.place_after(zxid).chain

    @property
    def first_segment_name(self) -> str:
        """Name of the file that the log proper begins with."""
        return self._reader.segments[0].name

    def path_of(self, name: str) -> str:
        """Where a file of this name lies, as errors say it."""
        return self._directory.path_of(name)

    # --- Appending: the log thread

    def append(self, records: Sequence[Record]) -> None:
        """Write a group of entries: one write, or one per segment where the group crosses into the next. Durable after
        `sync`.

        The group is checked before anything is written. Rolling to another segment syncs what was appended before.

        Raises:
            ZxidGap, EpochExhausted, EntryTooLarge, ValueError (kind 0): nothing was written.
            LogWriteFailed: fatal. LogClosed.
        """
        self._check_usable()
        records = admit(self._last_zxid, records, self._options.entry_bytes_max)
        segment = self._active
        limit = self._limit_of(segment)
        run_offset = offset = segment.end_offset
        previous, chain, synced, seed = self._last_zxid, self._last_chain, self._synced_zxid, segment.seed
        buffers: list[bytes] = []
        places: list[tuple[int, int]] = []
        for record in records:
            header, payload = record.header, record.payload
            body_bytes = len(header) + len(payload)
            size = (HEAD_BYTES + body_bytes + 7) & -8
            if offset + size > limit:
                if buffers:
                    self._write_run(buffers, run_offset, offset, previous, chain, places)
                    buffers, places = [], []
                segment = self._roll()
                limit, seed, synced = self._options.segment_bytes, segment.seed, self._synced_zxid
                run_offset = offset = segment.end_offset
            head, chain = encode_head(seed, offset, synced, previous, chain, record)
            previous = record.zxid
            places.append((previous, offset))
            buffers.append(head + header)
            buffers.append(payload)
            if body_bytes & 7:
                buffers.append(PADDING[-body_bytes & 7])
            offset += size
        if buffers:
            self._write_run(buffers, run_offset, offset, previous, chain, places)

    def sync(self) -> int:
        """Return the last durable entry, once everything appended so far is durable.

        Raises LogWriteFailed, LogClosed.
        """
        self._check_usable()
        if self._dirty:
            file = self._active.file
            try:
                file.sync()
            except OSError as error:
                raise self._fail("sync", self._active.name, error) from error
            self._syncs += 1
            self._dirty = False
            self._synced_zxid = self._last_zxid
            self._proven_zxid = self._written_proof
        return self._synced_zxid

    def mark_idle(self) -> None:
        """Make it provable that everything appended was durable: write and sync a MARK, if the log does not prove it
        already.

        Call it when nothing was appended for a while. Without it, damage to the last synced write looks like a torn
        one. Raises LogWriteFailed, LogClosed.
        """
        last = self.sync()
        if self._proven_zxid == last:
            return
        segment = self._active
        if segment.end_offset + HEAD_BYTES > self._options.segment_bytes:
            self._roll()  # the new segment's header proves the same
            return
        mark = encode_mark(segment.seed, segment.end_offset, last, last, self._last_chain)
        self._write_run([mark], segment.end_offset, segment.end_offset + HEAD_BYTES, last, self._last_chain, [])
        self.sync()

    def save_promised_epoch(self, epoch: int) -> None:
        """Promise an epoch, durably when this returns; everything appended before is durable then too.

        Raises PromiseRegression, LogWriteFailed, LogClosed.
        """
        self.sync()
        if epoch != self._store.current.promised_epoch:
            try:
                self._store.save(promised_epoch=epoch, synced_zxid=self._synced_zxid)
            except OSError as error:
                raise self._fail("saving the promised epoch", SUPERBLOCK_NAME, error) from error

    def truncate_after(self, zxid: int) -> None:
        """End the log after this entry (or at `start_zxid`), durably when this returns, whatever power cuts happen
        meanwhile.

        Raises ZxidNotFound, LogCorrupt or LogReadFailed (nothing was changed), LogWriteFailed, LogClosed.
        """
        self.sync()
        if zxid == self._last_zxid:
            return
        segment, _zxid, offset, chain = self._reader.place_after(zxid)
        segments = self._reader.segments
        position = segments.index(segment)
        kept = segment.without_tail(zxid, offset, chain)
        # Published first: readers must not take what is being zeroed for damage.
        self._reader.change(lambda live, _segments: (live, (*segments[:position], kept)))
        self._active = kept
        self._last_zxid = self._synced_zxid = zxid
        self._last_chain = chain
        self._written_proof = self._proven_zxid = min(self._proven_zxid, zxid)
        truncation = Truncation(zxid, kept.header.sequence, offset)
        later = [Spare(each.name, each.file) for each in reversed(segments[position + 1 :])]
        try:
            self._store.save_truncation(truncation)
            carry_out(self._store, self._pool, truncation, later, kept.file)
        except OSError as error:
            raise self._fail("truncation", kept.name, error) from error

    def begin_at(self, zxid: int) -> int:
        """Let the log proper begin at the segment that holds the entry after `zxid`; returns how many segments became
        live store. Durable.

        Every entry can still be read, but `read_after` and recovery no longer know the older segments. The last segment
        always stays. Call it only for what a durable snapshot covers. Raises LogWriteFailed, LogClosed.
        """
        self._check_usable()
        segments = self._reader.segments
        count = 0
        while count < len(segments) - 1 and segments[count].last_zxid <= zxid:
            count += 1
        if count:
            try:
                self._live.take_over(segments[:count])
            except OSError as error:
                raise self._fail("moving the log's beginning", segments[0].name, error) from error
        return count

    # --- The live store: `live_files` from any thread, the others from one background thread

    def live_files(self) -> list[LiveFile]:
        """What is older than the log proper, in the order of the entries.

        Each with `kind`, `first_sequence` and `last_sequence` (segments), `first_zxid` and `last_zxid` (no entry lies
        outside), `bytes` (on disk). Reads an index where an old neighbour's absence leaves `last_zxid` unknown. Raises
        LogCorrupt, LogReadFailed.
        """
        return self._reader.live_files()

    def whole_files(self) -> list[WholeFile]:
        """The log proper and the whole segments in front of it, without a gap, oldest first. From any thread."""
        return self._reader.whole_files()

    def walk_live(self, file: LiveFile) -> Iterator[Record]:
        """All entries of a file of the live store, verified one by one and against each other, in bounded reads.

        For the thread that calls `reclaim` and `install_sparse`. Raises LogCorrupt, LogReadFailed.
        """
        return self._reader.walk_live(file)

    def reclaim(self, first_sequence: int, last_sequence: int | None = None) -> int:
        """Remove the live store's files of these segments (of one, without a last); returns how many. Durable.

        For files of which a durable snapshot says that nothing in them is alive. Raises NotInLiveStore, LogWriteFailed,
        LogClosed.
        """
        last = first_sequence if last_sequence is None else last_sequence
        return self._change_live("removing old segments", lambda: self._live.reclaim(first_sequence, last))

    def install_sparse(self, first_sequence: int, last_sequence: int, records: Iterable[Record]) -> LiveFile:
        """Put one file of these records in the place of the live store's files of these segments. Durable.

        The range takes whole files, dense or sparse. `records` are ascending, of the replaced range, and iterated while
        the file is written: pause in there to spare the disk. They must not raise OSError; whatever else they raise
        comes through, and nothing was changed.

        Raises NotInLiveStore, ValueError (a record out of order or range), DiskFull (nothing was changed: try again
        later), LogWriteFailed, LogClosed.
        """
        return self._change_live(
            "rewriting old segments", lambda: self._live.install(first_sequence, last_sequence, records)
        )

    def close(self) -> None:
        """Sync, leave a MARK, close all files and release the directory; waits for a change of the live store.

        May be called twice. Raises LogWriteFailed.
        """
        with self._live_changing:
            if self._closed:
                return
            try:
                if self._failure is None:
                    self.mark_idle()
                    self._bear_witness()
            finally:
                self._closed = True
                self._pool.close()
                for segment in self._reader.segments:
                    segment.file.close()
                self._live.files.close()
                self._store.close()
                self._lock.release()

    def begin_installation(self, zxid: int, chain: bytes, source: bytes) -> Installation:
        """Receive a snapshot that is to replace this log; any one worker thread. See, and raises as, `Installation`."""
        self._check_usable()
        return Installation.begin(self._directory, self._store, self._generations, self._options, zxid, chain, source)

    # --- Spares: one background thread

    def prepare_spare(self, free_bytes_min: int = 0, pause: Callable[[], None] | None = None) -> bool:
        """Zero one spare segment; blocks for as long as that takes (64 MiB: well under a second on a good disk).

        Call it from a background thread while `needs_spare`. It ends where less than `free_bytes_min` is left on the
        disk, and calls `pause` after each piece while another spare is ready. Returns False where nothing was to do, or
        nothing is any more. Raises FileWriteFailed (fatal), SpareNotPrepared: the log goes on in a growing file as long
        as the disk has room; refuse publishes until a spare can be made.
        """
        return self._pool.prepare(free_bytes_min, pause)

    # --- Inside

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise LogWriteFailed(*self._failure.args)
        if self._closed:
            raise LogClosed

    def _change_live(self, operation: str, change: Callable[[], _Answer]) -> _Answer:
        with self._live_changing:
            self._check_usable()
            try:
                return change()
            except OSError as error:
                raise self._fail(operation, error.filename or SPARSE_NEW_NAME, error) from error
            except BadPlaceError as bad:
                raise LogCorrupt(
                    self._directory.path_of(bad.name), bad.offset, bad.reason, bad.last_good_zxid
                ) from None

    def _bear_witness(self) -> None:
        """Let the superblock say how far the log is durable: then nobody can shorten it unnoticed."""
        if self._store.current.synced_zxid != self._synced_zxid:
            try:
                self._store.save(synced_zxid=self._synced_zxid)
            except OSError as error:
                raise self._fail("saving the log's end", SUPERBLOCK_NAME, error) from error

    def _fail(self, operation: str, name: str, error: OSError) -> LogWriteFailed:
        self._failure = LogWriteFailed(self._directory.path_of(name), operation, error.errno or errno.EIO)
        return self._failure

    def _limit_of(self, segment: Segment) -> int:
        """Up to where to fill a segment: a growing file is left for a spare rather than grown further."""
        if segment.allocated_bytes < self._options.segment_bytes and self._pool.ready:
            return segment.allocated_bytes
        return self._options.segment_bytes

    def _write_run(
        self, buffers: list[bytes], start: int, end: int, zxid: int, chain: bytes, places: list[tuple[int, int]]
    ) -> None:
        segment = self._active
        try:
            segment.file.pwritev([*buffers, *segment.blank_behind(start, end)], start)
        except OSError as error:
            raise self._fail("write", segment.name, error) from error
        note = segment.index.note
        for place in places:
            note(*place)
        segment.end_offset = end
        if end > segment.allocated_bytes:
            self._grow(segment, end)
        segment.chain = self._last_chain = chain
        segment.last_zxid = self._last_zxid = zxid
        self._written_proof = self._synced_zxid
        self._dirty = True
        self._writes += 1

    def _grow(self, segment: Segment, end: int) -> None:
        """The file grew up to `end`: zero a step ahead, for the sake of the next syncs. On a full disk, do without."""
        step = self._options.growth_bytes
        goal = min(-(-end // step) * step, self._options.segment_bytes)
        segment.allocated_bytes = max(segment.allocated_bytes, end)
        if goal > end:
            try:
                segment.file.write_zeros(end, goal)
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise self._fail("write", segment.name, error) from error
            else:
                segment.allocated_bytes = goal

    def _roll(self) -> Segment:
        """Go on in a new segment. The old one is durable before the new one exists: no holes between segments."""
        self.sync()
        sequence = self._active.header.sequence + 1
        try:
            header = SegmentHeader(
                cluster_id=self.cluster_id,
                group_id=self.group_id,
                sequence=sequence,
                generation=self._generations.take(),
                first_previous_zxid=self._last_zxid,
                chain=self._last_chain,
            )
            name, file = self._pool.take() or self._pool.blank()
            segment = install(self._directory, name, file, header, self._options.index_stride_bytes)
            self._store.save(last_segment=sequence, synced_zxid=self._synced_zxid)
        except OSError as error:
            raise self._fail("starting a segment", segment_name(sequence), error) from error
        self._reader.change(lambda live, segments: (live, (*segments, segment)))
        self._active = segment
        self._written_proof = self._proven_zxid = self._last_zxid
        self._rolls += 1
        return segment
