"""The reclaimer: gives the disk back what is dead, so that one old message never pins it.

After each durable snapshot it works through the files that lie below the older of the two kept snapshots (the live
store): what the newest snapshot does not name is dead and stays dead. Files without a living message are dropped,
others rewritten as `reclaim_plan` says, with SPARSE records (`queues/sparse`) of what is left. Nothing is ever counted
while messages pass, and nothing above the older snapshot is touched.

Everything is done by one worker thread, in slices with pauses (`pace`); the event loop only hands over a snapshot.
Every change is crash-safe by itself (`storage/live_store`), so a power cut costs at most the file under way. Memory is
bounded by `RUNS_MAX`. What cannot be read, or contradicts the snapshot, stays as it is and is told in the broker's log:
not reclaiming is always safe.

This module must not know queues, consumers or when snapshots are taken.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import trio

from sluicemq.broker.pipeline.keeping.liveness import Liveness, Span, Survivors
from sluicemq.broker.pipeline.keeping.pace import Pace
from sluicemq.broker.pipeline.keeping.reclaim_plan import Action, Step, StoredFile, plan
from sluicemq.broker.queues.chunks import CHUNK_BYTES
from sluicemq.broker.queues.image import live_runs
from sluicemq.broker.queues.sparse import Body, SurvivorsMissing, left_of
from sluicemq.storage.errors import (
    DiskFull,
    FileReadFailed,
    LogCorrupt,
    PageCorrupt,
    SnapshotDamaged,
    ZxidNotFound,
)
from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.storage.record import Record, body_digest, record_size
from sluicemq.wire.errors import SluiceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sluicemq.broker.queues.chunks import Page
    from sluicemq.broker.queues.sparse import Ranges
    from sluicemq.storage.live import LiveFile
    from sluicemq.storage.log import SegmentLog
    from sluicemq.storage.pagefile import PageFile
    from sluicemq.storage.snapshot_file import Snapshot

logger = logging.getLogger("sluicemq.reclaim")

RECLAIM_BYTES_PER_SECOND_DEFAULT = 256 * 1024 * 1024
URGENT_SEGMENTS = 2
"""With so many segments of work waiting it goes as fast as it may; with fewer, in proportion."""
RUNS_MAX = 2_000_000
"""Most runs that are kept in memory at once while files are rewritten, 16 bytes each."""
SEEK_BYTES = 64 * 1024
"""What it costs to find one entry: where fewer are left than this makes up for, a file is not read as a whole."""
FILE_OVERHEAD_BYTES = PAGE_BYTES + 64
"""What a file takes beside its records."""


class FileFigures(NamedTuple):
    """One file of the live store at the last pass.

    Attributes:
        first_sequence: The first segment that it stands for.
        last_sequence: The last one.
        first_zxid: No entry in it is below.
        last_zxid: No entry in it is above.
        bytes: Its size on disk.
        live_bytes: About how many of them are alive.
        live_messages: About how many messages are alive.
        is_history: Whether the file stays whole for those who read what is settled.

    """

    first_sequence: int
    last_sequence: int
    first_zxid: int
    last_zxid: int
    bytes: int
    live_bytes: int
    live_messages: int
    is_history: bool = False

    @property
    def dead_bytes(self) -> int:
        """Bytes that are not alive."""
        return self.bytes - self.live_bytes

    @property
    def pinned_bytes(self) -> int:
        """Dead bytes that stay on disk because something else in the file is alive."""
        return self.dead_bytes if self.live_messages and not self.is_history else 0


@dataclass(frozen=True, slots=True)
class ReclaimFigures:
    """What the reclaimer knows and did; totals since the start of the broker."""

    passes: int = 0
    """Snapshots that were worked through."""

    abandoned: int = 0
    """Snapshots that could not be, because something of them or of the disk could not be read or written."""

    files: tuple[FileFigures, ...] = ()
    """The live store, in order."""

    dropped_files: int = 0
    dropped_bytes: int = 0
    rewritten_files: int = 0
    merged_files: int = 0
    read_bytes: int = 0
    """Bytes of records that were read to be rewritten."""

    written_bytes: int = 0
    """Bytes of new files."""

    replaced_bytes: int = 0
    """Bytes of the files in whose place these came."""

    missing_runs: int = 0
    """Runs that the last snapshot kept alive and no file held; see `liveness.Liveness`."""

    paused_seconds: float = 0.0

    @property
    def bytes(self) -> int:
        """What the live store takes on disk."""
        return sum(each.bytes for each in self.files)

    @property
    def live_bytes(self) -> int:
        """What of it is alive, about."""
        return sum(each.live_bytes for each in self.files)

    @property
    def history_bytes(self) -> int:
        """What of it stays whole for those who read what is settled."""
        return sum(each.bytes for each in self.files if each.is_history)

    @property
    def pinned_bytes(self) -> int:
        """What of it is dead and stays because something else in its file is alive."""
        return sum(each.pinned_bytes for each in self.files)


class _Offer(NamedTuple):
    """A durable snapshot, and how far the older one reaches that is kept beside it."""

    snapshot: Snapshot
    through_zxid: int


class Reclaimer:
    """Works through snapshots, one after the other.

    Args:
        log: Opened log; nobody else changes its live store.
        pages: Where chunks of queue indexes lie; None where all of them stand in the snapshots.
        bytes_per_second_max: Bytes read and written a second, about, so that traffic keeps its latency.
        on_failure: Called in the event loop with an error that ends the broker: the disk failed in the middle of a
            change.
        wait_for_readers: Returns when everybody who chose messages to read before the call has read them.
        is_held: Asked before each change, in the thread: whether all files have to stay for a while; then the rest of
            the pass waits for the next snapshot.
        kept_behind: Asked at the start of each pass, in the thread: the entry behind which all files stay whole for
            those who read what is settled; None: they need none.
        pace: How the thread keeps itself slow; by default *bytes_per_second_max* and `pace.SHARE_MAX`.

    """

    def __init__(
        self,
        log: SegmentLog,
        *,
        pages: PageFile | None,
        bytes_per_second_max: int = RECLAIM_BYTES_PER_SECOND_DEFAULT,
        on_failure: Callable[[BaseException], None],
        wait_for_readers: Callable[[], Awaitable[None]],
        is_held: Callable[[], bool] = lambda: False,
        kept_behind: Callable[[], int | None] = lambda: None,
        pace: Pace | None = None,
    ) -> None:
        self._log = log
        self._pages = pages
        self._pace = pace or Pace(bytes_per_second_max)
        self._on_failure = on_failure
        self._wait_for_readers = wait_for_readers
        self._is_held = is_held
        self._kept_behind = kept_behind
        self._target_bytes = 2 * log.entry_bytes_max
        self._offer: _Offer | None = None
        self._wake = trio.Event()
        self._limiter = trio.CapacityLimiter(1)
        self._guard = threading.Lock()
        self._figures = ReclaimFigures()
        self._lasts: list[int] = []
        self._oldest: dict[int, int] = {}
        # Bytes of a rewritten file for each that was foreseen: mean sizes are an estimate, what was written is not.
        self._scales: dict[tuple[int, int], float] = {}
        # Files that could not be read or contradict the snapshot: they stay as they are until the next start.
        self._held: set[tuple[int, int]] = set()
        self._ended = False
        self.working = False

    # --- the event loop --------------------------------------------------------------------------------------------

    def offer(self, snapshot: Snapshot, through_zxid: int) -> None:
        """Work through *snapshot* when there is time, and close it. A newer offer takes the place of one that waits.

        Args:
            snapshot: Durable, open for reading; it and its pages are kept until two newer ones exist.
            through_zxid: Zxid of the oldest snapshot that is kept: no file that reaches above it is touched.

        """
        if self._ended:
            snapshot.close()
            return
        if self._offer is not None:
            self._offer.snapshot.close()
        self._offer = _Offer(snapshot, through_zxid)
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                offer, self._offer = self._offer, None
                if offer is not None:
                    await self._take(offer)
        finally:
            self._ended = True
            if self._offer is not None:
                self._offer.snapshot.close()
                self._offer = None

    async def _take(self, offer: _Offer) -> None:
        self.working = True
        try:
            # Who chose messages before this snapshot was durable may still be about to read some that died since.
            await self._wait_for_readers()
            await trio.to_thread.run_sync(self.work_through, offer.snapshot, offer.through_zxid, limiter=self._limiter)
        except Exception as error:  # noqa: BLE001 - a disk that fails in the middle of a change, or a mistake of ours
            self._on_failure(error)
        finally:
            self.working = False
            offer.snapshot.close()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way and nothing waits."""
        return not self.working and self._offer is None

    def figures(self) -> ReclaimFigures:
        """Return what is known and was done."""
        return self._figures

    def pinned_bytes(self, queue_id: int) -> int:
        """Return how many dead bytes stay on disk because the oldest unsettled message of the queue lies among them.

        As of the last pass; 0 where that message was published since.
        """
        with self._guard:
            zxid = self._oldest.get(queue_id)
            if zxid is None:
                return 0
            number = bisect_left(self._lasts, zxid)
            files = self._figures.files
            return files[number].pinned_bytes if number < len(files) and files[number].first_zxid <= zxid else 0

    # --- the worker thread -----------------------------------------------------------------------------------------

    def work_through(self, snapshot: Snapshot, through_zxid: int) -> None:
        """Do everything that *snapshot* allows; blocks, for minutes where there is much to do.

        Raises:
            LogWriteFailed: The disk failed in the middle of a change: fatal.

        """
        self._pace.begin()
        self._pace.hurry(1 / URGENT_SEGMENTS)
        try:
            steps = self._look(snapshot, through_zxid)
            for step in steps:
                if step.action is Action.DROP and not self._is_held():
                    self._drop(step)
            waiting = [step for step in steps if step.action is not Action.DROP]
            while waiting and not self._is_held():
                if waiting[0].action is Action.MERGE and self._offer is not None:
                    break  # merging has time, what died since has not
                segments = sum(step.bytes for step in waiting) / self._target_bytes
                self._pace.hurry(max(segments, 1.0) / URGENT_SEGMENTS)
                waiting = self._rewrite_some(snapshot, waiting)
            self._count(passes=1)
        except (LogCorrupt, PageCorrupt, FileReadFailed, SnapshotDamaged, DiskFull, SluiceError) as error:
            # Pages of a snapshot that is no longer kept may hold something else by now: that looks like damage too.
            self._count(abandoned=1)
            logger.warning("nothing more is reclaimed until the next snapshot: %s", error)
        finally:
            self._figures = replace(self._figures, paused_seconds=self._pace.paused_seconds)

    def _look(self, snapshot: Snapshot, through_zxid: int) -> list[Step]:
        """Count what is alive, remember it as figures, and return what is to be done."""
        # In this order: what leaves the log proper meanwhile is among the files, and not expected to be.
        start_zxid = self._log.start_zxid
        kept_behind = self._kept_behind()
        if kept_behind is not None:
            through_zxid = min(through_zxid, kept_behind)
        live_files = self._log.live_files()
        spans = [Span(each.first_zxid, each.last_zxid) for each in live_files]
        found = Liveness(spans, self._read_page, start_zxid)
        self._each_part(snapshot, found.add)
        stored = [
            StoredFile(
                each.first_sequence,
                each.last_sequence,
                each.first_zxid,
                each.last_zxid,
                each.bytes,
                self._live_bytes(each, found.bytes[number]) if found.runs[number] else 0,
                found.runs[number],
            )
            for number, each in enumerate(live_files)
        ]
        if found.missing_runs:
            logger.error(
                "the snapshot at %d keeps %d runs of messages that no file holds; `sluicemq log verify` tells more",
                snapshot.zxid,
                found.missing_runs,
            )
        self._show(stored, found, kept_behind)
        free = [each for each in stored if (each.first_sequence, each.last_sequence) not in self._held]
        return plan(free, through_zxid=through_zxid, target_bytes=self._target_bytes, runs_max=RUNS_MAX)

    def _live_bytes(self, file: LiveFile, estimate: int) -> int:
        scale = self._scales.get((file.first_sequence, file.last_sequence), 1.0)
        return min(file.bytes, int((estimate + FILE_OVERHEAD_BYTES) * scale))

    def _each_part(self, snapshot: Snapshot, add: Callable[..., None]) -> None:
        """Give every part of what is alive to *add*. Only when it returns the snapshot has proven to be whole."""

        def paced() -> Iterator[tuple[int, bytes]]:
            for kind, data in snapshot.sections():
                self._pace.took(len(data))
                yield kind, data

        for part in live_runs(paced()):
            add(part)
            self._pace.took()

    def _read_page(self, page: Page) -> bytes:
        if self._pages is None:
            raise SurvivorsMissing("the snapshot names pages, but there is no page file")
        self._pace.took(CHUNK_BYTES)
        return self._pages.read(page.slot, CHUNK_BYTES, page.checksum)

    def _drop(self, step: Step) -> None:
        dropped = self._log.reclaim(step.first_sequence, step.last_sequence)
        for each in step.files:
            self._scales.pop((each.first_sequence, each.last_sequence), None)
        self._forget(step)
        self._count(dropped_files=dropped, dropped_bytes=step.bytes)
        self._pace.took()

    def _rewrite_some(self, snapshot: Snapshot, steps: list[Step]) -> list[Step]:
        """Rewrite the files of as many *steps* as memory allows; return the others."""
        count = runs = 0
        for step in steps:
            runs += step.live_runs
            if count and (runs > RUNS_MAX or step.action is not steps[0].action):
                break
            count += 1
        now, later = steps[:count], steps[count:]
        survivors = Survivors([Span(step.first_zxid, step.last_zxid) for step in now], self._read_page)
        self._each_part(snapshot, survivors.add)
        for step in now:
            try:
                self._rewrite(step, survivors)
            except (LogCorrupt, FileReadFailed, ZxidNotFound, SurvivorsMissing) as error:
                self._held.update((each.first_sequence, each.last_sequence) for each in step.files)
                logger.warning(
                    "files of segments %d to %d stay as they are: %s", step.first_sequence, step.last_sequence, error
                )
        return later

    def _rewrite(self, step: Step, survivors: Survivors) -> None:
        found = survivors.runs(step.first_zxid)
        if found != step.live_runs:
            # Counted twice in two passes: what differs is a mistake, and no file may be replaced by less.
            raise SurvivorsMissing(f"{step.live_runs} runs of messages are alive there, but {found} were found")
        log, read = self._log, _Counter()
        written = log.install_sparse(step.first_sequence, step.last_sequence, self._records(step, survivors, read))
        for each in step.files:
            self._scales.pop((each.first_sequence, each.last_sequence), None)
        self._scales[written.first_sequence, written.last_sequence] = written.bytes / max(1, step.live_bytes)
        self._replace(step, written)
        done = len(step.files)
        self._count(
            rewritten_files=done if step.action is Action.REWRITE else 0,
            merged_files=done if step.action is Action.MERGE else 0,
            read_bytes=read.bytes,
            written_bytes=written.bytes,
            replaced_bytes=step.bytes,
        )

    def _records(self, step: Step, survivors: Survivors, read: _Counter) -> Iterator[Record]:
        """Yield what is left of the files of *step*, ascending, at a measured pace."""
        alive = survivors.within(step.first_zxid, step.last_zxid)
        scattered = step.live_runs * SEEK_BYTES < step.bytes
        for record, ranges in self._seek(alive, read) if scattered else self._walk(step, alive, read):
            if self._offer is not None:
                # What died since waits behind this step, a segment or more: with nobody in a hurry, merging 28 MiB of
                # small records took so long that four segments gathered behind it.
                self._pace.hurry(1.0)
            body = Body(record.kind, record.kind_version, record.header, record.payload)
            left = left_of(body, ranges, body_digest(record.header, record.payload))
            self._pace.took(record_size(len(left.header) + len(left.payload)))
            yield Record(record.zxid, left.kind, left.kind_version, record.flags, left.header, left.payload)

    def _seek(self, alive: Iterator[tuple[int, Ranges]], read: _Counter) -> Iterator[tuple[Record, Ranges]]:
        """Read the few entries that are left one by one."""
        for zxid, ranges in alive:
            read.bytes += SEEK_BYTES
            self._pace.took(SEEK_BYTES)
            yield self._log.read(zxid), ranges

    def _walk(self, step: Step, alive: Iterator[tuple[int, Ranges]], read: _Counter) -> Iterator[tuple[Record, Ranges]]:
        """Read the files through, and yield the entries that are left."""
        wanted, ranges = next(alive, (0, ()))
        for file in self._log.live_files():
            if not step.first_sequence <= file.first_sequence <= step.last_sequence:
                continue
            for record in self._log.walk_live(file):
                size = record_size(len(record.header) + len(record.payload))
                read.bytes += size
                self._pace.took(size)
                if record.zxid == wanted:
                    yield record, ranges
                    wanted, ranges = next(alive, (0, ()))
                elif 0 < wanted < record.zxid:
                    raise ZxidNotFound(wanted, file.first_zxid - 1, file.last_zxid)
        if wanted:
            raise ZxidNotFound(wanted, step.first_zxid - 1, step.last_zxid)

    # --- figures ---------------------------------------------------------------------------------------------------

    def _count(self, **more: int) -> None:
        old = self._figures
        self._figures = replace(old, **{name: getattr(old, name) + value for name, value in more.items()})

    def _show(self, stored: list[StoredFile], found: Liveness, kept_behind: int | None) -> None:
        files = tuple(
            FileFigures(
                *each[:6], found.messages[number], is_history=kept_behind is not None and each.last_zxid > kept_behind
            )
            for number, each in enumerate(stored)
        )
        with self._guard:
            self._figures = replace(self._figures, files=files, missing_runs=found.missing_runs)
            self._lasts = [each.last_zxid for each in files]
            self._oldest = found.oldest

    def _forget(self, step: Step) -> None:
        gone = {each.first_sequence for each in step.files}
        self._put([each for each in self._figures.files if each.first_sequence not in gone])

    def _replace(self, step: Step, written: LiveFile) -> None:
        gone = {each.first_sequence for each in step.files}
        old = [each for each in self._figures.files if each.first_sequence in gone]
        new = FileFigures(
            written.first_sequence,
            written.last_sequence,
            written.first_zxid,
            written.last_zxid,
            written.bytes,
            written.bytes,
            sum(each.live_messages for each in old),
        )
        files = [each for each in self._figures.files if each.first_sequence not in gone] + [new]
        self._put(sorted(files, key=_first_sequence))

    def _put(self, files: list[FileFigures]) -> None:
        with self._guard:
            self._figures = replace(self._figures, files=tuple(files))
            self._lasts = [each.last_zxid for each in files]


class _Counter:
    """How many bytes a walk has read."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


def _first_sequence(file: FileFigures) -> int:
    return file.first_sequence
