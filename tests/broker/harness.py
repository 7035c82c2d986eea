"""Three machines fed from one log, with a leader that can be lost between any two entries.

Every entry goes through its bytes: the leader proposes, the log keeps what `header()` wrote, and each machine applies
what `decode_entry` read. After every entry the three must agree on the outcome and on a hash of their state. An entry
may be proposed long before it is committed, as in life: what the leader planned meanwhile is in flight. A follower may
be frozen at any entry and packed bit by bit while it goes on, and is rebuilt from its image then.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import image
from sluicemq.broker.queues.dispatching.dispatcher import Dispatcher, Pick, grant_of
from sluicemq.broker.queues.entries import decode_entry
from sluicemq.broker.queues.machine import Machine, MachineLimits
from sluicemq.broker.queues.outcomes import Granted, LeasesGone, Outcome, SessionGone, Settled
from sluicemq.broker.queues.outstanding import Outstanding
from sluicemq.broker.queues.tags import without
from sluicemq.wire.messages import VERDICT_HANDED_OVER
from tests.broker.alarm import assert_no_alarm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.queues.freeze import Freeze
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run
    from sluicemq.broker.queues.sections import Section
    from tests.broker.paged import WhimsicalPager

NODES = (1, 2, 3)


class Record(NamedTuple):
    """One record of the log, as bytes."""

    zxid: int
    kind: int
    version: int
    header: bytes
    payload: bytes

    def entry(self) -> e.Entry:
        return decode_entry(self.kind, self.version, self.header, self.payload)


def record(zxid: int, entry: e.Entry) -> Record:
    return Record(zxid, entry.KIND, entry.VERSION, entry.header(), bytes(entry.payload))


@dataclasses.dataclass
class Applied:
    """An entry that was committed, and what it did."""

    zxid: int
    entry: e.Entry
    outcome: Outcome


@dataclasses.dataclass
class Freezing:
    """A machine that is being packed: whose, its freeze, its digest at that entry, and what is packed so far."""

    node: int
    freeze: Freeze
    state_hash: bytes
    sections: list[Section] = dataclasses.field(default_factory=list)


class Cluster:
    """A leader and two followers.

    Attributes:
        leader: Index of the leading machine.
        log: What is committed, as bytes.
        in_flight: What was proposed and is not committed yet.
        dispatcher: The leader's.
        picks_in_flight: Picks whose GRANT is not applied, by its zxid.
        outstanding: The leader's.
        log_time_ms: The time that the leader gives to entries.
        freezing: The machine that is being packed; None when none is.
        rebuilt: How many machines were rebuilt from an image.
        pagers: What pages the machine of each node; None where all stays in memory.

    """

    def __init__(
        self,
        limits: MachineLimits | None = None,
        *,
        grant_messages_max: int = 4096,
        lease_seconds: float = 30.0,
        pagers: tuple[WhimsicalPager | None, ...] = (None, None, None),
    ) -> None:
        self.pagers = pagers
        self.machines = [Machine(limits, None if pager is None else pager.pool) for pager in pagers]
        self.limits = limits
        self.leader = 0
        self.epoch = 0
        self.counter = 0
        self.log: list[Record] = []
        self.in_flight: deque[Record] = deque()
        self.log_time_ms = 1_000
        self.lease_seconds = lease_seconds
        self.grant_messages_max = grant_messages_max
        self.freezing: Freezing | None = None
        self.rebuilt = 0
        self.picks_in_flight: dict[int, Pick] = {}
        self.dispatcher: Dispatcher
        self.outstanding: Outstanding
        for _ in self.take_the_lead():
            pass

    @property
    def machine(self) -> Machine:
        """The leader's machine."""
        return self.machines[self.leader]

    # --- the road of an entry ------------------------------------------------------------------------------------

    def propose(self, entry: e.Entry) -> int:
        """Append *entry* to the leader's log; it is in flight now. Returns its zxid."""
        self.counter += 1
        zxid = self.epoch << 32 | self.counter
        self.in_flight.append(record(zxid, entry))
        return zxid

    def commit(self) -> Applied:
        """Commit the oldest entry in flight: all machines apply it and must agree."""
        proposed = self.in_flight.popleft()
        self.log.append(proposed)
        outcomes = [
            machine.apply(proposed.zxid, proposed.entry())
            if pager is None
            else pager.apply(machine, proposed.zxid, proposed.entry())
            for machine, pager in zip(self.machines, self.pagers, strict=True)
        ]
        hashes = {machine.state_hash() for machine in self.machines}
        assert len(hashes) == 1, f"the machines differ after {proposed}"
        assert_no_alarm(self.machines, self.counter)
        texts = {repr(outcome) for outcome in outcomes}
        assert len(texts) == 1, f"the machines judge {proposed} differently: {texts}"
        self.machine.check()
        applied = Applied(proposed.zxid, proposed.entry(), outcomes[self.leader])
        self._perform(applied)
        return applied

    def commit_all(self) -> list[Applied]:
        """Commit everything in flight."""
        return [self.commit() for _ in range(len(self.in_flight))]

    def apply(self, entry: e.Entry) -> Outcome:
        """Propose *entry* and commit it, with all that was in flight before it."""
        self.propose(entry)
        return self.commit_all()[-1].outcome

    def _perform(self, applied: Applied) -> None:
        """Do what only the leader does: follow the effects and the settlements."""
        entry, outcome = applied.entry, applied.outcome
        for effect in outcome.effects:
            if isinstance(effect, LeasesGone):
                self.outstanding.take(effect.session, effect.consumer, effect.tags)
            elif isinstance(effect, SessionGone):
                self.outstanding.forget_session(effect.session)
        self.dispatcher.on_effects(outcome.effects)
        pick = self.picks_in_flight.pop(applied.zxid, None)
        if pick is not None:
            assert isinstance(outcome.value, Granted)
            self.dispatcher.granted(pick, outcome.value.void)
        if isinstance(entry, e.Settle) and isinstance(outcome.value, Settled) and entry.verdict != VERDICT_HANDED_OVER:
            settled = without(entry.tags, outcome.value.lost)
            self.outstanding.take(entry.session, entry.consumer, settled)
            self.dispatcher.settled(entry.session, entry.consumer, settled)

    # --- what the leader plans -----------------------------------------------------------------------------------

    def pick(self, queue_id: int | None = None) -> Pick | None:
        """Let the dispatcher pick, and propose the GRANT."""
        pick = self._next_pick(queue_id)
        pager = self.pagers[self.leader]
        while pick is None and pager is not None and (missing := self.dispatcher.take_missing()):
            pager.fill(missing)
            self.dispatcher.filled(missing)
            pick = self._next_pick(queue_id)
        if pick is not None:
            zxid = self.propose(grant_of(pick, self.log_time_ms))
            self.picks_in_flight[zxid] = pick
            deadline = self.log_time_ms / 1000 + self.lease_seconds
            last = pick.first_tag + pick.messages - 1
            self.outstanding.granted(pick.session, pick.consumer, pick.first_tag, last, pick.bytes, deadline)
        return pick

    def _next_pick(self, queue_id: int | None) -> Pick | None:
        if queue_id is not None:
            return self.dispatcher.next_grant(queue_id)
        pick = self.dispatcher.next_pick()
        while pick is None and self.dispatcher.unfinished:
            pick = self.dispatcher.next_pick()
        return pick

    def peek(self, queue: Queue, skip: int, count_max: int) -> list[Run]:
        """Look into a queue of the leader."""
        pager = self.pagers[self.leader]
        return queue.peek(skip, count_max) if pager is None else pager.peek(queue, skip, count_max)

    def expire(self) -> list[tuple[int, int, list[int]]]:
        """Propose the end of all leases whose deadline has passed; return them."""
        expired = self.outstanding.expired(self.log_time_ms / 1000)
        for session, consumer, tags in expired:
            self.propose(e.Settle(self.log_time_ms, session, consumer, e.EXPIRED, tags, 0, "lease expired"))
        return expired

    # --- failover ------------------------------------------------------------------------------------------------

    def fail_over(self, survivors: int = 0) -> Iterator[Applied]:
        """Lose the leader; the next node leads.

        Of what was in flight the first *survivors* entries had reached a majority: the new leader commits them. The
        others never happened. Then it begins its epoch, closes all sessions and dispatches anew. Yields each entry.
        """
        while len(self.in_flight) > survivors:
            self.in_flight.pop()
        self.picks_in_flight.clear()
        self.leader = (self.leader + 1) % len(NODES)
        # Until its epoch begins, the new leader applies only: nothing is dispatched.
        self.dispatcher = Dispatcher(self.machine)
        self.outstanding = Outstanding()
        while self.in_flight:
            yield self.commit()
        yield from self.take_the_lead()

    def take_the_lead(self) -> Iterator[Applied]:
        """Begin an epoch: close the sessions of the last one, then dispatch from the machine's state."""
        self.epoch += 1
        self.counter = -1
        self.dispatcher = Dispatcher(self.machine)
        self.outstanding = Outstanding()
        self.propose(e.Epoch(self.log_time_ms, NODES[self.leader]))
        yield self.commit()
        for session in self.machine.sessions_to_close():
            self.propose(e.SessionClose(self.log_time_ms, session, "new leader"))
            yield self.commit()
        self.dispatcher = Dispatcher(self.machine, grant_messages_max=self.grant_messages_max)

    # --- images --------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Freeze the follower behind the leader, unless one is being packed."""
        if self.freezing is None:
            node = (self.leader + 1) % len(NODES)
            machine = self.machines[node]
            self.freezing = Freezing(node, machine.freeze(), machine.state_hash())

    def pack(self, steps: int) -> None:
        """Pack so many steps of what is frozen; at the end rebuild the machine from the image and the log behind it."""
        freezing = self.freezing
        if freezing is None:
            return
        left = iter(range(steps - 1))
        freezing.sections += freezing.freeze.pack(lambda: next(left, None) is not None)
        if freezing.freeze.done:
            self.freezing = None
            self.rebuilt += 1
            pager = self.pagers[freezing.node]
            if pager is not None and freezing.node == self.leader:
                return  # its pager serves the machine that leads
            machine = image.load(freezing.sections, None if pager is None else pager.new_pool())
            assert machine.state_hash() == freezing.state_hash, "an image is the machine as it was when it was frozen"
            machine.check()
            for written in self.log:
                if written.zxid > freezing.freeze.zxid and pager is None:
                    machine.apply(written.zxid, written.entry())
                elif written.zxid > freezing.freeze.zxid and pager is not None:
                    pager.apply(machine, written.zxid, written.entry())
            assert machine.state_hash() == self.machine.state_hash(), "who was rebuilt lives on like the others"
            assert_no_alarm((machine, self.machine), self.counter)
            if freezing.node != self.leader:  # the leader's dispatcher looks at the old one
                self.machines[freezing.node] = machine

    def replay(self) -> Machine:
        """Return a fresh machine that has applied the whole log, as a broker does that starts."""
        machine = Machine(self.limits)
        for written in self.log:
            machine.apply(written.zxid, written.entry())
        return machine
