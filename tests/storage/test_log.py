"""The log as its users see it: order, groups, segments, cuts, refusals."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sluicemq.storage import (
    DirectoryLocked,
    EntryTooLarge,
    EpochExhausted,
    InvalidOption,
    LogClosed,
    LogCorrupt,
    LogOptions,
    LogReadFailed,
    LogWriteFailed,
    PromiseRegression,
    Record,
    SegmentLog,
    SpareNotPrepared,
    ZxidGap,
    ZxidNotFound,
)
from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.storage.reading import CURSORS_MAX
from sluicemq.storage.record import record_size
from sluicemq.storage.segment import segment_name
from sluicemq.storage.superblock import SUPERBLOCK_NAME
from tests.disk import SimulatedDisk
from tests.storage.stories import SMALL, all_entries, entries, entry, open_log, zxid


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk(1)


@pytest.fixture
def log(disk: SimulatedDisk) -> SegmentLog:
    return open_log(disk)


# --- The plain list model -----------------------------------------------------------------------------------


class LogAgainstList(RuleBasedStateMachine):
    """Whatever is done to it, the log holds what a list would hold; restarts and power cuts included."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = SimulatedDisk(0)
        self.log = open_log(self.disk)
        self.model: list[Record] = []
        self.start = 0
        self.synced = 0

    @rule(sizes=st.lists(st.integers(0, 4000), min_size=1, max_size=6), new_epoch=st.booleans(), seal=st.booleans())
    def append(self, sizes, new_epoch, seal):
        group, last = [], self.log.last_zxid
        for position, size in enumerate(sizes):
            first = not last or (new_epoch and not position)
            last = ((last >> 32) + 1) << 32 if first else last + 1
            group.append(entry(last, bytes([len(self.model) % 256]) * size))
        self.log.append(group)
        self.model += group
        if seal:
            self.sync()

    @rule()
    def sync(self):
        assert self.log.sync() == self.log.last_zxid
        self.synced = len(self.model)

    @rule()
    def mark_idle(self):
        self.log.mark_idle()
        self.synced = len(self.model)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def truncate(self, data):
        kept = data.draw(st.integers(0, len(self.model)))
        self.log.truncate_after(self.model[kept - 1].zxid if kept else self.start)
        del self.model[kept:]
        self.synced = kept

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def discard(self, data):
        self.log.begin_at(data.draw(st.sampled_from(self.model)).zxid)
        for file in self.log.live_files():
            self.log.reclaim(file.first_sequence, file.last_sequence)
        gone = [record for record in self.model if record.zxid <= self.log.start_zxid]
        del self.model[: len(gone)]
        self.start = self.log.start_zxid
        self.synced = max(0, self.synced - len(gone))

    @rule()
    def prepare_spare(self):
        self.log.prepare_spare()

    @rule(clean=st.booleans())
    def restart(self, clean):
        if clean:
            self.log.close()
        self.disk = self.disk.restart()
        self.log = open_log(self.disk)
        self.synced = len(self.model)

    @rule()
    def lose_power(self):
        self.disk = self.disk.crash()
        self.log = open_log(self.disk)
        survived = sum(record.zxid <= self.log.last_zxid for record in self.model)
        assert survived >= self.synced
        del self.model[survived:]
        self.synced = survived

    @precondition(lambda self: self.model)
    @rule(data=st.data(), bytes_max=st.integers(1, 20_000))
    def read_a_part(self, data, bytes_max):
        position = data.draw(st.integers(0, len(self.model) - 1))
        assert self.log.read(self.model[position].zxid) == self.model[position]
        after = self.log.read_after(self.model[position].zxid, bytes_max)
        assert after == self.model[position + 1 : position + 1 + len(after)]
        sizes = [record_size(len(record.header) + len(record.payload)) for record in after]
        assert sum(sizes[:-1]) < bytes_max
        if position + 1 + len(after) < len(self.model):
            assert sum(sizes) >= bytes_max

    @invariant()
    def holds_what_the_list_holds(self):
        assert all_entries(self.log) == self.model
        assert self.log.start_zxid == self.start
        assert self.log.first_zxid == (self.model[0].zxid if self.model else 0)
        assert self.log.last_zxid == (self.model[-1].zxid if self.model else self.start)


TestLogAgainstList = LogAgainstList.TestCase
TestLogAgainstList.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# --- Order --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "following"),
    [
        (zxid(1, 5), zxid(1, 7)),  # a gap
        (zxid(1, 5), zxid(1, 5)),  # the same again
        (zxid(1, 5), zxid(1, 4)),  # backwards
        (zxid(1, 5), zxid(2, 1)),  # an epoch starts with counter 0
        (zxid(2, 0), zxid(1, 1)),  # an older epoch
        (zxid(2, 5), zxid(2, 0)),  # an epoch starts once
        (0, zxid(1, 1)),  # also the first
        (0, 0),
    ],
)
def test_an_entry_that_does_not_follow_is_refused(log, disk, last, following):
    if last:
        epoch_start = zxid(last >> 32, 0)
        log.append(entries(epoch_start, last - epoch_start + 1, 10))
    before = disk.operations

    with pytest.raises(ZxidGap) as refused:
        log.append([entry(following)])

    assert (refused.value.previous_zxid, refused.value.zxid) == (last, following)
    assert disk.operations == before
    assert log.last_zxid == last


def test_a_group_with_a_gap_is_refused_as_a_whole(log, disk):
    before = disk.operations

    with pytest.raises(ZxidGap):
        log.append([*entries(zxid(1, 0), 30), *entries(zxid(1, 31), 30)])

    assert disk.operations == before
    assert all_entries(log) == []


@pytest.mark.parametrize(
    ("last", "following"),
    [(0, zxid(1, 0)), (0, 1), (zxid(1, 0), zxid(1, 1)), (zxid(1, 0), zxid(2, 0)), (zxid(1, 0), zxid(9, 0))],
)
def test_what_follows(log, last, following):
    if last:
        log.append([entry(last)])
    log.append([entry(following)])

    assert log.last_zxid == following


def test_an_epoch_never_runs_over_into_the_next(log, disk):
    """The number behind counter 0xFFFF_FFFF would look like a new epoch, whatever the entry is."""
    log.append([entry(zxid(1, 0))])
    log._last_zxid = zxid(1, 0xFFFF_FFFD)  # four billion entries later
    before = disk.operations

    with pytest.raises(EpochExhausted, match=r"1\.4294967295 .* no number left") as refused:
        log.append([entry(zxid(1, 0xFFFF_FFFE)), entry(zxid(1, 0xFFFF_FFFF)), entry(zxid(2, 0))])

    assert (refused.value.previous_zxid, refused.value.zxid) == (zxid(1, 0xFFFF_FFFE), zxid(1, 0xFFFF_FFFF))
    assert disk.operations == before
    log.append([entry(zxid(1, 0xFFFF_FFFE)), entry(zxid(2, 0))])
    assert log.last_zxid == zxid(2, 0)


def test_the_same_history_has_the_same_chain_on_two_brokers():
    """Written in other groups, with other segments, synced at other times."""
    one = open_log(SimulatedDisk(1))
    other = open_log(SimulatedDisk(2), replace(SMALL, segment_bytes=64 * 1024, initial_bytes=64 * 1024))
    written = entries(zxid(1, 0), 60)
    one.append(written)
    for record in written:
        other.append([record])
        other.sync()
        other.mark_idle()

    assert one.last_chain == other.last_chain
    assert one.chain_at(zxid(1, 17)) == other.chain_at(zxid(1, 17))
    assert one.chain_at(0) == other.chain_at(0)
    assert one.chain_at(zxid(1, 17)) != one.chain_at(zxid(1, 18))


def test_an_empty_group_is_nothing(log, disk):
    before = disk.operations
    log.append([])

    assert log.sync() == 0
    assert disk.operations == before


def test_payloads_may_be_any_bytes(log):
    for counter, kind in enumerate((bytes, bytearray, memoryview)):
        log.append([Record(zxid(1, counter), 1, 0, 0, kind(b"head"), kind(b"payload"))])

    assert [(record.header, record.payload) for record in all_entries(log)] == [(b"head", b"payload")] * 3


def test_the_kind_of_marks_is_reserved(log):
    with pytest.raises(ValueError, match="kind 0"):
        log.append([Record(zxid(1, 0), 0, 0, 0, b"", b"")])


def test_an_entry_may_fill_half_a_segment_and_no_more(log):
    largest = log.entry_bytes_max - record_size(0)
    log.append([entry(zxid(1, 0), b"x" * largest, b"")])

    with pytest.raises(EntryTooLarge) as refused:
        log.append([entry(zxid(1, 1), b"x" * (largest + 1), b"")])

    assert refused.value.entry_bytes_max == SMALL.segment_bytes // 2
    log.append([entry(zxid(1, 1), b"x" * largest, b""), entry(zxid(1, 2), b"x" * largest, b"")])
    assert [len(record.payload) for record in all_entries(log)] == [largest] * 3


# --- Groups, syncs and marks --------------------------------------------------------------------------------


def test_a_group_is_one_write_and_one_sync():
    seen: list[str] = []
    disk = SimulatedDisk(observer=lambda kind, _name: seen.append(kind))
    log = open_log(disk)
    seen.clear()

    log.append(entries(zxid(1, 0), 7, 100))
    assert log.synced_zxid == 0
    assert log.sync() == zxid(1, 6)
    assert log.sync() == zxid(1, 6)

    assert seen == ["write", "sync"]


def test_a_mark_is_written_only_if_the_log_does_not_prove_the_same_already(log, disk):
    log.append([entry(zxid(1, 0))])
    log.mark_idle()
    written = disk.operations

    log.mark_idle()
    assert disk.operations == written
    log.append([entry(zxid(1, 1))])
    log.mark_idle()
    assert disk.operations > written
    assert all_entries(log) == [entry(zxid(1, 0)), entry(zxid(1, 1))]


def test_an_idle_empty_log_writes_nothing(log, disk):
    before = disk.operations

    log.mark_idle()

    assert disk.operations == before


def test_a_mark_that_does_not_fit_becomes_a_new_segment(disk):
    options = replace(SMALL, initial_bytes=SMALL.segment_bytes)
    log = open_log(disk, options)
    room = SMALL.segment_bytes - 4096
    log.append([entry(zxid(1, 0), b"x" * (room // 2 - 56), b""), entry(zxid(1, 1), b"x" * (room // 2 - 56), b"")])
    assert log.statistics().log_bytes == SMALL.segment_bytes

    log.mark_idle()

    assert log.statistics().segments == 2
    assert open_log(disk.crash(), options).last_zxid == zxid(1, 1)


# --- Segments and spares ------------------------------------------------------------------------------------


def test_without_a_spare_the_log_grows_and_never_waits(log):
    log.append(entries(zxid(1, 0), 25))

    statistics = log.statistics()
    assert statistics.growing
    assert statistics.spares == 0
    assert statistics.rolls == statistics.segments - 1


def test_a_growing_segment_is_left_for_the_first_spare(log):
    log.append(entries(zxid(1, 0), 1))
    assert log.statistics().growing
    assert log.needs_spare
    assert log.prepare_spare()

    log.append(entries(zxid(1, 1), 3))
    assert log.statistics().segments == 1  # within what was zeroed at the start
    log.append(entries(zxid(1, 4), 10))

    statistics = log.statistics()
    assert statistics.segments == 2
    assert not statistics.growing
    assert statistics.spares == 0


def test_spares_are_kept_up_to_their_number_and_survive_a_restart(log, disk):
    assert [log.prepare_spare() for _ in range(3)] == [True, True, False]
    assert not log.needs_spare
    log.close()

    log = open_log(disk)
    assert log.statistics().spares == 2
    assert open_log(disk.restart(), replace(SMALL, spares_max=1)).statistics().spares == 1


def test_a_spare_of_another_size_is_not_used(log, disk):
    log.prepare_spare()
    log.close()

    log = open_log(disk, replace(SMALL, segment_bytes=32 * 1024))

    assert log.statistics().spares == 0
    assert not [name for name in disk.names() if name.startswith("spare-")]


def test_a_half_made_spare_is_removed_at_the_next_start(log, disk):
    disk.cut_power_after(2)
    with pytest.raises(Exception, match="power"):
        log.prepare_spare()

    disk = disk.crash()
    open_log(disk)

    assert not [name for name in disk.names() if name.startswith("zeroing-")]


def test_a_reclaimed_segment_becomes_a_spare_without_being_zeroed(log, disk):
    log.prepare_spare()
    log.append(entries(zxid(1, 0), 60))
    log.sync()
    before = log.statistics()
    assert log.begin_at(zxid(1, 59)) == before.segments - 1
    assert log.reclaim(1, before.segments - 1) == before.segments - 1

    statistics = log.statistics()
    assert statistics.segments == 1
    assert statistics.recycled == 2  # the first was small; a growing file that reached its full size serves as well
    assert log.start_zxid > 0
    spare = next(name for name in disk.names() if name.startswith("spare-"))
    assert b"%d " % zxid(1, 20) in disk.content_of(spare)
    # Its old entries mean nothing in the new generation.
    rest = entries(zxid(1, 60), 30)
    log.append(rest)
    log.sync()
    log = open_log(disk.crash())
    assert log.recovery.cut is None
    assert all_entries(log)[-30:] == rest


def test_the_log_begins_later_and_the_last_segment_stays(log):
    log.append(entries(zxid(1, 0), 60))

    log.begin_at(zxid(1, 30))

    assert log.start_zxid <= zxid(1, 30)
    assert log.read(zxid(1, 31)) == entries(zxid(1, 31), 1)[0]
    with pytest.raises(ZxidNotFound) as refused:
        log.read_after(0)
    assert refused.value.start_zxid == log.start_zxid


def test_the_index_stays_small_with_small_entries():
    log = open_log(SimulatedDisk(), LogOptions(segment_bytes=1 << 20, index_stride_bytes=4096))

    log.append(entries(zxid(1, 0), 5000, 40))

    statistics = log.statistics()
    assert statistics.index_bytes <= 16 * (statistics.log_bytes // 4096 + 1)
    assert log.read(zxid(1, 2345)) == entries(zxid(1, 2345), 1, 40)[0]


# --- Reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [1, zxid(0, 9), zxid(1, 30), zxid(2, 5), zxid(3, 0)])
def test_what_is_not_in_the_log_is_refused_not_guessed(log, missing):
    log.append([*entries(zxid(1, 0), 30), *entries(zxid(2, 0), 5)])

    with pytest.raises(ZxidNotFound):
        log.read(missing)
    with pytest.raises(ZxidNotFound):
        log.read_after(missing)
    with pytest.raises(ZxidNotFound):
        log.truncate_after(missing)

    assert log.last_zxid == zxid(2, 4)


def test_reading_after_the_last_entry_of_an_epoch_goes_on_with_the_next_epoch(log):
    log.append([*entries(zxid(1, 0), 3), *entries(zxid(5, 0), 2)])

    assert [record.zxid for record in log.read_after(zxid(1, 2))] == [zxid(5, 0), zxid(5, 1)]
    assert log.read_after(zxid(5, 1)) == []


def test_damage_met_while_reading_is_named(log, disk):
    log.append(entries(zxid(1, 0), 3))
    content = disk.content_of("segment-0000000000000001")
    at = content.index(b"%d " % zxid(1, 1))
    disk.flip_bit("segment-0000000000000001", at)

    for attempt in (lambda: log.read(zxid(1, 1)), lambda: log.read_after(0)):
        with pytest.raises(LogCorrupt) as refused:
            attempt()
        assert refused.value.offset == content.rindex(b"\xb5SqR", 0, at)
    assert log.read(zxid(1, 0)) == entries(zxid(1, 0), 1)[0]


def test_many_readers_are_remembered_within_a_bound(log):
    log.append(entries(zxid(1, 0), 400, 20))

    for counter in reversed(range(399)):
        assert log.read_after(zxid(1, counter), 1)[0].zxid == zxid(1, counter + 1)

    assert len(log._reader._cursors) == CURSORS_MAX < 399


def test_a_reader_that_goes_on_neither_searches_nor_reads_twice(log, monkeypatch):
    log.append(entries(zxid(1, 0), 20, 100))
    position = log.read_after(0, 500)[-1].zxid
    monkeypatch.setattr(log._reader, "place_after", None)
    monkeypatch.setattr(log._reader, "_search", None)

    while records := log.read_after(position, 500):
        position = records[-1].zxid

    assert position == zxid(1, 19)


# --- Refusals and failures ----------------------------------------------------------------------------------


def test_the_directory_is_locked_while_the_log_is_open(log, disk):
    with pytest.raises(DirectoryLocked):
        open_log(disk)
    log.close()
    log.close()

    open_log(disk)


def test_a_closed_log_refuses(log):
    log.append(entries(zxid(1, 0), 1))
    log.close()

    for call in (lambda: log.append([]), log.sync, log.mark_idle, lambda: log.truncate_after(0)):
        with pytest.raises(LogClosed):
            call()
    assert not log.prepare_spare()


def test_close_makes_everything_durable_and_provable(log, disk):
    log.append(entries(zxid(1, 0), 2))
    log.close()

    disk = disk.crash()
    assert open_log(disk).last_zxid == zxid(1, 1)
    disk = disk.restart()
    at = disk.content_of("segment-0000000000000001").index(b"%d " % zxid(1, 1))
    disk.flip_bit("segment-0000000000000001", at)
    with pytest.raises(LogCorrupt):
        open_log(disk)


@pytest.mark.parametrize("kind", ["write", "sync"])
@pytest.mark.parametrize("error_number", [errno.EIO, errno.ENOSPC])
def test_a_failed_write_or_sync_is_final(log, disk, kind, error_number):
    log.append(entries(zxid(1, 0), 1))
    log.sync()
    disk.fail_after(1, error_number, kind)

    def append_and_sync():
        log.append(entries(zxid(1, 1), 1))
        log.sync()

    with pytest.raises(LogWriteFailed) as failed:
        append_and_sync()

    assert (failed.value.operation, failed.value.errno) == (kind, error_number)
    assert failed.value.file == "segment-0000000000000001"
    assert log.synced_zxid == zxid(1, 0)
    # Never retried: the next sync would claim success for data that is gone.
    operations = disk.operations
    for call in (lambda: log.append(entries(zxid(1, 1), 1)), log.sync, log.mark_idle, lambda: log.truncate_after(0)):
        with pytest.raises(LogWriteFailed):
            call()
    assert disk.operations == operations
    log.close()
    assert open_log(disk.crash()).last_zxid in (zxid(1, 0), zxid(1, 1))


@pytest.mark.parametrize("operation", range(1, 9))
def test_a_failure_while_rolling_is_final_and_loses_nothing(disk, operation):
    log = open_log(disk)
    log.append(entries(zxid(1, 0), 20))
    log.sync()
    disk.fail_after(operation)

    try:
        log.append(entries(zxid(1, 20), 20))
        log.sync()
    except LogWriteFailed:
        pass

    found = all_entries(open_log(disk.crash()))
    assert len(found) >= 20
    assert found == entries(zxid(1, 0), 40)[: len(found)]


@pytest.mark.parametrize("call", ["truncate_after", "begin_at", "save_promised_epoch"])
def test_a_failure_of_the_superblock_is_final(log, disk, call):
    log.append(entries(zxid(1, 0), 60))
    log.sync()
    disk.fail_after(1, kind="sync")

    with pytest.raises(LogWriteFailed):
        getattr(log, call)(zxid(1, 40) if call != "save_promised_epoch" else 3)

    with pytest.raises(LogWriteFailed):
        log.append(entries(zxid(1, 60), 1))


def test_a_full_disk_stops_spares_but_not_the_log(disk):
    log = open_log(disk)
    disk.capacity_bytes = disk.used_bytes() + 2 * SMALL.segment_bytes // 2
    log.append(entries(zxid(1, 0), 4))
    log.sync()
    names = disk.names()
    disk.capacity_bytes -= 4096

    with pytest.raises(SpareNotPrepared) as refused:
        log.prepare_spare()

    assert refused.value.errno == errno.ENOSPC
    assert disk.names() == names
    assert log.free_bytes > 0
    log.append(entries(zxid(1, 4), 4))
    assert log.sync() == zxid(1, 7)


def test_a_disk_without_room_for_the_step_ahead_still_takes_the_entry(disk):
    log = open_log(disk, replace(SMALL, growth_bytes=8192))
    log.append(entries(zxid(1, 0), 7))
    disk.capacity_bytes = disk.used_bytes() + 1000

    log.append(entries(zxid(1, 7), 1))

    assert log.sync() == zxid(1, 7)
    assert open_log(disk.crash()).last_zxid == zxid(1, 7)


def test_any_other_failure_of_the_step_ahead_is_final(log, disk):
    log.append(entries(zxid(1, 0), 7))
    disk.fail_after(2, errno.EIO, "write")

    with pytest.raises(LogWriteFailed):
        log.append(entries(zxid(1, 7), 1))

    with pytest.raises(LogWriteFailed):
        log.sync()


def test_a_read_that_the_disk_refuses_is_reported_as_such(log, monkeypatch):
    log.append(entries(zxid(1, 0), 1))

    def refuse(_length, _offset):
        raise OSError(errno.EIO, "unreadable")

    monkeypatch.setattr(log._active.file, "pread", refuse)

    with pytest.raises(LogReadFailed) as refused:
        log.read(zxid(1, 0))
    assert refused.value.errno == errno.EIO


def test_a_read_that_fails_names_the_file_that_was_read(log, disk):
    for start in range(0, 80, 4):
        log.append(entries(zxid(1, start), 4))
    log.sync()
    disk.make_unreadable(segment_name(1), PAGE_BYTES, 4096)

    with pytest.raises(LogReadFailed) as refused:
        log.read(zxid(1, 3))
    assert refused.value.file == segment_name(1)


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        (SUPERBLOCK_NAME, PAGE_BYTES),
        (segment_name(1), 0),
        (segment_name(1), PAGE_BYTES),
        (segment_name(2), 2 * PAGE_BYTES),
    ],
)
def test_a_start_that_cannot_read_a_file_names_it(disk, name, offset):
    log = open_log(disk)
    log.append(entries(zxid(1, 0), 40))
    log.close()
    disk.make_unreadable(name, offset, 100)

    with pytest.raises(OSError, match="error") as refused:
        open_log(disk)
    assert (refused.value.errno, refused.value.filename) == (errno.EIO, name)


def test_a_promise_is_durable_and_never_taken_back(log, disk):
    log.save_promised_epoch(4)
    log.save_promised_epoch(4)
    with pytest.raises(PromiseRegression):
        log.save_promised_epoch(3)

    assert open_log(disk.crash()).promised_epoch == 4


def test_a_promise_makes_what_was_appended_before_durable(log, disk):
    log.append(entries(zxid(1, 0), 1))
    log.save_promised_epoch(2)

    assert open_log(disk.crash()).last_zxid == zxid(1, 0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("segment_bytes", 4096),
        ("segment_bytes", 20_000),
        ("initial_bytes", 4096),
        ("growth_bytes", 0),
        ("spares_max", -1),
        ("zero_piece_bytes", 0),
        ("index_stride_bytes", 1),
        ("read_bytes", 1),
        ("generations_reserved", 0),
    ],
)
def test_a_limit_that_cannot_work_is_refused(option, value):
    with pytest.raises(InvalidOption) as refused:
        LogOptions(**{option: value})

    assert (refused.value.option, refused.value.value) == (option, value)
