"""Many runs that leave a queue together: what is quick takes the same as looking for each of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import queue as queues
from sluicemq.broker.queues.dispatching.dispatcher import Dispatcher, Pick
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.outcomes import Declared, Granted, Published
from sluicemq.broker.queues.queue import Queue
from sluicemq.broker.queues.runs import Run
from tests.broker.paged import make_chunks_small
from tests.broker.queues.routing.test_topics import Broker

MESSAGES = 12


def filled(batches: int, given_back: list[int]) -> Queue:
    """A queue by key: batches whose messages have keys of their own, of which some were taken and came back."""
    queue = Queue(1, "/", "orders", {"ordering": "key"}, 0)
    for zxid in range(1, batches + 1):
        runs = [
            Run(zxid, zxid, first, 1, MESSAGES, 100, 1_000, key=100 * zxid + first)
            if first != 5
            else Run(zxid, zxid, 5, 2, MESSAGES, 100, 1_000, key=7)
            for first in range(MESSAGES)
            if first != 6
        ]
        queue.arrive(runs)
        queue.make_ready(runs, zxid)
    for number in given_back:
        zxid, first = number // MESSAGES % batches + 1, number % MESSAGES
        taken = queue.take_placed([zxid, zxid, first, 1])
        queue.give_back([run for run in taken if isinstance(run, Run)])
    return queue


def taken_of(queue: Queue, wanted: list[tuple[int, int, int]]) -> list[Run | int]:
    flat = [number for zxid, first, count in wanted for number in (zxid, zxid, first, count)]
    return queue.take_placed(flat)


places = st.tuples(st.integers(1, 4), st.integers(0, MESSAGES), st.sampled_from((1, 1, 1, 2)))


@settings(max_examples=400, deadline=None)
@given(
    batches=st.integers(1, 4),
    given_back=st.lists(st.integers(0, 4 * MESSAGES), max_size=3),
    grants=st.lists(st.lists(places, min_size=1, max_size=30), min_size=1, max_size=4),
    ascending=st.booleans(),
    chunk=st.sampled_from((2, 5, 16, 1_024)),
)
def test_what_is_taken_together_is_what_is_taken_one_by_one(
    batches: int, given_back: list[int], grants: list[list[tuple[int, int, int]]], ascending: bool, chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_chunks_small(monkeypatch, chunk)
        together, one_by_one = filled(batches, given_back), filled(batches, given_back)
        for wanted in grants:
            wanted = sorted(wanted) if ascending else wanted
            taken = taken_of(together, wanted)
            with pytest.MonkeyPatch.context() as slow:
                slow.setattr(queues, "take_rows", lambda *_: [])
                assert taken == taken_of(one_by_one, wanted)
            assert together.main.packed() == one_by_one.main.packed()
            assert list(together.returned) == list(one_by_one.returned)
            assert together.ready == one_by_one.ready
            assert together.main.messages == sum(run.size for run in together.main.runs())
            assert together.oldest_published_ms == one_by_one.oldest_published_ms


def test_what_lies_in_front_leaves_without_a_hole() -> None:
    queue = filled(1, [])
    taken_of(queue, [(1, first, 1) for first in range(5)])
    assert not queue.main.has_holes
    taken_of(queue, [(1, 8, 1), (1, 9, 1)])
    assert queue.main.has_holes


def published(broker: Broker, queue: Queue, dispatcher: Dispatcher) -> int:
    outcome = broker.try_publish("", "", "", topic=queue.id)
    dispatcher.on_effects(outcome.effects)
    return broker.get(Published, outcome).zxid


def placed(pick: Pick, now: int) -> e.GrantPlaced:
    places = [number for run in pick.runs for number in (run.ready, run.zxid, run.first, run.size)]
    return e.GrantPlaced(now, pick.queue_id, pick.session, pick.consumer, pick.first_tag, places)


@pytest.mark.parametrize("overflow", ["drop_head", "dead_letter"])
def test_a_batch_whose_front_was_dropped_on_its_way_to_a_consumer_still_goes_before_the_next(overflow: str) -> None:
    broker = Broker()
    declared = broker.declare("parcels", max_length=4, overflow=overflow)
    queue = broker.machine.existing_queue(broker.get(Declared, declared).queue_id)
    dispatcher = Dispatcher(broker.machine)
    dispatcher.add_consumer(broker.session, 1, queue.id, 100, 10_000)

    first = published(broker, queue, dispatcher)
    of_first = dispatcher.next_pick()
    second = published(broker, queue, dispatcher)  # of six messages two are too many
    of_second = dispatcher.next_pick()
    assert of_first is not None
    assert of_second is not None
    voids = [broker.get(Granted, broker.apply(placed(pick, broker.now))).void for pick in (of_first, of_second)]

    assert voids == [[1, 2], []], "what is there is leased"
    table = queue.leases[broker.session, 1]
    leased = [(tag, run.zxid, run.first, run.size) for tag, run, _ in table.pieces()]
    assert leased == [(3, first, 2, 1), (4, second, 0, 3)]
    assert queue.ready == 0
    assert load(broker.machine.freeze().pack(lambda: True)).state_hash() == broker.machine.state_hash()


def test_all_that_is_left_of_a_run_is_taken_wherever_it_lies() -> None:
    queue = Queue(1, "/", "orders", {}, 0)
    for zxid in (1, 2):
        run = Run(zxid, zxid, 0, MESSAGES, MESSAGES, 100, 1_000)
        queue.arrive([run])
        queue.make_ready([run], zxid)
    gone = [(2, 0, 1), (2, 3, 2), (2, 7, 1), (1, 0, 4)]
    taken_of(queue, gone)

    found = taken_of(queue, [(2, 0, MESSAGES), (1, 2, 5)])
    assert [run[2:4] if isinstance(run, Run) else run for run in found] == [
        *(1, (1, 2), 2, (5, 2), 1, (8, 4)),
        *(2, (4, 3)),
    ]
    assert [(run.zxid, run.first, run.size) for run in queue.peek(0, 100)] == [(1, 7, 5)]
    assert taken_of(queue, [(2, 3, 4)]) == [4], "nothing is left"
