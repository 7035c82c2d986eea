"""The driver loop: whatever happens becomes an event of the replication core, and its effects are carried out in order.

The loop is the one that the core's docstring demands of a shell. Proposals are dealt with at once and return their
zxid; all other events queue up, so that no effect is ever interrupted by another event.

What the core refuses for a moment (the lead is being handed over) waits here, in order, and is proposed again as soon
as it may; it is forgotten when the leadership ends. This module must not know sockets, clients or what entries mean.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import trio

from sluicemq.broker.pipeline.due import DueTimer
from sluicemq.broker.pipeline.ensemble.records import Body
from sluicemq.broker.replication import effects as fx
from sluicemq.broker.replication import events as ev
from sluicemq.broker.replication.messages import Phase, Role
from sluicemq.storage.errors import StorageError
from sluicemq.storage.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.pipeline.ensemble.backlog import Backlog
    from sluicemq.broker.pipeline.ensemble.disk_queue import DiskQueue
    from sluicemq.broker.pipeline.ensemble.links import Links
    from sluicemq.broker.pipeline.ensemble.view import View
    from sluicemq.broker.replication.replica import Replica
    from sluicemq.wire.errors import SluiceError


class Host(Protocol):
    """What the driver leaves to whoever owns it."""

    def advance(self) -> None:
        """More is committed: apply it now."""

    def again(self) -> None:
        """More is committed: apply it as soon as the event loop has served its sockets."""

    def role_changed(self, effect: fx.RoleChanged) -> None:
        """This broker is something else now."""

    def install(self, effect: fx.InstallSnapshot) -> None:
        """Put the received snapshot in the place of log and state, behind what the disk has to do before."""

    @property
    def exchanging(self) -> bool:
        """Whether the log is just being replaced by another one."""

    def first_entry(self) -> None:
        """The log was empty, and its first entry is about to be written."""

    def repaired(self) -> None:
        """That the log is whole again is about to be noted."""

    def alarm(self, reason: str) -> None:
        """Tell an operator."""

    def fatal(self, effect: fx.Fatal) -> None:
        """End the process."""

    def fail(self, error: BaseException) -> None:
        """End the process: something broke that cannot."""


@dataclass(eq=False)
class Asked:
    """A request to the core that takes its time: reads, changes of voters, handing over the lead.

    Attributes:
        on_done: Called when it is done, in the middle of the step that did it: what follows may end this leadership.

    """

    on_done: Callable[[], None] | None = None
    done: trio.Event = field(default_factory=trio.Event)
    zxid: int = 0
    error: SluiceError | None = None

    def answer(self, *, zxid: int = 0, error: SluiceError | None = None) -> None:
        """Say how it went."""
        self.zxid, self.error = zxid, error
        if error is None and self.on_done is not None:
            self.on_done()
        self.done.set()

    async def wait(self) -> int:
        """Return the zxid that came with the answer. Raises the error with which it was refused."""
        await self.done.wait()
        if self.error is not None:
            raise self.error
        return self.zxid


class Driver:
    """See the module.

    Args:
        replica: The core.
        view: Its log.
        backlog: What is not applied yet.
        disk: The disk's queue.
        links: Connections to peers.
        host: Everything else.

    """

    def __init__(
        self, replica: Replica, view: View, backlog: Backlog, disk: DiskQueue, links: Links, host: Host
    ) -> None:
        self.replica = replica
        self._view = view
        self._backlog = backlog
        self._disk = disk
        self._links = links
        self._host = host
        self._inbox: deque[ev.Event] = deque()
        self._running = False
        self._given_zxid = 0
        self._held: deque[Body] = deque()
        self._refused = False
        self._asked_in_vain = False
        self._committed = False
        self._disk_answered = False
        self._broken = False
        # (zxid, number, whom to tell) of who waits until every voter has an entry.
        self._awaited: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._timer = DueTimer(lambda: self.replica.wake_at, lambda: self.event(ev.Wake()), self._hears_first)
        self._reads: trio.MemorySendChannel[fx.ReadEntries]
        self._reads, self._reads_to_do = trio.open_memory_channel[fx.ReadEntries](1_000)
        self._watched: list[tuple[Callable[[], bool], trio.Event]] = []
        self._perform: dict[type, Callable[[Any], None]] = {
            fx.Send: lambda effect: self._links.send(effect.peer, effect.message),
            fx.Append: self._append,
            fx.Join: self._disk.submit,
            fx.SavePromise: self._disk.submit,
            fx.NoteRepaired: self._note_repaired,
            fx.Truncate: self._truncate,
            fx.InstallSnapshot: self._host.install,
            fx.ReadEntries: self._read_entries,
            fx.SendSnapshot: lambda effect: self._links.send_snapshot(effect),
            fx.Committed: self._commit,
            fx.RoleChanged: self._role_changed,
            fx.Proposed: self._proposed,
            fx.Refused: self._refuse,
            fx.ReadReady: lambda effect: effect.reference.answer(zxid=effect.zxid),
            fx.Done: lambda effect: effect.reference.answer(),
            fx.Alarm: lambda effect: self._host.alarm(effect.reason),
            fx.Fatal: self._host.fatal,
        }

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let the core begin."""
        self.event(ev.Start())

    async def run(self) -> None:
        """Wake the core when it asks for it, and read for learners that lag behind, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._timer.run)
            nursery.start_soon(self._read_for_learners)

    def _hears_first(self, late_seconds: float) -> bool:
        """Say whether the messages that came while this process stood still count before its clock does.

        For who follows they do: the leader's pings lie there, unread. A leader who was away for so long that others may
        lead by now goes by the clock, so that it serves nobody any more.
        """
        return self.replica.role is not Role.LEADING or late_seconds < self.replica.follower_seconds / 2

    # --- events -------------------------------------------------------------------------------------------------------

    def event(self, event: ev.Event) -> None:
        """Something happened."""
        self._inbox.append(event)
        if not self._running:
            self._go_on()

    def persisted(self, token: fx.Token) -> None:
        """The disk has done an effect, and all before it."""
        self.event(ev.Persisted(token))

    def propose(self, body: Body) -> int:
        """Propose an entry; return its zxid, or 0 if it gets one later, or never if the leadership ends before."""
        assert not self._running, "nothing is proposed by what carries out effects"
        if not self._held and self._try_to_propose(body):
            if self._committed:
                self._committed = False
                self._host.again()
            return self._given_zxid
        if self._leads():
            self._held.append(body)
        return 0

    def ask(self, request: Callable[[Asked], ev.Event], on_done: Callable[[], None] | None = None) -> Asked:
        """Ask the core for something that takes its time, such as `lambda asked: Read(asked)`."""
        asked = Asked(on_done)
        self.event(request(asked))
        return asked

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds, which depends on what the core knows."""
        if not condition():
            holds = trio.Event()
            self._watched.append((condition, holds))
            await holds.wait()

    def when_all_have(self, zxid: int, then: Callable[[], None]) -> None:
        """Call *then* once every voter has the entry *zxid* durably; never if the leadership ends before."""
        if self._everybody_has() >= zxid:
            then()
        else:
            heapq.heappush(self._awaited, (zxid, next(self._numbers), then))

    def _everybody_has(self) -> int:
        """Return up to where every voter has the log durably, as far as this leader knows."""
        replica = self.replica
        configuration = replica.configuration
        if configuration is None or not self._leads():
            return 0
        reached = {one.member: one.acknowledged_zxid for one in replica.learners.values()}
        reached[replica.member] = replica.durable_zxid
        return min(reached.get(voter, 0) for voter in configuration.everybody)

    def _tell_who_waits_for_all(self) -> None:
        everybody_has = self._everybody_has()
        while self._awaited and self._awaited[0][0] <= everybody_has:
            heapq.heappop(self._awaited)[2]()

    @property
    def held(self) -> int:
        """How many proposals wait until the core takes them."""
        return len(self._held)

    @property
    def takes_proposals(self) -> bool:
        """Whether a proposal would get its place at once; if not, what is committed is looked at again when it does."""
        takes = not self._held and self.replica.takes_proposals
        if not takes:
            self._asked_in_vain = True
        return takes

    def _leads(self) -> bool:
        return self.replica.role is Role.LEADING and self.replica.phase is Phase.BROADCAST

    def _go_on(self) -> None:
        self._running = True
        try:
            while self._inbox:
                self._step(self._inbox.popleft())
        finally:
            self._running = False
        while self._held and self._try_to_propose(self._held[0]):
            self._held.popleft()
        if self._asked_in_vain and not self._held and self.replica.takes_proposals:
            self._asked_in_vain = False
            self._host.again()
        self._links.flush()
        self._timer.changed(self.replica.wake_at)
        if self._watched:
            self._look_at_watched()
        if self._awaited:
            self._tell_who_waits_for_all()
        # Who learns writes first and applies when the disk has answered: the leader waits for that, nobody for this.
        disk_answered, self._disk_answered = self._disk_answered, False
        waits = self._disk.is_appending and not disk_answered and self.replica.role is not Role.LEADING
        if self._committed and not waits:
            self._committed = False
            self._host.advance()

    def _try_to_propose(self, body: Body) -> bool:
        self._refused = False
        self._running = True
        try:
            self._step(ev.Propose(body, body))
            while self._inbox:  # what carrying it out has brought about
                self._step(self._inbox.popleft())
        finally:
            self._running = False
        return not self._refused

    def _step(self, event: ev.Event) -> None:
        if self._broken:
            return
        try:
            for effect in self.replica.step(event, trio.current_time()):
                self._perform[type(effect)](effect)
        except Exception as error:  # noqa: BLE001 - half a step is no step: whoever called must not take it for its own
            self._broken = True
            self._host.fail(error)
            return
        if type(event) is ev.Persisted:
            self._disk_answered = True
            self._view.durable(self.replica.durable_zxid)

    def _look_at_watched(self) -> None:
        left = []
        for condition, holds in self._watched:
            if condition():
                holds.set()
            else:
                left.append((condition, holds))
        self._watched = left

    # --- effects ------------------------------------------------------------------------------------------------------

    def _append(self, effect: fx.Append) -> None:
        if not self._view.last.zxid:
            self._host.first_entry()
        self._view.append(effect.entries)
        self._backlog.append(effect.entries, self.replica.durable_zxid)
        self._disk.submit(effect)

    def _truncate(self, effect: fx.Truncate) -> None:
        self._view.truncate(effect.position)
        self._backlog.truncate(effect.position.zxid)
        self._disk.submit(effect)

    def _note_repaired(self, effect: fx.NoteRepaired) -> None:
        self._disk.submit(effect)
        self._host.repaired()

    def _commit(self, effect: fx.Committed) -> None:
        self._backlog.commit(effect.zxid)
        self._committed = True

    def _role_changed(self, effect: fx.RoleChanged) -> None:
        if not (effect.role is Role.LEADING and effect.phase is Phase.BROADCAST):
            self._held.clear()
            self._awaited.clear()
        self._host.role_changed(effect)

    def _proposed(self, effect: fx.Proposed) -> None:
        self._given_zxid = effect.zxid

    def _refuse(self, effect: fx.Refused) -> None:
        if isinstance(effect.reference, Asked):
            effect.reference.answer(error=effect.error)
        else:
            self._refused = True

    def _read_entries(self, effect: fx.ReadEntries) -> None:
        entries = self._view.read_recent(effect.after, effect.bytes_max)
        if entries is not None:
            self._inbox.append(ev.EntriesRead(effect.peer, effect.session, effect.after, entries))
            return
        try:
            self._reads.send_nowait(effect)
        except trio.WouldBlock:  # a thousand learners that lag: each is asked for again with its next session
            self._host.alarm(f"too many brokers lag behind: nothing is read for node {effect.peer}")

    async def _read_for_learners(self) -> None:
        async for effect in self._reads_to_do:
            log = self._view.log
            try:
                entries = await trio.to_thread.run_sync(self._view.read_from_disk, effect.after, effect.bytes_max)
            except StorageError as error:
                if self._host.exchanging or self._view.log is not log:
                    continue  # read for a leadership that is over, from a log that was closed meanwhile
                self._host.fail(error)
                return
            self.event(ev.EntriesRead(effect.peer, effect.session, effect.after, entries))


class EnsembleOrder:
    """Gives places to the entries of one leadership: `pipeline.order.Order`.

    Args:
        driver: Proposes them.
        epoch: The epoch of the leadership.

    """

    def __init__(self, driver: Driver, epoch: int) -> None:
        self._driver = driver
        self.epoch = epoch

    @property
    def last_zxid(self) -> int:
        """The last place that was given."""
        return self._driver.replica.last.zxid

    @property
    def takes_proposals(self) -> bool:
        """Whether an entry would get its place at once."""
        return self._driver.takes_proposals

    def when_all_have(self, zxid: int, then: Callable[[], None]) -> None:
        """Call *then* once every voter has the entry *zxid* durably; never if the leadership ends before."""
        self._driver.when_all_have(zxid, then)

    def propose(self, entry: Any, header: bytes, payload: bytes, on_applied: Any, lazy: bool) -> int:
        """Put *entry* on its way; see `Order`."""
        record = Record(0, entry.KIND, entry.VERSION, 0, header, payload)
        return self._driver.propose(Body(record, entry, lazy=lazy, on_applied=on_applied))
