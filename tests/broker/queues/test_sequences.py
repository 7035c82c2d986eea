"""Producers: what is sent again is stored once, and a name has one producer."""

from __future__ import annotations

import pytest

from sluicemq.broker.queues.sequences import Producer, Producers
from sluicemq.wire.errors import InvalidRequest, ProducerFenced, ProducerNotFound, SequenceGap


def producers(
    producers_max: int = 100, receipts_max: int = 4, fenced_max: int = 2, identity_producers_max: int = 50
) -> Producers:
    return Producers(
        producers_max, receipts_max, fenced_max, identity_producers_max=identity_producers_max, silence_ms=1_000
    )


def accept(them: Producers, number: int, sequence: int, zxid: int) -> None:
    verdict = them.judge(number, sequence, 0)
    assert isinstance(verdict, Producer)
    them.record(verdict, zxid)
    them.check()


def test_a_resent_batch_gets_its_old_receipt_as_long_as_the_window_reaches() -> None:
    them = producers()
    them.open(7, "/", "", "ann", 0)
    for sequence in range(1, 11):
        accept(them, 7, sequence, 100 + sequence)
        for old in range(1, sequence + 1):
            assert them.judge(7, old, 0) == (100 + old if old > sequence - 4 else 0)
    assert next(iter(them)).receipts() == [(107, 0), (108, 0), (109, 0), (110, 0)]


def test_a_batch_ahead_of_its_predecessors_is_a_gap_and_burns_nothing() -> None:
    them = producers()
    them.open(7, "/", "", "ann", 0)
    accept(them, 7, 1, 101)
    gap = them.judge(7, 3, 0)
    assert isinstance(gap, SequenceGap)
    assert gap.expected == 2
    accept(them, 7, 2, 102)


def test_a_judged_batch_that_is_refused_elsewhere_burns_nothing() -> None:
    them = producers()
    them.open(7, "/", "", "ann", 0)
    assert isinstance(them.judge(7, 1, 0), Producer)
    accept(them, 7, 1, 101)


def test_batches_are_numbered_from_one() -> None:
    them = producers()
    them.open(7, "/", "", "ann", 0)
    assert isinstance(them.judge(7, 0, 0), InvalidRequest)


def test_a_newer_producer_of_a_name_fences_the_older_and_begins_at_one() -> None:
    them = producers()
    them.open(7, "/", "web", "ann", 0)
    accept(them, 7, 1, 101)
    them.open(8, "/", "web", "ann", 0)
    assert isinstance(them.judge(7, 2, 0), ProducerFenced)
    assert isinstance(them.judge(7, 1, 0), ProducerFenced), "not even a duplicate is answered: it must stop"
    accept(them, 8, 1, 102)


def test_a_name_is_a_name_within_its_vhost() -> None:
    them = producers()
    them.open(7, "/", "web", "ann", 0)
    them.open(8, "/other", "web", "ann", 0)
    accept(them, 7, 1, 101)
    accept(them, 8, 1, 102)


def test_fenced_numbers_are_remembered_up_to_a_bound_and_while_the_name_lives() -> None:
    them = producers(fenced_max=2)
    for number in (1, 2, 3, 4):
        them.open(number, "/", "web", "ann", 0)
        them.check()
    assert isinstance(them.judge(1, 1, 0), ProducerNotFound), "the oldest of three is forgotten"
    assert isinstance(them.judge(2, 1, 0), ProducerFenced)
    assert isinstance(them.judge(3, 1, 0), ProducerFenced)
    assert them.close(4)
    them.check()
    assert isinstance(them.judge(3, 1, 0), ProducerNotFound)
    assert them.fenced() == {}


def test_closing_a_fenced_or_unknown_producer_changes_nothing() -> None:
    them = producers()
    them.open(1, "/", "web", "ann", 0)
    them.open(2, "/", "web", "ann", 0)
    assert not them.close(1)
    assert not them.close(9)
    accept(them, 2, 1, 100)
    assert isinstance(them.judge(1, 1, 0), ProducerFenced)


def test_beyond_the_limit_the_producer_that_was_silent_longest_is_forgotten() -> None:
    them = producers(producers_max=2)
    them.open(1, "/", "", "ann", 0)
    them.open(2, "/", "web", "ann", 0)
    accept(them, 1, 1, 100)
    them.open(3, "/", "", "ann", 0)
    them.check()
    assert len(them) == 2
    assert them.get(2) is None
    assert isinstance(them.judge(2, 1, 0), ProducerNotFound)
    them.open(4, "/", "web", "ann", 0)
    them.check()


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_number_of_producers_is_bounded(limit: int) -> None:
    them = producers(producers_max=limit)
    for number in range(1, 20):
        them.open(number, "/", f"name {number % 3}" if number % 2 else "", "ann", 0)
        them.check()
        assert len(them) <= limit
        assert them.get(number) is not None, "the newest is never the one that goes"
