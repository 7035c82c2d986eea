"""The road: the stages put together, and the one place where an entry gets its zxid.

    propose (here) -> append -> replicate -> commit -> apply -> dispatch
                                                          `---> the verdict goes to whoever proposed it

`Road.propose` is the only way to change durable state. It is synchronous: it gives the entry its zxid, hands the
record to the log's thread and remembers who waits. When the log says "durable up to zxid", `advance` lets what a
quorum has pass through the machine, in order, and offers what became ready to consumers. Both are bounded in time, so
that the event loop serves sockets in between.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import trio

from sluicemq.broker.pipeline.append import AppendStage
from sluicemq.broker.pipeline.apply import ApplyStage
from sluicemq.broker.pipeline.bodies import Bodies
from sluicemq.broker.pipeline.commit import CommitStage, OnApplied
from sluicemq.broker.pipeline.dispatch import DispatchStage
from sluicemq.broker.pipeline.epochs import EPOCH_BITS, promise_epoch
from sluicemq.broker.pipeline.filling import FillingStage
from sluicemq.broker.pipeline.keeping.disk_space import DiskSpace
from sluicemq.broker.pipeline.keeping.old_files import check_old_files
from sluicemq.broker.pipeline.keeping.paging import INDEX_MEMORY_BYTES_DEFAULT, Pager
from sluicemq.broker.pipeline.keeping.reclaim import RECLAIM_BYTES_PER_SECOND_DEFAULT, Reclaimer
from sluicemq.broker.pipeline.keeping.restart import Restart, load_newest, replay
from sluicemq.broker.pipeline.keeping.scrub import Scrub
from sluicemq.broker.pipeline.keeping.snapshots import EVERY_BYTES_DEFAULT, EVERY_ENTRIES_DEFAULT, SnapshotStage
from sluicemq.broker.pipeline.log_clock import LogClock
from sluicemq.broker.pipeline.produce import ProduceStage
from sluicemq.broker.pipeline.replay import ReplayStage
from sluicemq.broker.pipeline.replicate import Quorum
from sluicemq.broker.pipeline.schedules import ScheduleStage
from sluicemq.broker.pipeline.settle import SettleStage
from sluicemq.broker.pipeline.topics import TopicStage
from sluicemq.broker.pipeline.turns import Turns
from sluicemq.broker.pipeline.unused import UnusedQueues
from sluicemq.broker.queues.chunks import ChunkPool, ChunksMissing
from sluicemq.broker.queues.entries import Entry, Epoch, SessionClose
from sluicemq.broker.queues.machine import Machine
from sluicemq.storage.record import HEAD_BYTES, Record
from sluicemq.wire.errors import InternalError, LimitReached

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.runs import Run
    from sluicemq.storage.log import SegmentLog
    from sluicemq.storage.pagefile import PageFile
    from sluicemq.storage.snapshots import SnapshotStore

logger = logging.getLogger("sluicemq.road")

Answer = TypeVar("Answer")

SLICE_SECONDS = 0.004
"""Longest time that `advance` works before it lets the event loop serve sockets."""
WAITING_ENTRIES_MAX = 10_000
"""Sessions stop reading while more entries than this are proposed and not applied yet: many sessions read faster than
one road applies, and the disk need not be what is slow."""
LAST_ENTRIES_SECONDS = 10.0
"""How long the last snapshot waits for entries that are still under way."""
COUNTER_MASK = 0xFFFF_FFFF
COUNTER_MAX = 0xF000_0000
"""Entries of one epoch; what is left of the counter is never used, so that it cannot run into the next epoch."""


class Road:
    """One broker's road, from a request to its effect.

    Args:
        log: Opened log of this broker.
        node_id: Number of this broker among the voters.
        cache_bytes_max: Most bytes of recent entries kept in memory for dispatch.
        on_failure: Called in the event loop when the road cannot go on; the process must end.
        pages: Where long queue indexes go; opened, and adopted unless there are *snapshots*. None: all of them stay in
            memory.
        index_memory_bytes_max: Most bytes of long queue indexes in memory, about.
        disk_free_bytes_min: Publishing is refused while less of the disk is free; 0: while the next segment finds no
            room.
        disk_bytes: Size of the file system; None: large enough.
        snapshots: Where the machine is written down from time to time; the start reads the newest. None: never.
        snapshot_every_bytes: A snapshot after so many bytes of entries.
        snapshot_every_entries: Or after so many entries.
        reclaim_bytes_per_second_max: Bytes a second read and written to give back what a snapshot says is dead.
        scrub_bytes_per_second: Bytes a second read to find what rots, where there are *snapshots*; 0: none.

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
        reclaim_bytes_per_second_max: int = RECLAIM_BYTES_PER_SECOND_DEFAULT,
        scrub_bytes_per_second: int = 0,
    ) -> None:
        self.log = log
        self.node_id = node_id
        self._on_failure = on_failure
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
        self.failed = False
        self.turns = Turns()
        self.after_advance: Callable[[], None] = lambda: None
        self.entries_total = 0
        self.entry_bytes_total = 0
        replay(log, self.machine, self.pager, self.restart)
        check_old_files(log, self.machine, pages)
        self.clock = LogClock(
            self.machine.log_time_ms,
            wall=time.time,
            monotonic=time.monotonic,
            alarm=lambda difference_ms: logger.warning(
                "log time and wall time are %.1f s apart; log time slews towards wall time slowly",
                difference_ms / 1000,
            ),
        )
        self.epoch = promise_epoch(log)
        self._next_zxid = self.epoch << EPOCH_BITS
        self.space = DiskSpace(log, free_bytes_min=disk_free_bytes_min, disk_bytes=disk_bytes)
        self.append = AppendStage(log, on_durable=self._durable, on_failure=self.fail, space=self.space)
        self.quorum = Quorum([node_id])
        self.commit = CommitStage()
        self.bodies = Bodies(log, cache_bytes_max=cache_bytes_max)
        self.produce = ProduceStage(self)
        self.topics = TopicStage(self)
        self.fillings = FillingStage(self)
        self.unused = UnusedQueues(self)
        self.dispatch = DispatchStage(self)
        self.settle = SettleStage(self)
        self.replay = ReplayStage(self)
        self.schedules = ScheduleStage(self)
        self.apply = ApplyStage(self)
        self.reclaimer = Reclaimer(
            log,
            pages=pages,
            bytes_per_second_max=reclaim_bytes_per_second_max,
            on_failure=self.fail,
            wait_for_readers=self.bodies.wait_for_readers,
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
        self._idle = trio.Event()
        self._cold_looks = trio.Lock()
        self._room: trio.Event | None = None
        # Who waits for an entry to be applied, by zxid.
        self._applied: list[tuple[int, trio.Event]] = []

    async def begin(self) -> None:
        """Start the log's threads, begin the epoch and end the sessions of the epoch before."""
        self.append.start()
        begun = trio.Event()
        self.propose(Epoch(self.clock.now_ms(), self.node_id))
        for session in self.machine.sessions_to_close():
            self.propose(SessionClose(self.clock.now_ms(), session, "broker restarted"))
        # The verdict on a last, harmless entry tells that all of them are committed and applied.
        self.propose(self.settle.clock_entry(), on_applied=lambda _outcome: begun.set())
        await begun.wait()

    async def run(self) -> None:
        """Run the timers and the cold reads until cancelled."""
        async with trio.open_nursery() as nursery:
            self.settle.start(nursery)
            self.unused.start(nursery)
            nursery.start_soon(self.fillings.run)
            nursery.start_soon(self.schedules.run)
            if self.pager is not None:
                nursery.start_soon(self.pager.run)
            if self.snapshots is not None:
                nursery.start_soon(self.snapshots.run)
                nursery.start_soon(self.reclaimer.run)
            if self.scrub is not None:
                nursery.start_soon(self.scrub.run)

    def propose(
        self, entry: Entry, payload: bytes = b"", *, on_applied: OnApplied | None = None, lazy: bool = False
    ) -> int:
        """Put *entry* on the road and return its zxid.

        Args:
            entry: What is to change.
            payload: The batch of a PUBLISH.
            on_applied: Called with the machine's `Outcome` once the entry is committed and applied.
            lazy: Nobody waits for it; it need not force a sync.

        Raises:
            LimitReached: The entry is larger than the log takes; nothing was proposed.

        """
        header = entry.header()
        entry_bytes = HEAD_BYTES + len(header) + len(payload)
        if entry_bytes > self.log.entry_bytes_max:
            raise LimitReached(
                f"an entry of {entry_bytes} bytes; the log takes {self.log.entry_bytes_max}",
                retryable=False,
                limit="entry_bytes_max",
                value=self.log.entry_bytes_max,
            )
        zxid = self._next_zxid
        if zxid & COUNTER_MASK >= COUNTER_MAX:
            # About five days at 10,000 entries a second. A restart begins a new epoch and takes well under a second.
            self.fail(
                InternalError(f"epoch {self.epoch} has used up its {COUNTER_MAX} entries; start the broker again")
            )
        self._next_zxid = zxid + 1
        self.commit.propose(zxid, entry, on_applied)
        if not self.failed:
            self.append.submit(Record(zxid, entry.KIND, entry.VERSION, 0, header, payload), lazy=lazy)
        self.entries_total += 1
        self.entry_bytes_total += entry_bytes
        return zxid

    @property
    def congested(self) -> bool:
        """Whether sessions should stop reading until `wait_for_room` returns."""
        return len(self.commit) > WAITING_ENTRIES_MAX or self.append.congested

    async def wait_for_room(self) -> None:
        """Wait until the disk and apply have caught up."""
        while self.congested:
            await self.append.wait_for_room()
            if len(self.commit) > WAITING_ENTRIES_MAX:
                if self._room is None:
                    self._room = trio.Event()
                await self._room.wait()

    async def wait_idle(self) -> None:
        """Wait until nothing proposed is still under way."""
        while len(self.commit):
            if self._idle.is_set():
                self._idle = trio.Event()
            await self._idle.wait()

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
        """Write, sync and apply what was proposed, then end the log's thread."""
        await self.append.stop()

    def fail(self, error: BaseException) -> None:
        """The road cannot go on: nothing is confirmed from here on."""
        if not self.failed:
            self.failed = True
            self._on_failure(error)

    # --- what the log's thread tells us -----------------------------------------------------------------------

    def _durable(self, zxid: int) -> None:
        self.commit.commit(self.quorum.durable(self.node_id, zxid))
        self.advance()

    def advance(self) -> None:
        """Apply what is committed and dispatch what is ready, for at most about `SLICE_SECONDS`."""
        if self.failed:
            return
        started = self.turns.begin()
        deadline = started + SLICE_SECONDS
        try:
            more = self.apply.run(deadline)
            self.settle.clock_changed()
            more = self.dispatch.run(deadline) or more
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
        if self._room is not None and len(self.commit) <= WAITING_ENTRIES_MAX:
            self._room.set()
            self._room = None
        while self._applied and self._applied[0][0] <= self.machine.applied_zxid:
            self._applied.pop(0)[1].set()
        self.turns.end(started)

    async def peek(self, queue_id: int, skip: int, count_max: int) -> list[Run]:
        """Return ready runs of the queue as `Machine.peek` does, wherever they lie.

        What consumers were sent before this call is not among them: its GRANTs are waited for, milliseconds.
        """
        if self.dispatch.has_unapplied_grants(queue_id):
            applied = trio.Event()
            self._applied.append((self._next_zxid - 1, applied))
            await applied.wait()
        return await self.look(lambda: self.machine.peek(queue_id, skip, count_max))

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
        self.dispatch.dispatcher.filled(chunks)
        self.again()

    def again(self) -> None:
        """Let `advance` run again after the event loop served its sockets."""
        if not self._more_to_do:
            self._more_to_do = True
            trio.lowlevel.current_trio_token().run_sync_soon(self._advance_again)

    def _advance_again(self) -> None:
        self._more_to_do = False
        self.advance()
