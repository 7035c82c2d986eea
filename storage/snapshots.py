"""Snapshots on disk: written aside, switched by one rename, verified to the last byte before they count.

Why: recovery reads the newest good snapshot and the log behind it, and the log before it is given up. So a snapshot
must be whole or not be there, and nothing older goes before a newer one was read back. This module knows the files, not
what the sections mean, and neither threads nor clocks: one thread at a time calls it, never the event loop.

A file `snapshot-<zxid, 16 hex digits>`:

- a sealed page: cluster, group, zxid, chain, generation;
- sections, each with a head (kind, number, length, crc32c over head and data) and its data;
- a footer, itself a section of kind 0: number of sections, bytes before the footer, digest over all of these bytes.

It grows as `snapshot.new`. One that was rejected at a start is set aside as `rejected-snapshot-<zxid>`.

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
import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from google_crc32c import extend as crc32c_extend
from google_crc32c import value as crc32c

from sluicemq.storage.errors import (
    DiskFull,
    FileReadFailed,
    FileWriteFailed,
    ForeignData,
    NewerFormat,
    SnapshotDamaged,
    SnapshotInProgress,
    SnapshotNotNewer,
    StorageError,
)
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from sluicemq.storage.files import Directory, File

__all__ = [
    "SECTION_BYTES_MAX",
    "SNAPSHOT_FORMAT_VERSION",
    "Snapshot",
    "SnapshotInfo",
    "SnapshotStatistics",
    "SnapshotStore",
    "SnapshotWriter",
]

SNAPSHOT_FORMAT_VERSION = 1
SECTION_BYTES_MAX = 64 * 1024 * 1024  # what a reader must be ready to hold at once; packers make about 1 MiB
KIND_MAX = 0xFFFFFFFF
WRITE_BYTES = 1024 * 1024  # small sections gather up to this size before they are written
SYNC_BYTES = 8 * 1024 * 1024  # after so many bytes a sync: the log's own syncs wait behind that much at most
READ_BYTES = 1024 * 1024

_PREFIX = "snapshot-"
_NEW_NAME = "snapshot.new"
_REJECTED_PREFIX = "rejected-snapshot-"
_MAGIC = b"SluiceSN"
_BODY = struct.Struct("<16sIQ8sQ")
_HEAD = struct.Struct("<IIII")
_HEAD_FRONT = struct.Struct("<III")
_FOOTER_KIND = 0
_FOOTER = struct.Struct("<QQ16s")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What is known of one whole snapshot."""

    file: str
    zxid: int
    """The machine's state after this entry."""

    chain: bytes
    """The log's chain value at `zxid`, 8 bytes."""

    generation: int
    """The number that the writer gave it: what `PageFile.freeze` said."""

    sections: int
    file_bytes: int


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


def snapshot_name(zxid: int) -> str:
    """The file name of the snapshot at this zxid."""
    return f"{_PREFIX}{zxid:016x}"


def snapshot_zxid(name: str) -> int | None:
    """The zxid in a file name; None for files that are no snapshots."""
    return _zxid_behind(_PREFIX, name)


def _zxid_behind(prefix: str, name: str) -> int | None:
    digits = name.removeprefix(prefix)
    if digits == name or len(digits) != 16 or set(digits) - set("0123456789abcdef"):
        return None
    return int(digits, 16)


def _head_of(kind: int, number: int, data: bytes) -> bytes:
    front = _HEAD_FRONT.pack(kind, number, len(data))
    return _HEAD.pack(kind, number, len(data), crc32c_extend(crc32c(front), data))


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
        self._digest = blake2b(page, digest_size=16)
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

    def add(self, kind: int, data: bytes) -> None:
        """Add a section.

        Args:
            kind: 1 to 0xFFFFFFFF; the store does not know what it means.
            data: at most SECTION_BYTES_MAX bytes.

        Raises:
            DiskFull: the snapshot is abandoned; begin another one later. FileWriteFailed: fatal.
            ValueError: kind or size out of range, or the writer has ended.
        """
        if not _FOOTER_KIND < kind <= KIND_MAX:
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
        self._take(_FOOTER_KIND, self._sections + 1, _FOOTER.pack(self._sections, length, digest))
        store, name = self._store, snapshot_name(self.zxid)
        try:
            self._write_out()
            self._file.sync()
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

    def _take(self, kind: int, number: int, data: bytes) -> None:
        if not self._open:
            raise ValueError(f"the writer of snapshot {snapshot_name(self.zxid)} has ended")
        data = bytes(data)  # neither the checksum nor the list may hold what the caller changes later
        head = _head_of(kind, number, data)
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


class Snapshot:
    """One whole, verified snapshot, open for reading. Close it, or use it as a context manager.

    It stays readable while it is open, also when `SnapshotStore.keep` removes its name.
    """

    def __init__(self, info: SnapshotInfo, file: File) -> None:
        self.info = info
        self._file = file

    @property
    def zxid(self) -> int:
        """The machine's state after this entry."""
        return self.info.zxid

    @property
    def chain(self) -> bytes:
        """The log's chain value at `zxid`."""
        return self.info.chain

    @property
    def generation(self) -> int:
        """The number that the writer gave it: what `PageFile.freeze` said."""
        return self.info.generation

    def sections(self) -> Iterator[tuple[int, bytes]]:
        """Kind and data of each section in order, each verified when it is yielded. May be called again.

        Raises SnapshotDamaged, FileReadFailed: it changed since it was found good.
        """
        walk = _Walk(self._file, self.info.file)
        walk.take_page()
        return walk.sections()

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SnapshotStore:
    """The snapshots of one directory. One thread at a time calls it; `statistics` may be called from any.

    Names must be durable before what depends on them changes, so `newest_good` and `keep` sync the directory first.
    """

    def __init__(self, directory: Directory, cluster_id: bytes, group_id: int = 0) -> None:
        self.directory = directory
        self.rejected: tuple[StorageError, ...] = ()
        """Why snapshots were passed over in the last `newest_good` or `keep`, newest first: SnapshotDamaged or
        FileReadFailed, each with its file."""

        self._cluster_id = cluster_id
        self._group_id = group_id
        self._writer: SnapshotWriter | None = None
        # What this process has read to the end and found whole, by name; reading it once is enough.
        self._verified: dict[str, SnapshotInfo] = {}
        self._rejected_names: tuple[str, ...] = ()
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
        rejected: list[tuple[str, StorageError]] = []
        try:
            for name in self._names():
                try:
                    return self._open_verified(name)
                except (SnapshotDamaged, FileReadFailed) as error:
                    rejected.append((name, error))
            return None
        finally:
            self._note_rejected(rejected)

    def set_aside_rejected(self) -> tuple[str, ...]:
        """Rename what `newest_good` rejected, durably, so that it never counts again; returns the new names.

        Needed before slots of the page file are used again: a disk that fails today and reads tomorrow would bring
        back a snapshot whose pages hold something else by then. Raises FileWriteFailed.
        """
        renamed = []
        try:
            for name in self._rejected_names:
                renamed.append(_REJECTED_PREFIX + name.removeprefix(_PREFIX))
                self.directory.rename(name, renamed[-1])
            if renamed:
                self.directory.sync()
        except OSError as error:
            raise self.failed("rename", renamed[-1], error) from error
        self._rejected_names = ()
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
        body = _BODY.pack(self._cluster_id, self._group_id, zxid, chain, generation)
        try:
            if _NEW_NAME in self.directory.names():
                self.directory.unlink(_NEW_NAME)
            file = self.directory.open(_NEW_NAME, create=True)
        except OSError as error:
            raise self.failed("create", _NEW_NAME, error) from error
        page = seal(_MAGIC, SNAPSHOT_FORMAT_VERSION, body)
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
        rejected: list[tuple[str, StorageError]] = []
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
            for prefix in (_PREFIX, _REJECTED_PREFIX)
            if (found := _zxid_behind(prefix, name)) is not None and found < zxid
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
        kind = DiskFull if error.errno in _NO_SPACE else FileWriteFailed
        return kind(self.directory.path_of(name), operation, error.errno or errno.EIO)

    # --- Inside
    # ----------------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        """Names of all snapshots, newest first; hex digits of one length sort as numbers."""
        return sorted((name for name in self.directory.names() if snapshot_zxid(name) is not None), reverse=True)

    def _note_rejected(self, rejected: list[tuple[str, StorageError]]) -> None:
        self.rejected = tuple(error for _, error in rejected)
        self._rejected_names = tuple(name for name, _ in rejected)

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
            walk = _Walk(file, path)
            zxid, chain, generation = self._accept(path, walk.take_page())
            if zxid != snapshot_zxid(name):
                raise SnapshotDamaged(path, 0, f"it was written as {snapshot_name(zxid)}")
            for _ in walk.sections():
                pass
        except BaseException:
            file.close()
            raise
        info = SnapshotInfo(path, zxid, chain, generation, walk.count, walk.offset)
        self._verified[name] = info
        return Snapshot(info, file)

    def _accept(self, path: str, page: bytes) -> tuple[int, bytes, int]:
        try:
            version, body = unseal(page, _MAGIC)
        except PageDamaged as damage:
            raise SnapshotDamaged(path, 0, str(damage)) from None
        if version > SNAPSHOT_FORMAT_VERSION:
            raise NewerFormat(path, version, SNAPSHOT_FORMAT_VERSION)
        cluster_id, group_id, zxid, chain, generation = _BODY.unpack_from(body)
        if cluster_id != self._cluster_id:
            raise ForeignData(path, "cluster", self._cluster_id.hex(), cluster_id.hex())
        if group_id != self._group_id:
            raise ForeignData(path, "group", str(self._group_id), str(group_id))
        return zxid, chain, generation


class _Walk:
    """Reads a file from its start to the footer, checking everything on the way."""

    def __init__(self, file: File, path: str) -> None:
        self.count = 0
        self.offset = 0
        """Of the next byte to take."""

        self._file = file
        self._path = path
        self._buffer = b""
        self._position = 0
        self._digest = blake2b(digest_size=16)

    def take_page(self) -> bytes:
        page = self._take(PAGE_BYTES, "the first page")
        self._digest.update(page)
        return page

    def sections(self) -> Iterator[tuple[int, bytes]]:
        while True:
            start, number = self.offset, self.count + 1
            head = self._take(_HEAD.size, f"the head of section {number}")
            kind, found, length, checksum = _HEAD.unpack(head)
            if found != number or length > SECTION_BYTES_MAX:
                raise SnapshotDamaged(self._path, start, f"no head of section {number}")
            data = self._take(length, f"section {number}")
            if crc32c_extend(crc32c(head[: _HEAD_FRONT.size]), data) != checksum:
                raise SnapshotDamaged(self._path, start, f"checksum of section {number} does not match")
            if kind == _FOOTER_KIND:
                self._check_footer(start, data)
                return
            self._digest.update(head)
            self._digest.update(data)
            self.count = number
            yield kind, data

    def _check_footer(self, start: int, data: bytes) -> None:
        if len(data) != _FOOTER.size or _FOOTER.unpack(data) != (self.count, start, self._digest.digest()):
            raise SnapshotDamaged(self._path, start, "the footer belongs to other sections")
        if self._position < len(self._buffer) or self._read(1):
            raise SnapshotDamaged(self._path, self.offset, "there are bytes behind the footer")

    def _take(self, length: int, what: str) -> bytes:
        start, end = self._position, self._position + length
        if end > len(self._buffer):
            rest = self._buffer[start:]
            missing = length - len(rest)
            ahead = self._read(max(missing, READ_BYTES), len(rest))
            if len(ahead) < missing:
                size = self.offset + len(rest) + len(ahead)
                raise SnapshotDamaged(self._path, self.offset, f"the file ends at {size}, within {what}")
            self._buffer = rest + ahead
            start, end = 0, length
        self._position = end
        self.offset += length
        return self._buffer[start:end]

    def _read(self, length: int, ahead: int = 0) -> bytes:
        offset = self.offset + ahead
        try:
            return self._file.pread(length, offset)
        except OSError as error:
            raise FileReadFailed(self._path, offset, error.errno or errno.EIO) from error
