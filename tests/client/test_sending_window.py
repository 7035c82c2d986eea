"""The rules of numbers and resends, against a broker that keeps them and a network that does not.

The network may break at any time; frames on a broken connection may still be read by the broker at any later time, or
never. Whatever happens: what was confirmed is stored, what failed for sure is not, and nothing is stored twice.
"""

from __future__ import annotations

import random

import pytest

from sluicemq.client.errors import (
    NotLeader,
    OutcomeUnknown,
    ProducerNotFound,
    PublishLimited,
    QueueNotFound,
    ResourceLow,
    SequenceGap,
)
from sluicemq.client.outgoing import BATCH_OVERHEAD_BYTES, NO_ATTRIBUTES, OutgoingBatch, Pending
from sluicemq.client.sending_window import SendingWindow, WindowLimits
from sluicemq.wire.batch import Batch

LIMITS = WindowLimits(
    batches=4, collected_batches=2, messages=40, bytes=100_000, collected_messages=3, collected_bytes=10_000
)


def bodies_of(batch):
    """What the broker would find in it."""
    return Batch(batch.encode()).bodies


class Broker:
    """Takes batches of a producer in sequence, once, and remembers where."""

    def __init__(self):
        self.stored = []
        self.last = {}
        self.zxids = {}
        self.forgotten = set()
        self.refusals = []

    def take(self, frame):
        producer, sequence, bodies = frame
        if producer in self.forgotten:
            return ProducerNotFound("forgotten")
        last = self.last.setdefault(producer, 0)
        if sequence > last + 1:
            return SequenceGap("ahead", expected=last + 1)
        if sequence <= last:
            return self.zxids[producer, sequence]
        if self.refusals:
            return self.refusals.pop()
        self.last[producer] = sequence
        self.zxids[producer, sequence] = len(self.stored)
        self.stored.append(bodies)
        return self.zxids[producer, sequence]


class World:
    def __init__(self, waits=True):
        self.window = SendingWindow(LIMITS, waits=waits)
        self.window.numbered(1)
        self.destinations = {}  # body -> where it goes
        self.numbers = 1
        self.broker = Broker()
        self.connected = True
        self.wire = []  # frames under way, with their batch
        self.replies = []
        self.leftovers = []  # frames on broken connections
        self.sent = 0
        self.confirmed = {}  # body -> place in the log
        self.failed = {}  # body -> error

    def send(self, whole, destination="orders"):
        pending = Pending(0.0)
        bodies = [b"%d" % (self.sent + number) for number in range(2 if whole else 1)]
        self.sent += len(bodies)
        self.destinations |= dict.fromkeys(bodies, destination)
        if whole:
            batch = OutgoingBatch(destination, whole=True)
            batch.fill(bodies, None, pending)
            if self.window.has_room(2, batch.size_bytes):
                self.window.add_whole(batch)
        elif self.window.has_room(1, 10):
            self.window.collect(destination, bodies[0], NO_ATTRIBUTES, pending, 10)

    def pump(self):
        if not self.connected:
            return
        while (batch := self.window.next()) is not None:
            assert len(self.window.in_flight) <= LIMITS.batches
            self.wire.append(((batch.producer, batch.sequence, tuple(bodies_of(batch))), batch))
        if self.window.wants_number:
            self.numbers += 1
            self.window.numbered(self.numbers)
            self.pump()

    def process(self):
        if self.wire:
            frame, batch = self.wire.pop(0)
            self.replies.append((batch, self.broker.take(frame)))

    def process_leftover(self, choice):
        if self.leftovers:
            self.broker.take(self.leftovers.pop(choice % len(self.leftovers)).pop(0))
            self.leftovers = [frames for frames in self.leftovers if frames]

    def reply(self):
        if not self.replies:
            return
        batch, answer = self.replies.pop(0)
        bodies = list(bodies_of(batch))
        if isinstance(answer, int):
            self.note_failures(self.window.confirmed(batch))
            for body in bodies:
                assert body not in self.confirmed
                self.confirmed[body] = answer
        else:
            if self.window.keeps(batch, answer):
                self.window.held = True
            elif self.window.waits_for(batch, answer):
                self.window.limited.add(batch.destination)
            self.note_failures(self.window.refused(batch, answer))

    def note_failures(self, failures):
        for batch, error in failures:
            for body in bodies_of(batch):
                assert body not in self.failed
                self.failed[body] = error

    def cut(self):
        if self.wire:
            self.leftovers.append([frame for frame, _ in self.wire])
        self.wire, self.replies = [], []
        self.connected = False
        self.note_failures(self.window.connection_lost())

    def connect(self):
        self.connected = True

    def release(self):
        self.window.held = False
        self.window.limited.clear()

    def check(self):
        stored = [body for bodies in self.broker.stored for body in bodies]
        assert len(stored) == len(set(stored)), "something is stored twice"
        for body, place in self.confirmed.items():
            assert body in self.broker.stored[place], "a confirmed message is not where its receipt says"
        for body, error in self.failed.items():
            assert body not in self.confirmed
            if not isinstance(error, OutcomeUnknown):
                assert body not in stored, f"{body!r} failed with {error!r} and is stored"
        for destination in set(self.destinations.values()):
            confirmed = [body for body in stored if body in self.confirmed and self.destinations[body] == destination]
            assert confirmed == sorted(confirmed, key=int), "messages overtook each other"
        window = self.window
        assert window.messages == sum(batch.count for batch in window.everything())
        assert window.bytes == sum(batch.size_bytes for batch in window.everything())
        assert not window.lost, "this broker loses nothing"


def errors():
    """Refusals, made anew: the window may say more of one than the broker did."""
    return [
        QueueNotFound("no"),
        ResourceLow("low"),
        NotLeader("elsewhere"),
        PublishLimited("later", messages_now=0),
        PublishLimited("some now", messages_now=1),
        PublishLimited("some now", messages_now=2, retryable=False),
    ]


STEPS = {
    "send": 6,
    "exchange": 6,
    "process": 4,
    "reply": 4,
    "cut": 2,
    "connect": 4,
    "release": 2,
    "process_leftover": 3,
    "refuse": 3,
    "forget": 0.3,
}


def live_through(world, dice):
    """Let up to sixty things happen."""
    names, weights = list(STEPS), list(STEPS.values())
    for name in dice.choices(names, weights, k=dice.randrange(10, 60)):
        match name:
            case "refuse":
                world.broker.refusals.append(dice.choice(errors()))
            case "forget":
                world.broker.forgotten.add(world.window.number)
            case "send":
                world.send(dice.random() < 0.3, dice.choice(("orders", "orders", "bills")))
            case "exchange":
                world.process()
                world.reply()
            case "process_leftover":
                world.process_leftover(dice.randrange(6))
            case _:
                getattr(world, name)()
        if name != "cut" and dice.random() < 0.9:
            world.pump()
        world.check()


def calm_down(world):
    """Everything comes to an end, and what lay on broken connections arrives at last."""
    world.broker.refusals.clear()
    world.connect()
    for _ in range(300):
        world.release()
        world.pump()
        world.process()
        world.reply()
        if not world.window.everything():
            break
    assert not world.window.everything(), "a batch never came to an end"
    while world.leftovers:
        world.process_leftover(0)
    world.check()


@pytest.mark.parametrize("seed", range(20))
def test_confirmed_is_stored_failed_is_not_and_nothing_is_twice(seed):
    for number in range(500):
        dice = random.Random(seed * 1_000 + number)
        world = World(waits=dice.random() < 0.7)
        live_through(world, dice)
        calm_down(world)


def sent_next(window):
    """The batch that goes out now; there must be one."""
    batch = window.next()
    assert batch is not None
    return batch


def collected(window, body):
    pending = Pending(0.0)
    window.collect("orders", body, NO_ATTRIBUTES, pending, 10)
    return pending


def test_single_sends_collect_while_two_batches_are_under_way():
    window = SendingWindow(LIMITS)
    window.numbered(1)
    for number in range(4):
        collected(window, b"%d" % number)
        batch = window.next()
        assert (batch is not None) == (number < 2)
    window.confirmed(window.in_flight[0])
    assert bodies_of(sent_next(window)) == [b"2", b"3"]


def test_a_whole_batch_neither_joins_others_nor_overtakes_them():
    window = SendingWindow(LIMITS)
    window.numbered(1)
    collected(window, b"before")
    whole = OutgoingBatch("orders", whole=True)
    whole.fill([b"a", b"b"], None, Pending(0.0))
    window.add_whole(whole)
    collected(window, b"after")
    assert [bodies_of(sent_next(window)) for _ in range(2)] == [[b"before"], [b"a", b"b"]]
    window.confirmed(window.in_flight[0])
    assert bodies_of(sent_next(window)) == [b"after"]


def test_nothing_is_sent_without_a_producer_number():
    window = SendingWindow()
    assert not window.wants_number
    collected(window, b"x")
    assert window.next() is None
    assert window.wants_number


@pytest.mark.parametrize("sent", [False, True])
def test_only_what_was_not_sent_can_be_withdrawn(sent):
    window = SendingWindow()
    window.numbered(1)
    first, second = collected(window, b"1"), collected(window, b"2")
    if sent:
        window.next()
    assert window.withdraw(first) is not sent
    assert window.messages == (2 if sent else 1)
    if not sent:
        assert window.withdraw(second)
        assert (window.messages, window.bytes, window.next()) == (0, 0, None)


def test_a_full_window_has_no_room_but_an_empty_one_takes_anything():
    window = SendingWindow(WindowLimits(messages=2, bytes=BATCH_OVERHEAD_BYTES + 30))
    assert window.has_room(5, 500)
    collected(window, b"1")
    assert window.has_room(1, 20)
    assert not window.has_room(2, 20)
    assert not window.has_room(1, 21)


def test_a_refused_batch_leaves_its_number_to_the_next():
    window = SendingWindow(LIMITS)
    window.numbered(1)
    collected(window, b"bad")
    bad = sent_next(window)
    collected(window, b"good")
    good = sent_next(window)
    assert (bad.sequence, good.sequence) == (1, 2)
    (failed,) = window.refused(bad, QueueNotFound("no"))
    assert (failed.batch, type(failed.error)) == (bad, QueueNotFound)
    assert window.next() is None  # until the gap is answered
    assert window.refused(good, SequenceGap("ahead", expected=1)) == []
    assert sent_next(window) is good
    assert good.sequence == 1


def test_a_broker_that_lost_what_it_confirmed_is_noticed_and_gets_the_rest_under_another_number():
    window = SendingWindow(LIMITS)
    window.numbered(1)
    for body in (b"1", b"2", b"3"):
        collected(window, body)
        window.confirmed(sent_next(window))
    collected(window, b"4")
    last = sent_next(window)
    assert window.refused(last, SequenceGap("ahead", expected=2)) == []
    assert window.lost == 2
    assert window.wants_number
    window.numbered(2)
    assert sent_next(window) is last
    assert (last.producer, last.sequence) == (2, 1)


def limited(window, *, messages_now):
    """Send two collected messages, which the broker does not take now."""
    window.numbered(1)
    for body in (b"1", b"2"):
        collected(window, body)
    batch = sent_next(window)
    error = PublishLimited("later", messages_now=messages_now)
    window.limited.add("orders")
    return batch, window.refused(batch, error)


def test_what_a_limit_takes_now_goes_now_and_the_rest_later():
    window = SendingWindow(LIMITS)
    _, failed = limited(window, messages_now=1)
    assert failed == []
    first = sent_next(window)
    assert (bodies_of(first), first.sequence) == ([b"1"], 1)
    assert window.next() is None
    window.confirmed(first)
    window.limited.clear()
    assert bodies_of(sent_next(window)) == [b"2"]


def test_what_goes_elsewhere_passes_what_waits_for_a_limit():
    window = SendingWindow(LIMITS)
    limited(window, messages_now=0)
    window.collect("bills", b"3", NO_ATTRIBUTES, Pending(0.0), 10)
    assert bodies_of(sent_next(window)) == [b"3"]
    assert window.next() is None


def test_who_does_not_wait_hears_of_what_is_not_taken_now_and_no_more():
    window = SendingWindow(LIMITS, waits=False)
    batch, (failed,) = limited(window, messages_now=1)
    assert bodies_of(failed.batch) == [b"2"]
    window.limited.clear()
    assert sent_next(window) is batch
    assert window.messages == 1


def test_a_batch_that_is_never_taken_as_a_whole_is_not_waited_for():
    window = SendingWindow(LIMITS)
    window.numbered(1)
    whole = OutgoingBatch("orders", whole=True)
    whole.fill([b"a", b"b"], None, Pending(0.0))
    window.add_whole(whole)
    error = PublishLimited("never", messages_now=1, retryable=False)
    assert not window.waits_for(whole, error)
    (failed,) = window.refused(sent_next(window), error)
    assert failed == (whole, error)
