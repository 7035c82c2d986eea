"""Where snapshots for other brokers are read, and those from them received: `links.Stores` of an ensemble.

Everything here may be another object after a snapshot was installed. This module must not know streams.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.pipeline.ensemble.ensemble import Ensemble
    from sluicemq.broker.pipeline.ensemble.premises import Premises
    from sluicemq.broker.replication.membership import Configuration
    from sluicemq.storage.log import SegmentLog
    from sluicemq.storage.pagefile import PageFile
    from sluicemq.storage.snapshots import SnapshotStore


class EnsembleStores:
    """See the module.

    Args:
        ensemble: Whose.
        premises: Its data directory.

    """

    def __init__(self, ensemble: Ensemble, premises: Premises) -> None:
        self._ensemble = ensemble
        self._premises = premises

    @property
    def log(self) -> SegmentLog:
        """The log."""
        return self._premises.log

    @property
    def snapshots(self) -> SnapshotStore:
        """Snapshots beside it."""
        return self._premises.snapshots

    @property
    def pages(self) -> PageFile:
        """Pages that they name."""
        return self._premises.pages

    @contextmanager
    def hold(self) -> Iterator[None]:
        """While it is entered, nothing that is there now leaves the disk."""
        ground = self._ensemble.ground
        assert ground is not None, "nobody is sent a snapshot by a broker that installs one"
        ground.holds += 1
        try:
            yield
        finally:
            ground.holds -= 1

    def configuration_at(self, zxid: int) -> tuple[int, Configuration] | None:
        """Return the last configuration at or before *zxid*, and its entry."""
        return self._ensemble.view.configuration_at(zxid)

    def want_snapshot(self) -> None:
        """Take a snapshot soon."""
        ground = self._ensemble.ground
        if ground is not None and ground.snapshots is not None:
            ground.snapshots.hurry()

    @property
    def installing(self) -> bool:
        """A received snapshot is just taking the log's place, or the directory changes otherwise."""
        return self._ensemble.installing

    def forget_incoming(self) -> None:
        """Remove what was received of a snapshot and is not needed any more; blocks. Raises FileWriteFailed."""
        self._premises.forget_incoming()
