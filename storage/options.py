"""The limits of a log, each with its unit in its name, checked once; and the frozen figures that a log reports.

Knows no files. Defaults are those of the broker; tests take smaller ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicemq.storage.errors import InvalidOption
from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.storage.record import HEAD_BYTES

__all__ = ["Cut", "LogOptions", "LogStatistics", "RecoveryReport"]

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Settings of a segment log. Raises InvalidOption."""

    segment_bytes: int = 64 * MIB
    """Size of a segment file. An entry, its head included, may take half of it."""

    initial_bytes: int = MIB
    """How much of the very first segment is zeroed before `SegmentLog.open` returns.

    At most `segment_bytes`. The segment grows beyond it if need be.
    """

    growth_bytes: int = 256 * KIB
    """A growing segment is zeroed ahead to the next multiple of this, so that most of its syncs move data only."""

    spares_max: int = 2
    """How many zeroed or recycled segments are kept ready."""

    zero_piece_bytes: int = MIB
    """A spare is zeroed and synced in pieces of this size: the log's own syncs wait behind one piece at most."""

    index_stride_bytes: int = 32 * KIB
    """Every so many bytes of log, one entry's place is kept in memory (16 bytes); those between are found by a walk."""

    read_bytes: int = 4 * MIB
    """How much recovery and sequential reads fetch at once."""

    generations_reserved: int = 64
    """The superblock reserves this many generations at once, so that rolling to a new segment seldom writes it."""

    live_open_max: int = 64
    """So many files of the live store are open at once, each with its index in memory (32 KiB for 64 MiB of entries);
    more only while more threads read at the same time."""

    def __post_init__(self) -> None:
        """Check every value."""
        self._require(self.segment_bytes >= 4 * PAGE_BYTES, "segment_bytes", f"must be at least {4 * PAGE_BYTES}")
        self._require(self.segment_bytes % PAGE_BYTES == 0, "segment_bytes", f"must be a multiple of {PAGE_BYTES}")
        self._require(self.initial_bytes >= 2 * PAGE_BYTES, "initial_bytes", f"must be at least {2 * PAGE_BYTES}")
        self._require(self.growth_bytes >= 1, "growth_bytes", "must be at least 1")
        self._require(self.spares_max >= 0, "spares_max", "must not be negative")
        self._require(self.zero_piece_bytes >= PAGE_BYTES, "zero_piece_bytes", f"must be at least {PAGE_BYTES}")
        self._require(self.index_stride_bytes >= HEAD_BYTES, "index_stride_bytes", f"must be at least {HEAD_BYTES}")
        self._require(self.read_bytes >= PAGE_BYTES, "read_bytes", f"must be at least {PAGE_BYTES}")
        self._require(self.generations_reserved >= 1, "generations_reserved", "must be at least 1")
        self._require(self.live_open_max >= 1, "live_open_max", "must be at least 1")

    def _require(self, holds: bool, option: str, requirement: str) -> None:
        if not holds:
            raise InvalidOption(option, getattr(self, option), requirement)

    @property
    def entry_bytes_max(self) -> int:
        """The most bytes that one entry may take on disk: half a segment, and always less than an empty one holds."""
        return self.segment_bytes // 2


@dataclass(frozen=True, slots=True)
class Cut:
    """A torn tail that recovery removed: entries of the last, unsynced write before a power cut.

    None of them was ever confirmed.
    """

    file: str
    offset: int
    lost_bytes: int
    """From the offset to the end of the last trace of an entry."""

    last_zxid: int
    """The log's last entry after the cut."""


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What `SegmentLog.open` found and did."""

    created: bool
    """The directory was empty."""

    segments: int
    entries: int
    scanned_bytes: int
    cut: Cut | None = None
    truncation_finished: bool = False
    """An interrupted truncation was carried to its end."""

    superblock_repaired: bool = False
    """One copy of the superblock was damaged or older than the other."""

    live_files: int = 0
    """Files of the live store; only their first pages were read."""

    replacements_finished: int = 0
    """Files of the live store that had been rewritten or were in the middle of it, and were removed."""


@dataclass(frozen=True, slots=True)
class LogStatistics:
    """Figures of a log since it was opened, and its state now."""

    segments: int
    """Segments of the log proper."""

    log_bytes: int
    """Bytes of entries and marks in these segments, without the free rest of the last one."""

    live_files: int
    """Files of the live store: what is older than the log proper."""

    live_bytes: int
    """Bytes that these files take on disk."""

    live_files_open: int
    indexes_rebuilt: int
    """Indexes of old segments that were missing or damaged, and made anew by reading the segment."""

    index_bytes: int
    """Memory of the index."""

    writes: int
    syncs: int
    """Syncs of segments that held unsynced entries or marks."""

    rolls: int
    growing: bool
    """The last segment is a growing file: no spare was ready."""

    spares: int
    recycled: int
    """Segments that became spares."""

    start_zxid: int
    last_zxid: int
    synced_zxid: int
