"""RESUME: which leases a client keeps when it comes back, and what it learns of those that it names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.entries_of_sessions import MarkClosed, Resume
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import LeasesGone, Resumed, Returned
from sluicemq.broker.queues.sessions import SETTLED_CONSUMERS_MAX, SETTLED_RANGES_MAX, Session
from sluicemq.broker.queues.tags import count_tags, range_pairs
from sluicemq.wire.errors import InvalidRequest, SessionNotFound
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_RELEASE

CONSUMER = 3


class Day:
    """A machine whose only session has ten messages, published as two batches, with tags from 1."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.zxid = 1 << 32
        self.queue = self.apply(e.Declare(1, "/", "queue", "orders", {"retry_delay": 0.0})).zxid
        self.session = self.apply(e.SessionOpen(1, "/", "ann", "web", b"digest")).zxid
        producer = self.apply(e.ProducerOpen(1, "/", "", "ann")).zxid
        first = self.apply(e.Publish(1, self.queue, producer, 1, 4, 4, None, b"four")).zxid
        second = self.apply(e.Publish(1, self.queue, producer, 2, 6, 6, None, b"six")).zxid
        self.apply(e.Grant(1, self.queue, self.session, CONSUMER, 1, [first, 0, 4, second, 0, 6]))

    def apply(self, entry):
        self.zxid += 1
        self.outcome = self.machine.apply(self.zxid, entry)
        self.machine.check()
        return self

    def settle(self, verdict: int, tags: list[int]):
        return self.apply(e.Settle(1, self.session, CONSUMER, verdict, tags)).outcome

    def resume(self, tags: list[int]):
        return self.apply(Resume(1, self.session, CONSUMER, tags, "lost")).outcome

    def held(self) -> list[int]:
        table = self.machine.sessions[self.session].leases.get(CONSUMER)
        return [] if table is None else table.ranges()


@pytest.mark.parametrize(
    ("named", "kept"), [([1, 10], [1, 10]), ([], []), ([2, 3, 5, 5], [2, 3, 5, 5]), ([9, 12], [9, 10]), ([11, 12], [])]
)
def test_leases_that_are_named_are_kept_and_all_others_go_back_to_their_places(named, kept):
    day = Day()
    outcome = day.resume(named)

    assert day.held() == kept
    queue = day.machine.existing_queue(day.queue)
    assert (queue.leased, queue.ready) == (count_tags(kept), 10 - count_tags(kept))
    assert all(run.deliveries == 1 for run in queue.returned), "they had been delivered"
    assert outcome.value.settled == []
    assert outcome.value.lost == ([max(11, named[-2]), 12] if named[-1:] == [12] else [])
    kinds = {type(effect) for effect in outcome.effects}
    assert kinds == (set() if kept == [1, 10] else {Returned, LeasesGone})


def test_what_was_settled_is_told_from_what_was_lost():
    day = Day()
    day.settle(VERDICT_ACK, [1, 2])
    day.settle(VERDICT_NACK, [4, 4])
    day.settle(VERDICT_RELEASE, [6, 6])
    day.settle(VERDICT_HANDED_OVER, [7, 7])
    day.settle(e.EXPIRED, [8, 8])

    assert day.resume([1, 12]).value == Resumed([8, 8, 11, 12], [1, 2, 4, 4, 6, 6], 10)
    assert day.held() == [3, 3, 5, 5, 7, 7, 9, 10]


def test_who_comes_back_twice_hears_the_same_and_keeps_what_was_kept():
    day = Day()
    day.settle(VERDICT_ACK, [1, 1])
    first = day.resume([1, 3]).value

    assert day.resume([1, 3]).value == first
    assert day.resume([1, 10]).value.lost == [4, 10], "what was given back is not settled"


def test_a_consumer_without_leases_hears_what_it_settled():
    day = Day()
    day.settle(VERDICT_ACK, [1, 10])

    assert day.resume([5, 11]).value == Resumed([11, 11], [5, 10], 0)


def test_a_message_that_was_handed_over_and_not_gone_on_with_has_had_an_attempt():
    day = Day()
    day.settle(VERDICT_HANDED_OVER, [1, 1])
    day.resume([])
    runs = list(day.machine.existing_queue(day.queue).returned)

    assert next((run.first, run.attempts) for run in sorted(runs)) == (0, 1)
    assert sum(run.attempts * run.size for run in runs) == 1


def test_nobody_comes_back_to_what_is_over():
    day = Day()
    day.apply(e.SessionClose(1, day.session, "gone"))
    assert isinstance(day.resume([1, 1]).error, SessionNotFound)
    assert isinstance(Day().resume([2, 1]).error, InvalidRequest)


def test_an_image_knows_what_was_settled():
    day = Day()
    day.settle(VERDICT_ACK, [1, 3])
    day.settle(VERDICT_ACK, [7, 7])
    freeze = day.machine.freeze()
    again = load(freeze.pack(lambda: True))

    assert again.state_hash() == day.machine.state_hash()
    assert again.sessions[day.session].settled == {CONSUMER: [1, 3, 7, 7]}


def test_the_machine_knows_whose_end_closed_its_connection_until_that_client_is_back():
    day = Day()
    other = day.apply(e.SessionOpen(1, "/", "bob", "web", b"digest")).zxid
    nobody = 10**9

    def closed() -> list[int]:
        image = load(day.machine.freeze().pack(lambda: True))
        assert image.state_hash() == day.machine.state_hash()
        return [number for number, session in image.sessions.items() if session.closed]

    assert closed() == []
    day.apply(MarkClosed(1, [day.session, other, nobody], []))
    assert closed() == [day.session, other]
    day.apply(MarkClosed(1, [], [other, nobody]))
    assert closed() == [day.session]
    assert day.held() == [1, 10], "its leases wait for it"
    day.apply(e.SessionClose(1, day.session, "gone"))
    assert closed() == []


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 5)), max_size=40))
def test_settled_tags_are_a_set_of_ranges(steps):
    session = Session(1, "/", "", "", b"", 0)
    expected: set[int] = set()
    for first, more in steps:
        fresh = [tag for tag in range(first, first + more + 1) if tag not in expected]
        session.remember(1, [number for tag in fresh for number in (tag, tag)])
        expected.update(fresh)
    known = session.settled.get(1, [])

    assert {tag for first, last in range_pairs(known) for tag in range(first, last + 1)} == expected
    assert all(a < b - 1 for a, b in zip(known[1::2], known[2::2], strict=False)), "ranges that touch are one"
    assert session.settled_of(1, [1, 99]) == known


def test_of_what_was_settled_only_so_much_is_remembered():
    session = Session(1, "/", "", "", b"", 0)
    for tag in range(1, 4 * SETTLED_RANGES_MAX, 2):
        session.remember(1, [tag, tag])
    assert len(session.settled[1]) == 2 * SETTLED_RANGES_MAX
    assert session.settled_of(1, [1, 1]) == [], "the oldest count as lost"
    for consumer in range(2, SETTLED_CONSUMERS_MAX + 3):
        session.remember(consumer, [1, 1])
    assert len(session.settled) == SETTLED_CONSUMERS_MAX
    assert 1 not in session.settled
