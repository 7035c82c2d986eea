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
from sluicemq.storage.page_copies import Rot
from sluicemq.storage.pagefile import StoredPage
from sluicemq.storage.pages import PAGE_BYTES, seal
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

CLUSTER = b"a cluster of one"
SLOT_BYTES = PAGE_BYTES


def pages_on(disk, kept=None, slot_bytes: int = SLOT_BYTES) -> PageFile:
    """The page file after a start; *kept* are the slots that each kept snapshot names."""
    pages = PageFile.open(disk, cluster_id=CLUSTER, slot_bytes=slot_bytes)
    pages.adopt({number: [StoredPage(slot, 0, 0) for slot in slots] for number, slots in (kept or {}).items()})
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
    pages.adopt({1: [StoredPage(*place)]})
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
    assert [len(disk.content_of(name)) for name in ("pages", "pages-copy")] == 2 * [PAGE_BYTES + 6 * SLOT_BYTES]
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
        if kind == "truncate" and not taken:
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
                done = written.get(timeout=WAIT_SECONDS)
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
    monkeypatch.setattr(pagefile_module, "UNSYNCED_BYTES_MAX", 2 * 3 * SLOT_BYTES)
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


BOTH = ("pages", "pages-copy")


def flip_both(disk: SimulatedDisk, offset: int, bit: int = 0) -> None:
    for name in BOTH:
        disk.flip_bit(name, offset, bit)


def test_a_flipped_bit_is_never_served():
    disk, pages, place = one_page()
    for bit in range(place[1] * 8):
        flip_both(disk, PAGE_BYTES + SLOT_BYTES + bit // 8, bit % 8)
        with pytest.raises(PageCorrupt) as damage:
            pages.read(*place)
        assert (damage.value.file, damage.value.slot) == ("pages", 1)
        assert damage.value.offset == PAGE_BYTES + SLOT_BYTES
        assert "pages-copy" in str(damage.value)
        flip_both(disk, PAGE_BYTES + SLOT_BYTES + bit // 8, bit % 8)
    assert pages.read(*place) == b"what a queue holds"


# --- Two files, one of which rots
# ------------------------------------------------------------------------------------------------------------


AT = PAGE_BYTES + SLOT_BYTES
ROT = {
    "a flipped bit": lambda disk, name: disk.flip_bit(name, AT + 3),
    "an unreadable sector": lambda disk, name: disk.make_unreadable(name, AT, 512),
    "a file that was cut off": lambda disk, name: disk.open(name).truncate(AT + 5),
    "zeros": lambda disk, name: disk.overwrite(name, AT, bytes(64)),
}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("rot", ROT.values(), ids=ROT)
def test_a_page_that_rots_in_one_file_is_written_again_from_the_other(rot, name):
    disk, pages, place = one_page()
    told: list[Rot] = []
    pages.on_rot = told.append
    rot(disk, name)

    if name == "pages":
        assert pages.read(*place) == b"what a queue holds"
    assert pages.check(1) == 2 * len(b"what a queue holds")

    [found] = told
    assert (found.file, found.offset, found.slot, found.mended) == (name, AT, 1, True)
    assert pages.statistics().mended == 1
    if not found.blank:  # one of many in a file that is made anew is made durable with the others
        disk = disk.crash()
    assert [disk.content_of(each)[AT : AT + place[1]] for each in BOTH] == 2 * [b"what a queue holds"]


def test_rot_of_both_is_named_and_nothing_is_written_over():
    disk, pages, _ = one_page()
    flip_both(disk, AT)
    before = [disk.content_of(name) for name in BOTH]

    with pytest.raises(PageCorrupt, match=r"page 1 in pages at offset 8192 is damaged: .*; its copy in pages-copy"):
        pages.check(1)

    assert [disk.content_of(name) for name in BOTH] == before


def test_who_still_has_the_bytes_of_a_lost_page_writes_it_again():
    disk, pages, place = one_page()
    flip_both(disk, AT)

    assert not pages.restore(1, b"something else")
    assert pages.restore(1, b"what a queue holds")

    disk = disk.crash()
    disk.flip_bit("pages", AT)
    assert pages_on(disk, {1: [0, 1]}).read(*place) == b"what a queue holds"


def test_a_slot_that_was_given_to_somebody_else_is_not_mended_with_what_it_held_before():
    disk, pages, (slot, length, checksum) = one_page()
    pages.sync()
    pages.release(slot)
    pages.retain(1)
    assert pages.allocate() == slot
    later = b"what another one holds"
    place = slot, len(later), pages.write(slot, later)
    disk.overwrite("pages-copy", AT, b"what a queue holds")  # as if its write had been lost

    assert pages.read(slot, length, checksum) == b"what a queue holds", "a reader of an old snapshot"
    assert pages.read(*place) == later
    pages.check(slot)
    disk.flip_bit("pages", AT)
    assert pages.read(*place) == later, "it was the copy that was mended"


def test_a_directory_of_an_older_version_gets_its_second_file_without_an_alarm():
    disk, pages, place = one_page()
    pages.close()
    disk.unlink("pages-copy")
    pages = PageFile.open(disk, cluster_id=CLUSTER)
    assert not pages.created
    told: list[Rot] = []
    pages.on_rot = told.append
    pages.adopt({1: [StoredPage(*place)]})

    assert [pages.check(slot) for slot in range(pages.slots)] == [0, 2 * place[1]]
    assert [(each.file, each.blank, each.mended) for each in told] == [("pages-copy", True, True)]
    pages.sync()
    disk.open("pages").truncate(PAGE_BYTES)
    assert pages.read(*place) == b"what a queue holds"


def test_a_full_disk_leaves_one_good_page_and_says_so():
    disk, pages, place = one_page()
    told: list[Rot] = []
    pages.on_rot = told.append
    disk.flip_bit("pages", AT)
    disk.fail_after(1, errno.ENOSPC, "write", "pages")

    assert pages.read(*place) == b"what a queue holds"
    assert [(each.mended, "no room" in each.reason) for each in told] == [(False, True)]
    assert pages.read(*place) == b"what a queue holds"
    assert told[-1].mended


def test_looking_only_makes_and_mends_nothing():
    disk, pages, place = one_page()
    pages.close()
    disk.flip_bit("pages", AT)
    before = {name: disk.content_of(name) for name in disk.names()}
    pages = PageFile.open(disk, cluster_id=CLUSTER, read_only=True)

    assert [rot.file for rot in pages.inspect(StoredPage(*place))] == ["pages"]
    assert pages.read(*place) == b"what a queue holds"
    pages.close()
    disk.unlink("pages-copy")
    pages = PageFile.open(disk, cluster_id=CLUSTER, read_only=True)
    with pytest.raises(PageCorrupt, match="the file is missing"):
        pages.read(*place)
    assert disk.names() == ["pages"]
    assert disk.content_of("pages") == before["pages"]


def test_another_page_in_its_place_and_a_file_that_ends_early_are_never_served():
    disk, pages, (slot, length, checksum) = one_page()
    with pytest.raises(PageCorrupt, match="checksum is"):
        pages.read(0, length, checksum)
    for name in BOTH:
        disk.open(name).truncate(PAGE_BYTES + SLOT_BYTES + 5)
    with pytest.raises(PageCorrupt, match="ends after 5 of 18 bytes"):
        pages.read(slot, length, checksum)


def test_a_file_that_is_shorter_than_the_snapshots_say_is_refused_at_the_start():
    disk, _, _ = one_page()
    with pytest.raises(PageCorrupt, match="page 2 in pages"):
        pages_on(disk, {1: [0, 1, 2]})
    for name in BOTH:
        disk.unlink(name)
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
    assert pages.slot_bytes == SLOT_BYTES
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
        pages.adopt({1: [StoredPage(-1, 0, 0)]})
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
