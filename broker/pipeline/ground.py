"""The ground that roads lie on: what a broker has as long as its process runs, whoever leads.

Log, machine, bodies and all that keeps them (pages, snapshots, reclaiming, scrubbing), the log's thread, and applying
what is committed. A follower has this and nothing else: it applies, and what should be done about it is not its
business. While this broker leads there is a road too (`road`), which proposes entries and performs effects.

Everything here is bounded in time, so that the event loop serves sockets in between. This module must not know who
decides what is committed, nor what entries mean.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import trio

from sluicemq.broker.pipeline.append import AppendStage
from sluicemq.broker.pipeline.apply import ApplyStage
from sluicemq.broker.pipeline.bodies import Bodies
from sluicemq.broker.pipeline.commit import Commits, CommitStage
from sluicemq.broker.pipeline.explaining.index import LogIndex
from sluicemq.broker.pipeline.keeping.disk_space import DiskSpace
from sluicemq.broker.pipeline.keeping.history import History
from sluicemq.broker.pipeline.keeping.old_files import check_old_files
from sluicemq.broker.pipeline.keeping.paging import INDEX_MEMORY_BYTES_DEFAULT, Pager
from sluicemq.broker.pipeline.keeping.reclaim import RECLAIM_BYTES_PER_SECOND_DEFAULT, Reclaimer
from sluicemq.broker.pipeline.keeping.restart import Restart, load_newest, replay
from sluicemq.broker.pipeline.keeping.scrub import Scrub
from sluicemq.broker.pipeline.keeping.snapshots import EVERY_BYTES_DEFAULT, EVERY_ENTRIES_DEFAULT, SnapshotStage
from sluicemq.broker.pipeline.turns import Turns
from sluicemq.broker.queues.chunks import ChunkPool, ChunksMissing
from sluicemq.broker.queues.machine import Machine

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.storage.log import SegmentLog
    from sluicemq.storage.pagefile import PageFile
    from sluicemq.storage.snapshots import SnapshotStore

Answer = TypeVar("Answer")

SLICE_SECONDS = 0.004
"""Longest time that `advance` works before it lets the event loop serve sockets."""
WAITING_ENTRIES_MAX = 10_000
"""Sessions stop reading while more entries than this are proposed and not applied yet: many sessions read faster than
one road applies, and the disk need not be what is slow."""
SESSION_GRACE_SECONDS_DEFAULT = 10.0
"""How long a session is kept whose connection was lost, and how long a new leader waits for the clients of the last."""
BLOCKED_SECONDS = 0.005
"""How often is looked whether proposals are taken again; it is a matter of milliseconds, and rare."""
LAST_ENTRIES_SECONDS = 10.0
"""How long the last snapshot waits for entries that are still under way."""


class Ground:
    """One broker's log and machine, and their upkeep.

    Args:
        log: Opened log of this broker.
        node_id: Number of this broker among the voters.
        cache_bytes_max: Most bytes of recent entries kept in memory for dispatch.
        on_failure: Called in the event loop when the broker cannot go on; the process must end.
        pages: Where long queue indexes go; opened, and adopted unless there are *snapshots*. None: all of them stay in
            memory.
        index_memory_bytes_max: Most bytes of long queue indexes in memory, about.
        disk_free_bytes_min: Publishing is refused while less of the disk is free; 0: while the next segment finds no
            room.
        disk_bytes: Size of the file system; None: large enough.
        snapshots: Where the machine is written down from time to time; the start reads the newest. None: never.
        snapshot_every_bytes: A snapshot after so many bytes of entries.
        snapshot_every_entries: Or after so many entries.
        history_retention_seconds: Settled entries are kept so long, for those who read them; 0: no matter how old.
        history_bytes_max: And at most so many bytes of them; 0: any number. Both 0: none.
        reclaim_bytes_per_second_max: Bytes a second read and written to give back what a snapshot says is dead.
        scrub_bytes_per_second: Bytes a second read to find what rots, where there are *snapshots*; 0: none.
        session_grace_seconds: How long a session is kept whose connection was lost, also by a leader that begins.
        wall: Seconds since 1970, which log time follows.
        monotonic: Seconds that never jump, by which it goes.
        alone: All of the log is committed, because nobody else has a say: the machine is brought up to its end at once.

    Attributes:
        road: The present leadership, if this broker leads.
        commit: What is not applied yet; of an ensemble another one takes its place before anything runs.
        after_advance: Called at the end of each turn of applying and dispatching.
        on_durable: Called with the zxid up to which the log is durable; alone, that is committed too.
        on_log_begins: Called when the log proper begins later than before.
        needed_by_others: Returns the entry behind which another broker reads on in the log, as far as is known.
        on_hash_due: Called with the zxid that was just applied, at places where brokers compare their states.
        is_blocked: Whether proposals wait for something else than disk and apply: the lead is being handed over.
        heard: Log time in milliseconds, and the monotonic time at which it was the present one, as far as some leader
            has said so to this process: from there a leadership of this broker goes on.
        index: Which stretches of the log tell of which messages.
        holds: While it is not 0, no file that is there now may leave the disk: somebody is sent a snapshot.

    Raises:
        SnapshotMissing, SnapshotContradictsLog: What is needed to start is not there; nothing was changed.
        StorageError: A file cannot be read, or was written by a newer version.
        SluiceError: An entry or a snapshot makes no sense to this version.

    """

    def __init__(
        self,
        log: SegmentLog,
        *,
        node_id: int,
        cache_bytes_max: int,
        on_failure: Callable[[BaseException], None],
        pages: PageFile | None = None,
        index_memory_bytes_max: int = INDEX_MEMORY_BYTES_DEFAULT,
        disk_free_bytes_min: int = 0,
        disk_bytes: int | None = None,
        snapshots: SnapshotStore | None = None,
        snapshot_every_bytes: int = EVERY_BYTES_DEFAULT,
        snapshot_every_entries: int = EVERY_ENTRIES_DEFAULT,
        history_retention_seconds: float = 0.0,
        history_bytes_max: int = 0,
        reclaim_bytes_per_second_max: int = RECLAIM_BYTES_PER_SECOND_DEFAULT,
        scrub_bytes_per_second: int = 0,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        alone: bool = True,
        session_grace_seconds: float = SESSION_GRACE_SECONDS_DEFAULT,
    ) -> None:
        self.log = log
        self.node_id = node_id
        self.wall = wall
        self.monotonic = monotonic
        self.session_grace_seconds = session_grace_seconds
        self.on_failure = on_failure
        self.restart = Restart()
        if snapshots is None:
            self.machine = Machine(pool=None if pages is None else ChunkPool())
        else:
            self.machine = load_newest(log, snapshots, pages, self.restart)
        self.pager: Pager | None = None
        if pages is not None:
            assert self.machine.pool is not None
            self.pager = Pager(pages, self.machine.pool, bytes_max=index_memory_bytes_max, on_failure=self.fail)
            self.pager.on_filled = self._filled
        self.index = LogIndex()
        self.failed = False
        self.turns = Turns()
        self.road: Road | None = None
        self.after_advance: Callable[[], None] = lambda: None
        if alone:
            replay(log, self.machine, self.pager, self.restart, self.index.note)
        check_old_files(log, self.machine, pages)
        self.space = DiskSpace(log, free_bytes_min=disk_free_bytes_min, disk_bytes=disk_bytes)
        self.append = AppendStage(
            log, on_durable=self._durable, on_failure=self.fail, space=self.space, gathers=not alone
        )
        self.commit: Commits = CommitStage()
        self.on_durable: Callable[[int], None] = self._durable_alone
        self.on_log_begins: Callable[[], None] = lambda: None
        self.needed_by_others: Callable[[], int | None] = lambda: None
        self.on_hash_due: Callable[[int], None] | None = None
        self.heard: tuple[float, float] | None = None
        self.holds = 0
        self.is_blocked: Callable[[], bool] = lambda: False
        self.bodies = Bodies(log, cache_bytes_max=cache_bytes_max)
        self.apply = ApplyStage(self)
        self.history = History(
            log,
            self.space,
            seconds=history_retention_seconds,
            bytes_max=history_bytes_max,
            now_ms=lambda: self.machine.log_time_ms,
        )
        self.reclaimer = Reclaimer(
            log,
            pages=pages,
            bytes_per_second_max=reclaim_bytes_per_second_max,
            on_failure=self.fail,
            wait_for_readers=self.bodies.wait_for_readers,
            is_held=lambda: self.holds > 0,
            kept_behind=self.history.kept_behind,
        )
        self.snapshots: SnapshotStage | None = None
        if snapshots is not None:
            self.snapshots = SnapshotStage(
                self,
                snapshots,
                pages,
                self.restart,
                every_bytes=snapshot_every_bytes,
                every_entries=snapshot_every_entries,
            )
            self.snapshots.on_taken = self.reclaimer.offer
            self.append.on_low = self.snapshots.hurry
            if self.history.wanted:
                self.append.on_tight = self._tight
        self.scrub: Scrub | None = None
        if snapshots is not None and self.snapshots is not None and scrub_bytes_per_second:
            self.scrub = Scrub(
                log,
                snapshots.directory,
                pages,
                bytes_per_second=scrub_bytes_per_second,
                rows_of=lambda slot: None if self.pager is None else self.pager.rows_of(slot),
                renew=self.snapshots.renew,
                on_failure=self.fail,
            )
        self._more_to_do = False
        self._stopped = False
        self._idle = trio.Event()
        self._cold_looks = trio.Lock()
        self._room: trio.Event | None = None
        # Who waits for an entry to be applied: a heap of (zxid, number, whom to tell).
        self._applied: list[tuple[int, int, trio.Event]] = []
        self._numbers = itertools.count()

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the log's threads; within the event loop."""
        self.append.start()

    async def run(self) -> None:
        """Keep pages, snapshots and old files in order until cancelled."""
        async with trio.open_nursery() as nursery:
            if self.pager is not None:
                nursery.start_soon(self.pager.run)
            if self.snapshots is not None:
                nursery.start_soon(self.snapshots.run)
                nursery.start_soon(self.reclaimer.run)
            if self.scrub is not None:
                nursery.start_soon(self.scrub.run)

    async def write_down(self) -> None:
        """Take a snapshot of everything that was proposed, so that the next start replays next to nothing.

        For the end, when nobody proposes any more.
        """
        if self.snapshots is None or self.failed:
            return
        with trio.move_on_after(LAST_ENTRIES_SECONDS):
            await self.wait_idle()
        try:
            await self.snapshots.take()
        except Exception as error:  # noqa: BLE001 - a failing disk must show in the exit code
            self.fail(error)

    async def stop(self) -> None:
        """Write, sync and apply what was proposed, then end the log's thread.

        Who waits for room goes on: another ground may have taken this one's place, and nothing more happens here.
        """
        await self.append.stop()
        self._stopped = True
        self._tell_of_room()

    def fail(self, error: BaseException) -> None:
        """The broker cannot go on: nothing is confirmed from here on."""
        if not self.failed:
            self.failed = True
            self.on_failure(error)

    def _tight(self) -> None:
        """History makes room on the disk, unless there is none or somebody sees to it already."""
        if self.snapshots is not None and self.history.bytes and self.reclaimer.is_idle:
            self.snapshots.trim()

    # --- what came ----------------------------------------------------------------------------------------------------

    @property
    def entries_total(self) -> int:
        """Entries that went to the log, whoever proposed them."""
        return self.append.submitted_records

    @property
    def entry_bytes_total(self) -> int:
        """Their bytes."""
        return self.append.submitted_bytes

    # --- room ---------------------------------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether sessions should stop reading until `wait_for_room` returns."""
        if self._stopped:
            return False
        return len(self.commit) > WAITING_ENTRIES_MAX or self.append.congested or self.is_blocked()

    async def wait_for_room(self) -> None:
        """Wait until the disk and apply have caught up."""
        while self.congested:
            await self.append.wait_for_room()
            while self.is_blocked():  # noqa: ASYNC110 - milliseconds, and who blocks knows nobody here
                await trio.sleep(BLOCKED_SECONDS)
            if len(self.commit) > WAITING_ENTRIES_MAX and not self._stopped:
                if self._room is None:
                    self._room = trio.Event()
                await self._room.wait()

    def _tell_of_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    async def wait_idle(self) -> None:
        """Wait until nothing proposed is still under way."""
        while len(self.commit):
            if self._idle.is_set():
                self._idle = trio.Event()
            await self._idle.wait()

    async def wait_applied(self, zxid: int) -> None:
        """Wait until everything up to *zxid* is applied."""
        if self.machine.applied_zxid < zxid:
            applied = trio.Event()
            heapq.heappush(self._applied, (zxid, next(self._numbers), applied))
            await applied.wait()

    # --- applying -----------------------------------------------------------------------------------------------------

    def _durable(self, zxid: int) -> None:
        self.on_durable(zxid)
        if self.road is not None:
            self.road.acknowledging.durable(zxid)

    def _durable_alone(self, zxid: int) -> None:
        self.commit.commit(zxid)
        self.advance()

    def advance(self) -> None:
        """Apply what is committed and dispatch what is ready, for at most about `SLICE_SECONDS`."""
        if self.failed:
            return
        started = self.turns.begin()
        deadline = started + SLICE_SECONDS
        try:
            more = self.apply.run(deadline)
            if self.road is not None:
                more = self.road.perform(deadline) or more
            self.after_advance()
            if self.pager is not None:
                self.pager.look()
            if self.snapshots is not None:
                self.snapshots.look()
        except Exception as error:  # noqa: BLE001 - a broken machine must stop the broker, not only this call
            self.fail(error)
            return
        if more:
            self.again()
        if not len(self.commit):
            self._idle.set()
        if len(self.commit) <= WAITING_ENTRIES_MAX:
            self._tell_of_room()
        while self._applied and self._applied[0][0] <= self.machine.applied_zxid:
            heapq.heappop(self._applied)[2].set()
        self.turns.end(started)

    def again(self) -> None:
        """Let `advance` run again after the event loop served its sockets."""
        if not self._more_to_do:
            self._more_to_do = True
            trio.lowlevel.current_trio_token().run_sync_soon(self._advance_again)

    def _advance_again(self) -> None:
        self._more_to_do = False
        self.advance()

    def renew_then(self, on_applied: Callable[[], None]) -> None:
        """Call *on_applied* once something was applied that no snapshot can have, as far as that is up to this broker.

        A leader proposes an entry that says only what time it is; a follower has what it has.
        """
        road = self.road
        if road is None:
            on_applied()
        else:
            road.propose(road.settle.clock_entry(), on_applied=lambda _outcome: on_applied())

    # --- looking ------------------------------------------------------------------------------------------------------

    async def look(self, ask: Callable[[], Answer]) -> Answer:
        """Return what *ask* returns, which changes nothing, wherever the chunks lie that it needs."""
        # One after the other: those who look at cold chunks together could push out each other's for ever.
        async with self._cold_looks:
            while True:
                try:
                    return ask()
                except ChunksMissing as missing:
                    assert self.pager is not None, "only a pager lets chunks leave the memory"
                    await self.pager.load(missing.chunks)

    def want(self, chunks: list[Chunk]) -> None:
        """Let *chunks* of queue indexes be read back; what waits for them goes on when they are there."""
        assert self.pager is not None, "only a pager lets chunks leave the memory"
        self.pager.want(chunks)

    def _filled(self, chunks: list[Chunk]) -> None:
        if self.road is not None:
            self.road.dispatch.dispatcher.filled(chunks)
        self.again()
