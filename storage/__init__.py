"""The durable log of a broker: segments, superblock, recovery. Synchronous; no event loop, no clock, no randomness of
its own.

Start reading at `log.py`; `files.py` is the line to the operating system, behind which the tests put a simulated disk.
"""

from __future__ import annotations

if __name__ != "sluicemq.storage":
    raise ImportError(
        f"this package is imported as sluicemq.storage, not {__name__}: install the project first (pip install -e .)"
    )

from sluicemq.storage.errors import DirectoryLocked as DirectoryLocked
from sluicemq.storage.errors import DiskFull as DiskFull
from sluicemq.storage.errors import EntryTooLarge as EntryTooLarge
from sluicemq.storage.errors import EpochExhausted as EpochExhausted
from sluicemq.storage.errors import FileReadFailed as FileReadFailed
from sluicemq.storage.errors import FileWriteFailed as FileWriteFailed
from sluicemq.storage.errors import ForeignData as ForeignData
from sluicemq.storage.errors import InvalidOption as InvalidOption
from sluicemq.storage.errors import LogClosed as LogClosed
from sluicemq.storage.errors import LogCorrupt as LogCorrupt
from sluicemq.storage.errors import LogReadFailed as LogReadFailed
from sluicemq.storage.errors import LogWriteFailed as LogWriteFailed
from sluicemq.storage.errors import NewerFormat as NewerFormat
from sluicemq.storage.errors import NotInLiveStore as NotInLiveStore
from sluicemq.storage.errors import PageCorrupt as PageCorrupt
from sluicemq.storage.errors import PromiseRegression as PromiseRegression
from sluicemq.storage.errors import SnapshotContradictsLog as SnapshotContradictsLog
from sluicemq.storage.errors import SnapshotDamaged as SnapshotDamaged
from sluicemq.storage.errors import SnapshotInProgress as SnapshotInProgress
from sluicemq.storage.errors import SnapshotMissing as SnapshotMissing
from sluicemq.storage.errors import SnapshotNotNewer as SnapshotNotNewer
from sluicemq.storage.errors import SpareNotPrepared as SpareNotPrepared
from sluicemq.storage.errors import StorageError as StorageError
from sluicemq.storage.errors import SuperblockDamaged as SuperblockDamaged
from sluicemq.storage.errors import SuperblockMissing as SuperblockMissing
from sluicemq.storage.errors import ZxidGap as ZxidGap
from sluicemq.storage.errors import ZxidNotFound as ZxidNotFound
from sluicemq.storage.files import Directory as Directory
from sluicemq.storage.files import DirectoryLock as DirectoryLock
from sluicemq.storage.files import File as File
from sluicemq.storage.files import RealDirectory as RealDirectory
from sluicemq.storage.files import RealFile as RealFile
from sluicemq.storage.installing import Installation as Installation
from sluicemq.storage.installing import discard_incoming as discard_incoming
from sluicemq.storage.live import LiveFile as LiveFile
from sluicemq.storage.live import LiveKind as LiveKind
from sluicemq.storage.log import SegmentLog as SegmentLog
from sluicemq.storage.options import Cut as Cut
from sluicemq.storage.options import LogOptions as LogOptions
from sluicemq.storage.options import LogStatistics as LogStatistics
from sluicemq.storage.options import RecoveryReport as RecoveryReport
from sluicemq.storage.pagefile import PageFile as PageFile
from sluicemq.storage.pagefile import PageFileStatistics as PageFileStatistics
from sluicemq.storage.record import Record as Record
from sluicemq.storage.setting_aside import note_repaired as note_repaired
from sluicemq.storage.setting_aside import remove_set_aside as remove_set_aside
from sluicemq.storage.setting_aside import set_damaged_log_aside as set_damaged_log_aside
from sluicemq.storage.snapshot_file import Snapshot as Snapshot
from sluicemq.storage.snapshot_file import SnapshotInfo as SnapshotInfo
from sluicemq.storage.snapshots import SnapshotStatistics as SnapshotStatistics
from sluicemq.storage.snapshots import SnapshotStore as SnapshotStore
from sluicemq.storage.snapshots import SnapshotWriter as SnapshotWriter
