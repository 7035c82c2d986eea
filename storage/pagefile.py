"""Pages: slots of one file that hold the parts of long indexes that are not in memory.

Why: a backlog of ten million messages needs more index than memory, and a snapshot that repeated it all would be large
and rare. So sealed parts of an index are written here once, a snapshot names their slots, and a slot is used again only
when no kept snapshot can name it any more. What a page holds is proven by the checksum that its owner keeps: a stale,
lost or misdirected page is never served. This module knows slots and numbers, not what lies in them.

The files `pages` and `pages-copy` (`page_copies`): a sealed page (cluster, group, slot size), then slots of one size.
The first page only guards against mix-ups: damaged, it is written anew, for the slots are proven by their own
checksums. Every page lies in both. What a slot holds is known here too, so a page that one file does not give back is
written again from the other: when it is read, or when `check` looks at it before anybody needs it. That happens in
place: the bytes of a slot in use never change, so a power cut in the middle costs nothing that the other file has not.

The life of a slot: `allocate`, `write`, any number of `read`, `release`. Snapshots count with `freeze`: a slot that is
released while n is the newest number may be named by snapshots up to n, and is free again once all that are kept
(`retain`) have higher numbers. After a start `adopt` says which slots the kept snapshots name.

Threads: `allocate`, `release`, `freeze`, `statistics` are quick and for any thread, the event loop too; all else
blocks on the disk and belongs on worker threads. Do not release a slot while its write or a read of it is under way.
"""

from __future__ import annotations

import threading
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

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
from sluicemq.storage.errors import DiskFull, FileWriteFailed, InvalidOption, PageCorrupt
from sluicemq.storage.page_copies import COPY_NAME, PAGE_FORMAT_VERSION, PAGES_NAME, PageCopies, Rot, corrupt
from sluicemq.storage.pages import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sluicemq.storage.files import Directory
    from sluicemq.storage.page_copies import Copy

__all__ = [
    "COPY_NAME",
    "PAGES_NAME",
    "PAGE_FORMAT_VERSION",
    "SLOT_BYTES",
    "PageFile",
    "PageFileStatistics",
    "StoredPage",
]

SLOT_BYTES = 65_536  # 1,024 rows of 64 bytes, sixteen pages of the disk
UNSYNCED_BYTES_MAX = 8 * 1024 * 1024  # a write beyond this syncs: the log's own syncs wait behind that much at most
SHRINK_SLOTS_MIN = 64  # a shorter free tail is not worth a change of the file's size
SHRINK_SLOTS_MAX = 65_536  # how much of the tail one call looks at
RETAIN_SLOTS_MAX = 1024  # slots that are freed in one go, while others wait for the guard

_FREE, _USED, _WAITING = 0, 1, 2


class StoredPage(NamedTuple):
    """A page as its owner names it."""

    slot: int
    length: int
    """Bytes that were written."""

    checksum: int
    """What `PageFile.write` returned."""


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
    """Of each of the two files, up to the last slot; blocks that were never written take no space."""

    reads: int
    writes: int
    """Of pages; each goes to both files."""

    written_bytes: int
    """In each of the two files."""

    syncs: int
    mended: int
    """Pages that one file had lost and that were written again from the other."""


class PageFile:
    """The page file of one directory. Made by `PageFile.open`; `adopt` must follow before anything is allocated."""

    def __init__(self, copies: PageCopies) -> None:
        self.slot_bytes = copies.slot_bytes
        self.created = copies.created
        """Neither file was there."""

        self.repaired = copies.repaired
        """The first page of one was damaged and was written anew."""

        self.on_rot: Callable[[Rot], None] = lambda _rot: None
        """Called, in the thread that met it, with every page that one of the files does not hold as it was written."""

        self._copies = copies
        self._path = copies.path
        # Guards the state of slots: held for moments. Writes, syncs and changes of size exclude each other by another
        # lock, which may be held for as long as the disk takes.
        self._guard = threading.Lock()
        self._disk = threading.Lock()
        self._states = bytearray()
        # What each slot holds, as long as it is not free: a length of 0 where that is not known, or not yet.
        self._lengths = array("I")
        self._checksums = array("I")
        self._lowest_free = 0  # no slot below it is free
        self._used = self._waiting = 0
        self._released: dict[int, array[int]] = {}  # by the number that was the newest at their release
        self._number = 0
        self._adopted = False
        self._unsynced_bytes = 0
        self._failure: FileWriteFailed | None = None
        self._closed = False
        self._reads = self._writes = self._written_bytes = self._syncs = self._mended = 0

    # --- Opening
    # ---------------------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        directory: Directory,
        *,
        cluster_id: bytes = bytes(16),
        group_id: int = 0,
        slot_bytes: int = SLOT_BYTES,
        read_only: bool = False,
    ) -> PageFile:
        """Open the page files of a directory, or make them. The directory must be locked by the caller.

        Args:
            directory: where they are. cluster_id: 16 bytes. group_id: whose pages they are.
            slot_bytes: size of a slot in a new file, a multiple of 4,096; an existing file keeps the size it has.
            read_only: nothing is made, mended or written; only `read` and `inspect` may follow, and no lock is needed.

        Raises:
            InvalidOption, ForeignData, NewerFormat: refuse to start. FileWriteFailed: fatal. DiskFull: try later.
            FileReadFailed: the operating system refused.
        """
        if slot_bytes < PAGE_BYTES or slot_bytes % PAGE_BYTES:
            raise InvalidOption("slot_bytes", slot_bytes, f"must be a multiple of {PAGE_BYTES}")
        return cls(PageCopies.open(directory, cluster_id, group_id, slot_bytes, read_only=read_only))

    def adopt(self, kept: Mapping[int, Iterable[StoredPage]]) -> None:
        """Say which slots are in use after a start. Once, before the first `allocate`; with {} for a new file.

        Args:
            kept: the generation of each kept snapshot, and the pages that it names. Those of the highest generation
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
        lengths, checksums = array("I"), array("I")
        self.check_reach(slot for pages in kept.values() for slot, _, _ in pages)
        numbers = sorted(kept, reverse=True)
        for number in numbers:
            newest = number == numbers[0]
            for slot, length, checksum in kept[number]:
                if slot >= len(states):
                    more = slot + 1 - len(states)
                    states.extend(bytes(more))
                    lengths.frombytes(bytes(more * lengths.itemsize))
                    checksums.frombytes(bytes(more * checksums.itemsize))
                if states[slot] == _FREE:
                    states[slot] = _USED if newest else _WAITING
                    lengths[slot], checksums[slot] = length, checksum
                    if not newest:
                        released.setdefault(number, array("Q")).append(slot)
        with self._guard:
            self._states, self._lengths, self._checksums = states, lengths, checksums
            self._released = released
            self._used = states.count(_USED)
            self._waiting = states.count(_WAITING)
            self._number = numbers[0] if numbers else 0
            self._lowest_free = 0
            self._adopted = True

    @property
    def first_page(self) -> bytes:
        """What both files begin with; the slots follow it."""
        return self._copies.first_page

    def offset_of(self, slot: int) -> int:
        """Where a slot begins in both files."""
        return self._copies.offset_of(slot)

    def check_reach(self, slots: Iterable[int]) -> None:
        """Return if the file reaches to all of these slots: what `adopt` asks for, without a change.

        Raises:
            PageCorrupt: the file ends before one of them. ValueError: a slot is negative.
        """
        size = self._copies.size()
        for slot in slots:
            if slot < 0:
                raise ValueError(f"slot {slot} is negative")
            # Of the last slot only the written part need be there.
            if self.offset_of(slot) >= size:
                self._consult_short()
                raise PageCorrupt(self._path, self.offset_of(slot), slot, f"the file ends at {size}")

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
                self._lengths.append(0)
                self._checksums.append(0)
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
                file_bytes=self.offset_of(slots),
                reads=self._reads,
                writes=self._writes,
                written_bytes=self._written_bytes,
                syncs=self._syncs,
                mended=self._mended,
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
                self._lengths[slot] = 0
            try:
                self._copies.write(slot, data)
            except FileWriteFailed as error:
                self._failure = error
                raise
            with self._guard:
                self._lengths[slot], self._checksums[slot] = len(data), checksum
            self._writes += 1
            self._written_bytes += len(data)
            self._note_unsynced(2 * len(data))
        return checksum

    def read(self, slot: int, length: int, checksum: int) -> bytes:
        """The page as it was written, from whichever file has it; the other is mended.

        Raises PageCorrupt (neither has it), FileReadFailed (neither can be read), FileWriteFailed (mending; fatal).
        """
        data, rot = self._copies.read(slot, length, checksum)
        self._reads += 1
        if rot is not None:
            with self._guard:
                known = self._knows(slot, length, checksum)
            if known:
                self._mend(slot, length, checksum)
            else:
                self.on_rot(rot)
        return data

    def inspect(self, page: StoredPage) -> list[Rot]:
        """What is wrong with the page in either file; nothing is changed. Empty: both have it."""
        return [rot for _, rot in self._copies.look(*page)[1]]

    def check(self, slot: int) -> int:
        """Look at a page in both files before anybody needs it, mend one from the other, and return the bytes read.

        0 where the slot is free, or is just being written.

        Raises:
            PageCorrupt, FileReadFailed: neither file has it. `restore` is the way on for who has the bytes.
            FileWriteFailed: mending; fatal.
        """
        with self._guard:
            if not 0 <= slot < len(self._states) or self._states[slot] == _FREE or not self._lengths[slot]:
                return 0
            length, checksum = self._lengths[slot], self._checksums[slot]
        if self._copies.look(slot, length, checksum)[1]:
            self._mend(slot, length, checksum)
        return 2 * length

    def restore(self, slot: int, data: bytes) -> bool:
        """Write a page that neither file has again, from memory; False where that is not what the slot should hold.

        Raises DiskFull, FileWriteFailed.
        """
        with self._disk:
            self._check_usable()
            with self._guard:
                if not self._knows(slot, len(data), crc32c(data)):
                    return False
            try:
                self._copies.write(slot, data)
            except FileWriteFailed as error:
                self._failure = error
                raise
            self._sync()
            self._mended += 1
        return True

    @property
    def slots(self) -> int:
        """Up to the last one that is not free."""
        return len(self._states)

    def forget(self) -> None:
        """Let what is read next come from the disk, not from what the operating system keeps of it in memory."""
        self._copies.forget()

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
                end = self.offset_of(len(self._states))
            # Measured by the file: it may be longer than the table for several reasons.
            excess = self._copies.size() - end
            if excess < SHRINK_SLOTS_MIN * self.slot_bytes:
                return 0
            try:
                self._copies.truncate(end)
            except FileWriteFailed as error:
                self._failure = error
                raise
        return excess

    def close(self) -> None:
        """Close the file, without a sync: what no snapshot names is worth nothing. May be called twice."""
        with self._disk:
            self._closed = True
            self._copies.close()

    # --- Inside
    # ----------------------------------------------------------------------------------------------------------

    def _consult_short(self) -> None:
        """A snapshot names a page behind the file's end: the caller passes over that snapshot."""
        if self.created:
            row = DERIVED.decide(DerivedFile.PAGES, Given.MISSING, Needed.YES)
        else:
            row = FIRST_PAGES.decide(Kind.PAGES, FirstPage.GOOD, Belongs.OURS, Named.RIGHT, Size.SHORTENED)
        assert row.decision is Decision.FALL_BACK, "without its pages a snapshot does not count"

    def _require_used(self, slot: int) -> None:
        if not 0 <= slot < len(self._states) or self._states[slot] != _USED:
            raise ValueError(f"slot {slot} is not in use")

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise FileWriteFailed(*self._failure.args)
        if self._closed:
            raise ValueError("the page file is closed")

    def _knows(self, slot: int, length: int, checksum: int) -> bool:
        """Whether this is what the slot holds now; call it with the guard."""
        if not 0 <= slot < len(self._states) or self._states[slot] == _FREE:
            return False
        return (self._lengths[slot], self._checksums[slot]) == (length, checksum)

    def _mend(self, slot: int, length: int, checksum: int) -> None:
        """Write a page again to the file that lost it, unless the slot holds something else by now. Raises as `check`.

        Slots are written with the same lock, so what is known of this one stays true.
        """
        with self._disk:
            self._check_usable()
            with self._guard:
                if not self._knows(slot, length, checksum):
                    return
            data, rotten = self._copies.look(slot, length, checksum)
            if data is None:
                raise corrupt(rotten[0][1], rotten[1][1])
            found = [self._mend_one(copy, rot, data, checksum) for copy, rot in rotten]
        for rot in found:
            self.on_rot(rot)

    def _mend_one(self, copy: Copy, rot: Rot, data: bytes, checksum: int) -> Rot:
        try:
            self._copies.write_to(copy, rot.offset, data)
            if rot.blank:
                self._note_unsynced(len(data))  # a file that is made anew is filled by many of these
            else:
                self._sync()
        except DiskFull as full:
            return rot._replace(reason=f"{rot.reason}; there is no room to write it again: {full}")
        except FileWriteFailed as error:
            self._failure = error
            raise
        if not rot.blank:
            assert copy.file is not None, "it was just written"
            copy.file.forget()
            again = copy.find(rot.offset, rot.slot, len(data), checksum)
            if isinstance(again, Rot):
                return rot._replace(reason=f"{rot.reason}; written again, it does not read back: {again.reason}")
        self._mended += 1
        return rot._replace(mended=True)

    def _note_unsynced(self, bytes_: int) -> None:
        self._unsynced_bytes += bytes_
        if self._unsynced_bytes >= UNSYNCED_BYTES_MAX:
            self._sync()

    def _sync(self) -> None:
        try:
            self._copies.sync()
        except FileWriteFailed as error:
            self._failure = error
            raise
        self._unsynced_bytes = 0
        self._syncs += 1

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
                    self._lengths[slot] = 0
                self._lowest_free = min(self._lowest_free, min(part))
                self._waiting -= len(part)
            freed += len(part)

    def _cut_tail(self) -> None:
        """Drop free slots from the end of the table: slots behind it are allocated by growing, never found free."""
        states = self._states
        tail = states[-SHRINK_SLOTS_MAX:]
        free = len(tail) - len(tail.rstrip(b"\0"))
        end = len(states) - free
        del states[end:], self._lengths[end:], self._checksums[end:]
