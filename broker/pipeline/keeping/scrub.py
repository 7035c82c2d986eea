"""The scrub: reads everything on the disk again, slowly, so that what rots is found while it can still be healed.

Why: a page, a snapshot or an old record may not be looked at for months, and a disk that loses one says nothing until
somebody asks. By then the second copy may be gone too. So a worker thread reads all of it, again and again: pages in
both their files, snapshots, the live store, the log. What it finds is told in the broker's log, with file, offset and
what to do, and healed where something to heal it from is left:

- a page that one of its files lost is written again from the other, or from memory where neither has it;
- where a snapshot or a file of the log rots, new snapshots are taken, so that a start needs neither: the snapshot goes,
  and the log begins behind the file. Messages that are alive in a rotten record are not healed by that.

It takes `bytes_per_second` and a tenth of a processor at most, and rests for `PASS_SECONDS_MIN` from one beginning to
the next. What it reads is dropped from the operating system's memory first: it is the disk that is asked.

This module must not know queues, consumers, or how snapshots are taken.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.pipeline.keeping.pace import Pace
from sluicemq.storage.errors import DiskFull, FileReadFailed, FileWriteFailed, PageCorrupt, StorageError
from sluicemq.storage.scrubbing import entry_files, scrub_entries, scrub_snapshot, snapshot_files
from sluicemq.storage.superblock import Superblock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sluicemq.storage.files import Directory
    from sluicemq.storage.log import SegmentLog
    from sluicemq.storage.pagefile import PageFile

logger = logging.getLogger("sluicemq.scrub")

SCRUB_BYTES_PER_SECOND_DEFAULT = 1024 * 1024
PASS_SECONDS_MIN = 6 * 3600.0
"""Least time from the beginning of one pass to that of the next."""
FIRST_SECONDS = 60.0
"""Pause before the first pass: a start has other work."""
URGENCY = 0.2
"""What of its pace the thread takes: a tenth of a processor."""


@dataclass(frozen=True, slots=True)
class ScrubFigures:
    """What was done since the start of the broker."""

    passes: int = 0
    read_bytes: int = 0
    damaged: int = 0
    """Places that were found damaged and not healed, each time that they were found."""

    healed: int = 0
    """Pages that neither file had and that were written again from memory. Those that one had: `PageFileStatistics`."""


class Scrub:
    """Reads all files of one broker, again and again.

    Args:
        log: Opened log.
        directory: Where it lies, with the snapshots.
        pages: The page file; None where there is none.
        bytes_per_second: Most that is read in a second, about; above 0.
        rows_of: Called in the event loop: the bytes of the page in this slot, if they are in memory.
        renew: Called in the event loop: take new snapshots, so that no start needs what was found damaged.
        on_failure: Called in the event loop with an error that ends the broker: the disk refused to be written.
        pace: How the thread keeps itself slow.

    """

    def __init__(
        self,
        log: SegmentLog,
        directory: Directory,
        pages: PageFile | None,
        *,
        bytes_per_second: int,
        rows_of: Callable[[int], bytes | None],
        renew: Callable[[], None],
        on_failure: Callable[[BaseException], None],
        pace: Pace | None = None,
    ) -> None:
        self._log = log
        self._directory = directory
        self._pages = pages
        self._rows_of = rows_of
        self._renew = renew
        self._on_failure = on_failure
        self._pace = pace or Pace(int(bytes_per_second / URGENCY))
        self._limiter = trio.CapacityLimiter(1)
        self.figures = ScrubFigures()

    async def run(self) -> None:
        """Work until cancelled."""
        await trio.sleep(FIRST_SECONDS)
        while True:
            started = trio.current_time()
            try:
                await self.one_pass()
            except Exception as error:  # noqa: BLE001 - a disk that refuses to be written, or a mistake of ours
                self._on_failure(error)
                return
            await trio.sleep_until(started + PASS_SECONDS_MIN)

    async def one_pass(self) -> None:
        """Read everything once.

        Raises:
            FileWriteFailed: A page could not be written again; fatal.

        """
        renew = await trio.to_thread.run_sync(self._read_all, limiter=self._limiter)
        if renew:
            logger.warning("new snapshots are taken, so that no start needs what is damaged")
            self._renew()

    # --- the worker thread -----------------------------------------------------------------------------------------

    def _read_all(self) -> bool:
        """Read everything; return whether something is damaged that a start would need."""
        before = self.figures
        self._pace.begin()
        self._pace.hurry(URGENCY)
        if self._pages is not None:
            self._check_pages(self._pages)
        directory, log = self._directory, self._log
        superblock = Superblock(log.cluster_id, bytes(16), group_id=log.group_id)
        renew = False
        for name in snapshot_files(directory):
            renew |= not self._is_whole(
                scrub_snapshot(directory, log.cluster_id, log.group_id, name),
                "an older snapshot or the log serves in its place",
            )
        for name in entry_files(directory):
            # Below the log proper nothing is read at a start.
            old = name < log.first_segment_name or name.startswith("sparse")
            whole = self._is_whole(
                scrub_entries(directory, superblock, name, lambda: log.synced_zxid),
                "messages that are alive there cannot be delivered; `sluicemq log verify` lists what else is damaged, "
                "and `sluicemq log repair`, while no broker runs, goes on without it",
            )
            renew |= not (whole or old)
        self.figures = replace(self.figures, passes=self.figures.passes + 1)
        damaged, read_bytes = self.figures.damaged - before.damaged, self.figures.read_bytes - before.read_bytes
        level = logging.ERROR if damaged else logging.INFO
        logger.log(level, "scrubbed %d bytes; %d places are damaged and not healed", read_bytes, damaged)
        return renew

    def _check_pages(self, pages: PageFile) -> None:
        pages.forget()
        slot = 0
        while slot < pages.slots:
            try:
                self._took(pages.check(slot))
            except (PageCorrupt, FileReadFailed) as error:
                self._heal(pages, slot, error)
            slot += 1
        pages.sync()

    def _heal(self, pages: PageFile, slot: int, error: StorageError) -> None:
        """Write a page again that neither file has, if it happens to be in memory."""
        rows = trio.from_thread.run_sync(self._rows_of, slot)
        try:
            if rows is not None and pages.restore(slot, rows):
                logger.warning("%s. It was still in memory and was written again", error)
                self.figures = replace(self.figures, healed=self.figures.healed + 1)
                return
        except DiskFull as full:
            logger.warning("there is no room to write it again: %s", full)
        self._alarm(error, "the broker stops when it comes to it: drain or purge what can be, and take a backup now")

    def _is_whole(self, pieces: Iterator[int], consequence: str) -> bool:
        try:
            for bytes_ in pieces:
                self._took(bytes_)
        except FileWriteFailed:
            raise
        except StorageError as error:
            self._alarm(error, consequence)
            return False
        return True

    def _alarm(self, error: StorageError, consequence: str) -> None:
        logger.error("%s [%s; replace the disk]", error, consequence)
        self.figures = replace(self.figures, damaged=self.figures.damaged + 1)

    def _took(self, bytes_: int) -> None:
        self.figures = replace(self.figures, read_bytes=self.figures.read_bytes + bytes_)
        self._pace.took(bytes_)
