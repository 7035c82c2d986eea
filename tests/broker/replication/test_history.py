"""What the core remembers of a log, against the log itself; and limits that could not work."""

from __future__ import annotations

import itertools

import pytest

from sluicemq.broker.replication.history import Entry, History, Position, follows, show_zxid, zxid_of
from sluicemq.broker.replication.options import Options
from tests.broker.replication.network import CHAIN_START, MemoryLog

ZERO = Position(0, CHAIN_START)
WRITTEN = [zxid_of(1, 0), zxid_of(1, 1), zxid_of(3, 0), zxid_of(4, 0), zxid_of(4, 1), zxid_of(4, 2)]


def log_of(zxids: list[int]) -> MemoryLog:
    log = MemoryLog()
    for zxid in zxids:
        log.append([log.seal(zxid, log.last, "body")])
    return log


def followed(log: MemoryLog) -> History:
    history = History(ZERO)
    for entry in log.entries:
        history.append(entry)
    return history


def same(history: History, log: MemoryLog) -> bool:
    fresh = History(log.start, log.ends())
    return (history.start, history.ends, history.last) == (fresh.start, fresh.ends, log.last)


def test_following_a_log_entry_by_entry_is_the_same_as_reading_it() -> None:
    for length in range(len(WRITTEN) + 1):
        log = log_of(WRITTEN[:length])
        assert same(followed(log), log)


def test_cutting_off_and_beginning_later_at_every_place() -> None:
    for length, start in itertools.product(range(len(WRITTEN) + 1), repeat=2):
        log = log_of(WRITTEN)
        history = followed(log)
        position = log.entries[length - 1].position if length else ZERO
        history.truncate(position)
        log.truncate(position)
        assert same(history, log)
        if 0 < start <= length:
            log.begin_at(WRITTEN[start - 1])
            history.begin_at(log.start)
            assert same(history, log)
            history.begin_at(ZERO)
            assert same(history, log), "a beginning never goes back"


def test_a_snapshot_replaces_everything() -> None:
    history = followed(log_of(WRITTEN))
    position = Position(zxid_of(9, 3), b"snapshot")
    history.restart(position)
    assert (history.start, history.ends) == (position, (position,))


@pytest.mark.parametrize(
    ("previous", "zxid", "may"),
    [
        (0, zxid_of(1, 0), True),
        (0, zxid_of(1, 1), False),
        (zxid_of(1, 0), zxid_of(1, 1), True),
        (zxid_of(1, 0), zxid_of(1, 2), False),
        (zxid_of(1, 1), zxid_of(1, 1), False),
        (zxid_of(1, 7), zxid_of(2, 0), True),
        (zxid_of(1, 7), zxid_of(5, 0), True),
        (zxid_of(1, 7), zxid_of(2, 1), False),
        (zxid_of(2, 0), zxid_of(1, 1), False),
        (zxid_of(2, 0), zxid_of(1, 0), False),
    ],
)
def test_what_may_follow_what(previous: int, zxid: int, may: bool) -> None:
    assert follows(previous, zxid) == may


def test_a_gap_is_refused() -> None:
    history = followed(log_of(WRITTEN[:2]))
    with pytest.raises(AssertionError, match=r"1\.3 does not follow"):
        history.append(Entry(zxid_of(1, 3), zxid_of(1, 2), b"", 1, None))


def test_people_read_epoch_and_counter() -> None:
    assert show_zxid(zxid_of(3, 17)) == "3.17"
    assert str(Position(zxid_of(3, 17), bytes(8))) == "3.17/00000000"


@pytest.mark.parametrize(
    "wrong",
    [
        {"ping_seconds": 2.0},
        {"leader_seconds": 1.5},
        {"ping_seconds": 0.0},
        {"tell_commit_seconds": 0.2},
        {"notify_seconds_min": 3.0},
        {"message_bytes_max": 16 * 1024 * 1024},
        {"uncommitted_bytes_max": 1},
        {"counter_max": 0},
        {"counter_max": 0xFFFF_FFFF},
        {"discovery_seconds": 0.0},
        {"reads_max": 0},
    ],
)
def test_limits_that_could_not_work_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"must|at least"):
        Options(**wrong)
