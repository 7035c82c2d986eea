"""What becomes of a key whose message dies, and of queues that nobody uses, as the log judges it."""

from __future__ import annotations

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Deleted, MayExpire, Outcome, QueueGone
from sluicemq.broker.queues.runs import Run
from sluicemq.wire.errors import Conflict, QueueNotFound
from sluicemq.wire.messages import VERDICT_NACK, VERDICT_REJECT

KEY = 77


class Story:
    """A queue ordered by key whose messages die at the first attempt."""

    def __init__(self, poison_key: str) -> None:
        self.machine = Machine()
        self.zxid = 0
        settings = {"ordering": "key", "max_deliveries": 1, "poison_key": poison_key}
        self.orders = self.apply(e.Declare(1, "/", "queue", "orders", settings))
        self.session = self.apply(e.SessionOpen(1, "/", "", "", b""))
        self.producer = self.apply(e.ProducerOpen(1, "/", "", "ann"))
        batch = (1, self.orders, self.producer, 1, 3, 3, None, b"123")
        self.batch = self.apply(e.PublishGrouped(*batch, [3, 0, 0, 0, KEY, 0]))
        self.tag = 0

    def apply(self, entry: e.Entry) -> int:
        self.zxid += 1
        self.outcome = self.machine.apply(self.zxid, entry)
        self.machine.check()
        return self.zxid

    def fail(self, verdict: int) -> None:
        """The first message of the key is delivered, and fails."""
        self.tag += 1
        run = self.ready()[0]
        place = [run.ready, run.zxid, run.first, 1]
        self.apply(e.GrantPlaced(1, self.orders, self.session, 1, self.tag, place))
        self.apply(e.SettleJudged(1, self.session, 1, verdict, [self.tag, self.tag], 0, "no stock"))

    def ready(self) -> list[Run]:
        return self.machine.peek(self.orders, 0, 10)

    def dead(self) -> list[int]:
        return [run.first for run in self.machine.existing_queue(self.orders).dead.runs()]


def test_the_next_message_of_the_key_follows_a_dead_one() -> None:
    story = Story("dead_letter")
    story.fail(VERDICT_NACK)
    story.fail(VERDICT_REJECT)
    assert (story.dead(), [(run.first, run.size) for run in story.ready()]) == ([0, 1], [(2, 1)])
    keys = story.machine.existing_queue(story.orders).keys
    assert keys is not None
    assert keys.is_open(KEY)


@pytest.mark.parametrize("verdict", [VERDICT_NACK, VERDICT_REJECT])
def test_a_key_is_parked_with_its_first_dead_message(verdict: int) -> None:
    story = Story("park")
    story.fail(verdict)
    keys = story.machine.existing_queue(story.orders).keys
    assert keys is not None
    assert (story.dead(), list(keys.parked), keys.is_open(KEY)) == ([0], [KEY], False)


def test_a_message_that_used_up_its_attempts_goes_behind_its_key_and_one_that_was_rejected_dies() -> None:
    story = Story("skip")
    story.fail(VERDICT_NACK)
    assert story.dead() == []
    assert [(run.first, run.size, run.attempts) for run in story.ready()] == [(1, 2, 0), (0, 1, 0)]
    assert story.ready()[1].note, "why it stands there is noted"
    story.fail(VERDICT_REJECT)
    assert (story.dead(), [run.first for run in story.ready()]) == ([1], [2, 0])


# --- queues that nobody uses ------------------------------------------------------------------------------------------


def test_a_queue_goes_only_when_the_log_agrees_that_nobody_used_it() -> None:
    machine = Machine()

    def apply(entry: e.Entry) -> Outcome:
        return machine.apply(machine.applied_zxid + 1, entry)

    declared = apply(e.Declare(1_000, "/", "queue", "orders", {"expires": 5.0}))
    assert MayExpire(1) in declared.effects
    session, producer = 2, 3
    apply(e.SessionOpen(1_000, "/", "", "", b""))
    apply(e.ProducerOpen(1_000, "/", "", "ann"))
    apply(e.Publish(3_000, 1, producer, 1, 1, 1, None, b"x"))
    assert type(apply(q.ExpireQueue(7_999, 1, 1_000)).error) is Conflict, "a message came at 3,000"
    assert type(apply(q.ExpireQueue(8_000, 1, 4_000)).error) is Conflict, "somebody consumed until 4,000"
    apply(e.Grant(8_000, 1, session, 1, 1, [4, 0, 1]))
    assert type(apply(q.ExpireQueue(9_000, 1, 4_000)).error) is Conflict, "somebody holds a message"
    apply(e.SessionClose(9_000, session, ""))
    apply(e.Declare(10_000, "/", "queue", "orders", {}))
    assert type(apply(q.ExpireQueue(14_000, 1, 4_000)).error) is Conflict, "it was declared again"
    gone = apply(q.ExpireQueue(15_000, 1, 4_000))
    assert (gone.value, gone.effects) == (Deleted(1), (QueueGone(1, "orders"),))
    assert type(apply(q.ExpireQueue(15_000, 1, 4_000)).error) is QueueNotFound
    apply(e.Declare(16_000, "/", "queue", "orders", {}))
    assert type(apply(q.ExpireQueue(99_000, machine.applied_zxid, 0)).error) is Conflict, "this one stays for ever"


def test_dead_letters_keep_a_queue_from_being_empty() -> None:
    story = Story("dead_letter")
    for _ in range(3):
        story.fail(VERDICT_REJECT)
    assert story.ready() == []
    story.apply(e.Delete(1, "/", "queue", "orders", True))
    assert type(story.outcome.error) is Conflict
    story.apply(e.Delete(1, "/", "queue", "orders", False))
    assert story.outcome.value == Deleted(3)
