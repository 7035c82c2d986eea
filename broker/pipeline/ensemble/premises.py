"""The data directory of a broker of an ensemble: how its files become a ground, once at the start and again later.

A received snapshot takes the place of log, pages and snapshots together, and a directory that joins a cluster takes
over its id; both times everything is closed, changed and opened again, while the core goes on. A log that is damaged at
the start is set aside, and learned anew from the others. Everything here blocks.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from sluicemq.broker.pipeline.ground import Ground
from sluicemq.storage.errors import LogCorrupt, SnapshotMissing
from sluicemq.storage.installing import discard_incoming
from sluicemq.storage.joining import join_cluster
from sluicemq.storage.log import SegmentLog
from sluicemq.storage.pagefile import PageFile
from sluicemq.storage.setting_aside import remove_set_aside, set_damaged_log_aside
from sluicemq.storage.snapshots import SnapshotStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.storage.files import Directory
    from sluicemq.storage.options import LogOptions

logger = logging.getLogger("sluicemq.premises")


class Premises:
    """One directory and what is open in it.

    Args:
        directory: Where the files are.
        options: Limits of the log.
        settings: Further arguments of `Ground`.

    """

    def __init__(self, directory: Directory, options: LogOptions, **settings: Any) -> None:
        self.directory = directory
        self._options = options
        self._settings = settings
        self._log: SegmentLog | None = None
        self._pages: PageFile | None = None
        self._snapshots: SnapshotStore | None = None

    @property
    def log(self) -> SegmentLog:
        """The open log."""
        assert self._log is not None, "premises are open"
        return self._log

    @property
    def pages(self) -> PageFile:
        """Pages of long indexes."""
        assert self._pages is not None, "premises are open"
        return self._pages

    @property
    def snapshots(self) -> SnapshotStore:
        """Snapshots beside the log."""
        assert self._snapshots is not None, "premises are open"
        return self._snapshots

    def open_first(self, on_failure: Callable[[BaseException], None]) -> Ground:
        """Open everything at the start of the process; a damaged log is set aside, once.

        Raises:
            StorageError: The directory cannot be opened.

        """
        try:
            return self.open(on_failure)
        except (LogCorrupt, SnapshotMissing) as error:
            logger.warning("the log is set aside, and this broker learns everything anew from the others: %s", error)
            damaged_from = error.last_good_zxid + 1 if isinstance(error, LogCorrupt) else 1
        set_damaged_log_aside(self.directory, damaged_from)
        return self.open(on_failure)

    def open(self, on_failure: Callable[[BaseException], None]) -> Ground:
        """Open log, pages and snapshots, and make the machine of the newest snapshot. Raises StorageError."""
        try:
            self._log = log = SegmentLog.open(self.directory, options=self._options)
            self._pages = PageFile.open(self.directory, cluster_id=log.cluster_id)
            self._snapshots = SnapshotStore(self.directory, log.cluster_id)
            return Ground(
                log, pages=self._pages, snapshots=self._snapshots, alone=False, on_failure=on_failure, **self._settings
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close what is open. Raises LogWriteFailed."""
        pages, log = self._pages, self._log
        self._pages = self._snapshots = self._log = None
        try:
            if pages is not None:
                pages.close()
        finally:
            if log is not None:
                log.close()

    def join(self, cluster_id: bytes) -> None:
        """Take over the id of the cluster that is joined; everything is closed, and the log is empty."""
        join_cluster(self.directory, cluster_id)

    def forget_incoming(self) -> None:
        """Remove what was received of a snapshot and is not needed any more. Raises FileWriteFailed."""
        discard_incoming(self.directory)

    def forget_damaged(self) -> None:
        """Remove a damaged log that was set aside, now that it is repaired. Raises OSError."""
        remove_set_aside(self.log, self.directory)
