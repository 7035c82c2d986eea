"""The live store: what is older than the log proper stays readable, file by file, until it is dead or rewritten."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from sluicemq.storage import (
    DiskFull,
    ForeignData,
    LiveKind,
    LogClosed,
    LogCorrupt,
    LogReadFailed,
    LogWriteFailed,
    NewerFormat,
    NotInLiveStore,
    Record,
    SegmentLog,
    ZxidNotFound,
)
from sluicemq.storage.live import OpenFiles
from sluicemq.storage.pages import PAGE_BYTES, seal
from sluicemq.storage.scan import BadPlaceError
from sluicemq.storage.segment import segment_name
from sluicemq.storage.segment_index import index_name
from sluicemq.storage.sparse import SPARSE_NEW_NAME, SparseHeader, sparse_name
from tests.disk import PowerCut, SimulatedDisk, SimulatedFile
from tests.storage.stories import SMALL, all_entries, entries, open_log, zxid

COUNT = 120
WRITTEN = entries(zxid(1, 0), COUNT)


def filled(disk: SimulatedDisk, options=SMALL, *, begin: int = 100) -> SegmentLog:
    """120 entries over six segments; the log proper begins near the end of them."""
    log = open_log(disk, options)
    for start in range(0, COUNT, 4):
        log.append(WRITTEN[start : start + 4])
    log.sync()
    log.begin_at(zxid(1, begin))
    return log


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk(1)


@pytest.fixture
def log(disk: SimulatedDisk) -> SegmentLog:
    return filled(disk)


def rewrite(log: SegmentLog, first: int, last: int, every: int = 3) -> list[int]:
    """Rewrite these segments with every third of their entries; the zxids that are kept."""
    files = [file for file in log.live_files() if first <= file.first_sequence <= last]
    alive = [record for file in files for record in log.walk_live(file) if record.zxid % every == 0]
    log.install_sparse(first, last, [record._replace(payload=record.payload[:100]) for record in alive])
    return [record.zxid for record in alive]


def live_zxids(log: SegmentLog) -> list[int]:
    return [record.zxid for file in log.live_files() for record in log.walk_live(file)]


# --- Moving the beginning ----------------------------------------------------------------------------------


def test_entries_before_the_beginning_stay_readable_one_by_one(log, disk):
    def check(each: SegmentLog) -> None:
        start = each.start_zxid
        assert zxid(1, 0) < start <= zxid(1, 100)
        for record in WRITTEN:
            assert each.read(record.zxid) == record
        assert live_zxids(each) + [record.zxid for record in all_entries(each)] == [r.zxid for r in WRITTEN]
        with pytest.raises(ZxidNotFound):
            each.read_after(zxid(1, 3))

    check(log)
    check(open_log(disk.restart()))


def test_a_start_scans_the_log_proper_only(log, disk):
    proper, files = all_entries(log), log.live_files()

    reopened = open_log(disk.restart())

    assert reopened.recovery.entries == len(proper) < 40
    assert reopened.recovery.live_files == len(files) >= 3
    assert reopened.recovery.scanned_bytes <= reopened.recovery.segments * SMALL.segment_bytes
    assert reopened.statistics().live_files_open == 0


def test_neighbours_come_along_up_to_the_end_of_the_file(log):
    for place in (1, 50, 110):
        wanted = WRITTEN[place].zxid
        assert log.read_along(wanted, 1) == WRITTEN[place : place + 1]
        assert log.read_along(wanted, 1500) == WRITTEN[place : place + 3]
    first = log.live_files()[0]
    assert [record.zxid for record in log.read_along(zxid(1, 0), 1 << 20)] == list(
        range(zxid(1, 0), first.last_zxid + 1)
    )


def test_damage_behind_the_wanted_entry_is_told_to_whoever_wants_it(log, disk):
    at = disk.content_of(segment_name(1)).index(b"%d " % zxid(1, 3))
    disk.flip_bit(segment_name(1), at)

    assert log.read_along(zxid(1, 1), 1 << 20) == WRITTEN[1:3]
    with pytest.raises(LogCorrupt) as refused:
        log.read_along(zxid(1, 3), 1 << 20)
    assert refused.value.file == segment_name(1)


def test_the_files_tell_their_range_and_size(log):
    files = log.live_files()

    assert [file.first_sequence for file in files] == list(range(1, len(files) + 1))
    assert all(file.kind is LiveKind.DENSE and file.first_sequence == file.last_sequence for file in files)
    assert files[0].first_zxid == 1  # the lowest that could lie there
    assert [file.last_zxid + 1 for file in files[:-1]] == [file.first_zxid for file in files[1:]]
    assert files[-1].last_zxid == log.start_zxid
    statistics = log.statistics()
    assert statistics.live_bytes == sum(file.bytes for file in files) >= 3 * SMALL.segment_bytes // 2
    assert "segment-" in repr(files[0])


def test_moving_the_beginning_to_where_it_is_changes_nothing(log, disk):
    operations = disk.operations

    assert log.begin_at(log.start_zxid) == 0
    assert disk.operations == operations


# --- Removing ----------------------------------------------------------------------------------------------


def test_a_dead_segment_goes_with_its_index_and_the_others_stay(log, disk):
    second = log.live_files()[1]

    assert log.reclaim(2) == 1

    def check(log: SegmentLog, disk: SimulatedDisk) -> None:
        assert segment_name(2) not in disk.names()
        assert index_name(2) not in disk.names()
        with pytest.raises(ZxidNotFound):
            log.read(second.last_zxid)
        assert log.read(second.first_zxid - 1).zxid == second.first_zxid - 1
        assert log.read(second.last_zxid + 1).zxid == second.last_zxid + 1
        assert [file.first_sequence for file in log.live_files()][:2] == [1, 3]

    check(log, disk)
    disk = disk.crash()
    check(open_log(disk), disk)


def test_a_file_without_neighbour_and_index_finds_its_end_by_reading(log, disk):
    known = log.live_files()
    log.reclaim(2, 3)
    disk.unlink(index_name(1))

    disk = disk.restart()
    log = open_log(disk)

    assert log.live_files()[0].last_zxid == known[0].last_zxid
    assert log.statistics().indexes_rebuilt == 1
    assert index_name(1) in disk.names()
    disk = disk.restart()
    reopened = open_log(disk)
    assert reopened.live_files()[0].last_zxid == known[0].last_zxid
    assert reopened.statistics().indexes_rebuilt == 0


def test_a_full_size_segment_is_recycled_and_its_old_entries_mean_nothing(log, disk):
    assert log.statistics().recycled == 0

    log.reclaim(1, 3)

    assert log.statistics().recycled == SMALL.spares_max
    following = entries(zxid(1, COUNT), 60)
    log.append(following)
    log.sync()
    assert all_entries(open_log(disk.crash()))[-60:] == following


@pytest.mark.parametrize(
    ("first", "last", "why"),
    [(0, 1, "ends before"), (2, 1, "ends before"), (1, 90, "ends before"), (2, 2, "cut in two"), (3, 4, "cut in two")],
)
@pytest.mark.parametrize("call", ["reclaim", "install_sparse"])
def test_only_whole_files_of_the_live_store_can_go(log, first, last, why, call):
    rewrite(log, 2, 3)
    before = live_zxids(log)

    with pytest.raises(NotInLiveStore, match=why):
        getattr(log, call)(first, last, *([[]] if call == "install_sparse" else []))

    assert live_zxids(log) == before


def test_rewriting_what_is_not_there_is_refused(log):
    log.reclaim(2)

    assert log.reclaim(2) == 0
    with pytest.raises(NotInLiveStore, match="no file"):
        log.install_sparse(2, 2, [])


# --- Rewriting ---------------------------------------------------------------------------------------------


def test_a_rewritten_range_holds_the_surviving_entries_as_they_were_given(log, disk):
    before = log.live_files()
    kept = rewrite(log, 2, 3)

    def check(log: SegmentLog, disk: SimulatedDisk) -> None:
        files = log.live_files()
        assert [file.kind for file in files][:2] == [LiveKind.DENSE, LiveKind.SPARSE]
        sparse = files[1]
        assert (sparse.first_sequence, sparse.last_sequence) == (2, 3)
        assert (sparse.first_zxid, sparse.last_zxid) == (before[1].first_zxid, before[2].last_zxid)
        assert sparse.bytes < before[1].bytes
        for record in WRITTEN:
            if before[1].first_zxid <= record.zxid <= before[2].last_zxid:
                if record.zxid in kept:
                    assert log.read(record.zxid) == record._replace(payload=record.payload[:100])
                else:
                    with pytest.raises(ZxidNotFound):
                        log.read(record.zxid)
            else:
                assert log.read(record.zxid) == record
        assert [record.zxid for record in log.read_along(kept[1], 1 << 20)] == kept[1:]
        assert [name for name in disk.names() if name in (segment_name(2), segment_name(3), index_name(2))] == []

    check(log, disk)
    disk = disk.crash()
    check(open_log(disk), disk)


def test_a_rewritten_file_is_rewritten_again_alone_and_with_its_neighbours(log, disk):
    rewrite(log, 2, 3)
    rewrite(log, 2, 3, every=2)
    assert all(found % 6 == 0 for found in live_zxids(log) if log.live_files()[1].first_zxid <= found <= zxid(1, 60))

    rewrite(log, 1, 4, every=2)

    disk = disk.crash()
    log = open_log(disk)
    assert next((file.first_sequence, file.last_sequence) for file in log.live_files()) == (1, 4)
    assert log.recovery.replacements_finished == 0
    assert log.reclaim(1, 4) == 1
    assert not [name for name in disk.names() if name.startswith("sparse-")]


def test_a_rewritten_file_may_be_empty(log, disk):
    log.install_sparse(1, 2, [])

    disk = disk.crash()
    log = open_log(disk)
    assert log.live_files()[0].last_zxid < log.live_files()[1].first_zxid
    with pytest.raises(ZxidNotFound):
        log.read(zxid(1, 1))


def test_a_reader_of_the_old_file_never_takes_the_new_one_under_its_name_for_it(disk):
    log = filled(disk, replace(SMALL, live_open_max=1))
    rewrite(log, 2, 3)
    old = log.live_files()[1]
    log.read(zxid(1, 0))  # the only one that is open now
    rewrite(log, 2, 3, every=2)

    with pytest.raises(BadPlaceError):
        old.pread(100, 0)
    assert all(log.read(found).zxid == found for found in live_zxids(log))


@pytest.mark.parametrize("order", ["backwards", "outside", "twice"])
def test_records_out_of_order_are_refused_and_nothing_changes(log, disk, order):
    first = log.live_files()[0]
    records = list(log.walk_live(first))[:3]
    wrong = {"backwards": records[::-1], "outside": [*records, WRITTEN[-1]], "twice": [records[0], records[0]]}[order]

    with pytest.raises(ValueError, match="cannot follow"):
        log.install_sparse(1, 1, wrong)

    assert "sparse.new" not in disk.names()
    assert log.live_files()[0] is first
    log.append(entries(zxid(1, COUNT), 1))


def test_what_the_records_raise_comes_through_and_nothing_changes(log, disk):
    def records():
        yield WRITTEN[0]
        raise KeyError("the reclaimer was told to stop")

    with pytest.raises(KeyError):
        log.install_sparse(1, 1, records())

    assert "sparse.new" not in disk.names()
    assert log.read(zxid(1, 1)) == WRITTEN[1]


def test_a_full_disk_puts_rewriting_off(log, disk):
    disk.capacity_bytes = disk.used_bytes() + PAGE_BYTES

    with pytest.raises(DiskFull) as refused:
        rewrite(log, 1, 3)

    assert refused.value.errno == errno.ENOSPC
    assert "sparse.new" not in disk.names()
    assert live_zxids(log)[:3] == [zxid(1, 0), zxid(1, 1), zxid(1, 2)]
    log.append(entries(zxid(1, COUNT), 1))
    disk.capacity_bytes = None
    rewrite(log, 1, 3)


@pytest.mark.parametrize("kind", ["write", "sync", "rename", "unlink", "directory sync"])
def test_any_other_failure_is_final(log, disk, kind):
    disk.fail_after(1, kind=kind)

    with pytest.raises(LogWriteFailed, match="rewriting"):
        rewrite(log, 1, 3)

    with pytest.raises(LogWriteFailed):
        log.append(entries(zxid(1, COUNT), 1))


@pytest.mark.parametrize("nth", [1, 2], ids=["its entries", "its first page"])
def test_nothing_is_removed_for_a_file_that_does_not_read_back(disk, nth):
    """The disk acknowledges a write of the new file and loses it: what it was to replace is still the truth."""
    log = filled(disk)
    disk.lose_write_after(nth, SPARSE_NEW_NAME)

    with pytest.raises(LogWriteFailed, match="rewriting"):
        rewrite(log, 1, 3)

    disk.drop_caches()
    reopened = open_log(disk.restart())
    assert live_zxids(reopened) + [record.zxid for record in all_entries(reopened)] == [r.zxid for r in WRITTEN]


def test_a_file_that_goes_while_others_ask_for_the_list_is_not_in_it(log, disk, monkeypatch):
    log.reclaim(2)
    log = open_log(disk.restart())
    sealed = OpenFiles.sealed

    def removed_meanwhile(files, live):
        monkeypatch.setattr(OpenFiles, "sealed", sealed)
        log.reclaim(live.first_sequence)
        return sealed(files, live)

    # Without its neighbour, how far the first file reaches is read from the disk.
    monkeypatch.setattr(OpenFiles, "sealed", removed_meanwhile)

    assert [file.first_sequence for file in log.live_files()][:2] == [3, 4]


def test_a_failed_removal_is_final_too(log, disk):
    disk.fail_after(1, kind="directory sync")

    with pytest.raises(LogWriteFailed, match="removing"):
        log.reclaim(1)

    with pytest.raises(LogWriteFailed):
        log.sync()


def test_a_closed_log_changes_nothing(disk):
    log = filled(disk, replace(SMALL, live_open_max=1))
    log.close()

    with pytest.raises(LogClosed):
        log.reclaim(1)
    for wanted in (zxid(1, 3), zxid(1, 50)):
        with pytest.raises(LogReadFailed):
            log.read(wanted)


def test_the_live_store_is_never_truncated(log, disk):
    operations = disk.operations
    with pytest.raises(ZxidNotFound):
        log.truncate_after(zxid(1, 3))
    assert disk.operations == operations

    before = live_zxids(log)
    start = log.start_zxid
    log.truncate_after(start)
    log.append(entries(zxid(2, 0), 3))
    log.sync()

    log = open_log(disk.crash())
    assert live_zxids(log) == before
    assert (log.start_zxid, log.last_zxid) == (start, zxid(2, 2))


@pytest.mark.parametrize("cut", range(1, 24))
@pytest.mark.parametrize("seed", range(3))
def test_a_rewriting_may_be_interrupted_anywhere_and_its_recovery_too(cut, seed):
    """Either it happened or it did not; entries outside of it never notice."""
    disk = SimulatedDisk(seed)
    log = filled(disk)
    ends = [file.last_zxid for file in log.live_files()]
    rewrite(log, 2, 2)
    before = {found: log.read(found) for found in live_zxids(log)}
    disk.cut_power_after(cut)
    try:
        rewrite(log, 1, 3)
        disk.cut_power()
    except PowerCut:
        pass
    after = {
        found: record._replace(payload=record.payload[:100]) if found <= ends[2] else record
        for found, record in before.items()
        if found > ends[2] or found % 3 == 0
    }

    disk = disk.crash()
    for again in range(1, 8):
        disk.cut_power_after(again)
        try:
            open_log(disk)
            disk.cut_power()
        except PowerCut:
            pass
        disk = disk.crash()
    log = open_log(disk)

    assert {found: log.read(found) for found in live_zxids(log)} in (before, after)


# --- Few open files ----------------------------------------------------------------------------------------


def test_few_files_are_open_however_many_there_are(disk):
    options = replace(SMALL, segment_bytes=4 * PAGE_BYTES, live_open_max=3)
    log = open_log(disk, options)
    written = entries(zxid(1, 0), 1000)
    log.append(written)
    log.begin_at(zxid(1, 999))
    assert len(log.live_files()) > 40

    def check(log: SegmentLog) -> None:
        for record in written[::-7]:
            assert log.read(record.zxid) == record
            assert log.statistics().live_files_open <= 3
        assert log.statistics().indexes_rebuilt == 0
        assert log.statistics().index_bytes < 3 * 16 * 70 + 16 * 70

    check(log)
    check(open_log(disk.restart(), options))


def test_no_file_is_closed_under_its_reader(disk, monkeypatch):
    """While one file is read, others are, and only one may stay open."""
    log = filled(disk, replace(SMALL, live_open_max=1))
    real = SimulatedFile.pread
    nested: list[Record] = []

    def pread(file, length, offset):
        if file._inode.name == segment_name(1) and offset and not nested:
            nested.append(log.read(zxid(1, 50)))
        return real(file, length, offset)

    monkeypatch.setattr(SimulatedFile, "pread", pread)

    assert log.read(zxid(1, 5)) == WRITTEN[5]
    assert nested == [WRITTEN[50]]


def test_few_files_are_open_while_many_are_removed(disk, monkeypatch):
    options = replace(SMALL, segment_bytes=4 * PAGE_BYTES, live_open_max=3, spares_max=0)
    log = open_log(disk, options)
    log.append(entries(zxid(1, 0), 1000))
    log.begin_at(zxid(1, 999))
    files = log.live_files()
    opened: list[SimulatedFile] = []
    most = 0
    real = SimulatedDisk.open

    def counting(disk, name, *, create=False):
        nonlocal most
        opened.append(real(disk, name, create=create))
        most = max(most, sum(not file._closed for file in opened))
        return opened[-1]

    monkeypatch.setattr(SimulatedDisk, "open", counting)

    log.install_sparse(1, 20, [])
    log.reclaim(1, files[-1].last_sequence)

    assert log.live_files() == []
    assert len(opened) > 30
    assert most <= 2 + options.live_open_max


# --- Indexes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["missing", "first page", "table", "short", "another segment's"])
def test_an_index_that_is_missing_or_damaged_is_rebuilt_and_written_again(log, disk, damage):
    name = index_name(2)
    if damage == "missing":
        disk.unlink(name)
    elif damage == "short":
        disk.open(name).truncate(PAGE_BYTES + 40)
    elif damage == "another segment's":
        disk.overwrite(name, 0, disk.content_of(index_name(1)))
    else:
        disk.flip_bit(name, 20 if damage == "first page" else PAGE_BYTES + 30)
    disk = disk.restart()
    log = open_log(disk)

    assert [log.read(record.zxid) for record in WRITTEN[:60]] == WRITTEN[:60]

    assert log.statistics().indexes_rebuilt == 1
    disk = disk.restart()
    again = open_log(disk)
    assert [again.read(record.zxid) for record in WRITTEN[:60]] == WRITTEN[:60]
    assert again.statistics().indexes_rebuilt == 0


def test_a_damaged_index_within_a_rewritten_file_is_rebuilt_in_memory(log, disk):
    kept = rewrite(log, 1, 3)
    name = sparse_name(1, 3)
    disk.flip_bit(name, len(disk.content_of(name)) - 1)

    disk = disk.restart()
    log = open_log(disk)

    assert [log.read(found).zxid for found in kept] == kept
    assert log.statistics().indexes_rebuilt == 1


def test_an_index_without_its_segment_is_removed_at_the_next_start(log, disk):
    log.close()
    disk.open(index_name(77), create=True).pwritev([b"left behind"], 0)
    disk = disk.restart()

    open_log(disk)

    assert index_name(77) not in disk.names()


def test_a_full_disk_costs_an_index_and_nothing_else(disk):
    log = open_log(disk)
    log.append(WRITTEN)
    log.sync()
    disk.capacity_bytes = disk.used_bytes()

    log.begin_at(zxid(1, 100))

    disk.capacity_bytes = None
    disk = disk.restart()
    log = open_log(disk)
    assert [log.read(record.zxid) for record in WRITTEN] == WRITTEN
    assert log.statistics().indexes_rebuilt == len(log.live_files())


# --- Damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [segment_name(1), sparse_name(2, 3)])
@pytest.mark.parametrize("where", ["body", "head"])
def test_a_flipped_bit_is_named_when_it_is_read(log, disk, name, where):
    rewrite(log, 2, 3)
    disk = disk.restart()
    log = open_log(disk)
    file = next(file for file in log.live_files() if file.name == name)
    victim = list(log.walk_live(file))[4]
    at = disk.content_of(name).index(b"%d " % victim.zxid)
    start = disk.content_of(name).rindex(b"\xb5SqR", 0, at)
    disk.flip_bit(name, at + 5 if where == "body" else start + 20)

    with pytest.raises(LogCorrupt) as refused:
        log.read(victim.zxid)
    assert (refused.value.file, refused.value.offset) == (name, start)
    with pytest.raises(LogCorrupt) as refused:
        list(log.walk_live(file))
    assert (refused.value.file, refused.value.offset) == (name, start)
    # A rewriting does not drop in silence what it cannot read.
    with pytest.raises(LogCorrupt):
        log.install_sparse(file.first_sequence, file.last_sequence, log.walk_live(file))
    assert [each.name for each in log.live_files()].count(name) == 1


def test_a_segment_whose_tail_was_lost_is_named_when_its_index_is_rebuilt(log, disk):
    log.reclaim(2, 3)
    disk.unlink(index_name(1))
    content = disk.content_of(segment_name(1))
    start = content.rindex(b"\xb5SqR", 0, content.index(b"%d " % zxid(1, 5)))
    disk.overwrite(segment_name(1), start, bytes(568))
    disk = disk.restart()
    log = open_log(disk)

    with pytest.raises(LogCorrupt) as refused:
        log.live_files()

    assert (refused.value.file, refused.value.offset) == (segment_name(1), start)


@pytest.mark.parametrize("name", [segment_name(1), sparse_name(2, 3)])
@pytest.mark.parametrize("damage", ["first page", "shortened"])
def test_a_file_whose_first_page_or_size_is_wrong_refuses_the_start(log, disk, name, damage):
    rewrite(log, 2, 3)
    log.close()
    if damage == "shortened":
        disk.open(name).truncate(PAGE_BYTES + 100)
    else:
        disk.flip_bit(name, 100)

    with pytest.raises(LogCorrupt, match=damage.replace("first page", "header|first page")) as refused:
        open_log(disk.restart())

    assert refused.value.file == name


def test_another_file_put_under_the_name_is_not_read_as_the_one_before(disk):
    """Somebody restores an older rewriting from a backup while the broker runs."""
    log = filled(disk, replace(SMALL, live_open_max=1))
    rewrite(log, 2, 3)
    old = disk.content_of(sparse_name(2, 3))
    kept = rewrite(log, 2, 3, every=2)
    log.read(zxid(1, 0))
    disk.overwrite(sparse_name(2, 3), 0, old)

    with pytest.raises(LogCorrupt, match="another file under this name"):
        log.read(kept[0])


def changed(disk: SimulatedDisk, name: str, **changes) -> None:
    _version, header = SparseHeader.from_page(disk.content_of(name)[:PAGE_BYTES])
    disk.overwrite(name, 0, replace(header, **changes).to_page())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"cluster_id": b"x" * 16}, ForeignData),
        ({"group_id": 9}, ForeignData),
        ({"first_sequence": 1}, LogCorrupt),
        ({"first_previous_zxid": zxid(1, 119)}, LogCorrupt),
    ],
)
def test_a_rewritten_file_of_others_or_under_a_wrong_name_refuses_the_start(log, disk, changes, error):
    rewrite(log, 2, 3)
    log.close()
    changed(disk, sparse_name(2, 3), **changes)

    with pytest.raises(error):
        open_log(disk.restart())


def test_a_rewritten_file_of_a_newer_format_refuses_the_start(log, disk):
    rewrite(log, 2, 3)
    log.close()
    disk.overwrite(sparse_name(2, 3), 0, seal(b"SluiceSP", 2, b"fields of the future"))

    with pytest.raises(NewerFormat):
        open_log(disk.restart())


@pytest.mark.parametrize(("first", "last", "why"), [(3, 4, "overlaps"), (2, 99, "segments of the log")])
def test_a_rewritten_file_that_stands_for_what_it_cannot_refuses_the_start(log, disk, first, last, why):
    rewrite(log, 2, 3)
    log.close()
    disk.open(sparse_name(first, last), create=True).pwritev([disk.content_of(sparse_name(2, 3))], 0)
    before = disk.names()

    disk = disk.restart()
    with pytest.raises(LogCorrupt, match=why):
        open_log(disk)

    assert disk.names() == before


def test_nothing_is_removed_on_the_word_of_a_damaged_file(log, disk):
    """The removal of segment 2 was interrupted, and its replacement is bad: both stay for whoever mends it."""
    content = disk.content_of(segment_name(2))
    rewrite(log, 2, 3)
    log.close()
    disk.open(segment_name(2), create=True).pwritev([content], 0)
    disk.flip_bit(sparse_name(2, 3), PAGE_BYTES + 100)

    disk = disk.restart()
    with pytest.raises(LogCorrupt) as refused:
        open_log(disk)

    assert refused.value.file == sparse_name(2, 3)
    assert segment_name(2) in disk.names()
