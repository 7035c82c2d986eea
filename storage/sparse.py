"""Rewritten files of the live store: the entries that are still alive of one or more old files, in one new file.

Why a format of its own: such a file is made once, whole, and never changes, so its first page can say everything that a
reader needs (how far it reaches, where its index lies) and vouch for it. Its records look like those of a segment, each
with its checksum and chained within the file, so one walk reads both. This module knows the format and how to write it;
what is alive, and what the file replaces, is decided elsewhere.

Layout of `sparse-N-M` (it stands for segments N to M): a sealed page, the records, the index table at `end_offset`.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sluicemq.storage.pages import PAGE_BYTES, PageDamaged, seal, unseal
from sluicemq.storage.record import (
    CHAIN_START,
    MARK,
    PADDING,
    Record,
    crc32c,
    encode_head,
    record_size,
    seed_of,
)
from sluicemq.storage.segment_index import SegmentIndex, pack_table, unpack_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.storage.files import File

__all__ = ["SPARSE_FORMAT_VERSION", "SPARSE_NEW_NAME", "SparseHeader", "sparse_name", "sparse_range", "write_sparse"]

SPARSE_FORMAT_VERSION = 1
SPARSE_NEW_NAME = "sparse.new"

_MAGIC = b"SluiceSP"
_BODY = struct.Struct("<16sIIQQQQQQ8sQQI")
_PREFIX = "sparse-"


def sparse_name(first_sequence: int, last_sequence: int) -> str:
    """File name of what stands for these segments; names sort like numbers."""
    return f"{_PREFIX}{first_sequence:016d}-{last_sequence:016d}"


def sparse_range(name: str) -> tuple[int, int] | None:
    """First and last segment in the name of a sparse file, None for other files."""
    if not name.startswith(_PREFIX):
        return None
    first, dash, last = name.removeprefix(_PREFIX).partition("-")
    return (int(first), int(last)) if dash and first.isdigit() and last.isdigit() else None


@dataclass(frozen=True, slots=True)
class SparseHeader:
    """The first page of a sparse file.

    It stands for the entries after `first_previous_zxid` up to `last_zxid`, and holds `records` of them up to
    `end_offset`; `chain` is the chain value at the last one (the chain begins anew in each sparse file). `places` and
    `table_checksum` tell the index table behind them.
    """

    cluster_id: bytes
    group_id: int
    first_sequence: int
    last_sequence: int
    generation: int
    first_previous_zxid: int
    last_zxid: int
    end_offset: int
    chain: bytes
    records: int
    places: int
    table_checksum: int

    def to_page(self) -> bytes:
        """The page as it lies on disk."""
        body = _BODY.pack(
            self.cluster_id,
            self.group_id,
            0,
            self.first_sequence,
            self.last_sequence,
            self.generation,
            self.first_previous_zxid,
            self.last_zxid,
            self.end_offset,
            self.chain,
            self.records,
            self.places,
            self.table_checksum,
        )
        return seal(_MAGIC, SPARSE_FORMAT_VERSION, body)

    @classmethod
    def from_page(cls, page: bytes) -> tuple[int, SparseHeader]:
        """Format version and header. Raises PageDamaged. The header means nothing if the version is not known."""
        version, body = unseal(page, _MAGIC)
        cluster, group, _reserved, *rest = _BODY.unpack_from(body)
        return version, cls(cluster, group, *rest)

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return self.end_offset + 16 * self.places

    def read_index(self, file: File, stride_bytes: int) -> SegmentIndex:
        """The index behind the records. Raises PageDamaged, OSError."""
        table = file.pread(16 * self.places, self.end_offset)
        if len(table) != 16 * self.places or crc32c(table) != self.table_checksum:
            raise PageDamaged("checksum of the index does not match")
        return unpack_table(table, stride_bytes)


def write_sparse(
    file: File, header: SparseHeader, records: Iterable[Record], piece_bytes: int, stride_bytes: int
) -> tuple[SparseHeader, SegmentIndex]:
    """Fill an empty file, durably when this returns; the whole header and the index.

    Of `header` the last five fields are filled in. Written and synced in pieces of about `piece_bytes`, so that the
    log's own syncs wait behind one piece at most, and memory stays bounded however long `records` is. Each piece is
    read back from the disk: what the file replaces was good, and is about to be removed.

    Raises ValueError (a record out of order or outside of what the file stands for), OSError (EIO also where something
    else reads back than was written).
    """
    seed = seed_of(header.generation)
    index = SegmentIndex(stride_bytes)
    previous, chain = header.first_previous_zxid, CHAIN_START
    start = offset = PAGE_BYTES
    count = 0
    buffers: list[bytes] = []
    for record in records:
        if not previous < record.zxid <= header.last_zxid or record.kind == MARK:
            raise ValueError(
                f"entry {record.zxid} of kind {record.kind} cannot follow entry {previous} in a file that stands for "
                f"entries {header.first_previous_zxid} to {header.last_zxid}"
            )
        record = record._replace(header=bytes(record.header), payload=bytes(record.payload))
        head, chain = encode_head(seed, offset, header.last_zxid, previous, chain, record)
        body_bytes = len(record.header) + len(record.payload)
        buffers += (head + record.header, record.payload, PADDING[-body_bytes & 7])
        index.note(record.zxid, offset)
        previous = record.zxid
        offset += record_size(body_bytes)
        count += 1
        if offset - start >= piece_bytes:
            _put_piece(file, buffers, start)
            buffers, start = [], offset
    table = pack_table(index)
    buffers.append(table)
    _put_piece(file, buffers, start)
    whole = SparseHeader(
        header.cluster_id,
        header.group_id,
        header.first_sequence,
        header.last_sequence,
        header.generation,
        header.first_previous_zxid,
        header.last_zxid,
        end_offset=offset,
        chain=chain,
        records=count,
        places=len(index),
        table_checksum=crc32c(table),
    )
    _put_piece(file, [whole.to_page()], 0)
    return whole, index


def _put_piece(file: File, buffers: list[bytes], offset: int) -> None:
    """Write a part of the file, durably, and prove that it is there."""
    file.pwritev(buffers, offset)
    file.sync()
    file.forget()
    data = b"".join(buffers)
    if file.pread(len(data), offset) != data:
        raise OSError(errno.EIO, f"{len(data)} bytes at offset {offset} do not read back as they were written")
