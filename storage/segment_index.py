"""Where in a file the entries lie, one in every so many bytes; in memory while a file grows, in `index-N` afterwards.

Why a file: the records of an old segment are never read through again at a start, yet one of them must be found with a
short walk. An index is derived data: it is written without a sync, and what is missing or damaged is rebuilt from the
records. Why only for segments of the live store: they never change any more, and their numbers are never used again,
so an index cannot speak of another content. This module knows no records and no policy.

Layout of `index-N`: a sealed page that binds the table to its segment (number, generation) and says where the segment
ends, then the table: all zxids, then all offsets, little-endian u64.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sluicemq.storage.decisions_files import FirstPage, Kind, Named, Size
from sluicemq.storage.decisions_superblock import Belongs
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged, seal, unseal
from sluicemq.storage.record import crc32c

if TYPE_CHECKING:
    from sluicemq.storage.files import File

__all__ = [
    "INDEX_FORMAT_VERSION",
    "IndexUnfit",
    "SealedIndex",
    "SegmentIndex",
    "index_name",
    "index_sequence",
    "pack_table",
    "unpack_table",
]

INDEX_FORMAT_VERSION = 1

_MAGIC = b"SluiceIX"
_BODY = struct.Struct("<QQQQQ8sQI")
_PREFIX = "index-"
_PLACE_BYTES = 16


def index_name(sequence: int) -> str:
    """File name of the index of the segment with this sequence number."""
    return f"{_PREFIX}{sequence:016d}"


def index_sequence(name: str) -> int | None:
    """The sequence number in an index file's name, None for other files."""
    digits = name.removeprefix(_PREFIX)
    return int(digits) if digits != name and digits.isdigit() else None


class IndexUnfit(PageDamaged):
    """An index file that cannot be used; `seen` is what the table of first pages is asked."""

    def __init__(
        self,
        text: str,
        page: FirstPage = FirstPage.GOOD,
        named: Named = Named.RIGHT,
        size: Size = Size.WHOLE,
    ) -> None:
        super().__init__(text)
        self.seen = (Kind.INDEX, page, Belongs.OURS, named, size)


class SegmentIndex:
    """Places of some entries of one file, ascending. One thread notes; any thread may look up meanwhile."""

    __slots__ = ("_offsets", "_stride", "_zxids")

    def __init__(self, stride_bytes: int, zxids: array[int] | None = None, offsets: array[int] | None = None) -> None:
        self._stride = stride_bytes
        self._zxids = array("Q") if zxids is None else zxids
        self._offsets = array("Q") if offsets is None else offsets

    def __len__(self) -> int:
        return len(self._zxids)

    @property
    def first_zxid(self) -> int | None:
        """The first entry, None while there is none."""
        return self._zxids[0] if self._zxids else None

    @property
    def memory_bytes(self) -> int:
        """Memory of the table."""
        return _PLACE_BYTES * len(self._zxids)

    def note(self, zxid: int, offset: int) -> None:
        """An entry lies here. Remembered if the last remembered one is a stride away."""
        offsets = self._offsets
        if not offsets or offset - offsets[-1] >= self._stride:
            # Readers search zxids first, so the offset must be there before.
            offsets.append(offset)
            self._zxids.append(zxid)

    def span_of(self, zxid: int, end_offset: int) -> tuple[int, int]:
        """Byte range that starts with an entry and contains the entry with this zxid, if the file holds it.

        `end_offset` is where the file's last entry ends.
        """
        zxids = self._zxids
        position = bisect_right(zxids, zxid)
        start = self._offsets[position - 1] if position else PAGE_BYTES
        return start, self._offsets[position] if position < len(zxids) else end_offset

    def up_to(self, zxid: int) -> SegmentIndex:
        """A copy without the entries behind this one."""
        count = bisect_right(self._zxids, zxid)
        return SegmentIndex(self._stride, self._zxids[:count], self._offsets[:count])

    def columns(self) -> tuple[array[int], array[int]]:
        """Zxids and offsets."""
        return self._zxids, self._offsets


def pack_table(index: SegmentIndex) -> bytes:
    """The table as it lies on disk."""
    return b"".join(_little_endian(column).tobytes() for column in index.columns())


def unpack_table(data: bytes, stride_bytes: int) -> SegmentIndex:
    """An index from a table whose checksum was right."""
    half = len(data) // 2
    columns = []
    for piece in (data[:half], data[half:]):
        column = array("Q")
        column.frombytes(piece)
        columns.append(_little_endian(column))
    return SegmentIndex(stride_bytes, *columns)


def _little_endian(column: array[int]) -> array[int]:
    if sys.byteorder == "little":
        return column
    column = column[:]
    column.byteswap()
    return column


@dataclass(frozen=True, slots=True)
class SealedIndex:
    """The index of a file that never changes any more, with where it ends: `end_offset`, `last_zxid` and the `chain`
    value there."""

    index: SegmentIndex
    end_offset: int
    last_zxid: int
    chain: bytes

    def write(self, file: File, sequence: int, generation: int, first_previous_zxid: int) -> None:
        """Write it into an empty file, for the segment with this header; not synced. Raises OSError."""
        table = pack_table(self.index)
        body = _BODY.pack(
            sequence,
            generation,
            first_previous_zxid,
            self.last_zxid,
            self.end_offset,
            self.chain,
            len(self.index),
            crc32c(table),
        )
        file.pwritev([seal(_MAGIC, INDEX_FORMAT_VERSION, body), table], 0)

    @classmethod
    def read(cls, file: File, sequence: int, generation: int, stride_bytes: int) -> SealedIndex:
        """Read the index of this segment. Raises IndexUnfit where it is not whole or of another segment, OSError."""
        try:
            version, body = unseal(file.pread(PAGE_BYTES, 0), _MAGIC)
        except PageDamaged as damage:
            raise IndexUnfit(str(damage), FirstPage.DAMAGED) from None
        if version != INDEX_FORMAT_VERSION:
            raise IndexUnfit(f"format version {version}", FirstPage.NEWER)
        found, its_generation, _first_previous, last_zxid, end_offset, chain, count, checksum = _BODY.unpack_from(body)
        if (found, its_generation) != (sequence, generation):
            raise IndexUnfit(f"index of segment {found} of generation {its_generation}", named=Named.WRONG)
        table = file.pread(count * _PLACE_BYTES, PAGE_BYTES)
        if len(table) != count * _PLACE_BYTES or crc32c(table) != checksum:
            raise IndexUnfit("checksum of the table does not match", size=Size.SHORTENED)
        return cls(unpack_table(table, stride_bytes), end_offset, last_zxid, chain)
