"""Finding the live store again at a start: finish what was begun, then look at the first page of every file.

Why no more than first pages: the records there were durable before the log proper moved on, and there may be very many.
They are verified when they are read. Names tell the rest: `sparse-N-M` stands for everything within N to M, so whatever
else lies there was replaced, and only its removal was interrupted; before anything is removed, the file that stands for
it is read through. Interrupted anywhere, all of this can run again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sluicemq.storage.decisions import Decision
from sluicemq.storage.decisions_files import (
    NAMES,
    ORDER,
    REPLACED,
    Content,
    Kind,
    Neighbour,
    Overlap,
    Replaced,
    Stretch,
)
from sluicemq.storage.errors import LogCorrupt
from sluicemq.storage.files import naming
from sluicemq.storage.first_pages import PageFacts, open_accepted
from sluicemq.storage.live import LiveFile, OpenFiles
from sluicemq.storage.names import purpose_of
from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.storage.record import CHAIN_START, seed_of
from sluicemq.storage.scan import Walk
from sluicemq.storage.segment import SegmentHeader, segment_name, segment_sequence
from sluicemq.storage.segment_files import open_segment
from sluicemq.storage.segment_index import index_name, index_sequence
from sluicemq.storage.spares import Spare, SparePool
from sluicemq.storage.sparse import SPARSE_FORMAT_VERSION, SPARSE_NEW_NAME, SparseHeader, sparse_name, sparse_range

if TYPE_CHECKING:
    from sluicemq.storage.files import Directory, File
    from sluicemq.storage.options import LogOptions
    from sluicemq.storage.superblock import Superblock

__all__ = ["finish_replacements", "open_live", "open_sparse"]


@dataclass(frozen=True, slots=True)
class _Names:
    """What lies in the directory below the log proper."""

    dense: list[int]
    sparse: list[tuple[int, int]]
    indexes: list[int]

    @classmethod
    def of(cls, directory: Directory, first_segment: int) -> _Names:
        dense, sparse, indexes = [], [], []
        for name in directory.names():
            if (sequence := segment_sequence(name)) is not None:
                if sequence < first_segment:
                    dense.append(sequence)
            elif (span := sparse_range(name)) is not None:
                sparse.append(span)
            elif (sequence := index_sequence(name)) is not None:
                indexes.append(sequence)
        # Of two that begin together, the larger first: it stands for the other.
        return cls(sorted(dense), sorted(sparse, key=lambda span: (span[0], -span[1])), sorted(indexes))


def finish_replacements(directory: Directory, superblock: Superblock, pool: SparePool, options: LogOptions) -> int:
    """Remove what was replaced or never finished; returns how many files. Durable when this returns.

    Raises LogCorrupt, ForeignData, NewerFormat, OSError.
    """
    names = _Names.of(directory, superblock.first_segment)
    standing: list[tuple[int, int]] = []
    replaced_sparse: list[tuple[int, int]] = []
    for span in names.sparse:
        stretch = Stretch.WITHIN if 0 < span[0] <= span[1] < superblock.first_segment else Stretch.INTO_LOG
        if not standing or span[0] > standing[-1][1]:
            overlap = Overlap.APART
        else:
            overlap = Overlap.INSIDE if span[1] <= standing[-1][1] else Overlap.ACROSS
        # What it replaced, and whether it is whole, is looked at when all names are known.
        row = REPLACED.decide(stretch, overlap, Replaced.GONE, Content.WHOLE)
        if row.decision is Decision.REFUSE:
            reason = (
                f"it stands for segments of the log, which begins at {superblock.first_segment}"
                if stretch is Stretch.INTO_LOG
                else f"it overlaps with {sparse_name(*standing[-1])}"
            )
            raise LogCorrupt(directory.path_of(sparse_name(*span)), 0, reason, 0)
        (replaced_sparse if row.decision is Decision.FINISH else standing).append(span)
    replaced_dense = [
        sequence for sequence in names.dense if any(first <= sequence <= last for first, last in standing)
    ]
    for span in standing:
        replaces = [*replaced_dense, *(inner[0] for inner in replaced_sparse)]
        if any(span[0] <= sequence <= span[1] for sequence in replaces):
            damage = _damage_of(directory, superblock, span, options)
            content = Content.WHOLE if damage is None else Content.DAMAGED
            row = REPLACED.decide(Stretch.WITHIN, Overlap.APART, Replaced.THERE, content)
            if row.decision is not Decision.FINISH:
                assert damage is not None, "only damage is refused"
                raise damage
    dense = set(names.dense) - set(replaced_dense)
    removed = [SPARSE_NEW_NAME, *map(index_name, names.indexes)]
    there = directory.names()
    removed = [
        name for name in removed if name in there and NAMES.decide(purpose_of(name, dense)).decision is Decision.FINISH
    ]
    unfinished = [name for name in removed if name == SPARSE_NEW_NAME]
    for name in (*removed, *(sparse_name(*span) for span in replaced_sparse)):
        directory.unlink(name)
    if unfinished or replaced_sparse or replaced_dense:
        # One by one: there may be more of them than can be open.
        pool.retire(Spare(segment_name(each), directory.open(segment_name(each))) for each in replaced_dense)
    return len(unfinished) + len(replaced_sparse) + len(replaced_dense)


def open_live(
    directory: Directory, superblock: Superblock, files: OpenFiles, options: LogOptions, start: SegmentHeader
) -> tuple[LiveFile, ...]:
    """The files of the live store in the order of their entries; none of them is left open.

    `start` is the header of the log's first segment. Raises LogCorrupt, ForeignData, NewerFormat, OSError.
    """
    names = _Names.of(directory, superblock.first_segment)
    headers: list[tuple[SegmentHeader | SparseHeader, int, int, int]] = []
    for sequence in names.dense:
        segment = open_segment(directory, superblock, sequence, options.index_stride_bytes, 0)
        segment.file.close()
        headers.append((segment.header, segment.allocated_bytes, sequence, sequence))
    for span in names.sparse:
        file, sparse = open_sparse(directory, superblock, span)
        file.close()
        headers.append((sparse, sparse.file_bytes, *span))
    headers.sort(key=lambda each: each[2])
    found: list[LiveFile] = []
    followers = [(each[0].first_previous_zxid, each[2]) for each in headers]
    followers.append((start.first_previous_zxid, start.sequence))
    for (header, file_bytes, first, last), (next_zxid, next_sequence) in zip(headers, followers[1:], strict=True):
        neighbour = Neighbour.BEFORE if next_zxid < header.first_previous_zxid else Neighbour.BEHIND
        if ORDER.decide(neighbour).decision is Decision.REFUSE:
            name = segment_name(last) if isinstance(header, SegmentHeader) else sparse_name(first, last)
            path = directory.path_of(name)
            raise LogCorrupt(path, 0, f"it begins after segment {next_sequence} does", next_zxid)
        if isinstance(header, SparseHeader):
            last_zxid: int | None = header.last_zxid
        else:
            # A neighbour says where this one ended; without one, its index or its records will.
            last_zxid = next_zxid if next_sequence == last + 1 else None
        found.append(LiveFile(files, header, file_bytes, last_zxid=last_zxid))
    return tuple(found)


def open_sparse(directory: Directory, superblock: Superblock, span: tuple[int, int]) -> tuple[File, SparseHeader]:
    """Open a sparse file and check its first page. Raises LogCorrupt, ForeignData, NewerFormat, OSError."""

    def facts_of(page: bytes, size: int) -> tuple[SparseHeader, PageFacts]:
        version, header = SparseHeader.from_page(page)
        found = header.first_sequence, header.last_sequence
        misnamed = f"the first page is that of {sparse_name(*found)}: a file under a wrong name"
        shortened = f"the file has {size} of {header.file_bytes} bytes: it was shortened"
        return header, PageFacts(
            version,
            header.cluster_id,
            header.group_id,
            misnamed if found != span else "",
            shortened if size < header.file_bytes else "",
            size,
            header.first_previous_zxid,
        )

    file, header, _size = open_accepted(
        directory, sparse_name(*span), Kind.SPARSE, superblock, SPARSE_FORMAT_VERSION, facts_of
    )
    return file, header


def _damage_of(
    directory: Directory, superblock: Superblock, span: tuple[int, int], options: LogOptions
) -> LogCorrupt | None:
    """Read a sparse file through: what it replaced is about to be removed."""
    file, header = open_sparse(directory, superblock, span)
    path = directory.path_of(sparse_name(*span))
    try:
        start, end = header.first_previous_zxid, header.end_offset
        seed = seed_of(header.generation)
        walk = Walk(file, seed, PAGE_BYTES, end, start, CHAIN_START, options.read_bytes, bodies=False)
        with naming(path):
            records = sum(1 for _ in walk)
        if records != header.records or walk.offset != end:
            return LogCorrupt(path, walk.offset, walk.reason, walk.last_zxid or start)
        return None
    finally:
        file.close()
