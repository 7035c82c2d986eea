"""A log that goes on as the first of a new cluster, with the files of an old one.

Why: whose majority is lost for good, or who restores a copy, has one log by which others vote. What it is made to be
the only voter of must be another cluster than theirs: under one id two halves could each confirm something else.

The id stands in every file and is compared at every start, so it stays there; the superblock says which one counts
instead (`Superblock.known_as`), in one save with the epoch that is promised. Before that save everything is as it was;
after it, nobody of the old cluster talks to this broker. This module knows no entries: that others vote no more, the
caller appends afterwards.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from sluicemq.storage.errors import FileWriteFailed
from sluicemq.storage.superblock import SUPERBLOCK_NAME

if TYPE_CHECKING:
    from sluicemq.storage.log import SegmentLog

__all__ = ["found_new_cluster"]


def found_new_cluster(log: SegmentLog, cluster_id: bytes, promised_epoch: int) -> None:
    """Let an open log belong to a new cluster, and promise an epoch. For the log thread; durable when this returns.

    Everything that was appended before is durable then too.

    Args:
        log: all of it counts in the new cluster.
        cluster_id: 16 bytes that no other cluster has: of `Directory.unique_id`.
        promised_epoch: at least what was promised already.

    Raises:
        PromiseRegression: nothing was changed. LogWriteFailed, LogClosed. FileWriteFailed: fatal; after a restart the
            log belongs to the one cluster or the other.
    """
    log.sync()
    try:
        log.superblock.save_new_cluster(cluster_id, promised_epoch)
    except OSError as error:
        path = log.path_of(SUPERBLOCK_NAME)
        raise FileWriteFailed(path, "beginning a new cluster", error.errno or errno.EIO) from error
