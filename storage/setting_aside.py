"""A damaged log set aside, so that the broker can learn everything anew from the others without forgetting who it is.

Why: a broker alone refuses to start on a damaged log, and rightly so. One of a cluster can get everything back; but it
must not take part in deciding what was confirmed meanwhile, for it does not know what it has lost. So the superblock
notes the damage, durably, before anything else changes, and the note stays until the replication core says that the
log holds again all that it ever acknowledged. And nothing is thrown away: if so many logs are damaged that nobody can
be taught, an operator needs every file.

The order, all with the log closed:

1. Note the damage in the superblock, and keep a copy of the superblock beside it.
2. Give the log's files other names, last segment first, and sync the directory.
3. Say in the superblock that the log was not begun yet. The next `SegmentLog.open` begins an empty one, with the
   incarnation and the promise of before.

Interrupted between 1 and 3, `SegmentLog.open` refuses to start as before, and this can be done again. This module knows
no records, and not who may lead.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

from sluicemq.storage.errors import FileWriteFailed
from sluicemq.storage.incoming import INCOMING_PREFIX
from sluicemq.storage.names import SET_ASIDE_PREFIX, is_data
from sluicemq.storage.page_copies import COPY_NAME, PAGES_NAME
from sluicemq.storage.segment_index import index_sequence
from sluicemq.storage.superblock import SUPERBLOCK_NAME, SuperblockStore

if TYPE_CHECKING:
    from sluicemq.storage.files import Directory
    from sluicemq.storage.log import SegmentLog

__all__ = ["note_repaired", "remove_set_aside", "set_damaged_log_aside"]

_COPY_NEW_NAME = "superblock-copy.new"


def set_damaged_log_aside(directory: Directory, damaged_from: int, *, cluster_id: bytes | None = None) -> None:
    """Set the log aside; the next `SegmentLog.open` begins an empty one. Durable when this returns.

    Args:
        directory: where the log is; it must be closed.
        damaged_from: the first entry that may be lost, at least 1: what the error said, plus one.
        cluster_id: 16 bytes; the data must be of this cluster. None accepts any.

    Raises:
        DirectoryLocked, SuperblockDamaged, ForeignData, NewerFormat: nothing was changed. FileWriteFailed: fatal.
        ValueError: `damaged_from` is below 1.
    """
    if damaged_from < 1:
        raise ValueError(f"the damage begins at an entry, not at {damaged_from}")
    lock = directory.lock()
    try:
        store = SuperblockStore.load(directory, cluster_id)
        try:
            store.make_durable()
            _set_aside(directory, store, damaged_from)
        except OSError as error:
            path = directory.path_of(error.filename or SUPERBLOCK_NAME)
            raise FileWriteFailed(path, "setting a damaged log aside", error.errno or errno.EIO) from error
        finally:
            store.close()
    finally:
        lock.release()


def _set_aside(directory: Directory, store: SuperblockStore, damaged_from: int) -> None:
    known = store.current.damaged_from
    if not known:
        _keep_superblock(directory, store)
    store.save(damaged_from=min(known, damaged_from) if known else damaged_from)
    for name in reversed(directory.names()):
        if _is_of_the_log(name):
            directory.rename(name, SET_ASIDE_PREFIX + name)
    directory.sync()
    store.forget_log()


def _keep_superblock(directory: Directory, store: SuperblockStore) -> None:
    """As it was before the damage was noted: with it, the files under their old names are the log again."""
    if _COPY_NEW_NAME in directory.names():
        directory.unlink(_COPY_NEW_NAME)
    file = directory.open(_COPY_NEW_NAME, create=True)
    try:
        file.pwritev([replace(store.current).to_page()] * 2, 0)
        file.sync()
    finally:
        file.close()
    directory.rename(_COPY_NEW_NAME, SET_ASIDE_PREFIX + SUPERBLOCK_NAME)
    directory.sync()


def _is_of_the_log(name: str) -> bool:
    if name.startswith((SET_ASIDE_PREFIX, INCOMING_PREFIX)):
        return False
    return is_data(name) or index_sequence(name) is not None or name in (PAGES_NAME, COPY_NAME)


def note_repaired(log: SegmentLog) -> None:
    """Strike out the note: the log holds again all that it ever acknowledged. For the log thread; durable.

    Raises LogWriteFailed, FileWriteFailed, LogClosed.
    """
    log.sync()
    try:
        log.superblock.save(damaged_from=0)
    except OSError as error:
        path = log.path_of(SUPERBLOCK_NAME)
        raise FileWriteFailed(path, "noting that the log is whole", error.errno or errno.EIO) from error


def remove_set_aside(log: SegmentLog, directory: Directory) -> int:
    """Remove what was set aside; returns how many files. Refused with ValueError while the damage is noted.

    Raises OSError.
    """
    if log.superblock.current.damaged_from:
        raise ValueError("what was set aside is needed until the log is whole again")
    names = [name for name in directory.names() if name.startswith(SET_ASIDE_PREFIX)]
    for name in names:
        directory.unlink(name)
    directory.sync()
    return len(names)
