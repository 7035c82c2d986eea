"""Runs, and the packed index of a queue against a plain list."""

from __future__ import annotations

import random

import pytest

from sluicemq.broker.queues.chunks import CHUNK_RUNS, RUN_BYTES
from sluicemq.broker.queues.fifo import RunFifo
from sluicemq.broker.queues.runs import DELIVERIES_MAX, Run, by_place, flat_runs, joined, messages_in


def batch(zxid: int, count: int = 10, batch_bytes: int = 1000) -> Run:
    return Run(zxid, zxid, 0, count, count, batch_bytes, 1_000)


def test_a_run_is_split_at_any_message() -> None:
    run = batch(5)
    for count in range(1, 10):
        front, rest = run.split(count)
        assert (front.first, front.size, rest.first, rest.size) == (0, count, count, 10 - count)
        assert joined([front, rest]) == [run]
    for count in (0, 10, 11):
        with pytest.raises(AssertionError, match="inside"):
            run.split(count)


def test_runs_that_differ_in_fate_are_not_joined() -> None:
    front, rest = batch(5).split(4)
    assert joined([front, rest.settled_back(5, 0)]) == [front, rest.settled_back(5, 0)]
    assert len(joined([front, batch(6)])) == 2
    assert len(joined([rest, front])) == 2
    assert len(joined([front, rest._replace(ready=9)])) == 2
    for field in ("key", "expires_ms", "note", "priority"):
        assert len(joined([front, rest._replace(**{field: 1})])) == 2, field


def test_the_place_of_a_run_is_decided_by_its_priority_first() -> None:
    runs = [batch(9), batch(5)._replace(priority=3), batch(2), batch(2)._replace(ready=8, priority=3)]
    assert by_place(runs) == sorted(runs, key=lambda run: run.place) == [runs[1], runs[3], runs[2], runs[0]]


def test_the_bytes_of_a_part_are_its_share_rounded_up() -> None:
    run = batch(5, count=3, batch_bytes=100)
    assert [run.bytes_of(count) for count in (1, 2, 3)] == [34, 67, 100]
    assert run.whole
    assert not run.split(1)[0].whole


def test_deliveries_and_attempts_are_counted_up_to_a_bound() -> None:
    run = batch(5)._replace(deliveries=DELIVERIES_MAX, attempts=DELIVERIES_MAX)
    again = run.settled_back(5, 1)
    assert (again.deliveries, again.attempts) == (DELIVERIES_MAX, DELIVERIES_MAX)
    fifo = RunFifo()
    fifo.append(again)
    assert fifo.first() == again


def test_a_grant_names_runs_by_address() -> None:
    assert flat_runs([batch(5), batch(6).split(4)[1]]) == [5, 0, 10, 6, 4, 6]
    assert messages_in([batch(5), batch(6).split(4)[1]]) == 16


def test_a_run_takes_64_bytes() -> None:
    assert RUN_BYTES == 64
    fifo = RunFifo()
    for zxid in range(3 * CHUNK_RUNS):
        fifo.append(batch(zxid))
    assert len(fifo.packed()) == 64 * len(fifo)


@pytest.mark.parametrize("seed", range(20))
def test_the_packed_index_is_a_list_with_a_memory_for_ordinals(seed: int) -> None:
    """A life of 400 steps across the borders of chunks."""
    rng = random.Random(seed)
    fifo = RunFifo()
    plain: list[Run] = []
    dropped = zxid = 0
    for _ in range(400):
        action = rng.random()
        if action < 0.5:
            for _ in range(rng.choice((1, 1, 5, 700))):
                zxid += 1
                run = batch(zxid, rng.randint(1, 20))
                plain.append(run)
                fifo.append(run)
        elif action < 0.8 and plain:
            count = min(rng.choice((1, 3, 800)), len(plain))
            fifo.consume(count, messages_in(plain[:count]))
            del plain[:count]
            dropped += count
        elif action < 0.95 and plain and plain[0].size > 1:
            cut = rng.randint(1, plain[0].size - 1)
            fifo.trim(cut)
            plain[0] = plain[0].split(cut)[1]
        elif action > 0.99:
            fifo.clear()
            dropped += len(plain)
            plain.clear()
        assert len(fifo) == len(plain)
        assert (fifo.head, fifo.tail) == (dropped, dropped + len(plain))
        assert fifo.messages == messages_in(plain)
        assert fifo.first() == (plain[0] if plain else None)
        start, wanted = rng.randint(0, len(plain) + 2), rng.choice((1, 5, 2000))
        assert fifo.read(dropped + start, wanted) == plain[start : start + wanted]
        skip = rng.randint(0, fifo.messages + 2)
        ordinal, inside = fifo.find(skip)
        assert messages_in(plain[: ordinal - dropped]) + inside == min(skip, fifo.messages)
        assert len(fifo.packed()) == RUN_BYTES * len(plain)


def test_a_reader_behind_the_front_begins_at_the_front() -> None:
    fifo = RunFifo()
    fifo.extend([batch(1), batch(2)])
    fifo.consume(1, 10)
    assert fifo.read(0, 5) == [batch(2)]


def test_equal_contents_have_equal_bytes_whatever_happened_before() -> None:
    aged, fresh = RunFifo(), RunFifo()
    for zxid in range(1, 2000):
        aged.append(batch(zxid))
    aged.consume(1990, 19_900)
    aged.trim(3)
    fresh.extend([batch(1991).split(3)[1], *map(batch, range(1992, 2000))])
    assert aged.packed() == fresh.packed()


def test_more_than_there_is_cannot_be_consumed() -> None:
    with pytest.raises(AssertionError, match="consumed"):
        RunFifo().consume(1, 1)
