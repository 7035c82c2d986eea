"""A damaged log makes room for a new one, and the broker stays who it is, owns up to the damage, and loses no file."""

from __future__ import annotations

import pytest

from sluicemq.storage import DirectoryLocked, LogCorrupt, PromiseRegression, SegmentLog
from sluicemq.storage.segment import segment_name
from sluicemq.storage.setting_aside import note_repaired, remove_set_aside, set_damaged_log_aside
from tests.disk import PowerCut, SimulatedDisk
from tests.storage.stories import all_entries, entries, open_log, zxid


def damaged(seed: int = 7) -> tuple[SimulatedDisk, bytes, list[str]]:
    """80 entries over several segments, a promise; then the third segment rots. Disk, incarnation, files of the log."""
    disk = SimulatedDisk(seed)
    log = open_log(disk)
    for start in range(0, 80, 4):
        log.append(entries(zxid(1, start), 4))
    log.save_promised_epoch(9)
    log.begin_at(zxid(1, 30))
    incarnation = log.incarnation
    log.close()
    disk = disk.restart()
    disk.flip_bit(segment_name(3), 6000)
    return disk, incarnation, [name for name in disk.names() if name.startswith("segment-")]


def refused(disk: SimulatedDisk) -> LogCorrupt:
    with pytest.raises(LogCorrupt) as refusal:
        open_log(disk)
    return refusal.value


def check(disk: SimulatedDisk, incarnation: bytes, files: list[str]) -> SegmentLog:
    log = open_log(disk)
    assert (log.last_zxid, all_entries(log), log.live_files()) == (0, [], [])
    assert (log.incarnation, log.promised_epoch) == (incarnation, 9)
    assert log.superblock.current.damaged_from > 0
    assert {f"set-aside-{name}" for name in (*files, "superblock")} <= set(disk.names())
    return log


def test_a_new_log_begins_and_the_old_files_lie_beside_it() -> None:
    disk, incarnation, files = damaged()
    before = {name: disk.content_of(name) for name in files}
    error = refused(disk)
    set_damaged_log_aside(disk, error.last_good_zxid + 1)
    disk = disk.crash()
    log = check(disk, incarnation, files)
    assert log.superblock.current.damaged_from == error.last_good_zxid + 1
    assert {name: disk.content_of(f"set-aside-{name}") for name in files} == before
    with pytest.raises(PromiseRegression):
        log.save_promised_epoch(8)


@pytest.mark.parametrize("seed", range(5))
def test_the_note_stays_until_the_log_is_whole_and_so_do_the_files(seed: int) -> None:
    disk, incarnation, files = damaged(seed)
    set_damaged_log_aside(disk, zxid(1, 40))
    log = check(disk, incarnation, files)
    with pytest.raises(ValueError, match="until the log is whole"):
        remove_set_aside(log, disk)
    log.append(entries(zxid(2, 0), 4))
    log.close()
    disk = disk.restart()
    log = open_log(disk)
    assert log.superblock.current.damaged_from == zxid(1, 40)
    log.append(entries(zxid(2, 4), 4))
    note_repaired(log)
    disk = disk.crash()
    log = open_log(disk)
    assert log.superblock.current.damaged_from == 0
    assert log.last_zxid == zxid(2, 7), "noted after all of it is durable"
    assert remove_set_aside(log, disk) > len(files)
    assert not [name for name in disk.names() if name.startswith("set-aside-")]


def test_an_operator_can_bring_the_old_log_back() -> None:
    disk, _, _ = damaged()
    disk.flip_bit(segment_name(3), 6000)  # a rot that can be mended
    set_damaged_log_aside(disk, 5)
    for name in disk.names():
        if name.startswith("set-aside-"):
            disk.rename(name, name.removeprefix("set-aside-"))
    disk.sync()
    log = open_log(disk.restart())
    assert log.last_zxid == zxid(1, 79)
    assert log.superblock.current.damaged_from == 0


def test_damage_that_is_found_again_keeps_the_earlier_place() -> None:
    disk, _, _ = damaged()
    set_damaged_log_aside(disk, 5)
    set_damaged_log_aside(disk, 7)
    assert open_log(disk).superblock.current.damaged_from == 5


@pytest.mark.parametrize("seed", range(4))
def test_the_power_may_go_at_every_step(seed: int) -> None:
    operations = 0
    while True:
        operations += 1
        disk, incarnation, files = damaged(seed)
        disk.cut_power_after(operations)
        try:
            set_damaged_log_aside(disk, 5)
        except PowerCut:
            pass
        else:
            break
        disk = disk.crash()
        try:
            check(disk, incarnation, files)
        except LogCorrupt:
            set_damaged_log_aside(disk, 7)
            log = check(disk.crash(), incarnation, files)
            assert log.superblock.current.damaged_from in (5, 7), "the earlier, if it was noted"
    assert operations > 15


def test_a_log_that_runs_is_not_set_aside() -> None:
    disk = SimulatedDisk(3)
    open_log(disk)
    with pytest.raises(DirectoryLocked):
        set_damaged_log_aside(disk, 5)
    with pytest.raises(ValueError, match="not at 0"):
        set_damaged_log_aside(disk, 0)
