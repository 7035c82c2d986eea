"""Room on the disk: when publishers are slowed, when they are refused, and what is kept for those who make room.

Why: a broker that writes until the disk is full cannot even settle what would free it. So publishing ends at a
low-water mark (`disk_free_bytes_min`), while settlements, deletes, purges, snapshots and reclaim go on from a reserve:

- one prepared segment, whose blocks are written already, so that a stranger's file cannot take them;
- what is free below the mark: half of it may become another prepared segment, the other half is left for snapshots
  and pages.

The level is judged by `look`, which asks the file system: about once a second, and whenever so many bytes were written.
Requests only read the last answer (`refusing`, `pause_seconds`), so publishing pays nothing. This module must not know
entries, sockets or the event loop.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.wire.errors import ResourceLow

if TYPE_CHECKING:
    from sluicemq.storage.errors import SpareNotPrepared
    from sluicemq.storage.log import SegmentLog

logger = logging.getLogger("sluicemq.disk")

MIB = 1024 * 1024
FREE_BYTES_MIN_DEFAULT = 256 * MIB
"""The mark where nothing is set, unless two segments are more or a tenth of the disk is less."""
DISK_SHARE = 10
RESERVE_SEGMENTS = 1
"""Prepared segments that publishing leaves to settlements, where two or more are kept ready."""
HISTORY_MARKS = 3
"""While less than so many times the mark is free, settled history is given up; publishers are slowed below twice."""
HISTORY_SEGMENTS = 2
"""And while there is no room for so many segments."""
SEGMENTS_MIN = 4
"""A disk that holds fewer segments than this cannot spare one: there the mark alone is the reserve."""
LOOK_SECONDS = 1.0
LOOK_LOW_SECONDS = 0.5
"""Between two looks while publishing is refused: it goes on so soon after there is room."""
RETRY_SECONDS = 1.0
"""When a refused publisher may try again; and the least time between two tries to make a segment where one failed."""
PAUSE_SECONDS_MAX = 0.1
"""How long a connection that publishes is not read from, each time, when the mark is nearly reached."""


class Level(enum.Enum):
    """How the disk is."""

    OK = "ok"
    SLOW = "slow"
    """Publishers are slowed: less than twice the mark is free."""
    LOW = "low"
    """Publishing is refused."""
    RESERVE = "reserve"
    """The last prepared segment is in use: new queues and producers are refused too."""


class View(NamedTuple):
    """What one look found.

    Attributes:
        level: The judgement.
        free_bytes: Bytes free on the disk.
        needed_bytes: What must be free so that publishing goes on.
        pause_seconds: How long a connection that publishes is to wait before more is read from it.
        cause: What keeps the next segment from being prepared, where the system said so; else empty.

    """

    level: Level
    free_bytes: int
    needed_bytes: int
    pause_seconds: float = 0.0
    cause: str = ""


def mark_of(wanted_bytes: int, segment_bytes: int, disk_bytes: int | None) -> int:
    """Return the low-water mark: *wanted_bytes*; for 0, two segments or 256 MiB, but at most a tenth of the disk."""
    if wanted_bytes:
        return wanted_bytes
    mark = max(2 * segment_bytes, FREE_BYTES_MIN_DEFAULT)
    return mark if disk_bytes is None else min(mark, disk_bytes // DISK_SHARE)


def in_units(count: int) -> str:
    """Return a number of bytes as people read it, rounded down."""
    for unit, size in (("GiB", 1024 * MIB), ("MiB", MIB), ("KiB", 1024)):
        if count >= size:
            return f"{count * 10 // size / 10:g} {unit}"
    return f"{count} bytes"


class DiskSpace:
    """Judges the room for one log. `look`, `spare_made` and `spare_failed` are for the log's threads.

    Args:
        log: Opened log.
        free_bytes_min: The low-water mark; 0: only what the next segment takes is asked for.
        disk_bytes: Size of the file system; None: large enough.

    Attributes:
        free_bytes_min: The mark.
        floor_bytes: Segments are not prepared out of this: it is for snapshots and pages.
        tight_bytes: Below this settled history goes (`history`), so that there is room before anybody is slowed.
        refusing: Whether publishing is refused.
        pause_seconds: See `View`.
        low_total: How often it became so low that publishing was refused.

    """

    def __init__(self, log: SegmentLog, *, free_bytes_min: int = 0, disk_bytes: int | None = None) -> None:
        self._log = log
        self._spares = log.spares
        self.free_bytes_min = free_bytes_min
        self.floor_bytes = free_bytes_min // 2
        self._segment_bytes = self._spares.segment_bytes
        self.tight_bytes = max(HISTORY_MARKS * free_bytes_min, HISTORY_SEGMENTS * self._segment_bytes)
        spares_max = self._spares.spares_max
        self._reserve = min(RESERVE_SEGMENTS, spares_max - 1)
        self._can_reserve = spares_max > 0 and (disk_bytes is None or disk_bytes >= SEGMENTS_MIN * self._segment_bytes)
        if disk_bytes is not None and not self._can_reserve:
            logger.warning(
                "the disk has %s: no segment of %s is kept in reserve; set segment_bytes smaller, spares_max to 2",
                in_units(disk_bytes),
                in_units(self._segment_bytes),
            )
        self._guard = threading.Lock()
        self._failure: SpareNotPrepared | None = None
        self._retry_at = 0.0
        self._blind = False
        self.refusing = False
        self.pause_seconds = 0.0
        self.low_total = 0
        self.view = View(Level.OK, 0, free_bytes_min)

    @property
    def is_tight(self) -> bool:
        """Whether settled history is to go, as the last look found the disk."""
        return self.view.free_bytes < self.tight_bytes

    # --- for requests --------------------------------------------------------------------------------------------

    def refuse_publish(self) -> None:
        """Raise `ResourceLow` while there is no room for messages."""
        if self.refusing:
            raise self._refusal("publishing")

    def refuse_growth(self, what: str) -> None:
        """Raise `ResourceLow` for *what*, small as it is, while the reserve is in use."""
        if self.view.level is Level.RESERVE:
            raise self._refusal(what)

    def _refusal(self, what: str) -> ResourceLow:
        view = self.view
        return ResourceLow(
            f"the broker's disk is low, {what} is refused: {self._figures(view)}. Settlements, deletes and purges go "
            "on; free space on this disk, and it goes on by itself",
            retry_after=RETRY_SECONDS,
            free_bytes=view.free_bytes,
            needed_bytes=view.needed_bytes,
            disk_free_bytes_min=self.free_bytes_min,
        )

    def _figures(self, view: View) -> str:
        figures = (
            f"{in_units(view.free_bytes)} free, {in_units(view.needed_bytes)} needed "
            f"(disk_free_bytes_min is {in_units(self.free_bytes_min)})"
        )
        return f"{figures}; {view.cause}" if view.cause else figures

    # --- for the log's threads -----------------------------------------------------------------------------------

    def look(self) -> None:
        """Ask the file system, and judge."""
        with self._guard:
            self._judge(self._ask())

    @property
    def look_seconds(self) -> float:
        """After how long to look again, where nothing else calls for it."""
        return LOOK_LOW_SECONDS if self.refusing else LOOK_SECONDS

    def may_prepare(self) -> bool:
        """Whether another segment is wanted, and there is room for it; as the last look found the disk."""
        spares = self._spares
        if not spares.needed or time.monotonic() < self._retry_at:
            return False
        free = self.view.free_bytes
        if free < self.free_bytes_min and spares.ready >= RESERVE_SEGMENTS:
            return False  # the reserve is whole, and what is free is for others
        return free >= self._segment_bytes + self.floor_bytes

    def spare_made(self) -> None:
        """A segment was prepared."""
        self._failure = None

    def spare_failed(self, error: SpareNotPrepared, seconds: float) -> None:
        """The system gave no room for a segment, after so many seconds of writing."""
        self._failure = error
        # Whoever shares the disk, and snapshots, must not find it full most of the time.
        self._retry_at = time.monotonic() + max(RETRY_SECONDS, 2 * seconds)

    # --- inside --------------------------------------------------------------------------------------------------

    def _ask(self) -> int:
        try:
            free = self._log.free_bytes
        except OSError as error:
            if not self._blind:
                logger.warning("the system does not say how much of the disk is free: %s", error)
            self._blind = True
            return self.view.free_bytes or self.free_bytes_min
        self._blind = False
        return free

    def _judge(self, free: int) -> None:
        spares, mark = self._spares, self.free_bytes_min
        short = spares.needed and spares.ready <= self._reserve
        if not short:
            self._failure = None
        # What an unfinished segment has taken already is no longer asked for.
        usable = free + spares.unfinished_bytes
        next_segment = self._segment_bytes + self.floor_bytes if short and self._can_reserve else 0
        # A little more must be free than was missing: publishing should not end again at once.
        resume = mark + mark // 16
        low = (
            free < (resume if self.refusing else mark) or usable < next_segment or (short and self._failure is not None)
        )
        cause = str(self._failure) if low and self._failure is not None else ""
        needed = max(resume if low else mark, next_segment)
        pause = 0.0
        if low:
            level = Level.RESERVE if not spares.ready and free < max(self.floor_bytes, 1) else Level.LOW
        elif free < 2 * mark:
            level = Level.SLOW
            pause = PAUSE_SECONDS_MAX * (2 * mark - free) / mark
        else:
            level = Level.OK
        before, self.view = self.view, View(level, free, needed, pause, cause)
        self.pause_seconds = pause
        self.refusing = low
        self._tell(before)

    def _tell(self, before: View) -> None:
        """Say once what has changed."""
        view = self.view
        was_low = before.level in (Level.LOW, Level.RESERVE)
        if self.refusing and not was_low:
            self.low_total += 1
            logger.warning("the disk is low, publishing is refused: %s", self._figures(view))
        elif was_low and not self.refusing:
            logger.warning("the disk has room again, publishing goes on: %s free", in_units(view.free_bytes))
        elif view.level is Level.SLOW and before.level is Level.OK:
            logger.info("the disk fills up, publishers are slowed: %s", self._figures(view))
        if view.level is Level.RESERVE and before.level is not Level.RESERVE:
            logger.warning("the last prepared segment is in use: new queues and producers are refused too")
