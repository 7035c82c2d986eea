"""Entries wait until they are committed; what is not in memory is read back, and nothing is passed over."""

from __future__ import annotations

import pytest

from sluicemq.broker.pipeline.ensemble import backlog as backlog_module
from sluicemq.broker.pipeline.ensemble.backlog import Backlog
from sluicemq.broker.pipeline.ensemble.records import Body
from sluicemq.broker.queues.entries import Clock
from sluicemq.broker.replication.history import Entry
from sluicemq.storage.record import Record

FIRST = 1 << 32


def record(counter: int) -> Record:
    return Record(FIRST + counter, Clock.KIND, Clock.VERSION, 0, Clock(counter, 1).header(), b"")


def entries(first: int, last: int, told: list[int] | None = None) -> list[Entry]:
    found = []
    for counter in range(first, last + 1):
        on_applied = None if told is None else lambda _outcome, counter=counter: told.append(counter)
        body = Body(record(counter), on_applied=on_applied)
        found.append(Entry(FIRST + counter, FIRST + counter - 1, b"", 0, body))
    return found


def taken(backlog: Backlog) -> list[int]:
    return [proposed.zxid - FIRST for proposed in iter(backlog.next_committed, None)]


def test_only_what_is_committed_is_taken_and_in_order() -> None:
    backlog = Backlog(FIRST)
    backlog.append(entries(1, 5), FIRST)
    assert taken(backlog) == []
    backlog.commit(FIRST + 3)
    first = backlog.next_committed()
    assert first is not None
    backlog.put_back(first)
    assert taken(backlog) == [1, 2, 3]
    backlog.truncate(FIRST + 4)
    backlog.append(entries(5, 6), FIRST)
    backlog.commit(FIRST + 6)
    assert taken(backlog) == [4, 5, 6]
    assert backlog.idle


def test_of_what_was_applied_the_record_is_kept_and_no_more() -> None:
    backlog = Backlog(FIRST)
    told: list[int] = []
    coming = entries(1, 3, told)
    backlog.append(coming, FIRST)
    backlog.commit(FIRST + 3)
    for count in range(1, 4):
        proposed = backlog.next_committed()
        assert proposed is not None
        backlog.put_back(proposed)
        again = backlog.next_committed()
        assert again == proposed, "put back, it has lost nothing"
        assert again.on_applied is not None
        again.on_applied(None)
        kept = [one.body for one in coming if isinstance(one.body, Body) and one.body.on_applied is not None]
        assert len(kept) == len(coming) - count + 1, "the last one may be put back"
    assert told == [1, 2, 3]
    assert [one.body.entry for one in coming[:2] if isinstance(one.body, Body)] == [None, None]


def test_what_is_not_in_memory_is_asked_for_and_goes_first() -> None:
    backlog = Backlog(FIRST)
    backlog.append(entries(7, 9), FIRST)
    backlog.commit(FIRST + 8)
    assert taken(backlog) == [], "six entries before them are missing"
    assert backlog.missing() == (FIRST, FIRST + 6)
    backlog.fill(FIRST, [record(counter) for counter in range(1, 5)])
    assert taken(backlog) == [1, 2, 3, 4]
    assert backlog.missing() == (FIRST + 4, FIRST + 6)
    backlog.fill(FIRST, [record(counter) for counter in range(1, 9)])
    assert taken(backlog) == [], "what was asked for before is of no use"
    backlog.fill(FIRST + 4, [record(counter) for counter in range(5, 9)])
    assert taken(backlog) == [5, 6, 7, 8]
    assert backlog.missing() is None


def test_memory_is_bounded_but_who_waits_is_not_forgotten() -> None:
    told: list[int] = []
    bound, backlog_module.BACKLOG_BYTES_MAX = backlog_module.BACKLOG_BYTES_MAX, 500
    try:
        backlog = Backlog(FIRST)
        backlog.append(entries(1, 50), FIRST + 100)
        assert len(backlog) < 10
        backlog.commit(FIRST + 50)
        assert backlog.missing() is not None
        led = Backlog(FIRST)
        led.append(entries(1, 50, told), FIRST + 100)
        assert len(led) == 50
    finally:
        backlog_module.BACKLOG_BYTES_MAX = bound


def test_nobody_hears_of_what_was_proposed_in_an_earlier_leadership() -> None:
    told: list[int] = []
    backlog = Backlog(FIRST)
    backlog.append(entries(1, 2, told), FIRST)
    backlog.forget_waiters()
    backlog.append(entries(3, 3, told), FIRST)
    backlog.commit(FIRST + 3)
    for proposed in iter(backlog.next_committed, None):
        if proposed.on_applied is not None:
            proposed.on_applied(None)
    assert told == [3]


def test_what_was_read_back_stays_however_much_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "BACKLOG_BYTES_MAX", 1_000)
    backlog = Backlog(FIRST)
    backlog.append(entries(1, 100), FIRST + 100)
    backlog.commit(FIRST + 100)
    missing = backlog.missing()
    assert missing is not None, "the oldest are not in memory any more"
    backlog.fill(FIRST, [record(counter) for counter in range(1, 6)])
    backlog.append(entries(101, 110), FIRST + 110)
    assert taken(backlog) == [1, 2, 3, 4, 5]
    backlog.append(entries(111, 120), FIRST + 120)
    assert len(backlog) * 64 <= 1_000, "then room is made again"


def test_a_snapshot_takes_the_place_of_entries_of_another_history_too() -> None:
    backlog = Backlog(FIRST)
    backlog.append(entries(4, 9), FIRST)  # behind a leader that nobody followed
    backlog.install(FIRST + 6)
    backlog.append(entries(7, 8), FIRST + 6)
    backlog.restart(FIRST + 6)  # the snapshot is opened
    backlog.commit(FIRST + 8)
    assert backlog.missing() is None
    assert taken(backlog) == [7, 8]
    backlog.install(FIRST + 20)
    assert len(backlog) == 0
