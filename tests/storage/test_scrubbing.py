"""Reading every byte while a broker serves: rot is found, and what changes meanwhile is not taken for it."""

from __future__ import annotations

import pytest

from sluicemq.storage import SegmentLog, SnapshotStore
from sluicemq.storage.errors import FileReadFailed, LogCorrupt, LogReadFailed, SnapshotDamaged
from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.storage.scrubbing import entry_files, scrub_entries, scrub_snapshot, snapshot_files
from sluicemq.storage.segment import segment_name
from sluicemq.storage.superblock import Superblock
from tests.disk import SimulatedDisk
from tests.storage.stories import entries, open_log, zxid

FIRST, SECOND, LAST = segment_name(1), segment_name(2), segment_name(4)


def filled(disk: SimulatedDisk) -> SegmentLog:
    """80 entries over four segments, the last of which is written to."""
    log = open_log(disk)
    for start in range(0, 80, 4):
        log.append(entries(zxid(1, start), 4))
        log.sync()
    return log


def pieces(disk: SimulatedDisk, log: SegmentLog, name: str):
    superblock = Superblock(log.cluster_id, bytes(16), group_id=log.group_id)
    return scrub_entries(disk, superblock, name, lambda: log.synced_zxid)


def scrub(disk: SimulatedDisk, log: SegmentLog) -> int:
    return sum(sum(pieces(disk, log, name)) for name in entry_files(disk))


def test_a_whole_log_is_read_to_its_end():
    disk = SimulatedDisk(1)
    log = filled(disk)
    log.begin_at(zxid(1, 50))
    log.install_sparse(1, 1, entries(zxid(1, 3), 1))

    assert [name.partition("-")[0] for name in entry_files(disk)] == ["sparse", "segment", "segment", "segment"]
    assert scrub(disk, log) > 50 * 500


@pytest.mark.parametrize("name", [FIRST, SECOND, LAST])
@pytest.mark.parametrize("at", [PAGE_BYTES + 10, PAGE_BYTES + 700])
def test_a_flipped_bit_is_found_with_its_file_and_about_its_offset(name, at):
    disk = SimulatedDisk(1)
    log = filled(disk)
    disk.flip_bit(name, at)

    with pytest.raises(LogCorrupt) as found:
        scrub(disk, log)

    assert found.value.file == name
    assert PAGE_BYTES <= found.value.offset <= at


def test_a_first_page_that_rots_and_a_sector_that_cannot_be_read_are_found():
    disk = SimulatedDisk(1)
    log = filled(disk)
    disk.make_unreadable(SECOND, PAGE_BYTES + 600, 512)
    with pytest.raises(LogReadFailed, match=SECOND):
        scrub(disk, log)
    disk.flip_bit(FIRST, 20)
    with pytest.raises(LogCorrupt, match=FIRST):
        scrub(disk, log)


def test_rewritten_files_are_checked_too():
    disk = SimulatedDisk(1)
    log = filled(disk)
    log.begin_at(zxid(1, 50))
    log.install_sparse(1, 2, entries(zxid(1, 3), 5))
    [name] = [name for name in disk.names() if name.startswith("sparse")]
    disk.flip_bit(name, PAGE_BYTES + 700)

    with pytest.raises(LogCorrupt, match=name):
        scrub(disk, log)


def test_what_is_appended_while_a_file_is_read_is_no_damage():
    disk = SimulatedDisk(1)
    log = filled(disk)
    reading = pieces(disk, log, LAST)
    read = 0
    for number, bytes_ in enumerate(reading):
        read += bytes_
        if number < 3:
            log.append(entries(log.last_zxid + 1, 8))

    assert read > 0
    assert segment_name(5) in disk.names(), "it has even been left for the next one"


def test_a_file_that_is_given_back_or_rewritten_while_it_is_read_is_no_damage(monkeypatch):
    for name, value in (("PIECE_BYTES", 1), ("READ_BYTES", 600)):
        monkeypatch.setattr(f"sluicemq.storage.scrubbing.{name}", value)
    disk = SimulatedDisk(1)
    log = filled(disk)
    log.begin_at(zxid(1, 50))
    reading = [pieces(disk, log, FIRST), pieces(disk, log, SECOND)]
    for each in reading:
        next(each)
    log.reclaim(1)
    log.install_sparse(2, 2, entries(zxid(1, 25), 2))
    for name in disk.names():
        if name.startswith("spare"):
            disk.overwrite(name, PAGE_BYTES, bytes(9000))  # they are used again, for something else
    for each in reading:
        for _ in each:
            pass
    assert list(pieces(disk, log, FIRST)) == []


def test_snapshots_are_read_to_their_last_byte():
    disk = SimulatedDisk(1)
    store = SnapshotStore(disk, b"a cluster of one")
    for number in (1, 2):
        writer = store.begin(number, b"8 chains", number)
        writer.add(1, b"x" * 5000)
        writer.finish()
    older, newest = reversed(snapshot_files(disk))

    def read(name: str) -> int:
        return sum(scrub_snapshot(disk, b"a cluster of one", 0, name))

    assert read(older) == read(newest) == 5000
    disk.flip_bit(older, PAGE_BYTES + 4000)
    with pytest.raises(SnapshotDamaged, match=older):
        read(older)
    disk.make_unreadable(newest, PAGE_BYTES, 512)
    with pytest.raises(FileReadFailed, match=newest):
        read(newest)
    disk.unlink(older)
    assert read(older) == 0, "it went, because newer ones are kept"
