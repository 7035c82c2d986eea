"""How full a disk may be before publishers are slowed and refused, what is kept in reserve, and what is said of it."""

from __future__ import annotations

import errno
import logging
from types import SimpleNamespace

import pytest

from sluicemq.broker.pipeline.keeping import disk_space
from sluicemq.broker.pipeline.keeping.disk_space import DiskSpace, Level, in_units, mark_of
from sluicemq.storage import LogOptions, SegmentLog, SpareNotPrepared
from sluicemq.wire.errors import ResourceLow
from tests.disk import SimulatedDisk

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
SEGMENT = 64 * KIB
MARK = 4 * SEGMENT
FLOOR = MARK // 2


class Room:
    """A log on a simulated disk, its judge, and a hand on how much is free."""

    def __init__(
        self, *, spares_max: int = 2, free_bytes_min: int = MARK, disk_bytes: int | None = None, spares: int = 2
    ) -> None:
        self.disk = SimulatedDisk(1)
        options = LogOptions(segment_bytes=SEGMENT, initial_bytes=8 * KIB, spares_max=spares_max)
        self.log = SegmentLog.open(self.disk, options=options)
        for _ in range(min(spares, spares_max)):
            assert self.log.prepare_spare()
        self.space = DiskSpace(self.log, free_bytes_min=free_bytes_min, disk_bytes=disk_bytes)

    def free(self, count: int) -> Level:
        """Let so many bytes be free, and look."""
        self.disk.capacity_bytes = self.disk.used_bytes() + count
        self.space.look()
        return self.space.view.level

    def use_a_spare(self) -> None:
        """The log goes on in the next prepared segment."""
        spare = self.log.spares.take()
        assert spare is not None
        spare.file.close()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="sluicemq.disk")
    return caplog


# --- the mark ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "segment", "disk", "mark"),
    [
        (0, 64 * MIB, None, 256 * MIB),
        (0, 64 * MIB, 1000 * GIB, 256 * MIB),
        (0, 512 * MIB, 1000 * GIB, 1024 * MIB),
        (0, 64 * MIB, 1000 * MIB, 100 * MIB),
        (5, 64 * MIB, 1000 * MIB, 5),
        (GIB, 64 * MIB, 100 * MIB, GIB),
    ],
    ids=["default", "large disk", "large segments", "small disk", "as set", "as set, however absurd"],
)
def test_the_mark_is_what_was_set_or_what_suits_segments_and_disk(wanted, segment, disk, mark):
    assert mark_of(wanted, segment, disk) == mark


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (1536, "1.5 KiB"), (256 * MIB, "256 MiB"), (GIB, "1 GiB")],
)
def test_numbers_of_bytes_read_well(count, text):
    assert in_units(count) == text


# --- slowed, refused, resumed ----------------------------------------------------------------------------------------


def test_publishers_are_slowed_more_and_more_before_they_are_refused():
    room = Room()
    pauses = []
    for free in (3 * MARK, 2 * MARK, 2 * MARK - 1, MARK + MARK // 2, MARK, MARK - 1):
        room.free(free)
        pauses.append((room.space.view.level, room.space.pause_seconds))

    levels = [level for level, _pause in pauses]
    assert levels == [Level.OK, Level.OK, Level.SLOW, Level.SLOW, Level.SLOW, Level.LOW]
    assert [pause for _level, pause in pauses[2:5]] == sorted(pause for _level, pause in pauses[2:5])
    assert pauses[4][1] == disk_space.PAUSE_SECONDS_MAX
    assert [pause for level, pause in pauses if level is not Level.SLOW] == [0.0, 0.0, 0.0]
    assert room.space.refusing


def test_a_refusal_names_what_is_free_and_what_must_be():
    room = Room()
    room.free(MARK)
    room.space.refuse_publish()
    room.free(10 * KIB)
    with pytest.raises(ResourceLow, match=r"10 KiB free, .* needed \(disk_free_bytes_min is 256 KiB\)") as refused:
        room.space.refuse_publish()

    error = refused.value
    assert error.retryable
    assert error.retry_after == disk_space.RETRY_SECONDS
    assert (error.free_bytes, error.disk_free_bytes_min) == (10 * KIB, MARK)
    assert error.needed_bytes > MARK
    room.space.refuse_growth("making a queue")  # not yet: a prepared segment is there


def test_publishing_goes_on_when_a_little_more_is_free_than_was_missing(warnings):
    room = Room()
    assert room.free(MARK - 1) is Level.LOW
    assert room.free(MARK) is Level.LOW, "else it would end again at once"
    with pytest.raises(ResourceLow) as refused:
        room.space.refuse_publish()
    assert room.free(refused.value.needed_bytes - 1) is Level.LOW
    assert room.free(refused.value.needed_bytes) is Level.SLOW
    room.space.refuse_publish()


def test_each_change_is_said_once(warnings):
    room = Room()
    for _ in range(3):
        for _ in range(10):
            room.free(0)
        for _ in range(10):
            room.free(3 * MARK)

    said = [record.getMessage() for record in warnings.records]
    assert len(said) == 6
    assert all("publishing is refused: 0 bytes free" in text for text in said[::2])
    assert all("publishing goes on" in text for text in said[1::2])
    assert room.space.low_total == 3


def test_a_system_that_does_not_say_what_is_free_changes_nothing(monkeypatch, warnings):
    room = Room()

    def fail() -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as blind:
        blind.setattr(room.disk, "free_bytes", fail)
        room.space.look()
        assert not room.space.refusing, "the first look may be blind as well"
        room.space.look()
    assert room.free(0) is Level.LOW
    with monkeypatch.context() as blind:
        blind.setattr(room.disk, "free_bytes", fail)
        room.space.look()
    assert room.space.refusing
    assert warnings.text.count("does not say") == 2


# --- the reserve -------------------------------------------------------------------------------------------------


def test_below_the_mark_segments_are_prepared_only_until_the_reserve_is_whole():
    room = Room(spares=0)
    room.free(MARK - 1)
    assert room.space.may_prepare()
    assert room.log.prepare_spare(room.space.floor_bytes)
    room.space.look()
    assert not room.space.may_prepare(), "what is free is for snapshots and pages"
    room.free(3 * MARK)
    assert room.space.may_prepare()
    assert room.log.prepare_spare(room.space.floor_bytes)
    room.space.look()
    assert not room.space.may_prepare(), "no more are wanted"


def test_the_floor_is_not_touched_even_by_the_reserve():
    room = Room(spares=0)
    room.free(SEGMENT + FLOOR - 1)
    assert not room.space.may_prepare()
    room.free(SEGMENT + FLOOR)
    assert room.space.may_prepare()
    room.disk.capacity_bytes = room.disk.used_bytes() + SEGMENT + FLOOR - 4 * KIB  # a stranger was faster
    with pytest.raises(SpareNotPrepared):
        room.log.prepare_spare(room.space.floor_bytes)
    assert room.log.free_bytes >= FLOOR, "what was begun is gone again"


def test_when_the_last_prepared_segment_is_in_use_queues_and_producers_are_refused_too(warnings):
    room = Room()
    assert room.free(0) is Level.LOW
    room.use_a_spare()
    assert room.free(0) is Level.LOW
    room.space.refuse_growth("opening a producer")
    room.use_a_spare()
    assert room.free(0) is Level.RESERVE
    assert room.free(0) is Level.RESERVE
    with pytest.raises(ResourceLow, match="opening a producer is refused"):
        room.space.refuse_growth("opening a producer")
    assert warnings.text.count("new queues and producers") == 1
    assert room.free(3 * MARK) is Level.OK
    room.space.refuse_growth("opening a producer")


def test_publishing_leaves_a_whole_prepared_segment_when_the_next_finds_no_room():
    room = Room(free_bytes_min=SEGMENT // 2)
    enough = SEGMENT + SEGMENT // 4
    assert room.free(enough - 1) is not Level.LOW, "two are ready"
    room.use_a_spare()
    assert room.free(enough - 1) is Level.LOW
    assert room.log.spares.ready == 1
    assert room.space.view.needed_bytes == enough
    assert room.free(enough) is not Level.LOW


def test_a_segment_that_is_being_prepared_is_not_asked_for_again():
    room = Room(free_bytes_min=SEGMENT // 2, spares=1)
    enough = SEGMENT + SEGMENT // 4
    assert room.free(enough) is not Level.LOW
    room.log.spares.unfinished_bytes = SEGMENT // 2
    assert room.free(enough - SEGMENT // 2) is not Level.LOW
    room.log.spares.unfinished_bytes = 0
    assert room.free(enough - SEGMENT // 2) is Level.LOW


def test_a_quota_that_nobody_sees_refuses_once_only_the_reserve_is_left(monkeypatch):
    room = Room(spares=1)
    now = [100.0]
    monkeypatch.setattr(disk_space, "time", SimpleNamespace(monotonic=lambda: now[0]))
    room.free(10 * MARK)
    assert room.space.may_prepare()
    room.disk.fail_after(1, errno.EDQUOT, "write", "zeroing-")
    with pytest.raises(SpareNotPrepared) as failed:
        room.log.prepare_spare()
    room.space.spare_failed(failed.value, seconds=3.0)
    assert room.free(10 * MARK) is Level.LOW
    with pytest.raises(ResourceLow, match="EDQUOT"):
        room.space.refuse_publish()
    now[0] += 5.9
    assert not room.space.may_prepare(), "the disk must not be full of attempts"
    now[0] += 0.2
    assert room.space.may_prepare()
    assert room.log.prepare_spare()
    room.space.spare_made()
    assert room.free(10 * MARK) is Level.OK


def test_a_disk_that_holds_few_segments_is_used_down_to_the_mark(warnings):
    room = Room(free_bytes_min=10 * KIB, spares=0, disk_bytes=4 * SEGMENT - 1)
    assert "no segment of 64 KiB is kept in reserve" in warnings.text
    assert room.free(20 * KIB) is Level.OK
    assert not room.space.may_prepare()
    assert room.free(10 * KIB - 1) is Level.LOW


@pytest.mark.parametrize("spares_max", [0, 1])
def test_with_few_spares_the_mark_is_the_reserve(spares_max):
    room = Room(spares_max=spares_max, disk_bytes=GIB)
    assert room.free(2 * MARK) is Level.OK
    assert room.free(MARK - 1) is Level.LOW
    assert room.free(0) is (Level.LOW if spares_max else Level.RESERVE)
