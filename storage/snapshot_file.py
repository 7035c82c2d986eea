"""The layout of a snapshot file, and reading it back with every byte verified.

Why apart from the store: a tool that verifies files, and a broker that sends one to another, need the layout without
the deeds. This module never writes, and does not know what sections mean.

A file `snapshot-<zxid, 16 hex digits>`:

- a sealed page: cluster, group, zxid, chain, generation;
- sections, each with a head (kind, number, length, crc32c over head and data) and its data;
- a footer, itself a section of kind 0: number of sections, bytes before the footer, digest over all of these bytes.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from google_crc32c import extend as crc32c_extend
from google_crc32c import value as crc32c

from sluicemq.storage.errors import FileReadFailed, ForeignData, NewerFormat, SnapshotDamaged
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from sluicemq.storage.files import File

__all__ = [
    "FOOTER_KIND",
    "KIND_MAX",
    "PREFIX",
    "REJECTED_PREFIX",
    "SECTION_BYTES_MAX",
    "SNAPSHOT_FORMAT_VERSION",
    "SectionWalk",
    "Snapshot",
    "SnapshotInfo",
    "digest_of_page",
    "encode_footer",
    "encode_head",
    "encode_page",
    "snapshot_name",
    "snapshot_zxid",
    "zxid_behind",
]

SNAPSHOT_FORMAT_VERSION = 1
SECTION_BYTES_MAX = 64 * 1024 * 1024  # what a reader must be ready to hold at once; packers make about 1 MiB
KIND_MAX = 0xFFFFFFFF
FOOTER_KIND = 0
READ_BYTES = 1024 * 1024
PREFIX = "snapshot-"
REJECTED_PREFIX = "rejected-snapshot-"

_MAGIC = b"SluiceSN"
_BODY = struct.Struct("<16sIQ8sQ")
_HEAD = struct.Struct("<IIII")
_HEAD_FRONT = struct.Struct("<III")
_FOOTER = struct.Struct("<QQ16s")


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


def snapshot_name(zxid: int) -> str:
    """The file name of the snapshot at this zxid."""
    return f"{PREFIX}{zxid:016x}"


def snapshot_zxid(name: str) -> int | None:
    """The zxid in a file name; None for files that are no snapshots."""
    return zxid_behind(PREFIX, name)


def zxid_behind(prefix: str, name: str) -> int | None:
    """The zxid behind this prefix of a file name; None where there is none."""
    digits = name.removeprefix(prefix)
    if digits == name or len(digits) != 16 or set(digits) - set("0123456789abcdef"):
        return None
    return int(digits, 16)


def encode_page(cluster_id: bytes, group_id: int, zxid: int, chain: bytes, generation: int) -> bytes:
    """The first page."""
    return seal(_MAGIC, SNAPSHOT_FORMAT_VERSION, _BODY.pack(cluster_id, group_id, zxid, chain, generation))


def encode_head(kind: int, number: int, data: bytes) -> bytes:
    """The head of a section; its checksum covers the data too."""
    front = _HEAD_FRONT.pack(kind, number, len(data))
    return _HEAD.pack(kind, number, len(data), crc32c_extend(crc32c(front), data))


def encode_footer(sections: int, length: int, digest: bytes) -> bytes:
    """The data of the footer: what `digest_of_page` was fed, and how much of it."""
    return _FOOTER.pack(sections, length, digest)


def digest_of_page(page: bytes) -> blake2b:
    """The running digest of a file that begins with this page; feed it heads and data in order."""
    return blake2b(page, digest_size=16)


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
        walk = SectionWalk(self._file, self.info.file)
        walk.take_page()
        return walk.sections()

    def read(self, length: int, offset: int) -> bytes:
        """Bytes of the file as they are: fewer only at its end; for whoever sends it. From any thread.

        Raises FileReadFailed.
        """
        try:
            return self._file.pread(length, offset)
        except OSError as error:
            raise FileReadFailed(self.info.file, offset, error.errno or errno.EIO) from error

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SectionWalk:
    """Reads a file from its start to the footer, checking everything on the way."""

    def __init__(self, file: File, path: str) -> None:
        self.count = 0
        """Sections so far."""

        self.offset = 0
        """Of the next byte to take."""

        self._file = file
        self._path = path
        self._buffer = b""
        self._position = 0
        self._digest = digest_of_page(b"")

    def accept_page(self, cluster_id: bytes, group_id: int) -> tuple[int, bytes, int]:
        """Read the first page: zxid, chain, generation.

        Raises SnapshotDamaged, FileReadFailed, ForeignData, NewerFormat.
        """
        try:
            version, body = unseal(self.take_page(), _MAGIC)
        except PageDamaged as damage:
            raise SnapshotDamaged(self._path, 0, str(damage)) from None
        if version > SNAPSHOT_FORMAT_VERSION:
            raise NewerFormat(self._path, version, SNAPSHOT_FORMAT_VERSION)
        found_cluster, found_group, zxid, chain, generation = _BODY.unpack_from(body)
        if found_cluster != cluster_id:
            raise ForeignData(self._path, "cluster", cluster_id.hex(), found_cluster.hex())
        if found_group != group_id:
            raise ForeignData(self._path, "group", str(group_id), str(found_group))
        return zxid, chain, generation

    def take_page(self) -> bytes:
        """Read the first page without a look at it. Raises SnapshotDamaged, FileReadFailed."""
        page = self._take(PAGE_BYTES, "the first page")
        self._digest.update(page)
        return page

    def sections(self) -> Iterator[tuple[int, bytes]]:
        """Kind and data of each section; ends when the footer was verified. Raises SnapshotDamaged, FileReadFailed."""
        while True:
            start, number = self.offset, self.count + 1
            head = self._take(_HEAD.size, f"the head of section {number}")
            kind, found, length, checksum = _HEAD.unpack(head)
            if found != number or length > SECTION_BYTES_MAX:
                raise SnapshotDamaged(self._path, start, f"no head of section {number}")
            data = self._take(length, f"section {number}")
            if crc32c_extend(crc32c(head[: _HEAD_FRONT.size]), data) != checksum:
                raise SnapshotDamaged(self._path, start, f"checksum of section {number} does not match")
            if kind == FOOTER_KIND:
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
