"""Random lives of transactions and half messages against dicts: all or nothing, once, and invisible until decided.

Beside the dicts two machines apply the same log through its bytes: one pages by chance and is rebuilt from its image
now and then, the other starts anew from the log, as after a crash. After every step they agree with each other and with
the dicts, where every message is exactly one of prepared, ready, leased, delayed, dead or gone.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.broker.queues.entries import decode_entry
from sluicemq.broker.queues.halves import CHECK_INTERVAL_MS_MAX, CHECKS_MAX
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Outcome, Published
from sluicemq.broker.queues.outcomes_of_transactions import ChecksDue, Prepared, Resolved, Transacted
from sluicemq.broker.queues.runs import Run
from sluicemq.wire.errors import (
    LeaseLost,
    QueueFull,
    QueueNotFound,
    QueuePaused,
    SequenceGap,
    TransactionDecided,
    TransactionNotFound,
)
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK, VERDICT_REJECT
from tests.broker.paged import WhimsicalPager, make_chunks_small
from tests.broker.queues.alive import check_alive

Address = tuple[int, int]
SMALL_MAX, EU_MAX = 8, 10
ROUTES = {"eu": "eu.paid", "us": "us.paid"}
SUBSCRIBERS = {"eu": ("european", "all"), "us": ("all",)}
LIMITS = {"small": SMALL_MAX, "european": EU_MAX}


@dataclasses.dataclass
class Book:
    """What one queue holds: when each message became ready, who leases it, when it is due, and which are dead."""

    ready: dict[Address, int] = dataclasses.field(default_factory=dict)
    delayed: dict[Address, int] = dataclasses.field(default_factory=dict)
    leased: dict[tuple[int, int], Address] = dataclasses.field(default_factory=dict)
    readied: dict[Address, int] = dataclasses.field(default_factory=dict)
    dead: set[Address] = dataclasses.field(default_factory=set)
    gone: int = 0

    @property
    def messages(self) -> int:
        return len(self.ready) + len(self.delayed) + len(self.leased)


@dataclasses.dataclass
class Kept:
    """A half message: for where, when its messages are due, and how often somebody was asked."""

    target: str
    due: list[int]
    wait_ms: int
    next_check_ms: int
    checks: int = 0


Part = tuple[str, int, int]


class Lives(RuleBasedStateMachine):
    """The dicts, the machines and what happens to them."""

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.pager = WhimsicalPager(random.Random(seed))
        self.paging = Machine(pool=self.pager.pool)
        self.plain = Machine()
        self.log: list[tuple[int, int, int, bytes, bytes]] = []
        self.zxid = 0
        self.now = 1_000
        self.books: dict[str, Book] = {}
        self.numbers: dict[str, int] = {}
        self.delayed_in_topic: dict[Address, tuple[int, str]] = {}
        self.halves: dict[int, Kept] = {}
        self.decided: dict[int, bool] = {}
        self.paused = False
        self.sequence = 0
        self.next_tag = 1
        self.last: tuple[x.Transaction, int] | None = None
        self.window: dict[int, tuple[Address, int]] = {}
        for name in ("orders", "small", "kept", "named"):
            self.declare(name)
        self.numbers["events"] = self.make(e.Declare(self.now, "/", "topic", "events", {}))
        for name, pattern in (("european", "eu.#"), ("all", "#")):
            limits = {"max_length": LIMITS[name]} if name in LIMITS else {}
            self.numbers[name] = self.make(t.Subscribe(self.now, "/", "events", pattern, name, limits))
            self.books[name] = Book()
        self.producer = self.make(e.ProducerOpen(self.now, "/", "", "ann"))
        self.session = self.make(e.SessionOpen(self.now, "/", "ann", "", b""))
        for name in ("orders", "small", "kept"):
            self.publish(name, 3)

    def do(self, entry: e.Entry) -> Outcome:
        self.zxid += 1
        written = (self.zxid, entry.KIND, entry.VERSION, entry.header(), bytes(entry.payload))
        self.log.append(written)
        read = decode_entry(*written[1:])
        outcome = self.pager.apply(self.paging, self.zxid, read)
        again = self.plain.apply(self.zxid, decode_entry(*written[1:]))
        assert (again.value, type(again.error), again.effects) == (outcome.value, type(outcome.error), outcome.effects)
        return outcome

    def make(self, entry: e.Entry) -> int:
        assert self.do(entry).error is None
        return self.zxid

    def declare(self, name: str) -> None:
        given: dict[str, Any] = {"max_deliveries": None}
        if name in LIMITS:
            given["max_length"] = LIMITS[name]
        if name == "kept":
            given["retention"] = {"bytes": 150}
        if name == "named":
            given["dedup_window"] = 10.0
        self.numbers[name] = self.make(e.Declare(self.now, "/", "queue", name, given))
        self.books[name] = Book()

    # --- the dicts -----------------------------------------------------------------------------------------------

    def targets(self, name: str) -> tuple[str, ...]:
        return SUBSCRIBERS[name] if name in ROUTES else (name,)

    def number_of(self, name: str) -> int:
        return self.numbers["events" if name in ROUTES else name] if name in {*ROUTES, *self.books} else 1 << 50

    def arrive(self, name: str, address: Address, due_ms: int) -> None:
        """A message comes to a queue, or to a topic with this route."""
        if due_ms > self.now and name in ROUTES:
            self.delayed_in_topic[address] = due_ms, name
            return
        for target in self.targets(name):
            book = self.books[target]
            if due_ms > self.now:
                book.delayed[address] = due_ms
            else:
                book.ready[address] = self.zxid
                book.readied[address] = self.zxid

    def refusal(self, parts: list[Part], freed: dict[str, int]) -> type[Exception] | None:
        """Why a transaction or a half message may not come."""
        demand: dict[str, int] = {}
        for name, count, delay in parts:
            if name not in ROUTES and name not in self.books:
                return QueueNotFound
            if name in ROUTES and delay:
                continue
            for target in self.targets(name):
                demand[target] = demand.get(target, 0) + count
        for target in sorted(demand, key=self.numbers.__getitem__):
            if target == "small" and self.paused and any(name == "small" for name, _, _ in parts):
                return QueuePaused
            more = demand[target] - freed.get(target, 0)
            if target in LIMITS and more > 0 and self.books[target].messages + more > LIMITS[target]:
                return QueueFull
        return None

    def flat(self, parts: list[Part]) -> tuple[list[int], list[int], list[str], int]:
        """Parts, groups, routes and count as entries hold them."""
        routes = list(ROUTES.values())
        numbers, groups = [], []
        for name, count, delay in parts:
            route = routes.index(ROUTES[name]) + 1 if name in ROUTES else 0
            numbers += [self.number_of(name), count, route, int(name == "named")]
            groups += [count, self.now + delay if delay else 0, 0, 0, 0, route]
        return numbers, groups, routes, sum(count for _, count, _ in parts)

    # --- what happens --------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(("orders", "small", "kept")), count=st.integers(1, 3))
    def publish(self, name: str, count: int) -> None:
        if name not in self.books:
            return
        refusal = self.refusal([(name, count, 0)], {})
        payload = b"x" * 10 * count
        entry = e.Publish(self.now, self.numbers[name], self.producer, self.sequence + 1, count, 9, None, payload)
        outcome = self.do(entry)
        if refusal is not None:
            assert isinstance(outcome.error, refusal)
            return
        assert outcome.value == Published(self.zxid, count, False)
        self.sequence += 1
        for index in range(count):
            self.arrive(name, (self.zxid, index), 0)

    @rule(name=st.sampled_from(("orders", "small", "kept", "european", "all")), count=st.integers(1, 4))
    def grant(self, name: str, count: int) -> None:
        book = self.books.get(name)
        if book is None or not book.ready:
            return
        queue = self.paging.queue(self.numbers[name])
        assert queue is not None
        flat = [number for run in self.pager.peek(queue, 0, count) for number in (run.zxid, run.first, run.size)]
        self.do(e.Grant(self.now, queue.id, self.session, queue.id, self.next_tag, flat))
        for zxid, first, size in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            for index in range(first, first + size):
                del book.ready[zxid, index]
                book.leased[self.session, self.next_tag] = zxid, index
                self.next_tag += 1

    @rule(
        parts=st.lists(
            st.tuples(
                st.sampled_from(
                    ("orders", "small", "kept", "eu", "us", "named", "eu", "small", "named", "us", "kept", "nowhere")
                ),
                st.integers(1, 3),
                st.sampled_from((0, 0, 0, 500)),
            ),
            max_size=4,
        ),
        held=st.lists(st.tuples(st.integers(0, 30), st.sampled_from((VERDICT_ACK, VERDICT_ACK, 5, 2))), max_size=3),
        lost=st.sampled_from((False,) * 7 + (True,)),
        ahead=st.sampled_from((0,) * 11 + (1,)),
        names=st.lists(st.integers(0, 8), min_size=12, max_size=12),
    )
    def transact(
        self, parts: list[Part], held: list[tuple[int, int]], lost: bool, ahead: int, names: list[int]
    ) -> None:
        if held and not any(book.leased for book in self.books.values()):
            for name in list(self.books):
                self.grant(name, 2)
        leases = [(name, tag) for name, book in self.books.items() for _, tag in book.leased]
        chosen: dict[tuple[str, int], int] = {}
        for which, verdict in held:
            if leases:
                chosen[leases[which % len(leases)]] = verdict
        settlements = [
            number
            for (name, tag), verdict in chosen.items()
            for number in (self.numbers[name], verdict, 0, 1, tag, tag)
        ]
        if lost:
            settlements += [self.numbers["all"], VERDICT_ACK, 0, 1, self.next_tag + 7, self.next_tag + 7]
        if not parts and not settlements:
            return
        numbers, groups, routes, count = self.flat(parts)
        batch = self.now, self.producer, self.sequence + 1 + ahead, count, 9 * count, numbers, groups, routes
        reasons = ["because"] * (len(settlements) // 6)
        ids = [number.to_bytes(16, "little") for number in names[:count]] if numbers[3::4].count(1) else []
        entry = x.Transaction(*batch, self.session, settlements, reasons, b"".join(ids), b"x" * 10 * count)
        outcome = self.do(entry)
        freed: dict[str, int] = {}
        for (name, _), verdict in chosen.items():
            freed[name] = freed.get(name, 0) + (verdict == VERDICT_ACK)
        refusal = SequenceGap if ahead else LeaseLost if lost else self.refusal(parts, freed)
        if refusal is not None:
            assert isinstance(outcome.error, refusal), (outcome, refusal)
            return
        known = self.judged(parts, names)
        assert outcome.value == Transacted(self.zxid, count, False, as_told(known)), outcome
        self.sequence += 1
        self.last = entry, self.zxid
        for (name, tag), verdict in chosen.items():
            self.settled(name, tag, verdict)
        index = 0
        for name, size, delay in parts:
            for _ in range(size):
                if index not in known:
                    self.arrive(name, (self.zxid, index), self.now + delay if delay else 0)
                index += 1

    def judged(self, parts: list[Part], names: list[int]) -> dict[int, Address]:
        """Which messages of a transaction are duplicates, of which; those that are none are known from now on."""
        known: dict[int, Address] = {}
        targets = [name for name, size, _ in parts for _ in range(size)]
        for index, name in enumerate(targets):
            if name != "named" or not names[index]:
                continue
            original, since = self.window.get(names[index], ((0, 0), -(1 << 50)))
            if since > self.now - 10_000:
                known[index] = original
            else:
                self.window[names[index]] = (self.zxid, index), self.now
        return known

    def settled(self, name: str, tag: int, verdict: int) -> None:
        book = self.books[name]
        address = book.leased.pop((self.session, tag))
        if verdict == VERDICT_ACK:
            book.gone += 1
        elif verdict == VERDICT_REJECT:
            book.dead.add(address)
        else:
            assert verdict == VERDICT_NACK
            book.ready[address] = book.readied[address] = self.zxid

    @precondition(lambda self: getattr(self, "last", None) is not None)
    @rule()
    def resend(self) -> None:
        """The answer was lost: the transaction comes again, and is answered as the first time."""
        assert self.last is not None
        entry, zxid = self.last
        value = self.do(entry).value
        assert isinstance(value, Transacted)
        assert (value.zxid, value.count, value.duplicate) == (zxid, entry.count, True)

    @rule(
        name=st.sampled_from(("orders", "small", "kept", "eu", "us", "nowhere")),
        delays=st.lists(st.sampled_from((0, 0, 700)), min_size=1, max_size=3),
        wait_ms=st.sampled_from((100, 3_000, 90_000)),
    )
    def prepare(self, name: str, delays: list[int], wait_ms: int) -> None:
        parts = [(name, 1, delay) for delay in delays]
        _, groups, routes, count = self.flat(parts)
        shared = groups[5]
        said = ROUTES.get(name, name), "shop", wait_ms, shared, groups, routes, b"x" * 10 * count
        target = self.number_of(name)
        outcome = self.do(x.Prepare(self.now, target, self.producer, self.sequence + 1, count, 9 * count, *said))
        refusal = self.refusal(parts, {})
        if refusal is not None:
            assert isinstance(outcome.error, refusal), (outcome, refusal)
            return
        assert outcome.value == Prepared(self.zxid, count, False)
        assert not outcome.effects, "nobody hears of it"
        self.sequence += 1
        due = [self.now + delay if delay else 0 for delay in delays]
        self.halves[self.zxid] = Kept(name, due, wait_ms, self.now + wait_ms)

    @rule(which=st.integers(0, 30), commit=st.booleans(), decided=st.booleans())
    def resolve(self, which: int, commit: bool, decided: bool) -> None:
        known = list(self.decided if decided else self.halves) or [77]
        number = known[which % len(known)]
        outcome = self.do(x.Resolve(self.now, number, commit))
        if number in self.decided:
            if self.decided[number] == commit:
                assert outcome.value == Resolved(commit, True, 0)
            else:
                assert isinstance(outcome.error, TransactionDecided)
            assert not outcome.effects
        elif number not in self.halves:
            assert isinstance(outcome.error, TransactionNotFound)
        elif commit and self.halves[number].target not in {*self.books, *ROUTES}:
            assert isinstance(outcome.error, QueueNotFound)
        else:
            half = self.halves.pop(number)
            self.decided[number] = commit
            assert outcome.value == Resolved(commit, False, len(half.due) if commit else 0)
            for index, due_ms in enumerate(half.due if commit else ()):
                self.arrive(half.target, (number, index), due_ms)

    @rule(
        which=st.lists(st.integers(0, 30), min_size=1, max_size=3, unique=True),
        passed=st.sampled_from((0, 100, 100_000)),
    )
    def check_back(self, which: list[int], passed: int) -> None:
        """The leader lets somebody be asked, now and then about one that is not due, is parked or decided."""
        self.clock(passed)
        known = [*self.halves, *self.decided] or [77]
        numbers = list(dict.fromkeys(known[number % len(known)] for number in which))
        asked, parked = [], []
        for number in numbers:
            half = self.halves.get(number)
            if half is None or not half.next_check_ms or half.next_check_ms > self.now:
                continue
            if half.checks == CHECKS_MAX:
                half.next_check_ms = 0
                parked.append(number)
                continue
            half.checks += 1
            half.next_check_ms = self.now + min(half.wait_ms * 2**half.checks, max(CHECK_INTERVAL_MS_MAX, half.wait_ms))
            asked.append(number)
        assert self.do(x.Checked(self.now, numbers)).value == ChecksDue(asked, parked)

    @rule(passed=st.sampled_from((0, 100, 600, 100_000)))
    def clock(self, passed: int) -> None:
        self.now += passed
        self.do(e.Clock(self.now, 10_000))
        for book in self.books.values():
            for address in [address for address, due_ms in book.delayed.items() if due_ms <= self.now]:
                del book.delayed[address]
                book.ready[address] = book.readied[address] = self.zxid
        due = [address for address, (due_ms, _) in self.delayed_in_topic.items() if due_ms <= self.now]
        for address in due:
            self.arrive(self.delayed_in_topic.pop(address)[1], address, 0)

    @rule(what=st.sampled_from(("lose_connection", "pause", "delete_or_declare", "reload", "reload", "crash")))
    def disturb(self, what: str) -> None:
        """Something happens to everybody; one rule for all of it, so that life goes on in between."""
        getattr(self, what)()

    def lose_connection(self) -> None:
        """Leases go back to their places; a transaction of the old session settles nothing any more."""
        self.do(e.SessionClose(self.now, self.session, "lost"))
        for book in self.books.values():
            for key in [key for key in book.leased if key[0] == self.session]:
                address = book.leased.pop(key)
                book.ready[address] = book.readied[address]
        self.session = self.make(e.SessionOpen(self.now, "/", "ann", "", b""))

    def pause(self) -> None:
        self.paused = not self.paused
        self.do(q.Alter(self.now, "/", "queue", "small", {"pause_publish": self.paused}))

    def delete_or_declare(self) -> None:
        """A queue goes, with what it holds; what is prepared for it stays, and finds the next one of its name."""
        if "orders" in self.books:
            self.do(e.Delete(self.now, "/", "queue", "orders", False))
            del self.books["orders"], self.numbers["orders"]
        else:
            self.declare("orders")

    def reload(self) -> None:
        """A broker starts from a snapshot."""
        sections = self.paging.freeze().pack(lambda: True)
        check_alive(self.paging, sections, lambda page: self.pager.pages[page.slot])
        self.paging = load(sections, self.pager.new_pool())

    def crash(self) -> None:
        """A broker starts from its log."""
        self.plain = Machine()
        for zxid, kind, version, header, payload in self.log:
            self.plain.apply(zxid, decode_entry(kind, version, header, payload))

    # --- what must hold ------------------------------------------------------------------------------------------

    @invariant()
    def the_machines_are_as_the_dicts_say(self) -> None:
        if not hasattr(self, "session"):
            return
        self.plain.check()
        assert self.paging.state_hash() == self.plain.state_hash()
        for name, book in self.books.items():
            queue = self.plain.queue(self.numbers[name])
            assert queue is not None
            runs = self.plain.peek(queue.id, 0, 10**6)
            assert set(addresses(runs)) == set(book.ready), "what is ready, and none twice"
            assert queue.ready == len(book.ready)
            readied = [book.ready[address] for address in addresses(runs)]
            assert readied == sorted(readied), "in the order in which it became ready"
            assert sorted(addresses(queue.delayed.runs())) == sorted(book.delayed)
            assert sorted(addresses(queue.leased_runs())) == sorted(book.leased.values())
            assert set(addresses(queue.dead.runs())) == book.dead
            assert queue.published_total == book.messages + len(book.dead) + book.gone
        found = {half.number: (half.messages, half.checks, half.next_check_ms) for half in self.plain.halves}
        kept = {number: (len(half.due), half.checks, half.next_check_ms) for number, half in self.halves.items()}
        assert found == kept
        assert {number: self.plain.halves.decision(number) is not None for number in self.decided} == dict.fromkeys(
            self.decided, True
        )


def as_told(known: dict[int, Address]) -> list[int]:
    """Neighbours whose originals are neighbours too are told together."""
    told: list[int] = []
    for index, (zxid, original) in sorted(known.items()):
        if told and told[-4] + told[-3] == index and told[-2] == zxid and told[-1] + told[-3] == original:
            told[-3] += 1
        else:
            told += (index, 1, zxid, original)
    return told


def addresses(runs: Any) -> list[Address]:
    found: list[Run] = list(runs)
    return [(run.zxid, index) for run in found for index in range(run.first, run.first + run.size)]


@pytest.mark.parametrize("chunk_runs", [3, 16])
def test_transactions_and_half_messages_live_as_dicts_say(chunk_runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make_chunks_small(monkeypatch, chunk_runs)
    run_state_machine_as_test(Lives, settings=settings(max_examples=150, stateful_step_count=30, deadline=None))
