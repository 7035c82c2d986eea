"""Who owns a directory: forming a new log in an empty one, and accepting or refusing the data of an old one.

A start that is interrupted while it forms the log is begun anew by the next one; nothing is ever taken for empty
because a part is missing. This module knows no records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.storage.errors import ForeignData, SuperblockMissing
from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.storage.record import CHAIN_START
from sluicemq.storage.segment import SegmentHeader, install, segment_name
from sluicemq.storage.segment_files import segment_sequences
from sluicemq.storage.spares import SparePool, zero_range
from sluicemq.storage.sparse import sparse_range
from sluicemq.storage.superblock import SUPERBLOCK_NAME, Generations, Superblock, SuperblockStore

if TYPE_CHECKING:
    from sluicemq.storage.files import Directory
    from sluicemq.storage.options import LogOptions

__all__ = ["create_superblock", "load_superblock", "make_first_segment"]


def create_superblock(
    directory: Directory, options: LogOptions, cluster_id: bytes | None, group_id: int
) -> SuperblockStore:
    """Write the superblock of an empty directory. Raises SuperblockMissing if it is not empty, OSError."""
    names = [segment_name(sequence) for sequence in segment_sequences(directory)]
    names += [name for name in directory.names() if sparse_range(name) is not None]
    if names:
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
    store = SuperblockStore.load(directory)
    found = store.current
    path = directory.path_of(SUPERBLOCK_NAME)
    try:
        if cluster_id is not None and cluster_id != found.cluster_id:
            raise ForeignData(path, "cluster", cluster_id.hex(), found.cluster_id.hex())
        if group_id != found.group_id:
            raise ForeignData(path, "group", str(group_id), str(found.group_id))
        store.make_durable()
    except BaseException:
        store.close()
        raise
    return store


def make_first_segment(
    directory: Directory, store: SuperblockStore, pool: SparePool, options: LogOptions, generations: Generations
) -> None:
    """Make segment 1, and only then let the superblock name it: before that, a start begins anew. Raises OSError."""
    for sequence in segment_sequences(directory):
        directory.unlink(segment_name(sequence))
    generation = generations.take()
    name, file = pool.blank()
    zero_range(file, PAGE_BYTES, min(options.initial_bytes, options.segment_bytes), options.segment_bytes)
    superblock = store.current
    header = SegmentHeader(superblock.cluster_id, superblock.group_id, 1, generation, 0, CHAIN_START)
    install(directory, name, file, header, options.index_stride_bytes).file.close()
    store.save(first_segment=1, last_segment=1)
