"""The two files that hold every page: `pages`, and `pages-copy` with the same bytes at the same places.

Why twice: a snapshot names pages and does not repeat them, and both kept snapshots name the same ones. When the log no
longer reaches back to what a page was made of, a page that rots in its only place cannot be had again from anywhere.
A page is 64 bytes for each message that was published singly, next to the 200 or more that its entry takes, so a second
copy is the cheapest cure. Two files rather than two slots: whoever loses a whole file, or cuts one off, loses nothing.

This module knows files, first pages and checksums. It must not know which slots are in use, nor threads: whoever writes
or mends holds a lock (`pagefile`). Reading is for any thread.
"""

from __future__ import annotations

import errno
import struct
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
from sluicemq.storage.errors import DiskFull, FileReadFailed, FileWriteFailed, ForeignData, NewerFormat, PageCorrupt
from sluicemq.storage.files import NO_SPACE
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged, seal, unseal

if TYPE_CHECKING:
    from sluicemq.storage.files import Directory, File

__all__ = ["COPY_NAME", "PAGES_NAME", "PAGE_FORMAT_VERSION", "Copy", "PageCopies", "Rot", "corrupt", "write_error"]

PAGES_NAME = "pages"
COPY_NAME = "pages-copy"
PAGE_FORMAT_VERSION = 1

_MAGIC = b"SluicePG"
_BODY = struct.Struct("<16sII")


class Rot(NamedTuple):
    """A page that one of the files does not hold as it was written."""

    file: str
    """Path, for messages."""

    offset: int
    slot: int
    reason: str
    mended: bool
    """It was written again from the other file, and reads as it should."""

    blank: bool
    """Nothing was ever written there: the file is newer than the page, or was made anew. Not a fault of the disk."""

    error_number: int = 0
    """What the operating system said, where it could not be read."""

    def __str__(self) -> str:
        return f"page {self.slot} in {self.file} at offset {self.offset} is damaged: {self.reason}"


class Copy:
    """One of the two files."""

    def __init__(self, name: str, path: str, file: File | None, *, created: bool, repaired: bool) -> None:
        self.name = name
        self.path = path
        self.file = file
        """None: it is not there, and is only looked at."""

        self.created = created
        self.repaired = repaired

    def find(self, offset: int, slot: int, length: int, checksum: int) -> bytes | Rot:
        """The page that begins there, or what is wrong with it."""
        rot = Rot(self.path, offset, slot, "the file is missing", mended=False, blank=True)
        if self.file is None:
            return rot
        try:
            data = self.file.pread(length, offset)
        except OSError as error:
            reason = f"it cannot be read: {error.strerror or error} (errno {error.errno})"
            return rot._replace(reason=reason, blank=False, error_number=error.errno or errno.EIO)
        blank = not data.strip(b"\0")
        if len(data) != length:
            return rot._replace(reason=f"the file ends after {len(data)} of {length} bytes", blank=blank)
        found = crc32c(data)
        if found == checksum:
            return data
        return rot._replace(reason=f"checksum is {found:#010x}, expected {checksum:#010x}", blank=blank)


class PageCopies:
    """Both files, open. Made by `open`."""

    def __init__(self, copies: tuple[Copy, Copy], slot_bytes: int, first_page: bytes) -> None:
        self.both = copies
        self.first_page = first_page
        self.slot_bytes = slot_bytes

    @classmethod
    def open(
        cls, directory: Directory, cluster_id: bytes, group_id: int, slot_bytes: int, *, read_only: bool = False
    ) -> PageCopies:
        """Open both, or make what is missing; `read_only` writes nothing. Raises as `PageFile.open`."""
        names = directory.names()
        missing = [name for name in (PAGES_NAME, COPY_NAME) if name not in names]
        which = DerivedFile.PAGES if len(missing) == 2 else DerivedFile.PAGES_COPY
        # What is named is known when the pages are adopted.
        row = DERIVED.decide(which, Given.MISSING if missing else Given.THERE, Needed.NO)
        assert row.decision in (Decision.REBUILD, Decision.START), "a page file is made where none is"
        found: list[tuple[str, File | None, int | None]] = []
        try:
            for name in (PAGES_NAME, COPY_NAME):
                created = name in missing
                if created and read_only:
                    found.append((name, None, None))
                    continue
                opened = _open(directory, name, create=created)
                found.append((name, opened, None))
                if not created:
                    found[-1] = (name, opened, _accept(opened, directory.path_of(name), cluster_id, group_id))
            sizes = [size for _, _, size in found if size is not None]
            size = sizes[0] if sizes else slot_bytes
            page = seal(_MAGIC, PAGE_FORMAT_VERSION, _BODY.pack(cluster_id, group_id, size))
            copies = []
            for name, file, own_size in found:
                path = directory.path_of(name)
                repaired = own_size != size and name not in missing
                if own_size != size and file is not None and not read_only:
                    _write_first_page(file, path, page)
                copies.append(Copy(name, path, file, created=name in missing, repaired=repaired))
            if not read_only:
                _sync_names(directory)
        except BaseException:
            for _, file, _ in found:
                if file is not None:
                    file.close()
            raise
        return cls((copies[0], copies[1]), size, page)

    @property
    def path(self) -> str:
        """Of the first file, for messages."""
        return self.both[0].path

    @property
    def created(self) -> bool:
        """Neither was there."""
        return all(copy.created for copy in self.both)

    @property
    def repaired(self) -> bool:
        """The first page of one was damaged."""
        return any(copy.repaired for copy in self.both)

    def offset_of(self, slot: int) -> int:
        """Where a slot begins."""
        return PAGE_BYTES + slot * self.slot_bytes

    def size(self) -> int:
        """Size of the larger one: what one of them holds is not lost."""
        return max(copy.file.size() for copy in self.both if copy.file is not None)

    def read(self, slot: int, length: int, checksum: int) -> tuple[bytes, Rot | None]:
        """The page, and what is wrong with the first file's if it had to be taken from the second.

        Raises PageCorrupt (neither has it), FileReadFailed (neither can be read).
        """
        offset = self.offset_of(slot)
        first = self.both[0].find(offset, slot, length, checksum)
        if isinstance(first, bytes):
            return first, None
        second = self.both[1].find(offset, slot, length, checksum)
        if isinstance(second, bytes):
            return second, first
        raise corrupt(first, second)

    def look(self, slot: int, length: int, checksum: int) -> tuple[bytes | None, list[tuple[Copy, Rot]]]:
        """The page as one of them has it (None: neither has), and every file that does not."""
        offset = self.offset_of(slot)
        good: bytes | None = None
        rotten: list[tuple[Copy, Rot]] = []
        for copy in self.both:
            found = copy.find(offset, slot, length, checksum)
            if isinstance(found, bytes):
                good = found
            else:
                rotten.append((copy, found))
        return good, rotten

    def write(self, slot: int, data: bytes) -> None:
        """Write a page to both. Raises DiskFull, FileWriteFailed."""
        offset = self.offset_of(slot)
        for copy in self.both:
            self.write_to(copy, offset, data)

    def write_to(self, copy: Copy, offset: int, data: bytes) -> None:
        """Write to one of them. Raises DiskFull, FileWriteFailed."""
        assert copy.file is not None, "nothing is written where files are only looked at"
        try:
            copy.file.pwritev([data], offset)
        except OSError as error:
            raise write_error(copy.path, "write", error) from error

    def sync(self) -> None:
        """Return when both are durable. Raises FileWriteFailed, for a full disk too: what was written is unknown."""
        for copy in self.both:
            assert copy.file is not None, "nothing is written where files are only looked at"
            try:
                copy.file.sync()
            except OSError as error:
                raise FileWriteFailed(copy.path, "sync", error.errno or errno.EIO) from error

    def truncate(self, end: int) -> None:
        """Cut both off, where they are longer. Raises FileWriteFailed."""
        for copy in self.both:
            assert copy.file is not None, "nothing is cut where files are only looked at"
            try:
                if copy.file.size() > end:
                    copy.file.truncate(end)
            except OSError as error:
                raise write_error(copy.path, "truncate", error) from error

    def forget(self) -> None:
        """Let reads come from the disk, not from what the operating system keeps of it."""
        for copy in self.both:
            if copy.file is not None:
                copy.file.forget()

    def close(self) -> None:
        """Close both, without a sync. May be called twice."""
        for copy in self.both:
            if copy.file is not None:
                copy.file.close()


def corrupt(first: Rot, second: Rot) -> PageCorrupt | FileReadFailed:
    """The error of a page that neither file holds."""
    if first.error_number and second.error_number:
        return FileReadFailed(first.file, first.offset, first.error_number)
    reason = f"{first.reason}; its copy in {second.file} at the same offset is no better: {second.reason}"
    return PageCorrupt(first.file, first.offset, first.slot, reason)


def write_error(path: str, operation: str, error: OSError) -> DiskFull | FileWriteFailed:
    """What a write that failed means: no room, or a broken disk."""
    kind = DiskFull if error.errno in NO_SPACE else FileWriteFailed
    return kind(path, operation, error.errno or errno.EIO)


def _open(directory: Directory, name: str, *, create: bool) -> File:
    try:
        return directory.open(name, create=create)
    except OSError as error:
        raise write_error(directory.path_of(name), "open", error) from error


def _write_first_page(file: File, path: str, page: bytes) -> None:
    try:
        file.pwritev([page], 0)
        file.sync()
    except OSError as error:
        raise write_error(path, "write", error) from error


def _sync_names(directory: Directory) -> None:
    try:
        directory.sync()
    except OSError as error:
        raise write_error(directory.path_of(PAGES_NAME), "write", error) from error


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
