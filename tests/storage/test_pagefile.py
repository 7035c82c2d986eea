"""Pages: slots are never used again while a kept snapshot may name them, and never served when they are not right."""

from __future__ import annotations

import errno
import queue
import threading

import pytest

from sluicemq.storage import (
    DiskFull,
    FileReadFailed,
    FileWriteFailed,
    ForeignData,
    InvalidOption,
    NewerFormat,
    PageCorrupt,
    PageFile,
    RealDirectory,
)
from sluicemq.storage import pagefile as pagefile_module
from sluicemq.storage.pages import PAGE_BYTES, seal
from tests.disk import SimulatedDisk

CLUSTER = b"a cluster of one"
SLOT_BYTES = PAGE_BYTES


def pages_on(disk, kept=None, slot_bytes: int = SLOT_BYTES) -> PageFile:
    pages = PageFile.open(disk, cluster_id=CLUSTER, slot_bytes=slot_bytes)
    pages.adopt(kept or {})
    return pages


def put(pages: PageFile, data: bytes) -> tuple[int, int, int]:
    """Write a page; slot, length and checksum, as its owner keeps them."""
    slot = pages.allocate()
    return slot, len(data), pages.write(slot, data)


def test_a_page_is_read_back_by_the_next_process():
    disk = SimulatedDisk(1)
    pages = pages_on(disk)
    places = [put(pages, bytes([n]) * (n + 1)) for n in range(20)]
    pages.sync()

    pages = pages_on(disk.crash(), {1: [slot for slot, _, _ in places]})

    assert not pages.created
    assert [pages.read(*place) for place in places] == [bytes([n]) * (n + 1) for n in range(20)]


def test_real_files_serve_as_well(tmp_path):
    directory = RealDirectory(tmp_path)
    pages = PageFile.open(directory, cluster_id=CLUSTER)
    pages.adopt({})
    place = put(pages, b"x" * pagefile_module.SLOT_BYTES)
    pages.sync()
    pages.close()
    pages.close()

    pages = PageFile.open(directory, cluster_id=CLUSTER)
    pages.adopt({1: [0]})
    assert pages.read(*place) == b"x" * pagefile_module.SLOT_BYTES
    pages.close()


def test_without_snapshots_a_released_slot_is_free_after_the_next_retain():
    pages = pages_on(SimulatedDisk())
    slots = [pages.allocate() for _ in range(4)]
    pages.release(2)
    pages.release(1)

    assert slots == [0, 1, 2, 3]
    assert pages.retain(1) == 2
    assert [pages.allocate() for _ in range(3)] == [1, 2, 4]


def test_a_slot_waits_until_every_snapshot_that_may_name_it_is_gone():
    pages = pages_on(SimulatedDisk())
    pages.allocate()
    first = pages.freeze()
    pages.release(0)
    assert pages.allocate() == 1
    second = pages.freeze()
    third = pages.freeze()
    assert (first, second, third) == (1, 2, 3)

    assert pages.retain(first) == 0
    assert pages.retain(second) == 1
    assert pages.allocate() == 0


def test_a_slot_that_was_allocated_after_the_freeze_waits_too_for_packing_may_still_name_it():
    pages = pages_on(SimulatedDisk())
    number = pages.freeze()
    pages.allocate()
    pages.release(0)

    assert pages.retain(number) == 0
    assert pages.retain(number + 1) == 1


def test_after_a_start_slots_of_older_snapshots_wait_and_all_others_are_free():
    disk = SimulatedDisk(2)
    pages = pages_on(disk)
    for n in range(6):
        put(pages, bytes([n]))
    pages.sync()

    pages = pages_on(disk.restart(), {7: [0, 1, 4], 9: [1, 5]})

    figures = pages.statistics()
    assert (figures.used, figures.waiting, figures.free) == (2, 2, 2)
    assert [pages.allocate(), pages.allocate(), pages.allocate()] == [2, 3, 6]
    assert pages.freeze() == 10
    assert pages.retain(8) == 2
    assert [pages.allocate(), pages.allocate()] == [0, 4]


def test_the_file_shrinks_when_its_tail_is_free(monkeypatch):
    monkeypatch.setattr(pagefile_module, "SHRINK_SLOTS_MIN", 4)
    disk = SimulatedDisk(3)
    pages = pages_on(disk)
    for n in range(10):
        put(pages, bytes([n]) * SLOT_BYTES)
    for slot in (9, 8, 7, 3):
        pages.release(slot)
    pages.retain(1)
    assert pages.shrink() == 0
    pages.release(6)
    pages.retain(1)

    assert pages.shrink() == 4 * SLOT_BYTES
    assert len(disk.content_of("pages")) == PAGE_BYTES + 6 * SLOT_BYTES
    assert [pages.allocate() for _ in range(3)] == [3, 6, 7]
    pages.write(7, b"again")


def test_a_tail_that_grew_free_in_small_steps_is_cut_in_the_end(monkeypatch):
    monkeypatch.setattr(pagefile_module, "SHRINK_SLOTS_MIN", 4)
    pages = pages_on(SimulatedDisk())
    for n in range(8):
        put(pages, bytes([n]) * SLOT_BYTES)
    cut = []
    for slot in (7, 6, 5, 4):
        pages.release(slot)
        pages.retain(1)
        cut.append(pages.shrink())

    assert cut == [0, 0, 0, 4 * SLOT_BYTES]


def test_a_slot_that_is_allocated_while_the_file_is_cut_keeps_its_page(monkeypatch):
    monkeypatch.setattr(pagefile_module, "SHRINK_SLOTS_MIN", 1)
    taken: list[int] = []

    def event_loop_meanwhile(kind: str, _name: str) -> None:
        if kind == "truncate":
            taken.extend((pages.allocate(), pages.allocate()))

    disk = SimulatedDisk(observer=event_loop_meanwhile)
    pages = pages_on(disk)
    for n in range(4):
        put(pages, bytes([n]) * SLOT_BYTES)
    pages.release(3)
    pages.retain(1)

    assert pages.shrink() == SLOT_BYTES
    assert taken == [3, 4]
    checksums = [pages.write(slot, b"page %d" % slot) for slot in taken]
    assert [pages.read(slot, 6, checksum) for slot, checksum in zip(taken, checksums, strict=True)] == [
        b"page 3",
        b"page 4",
    ]


def test_a_worker_writes_and_reads_while_the_event_loop_allocates_releases_and_counts_snapshots():
    pages = pages_on(SimulatedDisk(5))
    to_write: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    written: queue.SimpleQueue[int] = queue.SimpleQueue()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while (slot := to_write.get()) is not None:
                data = b"%d " % slot * 50
                assert pages.read(slot, len(data), pages.write(slot, data)) == data
                if not slot % 7:
                    pages.sync()
                    pages.shrink()
                written.put(slot)
        except BaseException as failure:
            failures.append(failure)
            written.put(-1)

    worker = threading.Thread(target=work)
    worker.start()
    in_use: set[int] = set()
    for step in range(600):
        slot = pages.allocate()
        assert slot not in in_use
        in_use.add(slot)
        to_write.put(slot)
        if step % 3 == 2:
            for _ in range(3):
                done = written.get(timeout=10)
                assert not failures
                pages.release(done)
                in_use.remove(done)
        if step % 20 == 19:
            pages.retain(pages.freeze() - 1)
    to_write.put(None)
    worker.join()

    figures = pages.statistics()
    assert not failures
    assert figures.used == len(in_use) == 0
    assert figures.writes == 600
    assert figures.slots < 100, "slots are used again"


def test_many_pages_are_synced_in_between(monkeypatch):
    monkeypatch.setattr(pagefile_module, "UNSYNCED_BYTES_MAX", 3 * SLOT_BYTES)
    pages = pages_on(SimulatedDisk())
    for _ in range(7):
        put(pages, bytes(SLOT_BYTES))
    assert pages.statistics().syncs == 2
    pages.sync()
    pages.sync()
    assert pages.statistics().syncs == 3


# --- Damage
# ------------------------------------------------------------------------------------------------------------


def one_page(seed: int = 4) -> tuple[SimulatedDisk, PageFile, tuple[int, int, int]]:
    disk = SimulatedDisk(seed)
    pages = pages_on(disk)
    put(pages, b"neighbour")
    place = put(pages, b"what a queue holds")
    pages.sync()
    return disk, pages, place


def test_a_flipped_bit_is_never_served():
    disk, pages, place = one_page()
    for bit in range(place[1] * 8):
        disk.flip_bit("pages", PAGE_BYTES + SLOT_BYTES + bit // 8, bit % 8)
        with pytest.raises(PageCorrupt) as damage:
            pages.read(*place)
        assert (damage.value.file, damage.value.slot) == ("pages", 1)
        assert damage.value.offset == PAGE_BYTES + SLOT_BYTES
        disk.flip_bit("pages", PAGE_BYTES + SLOT_BYTES + bit // 8, bit % 8)
    assert pages.read(*place) == b"what a queue holds"


def test_another_page_in_its_place_and_a_file_that_ends_early_are_never_served():
    disk, pages, (slot, length, checksum) = one_page()
    with pytest.raises(PageCorrupt, match="checksum is"):
        pages.read(0, length, checksum)
    disk.open("pages").truncate(PAGE_BYTES + SLOT_BYTES + 5)
    with pytest.raises(PageCorrupt, match="ends after 5 of 18 bytes"):
        pages.read(slot, length, checksum)


def test_a_file_that_is_shorter_than_the_snapshots_say_is_refused_at_the_start():
    disk, _, _ = one_page()
    with pytest.raises(PageCorrupt, match="page 2 in pages"):
        pages_on(disk, {1: [0, 1, 2]})
    disk.unlink("pages")
    with pytest.raises(PageCorrupt, match="page 0 in pages"):
        pages_on(disk, {1: [0]})


def test_a_file_of_another_cluster_group_or_version_is_refused():
    disk, _, _ = one_page()
    with pytest.raises(ForeignData, match="belongs to cluster"):
        PageFile.open(disk, cluster_id=b"another cluster!")
    with pytest.raises(ForeignData, match="belongs to group 0"):
        PageFile.open(disk, cluster_id=CLUSTER, group_id=5)
    disk.overwrite("pages", 0, seal(b"SluicePG", 9, b""))
    with pytest.raises(NewerFormat, match="format version 9"):
        PageFile.open(disk, cluster_id=CLUSTER)


def test_a_damaged_first_page_is_written_anew_for_slots_prove_themselves():
    disk, _, place = one_page()
    disk.overwrite("pages", 0, b"garbage")

    pages = pages_on(disk, {1: [0, 1]})

    assert pages.repaired
    assert pages.read(*place) == b"what a queue holds"
    assert not pages_on(disk.crash()).repaired


def test_an_existing_file_keeps_its_slot_size():
    disk, _, place = one_page()

    pages = pages_on(disk, {1: [0, 1]}, slot_bytes=4 * PAGE_BYTES)

    assert pages.slot_bytes == SLOT_BYTES
    assert pages.read(*place) == b"what a queue holds"


# --- The disk refuses, the caller errs
# ------------------------------------------------------------------------------------------------------------


def test_a_full_disk_refuses_the_page_and_nothing_else():
    disk, pages, place = one_page()
    disk.capacity_bytes = disk.used_bytes()
    slot = pages.allocate()
    with pytest.raises(DiskFull):
        pages.write(slot, b"x" * SLOT_BYTES)

    assert pages.read(*place) == b"what a queue holds"
    disk.capacity_bytes = None
    assert pages.read(slot, 4, pages.write(slot, b"more")) == b"more"


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_a_failed_write_or_sync_is_final(kind):
    disk, pages, _ = one_page()
    slot = pages.allocate()
    disk.fail_after(1, errno.EIO, kind)

    def write_durably():
        pages.write(slot, b"x")
        pages.sync()

    with pytest.raises(FileWriteFailed, match=kind):
        write_durably()
    for call in (pages.sync, pages.shrink, lambda: pages.write(slot, b"x")):
        with pytest.raises(FileWriteFailed, match=kind):
            call()


def test_a_disk_that_does_not_answer_is_named():
    _, pages, place = one_page()
    pages.close()

    with pytest.raises(FileReadFailed, match="pages at offset"):
        pages.read(*place)
    with pytest.raises(ValueError, match="closed"):
        pages.sync()


def test_mistakes_of_the_caller_are_refused():
    disk = SimulatedDisk()
    with pytest.raises(InvalidOption, match="slot_bytes"):
        PageFile.open(disk, slot_bytes=5000)
    pages = PageFile.open(disk, cluster_id=CLUSTER, slot_bytes=SLOT_BYTES)
    with pytest.raises(ValueError, match="adopt"):
        pages.allocate()
    with pytest.raises(ValueError, match="negative"):
        pages.adopt({1: [-1]})
    pages.adopt({})
    with pytest.raises(ValueError, match="already"):
        pages.adopt({})
    for slot in (-1, 0, 99):
        with pytest.raises(ValueError, match="not in use"):
            pages.release(slot)
        with pytest.raises(ValueError, match="not in use"):
            pages.write(slot, b"x")
    slot = pages.allocate()
    for data in (b"", bytes(SLOT_BYTES + 1)):
        with pytest.raises(ValueError, match="must have 1 to"):
            pages.write(slot, data)
    pages.release(slot)
    with pytest.raises(ValueError, match="not in use"):
        pages.release(slot)
