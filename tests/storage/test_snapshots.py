"""Snapshots: what was finished is read back byte for byte, and nothing else ever counts."""

from __future__ import annotations

import errno

import pytest

from sluicemq.storage import (
    DiskFull,
    FileReadFailed,
    FileWriteFailed,
    ForeignData,
    NewerFormat,
    RealDirectory,
    SnapshotDamaged,
    SnapshotInProgress,
    SnapshotNotNewer,
    SnapshotStore,
    snapshot_file,
)
from sluicemq.storage import snapshots as snapshots_module
from sluicemq.storage.pages import PAGE_BYTES, seal
from tests.disk import SimulatedDisk

CLUSTER = b"a cluster of one"
CHAIN = b"chain..."
SECTIONS = [(1, b"queues"), (7, b""), (0xFFFFFFFF, bytes(range(256)) * 300)]


def store_on(disk, cluster_id: bytes = CLUSTER, group_id: int = 0) -> SnapshotStore:
    return SnapshotStore(disk, cluster_id, group_id)


def write(store: SnapshotStore, zxid: int, sections=SECTIONS, generation: int = 1):
    writer = store.begin(zxid, CHAIN, generation)
    for kind, data in sections:
        writer.add(kind, data)
    return writer.finish()


def name_of(zxid: int) -> str:
    return f"snapshot-{zxid:016x}"


def test_a_finished_snapshot_is_read_back_by_the_next_process():
    disk = SimulatedDisk(1)
    info = write(store_on(disk), 5, generation=3)

    disk = disk.crash()
    with store_on(disk).newest_good() as snapshot:
        assert list(snapshot.sections()) == SECTIONS
        assert list(snapshot.sections()) == SECTIONS, "it can be read again"
        assert (snapshot.zxid, snapshot.chain, snapshot.generation) == (5, CHAIN, 3)
        assert snapshot.info == info
        assert info.sections == 3
        assert info.file_bytes == len(disk.content_of(name_of(5)))


def test_an_empty_directory_has_no_snapshot_and_nothing_was_rejected():
    store = store_on(SimulatedDisk())

    assert store.newest_good() is None
    assert store.rejected == ()
    assert store.keep() == ()


def test_a_snapshot_without_sections_is_whole_too():
    disk = SimulatedDisk()
    write(store_on(disk), 1, sections=[])

    assert list(store_on(disk).newest_good().sections()) == []


def test_sections_larger_and_smaller_than_every_buffer_come_back():
    disk = SimulatedDisk(2)
    sizes = (1, snapshots_module.WRITE_BYTES, snapshot_file.READ_BYTES + 1, 16, 3 * snapshot_file.READ_BYTES)
    sections = [(kind, disk.random.randbytes(size)) for kind, size in enumerate(sizes, 1)]
    write(store_on(disk), 9, sections)

    assert list(store_on(disk).newest_good().sections()) == sections


def test_real_files_serve_as_well(tmp_path):
    directory = RealDirectory(tmp_path)
    for zxid in (1, 2, 3):
        write(store_on(directory), zxid)
    store = store_on(directory)

    kept = store.keep()

    assert [info.zxid for info in kept] == [3, 2]
    assert directory.names() == [name_of(2), name_of(3)]
    with store.newest_good() as snapshot:
        assert list(snapshot.sections()) == SECTIONS


def test_an_unfinished_snapshot_does_not_count_and_the_next_one_takes_its_place():
    disk = SimulatedDisk(3)
    store = store_on(disk)
    write(store, 1)
    store.begin(2, CHAIN, 2).add(1, b"half")
    disk = disk.restart()
    store = store_on(disk)

    assert store.newest_good().zxid == 1
    write(store, 2)
    assert store_on(disk).newest_good().zxid == 2
    assert disk.names() == [name_of(1), name_of(2)]


def test_an_abandoned_snapshot_leaves_nothing_behind():
    disk = SimulatedDisk()
    store = store_on(disk)
    writer = store.begin(1, CHAIN, 1)
    writer.add(1, b"data")
    writer.abandon()
    writer.abandon()

    assert disk.names() == []
    with pytest.raises(ValueError, match="has ended"):
        writer.add(1, b"more")
    assert write(store, 1).zxid == 1
    assert (store.statistics().abandoned, store.statistics().written) == (1, 1)


def test_what_the_packer_changes_after_it_handed_it_over_does_not_matter():
    disk = SimulatedDisk()
    writer = store_on(disk).begin(1, CHAIN, 1)
    data = bytearray(b"before")
    writer.add(1, data)
    data[:] = b"after!"
    writer.finish()

    assert list(store_on(disk).newest_good().sections()) == [(1, b"before")]


def test_mistakes_of_the_caller_are_refused_before_anything_is_written():
    disk = SimulatedDisk()
    store = store_on(disk)
    write(store, 5)
    store.keep()
    for zxid in (4, 5):
        with pytest.raises(SnapshotNotNewer):
            store.begin(zxid, CHAIN, 1)
    with pytest.raises(ValueError, match="chain has 3 bytes"):
        store.begin(6, b"abc", 1)
    with pytest.raises(ValueError, match="newest is 0"):
        store.keep(0)
    writer = store.begin(6, CHAIN, 1)
    with pytest.raises(SnapshotInProgress):
        store.begin(7, CHAIN, 1)
    for kind in (0, -1, 1 << 32):
        with pytest.raises(ValueError, match="kind of a section"):
            writer.add(kind, b"")
    writer.finish()

    assert list(store.newest_good().sections()) == []


# --- Keeping and removing
# ------------------------------------------------------------------------------------------------------------


def test_two_are_kept_and_older_ones_go_durably():
    disk = SimulatedDisk(4)
    store = store_on(disk)
    for zxid in range(1, 6):
        write(store, zxid, generation=zxid)
        assert [info.zxid for info in store.keep()] == [zxid, zxid - 1][: max(1, min(2, zxid))]

    assert [info.generation for info in store.keep()] == [5, 4]
    assert disk.crash().names() == [name_of(4), name_of(5)]
    assert store.statistics().removed == 3


def test_nothing_older_goes_while_the_newest_cannot_be_read_back():
    disk = SimulatedDisk(5)
    store = store_on(disk)
    for zxid in (1, 2, 3):
        write(store, zxid)
    disk.flip_bit(name_of(3), PAGE_BYTES + 3)

    kept = store.keep()

    assert [info.zxid for info in kept] == [2, 1]
    assert [error.file for error in store.rejected] == [name_of(3)]
    assert disk.names() == [name_of(1), name_of(2), name_of(3)]


@pytest.mark.parametrize("fault", ["lose_write_after", "misdirect_write_after"])
def test_a_write_that_never_reached_its_place_is_noticed_before_anything_older_goes(fault, monkeypatch):
    monkeypatch.setattr(snapshots_module, "WRITE_BYTES", 1000)
    disk = SimulatedDisk(9)
    store = store_on(disk)
    write(store, 1)
    write(store, 2)
    getattr(disk, fault)(3, "snapshot.new")
    write(store, 3, [(1, disk.random.randbytes(1000)) for _ in range(20)])

    kept = store.keep()

    assert [info.zxid for info in kept] == [2, 1]
    assert [error.file for error in store.rejected] == [name_of(3)]


def test_an_open_snapshot_stays_readable_after_its_name_is_gone():
    disk = SimulatedDisk()
    store = store_on(disk)
    write(store, 1)
    snapshot = store.newest_good()
    for zxid in (2, 3):
        write(store, zxid)
    store.keep()

    assert name_of(1) not in disk.names()
    assert list(snapshot.sections()) == SECTIONS


# --- Damage
# ------------------------------------------------------------------------------------------------------------


def two_snapshots(seed: int = 6) -> SimulatedDisk:
    disk = SimulatedDisk(seed)
    write(store_on(disk), 1, [(1, b"older")])
    write(store_on(disk), 2, [(1, b"newer"), (2, b"x" * 3000)])
    return disk


def test_every_single_flipped_bit_is_noticed_and_the_older_one_serves():
    clean = two_snapshots()
    size = len(clean.content_of(name_of(2)))
    for offset in [*range(64), *range(64, PAGE_BYTES, 97), *range(PAGE_BYTES, size)]:
        clean.flip_bit(name_of(2), offset, offset % 8)
        store = store_on(clean)
        assert store.newest_good().zxid == 1, f"byte {offset}"
        assert [type(error) for error in store.rejected] == [SnapshotDamaged]
        clean.flip_bit(name_of(2), offset, offset % 8)
    assert store_on(clean).newest_good().zxid == 2


def test_every_truncation_is_noticed():
    size = len(two_snapshots().content_of(name_of(2)))
    for length in [0, 1, PAGE_BYTES - 1, *range(PAGE_BYTES, size, 7), size - 1]:
        disk = two_snapshots()
        disk.open(name_of(2)).truncate(length)
        store = store_on(disk)
        assert store.newest_good().zxid == 1, f"{length} bytes"
        assert isinstance(store.rejected[0], SnapshotDamaged)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda disk, size: disk.overwrite(name_of(2), size, b"x"), "bytes behind the footer"),
        (lambda disk, size: disk.overwrite(name_of(2), 0, disk.random.randbytes(size)), "magic"),
        (lambda disk, size: disk.overwrite(name_of(2), PAGE_BYTES, bytes(size - PAGE_BYTES)), "no head of section 1"),
        (lambda disk, size: disk.overwrite(name_of(2), PAGE_BYTES + 16, b"other"), "checksum of section 1"),
        (lambda disk, size: disk.open(name_of(2)).truncate(size - 1), "within section 3"),
        (lambda disk, size: disk.open(name_of(2)).truncate(PAGE_BYTES), "within the head of section 1"),
        (lambda disk, size: disk.rename(name_of(1), name_of(2)), "was written as snapshot-0000000000000001"),
    ],
)
def test_damage_is_named(damage, reason):
    disk = two_snapshots()
    damage(disk, len(disk.content_of(name_of(2))))
    store = store_on(disk)
    store.newest_good()

    assert reason in str(store.rejected[0])
    assert name_of(2) in str(store.rejected[0])


def test_sections_of_another_snapshot_are_noticed_by_the_digest():
    """A misdirected write of a whole section of the same size, with a valid checksum of its own."""
    disk = SimulatedDisk()
    write(store_on(disk), 1, [(1, b"aaaa")])
    write(store_on(disk), 2, [(1, b"bbbb")])
    foreign = disk.content_of(name_of(1))[PAGE_BYTES : PAGE_BYTES + 20]
    disk.overwrite(name_of(2), PAGE_BYTES, foreign)
    store = store_on(disk)

    assert store.newest_good().zxid == 1
    assert "footer belongs to other sections" in str(store.rejected[0])


def test_a_snapshot_of_another_cluster_or_group_is_refused():
    disk = two_snapshots()

    with pytest.raises(ForeignData, match="belongs to cluster"):
        store_on(disk, b"another cluster!").newest_good()
    with pytest.raises(ForeignData, match="belongs to group"):
        store_on(disk, group_id=1).keep()


def test_a_snapshot_of_a_newer_version_is_refused_not_passed_over():
    disk = two_snapshots()
    disk.overwrite(name_of(2), 0, seal(b"SluiceSN", 2, b"who knows"))

    with pytest.raises(NewerFormat, match="format version 2"):
        store_on(disk).newest_good()


def test_a_rejected_snapshot_is_set_aside_and_goes_when_two_newer_ones_are_good():
    disk = two_snapshots()
    disk.flip_bit(name_of(2), 9)
    store = store_on(disk)
    store.newest_good()

    assert store.set_aside_rejected() == ("rejected-" + name_of(2),)
    assert store.set_aside_rejected() == ()
    disk = disk.crash()
    assert disk.names() == ["rejected-" + name_of(2), name_of(1)]
    store = store_on(disk)
    assert store.newest_good().zxid == 1
    assert store.rejected == ()
    write(store, 2)
    store.keep()
    assert "rejected-" + name_of(2) in disk.names()
    write(store, 3)
    write(store, 4)
    assert [info.zxid for info in store.keep()] == [4, 3]
    assert disk.names() == [name_of(3), name_of(4)]


def test_a_snapshot_that_cannot_be_read_is_passed_over_with_its_reason():
    class Unreadable:
        def __init__(self, disk):
            self._disk = disk

        def __getattr__(self, name):
            return getattr(self._disk, name)

        def open(self, name, *, create=False):
            if name == name_of(2):
                raise OSError(errno.EIO, "Input/output error")
            return self._disk.open(name, create=create)

    store = store_on(Unreadable(two_snapshots()))

    assert store.newest_good().zxid == 1
    assert isinstance(store.rejected[0], FileReadFailed)


# --- The disk refuses
# ------------------------------------------------------------------------------------------------------------


def test_a_full_disk_ends_the_snapshot_and_nothing_else():
    disk = SimulatedDisk(7)
    store = store_on(disk)
    write(store, 1)
    disk.capacity_bytes = disk.used_bytes() + 100_000
    writer = store.begin(2, CHAIN, 2)
    with pytest.raises(DiskFull, match=r"snapshot\.new"):
        writer.add(1, bytes(snapshots_module.WRITE_BYTES))

    assert disk.names() == [name_of(1)]
    assert store.newest_good().zxid == 1
    disk.capacity_bytes = None
    assert write(store, 2).zxid == 2


@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename", "directory sync"])
def test_a_failed_operation_is_fatal_and_leaves_the_older_snapshot(kind):
    disk = SimulatedDisk(8)
    store = store_on(disk)
    write(store, 1)
    disk.fail_after(1, errno.EIO, kind)
    with pytest.raises(FileWriteFailed):
        write(store, 2)

    disk = disk.crash()
    assert store_on(disk).newest_good().zxid in ((1,) if kind != "directory sync" else (1, 2))
