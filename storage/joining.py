"""An empty directory takes over the id of the cluster that it joins.

Why: a directory invents an id when it is made, before anybody knows whether it founds a cluster or joins one. Until its
log holds an entry, that id means nothing; from the first entry on it never changes.

The order, with the log closed: what bears the old id goes (it holds nothing), then the superblock says the new one and
that no log was begun. Interrupted before that, the directory is as it was; the next `SegmentLog.open` begins the log.
This module knows no records but that there is none.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from sluicemq.storage.errors import FileWriteFailed
from sluicemq.storage.forming import has_entries
from sluicemq.storage.names import is_data
from sluicemq.storage.page_copies import COPY_NAME, PAGES_NAME
from sluicemq.storage.segment import segment_sequence
from sluicemq.storage.superblock import SUPERBLOCK_NAME, SuperblockStore

if TYPE_CHECKING:
    from sluicemq.storage.files import Directory

__all__ = ["join_cluster"]

CLUSTER_ID_BYTES = 16


def join_cluster(directory: Directory, cluster_id: bytes) -> None:
    """Let an empty directory belong to this cluster. Incarnation and promise stay. Durable when this returns.

    Args:
        directory: where the log is; it must be closed and hold no entry.
        cluster_id: 16 bytes.

    Raises:
        ValueError: the id is none, or the log holds entries: nothing was changed. DirectoryLocked, SuperblockDamaged,
            NewerFormat: nothing was changed. FileWriteFailed: fatal.
    """
    if len(cluster_id) != CLUSTER_ID_BYTES:
        raise ValueError(f"an id of a cluster has {CLUSTER_ID_BYTES} bytes, not {len(cluster_id)}")
    lock = directory.lock()
    try:
        store = SuperblockStore.load(directory)
        try:
            _join(directory, store, cluster_id)
        except OSError as error:
            path = directory.path_of(error.filename or SUPERBLOCK_NAME)
            raise FileWriteFailed(path, "joining a cluster", error.errno or errno.EIO) from error
        finally:
            store.close()
    finally:
        lock.release()


def _join(directory: Directory, store: SuperblockStore, cluster_id: bytes) -> None:
    segments = [name for name in directory.names() if segment_sequence(name) is not None]
    others = [name for name in directory.names() if is_data(name) and name not in segments]
    if others or len(segments) > 1 or any(has_entries(directory, name) for name in segments):
        raise ValueError(f"the log holds entries of cluster {store.current.cluster_id.hex()}: it can join no other")
    store.make_durable()
    for name in (PAGES_NAME, COPY_NAME):
        if name in directory.names():
            directory.unlink(name)
    directory.sync()
    store.forget_log(cluster_id)
