"""Random lives of one queue that is ordered by key, judged at every look by a model that knows no dispatcher.

Few keys and few consumers, so that they always get in each other's way: consumers come and go with messages in hand,
purges and expiry pull messages from under picks, leaders are lost, brokers start again from an image, chunks are paged.
Entries are committed late, in pieces. At every look the model says what may be picked:

- of each key the message that is first in turn goes first, and only to who has the key already;
- what is out is in one hand, and never more of one key than the queue allows;
- a key of which a message waits for another attempt waits with it;
- where a message may go to somebody who has credit, something is picked.

The model takes from the machine what is ready, leased and delayed, which other tests judge; turns, hands and credit it
keeps itself.

    python -m tests.broker.queues.dispatching.lives --count 1500
    python -m tests.broker.queues.dispatching.lives --seed 77        # one of them again
    python -m tests.broker.queues.dispatching.lives --mutants        # how soon each known fault is caught
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import image
from sluicemq.broker.queues.chunks import ROW
from sluicemq.broker.queues.dispatching import key_order
from sluicemq.broker.queues.dispatching.dispatcher import Dispatcher, Pick, grant_of
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Declared, Granted, ProducerOpened, SessionOpened, Settled
from sluicemq.broker.queues.runs import Run, by_place
from sluicemq.broker.queues.tags import without
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_REJECT, VERDICT_RELEASE
from tests.broker.paged import WhimsicalPager, make_chunks_small

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.queues.queue import Queue

Address = tuple[int, int]
Who = tuple[int, int]

STEPS = 70
PLENTY = 10**9
VERDICTS = (VERDICT_ACK, VERDICT_ACK, VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE, VERDICT_HANDED_OVER, VERDICT_REJECT)
POLICIES = ("round_robin", "round_robin", "weighted", "random", "least_in_flight", "two_choices")


def addresses(runs: Iterable[Run]) -> list[Address]:
    return [(run.zxid, run.first + offset) for run in runs for offset in range(run.size)]


@contextmanager
def small_limits() -> Iterator[pytest.MonkeyPatch]:
    """Let chunks be so small that the few messages of a life fill some, and take back what a life changes."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_chunks_small(monkeypatch, 4)
        for name in ("ROUND_RUNS_MAX", "PASSED_RANGES_MAX", "_READ_RUNS"):
            monkeypatch.setattr(key_order, name, getattr(key_order, name))
        yield monkeypatch


class Sight:
    """What a machine shows at one moment, message by message."""

    def __init__(self, queue: Queue) -> None:
        rows = [Run._make(row) for lane in queue.lanes for row in ROW.iter_unpack(lane.packed())]
        self.ready_runs = by_place([*rows, *queue.returned])
        self.ready = addresses(self.ready_runs)
        self.leased: dict[Address, Who] = {}
        for who, table in queue.leases.items():
            self.leased |= dict.fromkeys(addresses(run for _, run, _ in table.pieces()), who)
        self.delayed = set(addresses(queue.delayed.runs()))


class Life:
    """One life; what happens follows from the seed.

    Attributes:
        looks: How often somebody looked for a pick.

    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.keys = rng.choice((1, 1, 2, 2, 3, 8))
        self.grant_max = rng.choice((1, 2, 3, 100))
        key_order.ROUND_RUNS_MAX = rng.choice((2, 5, 1_000))
        key_order.PASSED_RANGES_MAX = rng.choice((2, 4, 1_000_000))
        key_order._READ_RUNS = rng.choice((1, 3, 128))
        self.pager = WhimsicalPager(rng) if rng.random() < 0.4 else None
        self.machine = Machine(None, None if self.pager is None else self.pager.pool)
        self.epoch, self.counter = 1, 0
        self.now = 1_000
        self.in_flight: deque[tuple[int, e.Entry]] = deque()
        self.picks: dict[int, Pick] = {}  # by the zxid of their GRANT
        self.sessions: list[int] = []
        self.consumers: dict[Who, tuple[int, int]] = {}  # who is attached, in order: credit and weight
        self.allowed: dict[Who, int] = {}  # the most credit since nothing was planned for anybody
        self.numbers = 0
        self.sequence = 0
        self.looks = 0
        self.key_of: dict[Address, int] = {}
        self.turn: dict[Address, tuple[int, int]] = {}  # by which messages of a key go; equal ones in either order
        self.had: set[Address] = set()  # leased at least once since their turn
        self.settings: dict[str, Any] = {
            "ordering": "key",
            "mode": rng.choice(("shared", "shared", "shared", "failover")),
            "dispatch": rng.choice(POLICIES),
            "key_in_flight_max": rng.choice((1, 2, 2, 3)),
            "max_deliveries": rng.choice((None, None, 3)),
            "poison_key": rng.choice(("dead_letter", "skip")),
        }
        self.attempts_max = self.settings["max_deliveries"]
        self.dispatcher = Dispatcher(self.machine)
        declared = self.at_once(e.Declare(self.now, "/", "queue", "orders", self.settings)).value
        opened = self.at_once(e.ProducerOpen(self.now, "/", "", "")).value
        assert isinstance(declared, Declared)
        assert isinstance(opened, ProducerOpened)
        self.queue_id, self.producer = declared.queue_id, opened.producer
        self.dispatch_anew()

    @property
    def queue(self) -> Queue:
        queue = self.machine.queue(self.queue_id)
        assert queue is not None
        return queue

    def run(self, steps: int = STEPS) -> None:
        """Live, and let everything be consumed in the end."""
        doings, weights = zip(*_WEIGHTS, strict=True)
        for _ in range(2):
            self.consume()
        self.publish()
        for doing in self.rng.choices(doings, weights, k=steps):
            doing(self)
            if self.rng.random() < 0.5:
                self.look()
        self.drain()

    # --- the road of an entry ------------------------------------------------------------------------------------

    def propose(self, entry: e.Entry) -> int:
        self.counter += 1
        zxid = self.epoch << 32 | self.counter
        self.in_flight.append((zxid, entry))
        return zxid

    def commit(self, count: int = PLENTY) -> Outcome | None:
        """Commit so many of the entries in flight; return what the last did."""
        outcome = None
        for _ in range(min(count, len(self.in_flight))):
            zxid, entry = self.in_flight.popleft()
            outcome = self.apply(zxid, entry)
        return outcome

    def at_once(self, entry: e.Entry) -> Outcome:
        self.propose(entry)
        outcome = self.commit()
        assert outcome is not None
        return outcome

    def apply(self, zxid: int, entry: e.Entry) -> Outcome:
        if self.pager is None:
            outcome = self.machine.apply(zxid, entry)
        else:
            outcome = self.pager.apply(self.machine, zxid, entry)
        assert outcome.error is None or isinstance(entry, e.Settle), outcome.error
        self.follow(zxid, entry)
        self.dispatcher.on_effects(outcome.effects)
        pick = self.picks.pop(zxid, None)
        if pick is not None:
            assert isinstance(outcome.value, Granted)
            self.dispatcher.granted(pick, outcome.value.void)
        if isinstance(entry, e.Settle) and isinstance(outcome.value, Settled) and entry.verdict != VERDICT_HANDED_OVER:
            self.dispatcher.settled(entry.session, entry.consumer, without(entry.tags, outcome.value.lost))
        if isinstance(entry, e.SessionClose):
            self.consumers = {who: credit for who, credit in self.consumers.items() if who[0] != entry.session}
        return outcome

    def follow(self, zxid: int, entry: e.Entry) -> None:
        """Note whose turn the entry changed."""
        if isinstance(entry, e.PublishGrouped):
            index = 0
            for size, due_ms, _, _, key, _ in zip(*(iter(entry.groups),) * 6, strict=True):
                for _ in range(size):
                    self.key_of[zxid, index] = key
                    if due_ms <= self.machine.log_time_ms:
                        self.turn[zxid, index] = (zxid, index)
                    index += 1
        if self.machine.queue(getattr(self, "queue_id", -1)) is None:
            return
        sight = Sight(self.queue)
        self.had |= sight.leased.keys()
        for run in sight.ready_runs:
            for address in addresses([run]):
                if address not in self.turn or (address in self.had and not run.deliveries):
                    self.turn[address] = (zxid, 0)  # it came due, or goes behind the others of its key
                    self.had.discard(address)

    # --- what clients do -----------------------------------------------------------------------------------------

    def publish(self) -> None:
        rng = self.rng
        groups: list[int] = []
        delayed_share = rng.choice((0.0, 0.0, 0.5))
        mortal_share = rng.choice((0.0, 0.0, 0.4))
        for _ in range(rng.randint(1, 6)):
            key = rng.randint(1, self.keys) if rng.random() < 0.92 else 0
            due_ms = self.now + rng.randint(1, 400) if rng.random() < delayed_share else 0
            ttl_ms = rng.randint(100, 1_000) if rng.random() < mortal_share else 0
            groups += (rng.choice((1, 1, 2)), due_ms, ttl_ms, 0, key, 0)
        self.publish_groups(groups)

    def publish_groups(self, groups: list[int]) -> None:
        count = sum(groups[::6])
        self.sequence += 1
        payload = b"x" * 10 * count
        common = self.now, self.queue_id, self.producer, self.sequence, count, len(payload), None, payload
        self.propose(e.PublishGrouped(*common, groups))

    def consume(self) -> None:
        if len(self.consumers) >= 3:
            return
        if not self.sessions or (len(self.sessions) < 3 and self.rng.random() < 0.3):
            opened = self.at_once(e.SessionOpen(self.now, "/", "", "", b"")).value
            assert isinstance(opened, SessionOpened)
            self.sessions.append(opened.session)
        self.numbers += 1
        who = self.rng.choice(self.sessions), self.numbers
        credit, weight = self.rng.choice((1, 2, 3, 100)), self.rng.randint(1, 3)
        self.dispatcher.add_consumer(*who, self.queue_id, credit, PLENTY, weight)
        self.consumers[who] = credit, weight
        self.allowed[who] = credit

    def cancel(self) -> None:
        if self.consumers:
            who = self.rng.choice(list(self.consumers))
            del self.consumers[who]
            self.dispatcher.remove_consumer(*who)

    def change_credit(self) -> None:
        if self.consumers:
            who = self.rng.choice(list(self.consumers))
            self.give_credit(who, self.rng.choice((0, 1, 2, 100)))

    def give_credit(self, who: Who, credit: int) -> None:
        self.consumers[who] = credit, self.consumers[who][1]
        self.allowed[who] = max(credit, self.allowed[who])
        self.dispatcher.set_credit(*who, credit, PLENTY)

    def disconnect(self) -> None:
        if self.sessions:
            session = self.sessions.pop(self.rng.randrange(len(self.sessions)))
            for who in [who for who in self.consumers if who[0] == session]:
                del self.consumers[who]
                self.dispatcher.remove_consumer(*who)
            self.propose(e.SessionClose(self.now, session, "gone"))

    def settle(self) -> None:
        held = list(self.queue.leases.items())
        if not held:
            return
        rng = self.rng
        (session, consumer), table = rng.choice(held)
        tags = [tag + offset for tag, run, _ in table.pieces() for offset in range(run.size)]
        ranges = [bound for tag in sorted(rng.sample(tags, rng.randint(1, len(tags)))) for bound in (tag, tag)]
        verdict = rng.choice(VERDICTS)
        due_ms = self.now + rng.randint(1, 300) if verdict == VERDICT_NACK and rng.random() < 0.6 else 0
        self.propose(e.Settle(self.now, session, consumer, verdict, ranges, due_ms))

    def acknowledge_all(self) -> None:
        for (session, consumer), table in sorted(self.queue.leases.items()):
            tags = [bound for tag, run, _ in table.pieces() for bound in (tag, tag + run.size - 1)]
            self.propose(e.Settle(self.now, session, consumer, VERDICT_ACK, tags))

    def give_back_apart(self) -> None:
        """Of what a consumer has, some waits for another attempt, and the others come back before that."""
        held = list(self.queue.leases.items())
        if not held:
            return
        (session, consumer), table = self.rng.choice(held)
        tags = [tag + offset for tag, run, _ in table.pieces() for offset in range(run.size)]
        self.rng.shuffle(tags)
        part = self.rng.randint(1, len(tags))
        due_ms = self.now + self.rng.randint(1, 100)
        for verdict, some, when_ms in ((VERDICT_NACK, tags[:part], due_ms), (VERDICT_RELEASE, tags[part:], 0)):
            if some:
                ranges = [bound for tag in sorted(some) for bound in (tag, tag)]
                self.propose(e.Settle(self.now, session, consumer, verdict, ranges, when_ms))
        if self.rng.random() < 0.6:
            self.now += 100
            self.propose(e.Clock(self.now, 100))

    def clear(self) -> None:
        """Let go of all there is, and let at least two consumers have room."""
        self.propose(e.Purge(self.now, self.queue_id))
        self.commit()
        self.acknowledge_all()
        self.commit()
        for _ in range(2):
            self.consume()
        for who in list(self.consumers):
            self.give_credit(who, 100)

    def one_comes_due_behind_another(self) -> None:
        """Of two messages of one key the second was published first, and both are out; they come back apart."""
        self.clear()
        key = self.rng.randint(1, self.keys)
        self.publish_groups([1, self.now + 50, 0, 0, key, 0])
        self.publish_groups([1, 0, 0, 0, key, 0])
        self.now += 50
        self.propose(e.Clock(self.now, 100))
        self.deal()
        self.give_back_apart()

    def a_rest_expires(self) -> None:
        """The front of a batch is picked when all of it expires."""
        self.clear()
        self.publish_groups([5, 0, 50, 0, self.rng.randint(1, self.keys), 0])
        self.commit()
        self.now += 100
        self.propose(e.Clock(self.now, 100))
        self.look()
        self.publish()
        self.commit()
        self.look()

    def something_between_picks(self) -> None:
        """Messages are dealt to several consumers, and something happens before all of them were handed out."""
        rng = self.rng
        if rng.random() < 0.7:
            self.clear()
            self.publish_groups([1, 0, 0, 0, rng.randint(1, self.keys), 0])
            self.deal()
        keys = [0, 0, *range(1, self.keys + 1)]
        rng.shuffle(keys)
        self.publish_groups([number for key in keys for number in (1, 0, 0, 0, key, 0)])
        self.commit()
        self.look()
        doings = (Life.cancel, Life.change_settings, Life.wait_for_one, Life.give_back_apart, Life.purge)
        rng.choice(doings)(self)
        self.commit()
        if rng.random() < 0.5:
            self.acknowledge_all()
            self.commit()
        self.look()

    def wait_for_one(self) -> None:
        """Let one consumer take part only."""
        self.settings["mode"] = "failover"
        self.at_once(e.Declare(self.now, "/", "queue", "orders", dict(self.settings)))

    # --- what happens to the broker ------------------------------------------------------------------------------

    def time_passes(self) -> None:
        self.now += self.rng.choice((1, 100, 400))
        self.propose(e.Clock(self.now, self.rng.choice((1, 2, 100))))

    def purge(self) -> None:
        """Purge, with picks under way on both sides of it."""
        self.look()
        self.propose(e.Purge(self.now, self.queue_id))
        self.look()
        self.look()
        if self.rng.random() < 0.7:
            self.publish()

    def change_settings(self) -> None:
        self.settings["key_in_flight_max"] = self.rng.randint(1, 3)
        self.settings["mode"] = self.rng.choice(("shared", "shared", "failover"))
        self.settings["dispatch"] = self.rng.choice(POLICIES)
        self.at_once(e.Declare(self.now, "/", "queue", "orders", dict(self.settings)))

    def lose_the_leader(self) -> None:
        """Another leads: what was in flight happened in part, and all sessions end."""
        survivors = self.rng.randint(0, len(self.in_flight))
        while len(self.in_flight) > survivors:
            _, entry = self.in_flight.pop()
            if isinstance(entry, e.PublishGrouped):
                self.sequence = entry.sequence - 1
        self.picks.clear()
        self.dispatcher = Dispatcher(self.machine)
        self.commit()
        self.epoch, self.counter = self.epoch + 1, -1
        self.at_once(e.Epoch(self.now, 1))
        for session in self.machine.sessions_to_close():
            self.at_once(e.SessionClose(self.now, session, "new leader"))
        self.sessions.clear()
        self.dispatch_anew()

    def load_an_image(self) -> None:
        """Go on with a machine that was read from an image; what is leased stays with those who had it."""
        self.commit()
        freeze = self.machine.freeze()
        sections = freeze.pack(lambda: True)
        assert freeze.done
        state_hash = self.machine.state_hash()
        self.machine = image.load(sections, None if self.pager is None else self.pager.new_pool())
        assert self.machine.state_hash() == state_hash
        self.dispatch_anew()

    def dispatch_anew(self) -> None:
        """Begin with a new dispatcher, whom nobody has asked for messages yet."""
        chance = random.Random(1).randrange
        self.dispatcher = Dispatcher(self.machine, chance=chance, grant_messages_max=self.grant_max)
        self.consumers.clear()

    def commit_some(self) -> None:
        self.commit(self.rng.randint(1, 3))

    def deal(self) -> None:
        """As it goes mostly: all is committed, and all that may be picked is."""
        self.commit()
        while self.look() is not None:
            pass
        self.commit()

    # --- judging -------------------------------------------------------------------------------------------------

    def look(self) -> Pick | None:
        """Let the dispatcher pick, and judge what it does."""
        self.looks += 1
        sight = Sight(self.queue)
        out = dict(sight.leased)
        for planned in self.picks.values():
            out |= dict.fromkeys(addresses(planned.runs), (planned.session, planned.consumer))
        left: dict[int, list[Address]] = {}
        for address in sight.ready:
            if address not in out:
                left.setdefault(self.key_of[address], []).append(address)
        blocked = {self.key_of[address] for address in sight.delayed & self.had}
        if self.pager is not None:
            self.pager.disturb()
        keys = self.dispatcher._lines[self.queue_id].keys if self.consumers else None
        dealt = addresses(run for box in keys._boxes for run in box.runs) if keys is not None else []
        pick = self.next_pick()
        if pick is None:
            self.nobody_waits_in_vain(left, out, blocked)
            return None
        who = pick.session, pick.consumer
        taken = addresses(pick.runs)
        assert who in self.consumers, f"only those who are there get messages, not {who}"
        count = sum(holder == who for holder in out.values()) + len(taken)
        assert count <= self.allowed.get(who, 0), "nobody gets more than his credit"
        assert not out.keys() & set(taken), "what is out is in one hand"
        assert set(taken) <= {*sight.ready, *dealt}, "what is picked is there, or was when it was dealt"
        assert len(set(taken)) == len(taken) == pick.messages <= self.grant_max
        if self.settings["mode"] == "failover":
            assert set(out.values()) <= {who}, "one consumer has all that is out"
        for key in {self.key_of[address] for address in taken} - {0}:
            self.keeps_the_order(key, [address for address in taken if self.key_of[address] == key], left.get(key, []))
            assert key not in blocked, f"{key} waits for another attempt"
            of_key = [holder for address, holder in out.items() if self.key_of[address] == key]
            assert set(of_key) <= {who}, f"{key} is in the hands of {of_key}"
            more = len(of_key) + sum(self.key_of[address] == key for address in taken)
            assert more <= self.settings["key_in_flight_max"], f"{more} messages of {key} are out"
        self.picks[self.propose(grant_of(pick, self.now))] = pick
        return pick

    def next_pick(self) -> Pick | None:
        while True:
            pick = self.dispatcher.next_pick()
            if pick is not None:
                return pick
            missing = self.dispatcher.take_missing()
            if missing:
                assert self.pager is not None
                self.pager.fill(missing)
                self.dispatcher.filled(missing)
            elif not self.dispatcher.unfinished:
                return None

    def keeps_the_order(self, key: int, taken: list[Address], left: list[Address]) -> None:
        turns = [self.turn[address] for address in taken]
        assert turns == sorted(turns), f"{key} goes in order"
        behind = [self.turn[address] for address in left if address not in taken]
        assert not behind or turns[-1] <= min(behind), f"{taken} of {key} overtakes one of {left}"

    def nobody_waits_in_vain(self, left: dict[int, list[Address]], out: dict[Address, Who], blocked: set[int]) -> None:
        """Nothing stalls: whoever has credit has nothing that he may have. And his credit is counted as it is."""
        self.allowed = {who: credit for who, (credit, _) in self.consumers.items()}
        taking_part = list(self.consumers)
        if self.settings["mode"] == "failover":
            active = max(self.consumers, key=lambda who: self.consumers[who][1], default=None)
            taking_part = [active] if active is not None and set(out.values()) <= {active} else []
        for who in taking_part:
            held = sum(holder == who for holder in out.values())
            assert self.dispatcher.held(*who)[0] == held, f"{who} has {held} messages"
        able = {who for who in taking_part if sum(who == other for other in out.values()) < self.consumers[who][0]}
        if not able:
            return
        keys = self.dispatcher._lines[self.queue_id].keys
        assert keys is not None
        # So much is passed over that nobody looks behind it, until one of the keys that are out goes on.
        is_full = keys._passed_ranges >= key_order.PASSED_RANGES_MAX and bool(out or blocked)
        for key, waiting in left.items():
            if not key:
                assert is_full, f"{waiting} without a key waits for nobody"
            elif key not in blocked:
                holders = {holder for address, holder in out.items() if self.key_of[address] == key}
                count = sum(self.key_of[address] == key for address in out)
                goes_on = holders <= able and count < self.settings["key_in_flight_max"]
                assert not goes_on or is_full, f"{key} stalls"

    def drain(self) -> None:
        """At the end all that is left can be consumed, in order."""
        self.commit()
        for who in list(self.consumers):
            self.give_credit(who, 100)
        if not self.consumers:
            self.consume()
        for _ in range(1_000):
            self.now += 1_000
            self.propose(e.Clock(self.now, 100))
            self.deal()
            if not self.queue.messages:
                return
            self.acknowledge_all()
            assert self.in_flight, f"{self.queue.messages} messages are left, and nobody gets them"
        raise AssertionError("it goes on for ever")


_WEIGHTS = (
    (Life.publish, 14),
    (Life.look, 14),
    (Life.deal, 8),
    (Life.commit_some, 16),
    (Life.settle, 20),
    (Life.give_back_apart, 4),
    (Life.one_comes_due_behind_another, 1),
    (Life.a_rest_expires, 1),
    (Life.something_between_picks, 4),
    (Life.consume, 7),
    (Life.cancel, 5),
    (Life.change_credit, 5),
    (Life.disconnect, 2),
    (Life.time_passes, 7),
    (Life.purge, 3),
    (Life.change_settings, 2),
    (Life.lose_the_leader, 2),
    (Life.load_an_image, 2),
)


def caught(seeds: Iterable[int]) -> tuple[int, str] | None:
    """Return the first of *seeds* whose life goes wrong, and how; None where none does."""
    for seed in seeds:
        try:
            Life(seed).run()
        except Exception as error:
            return seed, f"{type(error).__name__}: {error}"
    return None


def main() -> int:
    from tests.broker.queues.dispatching.mutants import MUTANTS

    parser = argparse.ArgumentParser(description="Random lives of a queue that is ordered by key.")
    parser.add_argument("--count", type=int, default=1_500, help="how many lives")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--seed", type=int, help="this life only, with its traceback")
    parser.add_argument("--mutants", action="store_true", help="let each known fault be caught instead")
    arguments = parser.parse_args()
    began = time.perf_counter()
    if arguments.seed is not None:
        with small_limits():
            Life(arguments.seed).run()
        return 0
    seeds = range(arguments.first, arguments.first + arguments.count)
    failed = False
    if arguments.mutants:
        for mutant in MUTANTS:
            began = time.perf_counter()
            with small_limits() as monkeypatch:
                mutant.apply(monkeypatch)
                found = caught(seeds)
            failed |= found is None
            seconds = time.perf_counter() - began
            print(f"{mutant.name}: {'NOT CAUGHT' if found is None else found} {seconds:.1f} s", flush=True)
        return int(failed)
    with small_limits():
        found = caught(seeds)
    print(f"{'all went well' if found is None else found}: {time.perf_counter() - began:.1f} s")
    return int(found is not None)


if __name__ == "__main__":
    sys.exit(main())
