"""Who owns a directory: forming a new log in an empty one, and accepting or refusing the data of an old one.

A start that is interrupted while it forms the log is begun anew by the next one; nothing is ever taken for empty
because a part is missing. This module knows no records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.storage.decisions import Decision
from sluicemq.storage.decisions_superblock import (
    BEGINNING,
    OWNER,
    Begun,
    Belongs,
    Copies,
    FirstCopy,
    Leftovers,
    Others,
    SecondCopy,
    SuperblockFile,
)
from sluicemq.storage.errors import LogCorrupt, SuperblockMissing
from sluicemq.storage.names import is_data
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged
from sluicemq.storage.record import CHAIN_START, parse_head, seed_of
from sluicemq.storage.segment import SegmentHeader, install, segment_name
from sluicemq.storage.segment_files import segment_sequences
from sluicemq.storage.spares import SparePool, zero_range
from sluicemq.storage.superblock import SUPERBLOCK_NAME, Generations, Superblock, SuperblockStore

if TYPE_CHECKING:
    from sluicemq.storage.files import Directory
    from sluicemq.storage.options import LogOptions

__all__ = ["begin_log", "create_superblock", "has_entries", "load_superblock"]


def create_superblock(
    directory: Directory, options: LogOptions, cluster_id: bytes | None, group_id: int
) -> SuperblockStore:
    """Write the superblock of an empty directory. Raises SuperblockMissing if it is not empty, OSError."""
    names = [name for name in directory.names() if is_data(name)]
    row = OWNER.decide(
        SuperblockFile.MISSING,
        Others.SOME if names else Others.NONE,
        FirstCopy.DAMAGED,
        SecondCopy.DAMAGED,
        Copies.EQUAL,
        Belongs.OURS,
    )
    if row.decision is Decision.REFUSE:
        raise SuperblockMissing(directory.path_of(SUPERBLOCK_NAME), tuple(names))
    return SuperblockStore.create(
        directory,
        Superblock(
            cluster_id=directory.unique_id() if cluster_id is None else cluster_id,
            incarnation=directory.unique_id(),
            group_id=group_id,
            generation_next=1 + options.generations_reserved,
        ),
    )


def load_superblock(directory: Directory, cluster_id: bytes | None, group_id: int) -> SuperblockStore:
    """Load the superblock, if it is ours. Raises ForeignData, NewerFormat, SuperblockDamaged, OSError."""
    store = SuperblockStore.load(directory, cluster_id, group_id)
    try:
        store.make_durable()
    except BaseException:
        store.close()
        raise
    return store


def begin_log(
    directory: Directory, store: SuperblockStore, pool: SparePool, options: LogOptions, generations: Generations
) -> None:
    """Where the superblock names no segment: make segment 1, and only then let the superblock name it.

    Before that, a start begins anew. Raises LogCorrupt (there are entries, which nothing of ours leaves without naming
    them), OSError.
    """
    begun = Begun.YES if store.current.first_segment else Begun.NO
    found = _first_data(directory) if begun is Begun.NO else None
    blank = Leftovers.BLANK_FIRST if segment_sequences(directory) else Leftovers.NONE
    row = BEGINNING.decide(begun, blank if found is None else Leftovers.DATA)
    if row.decision is Decision.START:
        return
    if row.decision is Decision.REFUSE:
        assert found is not None, "only data is refused"
        reason = "the superblock says that the log was never begun, yet there is data"
        raise LogCorrupt(directory.path_of(found), 0, reason, 0)
    for sequence in segment_sequences(directory):
        directory.unlink(segment_name(sequence))
    generation = generations.take()
    name, file = pool.blank()
    zero_range(file, PAGE_BYTES, min(options.initial_bytes, options.segment_bytes), options.segment_bytes)
    superblock = store.current
    header = SegmentHeader(superblock.cluster_id, superblock.group_id, 1, generation, 0, CHAIN_START)
    install(directory, name, file, header, options.index_stride_bytes).file.close()
    store.save(first_segment=1, last_segment=1)


def _first_data(directory: Directory) -> str | None:
    """A file that cannot come from a start that was interrupted before the log was begun; None without any."""
    for name in directory.names():
        if is_data(name) and (name != segment_name(1) or has_entries(directory, name)):
            return name
    return None


def has_entries(directory: Directory, name: str) -> bool:
    """Whether a segment holds an entry, or may: its header cannot be read. Raises OSError."""
    file = directory.open(name)
    try:
        try:
            _version, header = SegmentHeader.from_page(file.pread(PAGE_BYTES, 0))
        except PageDamaged:
            return True  # a segment gets its name when its header is durable: this is no interrupted start
        return parse_head(file.pread(PAGE_BYTES, PAGE_BYTES), 0, seed_of(header.generation), PAGE_BYTES) is not None
    finally:
        file.close()
