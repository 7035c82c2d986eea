"""Getting past damage on purpose: what can still be read of a file, and putting a directory in order without the rest.

Why apart from recovery: recovery never loses anything, so it refuses; this module is what an operator asks for by name,
once he has seen what is lost. Every function here is for a directory that is locked and that no broker uses. Damaged
files are never removed: whoever calls has kept them aside before. This module knows no kinds.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.storage.errors import StorageError
from sluicemq.storage.live_recovery import open_sparse
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged
from sluicemq.storage.record import CHAIN_START, MARK, Record, encode_head, seed_of
from sluicemq.storage.scan import Walk, find_traces
from sluicemq.storage.segment import SegmentHeader, segment_name, segment_sequence
from sluicemq.storage.segment_files import open_segment
from sluicemq.storage.sparse import SPARSE_NEW_NAME, SparseHeader, sparse_name, sparse_range, write_sparse
from sluicemq.storage.superblock import Superblock, SuperblockStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sluicemq.storage.files import Directory, File
    from sluicemq.storage.scan import Found, Readable

__all__ = [
    "Opened",
    "anything_behind",
    "guess_superblock",
    "missing_between",
    "opened",
    "put_segment",
    "put_sparse",
    "put_superblock",
    "readable_records",
    "record_of",
]

READ_BYTES = 4 * 1024 * 1024
GENERATIONS_MARGIN = 1_000_000


class Opened(NamedTuple):
    """A segment or rewritten file, open for reading past its damage."""

    file: File
    header: SegmentHeader | SparseHeader
    seed: int
    previous: int
    chain: bytes
    end_offset: int


@contextmanager
def opened(directory: Directory, superblock: Superblock, name: str) -> Iterator[Opened]:
    """Open a file of entries, whatever lies behind its first page. Raises LogCorrupt, ForeignData, NewerFormat."""
    span, sequence = sparse_range(name), segment_sequence(name)
    header: SegmentHeader | SparseHeader
    if span is not None:
        file, header = open_sparse(directory, superblock, span)
        chain, end = CHAIN_START, header.end_offset
    else:
        assert sequence is not None
        segment = open_segment(directory, superblock, sequence, 1 << 30, 0)
        file, header, chain, end = segment.file, segment.header, segment.header.chain, segment.allocated_bytes
    try:
        yield Opened(file, header, seed_of(header.generation), header.first_previous_zxid, chain, end)
    finally:
        file.close()


def readable_records(file: Readable, seed: int, end_offset: int) -> Iterator[Found]:
    """Every whole entry of a file, in order, passing over what is damaged. Raises OSError."""
    offset, last_zxid = PAGE_BYTES, -1
    while True:
        walk = Walk(file, seed, offset, end_offset, None, None, READ_BYTES)
        for found in walk:
            if found.kind != MARK and found.zxid > last_zxid:
                last_zxid = found.zxid
                yield found
        for trace in find_traces(file, seed, walk.offset, end_offset, READ_BYTES):
            probe = Walk(file, seed, trace.offset, end_offset, None, None, PAGE_BYTES)
            if next(iter(probe), None) is not None:
                offset = trace.offset
                break
        else:
            return


def missing_between(records: Iterable[Found], previous: int, end: int | None) -> Iterator[tuple[int, int]]:
    """First and last of each stretch of entries that is missing among these records, by what each says came before it.

    `previous` is the entry before all of them, `end` the last that should be there (None: not known).
    """
    for found in records:
        if found.previous_zxid > previous:
            yield previous + 1, found.previous_zxid
        previous = found.zxid
    if end is not None and end > previous:
        yield previous + 1, end


def anything_behind(live: Opened, walk: Walk) -> bool:
    """Whether traces of entries lie behind the place where a walk through the file ended. Raises OSError."""
    return next(find_traces(live.file, live.seed, walk.offset, live.end_offset, READ_BYTES), None) is not None


def record_of(found: Found) -> Record:
    """The entry of a record that was found."""
    return Record(found.zxid, found.kind, found.kind_version, found.flags, found.header, found.payload)


def put_sparse(directory: Directory, header: SparseHeader, records: Iterable[Record]) -> SparseHeader:
    """Write a rewritten file of these records; durable under its name when this returns.

    Raises ValueError (a record out of order or range), OSError.
    """
    if SPARSE_NEW_NAME in directory.names():
        directory.unlink(SPARSE_NEW_NAME)
    file = directory.open(SPARSE_NEW_NAME, create=True)
    try:
        whole, _index = write_sparse(file, header, records, READ_BYTES, 32 * 1024)
    finally:
        file.close()
    directory.rename(SPARSE_NEW_NAME, sparse_name(header.first_sequence, header.last_sequence))
    directory.sync()
    return whole


def put_segment(directory: Directory, header: SegmentHeader, records: Sequence[Record], size: int) -> None:
    """Write a segment with this header and these entries; durable under its name when this returns. Raises OSError."""
    seed, offset = seed_of(header.generation), PAGE_BYTES
    previous, chain = header.first_previous_zxid, header.chain
    buffers: list[bytes] = []
    for record in records:
        head, chain = encode_head(seed, offset, previous, previous, chain, record)
        body = head + record.header + record.payload
        body += bytes(-len(body) & 7)
        buffers.append(body)
        offset += len(body)
        previous = record.zxid
    name = "segment.new"
    if name in directory.names():
        directory.unlink(name)
    file = directory.open(name, create=True)
    try:
        _fill(file, header, buffers, max(size, offset))
    finally:
        file.close()
    directory.rename(name, segment_name(header.sequence))
    directory.sync()


def _fill(file: File, header: SegmentHeader, buffers: list[bytes], size: int) -> None:
    file.truncate(size)
    if buffers:
        file.pwritev(buffers, PAGE_BYTES)
    file.pwritev([replace(header, file_bytes=size).to_page()], 0)
    file.sync()


def guess_superblock(directory: Directory) -> Superblock | None:
    """The superblock that the other files speak of; None where no first page can be read.

    The log is taken to begin with the first of the last segments that have no gap between them. What it does not know:
    the promised epoch beyond that of the last entry, and how far the log was durable.
    """
    rewritten = [span for name in directory.names() if (span := sparse_range(name)) is not None]
    headers: dict[int, SegmentHeader] = {}
    sequences = sorted(each for name in directory.names() if (each := segment_sequence(name)) is not None)
    for sequence in sequences:
        file = directory.open(segment_name(sequence))
        try:
            headers[sequence] = SegmentHeader.from_page(file.pread(PAGE_BYTES, 0))[1]
        except PageDamaged:
            pass
        finally:
            file.close()
    if not headers:
        return None
    first = last = sequences[-1]
    floor = max((span[1] for span in rewritten), default=0)
    while first - 1 in sequences and first - 1 > floor:
        first -= 1
    some = headers[max(headers)]
    return Superblock(
        cluster_id=some.cluster_id,
        incarnation=directory.unique_id(),
        group_id=some.group_id,
        generation_next=max(header.generation for header in headers.values()) + GENERATIONS_MARGIN,
        promised_epoch=(some.first_previous_zxid >> 32) + 1,
        first_segment=first,
        last_segment=last,
    )


def put_superblock(directory: Directory, superblock: Superblock) -> None:
    """Write a superblock where none can be read any more; durable when this returns. Raises OSError, StorageError."""
    try:
        store = SuperblockStore.load(directory)
    except (OSError, StorageError):
        pass  # there is none, or it cannot be read
    else:
        store.close()
        superblock = _after(superblock, store.current)
    SuperblockStore.create(directory, superblock).close()


def _after(superblock: Superblock, current: Superblock) -> Superblock:
    return replace(superblock, sequence=current.sequence + 1)
