"""Reading a file of the log, or a snapshot, to its last byte, to find what rots before somebody needs it.

Why beside recovery and the tools: those read while nobody writes. Here a broker serves, so files are appended to,
replaced and removed while they are read, and none of that is damage. Work comes in small pieces: each function is an
iterator that says how many bytes it has read since it was last asked, so that whoever drives it can pause. It ends
where all is well, and raises where it is not. Nothing is ever changed. This module knows no threads and no clock.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from sluicemq.storage.errors import FileReadFailed, LogCorrupt, LogReadFailed, SnapshotDamaged
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged
from sluicemq.storage.salvage import opened
from sluicemq.storage.scan import BLANK, Walk, find_traces
from sluicemq.storage.segment import SegmentHeader, segment_name, segment_sequence
from sluicemq.storage.snapshot_file import SectionWalk, snapshot_zxid
from sluicemq.storage.sparse import SparseHeader, sparse_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sluicemq.storage.files import Directory
    from sluicemq.storage.salvage import Opened
    from sluicemq.storage.superblock import Superblock

__all__ = ["entry_files", "scrub_entries", "scrub_snapshot", "snapshot_files"]

READ_BYTES = 256 * 1024
"""Read at once."""
PIECE_BYTES = 64 * 1024
"""Checked between two pauses, about."""


def entry_files(directory: Directory) -> list[str]:
    """Names of all files of entries, old ones first."""
    found = []
    for name in directory.names():
        span, sequence = sparse_range(name), segment_sequence(name)
        if span is not None or sequence is not None:
            found.append((span[0] if span is not None else sequence, name))
    return [name for _, name in sorted(found, key=lambda pair: (pair[0] or 0, pair[1]))]


def snapshot_files(directory: Directory) -> list[str]:
    """Names of all snapshots that count, newest first."""
    return sorted((name for name in directory.names() if snapshot_zxid(name) is not None), reverse=True)


def scrub_entries(
    directory: Directory, superblock: Superblock, name: str, synced_zxid: Callable[[], int]
) -> Iterator[int]:
    """Check every record of a file of the log or the live store.

    Args:
        directory: where it is. superblock: whose cluster and group. name: from `entry_files`.
        synced_zxid: says how far the log is durable now.

    Raises:
        LogCorrupt, LogReadFailed: it is damaged, or cannot be read. ForeignData, NewerFormat: it is somebody else's.
    """
    try:
        # Before reading: what is appended meanwhile need not be there.
        needed = _reach_of(directory, name, synced_zxid)
        with opened(directory, superblock, name) as live:
            if needed is None or _follower(directory, name) is not None:
                live.file.forget()  # what the operating system keeps in memory says nothing about the disk
            yield from _records(live, directory.path_of(name), needed)
    except FileNotFoundError:
        return  # it was given back
    except (LogCorrupt, LogReadFailed):
        # What was given back may be used again, under another name; no file of entries ever gets the name of another.
        if name in directory.names():
            raise
    except OSError as error:
        raise LogReadFailed(directory.path_of(name), 0, error.errno or errno.EIO) from error


def _records(live: Opened, path: str, needed: int | None) -> Iterator[int]:
    walk = Walk(live.file, live.seed, PAGE_BYTES, live.end_offset, live.previous, live.chain, READ_BYTES, bodies=False)
    told = PAGE_BYTES
    try:
        for found in walk:
            if found.end_offset - told >= PIECE_BYTES:
                yield found.end_offset - told
                told = found.end_offset
        last_zxid = walk.last_zxid or live.previous
        if isinstance(live.header, SparseHeader):
            whole = walk.offset == live.end_offset
        elif needed is not None:
            whole = last_zxid >= needed
        else:
            traces = find_traces(live.file, live.seed, walk.offset, live.end_offset, READ_BYTES)
            whole = walk.reason == BLANK and next(traces, None) is None
    except OSError as error:
        raise LogReadFailed(path, walk.offset, error.errno or errno.EIO) from error
    yield walk.offset - told
    if not whole:
        raise LogCorrupt(path, walk.offset, walk.reason, last_zxid)


def _follower(directory: Directory, name: str) -> str | None:
    """The segment behind this one, if it is one and that is there."""
    sequence = segment_sequence(name)
    following = None if sequence is None else segment_name(sequence + 1)
    return following if following in directory.names() else None


def _reach_of(directory: Directory, name: str, synced_zxid: Callable[[], int]) -> int | None:
    """The entry up to which a segment must reach; None where only the file itself can tell."""
    sequence = segment_sequence(name)
    if sequence is None:
        return None
    if sequence == max(each for one in directory.names() if (each := segment_sequence(one)) is not None):
        return synced_zxid()
    following = _follower(directory, name)
    if following is None:
        return None  # the next one was rewritten, or given back
    file = directory.open(following)
    try:
        return SegmentHeader.from_page(file.pread(PAGE_BYTES, 0))[1].first_previous_zxid
    except PageDamaged:
        return None  # that one's own trouble
    finally:
        file.close()


def scrub_snapshot(directory: Directory, cluster_id: bytes, group_id: int, name: str) -> Iterator[int]:
    """Check every section of a snapshot. Raises SnapshotDamaged, FileReadFailed, ForeignData, NewerFormat."""
    path = directory.path_of(name)
    try:
        file = directory.open(name)
    except FileNotFoundError:
        return  # newer ones are kept
    try:
        file.forget()
        walk = SectionWalk(file, path)
        walk.accept_page(cluster_id, group_id)
        for _kind, data in walk.sections():
            yield len(data)
    except (SnapshotDamaged, FileReadFailed):
        if name in directory.names():
            raise
    finally:
        file.close()
