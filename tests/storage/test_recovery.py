"""What recovery makes of an interrupted or damaged log: a torn tail is cut, damage is named, luck has no part."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.storage import ForeignData, LogCorrupt, NewerFormat, SegmentLog, SuperblockMissing
from sluicemq.storage.pages import PAGE_BYTES, seal
from sluicemq.storage.record import CHAIN_START, HEAD_BYTES, encode_head, parse_head, seed_of
from sluicemq.storage.recovery import Verdict, judge_end
from sluicemq.storage.scan import BAD_BODY, BLANK, CUT_OFF, DISCONTINUED, Trace, find_traces
from sluicemq.storage.segment import SegmentHeader
from sluicemq.storage.superblock import SuperblockStore, Truncation
from tests.disk import PowerCut, SimulatedDisk
from tests.storage.stories import SMALL, all_entries, entries, entry, open_log, zxid

FIRST = "segment-0000000000000001"
SECOND = "segment-0000000000000002"
LAST = "segment-0000000000000004"


def place_of(disk: SimulatedDisk, name: str, payload: bytes) -> tuple[int, int]:
    """Offset of the record with this payload, and of its payload."""
    content = disk.content_of(name)
    at = content.index(payload)
    return content.rindex(b"\xb5SqR", 0, at), at


# --- The judgement, as a table ------------------------------------------------------------------------------


def trace(offset: int, synced_up_to: int) -> Trace:
    head, _ = encode_head(1, offset, synced_up_to, 0, CHAIN_START, entry(9, b"12345678", b""))
    parsed = parse_head(head, 0, 1, offset)
    assert parsed is not None
    return Trace(offset, parsed)


@pytest.mark.parametrize("reason", [BLANK, CUT_OFF, BAD_BODY, DISCONTINUED])
@pytest.mark.parametrize("synced", [s for n in range(4) for s in itertools.product((0, 9, 10, 11), repeat=n)])
def test_the_end_is_torn_only_if_no_trace_proves_more_than_the_last_good_entry(reason, synced):
    traces = [trace(1000 + 64 * n, synced_up_to) for n, synced_up_to in enumerate(synced)]

    end = judge_end(10, 1000, reason, traces)

    proven = any(synced_up_to > 10 for synced_up_to in synced)
    if proven or reason == DISCONTINUED:
        assert end.verdict is Verdict.DAMAGED
        assert end.synced_zxid == (11 if proven else None)
    elif synced:
        assert end.verdict is Verdict.TORN
        assert end.end_offset == 1000 + 64 * len(synced)
    else:
        assert end.verdict is Verdict.CLEAN


@given(st.lists(st.binary(max_size=50), max_size=5), st.integers(0, 7), st.integers(60, 200))
def test_traces_are_found_wherever_reads_are_split(gaps, shift, read_bytes):
    """Only whole heads of this generation at an aligned place count, also when a read ends in the middle of one."""
    disk = SimulatedDisk()
    content, expected = b"", []
    for number, gap in enumerate(gaps):
        content += gap
        content = content.ljust((len(content) + 7) // 8 * 8, b"\xb5")
        head, _ = encode_head(seed_of(5), len(content), number, 0, CHAIN_START, entry(number + 1))
        expected.append(len(content))
        content += head
        stale, _ = encode_head(seed_of(4), len(content), 99, 0, CHAIN_START, entry(1))
        content += stale
        content += b"\xb5" * shift + encode_head(seed_of(5), len(content) + 8, 99, 0, CHAIN_START, entry(1))[0]
    file = disk.open("f", create=True)
    file.pwritev([content], 0)

    found = [found.offset for found in find_traces(file, seed_of(5), 0, len(content), read_bytes)]

    assert found == expected


# --- Torn tails ---------------------------------------------------------------------------------------------


def log_with_unsynced_group(seed: int = 0) -> tuple[SimulatedDisk, SegmentLog]:
    """Entries 1.0 to 1.2 are synced; 1.3 to 1.5 were written as one group and not synced."""
    disk = SimulatedDisk(seed)
    log = open_log(disk)
    log.append(entries(zxid(1, 0), 3))
    log.sync()
    log.append(entries(zxid(1, 3), 3))
    return disk, log


def test_a_hole_in_the_last_unsynced_write_is_a_torn_tail():
    """The sectors of 1.4 and 1.5 reached the disk, those of 1.3 did not: nobody was told that they are durable."""
    disk, _log = log_with_unsynced_group()
    disk = disk.restart()
    start, _ = place_of(disk, FIRST, b"%d " % zxid(1, 3))
    disk.overwrite(FIRST, start, bytes(600))

    log = open_log(disk)

    assert log.last_zxid == zxid(1, 2)
    cut = log.recovery.cut
    assert cut is not None
    assert (cut.file, cut.offset, cut.last_zxid) == (FIRST, start, zxid(1, 2))
    assert cut.lost_bytes == 3 * (HEAD_BYTES + 512)
    # Nothing of it can come back: later entries meet only zeros.
    assert not disk.content_of(FIRST)[start:].strip(b"\0")
    log.append([entry(zxid(1, 3), b"other")])
    log.sync()
    assert all_entries(open_log(disk.crash()))[3:] == [entry(zxid(1, 3), b"other")]


def test_a_bad_payload_at_the_very_end_is_a_torn_tail_too():
    disk, _log = log_with_unsynced_group()
    disk = disk.restart()
    start, payload_at = place_of(disk, FIRST, b"%d " % zxid(1, 5))
    disk.flip_bit(FIRST, payload_at)

    log = open_log(disk)

    assert log.last_zxid == zxid(1, 4)
    assert log.recovery.cut is not None
    assert log.recovery.cut.offset == start


def test_a_log_that_simply_ends_is_not_cut():
    disk, log = log_with_unsynced_group()
    log.sync()

    log = open_log(disk.crash())

    assert log.last_zxid == zxid(1, 5)
    assert log.recovery.cut is None


@pytest.mark.parametrize("operation", range(1, 25))
@pytest.mark.parametrize("seed", range(4))
def test_recovery_may_be_interrupted_anywhere(seed, operation):
    """A torn tail, and the power goes off at each operation of the recovery in turn: the same log in the end."""
    disk, _log = log_with_unsynced_group(seed)
    disk.flush()
    disk = disk.restart()
    start, _ = place_of(disk, FIRST, b"%d " % zxid(1, 3))
    disk.overwrite(FIRST, start, bytes(600))
    disk.cut_power_after(operation)
    try:
        open_log(disk)
        disk.cut_power()
    except PowerCut:
        pass

    log = open_log(disk.crash())

    assert log.last_zxid == zxid(1, 2)
    assert all_entries(log) == entries(zxid(1, 0), 3)


@pytest.mark.parametrize("operation", range(1, 40))
@pytest.mark.parametrize("seed", range(4))
def test_a_truncation_may_be_interrupted_anywhere(seed, operation):
    """Either it happened or it did not; afterwards the log can go on, and what was cut never comes back."""
    disk = SimulatedDisk(seed)
    log = open_log(disk)
    written = entries(zxid(1, 0), 60)
    for start in range(0, 60, 6):
        log.append(written[start : start + 6])
    log.sync()
    assert log.statistics().segments > 2
    disk.cut_power_after(operation)
    try:
        log.truncate_after(zxid(1, 9))
        disk.cut_power()
    except PowerCut:
        pass

    disk = disk.crash()
    log = open_log(disk)

    assert log.last_zxid in (zxid(1, 9), zxid(1, 59))
    assert all_entries(log) == written[: (log.last_zxid & 0xFFFF) + 1]
    log.truncate_after(zxid(1, 9))
    log.append(entries(zxid(2, 0), 1))
    log.sync()
    assert all_entries(open_log(disk.crash())) == written[:10] + entries(zxid(2, 0), 1)


# --- Damage -------------------------------------------------------------------------------------------------


def synced_log() -> SimulatedDisk:
    """80 entries over several segments, all synced, with a MARK at the end."""
    disk = SimulatedDisk()
    log = open_log(disk)
    for start in range(0, 80, 4):
        log.append(entries(zxid(1, start), 4))
        log.sync()
    log.close()
    return disk.crash()


@pytest.mark.parametrize("number", range(80))
@pytest.mark.parametrize("where", ["head", "body"])
def test_a_flipped_bit_in_synced_data_is_named_by_file_and_offset_and_nothing_is_cut(number, where):
    disk = synced_log()
    payload = b"%d " % zxid(1, number)
    name = next(n for n in disk.names() if n.startswith("segment-") and payload in disk.content_of(n))
    start, payload_at = place_of(disk, name, payload)
    disk.flip_bit(name, start + 20 if where == "head" else payload_at + 100)
    before = {n: disk.content_of(n) for n in disk.names()}

    with pytest.raises(LogCorrupt) as refused:
        open_log(disk)

    assert (refused.value.file, refused.value.offset) == (name, start)
    assert refused.value.last_good_zxid == (zxid(1, number - 1) if number else 0)
    assert {n: disk.content_of(n) for n in disk.names()} == before
    # Refusing is no repair: the next start refuses as well.
    with pytest.raises(LogCorrupt):
        open_log(disk.restart())


def test_the_mark_of_an_idle_log_tells_damage_from_a_torn_write():
    """Without it, the last synced entry could not be told from one that was never confirmed."""
    disk = SimulatedDisk()
    log = open_log(disk)
    log.append([entry(zxid(1, 0), b"the last before a quiet night")])
    log.sync()
    log.mark_idle()
    disk = disk.crash()
    start, payload_at = place_of(disk, FIRST, b"quiet night")
    disk.flip_bit(FIRST, payload_at)

    with pytest.raises(LogCorrupt) as refused:
        open_log(disk)

    assert (refused.value.offset, refused.value.synced_zxid) == (start, zxid(1, 0))


def test_a_lost_write_in_the_middle_is_damage():
    disk = synced_log()
    start, _ = place_of(disk, FIRST, b"%d " % zxid(1, 2))
    disk.overwrite(FIRST, start, bytes(568))

    with pytest.raises(LogCorrupt) as refused:
        open_log(disk)

    assert (refused.value.file, refused.value.offset) == (FIRST, start)


@pytest.mark.parametrize("byte", [0, 8, 12, 30, 70, 3000])
def test_a_damaged_segment_header_is_damage(byte):
    disk = synced_log()
    disk.flip_bit(SECOND, byte)

    with pytest.raises(LogCorrupt) as refused:
        open_log(disk)

    assert (refused.value.file, refused.value.offset) == (SECOND, 0)


@pytest.mark.parametrize("missing", [FIRST, SECOND, LAST])
def test_a_missing_segment_is_damage(missing):
    disk = synced_log()
    disk.unlink(missing)

    with pytest.raises(LogCorrupt, match="missing") as refused:
        open_log(disk)

    assert refused.value.file == missing


@pytest.mark.parametrize("other_past", ["chain", "position"])
def test_a_segment_that_continues_another_history_is_damage(other_past):
    disk = synced_log()
    _version, header = SegmentHeader.from_page(disk.content_of(SECOND)[:PAGE_BYTES])
    change: dict[str, Any] = {"chain": b"another."} if other_past == "chain" else {"first_previous_zxid": zxid(1, 2)}
    disk.overwrite(SECOND, 0, replace(header, **change).to_page())

    with pytest.raises(LogCorrupt, match="another history") as refused:
        open_log(disk)

    assert (refused.value.file, refused.value.offset) == (SECOND, 0)


def test_a_segment_under_a_wrong_name_is_damage():
    disk = synced_log()
    disk.unlink(SECOND)
    disk.rename("segment-0000000000000003", SECOND)

    with pytest.raises(LogCorrupt, match="wrong name"):
        open_log(disk)


def test_all_segments_missing_is_never_an_empty_log():
    disk = synced_log()
    for name in disk.names():
        if name.startswith("segment-"):
            disk.unlink(name)

    with pytest.raises(LogCorrupt, match="missing"):
        open_log(disk)


def test_a_missing_superblock_is_never_an_empty_directory():
    disk = synced_log()
    disk.unlink("superblock")

    with pytest.raises(SuperblockMissing):
        open_log(disk)


def test_a_shortened_last_file_is_damage_and_never_a_torn_tail():
    """The broker was killed, and somebody cut the file: its first page knows its size."""
    disk, log = log_with_unsynced_group()
    log.sync()
    disk = disk.restart()
    start, _ = place_of(disk, FIRST, b"%d " % zxid(1, 4))
    disk.open(FIRST).truncate(start)

    with pytest.raises(LogCorrupt, match="shortened") as refused:
        open_log(disk)

    assert refused.value.file == FIRST


@pytest.mark.parametrize("kept", [0, 3, 19])
def test_a_growing_file_that_was_shortened_after_an_orderly_stop_is_damage(kept):
    """It grew after its first page was written; the superblock knows how far the log was durable."""
    disk = SimulatedDisk()
    log = open_log(disk)
    log.append(entries(zxid(1, 0), 50))
    log.sync()
    log.append(entries(zxid(1, 50), 1))
    last = log._active.name
    assert last != FIRST
    log.close()
    disk = disk.restart()
    content = disk.content_of(last)
    ends = [at for at in range(PAGE_BYTES, len(content), 8) if content.startswith(b"\xb5SqR", at)]
    disk.open(last).truncate(ends[min(kept, len(ends) - 2)])

    with pytest.raises(LogCorrupt) as refused:
        open_log(disk)

    assert (refused.value.file, refused.value.synced_zxid) == (last, zxid(1, 50))


def test_what_the_superblock_knows_to_be_durable_is_cut_with_the_log():
    """A truncation takes entries back on purpose; the next start must not miss them."""
    disk = SimulatedDisk()
    log = open_log(disk)
    log.append(entries(zxid(1, 0), 10))
    log.close()
    disk = disk.restart()
    log = open_log(disk)
    log.truncate_after(zxid(1, 4))

    assert open_log(disk.crash()).last_zxid == zxid(1, 4)


def test_a_segment_of_the_first_version_tells_no_size_and_is_accepted():
    disk = synced_log()
    _version, header = SegmentHeader.from_page(disk.content_of(SECOND)[:PAGE_BYTES])
    assert header.file_bytes >= PAGE_BYTES
    disk.overwrite(SECOND, 0, replace(header, file_bytes=0).to_page())

    assert len(all_entries(open_log(disk))) == 80


# --- Data of others -----------------------------------------------------------------------------------------


def test_data_of_another_cluster_or_group_is_refused_and_nothing_changed():
    disk = SimulatedDisk()
    SegmentLog.open(disk, options=SMALL, cluster_id=b"a" * 16, group_id=1).close()
    before = {name: disk.content_of(name) for name in disk.names()}

    with pytest.raises(ForeignData, match="cluster"):
        SegmentLog.open(disk, options=SMALL, cluster_id=b"b" * 16, group_id=1)
    with pytest.raises(ForeignData, match="group"):
        SegmentLog.open(disk, options=SMALL, cluster_id=b"a" * 16, group_id=2)

    assert {name: disk.content_of(name) for name in disk.names()} == before
    # A refusal gives the directory back.
    assert SegmentLog.open(disk, options=SMALL, group_id=1).cluster_id == b"a" * 16


def test_a_segment_of_another_cluster_is_refused():
    mine, other = SimulatedDisk(1), SimulatedDisk(2)
    open_log(mine).close()
    open_log(other).close()
    mine.overwrite(FIRST, 0, other.content_of(FIRST))

    with pytest.raises(ForeignData) as refused:
        open_log(mine)

    assert refused.value.file == FIRST


def test_a_segment_of_a_newer_format_is_refused():
    disk = SimulatedDisk()
    open_log(disk).close()
    disk.overwrite(FIRST, 0, seal(b"SluiceSG", 2, b"fields of the future"))

    with pytest.raises(NewerFormat):
        open_log(disk)


def test_a_copy_of_the_log_inside_a_payload_is_not_taken_for_the_log():
    """Somebody publishes a backup of this very segment, and the entry is torn: its content proves nothing."""
    disk = SimulatedDisk()
    log = open_log(disk)
    log.append(entries(zxid(1, 0), 2))
    log.sync()
    log.append(entries(zxid(1, 2), 1))
    log.sync()
    copy = disk.content_of(FIRST)[PAGE_BYTES : PAGE_BYTES + 1800]
    log.append([entry(zxid(1, 3), copy)])
    disk = disk.restart()
    start, _ = place_of(disk, FIRST, b"%d " % zxid(1, 2))
    torn_at = start + 568
    disk.overwrite(FIRST, torn_at, bytes(HEAD_BYTES))

    log = open_log(disk)

    assert log.last_zxid == zxid(1, 2)


def test_an_interrupted_formation_is_begun_anew():
    """The superblock is there, the first segment is not named yet: nothing was ever confirmed."""
    for operation in range(1, 25):
        disk = SimulatedDisk(operation)
        disk.cut_power_after(operation)
        try:
            open_log(disk)
            disk.cut_power()
        except PowerCut:
            pass
        log = open_log(disk.crash())
        log.append(entries(zxid(1, 0), 1))
        assert log.sync() == zxid(1, 0)


def test_the_incarnation_is_new_for_a_directory_that_starts_empty():
    one, other = open_log(SimulatedDisk(1)), open_log(SimulatedDisk(2))

    assert one.incarnation != other.incarnation


def test_an_intent_that_names_a_missing_segment_is_refused():
    disk = synced_log()
    SuperblockStore.load(disk).save_truncation(Truncation(zxid(1, 3), 1, PAGE_BYTES))
    disk.unlink(FIRST)

    with pytest.raises(LogCorrupt, match="missing"):
        open_log(disk)
