"""Snapshots on disk: written aside, switched by one rename, verified to the last byte before they count.

Why: recovery reads the newest good snapshot and the log behind it, and the log before it is given up. So a snapshot
must be whole or not be there, and nothing older goes before a newer one was read back. This module knows the files, not
what the sections mean, and neither threads nor clocks: one thread at a time calls it, never the event loop. The layout
is in `snapshot_file.py`.

A snapshot grows as `snapshot.new` and becomes `snapshot-<zxid, 16 hex digits>`. One that was rejected at a start is set
aside as `rejected-snapshot-<zxid>`.

The order that makes it safe, from one worker thread:

    writer = store.begin(zxid, chain, generation)     # generation: what PageFile.freeze() said
    writer.add(kind, data) ...
    pages.sync()                                      # what the sections refer to is durable first
    writer.finish()
    kept = store.keep()                               # reads back, then removes what is too old
    pages.retain(kept[-1].generation)                 # only now may slots be used again
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sluicemq.storage.decisions import Decision
from sluicemq.storage.decisions_files import FIRST_PAGES, FirstPage, Kind, Named, Size
from sluicemq.storage.decisions_superblock import Belongs
from sluicemq.storage.errors import (
    DiskFull,
    FileReadFailed,
    FileWriteFailed,
    SnapshotDamaged,
    SnapshotInProgress,
    SnapshotMisnamed,
    SnapshotNotNewer,
    StorageError,
)
from sluicemq.storage.files import NO_SPACE
from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.storage.snapshot_file import (
    FOOTER_KIND,
    KIND_MAX,
    PREFIX,
    REJECTED_PREFIX,
    SECTION_BYTES_MAX,
    SectionWalk,
    Snapshot,
    SnapshotInfo,
    digest_of_page,
    encode_footer,
    encode_head,
    encode_page,
    snapshot_name,
    snapshot_zxid,
    zxid_behind,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.storage.files import Directory, File

__all__ = ["SnapshotStatistics", "SnapshotStore", "SnapshotWriter"]

WRITE_BYTES = 1024 * 1024  # small sections gather up to this size before they are written
SYNC_BYTES = 8 * 1024 * 1024  # after so many bytes a sync: the log's own syncs wait behind that much at most

_NEW_NAME = "snapshot.new"


@dataclass(frozen=True, slots=True)
class SnapshotStatistics:
    """Figures since the store was made; `kept` as `keep` or `newest_good` last saw it."""

    written: int
    abandoned: int
    removed: int
    last_bytes: int
    """Size of the file that was finished last, 0 for none."""

    last_sections: int
    writing_bytes: int
    """What the running writer has taken, 0 while there is none."""

    rejected: int
    """Files that `newest_good` or `keep` found unusable, the last time."""


class SnapshotWriter:
    """A snapshot that grows as `snapshot.new`. Made by `SnapshotStore.begin`; `finish` or `abandon` ends it.

    After an error it is abandoned already.
    """

    def __init__(self, store: SnapshotStore, file: File, zxid: int, chain: bytes, generation: int, page: bytes) -> None:
        self.zxid = zxid
        self._store = store
        self._file = file
        self._chain = chain
        self._generation = generation
        self._sections = 0
        self._digest = digest_of_page(page)
        self._gathered = [page]
        self._gathered_bytes = len(page)
        self._offset = 0
        self._synced = 0
        self._open = True

    @property
    def bytes_taken(self) -> int:
        """Bytes of the file so far, written or gathered."""
        return self._offset + self._gathered_bytes

    @property
    def sections(self) -> int:
        """Sections so far."""
        return self._sections

    def add(self, kind: int, data: bytes | bytearray | memoryview) -> None:
        """Add a section.

        Args:
            kind: 1 to 0xFFFFFFFF; the store does not know what it means.
            data: at most SECTION_BYTES_MAX bytes.

        Raises:
            DiskFull: the snapshot is abandoned; begin another one later. FileWriteFailed: fatal.
            ValueError: kind or size out of range, or the writer has ended.
        """
        if not FOOTER_KIND < kind <= KIND_MAX:
            raise ValueError(f"kind of a section is {kind}, must be 1 to {KIND_MAX}")
        if len(data) > SECTION_BYTES_MAX:
            raise ValueError(f"section of kind {kind} has {len(data)} bytes, the most is {SECTION_BYTES_MAX}: cut it")
        self._take(kind, self._sections + 1, data)
        self._sections += 1

    def finish(self) -> SnapshotInfo:
        """Complete the file, make it durable, and give it its name. It counts from now on, and older ones may go.

        Raises as `add`.
        """
        length = self.bytes_taken
        digest = self._digest.digest()
        self._take(FOOTER_KIND, self._sections + 1, encode_footer(self._sections, length, digest))
        store, name = self._store, snapshot_name(self.zxid)
        try:
            self._write_out()
            self._file.sync()
            self._file.forget()  # `keep` is to read what is on the disk, not what the kernel believes to be there
            # Its data is durable before its name: a name that is there means a whole file.
            store.directory.rename(_NEW_NAME, name)
            store.directory.sync()
        except OSError as error:
            raise self._failed("finish", error) from error
        self._open = False
        self._file.close()
        info = SnapshotInfo(
            store.directory.path_of(name), self.zxid, self._chain, self._generation, self._sections, self._offset
        )
        store.writer_ended(info)
        return info

    def abandon(self) -> None:
        """Give up and remove what was written. May be called twice, and after `finish`, when it does nothing."""
        if not self._open:
            return
        self._open = False
        self._gathered.clear()
        self._file.close()
        try:
            self._store.directory.unlink(_NEW_NAME)
        except OSError:
            pass  # the next `begin` removes it
        self._store.writer_ended(None)

    def _take(self, kind: int, number: int, data: bytes | bytearray | memoryview) -> None:
        if not self._open:
            raise ValueError(f"the writer of snapshot {snapshot_name(self.zxid)} has ended")
        data = bytes(data)  # neither the checksum nor the list may hold what the caller changes later
        head = encode_head(kind, number, data)
        self._digest.update(head)
        self._digest.update(data)
        self._gathered += (head, data)
        self._gathered_bytes += len(head) + len(data)
        if self._gathered_bytes >= WRITE_BYTES:
            try:
                self._write_out()
            except OSError as error:
                raise self._failed("write", error) from error

    def _write_out(self) -> None:
        self._file.pwritev(self._gathered, self._offset)
        self._offset += self._gathered_bytes
        self._gathered = []
        self._gathered_bytes = 0
        if self._offset - self._synced >= SYNC_BYTES:
            self._file.sync()
            self._synced = self._offset

    def _failed(self, operation: str, error: OSError) -> StorageError:
        self.abandon()
        return self._store.failed(operation, _NEW_NAME, error)


class SnapshotStore:
    """The snapshots of one directory. One thread at a time calls it; `statistics` may be called from any.

    Names must be durable before what depends on them changes, so `newest_good` and `keep` sync the directory first.
    """

    def __init__(self, directory: Directory, cluster_id: bytes, group_id: int = 0) -> None:
        self.directory = directory
        self.rejected: tuple[SnapshotDamaged | FileReadFailed, ...] = ()
        """Why snapshots were passed over in the last `newest_good` or `keep`, newest first: SnapshotDamaged or
        FileReadFailed, each with its file."""

        self._cluster_id = cluster_id
        self._group_id = group_id
        self._writer: SnapshotWriter | None = None
        # What this process has read to the end and found whole, by name; reading it once is enough.
        self._verified: dict[str, SnapshotInfo] = {}
        self._rejected_names: tuple[str, ...] = ()
        self._refused: dict[str, SnapshotDamaged] = {}  # whole, but what is in it makes no sense
        self._written = self._abandoned = self._removed = 0
        self._last: SnapshotInfo | None = None

    # --- Reading
    # ---------------------------------------------------------------------------------------------------------

    def newest_good(self) -> Snapshot | None:
        """The newest snapshot that is whole, open for reading; None if there is none. Changes nothing.

        Newer ones that are damaged or unreadable are passed over and stand in `rejected`. A broker that goes on from
        the answer calls `set_aside_rejected` first. None with a non-empty `rejected`, or an older one than the log
        begins with, means that data is missing: refuse to start.

        Raises:
            ForeignData, NewerFormat: refuse to start. OSError: the directory cannot be read.
        """
        self.directory.sync()
        rejected: list[tuple[str, SnapshotDamaged | FileReadFailed]] = []
        try:
            for name in self._names():
                try:
                    return self._open_verified(name)
                except StorageError as error:
                    if not isinstance(error, SnapshotDamaged | FileReadFailed) or not _may_be_passed_over(error):
                        raise
                    rejected.append((name, error))
            return None
        finally:
            self._note_rejected(rejected)

    def every(self) -> Iterator[Snapshot | SnapshotDamaged | FileReadFailed]:
        """All snapshots, newest first: each that is whole open for reading, else why it is not.

        Changes nothing. Raises ForeignData, NewerFormat.
        """
        for name in self._names():
            try:
                yield self._open_verified(name)
            except (SnapshotDamaged, FileReadFailed) as error:
                yield error

    def reject(self, info: SnapshotInfo, reason: str) -> None:
        """A whole snapshot cannot be used all the same: it no longer counts, and is in `rejected`."""
        name = snapshot_name(info.zxid)
        self._refused[name] = SnapshotDamaged(info.file, 0, reason)
        self._verified.pop(name, None)
        self._note_rejected([])

    def open(self, info: SnapshotInfo) -> Snapshot:
        """One of those that `keep` returned, verified once more, open for reading.

        Raises SnapshotDamaged, FileReadFailed, ForeignData, NewerFormat.
        """
        return self._open_verified(snapshot_name(info.zxid))

    def set_aside_rejected(self) -> tuple[str, ...]:
        """Rename what `newest_good` rejected, durably, so that it never counts again; returns the new names.

        Needed before slots of the page file are used again: a disk that fails today and reads tomorrow would bring
        back a snapshot whose pages hold something else by then. Raises FileWriteFailed.
        """
        renamed = []
        try:
            for name in self._rejected_names:
                renamed.append(REJECTED_PREFIX + name.removeprefix(PREFIX))
                self.directory.rename(name, renamed[-1])
            if renamed:
                self.directory.sync()
        except OSError as error:
            raise self.failed("rename", renamed[-1], error) from error
        self._rejected_names = ()
        self._refused.clear()
        return tuple(renamed)

    # --- Writing
    # ---------------------------------------------------------------------------------------------------------

    def begin(self, zxid: int, chain: bytes, generation: int) -> SnapshotWriter:
        """Start a snapshot; what an interrupted one left is removed.

        Args:
            zxid: the machine's last applied entry. chain: the log's chain value there, 8 bytes.
            generation: a number that is kept with it: what `PageFile.freeze` said.

        Raises:
            SnapshotNotNewer, SnapshotInProgress, ValueError: mistakes of the caller. DiskFull: try later.
            FileWriteFailed: fatal.
        """
        if self._writer is not None:
            raise SnapshotInProgress(self._writer.zxid)
        if len(chain) != 8:
            raise ValueError(f"chain has {len(chain)} bytes, must have 8")
        newest = max((info.zxid for info in self._verified.values()), default=None)
        if newest is not None and zxid <= newest:
            raise SnapshotNotNewer(zxid, newest)
        page = encode_page(self._cluster_id, self._group_id, zxid, chain, generation)
        try:
            if _NEW_NAME in self.directory.names():
                self.directory.unlink(_NEW_NAME)
            file = self.directory.open(_NEW_NAME, create=True)
        except OSError as error:
            raise self.failed("create", _NEW_NAME, error) from error
        self._writer = SnapshotWriter(self, file, zxid, chain, generation, page)
        return self._writer

    def keep(self, newest: int = 2) -> tuple[SnapshotInfo, ...]:
        """Remove all but the newest good snapshots, durably, and say which are left, newest first.

        Each that is to be kept is read to the end before anything older goes; a damaged one does not count, and is in
        `rejected`. What was set aside goes with the snapshots of its age. When this returns, nothing that only a
        removed snapshot referred to is needed any more.

        Args:
            newest: how many to keep, at least 1.

        Raises:
            ForeignData, NewerFormat: somebody put a file here. FileWriteFailed: fatal.
        """
        if newest < 1:
            raise ValueError(f"newest is {newest}, must be at least 1")
        kept: list[SnapshotInfo] = []
        rejected: list[tuple[str, SnapshotDamaged | FileReadFailed]] = []
        names = self._names()
        for name in names:
            if len(kept) == newest:
                break
            try:
                kept.append(self._verify(name))
            except (SnapshotDamaged, FileReadFailed) as error:
                rejected.append((name, error))
        self._note_rejected(rejected)
        if len(kept) == newest:
            self._remove_below(kept[-1].zxid)
        return tuple(kept)

    def _remove_below(self, zxid: int) -> None:
        older = [
            name
            for name in self.directory.names()
            for prefix in (PREFIX, REJECTED_PREFIX)
            if (found := zxid_behind(prefix, name)) is not None and found < zxid
        ]
        if not older:
            return
        try:
            # The newer names first, then the older go: a power cut must not find neither.
            self.directory.sync()
            for name in older:
                self.directory.unlink(name)
                self._verified.pop(name, None)
                self._removed += 1
            self.directory.sync()
        except OSError as error:
            raise self.failed("unlink", name, error) from error

    def statistics(self) -> SnapshotStatistics:
        """Figures of this moment."""
        last, writer = self._last, self._writer
        return SnapshotStatistics(
            written=self._written,
            abandoned=self._abandoned,
            removed=self._removed,
            last_bytes=0 if last is None else last.file_bytes,
            last_sections=0 if last is None else last.sections,
            writing_bytes=0 if writer is None else writer.bytes_taken,
            rejected=len(self.rejected),
        )

    # --- For the writer
    # --------------------------------------------------------------------------------------------------

    def writer_ended(self, info: SnapshotInfo | None) -> None:
        """The running writer finished this snapshot, or was abandoned (None)."""
        self._writer = None
        if info is None:
            self._abandoned += 1
            return
        self._written += 1
        self._last = info
        self._verified.pop(snapshot_name(info.zxid), None)  # what is believed of an older file of this name

    def failed(self, operation: str, name: str, error: OSError) -> StorageError:
        """The typed error for a failed write: by whether trying again makes sense."""
        kind = DiskFull if error.errno in NO_SPACE else FileWriteFailed
        return kind(self.directory.path_of(name), operation, error.errno or errno.EIO)

    # --- Inside
    # ----------------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        """Names of all snapshots, newest first; hex digits of one length sort as numbers."""
        names = (name for name in self.directory.names() if name not in self._refused)
        return sorted((name for name in names if snapshot_zxid(name) is not None), reverse=True)

    def _note_rejected(self, rejected: list[tuple[str, SnapshotDamaged | FileReadFailed]]) -> None:
        every = sorted({**self._refused, **dict(rejected)}.items(), reverse=True)
        self.rejected = tuple(error for _, error in every)
        self._rejected_names = tuple(name for name, _ in every)

    def _verify(self, name: str) -> SnapshotInfo:
        info = self._verified.get(name)
        if info is None:
            with self._open_verified(name) as snapshot:
                info = snapshot.info
        return info

    def _open_verified(self, name: str) -> Snapshot:
        path = self.directory.path_of(name)
        try:
            file = self.directory.open(name)
        except OSError as error:
            raise FileReadFailed(path, 0, error.errno or errno.EIO) from error
        try:
            walk = SectionWalk(file, path)
            zxid, chain, generation = walk.accept_page(self._cluster_id, self._group_id)
            if zxid != snapshot_zxid(name):
                raise SnapshotMisnamed(path, 0, f"it was written as {snapshot_name(zxid)}")
            for _ in walk.sections():
                pass
        except BaseException:
            file.close()
            raise
        info = SnapshotInfo(path, zxid, chain, generation, walk.count, walk.offset)
        self._verified[name] = info
        return Snapshot(info, file)


def _may_be_passed_over(error: SnapshotDamaged | FileReadFailed) -> bool:
    """Whether a start may look for an older snapshot: asks the table of first pages."""
    misnamed = isinstance(error, SnapshotMisnamed)
    page = FirstPage.DAMAGED if error.offset < PAGE_BYTES and not misnamed else FirstPage.GOOD
    named = Named.WRONG if misnamed else Named.RIGHT
    row = FIRST_PAGES.decide(Kind.SNAPSHOT, page, Belongs.OURS, named, Size.SHORTENED)
    return row.decision is Decision.FALL_BACK
