"""The road: the stages put together, for as long as this broker leads.

    propose (here) -> append -> replicate -> commit -> apply -> dispatch
                                                          `---> the verdict goes to whoever proposed it

`Road.propose` is the only way to change durable state. It is synchronous: the entry gets its zxid, goes to the log's
thread and to the other brokers, and whoever waits is remembered. When it is committed, the ground (`ground`) lets it
pass through the machine, in order, and the road performs what follows from it and offers what became ready to
consumers.

A road is one leadership. When that ends, `end` is called and nothing leaves it any more: nothing is proposed, confirmed
or delivered, and what was under way has an unknown outcome. A later leadership begins from the machine alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import trio

from sluicemq.broker.pipeline.acknowledging import AcknowledgingStage
from sluicemq.broker.pipeline.checks import CheckStage
from sluicemq.broker.pipeline.dispatch import DispatchStage
from sluicemq.broker.pipeline.due import DueTimer
from sluicemq.broker.pipeline.explaining.story import Explaining
from sluicemq.broker.pipeline.filling import FillingStage
from sluicemq.broker.pipeline.given_up import GivenUpStage
from sluicemq.broker.pipeline.ground import SLICE_SECONDS, WAITING_ENTRIES_MAX, Ground
from sluicemq.broker.pipeline.log_clock import LogClock
from sluicemq.broker.pipeline.metering import MeteringStage
from sluicemq.broker.pipeline.order import COUNTER_MAX, LoneOrder, Order, alone_with, refuse_unless_alone
from sluicemq.broker.pipeline.produce import ProduceStage
from sluicemq.broker.pipeline.replay import ReplayStage
from sluicemq.broker.pipeline.schedules import ScheduleStage
from sluicemq.broker.pipeline.sessions import SessionStage
from sluicemq.broker.pipeline.settle import SettleStage
from sluicemq.broker.pipeline.shaping import ShapingStage
from sluicemq.broker.pipeline.topics import TopicStage
from sluicemq.broker.pipeline.transactions import TransactionStage
from sluicemq.broker.pipeline.unused import UnusedQueues
from sluicemq.broker.queues.entries import Entry, Epoch
from sluicemq.storage.record import HEAD_BYTES
from sluicemq.wire.errors import LimitReached, NotLeader

if TYPE_CHECKING:
    from typing import Any

    from sluicemq.broker.pipeline.commit import OnApplied
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.runs import Run
    from sluicemq.storage.log import SegmentLog

__all__ = ["COUNTER_MAX", "SLICE_SECONDS", "WAITING_ENTRIES_MAX", "LoneRoad", "Road"]

logger = logging.getLogger("sluicemq.road")

Answer = TypeVar("Answer")


class Road:
    """One leadership's road, from a request to its effect.

    Args:
        ground: Log and machine of this broker.
        order: Gives entries their places.

    Attributes:
        over: The leadership has ended.

    """

    def __init__(self, ground: Ground, order: Order) -> None:
        assert ground.road is None, "one leadership at a time"
        self.ground = ground
        self._order = order
        self.over = False
        self.log = ground.log
        self.node_id = ground.node_id
        self.restart = ground.restart
        self.machine = ground.machine
        self.turns = ground.turns
        self.space = ground.space
        self.append = ground.append
        self.commit = ground.commit
        self.bodies = ground.bodies
        self.pager = ground.pager
        self.reclaimer = ground.reclaimer
        self.snapshots = ground.snapshots
        self.scrub = ground.scrub
        self.epoch = order.epoch
        self.clock = LogClock(
            self.machine.log_time_ms,
            wall=ground.wall,
            monotonic=ground.monotonic,
            heard=ground.heard,
            alarm=lambda difference_ms: logger.warning(
                "log time and wall time are %.1f s apart; log time slews towards wall time slowly",
                difference_ms / 1000,
            ),
        )
        self._entry_bytes_max = ground.log.entry_bytes_max
        self._timers: list[DueTimer] = []
        self.produce = ProduceStage(self)
        self.topics = TopicStage(self)
        self.fillings = FillingStage(self)
        self.unused = UnusedQueues(self)
        self.shaping = ShapingStage(self)
        self.metering = MeteringStage(self)
        self.dispatch = DispatchStage(self)
        self.settle = SettleStage(self)
        self.sessions = SessionStage(self)
        self.acknowledging = AcknowledgingStage(self)
        self.replay = ReplayStage(self)
        self.explaining = Explaining(self)
        self.schedules = ScheduleStage(self)
        self.transactions = TransactionStage(self)
        self.checks = CheckStage(self)
        self.given_up = GivenUpStage(self)
        ground.road = self

    # --- life ---------------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Wait for the clients of earlier sessions; return when everything before this leadership is applied."""
        begun = trio.Event()
        self.shaping.begin()
        await self.sessions.restore()
        if self.machine.applied_zxid < self._order.last_zxid:
            # The verdict on a last, harmless entry tells that all of them are committed and applied.
            self.propose(self.settle.clock_entry(), on_applied=lambda _outcome: begun.set())
            await begun.wait()

    async def run(self) -> None:
        """Run the timers and the cold reads until cancelled."""
        async with trio.open_nursery() as nursery:
            self.settle.start(nursery)
            self.shaping.start(nursery)
            self.metering.start(nursery)
            self.sessions.start(nursery)
            self.acknowledging.start(nursery)
            self.unused.start(nursery)
            nursery.start_soon(self.fillings.run)
            nursery.start_soon(self.schedules.run)
            nursery.start_soon(self.checks.run)
            nursery.start_soon(self.given_up.run)

    def timer(
        self, next_due: Callable[[], float | None], fire: Callable[[], None], *, is_upkeep: bool = False
    ) -> DueTimer:
        """Return a timer of a stage, which runs it; *is_upkeep*: it goes off again and again, mostly for nothing."""
        made = DueTimer(next_due, fire)
        if not is_upkeep:
            self._timers.append(made)
        return made

    def next_due(self) -> float | None:
        """Return when the first of all timers goes off, in seconds on the trio clock; None: none of them ever does.

        Those of upkeep do not count, nor does what depends on an entry that is under way.
        """
        return min((due for timer in self._timers if (due := timer.next_due()) is not None), default=None)

    def end(self) -> None:
        """The leadership is over: nothing is proposed, confirmed or delivered any more. May be said twice."""
        self.over = True
        self.dispatch.end()
        if self.ground.road is self:
            self.ground.road = None

    # --- entries ------------------------------------------------------------------------------------------------------

    def propose(
        self, entry: Entry, payload: bytes = b"", *, on_applied: OnApplied | None = None, lazy: bool = False
    ) -> int:
        """Put *entry* on the road and return its zxid; 0 if it gets one later, or never if the leadership ends.

        Args:
            entry: What is to change.
            payload: The batch of a PUBLISH.
            on_applied: Called with the machine's `Outcome` once the entry is committed and applied.
            lazy: Nobody waits for it; it need not force a sync.

        Raises:
            LimitReached: The entry is larger than the log takes; nothing was proposed.
            NotLeader: The leadership is over; nothing was proposed.

        """
        header = entry.header()
        entry_bytes = HEAD_BYTES + len(header) + len(payload)
        if entry_bytes > self._entry_bytes_max:
            raise LimitReached(
                f"an entry of {entry_bytes} bytes; the log takes {self._entry_bytes_max}",
                retryable=False,
                limit="entry_bytes_max",
                value=self._entry_bytes_max,
            )
        if self.over:
            raise NotLeader("this broker no longer leads; the client finds the new leader by itself")
        return self._order.propose(entry, header, payload, on_applied, lazy)

    @property
    def takes_proposals(self) -> bool:
        """Whether an entry would get its place at once. If not, `advance` runs again when it would."""
        return self._order.takes_proposals

    def when_all_have(self, zxid: int, then: Callable[[], None]) -> None:
        """Call *then* once every voter has the applied entry *zxid* durably; never if the leadership ends before.

        For who wants to read from any broker after all others are lost; a broker that is away makes it wait for good.
        """
        self._order.when_all_have(zxid, then)

    def perform(self, deadline: float) -> bool:
        """Do what follows from what was just applied, and dispatch, until *deadline*; return whether some is left."""
        self.settle.clock_changed()
        return self.dispatch.run(deadline)

    async def catch_up(self) -> None:
        """Wait until all that was proposed so far is applied: what consumers were sent is known to be theirs then."""
        await self.ground.wait_applied(self._order.last_zxid)

    async def peek(self, queue_id: int, skip: int, count_max: int) -> list[Run]:
        """Return ready runs of the queue as `Machine.peek` does, wherever they lie.

        What consumers were sent before this call is not among them: its GRANTs are waited for, milliseconds.
        """
        if self.dispatch.has_unapplied_grants(queue_id):
            await self.catch_up()
        return await self.look(lambda: self.machine.peek(queue_id, skip, count_max))

    # --- of the ground ------------------------------------------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """Whether this broker cannot go on."""
        return self.ground.failed

    @property
    def entries_total(self) -> int:
        """Entries that went to the log since the start of the broker."""
        return self.ground.entries_total

    @property
    def entry_bytes_total(self) -> int:
        """Their bytes."""
        return self.ground.entry_bytes_total

    @property
    def congested(self) -> bool:
        """Whether sessions should stop reading until `wait_for_room` returns."""
        return self.ground.congested

    async def wait_for_room(self) -> None:
        """Wait until the disk and apply have caught up."""
        await self.ground.wait_for_room()

    async def wait_idle(self) -> None:
        """Wait until nothing proposed is still under way."""
        await self.ground.wait_idle()

    def fail(self, error: BaseException) -> None:
        """The broker cannot go on: nothing is confirmed from here on.

        That a leadership is over is no failure: whoever was in the middle of something when it ended may not know yet.
        """
        if not (self.over and isinstance(error, NotLeader)):
            self.ground.fail(error)

    def advance(self) -> None:
        """Apply what is committed and dispatch what is ready, for at most about `SLICE_SECONDS`."""
        self.ground.advance()

    def after_answers(self) -> None:
        """Let answers leave that were given outside of a turn of applying."""
        self.ground.after_advance()

    def again(self) -> None:
        """Let `advance` run again after the event loop served its sockets."""
        self.ground.again()

    async def look(self, ask: Callable[[], Answer]) -> Answer:
        """Return what *ask* returns, which changes nothing, wherever the chunks lie that it needs."""
        return await self.ground.look(ask)

    def want(self, chunks: list[Chunk]) -> None:
        """Let *chunks* of queue indexes be read back; what waits for them goes on when they are there."""
        self.ground.want(chunks)


class LoneRoad(Road):
    """The road of a broker on its own, which leads from its start to its end: one life with its ground.

    Args:
        log: As of `Ground`, and so are the others.
        only_if_alone: Refuse a log by which others vote too.

    Raises:
        NotAlone: By its log, this broker belongs to a cluster; nothing was changed.
        LogWriteFailed: The epoch cannot be promised. And whatever `Ground` raises.

    """

    def __init__(self, log: SegmentLog, *, only_if_alone: bool = False, **settings: Any) -> None:
        ground = Ground(log, **settings)
        if only_if_alone:
            refuse_unless_alone(ground)
        self.order = LoneOrder(ground)
        super().__init__(ground, self.order)

    async def begin(self) -> None:
        """Start the log's threads, begin the epoch, and wait for the clients of the sessions of the epoch before."""
        self.ground.start()
        configuration = alone_with(self.node_id, self.log.incarnation)
        self.propose(Epoch(self.clock.now_ms(), self.node_id, configuration), configuration)
        await super().begin()

    async def run(self) -> None:
        """Run everything until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.ground.run)
            nursery.start_soon(super().run)

    async def write_down(self) -> None:
        """Take a snapshot of everything that was proposed: see `Ground.write_down`."""
        await self.ground.write_down()

    async def stop(self) -> None:
        """Write, sync and apply what was proposed, then end the log's thread."""
        await self.ground.stop()
