"""A leader, its clients and a machine beside the world: every entry happens in all of them, and they have to agree.

Each entry goes through its bytes, to a machine that lives from the first entry on, as one does that replays the log,
and to one that is written down and read again after every step. Grants are planned by the real dispatcher, now and then
before an entry that is applied before them. The steps stand in `steps`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from sluicemq.broker.pipeline.identities import hashes_of
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import outcomes as o
from sluicemq.broker.queues.dispatching.dispatcher import Dispatcher, Pick, grant_of
from sluicemq.broker.queues.entries import decode_entry
from sluicemq.broker.queues.entries_of_transactions import Transaction
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes_of_transactions import ChecksDue, Prepared, Resolved, Transacted
from sluicemq.broker.queues.tags import without
from sluicemq.wire.messages import VERDICT_HANDED_OVER
from tests.broker.alarm import assert_no_alarm
from tests.broker.queues.naive.comparing import compare, follow_pieces
from tests.broker.queues.naive.dealing import Consumers, Deal, Who
from tests.broker.queues.naive.judging import judge
from tests.broker.queues.naive.settling import grant
from tests.broker.queues.naive.windows import ids_in, spread
from tests.broker.queues.naive.world import Address, World, tags_in

if TYPE_CHECKING:
    from sluicemq.broker.queues.queue import Queue as MachineQueue
    from sluicemq.broker.queues.runs import Run
    from tests.broker.paged import WhimsicalPager

GRANT_MESSAGES_MAX = 5
CREDIT_BYTES = 10**9


def plain(outcome: o.Outcome) -> Any:
    """What the machine answers, in the world's terms."""
    if outcome.error is not None:
        return type(outcome.error)
    match outcome.value:
        case o.Published(zxid, count, duplicate, known) | Transacted(zxid, count, duplicate, known):
            return zxid, count, duplicate, spread(known)
        case o.Settled(lost, settled):
            return tags_in(lost), settled
        case o.Resumed(lost, settled_tags, last_tag):
            return tags_in(lost), tags_in(settled_tags), last_tag
        case o.Declared(number, done, changes):
            return number, done, changes
        case o.Subscribed(name, topic, done, changes):
            return name, topic, done, changes
        case o.SchedulePut(done, next_due_ms):
            return done, next_due_ms
        case (
            o.SessionOpened(value)
            | o.SessionClosed(value)
            | o.ProducerOpened(value)
            | o.ProducerClosed(value)
            | o.Clocked(value)
            | o.Deleted(value)
            | o.Purged(value)
            | o.Filled(value)
            | o.Cancelled(value)
            | o.Altered(value)
            | o.PolicyPut(value)
            | o.Fired(value)
            | o.Redriven(value)
            | o.Discarded(value)
        ):
            return value
        case o.Moved(count, duplicate):
            return count, duplicate
        case Prepared(zxid, count, duplicate):
            return zxid, count, duplicate
        case ChecksDue(asked, parked):
            return asked, parked
        case Resolved(committed, again, messages, known):
            return committed, again, messages, spread(known)
    return outcome.value


def given_back(outcome: o.Outcome) -> set[Address]:
    """The messages that went back to their places."""
    runs = [run for effect in outcome.effects if isinstance(effect, o.Returned) for run in effect.runs]
    return {(run.zxid, index) for run in runs for index in range(run.first, run.first + run.size)}


class Road:
    """How entries happen.

    Attributes:
        world: The other opinion.
        machine: The leader's machine, which lives from the first entry on.
        reborn: The machine that is written down and read again after every step.
        later: Machines that were read from an image once, some steps ago, of a life with a pager.
        pager: Pages the reborn machine by chance; None: it keeps everything in memory.
        dispatcher: The leader's.
        consumers: Who is there, in the order in which they came.
        numbers: How many consumers each session ever had.
        zxid: The last entry.
        checked_zxid: The last entry after which everything was compared.
        now: Log time that the leader gives to entries.
        names: Id and key of each message that has an id, by address.
        ahead: How many grants are planned before the next entry is applied, and follow it.

    """

    def __init__(self, pager: WhimsicalPager | None = None) -> None:
        self.world = World()
        self.pager = pager
        self.machine = Machine()
        self.reborn = Machine(pool=None if pager is None else pager.pool)
        self.dispatcher = self.new_dispatcher()
        self.log: list[tuple[int, int, int, bytes, bytes]] = []
        self.consumers: Consumers = {}
        self.numbers: Counter[int] = Counter()
        self.later: list[Machine] = []
        self.zxid = self.checked_zxid = 0
        self.now = 1_000_000
        self.ahead = 0
        self.names: dict[Address, tuple[str | None, str | None]] = {}

    def new_dispatcher(self) -> Dispatcher:
        return Dispatcher(self.machine, chance=lambda below: below - 1, grant_messages_max=GRANT_MESSAGES_MAX)

    # --- entries -------------------------------------------------------------------------------------------------

    def run(self, entry: e.Entry) -> tuple[int, Any]:
        """Let *entry* happen, with the grants that were planned before; return its number and its answer."""
        planned: list[Pick] = []
        while len(planned) < self.ahead and (found := self.plan(planned)) is not None:
            planned.append(found[0])
        self.ahead = 0
        outcome = self.apply(entry)
        zxid = self.zxid
        expected = judge(self.world, zxid, entry)
        assert plain(outcome) == expected, f"{entry} is answered {outcome}, the world says {expected}"
        self.perform(entry, outcome)
        for pick in planned:
            self.grant(pick, undisturbed=False)
        return zxid, expected

    def clock_in_pieces(self, items_max: int) -> None:
        """So many items an entry: the world sees all of them as one."""
        zxids: set[int] = set()
        messages = 0
        while not zxids or ((due := self.machine.next_due_ms()) is not None and due <= self.now):
            entry = e.Clock(self.now, items_max)
            outcome = self.apply(entry)
            self.perform(entry, outcome)
            zxids.add(self.zxid)
            messages += plain(outcome)
        assert messages == judge(self.world, self.zxid, e.Clock(self.now, items_max)), "as many become ready in pieces"
        for queue in self.machine.queues():
            follow_pieces(queue, self.world.queues[queue.id], self.peek(queue), zxids)

    def apply(self, entry: e.Entry) -> o.Outcome:
        """Let the machines apply the entry, each as it reads it."""
        self.zxid += 1
        written = self.zxid, entry.KIND, entry.VERSION, entry.header(), bytes(entry.payload)
        self.log.append(written)
        outcome = self.machine.apply(self.zxid, decode_entry(*written[1:]))
        read = decode_entry(*written[1:])
        if self.pager is None:
            again = self.reborn.apply(self.zxid, read)
        else:
            again = self.pager.apply(self.reborn, self.zxid, read)
        for machine in self.later:
            machine.apply(self.zxid, decode_entry(*written[1:]))
        assert again[0] == outcome[0], f"{entry} is judged differently after a restart"
        assert type(again[1]) is type(outcome[1]), f"{entry} is judged differently after a restart"
        assert again[2] == outcome[2], f"{entry} has other effects after a restart"
        return outcome

    def perform(self, entry: e.Entry, outcome: o.Outcome) -> None:
        """Do what only the leader does."""
        self.dispatcher.on_effects(outcome.effects)
        if (
            isinstance(entry, e.Settle)
            and isinstance(outcome.value, o.Settled)
            and entry.verdict != VERDICT_HANDED_OVER
        ):
            self.dispatcher.settled(entry.session, entry.consumer, without(entry.tags, outcome.value.lost))
        if isinstance(outcome.value, Transacted) and isinstance(entry, Transaction) and not outcome.value.duplicate:
            for settlement in entry.verdicts():
                self.dispatcher.settled(entry.session, settlement.consumer, settlement.tags)
        for who, consumer in list(self.consumers.items()):
            if who[0] not in self.world.sessions or consumer["queue"] not in self.world.queues:
                del self.consumers[who]

    # --- grants --------------------------------------------------------------------------------------------------

    def plan(self, planned: list[Pick]) -> tuple[Pick, bool] | None:
        """Let the dispatcher pick, and judge that; return the pick, and whether all of it can be had."""
        pick = self.dispatcher.next_pick()
        while pick is None and self.dispatcher.unfinished:
            pick = self.dispatcher.next_pick()
        if pick is None:
            return None
        queue = self.world.queues[pick.queue_id]
        return pick, Deal(self.world, queue, self.consumers, planned).judge(pick)

    def grant(self, pick: Pick, *, undisturbed: bool) -> None:
        """Lease what is picked; of what was acknowledged before, by its id, the broker itself disposes."""
        entry: e.Grant = grant_of(pick, self.now)
        window = self.world.queues[pick.queue_id]["settled_ids"] if pick.queue_id in self.world.queues else None
        if window is not None:
            entry = self.identified(pick, window.scope)
        outcome = self.apply(entry)
        assert isinstance(outcome.value, o.Granted)
        self.world.time = max(self.world.time, entry.log_time_ms)
        grant(self.world, entry, undisturbed, tags_in(outcome.value.void), given_back(outcome))
        self.dispatcher.on_effects(outcome.effects)
        self.dispatcher.granted(pick, outcome.value.void)
        if window is not None and isinstance(entry, e.GrantIdentified):
            known = window.look(ids_in(entry.ids), self.now)
            tags = [number for index in known for number in (pick.first_tag + index,) * 2]
            if tags:
                self.run(e.SettleJudged(self.now, pick.session, pick.consumer, e.SETTLED_BEFORE, tags))

    def identified(self, pick: Pick, scope: int) -> e.Grant:
        """The grant of a queue that remembers what was acknowledged."""
        places = [number for run in pick.runs for number in (run.ready, run.zxid, run.first, run.size)]
        addresses = [(run.zxid, run.first + offset) for run in pick.runs for offset in range(run.size)]
        names = [self.names.get(address, (None, None)) for address in addresses]
        ids = hashes_of([id_ for id_, _ in names], [key for _, key in names], scope)
        if not any(ids):
            return grant_of(pick, self.now)
        return e.GrantIdentified(self.now, pick.queue_id, pick.session, pick.consumer, pick.first_tag, places, ids)

    def deal(self, most: int) -> bool:
        """Grant what the dispatcher picks, so often at most; return whether there is nothing more."""
        for _ in range(most):
            found = self.plan([])
            if found is None:
                for consumer in self.consumers.values():
                    consumer["allowed"] = consumer["credit"]
                for queue in self.world.queues.values():
                    Deal(self.world, queue, self.consumers, []).nobody_waits_in_vain()
                return True
            self.grant(found[0], undisturbed=found[1])
        return False

    # --- who is there --------------------------------------------------------------------------------------------

    def attach(self, session: int, queue: int, credit: int, weight: int) -> None:
        mode = self.world.queues[queue]["settings"]["mode"]
        first = next((who for who, each in self.consumers.items() if each["queue"] == queue), None)
        holder = first if mode == "exclusive" else None
        assert self.dispatcher.holder_against(queue) == holder, "an exclusive queue has one consumer"
        if holder is None:
            self.numbers[session] += 1
            who = session, self.numbers[session]
            self.consumers[who] = {"queue": queue, "credit": credit, "allowed": credit, "weight": weight}
            self.dispatcher.add_consumer(*who, queue, credit, CREDIT_BYTES, weight)

    def detach(self, who: Who) -> None:
        del self.consumers[who]
        self.dispatcher.remove_consumer(*who)

    def set_credit(self, who: Who, credit: int) -> None:
        consumer = self.consumers[who]
        consumer.update(credit=credit, allowed=max(credit, consumer["allowed"]))
        self.dispatcher.set_credit(*who, credit, CREDIT_BYTES)

    def take_the_lead(self) -> None:
        """The other machine leads: all sessions end, and everything is dispatched anew."""
        self.consumers.clear()
        if self.pager is None:
            self.machine, self.reborn = self.reborn, self.machine
        self.dispatcher = self.new_dispatcher()
        for session in self.machine.sessions_to_close():
            self.run(e.SessionClose(self.now, session, "new leader"))
        self.dispatcher = self.new_dispatcher()

    # --- what must hold ------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Everything agrees, also after a restart; to be called after every step."""
        if self.checked_zxid == self.zxid:
            return  # nothing happened
        self.checked_zxid = self.zxid
        compare(self.machine, self.world, self.peek)
        self.machine.check()
        digest = self.machine.state_hash()
        if self.pager is not None:
            self.compare_as_brokers_do()
        sections = self.reborn.freeze().pack(lambda: True)
        self.reborn = load(sections, None if self.pager is None else self.pager.new_pool())
        assert self.reborn.state_hash() == digest, "a machine that was restored lives like one that was not"

    def compare_as_brokers_do(self) -> None:
        """No broker is said to differ, whenever it last read an image, and whatever lies on its pages."""
        assert_no_alarm((self.machine, self.reborn, *self.later), self.zxid)
        if self.zxid % 5 == 0:
            self.later = [load(self.machine.freeze().pack(lambda: True)), *self.later[:2]]

    def peek(self, queue: MachineQueue) -> list[Run]:
        return queue.peek(0, 10**6)

    def end(self) -> None:
        """The log makes the same machine, and whatever is ready can be had."""
        fresh = Machine()
        for zxid, kind, version, header, payload in self.log:
            fresh.apply(zxid, decode_entry(kind, version, header, payload))
        assert fresh.state_hash() == self.machine.state_hash(), "the log makes the same machine"
        assert_no_alarm((fresh, self.machine, self.reborn, *self.later), self.zxid)
        while not self.deal(100):
            pass
