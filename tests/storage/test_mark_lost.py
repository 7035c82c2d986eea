"""What a failed sync left in the kernel's memory and nowhere else, a mark or a length: a start writes it once more."""

from __future__ import annotations

import pytest

from sluicemq.storage import LogWriteFailed, Record
from tests.disk import SimulatedDisk
from tests.storage.stories import SMALL, open_log

SECOND = "segment-0000000000000002"


@pytest.mark.parametrize("seed", range(20))
def test_a_log_goes_on_behind_a_mark_that_never_reached_the_disk_and_survives_the_power(seed: int) -> None:
    disk = SimulatedDisk(seed=seed)
    log = open_log(disk, SMALL)
    log.append([Record(zxid, 6, 1, 0, b"", b"x" * 50) for zxid in (1, 2, 3)])
    log.sync()
    disk.fail_after(1, kind="sync", name_prefix="segment-")
    with pytest.raises(LogWriteFailed):
        log.close()
    disk = disk.restart()
    log = open_log(disk, SMALL)
    log.append([Record(4, 6, 1, 0, b"", b"y" * 50)])
    log.sync()
    log.mark_idle()
    again = open_log(disk.crash(), SMALL)
    assert again.last_zxid == 4


def test_a_disk_that_fails_while_the_mark_is_written_again_is_named_with_the_way_on() -> None:
    disk = SimulatedDisk(seed=1)
    log = open_log(disk, SMALL)
    log.append([Record(1, 6, 1, 0, b"", b"x" * 50)])
    log.close()
    disk.fail_after(1, kind="write", name_prefix="segment-")
    with pytest.raises(LogWriteFailed, match=r"segment-0.*EIO.*start again"):
        open_log(disk, SMALL)


@pytest.mark.parametrize("seed", range(20))
def test_a_file_whose_length_never_reached_the_disk_makes_no_short_segment_out_of_a_spare(seed: int) -> None:
    disk = SimulatedDisk(seed=seed)
    log = open_log(disk, SMALL)
    zxid = 0
    while SECOND not in disk.names():
        zxid += 1
        log.append([Record(zxid, 6, 1, 0, b"", b"x" * 500)])
    log.sync()
    kept = zxid
    while disk.open(SECOND).size() < SMALL.segment_bytes:
        zxid += 1
        log.append([Record(zxid, 6, 1, 0, b"", b"y" * 500)])
    disk.fail_after(1, kind="sync", name_prefix="segment-")
    with pytest.raises(LogWriteFailed):
        log.sync()
    disk = disk.restart()
    log = open_log(disk, SMALL)
    log.truncate_after(kept - 2)
    zxid = kept - 2
    while SECOND not in disk.names():
        zxid += 1
        log.append([Record(zxid, 6, 1, 0, b"", b"z" * 500)])
    log.sync()
    assert open_log(disk.crash(), SMALL).last_zxid == zxid
