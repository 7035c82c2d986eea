"""Many runs that leave a queue together: what is quick takes the same as looking for each of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicemq.broker.queues import queue as queues
from sluicemq.broker.queues.queue import Queue
from sluicemq.broker.queues.runs import Run
from tests.broker.paged import make_chunks_small

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
