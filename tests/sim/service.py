"""What a node does with committed entries, and what a leader does beside: the queue machine, and who waits for it.

Every node applies; the leader also takes requests, closes what its predecessor's clients left behind, dispatches, and
lets leases end. It is the pipeline of the broker in miniature: the same machine, the same dispatcher, the same rules
(a GRANT is appended when messages are sent and nobody waits for it; a confirmation leaves when its entry is applied).

This module must not know how entries become committed.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from sluicemq.broker.pipeline.log_clock import LogClock
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.dispatching.dispatcher import Dispatcher, grant_of
from sluicemq.broker.queues.entries_of_transactions import Resolve, Transaction
from sluicemq.broker.queues.outcomes import Granted, LeasesGone, Outcome, SessionGone, SessionOpened, Settled
from sluicemq.broker.queues.outcomes_of_transactions import ChecksDue, Transacted
from sluicemq.broker.queues.outstanding import Outstanding
from sluicemq.broker.queues.tags import without
from sluicemq.broker.replication import events as ev
from sluicemq.broker.replication.agreement import StateHash
from sluicemq.broker.replication.history import EpochRecord, MembershipRecord, zxid_of
from sluicemq.broker.replication.messages import Phase, Role
from sluicemq.wire.messages import VERDICT_HANDED_OVER
from tests.sim import once
from tests.sim.entries import body_of
from tests.sim.features import operating, publishing

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.queues.dispatching.dispatcher import Pick
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.replication.effects import RoleChanged
    from sluicemq.broker.replication.history import Entry
    from sluicemq.wire.errors import SluiceError
    from tests.sim.driver import Process

VHOST = "/"
TICK_SECONDS = 0.25
IDLE_SECONDS = 3.0
CLOCK_ITEMS_MAX = 1_000
CREDIT_BYTES = 1 << 20
BY_NAME = ("transact", "prepare")
"""Requests that name queues which may not be there yet."""
REFUSED = "refused"
CONFIRMED = "confirmed"


class Service:
    """The machine of one process, and its leadership if it has one."""

    def __init__(self, process: Process, machine: Machine) -> None:
        self.process = process
        self.machine = machine
        self.applied_zxid = machine.applied_zxid
        self.lead: Lead | None = None

    def restart(self, machine: Machine) -> None:
        """Go on from a snapshot."""
        self.machine = machine
        self.applied_zxid = machine.applied_zxid

    def end(self) -> None:
        """The process is gone, or leads no more."""
        if self.lead is not None:
            self.lead.over = True
            self.lead = None

    def committed(self, zxid: int) -> None:
        """Apply everything up to *zxid*."""
        if zxid <= self.applied_zxid:
            return
        process = self.process
        for entry in process.memory.between(self.applied_zxid, zxid):
            self._apply(entry)
            if not process.alive:
                return
        lead = self.lead
        if lead is not None:
            lead.go_on()

    def _apply(self, entry: Entry) -> None:
        body, zxid = entry.body, entry.zxid
        self.process.truth.deliveries.delivers(self.process.node.number, self.applied_zxid, entry)
        self.applied_zxid = zxid
        if isinstance(body, MembershipRecord):
            return
        applied: e.Entry = e.Epoch(0, body.leader) if isinstance(body, EpochRecord) else body.entry  # type: ignore[attr-defined]
        outcome = self.machine.apply(zxid, applied)
        self.process.world.archive.applied(zxid, applied)
        process = self.process
        state = process.truth.applied(process.node, self.machine, zxid)
        if state is not None:
            process.event(ev.StateHashed(StateHash(zxid, state)))
        if self.lead is not None:
            self.lead.applied(zxid, applied, outcome)

    def role_changed(self, effect: RoleChanged) -> None:
        """Begin or end to serve."""
        leads = effect.role is Role.LEADING and effect.phase is Phase.BROADCAST
        if self.lead is not None and not (leads and self.lead.epoch == effect.epoch):
            self.end()
        if leads and self.lead is None:
            self.lead = Lead(self, effect.epoch)
            self.lead.go_on()

    # --- answers of the core ------------------------------------------------------------------------------------------

    def proposed(self, reference: object, zxid: int) -> None:
        """A proposal has its place."""
        if self.lead is not None:
            self.lead.proposed(reference, zxid)

    def refused(self, reference: object, error: SluiceError) -> None:
        """A request was refused."""
        del error  # who asked tries again, whatever it says
        if isinstance(reference, ReadReference):
            reference.reply((REFUSED, None))
        elif self.lead is not None:
            self.lead.refused(reference)

    def read_ready(self, reference: object, zxid: int) -> None:
        """A read may be answered."""
        assert isinstance(reference, ReadReference)
        self.process.truth.read_answered(self.process.node, self, zxid, reference.floor_zxid)
        reference.reply((CONFIRMED, zxid))

    def done(self, reference: object) -> None:
        """A change of members is through; whoever asked looks at who votes."""

    # --- requests of clients ------------------------------------------------------------------------------------------

    def request(self, request: tuple[Any, ...], reply: Callable[[Any], None]) -> None:
        """Deal with a client's request, or say who might."""
        lead = self.lead
        if request[0] == "read":
            self.process.event(ev.Read(ReadReference(self.process.truth.confirmed_zxid, reply)))
        elif lead is None or not lead.serving:
            reply(("not_leader", self.process.replica.leader))
        else:
            lead.request(request, reply)


@dataclasses.dataclass(eq=False)
class ReadReference:
    """A read, and what had been confirmed to anybody when it began."""

    floor_zxid: int
    reply: Callable[[Any], None]


@dataclasses.dataclass(eq=False)
class Proposal:
    """A proposal that waits for its place, or to be applied."""

    entry: e.Entry
    on_applied: Callable[[int, Outcome], None] | None = None
    on_refused: Callable[[], None] | None = None
    pick: Pick | None = None
    looked_zxid: int = 0
    """What was applied when somebody looked which messages of the pick need not be sent."""
    known: list[int] = dataclasses.field(default_factory=list)
    """Tags of the pick that need not be sent, because messages with their ids were acknowledged."""
    sent: once.Stretches | None = None
    """What is sent of the pick instead of all of it: first tags and runs."""


def _named(pick: Pick) -> list[once.NamedRun]:
    return [(run.zxid, run.first, run.size) for run in pick.runs]


def wish_of(machine: Machine, time_ms: int, kind: str, arguments: list[Any]) -> e.Entry | None:
    """Return the entry that a request asks for; None where something it needs is not there."""
    if kind == "transact":
        return once.transacting(machine, time_ms, arguments)
    if kind == "prepare":
        return once.preparing(machine, time_ms, arguments)
    if kind == "resolve":
        return Resolve(time_ms, *arguments)
    return operating(machine, time_ms, kind, arguments)


class Lead:
    """One leadership: from the phase of broadcast until the node is something else.

    Attributes:
        serving: The epoch's own record, hence everything confirmed before, is applied.
        over: It has ended: nothing is confirmed and nothing delivered any more.

    """

    def __init__(self, service: Service, epoch: int) -> None:
        self.epoch = epoch
        self.over = False
        self.serving = False
        self._service = service
        self._process = service.process
        self._waiting: dict[int, Proposal] = {}
        self._dispatcher: Dispatcher | None = None
        self._outstanding = Outstanding()
        self._closing = 0
        self._picking = False
        self._stuck: Pick | None = None
        self._log_clock: LogClock | None = None
        self._log_time_ms = 0
        self._clock_under_way = False
        self._heard: dict[int, float] = {}
        self._clients: dict[int, Callable[[Any], None]] = {}
        self._joining: list[tuple[int, int, int]] = []
        self._members: dict[str, tuple[Callable[[Any], None], float]] = {}
        self._checks_under_way = False

    @property
    def _now(self) -> float:
        return self._process.node.clock.monotonic()

    def _time_ms(self) -> int:
        assert self._log_clock is not None
        return self._log_clock.now_ms()

    # --- the core's answers -------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Something was applied: begin to serve if it is time, dispatch."""
        machine = self._service.machine
        if self.over:
            return
        if not self.serving:
            if self._service.applied_zxid < zxid_of(self.epoch, 0):
                return
            self.serving = True
            clock = self._process.node.clock
            self._log_clock = LogClock(machine.log_time_ms, wall=clock.wall, monotonic=clock.monotonic)
            sessions = machine.sessions_to_close()
            self._closing = 1 + len(sessions)
            for session in sessions:
                self._propose(Proposal(e.SessionClose(self._time_ms(), session, "new leader"), self._closed))
            self._closed(0, Outcome())
            self._process.world.after(TICK_SECONDS, self._tick)
        self._dispatch()

    def proposed(self, reference: object, zxid: int) -> None:
        """The entry of a proposal has its place."""
        if not isinstance(reference, Proposal):
            return
        pick = reference.pick
        if reference.on_applied is not None:
            self._waiting[zxid] = reference
        if pick is None:
            return
        self._picking = False
        lease = self._process.node.settings.lease_seconds
        last = pick.first_tag + pick.messages - 1
        self._outstanding.granted(pick.session, pick.consumer, pick.first_tag, last, pick.bytes, self._now + lease)
        deliver = self._clients.get(pick.session)
        if deliver is not None:
            self._process.truth.delivers(self._process, zxid, self, reference.looked_zxid)
            sent = [(pick.first_tag, _named(pick))] if reference.sent is None else reference.sent
            for first_tag, runs in sent:
                deliver(("deliver", pick.session, pick.consumer, first_tag, runs))
        if reference.known:
            known = e.SettleJudged(self._time_ms(), pick.session, pick.consumer, e.SETTLED_BEFORE, reference.known)
            self._propose(Proposal(known))
        self._dispatch()

    def refused(self, reference: object) -> None:
        """A proposal has no place."""
        if isinstance(reference, Proposal):
            if reference.pick is not None:
                # What was picked must be granted, in this order: it is proposed again at the next tick.
                self._stuck = reference.pick
            elif reference.on_refused is not None:
                reference.on_refused()

    def applied(self, zxid: int, entry: e.Entry, outcome: Outcome) -> None:
        """An entry was applied: follow it, answer who waits."""
        proposal = self._waiting.pop(zxid, None)
        for effect in outcome.effects:
            if isinstance(effect, LeasesGone):
                self._outstanding.take(effect.session, effect.consumer, effect.tags)
            elif isinstance(effect, SessionGone):
                self._outstanding.forget_session(effect.session)
                self._clients.pop(effect.session, None)
                self._heard.pop(effect.session, None)
        dispatcher = self._dispatcher
        if dispatcher is not None:
            dispatcher.on_effects(outcome.effects)
        if isinstance(entry, e.Settle) and isinstance(outcome.value, Settled) and entry.verdict != VERDICT_HANDED_OVER:
            settled = without(entry.tags, outcome.value.lost)
            self._outstanding.take(entry.session, entry.consumer, settled)
            if dispatcher is not None:
                dispatcher.settled(entry.session, entry.consumer, settled)
        elif isinstance(entry, Transaction) and isinstance(outcome.value, Transacted) and not outcome.value.duplicate:
            for settlement in entry.verdicts():
                self._outstanding.take(entry.session, settlement.consumer, settlement.tags)
                if dispatcher is not None:
                    dispatcher.settled(entry.session, settlement.consumer, settlement.tags)
        elif isinstance(outcome.value, ChecksDue):
            self._checks_under_way = False
            self._ask(outcome.value.asked)
        elif isinstance(entry, e.Clock):
            self._clock_under_way = False
        if proposal is not None and proposal.on_applied is not None:
            proposal.on_applied(zxid, outcome)

    # --- leading ------------------------------------------------------------------------------------------------------

    def _propose(self, proposal: Proposal) -> None:
        self._process.event(ev.Propose(proposal, body_of(proposal.entry)))

    def _closed(self, _zxid: int, _outcome: Outcome) -> None:
        self._closing -= 1
        if not self._closing:
            self._dispatcher = Dispatcher(self._service.machine, grant_messages_max=64)
            for joining in self._joining:
                self._join(*joining)
            self._joining.clear()

    def _join(self, session: int, queue_id: int, credit: int) -> None:
        assert self._dispatcher is not None
        machine = self._service.machine
        if machine.queue(queue_id) is not None and session in machine.sessions:
            self._dispatcher.add_consumer(session, 1, queue_id, credit, CREDIT_BYTES)

    def _dispatch(self) -> None:
        if self.over or self._picking or self._stuck is not None or self._dispatcher is None:
            return
        pick = self._dispatcher.next_pick()
        if pick is not None:
            self._grant(pick)

    def _grant(self, pick: Pick) -> None:
        self._picking = True
        proposal = Proposal(
            grant_of(pick, self._time_ms()),
            pick=pick,
            looked_zxid=self._service.applied_zxid,
            on_applied=lambda _zxid, outcome: self._granted(pick, outcome),
        )
        queue = self._service.machine.queue(pick.queue_id)
        if queue is not None and queue.settled_window is not None:
            hashes = self._process.world.archive.hashes(pick.runs, queue.settled_window.scope)
            if any(hashes):
                places = [number for run in pick.runs for number in (run.ready, run.zxid, run.first, run.size)]
                fields = (pick.queue_id, pick.session, pick.consumer, pick.first_tag, places, hashes)
                proposal.entry = e.GrantIdentified(self._time_ms(), *fields)
                proposal.known, proposal.sent = once.screened(self._service.machine, pick, hashes)
        self._propose(proposal)

    def _granted(self, pick: Pick, outcome: Outcome) -> None:
        assert self._dispatcher is not None
        assert isinstance(outcome.value, Granted)
        self._dispatcher.granted(pick, outcome.value.void)

    def _tick(self) -> None:
        """Let leases end, delays end, and sessions of which nothing was heard."""
        if not self.over:
            self._process.event(self._look_around)
            self._process.world.after(TICK_SECONDS, self._tick)

    def _look_around(self) -> None:
        if self.over:
            return
        if self._stuck is not None:
            pick, self._stuck = self._stuck, None
            self._grant(pick)
        now, time_ms = self._now, self._time_ms()
        for session, consumer, tags in self._outstanding.expired(now):
            self._propose(Proposal(e.Settle(time_ms, session, consumer, e.EXPIRED, tags, 0, "lease expired")))
        machine = self._service.machine
        due_ms = machine.next_due_ms()
        if due_ms is not None and due_ms <= time_ms and not self._clock_under_way:
            self._clock_under_way = True
            self._propose(Proposal(e.Clock(time_ms, CLOCK_ITEMS_MAX), on_refused=self._clock_refused))
        checks = once.due_checks(machine, time_ms) if self._members and not self._checks_under_way else None
        if checks is not None:
            self._checks_under_way = True
            self._propose(Proposal(checks, on_refused=self._checks_refused))
        for session, heard in list(self._heard.items()):
            if now - heard > IDLE_SECONDS:
                self._heard[session] = now
                self._propose(Proposal(e.SessionClose(time_ms, session, "silent")))
        self._dispatch()

    def _clock_refused(self) -> None:
        self._clock_under_way = False

    def _checks_refused(self) -> None:
        self._checks_under_way = False

    def _ask(self, numbers: list[int]) -> None:
        """Ask a member about each of these half messages, one after the other."""
        now = self._now
        members = [ask for ask, heard in self._members.values() if now - heard <= IDLE_SECONDS]
        for number, deal in once.asked_halves(self._service.machine, numbers) if members else ():
            members.append(members.pop(0))
            members[-1](("check", number, deal))

    # --- requests -----------------------------------------------------------------------------------------------------

    def request(self, request: tuple[Any, ...], reply: Callable[[Any], None]) -> None:
        """Deal with a client's request; the reply leaves when the entry is applied."""
        kind, *arguments = request
        time_ms = self._time_ms()

        def answer(zxid: int, outcome: Outcome) -> None:
            self._process.truth.confirms(self._process.node, self._process, zxid, self)
            reply((CONFIRMED, outcome.error if outcome.error is not None else outcome.value))

        def refuse() -> None:
            reply((REFUSED, None))

        if kind == "declare":
            self._propose(Proposal(e.Declare(time_ms, VHOST, *arguments), answer, refuse))
        elif kind == "producer":
            identity, name = arguments
            self._propose(Proposal(e.ProducerOpen(time_ms, VHOST, name, identity), answer, refuse))
        elif kind == "publish":
            entry = publishing(self._service.machine, time_ms, *arguments)
            if entry is None:
                reply((REFUSED, None))
            else:
                self._propose(Proposal(entry, answer, refuse))
        elif kind == "consume":
            self._consume(*arguments, reply=reply, refuse=refuse)
        elif kind == "settle":
            session, consumer, verdict, tags, delay = arguments
            due_ms = e.BY_RETRY_POLICY if delay < 0 else time_ms + int(delay * 1000) if delay else 0
            self._heard[session] = self._now
            settlement = e.SettleJudged(time_ms, session, consumer, verdict, tags, due_ms, "")
            self._propose(Proposal(settlement, answer, refuse))
        elif kind == "alive":
            session = arguments[0]
            known = session in self._clients
            if known:
                self._heard[session] = self._now
            reply((CONFIRMED, known))
        elif kind == "register":
            _group, name, ask = arguments
            self._members[name] = ask, self._now
            reply((CONFIRMED, None))
        elif kind == "parked":
            reply((CONFIRMED, once.parked_halves(self._service.machine)))
        else:
            wish = wish_of(self._service.machine, time_ms, kind, arguments)
            if wish is None and kind in BY_NAME:
                refuse()
            elif wish is None:
                reply((CONFIRMED, None))
            else:
                self._propose(Proposal(wish, answer, refuse))

    def _consume(
        self,
        queue_name: str,
        client: str,
        credit: int,
        former: int,
        deliver: Callable[[Any], None],
        *,
        reply: Callable[[Any], None],
        refuse: Callable[[], None],
    ) -> None:
        """Open a session with one consumer; what the client had before is closed."""
        queue = self._service.machine.find_queue(VHOST, queue_name)
        if queue is None:
            reply((REFUSED, None))
            return
        time_ms = self._time_ms()
        if former in self._service.machine.sessions:
            self._propose(Proposal(e.SessionClose(time_ms, former, "the client is back")))

        def opened(zxid: int, outcome: Outcome) -> None:
            self._process.truth.confirms(self._process.node, self._process, zxid, self)
            if not isinstance(outcome.value, SessionOpened):
                refuse()
                return
            session = outcome.value.session
            self._clients[session] = deliver
            self._heard[session] = self._now
            reply((CONFIRMED, session))
            if self._dispatcher is None:
                self._joining.append((session, queue.id, credit))
            else:
                self._join(session, queue.id, credit)

        self._propose(Proposal(e.SessionOpen(time_ms, VHOST, client, client, b""), opened, refuse))
