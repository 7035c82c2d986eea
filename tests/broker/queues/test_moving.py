"""MOVE: chosen messages go elsewhere, are copied or dropped; once, counted, and only as far as they are still there."""

from __future__ import annotations

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.entries_of_moving import READY, Move
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Moved, Outcome
from sluicemq.wire.errors import Conflict, InvalidRequest, QueueFull, QueueNotFound, SequenceGap

FIRST = 1 << 32


class Story:
    """A queue `orders` with ten messages in one batch, and others."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.zxid = FIRST
        self.producer = self.run(e.ProducerOpen(1, "/", "", "ann")).value.producer
        self.operator = self.run(e.ProducerOpen(1, "/", "", "ann")).value.producer
        self.orders, self.mail = self.declare("orders"), self.declare("mail")
        self.run(e.Publish(2, self.orders, self.producer, 1, 10, 10, None, b"x" * 100))
        self.batch = self.zxid
        self.sequence = 0

    def declare(self, name: str, **settings: object) -> int:
        self.run(e.Declare(1, "/", "queue", name, settings))
        return self.zxid

    def run(self, entry: e.Entry) -> Outcome:
        self.zxid += 1
        outcome = self.machine.apply(self.zxid, entry)
        self.machine.check()
        return outcome

    def move(self, first: int, size: int, to: int, *, keep: bool = False, again: bool = False) -> Outcome:
        sequence = self.sequence + (not again)
        runs = [self.batch, self.batch, first, size]
        outcome = self.run(Move(3, self.operator, sequence, self.orders, to, keep, READY, runs))
        self.sequence += outcome.error is None and not again
        return outcome

    def ready(self, number: int) -> list[int]:
        return [i for run in self.machine.peek(number, 0, 100) for i in range(run.first, run.first + run.size)]


def test_a_part_of_a_batch_leaves_and_the_rest_stays() -> None:
    story = Story()
    assert story.move(3, 4, story.mail).value == Moved(4)
    assert story.ready(story.mail) == [3, 4, 5, 6]
    assert story.ready(story.orders) == [0, 1, 2, 7, 8, 9]
    assert story.move(2, 2, story.mail).value == Moved(0), "not all of that is there"
    assert story.move(8, 2, 0).value == Moved(2)
    assert story.ready(story.orders) == [0, 1, 2, 7]
    queue, mail = story.machine.existing_queue(story.orders), story.machine.existing_queue(story.mail)
    assert (queue.moved_total, queue.purged_total, mail.published_total) == (4, 2, 4)


def test_what_is_sent_twice_is_done_once_and_answered_alike() -> None:
    story = Story()
    assert story.move(0, 5, story.mail, keep=True).value == Moved(5)
    assert story.move(0, 5, story.mail, keep=True, again=True).value == Moved(5, duplicate=True)
    assert story.ready(story.mail) == [0, 1, 2, 3, 4]
    assert story.ready(story.orders) == list(range(10))
    story.sequence += 1
    assert isinstance(story.move(0, 1, story.mail).error, SequenceGap)


@pytest.mark.parametrize(
    ("settings", "size", "keep", "error"),
    [
        ({"max_length": 4, "overflow": "reject"}, 5, False, QueueFull),
        ({"ordering": "key"}, 1, True, Conflict),
    ],
)
def test_a_refusal_changes_nothing_and_burns_no_number(
    settings: dict[str, object], size: int, keep: bool, error: type[Exception]
) -> None:
    story = Story()
    other = story.declare("other", **settings)
    assert isinstance(story.move(0, size, other, keep=keep).error, error)
    assert isinstance(story.move(0, 1, story.orders).error, InvalidRequest)
    assert isinstance(story.move(0, 1, 0, keep=True).error, InvalidRequest)
    assert isinstance(story.move(0, 1, 999).error, QueueNotFound)
    assert story.ready(story.orders) == list(range(10))
    assert story.move(0, 10, story.mail).value == Moved(10)


def test_one_message_that_is_named_twice_goes_once() -> None:
    story = Story()
    place = [story.batch, story.batch, 2, 3]
    twice = Move(3, story.operator, 1, story.orders, story.mail, True, READY, [*place, *place, *place[:2], 4, 1])
    assert story.run(twice).value == Moved(3)
    assert story.ready(story.mail) == [2, 3, 4]
