"""A snapshot on its way in: what the other side sends is checked and written beside the log, by a worker thread.

It says what is missing (`SnapshotWanted`), takes that piece by piece, and is `finish`ed: read back and durable, not in
use. The switch is the driver's. Whatever goes wrong here, the log that is there is untouched, and what is durable of
the snapshot is not sent again.

This module must not know sockets, nor what a snapshot means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sluicemq.broker.pipeline.ensemble.configurations import unpack_configuration
from sluicemq.broker.pipeline.ensemble.links import ReceivedSnapshot
from sluicemq.broker.replication.history import Position
from sluicemq.storage.errors import DiskFull, ForeignData, NewerFormat, SnapshotDamaged, StorageError, format_zxid
from sluicemq.storage.incoming import SOURCE_BYTES
from sluicemq.storage.record import Record
from sluicemq.wire.errors import ProtocolError, ResourceLow, Unavailable
from sluicemq.wire.peers import (
    CHAIN_BYTES,
    FILE_SNAPSHOT,
    SnapshotEntries,
    SnapshotOffer,
    SnapshotPiece,
    SnapshotWanted,
    unpack_entries,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.storage.installing import Installation
    from sluicemq.storage.log import SegmentLog

_Answer = TypeVar("_Answer")

DISK_ERRORS = (StorageError,)
"""Fatal errors of a sink, for those who must not know the storage."""


class SnapshotUnusable(Unavailable):
    """What was sent is not what was announced, or is not for this broker: it is sent anew."""

    code = "snapshot_unusable"


class SnapshotSink:
    """One snapshot on its way in. Everything here blocks, except the attributes; one thread at a time.

    Attributes:
        offer: What the other side announced.
        taken_bytes: Bytes that came in over this stream.

    """

    def __init__(self, offer: SnapshotOffer, installation: Installation) -> None:
        self.offer = offer
        self.taken_bytes = 0
        self._installation = installation
        self._configuration = unpack_configuration(offer.configuration)

    @classmethod
    def begin(cls, log: SegmentLog, offer: SnapshotOffer) -> SnapshotSink:
        """Begin to receive what is offered, or go on where an earlier stream of the same snapshot broke.

        Raises:
            ProtocolError: The offer makes no sense.
            ResourceLow: The disk is full.
            StorageError: The disk fails: fatal.

        """
        if len(offer.chain) != CHAIN_BYTES or len(offer.source) != SOURCE_BYTES or not offer.zxid:
            raise ProtocolError(f"SnapshotOffer at {offer.zxid} with a chain of {len(offer.chain)} bytes")
        unpack_configuration(offer.configuration)
        installation = _guarded(lambda: log.begin_installation(offer.zxid, offer.chain, offer.source))
        try:
            return cls(offer, installation)
        except BaseException:
            installation.close()
            raise

    def wanted(self) -> SnapshotWanted:
        """Return what is missing here."""
        installation = self._installation
        return SnapshotWanted(
            self.offer.session, installation.entries_after, installation.snapshot_bytes, installation.pages_bytes
        )

    def take(self, message: SnapshotEntries | SnapshotPiece, tail: memoryview) -> None:
        """Write one piece.

        Raises:
            ProtocolError: It is not the one that comes next.
            ResourceLow: The disk is full.
            StorageError: The disk fails: fatal.

        """
        if message.session != self.offer.session:
            raise ProtocolError(f"a piece of session {message.session} came among those of {self.offer.session}")
        installation = self._installation
        self.taken_bytes += len(tail)
        if isinstance(message, SnapshotEntries):
            records = [Record(*entry) for entry in unpack_entries(message, tail)]
            _guarded(lambda: installation.add_entries(records))
        elif message.file == FILE_SNAPSHOT:
            self._check_end(message, len(tail), self.offer.snapshot_bytes)
            _guarded(lambda: installation.add_snapshot(message.offset, bytes(tail)))
        else:
            self._check_end(message, len(tail), self.offer.pages_bytes)
            _guarded(lambda: installation.add_pages(message.offset, bytes(tail)))

    def finish(self, peer: int) -> ReceivedSnapshot:
        """Make all of it durable, read it back, and return what the driver needs to know.

        Raises:
            SnapshotUnusable: It is not what was announced; it is thrown away.
            ResourceLow: The disk is full.
            StorageError: The disk fails: fatal.

        """
        offer, installation = self.offer, self._installation
        if installation.snapshot_bytes != offer.snapshot_bytes:
            raise ProtocolError(
                f"the snapshot at {format_zxid(offer.zxid)} ended after {installation.snapshot_bytes} of "
                f"{offer.snapshot_bytes} bytes"
            )
        _guarded(installation.finish)
        return ReceivedSnapshot(
            peer,
            offer.epoch,
            offer.session,
            Position(offer.zxid, offer.chain),
            self._configuration,
            offer.configuration_zxid,
            installation,
        )

    def close(self) -> None:
        """Stop for now; what is durable is not sent again."""
        self._installation.close()

    def _check_end(self, message: SnapshotPiece, size: int, announced_bytes: int) -> None:
        if message.offset + size > announced_bytes:
            raise ProtocolError(
                f"file {message.file} of the snapshot was announced with {announced_bytes} bytes, and a piece ends at "
                f"{message.offset + size}"
            )


def _guarded(work: Callable[[], _Answer]) -> _Answer:
    """Do *work*, and let what only concerns this snapshot be told to whoever sends it."""
    try:
        return work()
    except DiskFull as error:
        raise ResourceLow(f"there is no room for the snapshot: {error}", retry_after=1.0) from error
    except (SnapshotDamaged, ForeignData, NewerFormat) as error:
        raise SnapshotUnusable(f"the snapshot cannot be used: {error}") from error
    except ValueError as error:
        raise ProtocolError(f"a snapshot came out of order: {error}") from error
