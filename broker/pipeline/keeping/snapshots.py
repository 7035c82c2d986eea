"""Snapshots: when the machine is written down, and what may be forgotten afterwards.

A start reads the newest snapshot and the log behind it, so one is taken every `every_bytes` of log or `every_entries`
entries, whichever comes first, but not before the log has grown by `BYTES_RATIO` times what the last one took: however
large the machine is, snapshots stay a fraction of what is written anyway. One more is taken at an orderly stop, so that
the next start replays next to nothing.

The event loop only freezes the machine (`queues/freeze`) and packs it in slices of `SLICE_SECONDS`, between which
sockets are served; writing, syncing and reading back are a worker thread's. The order makes every power cut harmless:

    chunks to pages -> freeze -> pack and write -> pages synced -> snapshot synced and renamed -> read back
        -> all but two snapshots removed -> pages of removed ones free -> the log proper begins at the older of the two

What is frozen was applied, hence committed, hence durable. A full disk costs the snapshot, not the broker: it is tried
again later, and until then the log just reaches back farther. This module must not know what the sections mean.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from sluicemq.storage.errors import DiskFull, StorageError, format_zxid

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.pipeline.ground import Ground
    from sluicemq.broker.pipeline.keeping.restart import Restart
    from sluicemq.broker.queues.freeze import Freeze
    from sluicemq.storage.pagefile import PageFile
    from sluicemq.storage.snapshot_file import Snapshot, SnapshotInfo
    from sluicemq.storage.snapshots import SnapshotStore, SnapshotWriter

logger = logging.getLogger("sluicemq.snapshots")

EVERY_BYTES_DEFAULT = 64 * 1024 * 1024
EVERY_ENTRIES_DEFAULT = 250_000
BYTES_RATIO = 4
SLICE_SECONDS = 0.002
"""Longest time that packing holds the event loop, about."""
PIECE_BYTES = 1024 * 1024
"""Packed sections gather up to this size before a thread writes them: the most that waits in memory."""
RETRY_SECONDS = 30.0
"""Pause after a snapshot that failed."""
KEPT = 2
HURRY_SECONDS = 2.0
"""Least pause between snapshots that are taken only because the disk is low."""
LOG_FOR_OTHERS_BYTES_MAX = 4 * 1024 * 1024 * 1024
"""So much of the log is kept for brokers that lag, or are away; and never more than is free besides."""
HURRY_SHARE = 10
"""Such a pause is at least so many times what the last snapshot took."""


@dataclass(frozen=True, slots=True)
class SnapshotFigures:
    """What was done since the start of the broker; the last one counts from the start on, as it was found then.

    Attributes:
        taken: Snapshots that are durable and were read back.
        failed: Snapshots that were given up.
        zxid: The newest one is of this entry; 0 for none.
        bytes: Its size.
        seconds: How long it took; 0.0 where an earlier run took it.
        longest_slice_seconds: How long the event loop was held by freezing or by one slice of packing, at most.

    """

    taken: int = 0
    failed: int = 0
    zxid: int = 0
    bytes: int = 0
    seconds: float = 0.0
    longest_slice_seconds: float = 0.0


class SnapshotStage:
    """Takes the snapshots of one broker's machine.

    Args:
        ground: Whose machine and log.
        store: Where they are written; its newest one is where the machine came from.
        pages: Where chunks of indexes lie, if anywhere.
        restart: What the start found: how far the log has grown since the newest snapshot.
        every_bytes: A snapshot after so many bytes of entries.
        every_entries: Or after so many entries.

    Attributes:
        on_taken: Called in the event loop with each new snapshot, open for reading, which is the callee's to close, and
            with the zxid of the oldest one that is kept beside it. Only once two are kept.

    """

    def __init__(
        self,
        ground: Ground,
        store: SnapshotStore,
        pages: PageFile | None,
        restart: Restart,
        *,
        every_bytes: int = EVERY_BYTES_DEFAULT,
        every_entries: int = EVERY_ENTRIES_DEFAULT,
    ) -> None:
        self._ground = ground
        self._store = store
        self._pages = pages
        self._every_bytes = every_bytes
        self._every_entries = every_entries
        # Where the road's counters stood when the newest snapshot was frozen.
        self._bytes_then = -restart.replayed_bytes
        self._entries_then = -restart.replayed_entries
        self._not_before_zxid = 0
        self._generation = 0
        self.figures = SnapshotFigures()
        if restart.snapshot is not None:
            self.figures = SnapshotFigures(zxid=restart.snapshot.zxid, bytes=restart.snapshot.file_bytes)
            self._generation = restart.snapshot.generation
        self.on_taken: Callable[[Snapshot, int], None] | None = None
        self._retry_at = 0.0
        self._hurry_at = 0.0
        self._free_bytes_then = 0  # what was free when a snapshot failed
        self._hurries_left = 0
        self._hurrying = False  # from the proposal of an entry to the end of the snapshot that it is for
        self._hurry_now = False
        self._kept: tuple[SnapshotInfo, ...] = ()
        self._offer_again = False
        self._trim_at = 0.0
        self._renewals_left = 0
        self._wake = trio.Event()
        self._one_at_a_time = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)

    def began_behind(self, entries: int, entry_bytes: int, last_zxid: int) -> None:
        """So many entries, up to *last_zxid*, lay behind the snapshot that this broker started from.

        They are applied once others say that they are committed: a snapshot before that would hold next to nothing.
        """
        self._entries_then, self._bytes_then, self._not_before_zxid = -entries, -entry_bytes, last_zxid

    # --- when --------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Start a snapshot if it is time; costs next to nothing, so it is called after every turn."""
        if self._is_due():
            self._wake.set()

    def hurry(self) -> None:
        """The disk is low: take snapshots before it is time, so that what was settled lately can be given back.

        What is dead goes when it lies below the older of two snapshots, so two follow the last change. Call it again
        and again while the disk is low.
        """
        ground, now = self._ground, trio.current_time()
        if ground.entries_total > self._entries_then:
            self._hurries_left = KEPT
        # One that failed for want of room is worth another try as soon as there is more of it.
        may_fit = now >= self._retry_at or ground.space.view.free_bytes > self._free_bytes_then
        if self._hurries_left and not self._hurrying and now >= self._hurry_at and may_fit:
            self._hurries_left -= 1
            self._hurry_at = now + max(HURRY_SECONDS, HURRY_SHARE * self.figures.seconds)
            self._hurrying = True
            # A snapshot needs an entry that is newer than the last one's.
            ground.renew_then(self._take_now)

    def trim(self) -> None:
        """Settled history is to go: let the files be looked at again, with the newest snapshot that there is.

        Call it again and again until it has gone.
        """
        now = trio.current_time()
        if now < self._trim_at:
            return
        self._trim_at = now + HURRY_SECONDS
        if len(self._kept) == KEPT:
            self._offer_again = True
            self._wake.set()
        elif not self._hurrying:  # nothing was written down yet since the start
            self._hurrying = True
            self._ground.renew_then(self._take_now)

    def renew(self) -> None:
        """A kept snapshot or the log behind it rots: take as many as are kept, so that a start needs neither."""
        self._renewals_left = KEPT
        self._renew_next()

    def _renew_next(self) -> None:
        if self._renewals_left and not self._hurrying:
            self._hurrying = True
            self._ground.renew_then(self._take_now)

    def _take_now(self) -> None:
        self._hurry_now = True
        self._wake.set()

    def _is_due(self) -> bool:
        ground = self._ground
        if self._hurry_now:
            return True
        if ground.machine.applied_zxid < self._not_before_zxid:
            return False
        grown = ground.entry_bytes_total - self._bytes_then
        if grown < self._every_bytes and ground.entries_total - self._entries_then < self._every_entries:
            return False
        return grown >= BYTES_RATIO * self.figures.bytes and trio.current_time() >= self._retry_at

    async def run(self) -> None:
        """Take snapshots until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            if self._offer_again:
                self._offer_again = False
                await self._offer_kept()
            if self._is_due():
                hurried, self._hurry_now = self._hurry_now, False
                taken = self.figures.taken
                try:
                    await self.take()
                    # Only now: until it was frozen, the entry that it took looks like news.
                    self._hurrying = self._hurrying and not hurried
                    if self.figures.taken > taken:
                        self._renewals_left = max(0, self._renewals_left - 1)
                        self._renew_next()
                except Exception as error:  # noqa: BLE001 - a failing disk or a broken machine must stop the broker
                    self._ground.fail(error)
                    return

    # --- how ---------------------------------------------------------------------------------------------------------

    async def take(self) -> SnapshotInfo | None:
        """Take a snapshot now; return it, or None where nothing is new or the disk has no room for it.

        Raises:
            StorageError: The disk fails; fatal.

        """
        async with self._one_at_a_time:
            ground = self._ground
            if ground.pager is not None:
                await ground.pager.write_out()
            applied = ground.machine.applied_zxid
            if applied <= self.figures.zxid or applied > ground.log.synced_zxid:
                return None  # nothing is new, or a quorum was faster than this broker's own disk
            if ground.holds:
                return None  # what would be forgotten is just being sent to another broker
            then = self._bytes_then, self._entries_then
            started = time.monotonic()
            try:
                taken = await self._freeze_and_write()
            except DiskFull as error:
                taken = None
                self._give_up(f"{error}", *then)
            if taken is None:
                return None
            info, kept = taken
            if not kept or kept[0].zxid != info.zxid:
                reasons = "; ".join(map(str, self._store.rejected))
                await trio.to_thread.run_sync(self._store.set_aside_rejected, limiter=self._limiter)
                self._give_up(f"it does not read back as it was written: {reasons}", *then)
                return None
            await self._forget_what_is_older(kept)
            self._note(info, time.monotonic() - started)
            self._kept = kept
            await self._offer()
            return info

    async def _offer(self) -> None:
        if self.on_taken is not None and len(self._kept) == KEPT:
            snapshot = await trio.to_thread.run_sync(self._store.open, self._kept[0], limiter=self._limiter)
            self.on_taken(snapshot, self._kept[-1].zxid)

    async def _offer_kept(self) -> None:
        """Offer once more what was offered last."""
        async with self._one_at_a_time:
            try:
                await self._offer()
            except StorageError as error:
                # It was whole when it was taken. The next one will do, and the scrub tells what rots.
                logger.warning("settled history stays until the next snapshot: %s", error)

    async def _freeze_and_write(self) -> tuple[SnapshotInfo, tuple[SnapshotInfo, ...]]:
        ground = self._ground
        started = ground.turns.begin()
        self._generation = self._generation + 1 if self._pages is None else self._pages.freeze()
        freeze = ground.machine.freeze()
        self._bytes_then, self._entries_then = ground.entry_bytes_total, ground.entries_total
        self._end_slice(started)
        writer: SnapshotWriter | None = None
        try:
            writer = await trio.to_thread.run_sync(self._begin, freeze.zxid, self._generation, limiter=self._limiter)
            await self._pack(freeze, writer)
            return await trio.to_thread.run_sync(self._finish, writer, limiter=self._limiter)
        finally:
            if not freeze.done:
                freeze.let_go()
            if writer is not None:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(writer.abandon, limiter=self._limiter)

    async def _pack(self, freeze: Freeze, writer: SnapshotWriter) -> None:
        turns = self._ground.turns
        gathered: list[tuple[int, bytes]] = []
        gathered_bytes = 0
        while not freeze.done:
            started = turns.begin()
            deadline = started + SLICE_SECONDS
            for section in freeze.pack(lambda: time.perf_counter() < deadline):  # noqa: B023 - called within the turn
                gathered.append(section)
                gathered_bytes += len(section[1])
            self._end_slice(started)
            if gathered_bytes >= PIECE_BYTES or freeze.done:
                await trio.to_thread.run_sync(_add_all, writer, gathered, limiter=self._limiter)
                gathered, gathered_bytes = [], 0
            else:
                await trio.lowlevel.checkpoint()

    def _end_slice(self, started: float) -> None:
        self._ground.turns.end(started)
        elapsed = time.perf_counter() - started
        if elapsed > self.figures.longest_slice_seconds:
            self.figures = replace(self.figures, longest_slice_seconds=elapsed)

    async def _forget_what_is_older(self, kept: tuple[SnapshotInfo, ...]) -> None:
        """Let the log proper begin at the older of two snapshots; one alone does not carry it: it may rot."""
        if len(kept) == KEPT:
            zxid = await self._begins_at(kept[-1].zxid)
            await self._ground.append.run_on_log_thread(lambda: self._ground.log.begin_at(zxid))
            self._ground.index.forget_before(self._ground.log.whole_files()[0].first_zxid - 1)
            self._ground.on_log_begins()

    async def _begins_at(self, zxid: int) -> int:
        """Return where the log is to begin, which could begin at *zxid*: earlier where another broker needs more.

        Without these entries it would be sent a snapshot and all that lives, and under load it would need another one
        when that is there. But they are kept only as long as there is room.
        """
        ground, log = self._ground, self._ground.log
        needed = ground.needed_by_others()
        if needed is None or not log.start_zxid <= needed < zxid:
            return zxid
        kept_bytes = await trio.to_thread.run_sync(log.bytes_after, needed, limiter=self._limiter)
        has_room = kept_bytes < min(LOG_FOR_OTHERS_BYTES_MAX, ground.space.view.free_bytes)
        return needed if has_room else zxid

    def _give_up(self, reason: str, bytes_then: int, entries_then: int) -> None:
        logger.warning("a snapshot failed, and is tried again in %.0f s or later: %s", RETRY_SECONDS, reason)
        self._bytes_then, self._entries_then = bytes_then, entries_then
        self._retry_at = trio.current_time() + RETRY_SECONDS
        self._free_bytes_then = self._ground.space.view.free_bytes
        self.figures = replace(self.figures, failed=self.figures.failed + 1)

    def _note(self, info: SnapshotInfo, seconds: float) -> None:
        self.figures = replace(
            self.figures, taken=self.figures.taken + 1, zxid=info.zxid, bytes=info.file_bytes, seconds=seconds
        )
        logger.info(
            "snapshot at %s: %d bytes in %d sections, %.2f s, longest slice so far %.1f ms",
            format_zxid(info.zxid),
            info.file_bytes,
            info.sections,
            seconds,
            1000 * self.figures.longest_slice_seconds,
        )

    # --- the worker thread -------------------------------------------------------------------------------------------

    def _begin(self, zxid: int, generation: int) -> SnapshotWriter:
        return self._store.begin(zxid, self._ground.log.chain_at(zxid), generation)

    def _finish(self, writer: SnapshotWriter) -> tuple[SnapshotInfo, tuple[SnapshotInfo, ...]]:
        if self._pages is not None:
            self._pages.sync()  # what the sections name is durable before the snapshot counts
        info = writer.finish()
        kept = self._store.keep(KEPT)
        if self._pages is not None and kept:
            self._pages.retain(kept[-1].generation)
            self._pages.shrink()
        return info, kept


def _add_all(writer: SnapshotWriter, sections: list[tuple[int, bytes]]) -> None:
    for kind, data in sections:
        writer.add(kind, data)
