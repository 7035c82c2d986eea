"""What a repair gives up: messages of lost entries leave the queue wherever they are, and nothing else does."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.fifo import RunFifo
from sluicemq.broker.queues.giving_up import forget_runs, missing_runs
from sluicemq.broker.queues.history import GivenUp, History, Hole, Place
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.lost import LostEntries, problem_of
from sluicemq.broker.queues.outcomes import Declared, Forgotten, LeasesGone, Outcome
from sluicemq.broker.queues.runs import Run
from sluicemq.wire.errors import InvalidRequest, QueueNotFound
from sluicemq.wire.messages import VERDICT_NACK, VERDICT_RELEASE
from tests.broker.paged import WhimsicalPager, make_chunks_small
from tests.broker.queues.test_machine import Broker, broker

__all__ = ["broker"]


def forget(broker: Broker, *entries: int, queue: int | None = None) -> Outcome:
    return broker.apply(e.Forget(broker.now, queue or broker.orders, list(entries), "lost"))


def test_ready_messages_go_from_the_middle_and_the_rest_keeps_its_order(broker: Broker) -> None:
    first, second, third, fourth = (broker.publish(2) for _ in range(4))
    assert forget(broker, second, third) == Outcome(Forgotten(4, 0), None, ())
    assert broker.ready() == [(first, 0, 2), (fourth, 0, 2)]
    assert broker.queue.purged_total == 4, "they count as purged"


def test_what_is_left_of_a_batch_in_front_goes_too(broker: Broker) -> None:
    first, second = broker.publish(5), broker.publish(2)
    broker.grant(1, first, 0, 3)
    assert forget(broker, second, second).value == Forgotten(2, 0)
    assert broker.ready() == [(first, 3, 2)]
    assert forget(broker, first, first).value == Forgotten(5, 0), "two ready, three leased"
    assert broker.counts() == (0, 0, 0, 0)


def test_returned_messages_go(broker: Broker) -> None:
    first, second = broker.publish(3), broker.publish(3)
    broker.grant(1, first, 0, 3, second, 0, 2)
    broker.settle(VERDICT_RELEASE, 1, 5)
    assert forget(broker, first, first).value == Forgotten(3, 0)
    assert broker.ready() == [(second, 0, 2), (second, 2, 1)]


def test_who_holds_a_lost_message_loses_the_lease_and_keeps_the_others(broker: Broker) -> None:
    first, second, third = broker.publish(2), broker.publish(2), broker.publish(2)
    broker.grant(1, first, 0, 2, second, 0, 2)
    broker.grant(1, third, 0, 2, consumer=2)
    outcome = forget(broker, second, third)
    assert outcome.value == Forgotten(4, 0)
    assert outcome.effects == (
        LeasesGone(broker.session, 1, [3, 4], "purged"),
        LeasesGone(broker.session, 2, [1, 2], "purged"),
    )
    assert broker.counts() == (0, 2, 0, 0)
    assert broker.machine.sessions[broker.session].leases.keys() == {1}
    broker.disconnect()
    assert broker.ready() == [(first, 0, 2)]


def test_delayed_messages_go_and_the_next_one_is_due_when_it_was(broker: Broker) -> None:
    first, second, third = broker.publish(), broker.publish(), broker.publish()
    broker.grant(1, first, 0, 1, second, 0, 1, third, 0, 1)
    for tag, due in ((1, 5_000), (2, 3_000), (3, 9_000)):
        broker.settle(VERDICT_NACK, tag, tag, due=due)
    forget(broker, second, third)
    assert broker.machine.next_due_ms() == 5_000
    assert broker.counts() == (0, 0, 1, 0)
    broker.grant(4, broker.publish(), 0, 1)
    broker.settle(VERDICT_NACK, 4, 4, due=7_000)
    broker.clock(20_000)
    assert [zxid for zxid, *_ in broker.ready()] == [first, broker.zxid - 3]
    forget(broker, 1, 1 << 60)
    assert broker.machine.next_due_ms() is None


def test_the_second_time_nothing_is_left_to_give_up(broker: Broker) -> None:
    broker.publish(2)
    lost = broker.publish(2)
    broker.publish(2)
    forget(broker, lost, lost)
    before = broker.ready(), broker.counts()
    assert forget(broker, lost, lost).value == Forgotten(0, 0)
    assert (broker.ready(), broker.counts()) == before


def test_other_queues_keep_what_they_have(broker: Broker) -> None:
    kept = broker.publish(2)
    other = Broker.get(Declared, broker.declare("mail")).queue_id
    assert forget(broker, 1, 1 << 60, queue=other).value == Forgotten(0, 0)
    assert broker.ready() == [(kept, 0, 2)]
    assert isinstance(forget(broker, 1, 2, queue=999).error, QueueNotFound)


@pytest.mark.parametrize("entries", [[], [1], [2, 1], [1, 5, 5, 6], [7, 8, 1, 2]])
def test_ranges_that_make_no_sense_change_nothing(broker: Broker, entries: list[int]) -> None:
    kept = broker.publish(2)
    assert isinstance(forget(broker, *entries).error, InvalidRequest)
    assert broker.ready() == [(kept, 0, 2)]


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(0, 9), st.integers(0, 9))
def test_ranges_say_exactly_what_lies_in_them(numbers: list[int], low: int, high: int) -> None:
    entries = sorted(set(numbers))
    entries = entries[: len(entries) // 2 * 2]
    if not entries:
        assert problem_of(entries)
        return
    assert problem_of(entries) is None
    lost = LostEntries(entries)
    inside = {zxid for first, last in lost.ranges for zxid in range(first, last + 1)}
    assert {zxid for zxid in range(11) if zxid in lost} == inside
    if low <= high:
        assert lost.meet(low, high) == bool(inside & set(range(low, high + 1)))


# --- what is retained ---------------------------------------------------------------------------------------------


def hole(first: int, last: int) -> Hole:
    """That of batches of one message each."""
    return Hole(Place(first, 0), Place(last, 1))


class Retaining(Broker):
    """The queue retains for 100 seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.declare("orders", retention={"seconds": 100})
        assert self.queue.history is not None
        self.history = self.queue.history

    def read(self, place: Place, **bounds: Any) -> tuple[list[int], bool]:
        """Read to the end or the next hole: the entries, and whether it was a hole."""
        found: list[int] = []
        while True:
            try:
                page = self.history.read(place, **{"messages_max": 3, "bytes_max": 1_000, **bounds})
            except GivenUp:
                return found, True
            found += [run.zxid for run in page.runs]
            place = page.next
            if not page.more:
                return found, False


def test_a_reader_that_comes_to_what_was_given_up_is_told_where_it_ends() -> None:
    broker = Retaining()
    batches = [broker.publish() for _ in range(9)]
    assert forget(broker, batches[4], batches[5]).value == Forgotten(2, 2)
    assert broker.read(Place(batches[1], 0)) == (batches[1:4], True)
    with pytest.raises(GivenUp) as told:
        broker.history.read(Place(batches[3], 1), messages_max=9, bytes_max=99)
    assert told.value.hole == hole(batches[4], batches[5])
    assert broker.read(Place(batches[5] + 1, 0)) == (batches[6:], False)
    assert broker.read(Place(batches[1], 0), end=Place(batches[4], 0)) == (batches[1:4], False), "it ends before"
    assert broker.read(Place(batches[5], 0)) == ([], True), "in the middle of what is gone"
    assert broker.history.bytes == 70


def test_what_was_given_up_behind_all_others_is_told_too() -> None:
    broker = Retaining()
    batches = [broker.publish() for _ in range(4)]
    forget(broker, batches[2], batches[3])
    assert broker.read(Place(batches[0], 0)) == (batches[:2], True)
    later = broker.publish()
    assert broker.read(Place(batches[3] + 1, 0)) == ([later], False)


def test_what_was_given_up_in_front_is_lost_like_what_grew_too_old() -> None:
    broker = Retaining()
    batches = [broker.publish(2) for _ in range(4)]
    forget(broker, batches[0], batches[1])
    assert broker.history.has_lost(Place(batches[0], 1))
    assert not broker.history.has_lost(Place(batches[2], 0))
    assert broker.history.has_lost_since(1_000)
    assert broker.history.holes == []
    assert broker.read(broker.history.lost, messages_max=9) == (batches[2:], False)


def test_a_hole_goes_with_the_batches_behind_it() -> None:
    broker = Retaining()
    batches = []
    for _ in range(6):
        broker.now += 10_000
        batches.append(broker.publish())
    forget(broker, batches[1], batches[1], batches[3], batches[4])
    assert broker.history.holes == [hole(batches[1], batches[1]), hole(batches[3], batches[4])]
    broker.clock(131_000)
    assert broker.history.holes == [hole(batches[3], batches[4])]
    broker.clock(10**9)
    assert broker.history.holes == []


def test_of_a_time_the_hole_before_is_told() -> None:
    broker = Retaining()
    batches = []
    for _ in range(4):
        broker.now += 10_000
        batches.append(broker.publish())
    forget(broker, batches[1], batches[1], batches[2], batches[2])
    assert broker.history.place_at(41_000) == Place(batches[1], 0), "it may have been published then"
    assert broker.history.place_at(11_000) == Place(batches[0], 0)
    assert broker.history.place_at(50_000) == broker.history.end


def test_what_is_given_up_later_may_reach_around_what_was_before() -> None:
    broker = Retaining()
    batches = [broker.publish() for _ in range(9)]
    forget(broker, batches[4], batches[4])
    forget(broker, batches[3], batches[5])
    assert broker.history.holes == [hole(batches[3], batches[5])]


def test_an_image_knows_the_holes() -> None:
    broker = Retaining()
    batches = [broker.publish() for _ in range(9)]
    forget(broker, batches[4], batches[4], batches[6], batches[7])
    machine = load(broker.machine.freeze().pack(lambda: True))
    assert machine.state_hash() == broker.machine.state_hash()
    queue = machine.queue(broker.orders)
    assert queue is not None
    assert queue.history is not None
    assert queue.history.holes == [hole(batches[4], batches[4]), hole(batches[6], batches[7])]


def test_a_retained_message_that_was_settled_is_given_up_once() -> None:
    broker = Retaining()
    lost = broker.publish(3)
    broker.grant(1, lost, 0, 3)
    broker.settle(1, 1, 3)
    assert forget(broker, lost, lost).value == Forgotten(0, 1)
    assert broker.counts() == (0, 0, 0, 3)
    assert broker.history.messages == 0


# --- long queues --------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 1_000),
    count=st.integers(1, 40),
    consumed=st.integers(0, 40),
    losses=st.lists(st.tuples(st.integers(1, 45), st.integers(0, 12)), max_size=4),
    more=st.integers(0, 9),
)
def test_an_index_on_pages_gives_up_what_a_list_does(
    seed: int, count: int, consumed: int, losses: list[tuple[int, int]], more: int
) -> None:
    with pytest.MonkeyPatch.context() as small:
        make_chunks_small(small, 4)
        pager = WhimsicalPager(random.Random(seed))
        fifo, naive = RunFifo(pager.pool), list[Run]()
        for number in range(1, count + 1):
            naive.append(Run(number, number, 0, 2, 2, 20, 7))
            fifo.append(naive[-1])
        gone = min(consumed, count)
        fifo.consume(gone, 2 * gone)
        del naive[:gone]
        for first, length in losses:
            lost = LostEntries([first, first + length])
            pager.disturb()
            pager.fill(missing_runs(fifo, lost))
            assert forget_runs(fifo, lost) == [run for run in naive if run.zxid in lost]
            naive = [run for run in naive if run.zxid not in lost]
            assert fifo.runs() == naive
            assert fifo.messages == 2 * len(naive)
            for _ in range(more):
                count += 1
                naive.append(Run(100 + count, 100 + count, 0, 2, 2, 20, 7))
                fifo.append(naive[-1])
        found: list[Run] = []
        ordinal = fifo.head
        while True:
            pager.disturb()
            pager.fill(fifo.missing(ordinal, 3))
            runs = fifo.read(ordinal, 3)
            if not runs:
                break
            found += runs
            ordinal = fifo.read_ordinal
        assert found == naive, "every run is read once, whatever is missing between them"
        while naive:
            pager.fill(fifo.missing(fifo.head, 1))
            assert fifo.first() == naive.pop(0)
            fifo.consume(1, 2)
        assert (fifo.head, fifo.messages, fifo.first()) == (fifo.tail, 0, None)


def test_only_the_chunks_that_lose_something_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    make_chunks_small(monkeypatch, 4)
    pager = WhimsicalPager(random.Random(1))
    history = History({"seconds": 1}, pool=pager.pool)
    for number in range(1, 402):
        history.append([Run(number, number, 0, 1, 1, 10, 7)])
    for chunk in list(pager.pool.resident):
        chunk.page = pager.write(chunk.page_data)
        pager.pool.drop(chunk)
    missing = missing_runs(history.runs, LostEntries([200, 203]))
    assert len(missing) == 2
    pager.fill(missing)
    assert history.forget(LostEntries([200, 203])) == 4
    assert pager.pool.absent == 98
