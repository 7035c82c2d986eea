"""Pages: slots of one file that hold the parts of long indexes that are not in memory.

Why: a backlog of ten million messages needs more index than memory, and a snapshot that repeated it all would be large
and rare. So sealed parts of an index are written here once, a snapshot names their slots, and a slot is used again only
when no kept snapshot can name it any more. What a page holds is proven by the checksum that its owner keeps: a stale,
lost or misdirected page is never served. This module knows slots and numbers, not what lies in them.

A file `pages`: a sealed page (cluster, group, slot size), then slots of one size. The first page only guards against
mix-ups: damaged, it is written anew, for the slots are proven by their own checksums.

The life of a slot: `allocate`, `write`, any number of `read`, `release`. Snapshots count with `freeze`: a slot that is
released while n is the newest number may be named by snapshots up to n, and is free again once all that are kept
(`retain`) have higher numbers. After a start `adopt` says which slots the kept snapshots name.

Threads: `allocate`, `release`, `freeze`, `statistics` are quick and for any thread, the event loop too; all else
blocks on the disk and belongs on worker threads. Do not release a slot while its write or a read of it is under way.
"""

from __future__ import annotations

import errno
import struct
import threading
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google_crc32c import value as crc32c

from sluicemq.storage.decisions import Decision
from sluicemq.storage.decisions_files import (
    DERIVED,
    FIRST_PAGES,
    DerivedFile,
    FirstPage,
    Given,
    Kind,
    Named,
    Needed,
    Size,
)
from sluicemq.storage.decisions_superblock import Belongs
from sluicemq.storage.errors import (
    DiskFull,
    FileReadFailed,
    FileWriteFailed,
    ForeignData,
    InvalidOption,
    NewerFormat,
    PageCorrupt,
)
from sluicemq.storage.files import NO_SPACE
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sluicemq.storage.files import Directory, File

__all__ = ["PAGES_NAME", "PAGE_FORMAT_VERSION", "SLOT_BYTES", "PageFile", "PageFileStatistics"]

PAGES_NAME = "pages"
PAGE_FORMAT_VERSION = 1
SLOT_BYTES = 65_536  # 1,024 rows of 64 bytes, sixteen pages of the disk
UNSYNCED_BYTES_MAX = 8 * 1024 * 1024  # a write beyond this syncs: the log's own syncs wait behind that much at most
SHRINK_SLOTS_MIN = 64  # a shorter free tail is not worth a change of the file's size
SHRINK_SLOTS_MAX = 65_536  # how much of the tail one call looks at
RETAIN_SLOTS_MAX = 1024  # slots that are freed in one go, while others wait for the guard

_MAGIC = b"SluicePG"
_BODY = struct.Struct("<16sII")
_FREE, _USED, _WAITING = 0, 1, 2


@dataclass(frozen=True, slots=True)
class PageFileStatistics:
    """The state now, and figures since the file was opened."""

    slot_bytes: int
    slots: int
    """Up to the last one that is not free."""

    used: int
    waiting: int
    """Released, but a kept snapshot may name them."""

    free: int
    file_bytes: int
    """Up to the last slot; blocks that were never written take no space."""

    reads: int
    writes: int
    written_bytes: int
    syncs: int


class PageFile:
    """The page file of one directory. Made by `PageFile.open`; `adopt` must follow before anything is allocated."""

    def __init__(self, directory: Directory, file: File, slot_bytes: int, *, created: bool, repaired: bool) -> None:
        self.slot_bytes = slot_bytes
        self.created = created
        """The file was not there."""

        self.repaired = repaired
        """The first page was damaged and was written anew."""

        self._path = directory.path_of(PAGES_NAME)
        self._file = file
        # Guards the state of slots: held for moments. Writes, syncs and changes of size exclude each other by another
        # lock, which may be held for as long as the disk takes.
        self._guard = threading.Lock()
        self._disk = threading.Lock()
        self._states = bytearray()
        self._lowest_free = 0  # no slot below it is free
        self._used = self._waiting = 0
        self._released: dict[int, array[int]] = {}  # by the number that was the newest at their release
        self._number = 0
        self._adopted = False
        self._unsynced_bytes = 0
        self._failure: FileWriteFailed | None = None
        self._closed = False
        self._reads = self._writes = self._written_bytes = self._syncs = 0

    # --- Opening
    # ---------------------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls, directory: Directory, *, cluster_id: bytes = bytes(16), group_id: int = 0, slot_bytes: int = SLOT_BYTES
    ) -> PageFile:
        """Open the page file of a directory, or make one. The directory must be locked by the caller.

        Args:
            directory: where it is. cluster_id: 16 bytes. group_id: whose pages they are.
            slot_bytes: size of a slot in a new file, a multiple of 4,096; an existing file keeps the size it has.

        Raises:
            InvalidOption, ForeignData, NewerFormat: refuse to start. FileWriteFailed: fatal. DiskFull: try later.
            FileReadFailed: the operating system refused.
        """
        if slot_bytes < PAGE_BYTES or slot_bytes % PAGE_BYTES:
            raise InvalidOption("slot_bytes", slot_bytes, f"must be a multiple of {PAGE_BYTES}")
        path = directory.path_of(PAGES_NAME)
        created = PAGES_NAME not in directory.names()
        # What is named is known at `adopt`.
        row = DERIVED.decide(DerivedFile.PAGES, Given.MISSING if created else Given.THERE, Needed.NO)
        assert row.decision in (Decision.REBUILD, Decision.START), "a page file is made where none is"
        try:
            file = directory.open(PAGES_NAME, create=created)
        except OSError as error:
            raise _write_error(path, "open", error) from error
        try:
            found = None if created else cls._accept(file, path, cluster_id, group_id)
            if found is None:
                page = seal(_MAGIC, PAGE_FORMAT_VERSION, _BODY.pack(cluster_id, group_id, slot_bytes))
                file.pwritev([page], 0)
                file.sync()
            directory.sync()
        except OSError as error:
            file.close()
            raise _write_error(path, "write", error) from error
        except BaseException:
            file.close()
            raise
        return cls(directory, file, found or slot_bytes, created=created, repaired=not created and found is None)

    @staticmethod
    def _accept(file: File, path: str, cluster_id: bytes, group_id: int) -> int | None:
        """Slot size of an existing file; None if its first page must be written anew."""
        try:
            page = file.pread(PAGE_BYTES, 0)
        except OSError as error:
            raise FileReadFailed(path, 0, error.errno or errno.EIO) from error
        try:
            version, body = unseal(page, _MAGIC)
        except PageDamaged:
            row = FIRST_PAGES.decide(Kind.PAGES, FirstPage.DAMAGED, Belongs.OURS, Named.RIGHT, Size.WHOLE)
            assert row.decision is Decision.REBUILD, "slots are proven by checksums of their own"
            return None
        cluster, group, slot_bytes = _BODY.unpack_from(body)
        belongs = Belongs.OURS if group == group_id else Belongs.OTHER_GROUP
        if cluster != cluster_id:
            belongs = Belongs.OTHER_CLUSTER
        first = FirstPage.NEWER if version > PAGE_FORMAT_VERSION else FirstPage.GOOD
        row = FIRST_PAGES.decide(Kind.PAGES, first, belongs, Named.RIGHT, Size.WHOLE)
        if row.decision is Decision.START:
            return int(slot_bytes)
        if first is FirstPage.NEWER:
            raise NewerFormat(path, version, PAGE_FORMAT_VERSION)
        if belongs is Belongs.OTHER_CLUSTER:
            raise ForeignData(path, "cluster", cluster_id.hex(), cluster.hex())
        raise ForeignData(path, "group", str(group_id), str(group))

    def adopt(self, kept: Mapping[int, Iterable[int]]) -> None:
        """Say which slots are in use after a start. Once, before the first `allocate`; with {} for a new file.

        Args:
            kept: the generation of each kept snapshot, and the slots that it names. Those of the highest generation
                are in use: the machine was loaded from it. Those that only older ones name are free again when these
                are gone.

        Raises:
            PageCorrupt: the file ends before a slot that a snapshot names: data is missing.
            ValueError: it was called before, or a slot is negative.
        """
        if self._adopted:
            raise ValueError("pages were adopted already")
        states = bytearray()
        released: dict[int, array[int]] = {}
        self.check_reach(slot for slots in kept.values() for slot in slots)
        numbers = sorted(kept, reverse=True)
        for number in numbers:
            newest = number == numbers[0]
            for slot in kept[number]:
                if slot >= len(states):
                    states.extend(bytes(slot + 1 - len(states)))
                if states[slot] == _FREE:
                    states[slot] = _USED if newest else _WAITING
                    if not newest:
                        released.setdefault(number, array("Q")).append(slot)
        with self._guard:
            self._states = states
            self._released = released
            self._used = states.count(_USED)
            self._waiting = states.count(_WAITING)
            self._number = numbers[0] if numbers else 0
            self._lowest_free = 0
            self._adopted = True

    def check_reach(self, slots: Iterable[int]) -> None:
        """Return if the file reaches to all of these slots: what `adopt` asks for, without a change.

        Raises:
            PageCorrupt: the file ends before one of them. ValueError: a slot is negative.
        """
        size = self._file.size()
        for slot in slots:
            if slot < 0:
                raise ValueError(f"slot {slot} is negative")
            # Of the last slot only the written part need be there.
            if self._offset_of(slot) >= size:
                self._consult_short()
                raise PageCorrupt(self._path, self._offset_of(slot), slot, f"the file ends at {size}")

    # --- Slots: any thread, quick
    # ---------------------------------------------------------------------------------------------

    def allocate(self) -> int:
        """A slot that nobody else has and no kept snapshot names: the lowest, so that the file stays short."""
        with self._guard:
            if not self._adopted:
                raise ValueError("adopt the pages of the kept snapshots first")
            states = self._states
            slot = states.find(_FREE, self._lowest_free)
            if slot < 0:
                slot = len(states)
                states.append(_USED)
            else:
                states[slot] = _USED
            self._lowest_free = slot + 1
            self._used += 1
            return slot

    def release(self, slot: int) -> None:
        """Give a slot up; it is free again when no kept snapshot can name it. Raises ValueError: it is not in use."""
        with self._guard:
            self._require_used(slot)
            self._states[slot] = _WAITING
            self._used -= 1
            self._waiting += 1
            waiting = self._released.get(self._number)
            if waiting is None:
                waiting = self._released[self._number] = array("Q")
            waiting.append(slot)

    def freeze(self) -> int:
        """A snapshot begins: its number, one more than the last. It may name every slot that is in use from now on
        until the next call.
        """
        with self._guard:
            self._number += 1
            return self._number

    @property
    def number(self) -> int:
        """What `freeze` said last, or the newest generation that was adopted; 0 at first."""
        return self._number

    def statistics(self) -> PageFileStatistics:
        """Figures of this moment."""
        with self._guard:
            slots = len(self._states)
            return PageFileStatistics(
                slot_bytes=self.slot_bytes,
                slots=slots,
                used=self._used,
                waiting=self._waiting,
                free=slots - self._used - self._waiting,
                file_bytes=self._offset_of(slots),
                reads=self._reads,
                writes=self._writes,
                written_bytes=self._written_bytes,
                syncs=self._syncs,
            )

    # --- The disk: worker threads
    # ---------------------------------------------------------------------------------------------

    def write(self, slot: int, data: bytes) -> int:
        """Write a page and return its checksum (crc32c), which the owner keeps. Durable after `sync`.

        Args:
            slot: from `allocate`, not released. data: 1 to `slot_bytes` bytes.

        Raises:
            DiskFull: nothing is lost; keep the data in memory, and write again later or release the slot.
            FileWriteFailed: fatal. ValueError: slot not in use, or data too large or empty.
        """
        if not 0 < len(data) <= self.slot_bytes:
            raise ValueError(f"page of {len(data)} bytes, must have 1 to {self.slot_bytes}")
        checksum: int = crc32c(data)
        with self._disk:
            self._check_usable()
            with self._guard:
                self._require_used(slot)
            try:
                self._file.pwritev([data], self._offset_of(slot))
            except OSError as error:
                raise self._failed("write", error) from error
            self._writes += 1
            self._written_bytes += len(data)
            self._unsynced_bytes += len(data)
            if self._unsynced_bytes >= UNSYNCED_BYTES_MAX:
                self._sync()
        return checksum

    def read(self, slot: int, length: int, checksum: int) -> bytes:
        """The page as it was written. Raises PageCorrupt, FileReadFailed."""
        offset = self._offset_of(slot)
        try:
            data = self._file.pread(length, offset)
        except OSError as error:
            raise FileReadFailed(self._path, offset, error.errno or errno.EIO) from error
        if len(data) != length:
            raise PageCorrupt(self._path, offset, slot, f"the file ends after {len(data)} of {length} bytes")
        found = crc32c(data)
        if found != checksum:
            raise PageCorrupt(self._path, offset, slot, f"checksum is {found:#010x}, expected {checksum:#010x}")
        self._reads += 1
        return data

    def sync(self) -> None:
        """Return when all writes that have returned are durable: before a snapshot that names them is finished.

        Raises FileWriteFailed (fatal, a full disk too: what was written is unknown then).
        """
        with self._disk:
            self._check_usable()
            if self._unsynced_bytes:
                self._sync()

    def retain(self, oldest_kept: int) -> int:
        """Free the slots that only snapshots below this number could name; returns how many.

        Call it when older snapshots are gone durably, with the lowest generation that `SnapshotStore.keep` returned.
        Numbers of snapshots that were given up do not matter.
        """
        freed = 0
        with self._guard:
            tags = [tag for tag in self._released if tag < oldest_kept]
        for tag in tags:
            freed += self._free_released(tag)
        return freed

    def shrink(self) -> int:
        """Cut off free slots at the end of the file, if they are many; returns the bytes. Bounded work: call it after
        `retain`.

        Raises FileWriteFailed: fatal.
        """
        with self._disk:
            self._check_usable()
            with self._guard:
                self._cut_tail()
                end = self._offset_of(len(self._states))
            # Measured by the file: it may be longer than the table for several reasons.
            excess = self._file.size() - end
            if excess < SHRINK_SLOTS_MIN * self.slot_bytes:
                return 0
            try:
                self._file.truncate(end)
            except OSError as error:
                raise self._failed("truncate", error) from error
        return excess

    def close(self) -> None:
        """Close the file, without a sync: what no snapshot names is worth nothing. May be called twice."""
        with self._disk:
            self._closed = True
            self._file.close()

    # --- Inside
    # ----------------------------------------------------------------------------------------------------------

    def _consult_short(self) -> None:
        """A snapshot names a page behind the file's end: the caller passes over that snapshot."""
        if self.created:
            row = DERIVED.decide(DerivedFile.PAGES, Given.MISSING, Needed.YES)
        else:
            row = FIRST_PAGES.decide(Kind.PAGES, FirstPage.GOOD, Belongs.OURS, Named.RIGHT, Size.SHORTENED)
        assert row.decision is Decision.FALL_BACK, "without its pages a snapshot does not count"

    def _offset_of(self, slot: int) -> int:
        return PAGE_BYTES + slot * self.slot_bytes

    def _require_used(self, slot: int) -> None:
        if not 0 <= slot < len(self._states) or self._states[slot] != _USED:
            raise ValueError(f"slot {slot} is not in use")

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise FileWriteFailed(*self._failure.args)
        if self._closed:
            raise ValueError("the page file is closed")

    def _sync(self) -> None:
        try:
            self._file.sync()
        except OSError as error:
            self._failure = FileWriteFailed(self._path, "sync", error.errno or errno.EIO)
            raise self._failure from error
        self._unsynced_bytes = 0
        self._syncs += 1

    def _failed(self, operation: str, error: OSError) -> DiskFull | FileWriteFailed:
        failure = _write_error(self._path, operation, error)
        if isinstance(failure, FileWriteFailed):
            self._failure = failure
        return failure

    def _free_released(self, tag: int) -> int:
        freed = 0
        while True:
            with self._guard:
                waiting = self._released.get(tag)
                if not waiting:
                    self._released.pop(tag, None)
                    return freed
                part = waiting[-RETAIN_SLOTS_MAX:]
                del waiting[-RETAIN_SLOTS_MAX:]
                for slot in part:
                    self._states[slot] = _FREE
                self._lowest_free = min(self._lowest_free, min(part))
                self._waiting -= len(part)
            freed += len(part)

    def _cut_tail(self) -> None:
        """Drop free slots from the end of the table: slots behind it are allocated by growing, never found free."""
        states = self._states
        tail = states[-SHRINK_SLOTS_MAX:]
        free = len(tail) - len(tail.rstrip(b"\0"))
        del states[len(states) - free :]


def _write_error(path: str, operation: str, error: OSError) -> DiskFull | FileWriteFailed:
    kind = DiskFull if error.errno in NO_SPACE else FileWriteFailed
    return kind(path, operation, error.errno or errno.EIO)
