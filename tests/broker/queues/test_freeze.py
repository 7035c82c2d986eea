"""A frozen machine is packed while it goes on: its image is the machine as it was, whatever is applied when.

The first table goes through everything that entries do to what exists, at every moment of the packing; then hypothesis
does what nobody thought of. That these tests can fail is tested too: without its line in `TOUCHES` no kind gets
through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_cluster as brokers
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues import entries_of_sessions as r
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.broker.queues import freeze as freeze_module
from sluicemq.broker.queues.applying import APPLY
from sluicemq.broker.queues.entries_of_moving import DEAD, READY, Move
from sluicemq.broker.queues.freeze import TOUCHES
from sluicemq.broker.queues.halves import HALVES_ID
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.machine import Machine, MachineLimits
from sluicemq.broker.queues.runs import Run, flat_runs
from sluicemq.broker.queues.sections import ImageDamaged
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_REJECT, VERDICT_RELEASE

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.queues.freeze import Freeze
    from sluicemq.broker.queues.sections import Section

LIMITS = MachineLimits(producers_max=4, receipts_max=3, fenced_max=2, queues_max=7, sessions_max=4)
STEPS_MAX = 10_000


class Story:
    """A machine and the next numbers of its log."""

    def __init__(self) -> None:
        self.machine = Machine(LIMITS)
        self.zxid = 1 << 32
        self.now = 1_000
        self.sequences: dict[int, int] = {}

    def apply(self, entry: e.Entry) -> int:
        """Apply an entry; return its zxid."""
        self.zxid += 1
        self.machine.apply(self.zxid, entry)
        return self.zxid

    def publish(self, queue: int, producer: int, count: int = 1) -> int:
        sequence = self.sequences[producer] = self.sequences.get(producer, 0) + 1
        return self.apply(e.Publish(self.now, queue, producer, sequence, count, 10 * count, None, b"x" * 10 * count))

    def grant(self, queue: int, session: int, messages: int) -> int:
        """Lease ready messages to the session's consumer of this queue, whose number is the queue's."""
        runs = self.machine.peek(queue, 0, messages)
        return self.apply(e.Grant(self.now, queue, session, queue, self.zxid * 100, flat_runs(runs)))

    def tags(self, session: int, consumer: int) -> list[int]:
        """The first tags of all leases of a consumer."""
        known = self.machine.sessions.get(session)
        table = None if known is None else known.leases.get(consumer)
        return [] if table is None else [first for first, _, _ in table.pieces()]

    def settle(self, session: int, queue: int, verdict: int, count: int = 1, due_ms: int = 0) -> int:
        """Give a verdict on the first leases of a consumer."""
        tags = [tag for first in self.tags(session, queue)[:count] for tag in (first, first)]
        return self.apply(e.Settle(self.now, session, queue, verdict, tags or [1, 1], due_ms))

    def pack(self, freeze: Freeze, steps: int) -> list[Section]:
        left = iter(range(steps - 1))
        return freeze.pack(lambda: next(left, None) is not None) if steps else []


class Day(Story):
    """A day on which everything exists: ready, leased, returned and delayed messages, named and fenced producers."""

    def __init__(self) -> None:
        super().__init__()
        self.orders = self.apply(
            e.Declare(self.now, "/", "queue", "orders", {"retention": {"seconds": 5.0}, "dead_letter": "billing"})
        )
        self.billing = self.apply(e.Declare(self.now, "/", "queue", "billing", {"retry": [5.0]}))
        self.mail = self.apply(e.Declare(self.now, "other", "queue", "mail", {}))
        self.idle = self.apply(e.Declare(self.now, "/", "queue", "idle", {"expires": 1.0}))
        self.ann = self.apply(e.SessionOpen(self.now, "/", "ann", "her laptop", b"token"))
        self.bob = self.apply(e.SessionOpen(self.now, "/", "bob", "", b""))
        self.apply(r.MarkClosed(self.now, [self.bob], []))
        self.old_web = self.apply(e.ProducerOpen(self.now, "/", "web", "ann"))
        self.producer = self.apply(e.ProducerOpen(self.now, "/", "", "bob"))
        self.web = self.apply(e.ProducerOpen(self.now, "/", "web", "ann"))
        self.batch = self.apply(e.ProducerOpen(self.now, "other", "batch", "ann"))
        for queue in (self.orders, self.billing):
            for count in (1, 3, 2, 5, 1):
                self.publish(queue, self.producer, count)
            self.publish(queue, self.web, 4)
            self.grant(queue, self.ann, 7)
            self.grant(queue, self.bob, 4)
            self.settle(self.ann, queue, VERDICT_RELEASE)
            self.settle(self.ann, queue, VERDICT_NACK, due_ms=self.now + 5_000)
            self.settle(self.bob, queue, VERDICT_NACK, due_ms=self.now + 9_000)
            self.reject(self.bob, queue)
        self.publish(self.idle, self.producer, 2)
        self.events = self.apply(e.Declare(self.now, "/", "topic", "events", {"retention": {"seconds": 9.0}}))
        self.audit = self.subscribe("#", "audit")
        self.publish(self.events, self.producer, 2)
        self.publish_routed("eu.paid", due_ms=self.now + 5_000)
        self.mine = self.subscribe("eu.*", "", self.ann, t.START_BEGINNING)
        self.publish_routed("eu.sent")
        self.grant(self.audit, self.bob, 2)
        self.apply(e.Declare(self.now, "/", "queue", "orders", {"dedup_window": 60.0}))
        self.apply(e.Declare(self.now, "/", "topic", "events", {"dedup_window": 60.0}))
        self.apply(self.identified(self.orders, b"\1" * 16))
        self.once = self.apply(e.Declare(self.now, "/", "queue", "once", {"settled_window": 60.0}))
        self.publish(self.once, self.web, 4)
        self.apply(self.granted_with_ids(self.bob, 1))
        self.settle(self.bob, self.once, VERDICT_ACK)
        self.apply(self.granted_with_ids(self.bob, 2))
        self.apply(self.identified(self.events, b"\1" * 16))
        self.half = self.prepare(self.orders)
        self.routed_half = self.prepare(self.events, "eu.paid")
        self.decided = self.prepare(self.billing)
        self.apply(x.Resolve(self.now, self.decided, False))
        self.machine.check()

    def moved(self, queue: int, to: int, runs: list[int], state: int = READY, *, keep: bool = False) -> Move:
        producer = self.machine.producers.get(self.producer)
        sequence = 1 if producer is None else producer.last + 1
        return Move(self.now, self.producer, sequence, queue, to, keep, state, runs)

    def prepare(self, target: int, route: str = "", due_ms: int = 0) -> int:
        return self.apply(self.prepared(target, route, due_ms))

    def prepared(self, target: int, route: str = "", due_ms: int = 0) -> x.Prepare:
        producer = self.machine.producers.get(self.producer)
        sequence = 1 if producer is None else producer.last + 1
        routes = [route] if route else []
        groups = [1, due_ms, 0, 0, 0, len(routes), 1, 0, 0, 0, 0, len(routes)]
        name = "events.eu.paid" if route else "orders"
        said = name, "shop", 6_000, len(routes), groups, routes
        return x.Prepare(self.now, target, self.producer, sequence, 2, 20, *said, b"x" * 20)

    def transaction(self, parts: list[int], session: int, settlements: list[int]) -> x.Transaction:
        """Two messages for each part, one of them for later; *settlements* with as many empty reasons."""
        producer = self.machine.producers.get(self.producer)
        sequence = 1 if producer is None else producer.last + 1
        groups = [number for _ in parts for number in (1, self.now + 5_000, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0)]
        flat = [number for target in parts for number in (target, 2, x.BY_SUBJECT, 0)]
        count = 2 * len(parts)
        batch = self.now, self.producer, sequence, count, 10 * count, flat, groups, ["eu.paid"]
        reasons = [""] * (len(settlements) // 6)
        return x.Transaction(*batch, session, settlements, reasons, b"", b"x" * 10 * count)

    def reject(self, session: int, queue: int) -> int:
        tag = self.tags(session, queue)[0]
        return self.apply(e.SettleJudged(self.now, session, queue, VERDICT_REJECT, [tag, tag], 0, "no such order"))

    def subscribe(self, pattern: str, name: str, session: int = 0, start: int = t.START_NOW) -> int:
        return self.apply(t.Subscribe(self.now, "/", "events", pattern, name, {}, session, start))

    def publish_routed(self, route: str, due_ms: int = 0) -> int:
        return self.apply(self.routed(route, due_ms))

    def identified(self, queue: int, ids: bytes) -> e.PublishIdentified:
        producer = self.machine.producers.get(self.producer)
        sequence = 1 if producer is None else producer.last + 1
        batch = (self.now, queue, self.producer, sequence, len(ids) // 16, 20, None, b"x" * 20)
        return e.PublishIdentified(*batch, [], [], 0, ids)

    def granted_with_ids(self, session: int, messages: int) -> e.GrantIdentified:
        places = placed(self.machine.peek(self.once, 0, messages))
        return e.GrantIdentified(
            self.now, self.once, session, self.once, self.zxid * 100, places, b"\1" * 16 * messages
        )

    def routed(self, route: str, due_ms: int = 0) -> e.PublishGrouped:
        producer = self.machine.producers.get(self.producer)
        sequence = 1 if producer is None else producer.last + 1
        groups = [1, due_ms, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
        batch = (self.now, self.events, self.producer, sequence, 2, 20, None, b"x" * 20)
        return e.PublishGrouped(*batch, groups, [route])


def entries_of(day: Day) -> dict[str, e.Entry]:
    """Entries that change something, by what they do."""
    now, later = day.now, day.now + 6_000
    first, second = (*day.tags(day.ann, day.orders), 1, 2)[:2]
    front = flat_runs(day.machine.peek(day.orders, 0, 3))
    returned = flat_runs(day.machine.peek(day.orders, 0, 1))
    producer = day.machine.producers.get(day.producer)
    sequence = 1 if producer is None else producer.last + 1

    def settle(verdict: int, tags: list[int], due_ms: int = 0) -> e.Settle:
        return e.Settle(now, day.ann, day.orders, verdict, tags, due_ms)

    return {
        "a leader begins": e.Epoch(now, 2),
        "a session opens": e.SessionOpen(now, "/", "eve", "", b""),
        "a session ends": e.SessionClose(now, day.ann, "done"),
        "a producer opens": e.ProducerOpen(now + 10**9, "/", "", "ann"),
        "a producer is fenced": e.ProducerOpen(now, "/", "web", "ann"),
        "a producer of an old log opens": e.ProducerOpenUnlimited(now, "/", "", "ann"),
        "a producer closes": e.ProducerClose(now, day.web),
        "a batch comes": e.Publish(now, day.orders, day.producer, sequence, 2, 20, None, b"x" * 20),
        "a batch for later comes": e.PublishGrouped(
            now, day.orders, day.producer, sequence, 2, 20, None, b"x" * 20, [1, later, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
        ),
        "a batch with ids comes": day.identified(day.orders, b"\2" * 16 + b"\3" * 16),
        "a batch of which one is known comes": day.identified(day.orders, b"\1" * 16 + b"\3" * 16),
        "a batch with ids comes to a topic": day.identified(day.events, b"\2" * 16 + b"\3" * 16),
        "ids grow too old": e.Clock(now + 61_000, 1),
        "another scope begins": e.Declare(now, "/", "queue", "orders", {"dedup_scope": "key"}),
        "ids of a topic count no more": e.Declare(now, "/", "topic", "events", {"dedup_window": 0.0}),
        "a duplicate comes": e.Publish(now, day.orders, day.old_web + 2, 1, 4, 40, None, b"x" * 40),
        "a batch comes ahead of others": e.Publish(now + 1, day.orders, day.producer, 20, 1, 10, None, b"x" * 10),
        "messages are granted": e.Grant(now, day.orders, day.ann, day.orders, day.zxid * 100, front),
        "a returned message is granted": e.Grant(now, day.orders, day.ann, day.orders, day.zxid * 100, returned),
        "messages are granted wherever they lie": e.GrantPlaced(
            now, day.orders, day.ann, day.orders, day.zxid * 100, placed(day.machine.peek(day.orders, 0, 9))
        ),
        "messages are granted with their ids": day.granted_with_ids(day.bob, 1),
        "messages that were settled before are settled": e.SettleJudged(
            now, day.bob, day.once, e.SETTLED_BEFORE, [1, 1 << 60]
        ),
        "a message with an id is acknowledged": e.Settle(now, day.bob, day.once, VERDICT_ACK, [1, 1 << 60]),
        "a new consumer gets messages": e.Grant(now, day.orders, day.ann, 77, day.zxid * 100, front),
        "somebody who went gets messages": e.Grant(now, day.orders, 999, 1, 1, front),
        "messages are acknowledged": settle(VERDICT_ACK, [first, second]),
        "all messages are acknowledged": settle(VERDICT_ACK, [1, 1 << 60]),
        "a lease is cut": settle(VERDICT_ACK, [second + 1, second + 1]),
        "messages are handed over": settle(VERDICT_HANDED_OVER, [first, second]),
        "messages are released": settle(VERDICT_RELEASE, [first, second]),
        "messages are delayed": settle(VERDICT_NACK, [first, second], later),
        "messages join others of their time": settle(VERDICT_NACK, [first, second], now + 5_000),
        "leases expire": settle(e.EXPIRED, [first, second]),
        "a client comes back to some": r.Resume(now, day.ann, day.orders, [first, second], "lost"),
        "a client comes back to none": r.Resume(now, day.ann, day.orders, [], "lost"),
        "a client's end closes, and one that is gone": r.MarkClosed(now, [day.ann, 9_999], []),
        "a client whose end closed is back": r.MarkClosed(now, [day.ann], [day.bob]),
        "others vote": brokers.Membership(now, b"voters"),
        "a broker moves": brokers.NodeAddress(now, 2, "10.0.0.2:7650"),
        "messages are rejected": e.SettleJudged(
            now, day.ann, day.orders, VERDICT_REJECT, [first, second], 0, "no such order"
        ),
        "messages wait by a policy": e.SettleJudged(
            now, day.ann, day.billing, VERDICT_NACK, [1, 1 << 60], e.BY_RETRY_POLICY, "timeout"
        ),
        "a dead letter is redriven": q.Redrive(now, day.billing, dead(day), 0),
        "a dead letter goes back to where it died": q.Redrive(now, day.billing, strangers(day), 0),
        "a dead letter goes elsewhere": q.Redrive(now, day.billing, dead(day), day.orders),
        "messages are moved": day.moved(day.orders, day.billing, ready_in(day.machine, day.orders)),
        "messages are copied": day.moved(day.orders, day.billing, ready_in(day.machine, day.orders), keep=True),
        "chosen messages are dropped": day.moved(day.orders, 0, ready_in(day.machine, day.orders)),
        "chosen dead letters are moved": day.moved(day.billing, day.orders, dead(day), DEAD),
        "dead letters are dropped": q.Discard(now, day.billing, dead(day) + strangers(day)),
        "two queues are used, and one that is gone": q.MarkUsed(now + 5, [day.idle, day.orders, 9_999]),
        "a queue that nobody uses goes": q.ExpireQueue(now + 2_000, day.idle, now),
        "some delayed messages are due": e.Clock(later, 1),
        "all delayed messages are due": e.Clock(later + 10**6, 100),
        "settings change": e.Declare(now, "/", "queue", "orders", {"retry_delay": 9.0}),
        "a queue retains no more": e.Declare(now, "/", "queue", "orders", {"retention": None}),
        "a queue retains less": e.Declare(now, "/", "queue", "orders", {"retention": {"bytes": 50}}),
        "a queue begins to retain": e.Declare(now, "/", "queue", "billing", {"retention": {"seconds": 9}}),
        "a queue comes": e.Declare(now, "/", "queue", "new", {}),
        "a queue goes": e.Delete(now, "/", "queue", "orders", False),
        "an empty queue goes": e.Delete(now, "other", "queue", "mail", True),
        "a queue is purged": e.Purge(now, day.orders),
        "a batch is lost": e.Forget(now, day.orders, [day.batch + 2, day.batch + 2], "lost"),
        "all batches are lost": e.Forget(now, day.orders, [1, 1 << 60], "lost"),
        "batches of another queue are lost": e.Forget(now, day.billing, [1, 1 << 60], "lost"),
        "nonsense is lost": e.Forget(now, day.orders, [], "lost"),
        "a queue pauses": q.Alter(now, "/", "queue", "orders", {"pause_publish": True, "pause_deliver": True}),
        "a schedule comes": t.Schedule(now, "/", "report", "0 6 * * *", "UTC", "orders", 1, 1, later, "one", b"x"),
        "a schedule moves on": t.Fire(now, 12_345, 1, 2, 1),
        "a policy comes": q.Policy(now, "/", "slow", "#", 1, {"retry_delay": 7.0}),
        "a delayed message is cancelled": q.Cancel(now, day.orders, waiting(day)),
        "a delayed message is put off": q.Reschedule(now, day.orders, waiting(day), later + 5),
        "a delayed message shall come at once": q.Reschedule(now, day.orders, waiting(day), 0),
        "a batch comes to a topic": e.Publish(now, day.events, day.producer, sequence, 2, 20, None, b"x" * 20),
        "a routed batch comes": day.routed("eu.lost"),
        "a routed batch for later comes": day.routed("eu.late", later),
        "a topic comes": e.Declare(now, "/", "topic", "sensors", {}),
        "a topic retains no more": e.Declare(now, "/", "topic", "events", {"retention": None}),
        "a subscription changes its order": e.Declare(now, "/", "queue", "audit", {"retry_delay": 4.0}),
        "a topic goes": e.Delete(now, "/", "topic", "events", False),
        "a transaction comes": day.transaction(
            [day.orders, day.events], day.ann, [day.orders, VERDICT_ACK, 0, 1, first, second]
        ),
        "a transaction lets something die": day.transaction(
            [], day.ann, [day.orders, VERDICT_REJECT, 0, 1, first, second]
        ),
        "a transaction is void": day.transaction([day.orders, 12_345], 0, []),
        "a message is prepared": day.prepared(day.orders),
        "a message is committed": x.Resolve(now, day.half, True),
        "a message is rolled back": x.Resolve(now, day.half, False),
        "a routed message is committed": x.Resolve(now, day.routed_half, True),
        "what was decided is decided again": x.Resolve(now, day.decided, False),
        "somebody is asked": x.Checked(now + 6_000, [day.half, day.routed_half]),
        "prepared messages are lost": e.Forget(now, HALVES_ID, [1, 1 << 60], "lost"),
        "somebody subscribes": t.Subscribe(now, "/", "events", "us.#", "us", {}),
        "somebody subscribes to the past": t.Subscribe(now, "/", "events", "us.#", "us", {}, 0, t.START_BEGINNING),
        "a subscription changes": t.Subscribe(now, "/", "events", "us.#", "audit", {"retry_delay": 3.0}),
        "somebody unsubscribes": t.Unsubscribe(now, "/", "audit"),
        "a subscription goes as a queue": e.Delete(now, "/", "queue", "audit", False),
        "a subscription that catches up is purged": e.Purge(now, day.mine),
        "a subscription catches up": t.Fill(now, day.mine, 0, 0, [4, 0, 1, 2, 20, now, 0, 0, 0], 4, 0, False),
        "a subscription has caught up": t.Fill(now, day.mine, 0, 0, [], day.mine, 0, True),
    }


def waiting(day: Day) -> list[int]:
    """The delayed messages of a queue, as CANCEL and RESCHEDULE name them."""
    return waiting_in(day.machine, day.orders)


def waiting_in(machine: Machine, queue_id: int) -> list[int]:
    queue = machine.queue(queue_id)
    runs = [] if queue is None else queue.delayed.runs()
    return [number for run in runs for number in (run.ready, run.zxid, run.first, run.size)]


def dead(day: Story) -> list[int]:
    """All dead letters that lie aside in the queue billing."""
    queue = day.machine.find_queue("/", "billing")
    return [] if queue is None else [n for run in queue.dead.runs() for n in (run.ready, run.zxid, run.first, run.size)]


def ready_in(machine: Machine, number: int) -> list[int]:
    """All ready messages of the queue."""
    queue = machine.queue(number)
    runs = [] if queue is None else queue.peek(0, 1000)
    return [n for run in runs for n in (run.ready, run.zxid, run.first, run.size)]


def strangers(day: Story) -> list[int]:
    """All ready messages of that queue that have a note."""
    queue = day.machine.find_queue("/", "billing")
    runs = [] if queue is None else [run for run in queue.peek(0, 1000) if run.note]
    return [n for run in runs for n in (run.ready, run.zxid, run.first, run.size)]


def placed(runs: list[Run]) -> list[int]:
    """The last of *runs*, as a grant names it wherever it lies."""
    return [runs[-1].ready, runs[-1].zxid, runs[-1].first, runs[-1].size] if runs else [1, 1, 0, 1]


WHAT_HAPPENS = sorted(entries_of(Day()))


def packed_around(what: str, steps_before: int) -> tuple[bytes, Callable[[], Machine], bool]:
    """Freeze a day, pack so many steps, let it happen, pack the rest.

    Returns the digest at the freeze, how to load the image, and whether all was packed before it happened.
    """
    day = Day()
    entry = entries_of(day)[what]
    before = day.machine.state_hash()
    freeze = day.machine.freeze()
    sections = day.pack(freeze, steps_before)
    all_packed = freeze.done
    day.apply(entry)
    sections += day.pack(freeze, STEPS_MAX)
    assert freeze.done
    return before, lambda: load(sections), all_packed


@pytest.mark.parametrize("first", WHAT_HAPPENS)
def test_whatever_happens_after_that_is_not_in_the_image_either(first: str) -> None:
    for second in WHAT_HAPPENS:
        day = Day()
        before = day.machine.state_hash()
        freeze = day.machine.freeze()
        for what in (first, second):
            day.apply(entries_of(day)[what])
        day.machine.check()
        assert load(day.pack(freeze, STEPS_MAX)).state_hash() == before, f"{first}, then {second}"


@pytest.mark.parametrize("what", WHAT_HAPPENS)
def test_whatever_happens_at_whatever_moment_is_not_in_the_image(what: str) -> None:
    steps, all_packed = 0, False
    while not all_packed:
        before, loaded, all_packed = packed_around(what, steps)
        machine = loaded()
        assert machine.state_hash() == before, f"after {steps} steps"
        machine.check()
        steps += 1
    assert steps > 20, "there were moments between"


CHANGING = [kind for kind, touch in TOUCHES.items() if touch is not freeze_module._nothing]


@pytest.mark.parametrize("kind", CHANGING, ids=lambda kind: kind.__name__)
def test_no_kind_gets_through_without_its_line(kind: type[e.Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOUCHES, kind, freeze_module._nothing)
    day = Day()
    caught = 0
    for what in (what for what, entry in entries_of(day).items() if type(entry) is kind):
        before, loaded, _ = packed_around(what, 1)
        try:
            caught += loaded().state_hash() != before
        except ImageDamaged:
            caught += 1
    assert caught


def test_every_kind_that_is_applied_is_known_to_the_freeze_and_to_these_tests() -> None:
    assert set(TOUCHES) == set(APPLY)
    assert {type(entry) for entry in entries_of(Day()).values()} == set(APPLY)


# --- anything at all --------------------------------------------------------------------------------------------------

KINDS = sorted(APPLY, key=lambda kind: kind.__name__)
VERDICTS = (VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE, VERDICT_HANDED_OVER, e.EXPIRED, e.ABANDONED)
pick = st.integers(0, 9)
NAMES = ("orders", "billing", "mail", "new", "newer")


def any_of(numbers: list[int], which: int) -> int:
    """One of them; now and then one that does not exist."""
    return numbers[which % len(numbers)] if numbers and which < 9 else 12_345


def apply_any(story: Story, kind: type[e.Entry], a: int, b: int, c: int) -> None:
    """Apply an entry of this kind; the three numbers choose what it is about."""
    machine, now = story.machine, story.now
    queue = any_of([known.id for known in (*machine.queues(), *machine.sources)], a)
    session = any_of(list(machine.sessions), b)
    producer = any_of([known.number for known in machine.producers], b)
    name = NAMES[a % len(NAMES)]

    def any_queue(wanted: str, otherwise: int) -> int:
        found = machine.find_queue("/", wanted)
        return otherwise if found is None else found.id

    entry: e.Entry
    if kind is e.Publish:
        if c < 8:
            known = machine.producers.get(producer)
            story.sequences[producer] = 0 if known is None else known.last
            story.publish(queue, producer, c + 1)
            return
        entry = e.Publish(now, queue, producer, c - 7, 1, 10, None, b"x" * 10)
    elif kind is e.Grant:
        story.grant(queue, session, c)
        return
    elif kind is e.Settle:
        consumers = list(machine.sessions[session].leases) if session in machine.sessions else []
        due_ms = now + 1_000 * (c - 3) if c > 3 else 0
        tags = story.tags(session, any_of(consumers, a)) if consumers and a < 9 else [5]
        entry = e.Settle(now, session, any_of(consumers, a), VERDICTS[c % 6], [tags[0], tags[c % len(tags)]], due_ms)
    elif kind is e.Clock:
        story.now = now + 500 * a
        entry = e.Clock(story.now, c)
    else:
        makers: dict[type[e.Entry], Callable[[], e.Entry]] = {
            e.Epoch: lambda: e.Epoch(now, a),
            e.PublishGrouped: lambda: e.PublishGrouped(
                *(now, queue, producer, getattr(machine.producers.get(producer), "last", 0) + 1, 3, 9, None, bytes(9)),
                *([1, now + 100 * a, 0, 0, 0, 1 + c % 2, 2, 0, 0, 0, 0, 0], ["eu.paid", "eu.sent"]),
            ),
            e.PublishIdentified: lambda: e.PublishIdentified(
                *(now, queue, producer, getattr(machine.producers.get(producer), "last", 0) + 1, 3, 9, None, bytes(9)),
                *([], [], 0, b"".join(bytes([number % 4]) * 16 for number in (a, b, c))),
            ),
            e.GrantPlaced: lambda: any_placed(story, queue, session, c),
            e.GrantIdentified: lambda: with_ids(any_placed(story, queue, session, c)),
            e.SessionOpen: lambda: e.SessionOpen(now, "/", "ann", "", b""),
            e.SessionClose: lambda: e.SessionClose(now, session, ""),
            e.ProducerOpen: lambda: e.ProducerOpen(now + 4_000_000 * (c > 5), "/", ("", "web", "app")[a % 3], "ann"),
            e.ProducerOpenUnlimited: lambda: e.ProducerOpenUnlimited(now, "/", ("", "web", "app")[a % 3], "bob"),
            e.ProducerClose: lambda: e.ProducerClose(now, producer),
            e.Declare: lambda: (
                e.Declare(now, "/", "queue", name, {"retry_delay": float(b), "max_deliveries": b or None})
                if c
                else e.Declare(now, "/", "topic", "events", {"retention": {"bytes": 1 + b} if a else None})
            ),
            e.Delete: lambda: (
                e.Delete(now, "/", "queue", name, c > 5) if b else e.Delete(now, "/", "topic", "events", c > 1)
            ),
            e.Purge: lambda: e.Purge(now, queue),
            e.Forget: lambda: e.Forget(
                now, queue, [machine.applied_zxid - 3 * b - c, machine.applied_zxid - 3 * b], "lost"
            ),
            q.Alter: lambda: q.Alter(now, "/", "queue", name, {"pause_publish": bool(b % 2), "pause_deliver": b > 5}),
            t.Schedule: lambda: t.Schedule(
                now, "/", name, "0 6 * * *" if c % 4 else "", "UTC", "orders", 1, 1, now + b, "one", b"x"
            ),
            t.Fire: lambda: t.Fire(now, getattr(machine.schedules.first(), "number", 1), now + b, now + c, b % 2),
            q.Policy: lambda: q.Policy(now, "/", "slow", "#", b, {"retry_delay": 2.0 + c % 3} if c % 4 else {}),
            q.Cancel: lambda: q.Cancel(now, queue, waiting_in(machine, queue)[: 4 * (c % 3)]),
            q.Reschedule: lambda: q.Reschedule(
                now, queue, waiting_in(machine, queue)[: 4 * (c % 3)], now + 300 * (b - 2)
            ),
            e.SettleJudged: lambda: e.SettleJudged(
                *(now, session, queue, (VERDICT_REJECT, VERDICT_NACK)[a % 2]),
                *((story.tags(session, queue) or [5])[:1] * 2, e.BY_RETRY_POLICY if b % 2 else 0, "because"),
            ),
            q.Redrive: lambda: q.Redrive(
                now, any_queue("billing", queue), (strangers, dead)[c % 2](story)[: 4 * b], 0 if a % 2 else queue
            ),
            Move: lambda: Move(
                *(now, producer, 1 + getattr(machine.producers.get(producer), "last", 0)),
                *(any_queue("billing", queue), 0 if b % 3 == 0 else queue, bool(a % 2 and b % 3)),
                *((DEAD, dead(story)[: 4 * b]) if c % 2 else (READY, strangers(story)[: 4 * b])),
            ),
            q.Discard: lambda: q.Discard(
                now, any_queue("billing", queue), (strangers, dead)[c % 2](story)[: 4 * (b % 3)]
            ),
            q.MarkUsed: lambda: q.MarkUsed(now, [queue, 9_999]),
            q.ExpireQueue: lambda: q.ExpireQueue(now + 1_000 * a, queue, now),
            brokers.Membership: lambda: brokers.Membership(now, b"voters"),
            brokers.NodeAddress: lambda: brokers.NodeAddress(now, 1 + a % 3, "10.0.0.2:7650" if b else ""),
            r.Resume: lambda: r.Resume(now, session, queue, story.tags(session, queue)[: 2 * (b % 3)], "lost"),
            r.MarkClosed: lambda: r.MarkClosed(now, [session][b % 2 :], [session, 9_999][c % 3 :]),
            t.Subscribe: lambda: t.Subscribe(
                *(now, "/", "events", ("#", "eu.*", "eu.paid", "")[a % 4], ("audit", "", "us")[b % 3], {}),
                *(session if c % 2 else 0, (t.START_NOW, t.START_BEGINNING)[c > 5]),
            ),
            t.Unsubscribe: lambda: t.Unsubscribe(now, "/", ("audit", "us", "orders")[a % 3]),
            t.Fill: lambda: any_fill(machine, now, a, c > 5),
            x.Transaction: lambda: any_transaction(story, queue, producer, session, a, c),
            x.Prepare: lambda: any_prepare(story, queue, producer, c),
            x.Resolve: lambda: x.Resolve(now, any_half(machine, a), b > 2),
            x.Checked: lambda: x.Checked(now + 700 * c, [half.number for half in machine.halves][: 1 + b]),
        }
        entry = makers[kind]()
    story.apply(entry)


def any_half(machine: Machine, which: int) -> int:
    return any_of([half.number for half in machine.halves], which)


def any_prepare(story: Story, target: int, producer: int, which: int) -> x.Prepare:
    known = story.machine.producers.get(producer)
    sequence = (0 if known is None else known.last) + 1 - (which > 8)
    routes = ["eu.paid"]
    groups = [2, story.now + 400 * (which - 4), 0, 0, 0, which % 2]
    said = "events.eu.paid", "shop", 500 * which, 1, groups, routes
    return x.Prepare(story.now, target, producer, sequence, 2, 20, *said, b"x" * 20)


def any_transaction(story: Story, target: int, producer: int, session: int, which: int, how: int) -> x.Transaction:
    machine = story.machine
    known = machine.producers.get(producer)
    sequence = (0 if known is None else known.last) + 1 - (how > 8)
    others = [queue.id for queue in machine.queues()]
    targets = [target, any_of(others, how)][: which % 3]
    parts = [number for each in targets for number in (each, 1, 1, 0)]
    groups = [number for _ in targets for number in (1, story.now + 300 * (how - 4), 0, 0, 0, 1)]
    consumers = list(machine.sessions[session].leases) if session in machine.sessions else []
    consumer = any_of(consumers, which)
    tags = (story.tags(session, consumer) or [5])[:1] * 2
    settlements = [consumer, (VERDICT_ACK, VERDICT_REJECT, VERDICT_NACK)[how % 3], 0, 1, *tags] if how % 4 else []
    count = len(targets)
    batch = story.now, producer, sequence, count, 10 * count, parts, groups, ["eu.paid"]
    return x.Transaction(*batch, session, settlements, [""] * bool(settlements), b"", b"x" * 10 * count)


def with_ids(grant: e.Grant) -> e.GrantIdentified:
    messages = sum(grant.runs[3::4])
    fields = (grant.log_time_ms, grant.queue, grant.session, grant.consumer, grant.first_tag, grant.runs)
    return e.GrantIdentified(*fields, b"".join(bytes([1 + number % 3]) * 16 for number in range(messages)))


def any_placed(story: Story, queue: int, session: int, which: int) -> e.Grant:
    runs = story.machine.peek(queue, 0, 1 + 2 * which)
    return e.GrantPlaced(story.now, queue, session, queue, story.zxid * 100, placed(runs))


def any_fill(machine: Machine, now: int, which: int, done: bool) -> t.Fill:
    fillings = [filling for topic in machine.sources for filling in topic.fillings.values()]
    if not fillings:
        return t.Fill(now, 12_345, 0, 0, [], 1, 0, False)
    filling = fillings[which % len(fillings)]
    runs = [filling.next.zxid + 1, 0, 1, 2, 20, now, 0, 0, 0]
    return t.Fill(now, filling.queue, *filling.next, runs, filling.next.zxid + 1, 0, done)


# What makes state comes more often than what ends it.
any_kind = st.sampled_from([*KINDS, e.Publish, e.Publish, e.Grant, e.Grant, e.Settle, e.Settle, e.Clock])
happenings = st.lists(st.tuples(any_kind, pick, pick, pick), max_size=30)


@settings(max_examples=300, deadline=None)
@given(before=happenings, meanwhile=st.lists(st.tuples(any_kind, pick, pick, pick, st.integers(0, 4)), max_size=40))
def test_the_image_of_any_machine_is_the_machine_as_it_was_whatever_came_meanwhile(
    before: list[tuple[Any, ...]], meanwhile: list[tuple[Any, ...]]
) -> None:
    day = Day()
    for kind, *numbers in before:
        apply_any(day, kind, *numbers)
    day.machine.check()
    at_freeze = day.machine.state_hash()
    freeze = day.machine.freeze()
    sections: list[Section] = []
    for kind, *numbers, steps in meanwhile:
        apply_any(day, kind, *numbers)
        sections += day.pack(freeze, steps)
    sections += day.pack(freeze, STEPS_MAX)
    machine = load(sections)
    assert machine.state_hash() == at_freeze
    machine.check()
    again: list[Section] = day.pack(machine.freeze(), STEPS_MAX)
    assert load(again).state_hash() == at_freeze, "an image of what was loaded is the same machine once more"


# --- one after the other ----------------------------------------------------------------------------------------------


def test_a_freeze_is_over_when_it_is_packed_and_another_may_begin() -> None:
    day = Day()
    for _ in range(3):
        freeze = day.machine.freeze()
        at_freeze = day.machine.state_hash()
        sections = day.pack(freeze, 10)
        day.publish(day.orders, day.producer)
        day.settle(day.bob, day.billing, VERDICT_ACK)
        sections += day.pack(freeze, STEPS_MAX)
        assert load(sections).state_hash() == at_freeze
        day.publish(day.orders, day.producer)


def test_only_one_freeze_is_under_way() -> None:
    day = Day()
    day.machine.freeze()
    with pytest.raises(AssertionError, match="packed or given up before the next"):
        day.machine.freeze()


def test_a_freeze_that_was_given_up_leaves_nothing_behind() -> None:
    day = Day()
    given_up = day.machine.freeze()
    day.pack(given_up, 8)
    day.publish(day.orders, day.producer)
    given_up.let_go()
    freeze = day.machine.freeze()
    at_freeze = day.machine.state_hash()
    sections = day.pack(freeze, 3)
    day.publish(day.orders, day.producer)
    day.apply(e.Clock(day.now + 5_500, 1))
    sections += day.pack(freeze, STEPS_MAX)
    assert load(sections).state_hash() == at_freeze
