"""Files that stand for what a repair gave up, so that a start does not look for it again.

Why: messages that a repair gives up are settled in the log, but those that are delayed or retained stay alive in the
machine, and a start that finds them in no file refuses. An empty rewritten file in place of the missing ones says that
their entries are known to be gone. This module must not know what is lost, nor why: it is told.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.commands.log_others import live_names
from sluicemq.storage.salvage import opened, put_sparse, readable_records
from sluicemq.storage.segment import segment_name
from sluicemq.storage.sparse import SparseHeader, sparse_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.commands.log_files import ReadOnlyDirectory
    from sluicemq.storage.files import Directory
    from sluicemq.storage.superblock import SuperblockStore

__all__ = ["stand_for_missing"]


class _Stretch(NamedTuple):
    """What one file stands for: segments, the entry before its first, and its last entry (None: the next one says)."""

    first_sequence: int
    last_sequence: int
    previous_zxid: int
    last_zxid: int | None


def stand_for_missing(
    directory: Directory, reader: ReadOnlyDirectory, store: SuperblockStore, lost: Sequence[tuple[int, int]]
) -> list[str]:
    """Write an empty file into each gap between old files in which something is *lost*; return their names. Durable.

    Args:
        directory: The locked directory.
        reader: Reads the same one.
        store: Its superblock, which gives generations.
        lost: First and last zxids.

    Raises:
        OSError: A file cannot be read or written.
        StorageError: A file that is left cannot be opened.

    """
    now = store.current
    stretches = [_Stretch(0, 0, 0, 0)]
    for name in (*live_names(reader, now), segment_name(now.first_segment)):
        with opened(reader, now, name) as each:
            header = each.header
            if isinstance(header, SparseHeader):
                stretches.append(_Stretch(header.first_sequence, header.last_sequence, each.previous, header.last_zxid))
            else:
                stretches.append(_Stretch(header.sequence, header.sequence, each.previous, None))
    written = []
    for before, behind in pairwise(stretches):
        first, last = before.last_sequence + 1, behind.first_sequence - 1
        if first > last or not any(begin <= behind.previous_zxid and before.previous_zxid < end for begin, end in lost):
            continue
        end = before.last_zxid
        if end is None:
            with opened(reader, now, segment_name(before.last_sequence)) as dense:
                end = max(
                    (found.zxid for found in readable_records(dense.file, dense.seed, dense.end_offset)),
                    default=dense.previous,
                )
        if end >= behind.previous_zxid:
            continue
        generation = store.current.generation_next
        store.save(generation_next=generation + 1)
        begin, until = end, behind.previous_zxid
        empty = SparseHeader(now.cluster_id, now.group_id, first, last, generation, begin, until, 0, b"", 0, 0, 0)
        put_sparse(directory, empty, ())
        written.append(sparse_name(first, last))
    return written
