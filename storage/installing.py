"""Putting a snapshot of another broker, with the entries that are alive beneath it, in the place of this one's log.

Why: a broker whose log ends before the leader's begins cannot be sent what it lacks entry by entry. It gets the
leader's snapshot at some entry Z, the pages that it names, and every entry up to Z that is still alive, and then has a
log that begins behind Z.

Receiving (`Installation`, one worker thread) goes on beside the running log and may take long. All of it lies under
names of its own (`incoming`), and after a break, a restart or a loss of power it goes on where it was: the entries
behind the last file of them that is whole, snapshot and pages behind what the note says is durable. A newer snapshot
than before keeps the entries, for what is committed stays; bytes of another snapshot are never mixed.

The switch, once everything is there and was read back:

1. Close the log.
2. Note the installation in the superblock, durably. Before this moment the old log counts, after it the new one.
3. Give the new files their names, and sync the directory. Their numbers are far beyond those of the old ones.
4. Remove what is old, and sync the directory.
5. Clear the note: the log begins at the new segment, and has been durable up to Z.

`SegmentLog.open` does 3 to 5 if it finds the note; each of them may be interrupted and done again. What was promised,
and who the directory belongs to, stays. This module knows no kinds and not what a snapshot means.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

from sluicemq.storage.decisions import Decision
from sluicemq.storage.decisions_superblock import INSTALLATION, Installing, NewFiles
from sluicemq.storage.errors import DiskFull, FileWriteFailed, LogCorrupt, SnapshotDamaged, StorageError
from sluicemq.storage.files import NO_SPACE
from sluicemq.storage.incoming import SOURCE_BYTES, IncomingFiles, Note, load_note, save_note
from sluicemq.storage.page_copies import COPY_NAME, PAGES_NAME
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged
from sluicemq.storage.record import HEAD_BYTES
from sluicemq.storage.segment import SegmentHeader, install, segment_name, segment_sequence
from sluicemq.storage.segment_index import index_sequence
from sluicemq.storage.snapshot_file import REJECTED_PREFIX, snapshot_name, snapshot_zxid
from sluicemq.storage.snapshots import SnapshotStore
from sluicemq.storage.spares import zero_range
from sluicemq.storage.sparse import SPARSE_NEW_NAME, SparseHeader, sparse_name, sparse_range, write_sparse
from sluicemq.storage.superblock import InstallationIntent, SuperblockStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from sluicemq.storage.files import Directory, File
    from sluicemq.storage.options import LogOptions
    from sluicemq.storage.record import Record
    from sluicemq.storage.superblock import Generations

    _Answer = TypeVar("_Answer")

__all__ = ["Installation", "discard_incoming", "finish_installation"]

LIVE_FILE_BYTES = 16 * 1024 * 1024
"""So many bytes of entries are held in memory and make one file."""
PROGRESS_BYTES = 32 * 1024 * 1024
"""After so many bytes of snapshot or pages they are synced, and the note says so: no more is sent twice."""
SEQUENCE_GAP = 1 << 20
"""How far beyond the present segments the new ones are numbered: the old log may go on meanwhile."""


class Installation:
    """A snapshot on its way in. Made by `SegmentLog.begin_installation`; one worker thread calls it.

    Whatever it raises, the log that is there is untouched until `switch`.
    """

    def __init__(
        self,
        directory: Directory,
        store: SuperblockStore,
        generations: Generations,
        options: LogOptions,
        note: Note,
        live: list[SparseHeader],
    ) -> None:
        self._directory = directory
        self._incoming = IncomingFiles(directory)
        self._store = store
        self._generations = generations
        self._options = options
        self._note = note
        self._live = live
        self._gathered: list[Record] = []
        self._gathered_bytes = 0
        self._snapshot = _GrowingFile(self._incoming, snapshot_name(note.zxid), note.snapshot_bytes)
        self._pages = _GrowingFile(self._incoming, PAGES_NAME, note.pages_bytes)
        self._intent: InstallationIntent | None = None

    @classmethod
    def begin(
        cls,
        directory: Directory,
        store: SuperblockStore,
        generations: Generations,
        options: LogOptions,
        zxid: int,
        chain: bytes,
        source: bytes,
    ) -> Installation:
        """Begin to receive the snapshot at `zxid`, or go on with it; what cannot be used any more is removed.

        Args:
            directory, store, generations, options: of the log that it is to replace.
            zxid: what the snapshot covers. chain: the log's chain value there, 8 bytes.
            source: 16 bytes by which the sender knows this very file of it.

        Raises:
            ValueError: a mistake of the caller. DiskFull: try later. FileWriteFailed: fatal.
        """
        if len(source) != SOURCE_BYTES or len(chain) != 8 or zxid <= 0:
            raise ValueError(f"a snapshot at {zxid} with a chain of {len(chain)} and a source of {len(source)} bytes")
        incoming = IncomingFiles(directory)
        return _guarded(
            incoming,
            "begin",
            lambda: cls(directory, store, generations, options, *_resume(incoming, store, zxid, chain, source)),
        )

    # --- What is there
    # ---------------------------------------------------------------------------------------------

    @property
    def zxid(self) -> int:
        """What the snapshot covers."""
        return self._note.zxid

    @property
    def entries_after(self) -> int:
        """Entries that are alive are wanted from behind this one on."""
        if self._gathered:
            return self._gathered[-1].zxid
        return self._live[-1].last_zxid if self._live else 0

    @property
    def snapshot_bytes(self) -> int:
        """The snapshot's file is wanted from this byte on."""
        return self._snapshot.bytes_taken

    @property
    def pages_bytes(self) -> int:
        """The page file is wanted from this byte on, as far as the snapshot names its slots."""
        return self._pages.bytes_taken

    # --- Receiving
    # -------------------------------------------------------------------------------------------------

    def add_entries(self, records: Iterable[Record]) -> None:
        """Take entries that are alive, ascending, behind `entries_after`; not more than a few MiB at a time.

        Raises:
            ValueError: one is out of order, or beyond the snapshot. DiskFull: begin again later. FileWriteFailed:
                fatal.
        """
        last = self.entries_after
        for record in records:
            if not last < record.zxid <= self.zxid:
                raise ValueError(f"entry {record.zxid} cannot follow entry {last} under a snapshot at {self.zxid}")
            last = record.zxid
            self._gathered.append(record)
            self._gathered_bytes += HEAD_BYTES + len(record.header) + len(record.payload)
            if self._gathered_bytes >= LIVE_FILE_BYTES:
                self._guarded("write entries", self._write_live)

    def add_snapshot(self, offset: int, data: bytes) -> None:
        """Take a piece of the snapshot's file, which begins at `snapshot_bytes`. Raises as `add_entries`."""
        if offset != self.snapshot_bytes:
            raise ValueError(f"a piece of the snapshot at byte {offset}; it is wanted from {self.snapshot_bytes} on")
        self._guarded("write the snapshot", lambda: self._add(self._snapshot, offset, data))

    def add_pages(self, offset: int, data: bytes) -> None:
        """Take a piece of the page file at `pages_bytes` or behind it: slots that nobody names may be left out.

        Raises as `add_entries`.
        """
        if offset < self.pages_bytes:
            raise ValueError(f"a piece of the page file at byte {offset}; it is wanted from {self.pages_bytes} on")
        self._guarded("write pages", lambda: self._add(self._pages, offset, data))

    def close(self) -> None:
        """Stop for now; what is durable is not sent again."""
        self._snapshot.close()
        self._pages.close()

    # --- The switch
    # ------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Everything was sent: make it durable, read the snapshot back, and make the segment that the log goes on in.

        Raises:
            SnapshotDamaged: it is not what was sent, and is thrown away: begin again. ForeignData, NewerFormat: it is
                not for this broker. DiskFull: try again. FileWriteFailed: fatal.
        """
        self._intent = self._guarded("finish", self._finish)

    def switch(self) -> None:
        """Put it in the place of the log; durable when this returns. The log must be closed; open it again afterwards.

        Raises:
            DirectoryLocked: the log is not closed. FileWriteFailed: fatal; if the next start finds the switch noted, it
                carries it out. What `SuperblockStore.load` raises.
        """
        intent = self._intent
        if intent is None:
            raise ValueError("an installation is finished before the switch")
        lock = self._directory.lock()
        try:
            now = self._store.current
            store = SuperblockStore.load(self._directory, now.cluster_id, now.group_id)
            try:
                self._guarded("switch", lambda: store.save_installation(intent))
                self._guarded("switch", lambda: finish_installation(self._directory, store))
            finally:
                store.close()
        finally:
            lock.release()

    # --- Inside
    # ----------------------------------------------------------------------------------------------------

    def _guarded(self, operation: str, work: Callable[[], _Answer]) -> _Answer:
        return _guarded(self._incoming, operation, work)

    def _write_live(self) -> None:
        incoming, note = self._incoming, self._note
        sequence = note.base + len(self._live)
        header = SparseHeader(
            note.cluster_id,
            note.group_id,
            sequence,
            sequence,
            self._generations.take(),
            self._live[-1].last_zxid if self._live else 0,
            self._gathered[-1].zxid,
            end_offset=0,
            chain=b"",
            records=0,
            places=0,
            table_checksum=0,
        )
        _remove(incoming, [name for name in incoming.names() if name == SPARSE_NEW_NAME])
        file = incoming.open(SPARSE_NEW_NAME, create=True)
        try:
            pieces, stride = self._options.zero_piece_bytes, self._options.index_stride_bytes
            whole, _ = write_sparse(file, header, self._gathered, pieces, stride)
        finally:
            file.close()
        incoming.rename(SPARSE_NEW_NAME, sparse_name(sequence, sequence))
        incoming.sync()
        self._live.append(whole)
        self._gathered, self._gathered_bytes = [], 0

    def _add(self, file: _GrowingFile, offset: int, data: bytes) -> None:
        file.add(offset, data)
        if file.unsynced_bytes >= PROGRESS_BYTES:
            self._sync_and_note()

    def _sync_and_note(self) -> None:
        self._snapshot.sync()
        self._pages.sync()
        self._incoming.sync()
        taken = replace(self._note, snapshot_bytes=self.snapshot_bytes, pages_bytes=self.pages_bytes)
        if taken != self._note:
            save_note(self._incoming, taken)
            self._note = taken

    def _finish(self) -> InstallationIntent:
        incoming, note = self._incoming, self._note
        if self._gathered:
            self._write_live()
        self._sync_and_note()
        self._snapshot.forget()
        self._read_back()
        self.close()
        sequence = note.base + len(self._live)
        _remove(incoming, [name for name in incoming.names() if segment_sequence(name) is not None or name == _BLANK])
        file = incoming.open(_BLANK, create=True)
        try:
            blank_bytes = min(self._options.initial_bytes, self._options.segment_bytes)
            zero_range(file, PAGE_BYTES, blank_bytes, self._options.zero_piece_bytes)
            generation = self._generations.take()
            header = SegmentHeader(note.cluster_id, note.group_id, sequence, generation, note.zxid, note.chain)
            install(incoming, _BLANK, file, header, self._options.index_stride_bytes)
        finally:
            file.close()
        return InstallationIntent(note.zxid, sequence, note.base)

    def _read_back(self) -> None:
        """Read the snapshot to its last byte: it is about to be all that is left."""
        note = self._note
        snapshots = SnapshotStore(self._incoming, note.cluster_id, note.group_id)
        snapshot = snapshots.newest_good()
        reason = "nothing of it was sent"
        if snapshot is not None:
            snapshot.close()
            if snapshot.chain == note.chain:
                return
            reason = f"its chain is {snapshot.chain.hex()}, and {note.chain.hex()} was announced"
        name = snapshot_name(note.zxid)
        error: StorageError = SnapshotDamaged(self._incoming.path_of(name), 0, reason)
        if snapshots.rejected:
            error = snapshots.rejected[0]
        self.close()
        _remove(self._incoming, [each for each in self._incoming.names() if each == name])
        self._note = replace(note, snapshot_bytes=0)
        save_note(self._incoming, self._note)
        self._snapshot = _GrowingFile(self._incoming, name, 0)
        raise error


_BLANK = "segment.new"


class _GrowingFile:
    """A file that is received in pieces; made with the first of them."""

    def __init__(self, incoming: IncomingFiles, name: str, durable_bytes: int) -> None:
        self._incoming = incoming
        self._name = name
        self._file: File | None = None
        self.bytes_taken = durable_bytes
        self.unsynced_bytes = 0

    def add(self, offset: int, data: bytes) -> None:
        if self._file is None:
            create = self._name not in self._incoming.names()
            self._file = self._incoming.open(self._name, create=create)
        self._file.pwritev([data], offset)
        self.bytes_taken = offset + len(data)
        self.unsynced_bytes += len(data)

    def sync(self) -> None:
        if self._file is not None and self.unsynced_bytes:
            self._file.sync()
            self.unsynced_bytes = 0

    def forget(self) -> None:
        if self._file is not None:
            self._file.forget()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def discard_incoming(directory: Directory) -> None:
    """Remove whatever of an installation was received: it is not needed any more. Raises FileWriteFailed."""
    incoming = IncomingFiles(directory)
    _guarded(incoming, "remove", lambda: _remove(incoming, incoming.names()))


def finish_installation(directory: Directory, store: SuperblockStore) -> bool:
    """Carry out the switch that the superblock notes, if it does; returns whether there was one. Durable.

    Raises LogCorrupt (a new file is missing; nothing was changed), OSError.
    """
    intent, there = store.current.installation, set(directory.names())
    incoming = IncomingFiles(directory)
    staged = set(incoming.names()) if intent is not None else set()
    wanted = _new_files(intent) if intent is not None else ()
    missing = [name for name in wanted if name not in staged and name not in there]
    row = INSTALLATION.decide(
        Installing.NONE if intent is None else Installing.NOTED, NewFiles.MISSING if missing else NewFiles.THERE
    )
    if row.decision is Decision.START:
        return False
    assert intent is not None, "only what is noted is carried out"
    if row.decision is Decision.REFUSE:
        reason = "this file of a snapshot that was installed is missing"
        raise LogCorrupt(directory.path_of(missing[0]), 0, reason, intent.zxid)
    if PAGES_NAME in staged and COPY_NAME in there:
        directory.unlink(COPY_NAME)  # of the old one; made anew from the new one
    for name in (*wanted, PAGES_NAME):
        if name in staged:
            incoming.arrive(name)
    directory.sync()  # before anything old goes
    for name in directory.names():
        if _is_old(name, intent):
            directory.unlink(name)
    _remove(incoming, incoming.names())
    directory.sync()
    store.save_installation(None)
    return True


def _new_files(intent: InstallationIntent) -> tuple[str, ...]:
    live = (sparse_name(sequence, sequence) for sequence in range(intent.base, intent.segment))
    return (*live, snapshot_name(intent.zxid), segment_name(intent.segment))


def _is_old(name: str, intent: InstallationIntent) -> bool:
    span = sparse_range(name)
    sequence = span[0] if span is not None else segment_sequence(name)
    if sequence is None:
        sequence = index_sequence(name)
    if sequence is not None:
        return sequence < intent.base
    zxid = snapshot_zxid(name)
    return name.startswith(REJECTED_PREFIX) or (zxid is not None and zxid != intent.zxid)


def _resume(
    incoming: IncomingFiles, store: SuperblockStore, zxid: int, chain: bytes, source: bytes
) -> tuple[Note, list[SparseHeader]]:
    """Find out what can be used of what is there, and remove the rest."""
    now, note = store.current, load_note(incoming)
    wanted = Note(now.cluster_id, now.group_id, zxid, chain, source, now.last_segment + SEQUENCE_GAP)
    keeps_live = (
        note is not None
        and (note.cluster_id, note.group_id) == (now.cluster_id, now.group_id)
        and (note.zxid < zxid or (note.zxid, note.chain) == (zxid, chain))
        and note.base > now.last_segment
    )
    live: list[SparseHeader] = []
    if note is not None and keeps_live:
        wanted = replace(wanted, base=note.base)
        live = _whole_live_files(incoming, note)
        if (note.zxid, note.chain, note.source) == (zxid, chain, source):
            wanted = _as_far_as_it_is_there(incoming, note)
    names = incoming.names()
    kept = {sparse_name(each.first_sequence, each.last_sequence) for each in live} | {"note"}
    kept |= {snapshot_name(zxid)} if wanted.snapshot_bytes else set()
    kept |= {PAGES_NAME} if wanted.pages_bytes else set()
    _remove(incoming, [name for name in names if name not in kept])
    if wanted != note:
        save_note(incoming, wanted)
    return wanted, live


def _as_far_as_it_is_there(incoming: IncomingFiles, note: Note) -> Note:
    """The note, without what it says of a file that an interrupted removal has taken."""
    if _size(incoming, snapshot_name(note.zxid)) < note.snapshot_bytes:
        note = replace(note, snapshot_bytes=0)
    if _size(incoming, PAGES_NAME) < note.pages_bytes:
        note = replace(note, pages_bytes=0)
    return note


def _size(incoming: IncomingFiles, name: str) -> int:
    if name not in incoming.names():
        return 0
    file = incoming.open(name)
    try:
        return file.size()
    finally:
        file.close()


def _whole_live_files(incoming: IncomingFiles, note: Note) -> list[SparseHeader]:
    """The files of entries that are whole, from the first up to where one is missing."""
    found: list[SparseHeader] = []
    names = set(incoming.names())
    while (name := sparse_name(sequence := note.base + len(found), sequence)) in names:
        file = incoming.open(name)
        try:
            _, header = SparseHeader.from_page(file.pread(PAGE_BYTES, 0))
        except PageDamaged:
            break
        finally:
            file.close()
        previous = found[-1].last_zxid if found else 0
        if (header.first_sequence, header.first_previous_zxid) != (sequence, previous) or header.last_zxid > note.zxid:
            break
        found.append(header)
    return found


def _remove(incoming: IncomingFiles, names: Iterable[str]) -> None:
    """Remove these, durably. The note goes last: without it the others mean nothing."""
    gone = sorted(names, key=lambda name: name == "note")
    for name in gone:
        incoming.unlink(name)
    if gone:
        incoming.sync()


def _guarded(incoming: IncomingFiles, operation: str, work: Callable[[], _Answer]) -> _Answer:
    try:
        return work()
    except OSError as error:
        kind = DiskFull if error.errno in NO_SPACE else FileWriteFailed
        name = error.filename or incoming.path_of("")
        raise kind(f"{name}", f"installing a snapshot ({operation})", error.errno or errno.EIO) from error
