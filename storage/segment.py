"""One segment: a header page that binds the file to its place in the log, and how far its records reach.

Why a page of its own: the header names the generation that all checksums in the file depend on, and must be durable
before the first record. It also repeats the position and chain at which the segment starts: as the segment before is
synced first, a valid header proves that everything before it was durable. This module knows no policy: who rolls, cuts
and recycles stands in `log` and `recovery`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sluicemq.storage.pages import PAGE_BYTES, seal, unseal
from sluicemq.storage.record import seed_of
from sluicemq.storage.segment_index import SegmentIndex

if TYPE_CHECKING:
    from sluicemq.storage.files import Directory, File

__all__ = ["SEGMENT_FORMAT_VERSION", "Segment", "SegmentHeader", "install", "segment_name", "segment_sequence"]

SEGMENT_FORMAT_VERSION = 1

_MAGIC = b"SluiceSG"
_BODY = struct.Struct("<16sIIQQQ8sQ")
_PREFIX = "segment-"


def segment_name(sequence: int) -> str:
    """File name of the segment with this sequence number; names sort like numbers."""
    return f"{_PREFIX}{sequence:016d}"


def segment_sequence(name: str) -> int | None:
    """The sequence number in a segment's file name, None for other files."""
    digits = name.removeprefix(_PREFIX)
    return int(digits) if digits != name and digits.isdigit() else None


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first page of a segment.

    `first_previous_zxid` is the entry before the segment's first; `chain` the chain value there. `file_bytes` is how
    large the file was when it became a segment; it never shrinks, so a smaller one was shortened by somebody. 0: not
    known (written by an early version).
    """

    cluster_id: bytes
    group_id: int
    sequence: int
    generation: int
    first_previous_zxid: int
    chain: bytes
    file_bytes: int = 0

    def to_page(self) -> bytes:
        """The page as it lies on disk."""
        body = _BODY.pack(
            self.cluster_id,
            self.group_id,
            0,
            self.sequence,
            self.generation,
            self.first_previous_zxid,
            self.chain,
            self.file_bytes,
        )
        return seal(_MAGIC, SEGMENT_FORMAT_VERSION, body)

    @classmethod
    def from_page(cls, page: bytes) -> tuple[int, SegmentHeader]:
        """Format version and header. Raises PageDamaged. The header means nothing if the version is not known."""
        version, body = unseal(page, _MAGIC)
        cluster, group, _reserved, *rest = _BODY.unpack_from(body)
        return version, cls(cluster, group, *rest)


_BLANK_PAGE = bytes(PAGE_BYTES)


class Segment:
    """An open segment. The log thread alone changes it; any thread may look places up and read the file.

    A reader takes `last_zxid` first and then trusts all below it: the log thread writes the file, then the index, then
    `end_offset`, then `last_zxid`.
    """

    __slots__ = (
        "allocated_bytes",
        "chain",
        "end_offset",
        "end_reason",
        "file",
        "header",
        "index",
        "last_zxid",
        "seed",
    )

    def __init__(self, file: File, header: SegmentHeader, allocated_bytes: int, index: SegmentIndex) -> None:
        self.file = file
        self.header = header
        self.index = index
        self.seed = seed_of(header.generation)
        self.allocated_bytes = allocated_bytes
        self.end_offset = PAGE_BYTES
        self.last_zxid = header.first_previous_zxid
        self.chain = header.chain
        self.end_reason = ""  # why recovery's walk ended here; for messages

    @property
    def name(self) -> str:
        """File name."""
        return segment_name(self.header.sequence)

    @property
    def first_previous_zxid(self) -> int:
        """The entry before the first."""
        return self.header.first_previous_zxid

    @property
    def first_zxid(self) -> int | None:
        """The first entry in this segment, None while it has none."""
        return self.index.first_zxid

    def pread(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes at the offset. Raises OSError with the file's name."""
        try:
            return self.file.pread(length, offset)
        except OSError as error:
            error.filename = error.filename or self.name
            raise

    def span_of(self, zxid: int) -> tuple[int, int]:
        """Byte range that starts with an entry and contains the entry with this zxid, if the segment holds it."""
        # The end is taken first: what is noted meanwhile lies behind it, and a walk up to there would find it.
        end = self.end_offset
        return self.index.span_of(zxid, end)

    def blank_behind(self, start: int, end: int) -> tuple[bytes, ...]:
        """What to write behind the range, which is about to be written at the segment's end: zeros up to a page's end.

        A page that is not in memory has to be read before a part of it can be written, and the log would wait for that
        beside its syncs; a whole page need not be read. Only where the range enters another page than it begins in.
        """
        blank_bytes = -end % PAGE_BYTES
        if (
            not blank_bytes
            or (start - 1) // PAGE_BYTES == end // PAGE_BYTES
            or end + blank_bytes > self.allocated_bytes
        ):
            return ()
        return (_BLANK_PAGE[:blank_bytes],)

    def without_tail(self, zxid: int, offset: int, chain: bytes) -> Segment:
        """A copy of this segment that ends after this entry at this offset.

        Readers of the old one are not disturbed.
        """
        kept = Segment(self.file, self.header, self.allocated_bytes, self.index.up_to(zxid))
        kept.end_offset = offset
        kept.last_zxid = zxid
        kept.chain = chain
        return kept


def install(directory: Directory, name: str, file: File, header: SegmentHeader, index_stride_bytes: int) -> Segment:
    """Make this file the segment of this header, durably; only then may records go into it. Raises OSError.

    The header is durable before the name, so a segment without a valid header never comes from a power cut.
    """
    allocated_bytes = max(file.size(), PAGE_BYTES)
    header = replace(header, file_bytes=allocated_bytes)
    file.pwritev([header.to_page()], 0)
    file.sync()
    directory.rename(name, segment_name(header.sequence))
    directory.sync()
    return Segment(file, header, allocated_bytes, SegmentIndex(index_stride_bytes))
