"""The simulated disk itself: what was synced stays, what was not may go, in every way that the log must survive."""

from __future__ import annotations

import errno
import threading

import pytest

from sluicemq.storage import DirectoryLocked
from tests.disk import PAGE_BYTES, SECTOR_BYTES, PowerCut, SimulatedDisk

SEEDS = range(300)


def file_with(disk: SimulatedDisk, content: bytes, name: str = "f"):
    file = disk.open(name, create=True)
    file.pwritev([content], 0)
    file.sync()
    disk.sync()
    return file


def test_synced_data_under_a_synced_name_survives_every_crash():
    for seed in SEEDS:
        disk = SimulatedDisk(seed)
        file_with(disk, b"safe" * 1000)
        assert disk.crash().content_of("f") == b"safe" * 1000


def test_an_unsynced_write_is_kept_or_dropped_or_torn_at_sectors():
    outcomes = set()
    for seed in SEEDS:
        disk = SimulatedDisk(seed)
        file_with(disk, b"o" * 4 * SECTOR_BYTES).pwritev([b"n" * 4 * SECTOR_BYTES], 0)
        content = disk.crash().content_of("f")
        sectors = [content[start : start + SECTOR_BYTES] for start in range(0, len(content), SECTOR_BYTES)]
        assert all(sector in (b"o" * SECTOR_BYTES, b"n" * SECTOR_BYTES) for sector in sectors)
        outcomes.add("".join(chr(sector[0]) for sector in sectors))

    assert {"oooo", "nnnn"} <= outcomes
    assert len(outcomes) == 16


def test_unsynced_writes_are_lost_in_any_order():
    outcomes = set()
    for seed in SEEDS:
        disk = SimulatedDisk(seed)
        file = file_with(disk, b"..")
        file.pwritev([b"1"], 0)
        file.pwritev([b"2"], 1)
        outcomes.add(disk.crash().content_of("f"))

    assert outcomes == {b"..", b"1.", b".2", b"12"}


def test_a_change_of_size_is_lost_or_kept():
    for change, sizes in (
        (lambda file: file.truncate(10), {10, 20}),
        (lambda file: file.pwritev([b"x"], 29), {20, 30}),
    ):
        outcomes = set()
        for seed in SEEDS:
            disk = SimulatedDisk(seed)
            change(file_with(disk, b"y" * 20))
            outcomes.add(len(disk.crash().content_of("f")))
        assert outcomes == sizes


def test_names_are_kept_in_order_up_to_a_point():
    outcomes = set()
    for seed in SEEDS:
        disk = SimulatedDisk(seed)
        file_with(disk, b"old", "a")
        disk.rename("a", "b")
        disk.open("c", create=True)
        disk.unlink("b")
        outcomes.add(tuple(disk.crash().names()))

    assert outcomes == {("a",), ("b",), ("b", "c"), ("c",)}


def test_a_synced_file_whose_name_was_not_synced_can_vanish():
    outcomes = set()
    for seed in SEEDS:
        disk = SimulatedDisk(seed)
        file = disk.open("f", create=True)
        file.pwritev([b"data"], 0)
        file.sync()
        disk = disk.crash()
        outcomes.add(disk.content_of("f") if disk.names() else None)

    assert outcomes == {b"data", None}


def test_kill_minus_nine_loses_nothing_but_makes_nothing_durable():
    disk = SimulatedDisk(3)
    file_with(disk, b"old").pwritev([b"new"], 0)

    disk = disk.restart()

    assert disk.content_of("f") == b"new"
    assert disk.unsynced_bytes("f") == 3


def test_the_power_goes_off_at_the_chosen_operation_and_stays_off():
    disk = SimulatedDisk()
    file = file_with(disk, b"old")
    disk.cut_power_after(2)
    file.pwritev([b"n"], 0)
    with pytest.raises(PowerCut, match="sync of f"):
        file.sync()

    for call in (file.sync, disk.sync, disk.names, lambda: file.pread(1, 0), lambda: disk.open("g", create=True)):
        with pytest.raises(PowerCut):
            call()


def test_after_a_failed_sync_the_next_one_lies():
    """As Linux does: the pages count as clean, whether they reached the disk or not."""
    outcomes = set()
    for seed in SEEDS:
        disk = SimulatedDisk(seed)
        file = file_with(disk, b"old")
        file.pwritev([b"new"], 0)
        disk.fail_after(1, errno.EIO, "sync")
        with pytest.raises(OSError, match="Input/output error"):
            file.sync()
        file.sync()
        assert file.pread(3, 0) == b"new"
        outcomes.add(disk.crash().content_of("f"))

    assert outcomes == {b"old", b"new"}


def test_a_full_disk_refuses_growth_only():
    disk = SimulatedDisk(capacity_bytes=100)
    file = file_with(disk, b"x" * 100)

    file.pwritev([b"y" * 100], 0)
    with pytest.raises(OSError, match="No space") as refused:
        file.pwritev([b"z"], 100)

    assert refused.value.errno == errno.ENOSPC
    assert disk.free_bytes() == 0
    assert file.pread(200, 0) == b"y" * 100


def test_reads_and_writes_at_any_place_match_a_plain_bytearray():
    disk = SimulatedDisk(5)
    rng = disk.random
    file, plain = disk.open("f", create=True), bytearray()
    for _ in range(500):
        if rng.random() < 0.1:
            size = rng.randint(0, 5 * PAGE_BYTES)
            file.truncate(size)
            plain = plain[:size].ljust(size, b"\0")
        else:
            data, offset = (
                rng.randbytes(rng.choice((1, 100, PAGE_BYTES, 2 * PAGE_BYTES))),
                rng.randint(0, 3 * PAGE_BYTES),
            )
            file.pwritev([data[:10], data[10:]], offset)
            plain = plain.ljust(offset, b"\0")
            plain[offset : offset + len(data)] = data
        if rng.random() < 0.3:
            file.sync()
            assert disk.unsynced_bytes("f") == 0
        length, offset = rng.randint(0, 3 * PAGE_BYTES), rng.randint(0, 5 * PAGE_BYTES)
        assert file.pread(length, offset) == bytes(plain[offset : offset + length])
    file.sync()
    disk.sync()
    assert disk.crash().content_of("f") == bytes(plain)


def test_a_file_of_zeros_costs_next_to_nothing():
    disk = SimulatedDisk()
    file = disk.open("f", create=True)
    file.pwritev([bytes(1 << 20)] * 64, 0)
    file.sync()

    assert file.size() == 64 << 20
    assert len({id(page) for page in disk._names["f"].current.pages.values()}) == 1


def test_the_same_seed_gives_the_same_disk():
    def story(seed: int) -> tuple[bytes, bytes]:
        disk = SimulatedDisk(seed)
        file_with(disk, b"o" * 9000).pwritev([b"n" * 9000], 0)
        return disk.unique_id(), disk.crash().content_of("f")

    assert story(4) == story(4)
    assert story(4) != story(5)


def test_the_lock_holds_until_it_is_released_or_the_power_goes_off():
    disk = SimulatedDisk()
    lock = disk.lock()
    with pytest.raises(DirectoryLocked):
        disk.lock()
    lock.release()
    disk.lock()

    disk.crash().lock()


def test_missing_and_existing_names_are_refused():
    disk = SimulatedDisk()
    for call in (lambda: disk.open("f"), lambda: disk.rename("f", "g"), lambda: disk.unlink("f")):
        with pytest.raises(FileNotFoundError):
            call()
    disk.open("f", create=True)
    with pytest.raises(FileExistsError):
        disk.open("f", create=True)


# --- A bad disk
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_the_nth_operation_of_a_kind_on_some_files_fails_and_no_other(kind):
    disk = SimulatedDisk(1)
    files = {name: file_with(disk, b"old", name) for name in ("log-1", "log-2", "pages")}
    disk.fail_after(3, errno.EIO, kind, "log-")

    def rewrite(name: str) -> str:
        try:
            files[name].pwritev([b"new"], 0)
            files[name].sync()
        except OSError as error:
            return f"{name}: {error.strerror}"
        return name

    written = [rewrite(name) for name in ("log-1", "pages", "pages", "log-2", "pages", "log-1", "log-1")]

    assert written == ["log-1", "pages", "pages", "log-2", "pages", "log-1: Input/output error", "log-1"]


def test_of_a_write_that_fails_nothing_or_a_part_or_all_was_done():
    outcomes = set()
    for seed in SEEDS:
        disk = SimulatedDisk(seed)
        file = file_with(disk, b"....")
        disk.fail_after(1, errno.EIO, "write")
        with pytest.raises(OSError, match="Input/output error"):
            file.pwritev([b"ab", b"cd"], 0)
        outcomes.add(file.pread(4, 0))

    assert outcomes == {b"....", b"ab..", b"abcd"}


def test_a_write_that_finds_no_space_is_done_as_far_as_there_was_room():
    disk = SimulatedDisk(capacity_bytes=6)
    file = file_with(disk, b"1234")
    with pytest.raises(OSError, match="No space"):
        file.pwritev([b"abcd"], 4)
    with pytest.raises(OSError, match="No space"):
        file.pwritev([b"x"], 100)

    assert file.pread(100, 0) == b"1234ab"


def test_space_comes_back_when_a_file_is_gone_and_nobody_has_it_open():
    disk = SimulatedDisk(capacity_bytes=100)
    first = file_with(disk, b"x" * 60, "first")
    second = file_with(disk, b"y" * 40, "second")
    disk.unlink("first")
    with pytest.raises(OSError, match="No space"):
        second.pwritev([b"y"], 40)
    first.close()

    second.pwritev([b"y" * 60], 40)
    second.truncate(10)
    assert disk.free_bytes() == 90
    replaced = file_with(disk, b"z" * 30, "third")
    disk.rename("second", "third")
    assert disk.free_bytes() == 60
    replaced.close()
    assert disk.free_bytes() == 90
    disk.capacity_bytes = None
    second.pwritev([b"y" * 1000], 0)


@pytest.mark.parametrize("end", ["kill", "crash"])
def test_files_of_a_dead_process_hold_no_space(end):
    disk = SimulatedDisk(capacity_bytes=100)
    file = file_with(disk, b"x" * 60)
    disk = disk.restart() if end == "kill" else disk.crash()
    disk.unlink("f")
    file.close()

    assert disk.free_bytes() == 100


def test_a_lost_write_is_seen_until_the_kernel_forgets_it():
    disk = SimulatedDisk(2)
    file = file_with(disk, b"old")
    disk.lose_write_after(2)
    file.pwritev([b"m"], 0)
    file.pwritev([b"new!"], 0)
    file.sync()

    assert file.pread(10, 0) == b"new!"
    disk.drop_caches()
    assert file.pread(10, 0) == b"mld\0", "the size was kept by the file system, the data was not"
    file.pwritev([b"good"], 0)
    file.sync()
    disk.drop_caches()
    assert file.pread(10, 0) == b"good"
    assert disk.crash().content_of("f") == b"good"


def test_a_misdirected_write_damages_another_place_and_leaves_its_own_as_it_was():
    disk = SimulatedDisk(3)
    file = file_with(disk, b"aaaabbbb")
    disk.misdirect_write_after(1, to_offset=4)
    file.pwritev([b"new!"], 0)
    file.sync()

    assert file.pread(8, 0) == b"new!bbbb"
    assert disk.crash().content_of("f") == b"aaaanew!"


def test_a_misdirected_write_may_hit_another_file_or_any_place():
    disk = SimulatedDisk(4)
    file, other = file_with(disk, b"mine"), file_with(disk, b"theirs", "other")
    disk.misdirect_write_after(1, "f", to_name="other", to_offset=2)
    file.pwritev([b"new!"], 0)
    file.sync()
    other.sync()
    disk.drop_caches()
    assert (file.pread(9, 0), other.pread(9, 0)) == (b"mine", b"thnew!")

    outcomes = set()
    for seed in SEEDS:
        disk = SimulatedDisk(seed)
        file = file_with(disk, b"....")
        disk.misdirect_write_after()
        file.pwritev([b"x"], 0)
        file.sync()
        outcomes.add(disk.crash().content_of("f"))
    assert outcomes == {b"x...", b".x..", b"..x.", b"...x"}


def test_a_range_that_cannot_be_read_is_mended_by_writing_to_it():
    disk = SimulatedDisk(5)
    file_with(disk, b"0123456789")
    disk.make_unreadable("f", 4, 2)
    disk = disk.crash()
    file = disk.open("f")

    assert (file.pread(4, 0), file.pread(4, 6)) == (b"0123", b"6789")
    for offset, length in ((0, 5), (4, 1), (5, 1), (5, 5), (0, 10)):
        with pytest.raises(OSError, match="Input/output error"):
            file.pread(length, offset)
    file.pwritev([b"xx"], 6)
    with pytest.raises(OSError, match="Input/output error"):
        file.pread(1, 5)
    file.pwritev([b"xx"], 4)
    assert file.pread(10, 0) == b"0123xxxx89"


def test_any_bit_of_any_file_may_flip_and_the_place_is_told():
    places = set()
    for seed in SEEDS:
        disk = SimulatedDisk(seed)
        file_with(disk, bytes(1), "log-1")
        file_with(disk, bytes(1), "log-2")
        file_with(disk, b"never", "pages")
        disk.open("log-1").pwritev([b"\0"], 1)
        name, offset, bit = disk.flip_random_bit("log-")
        assert disk.content_of(name)[offset] == 1 << bit
        assert disk.crash().content_of("pages") == b"never"
        places.add((name, offset, bit))

    assert len(places) == (2 + 1) * 8


def test_a_held_sync_waits_until_it_is_let_go_and_covers_what_was_written_before_it():
    disk = SimulatedDisk(6)
    file, other = file_with(disk, b"old"), file_with(disk, b"old", "other")
    file.pwritev([b"new"], 0)
    with disk.hold_syncs("f") as held:
        syncing = threading.Thread(target=file.sync)
        syncing.start()
        held.wait_until_held()
        file.pwritev([b"late"], 3)
        other.pwritev([b"new"], 0)
        other.sync()
        assert (disk.unsynced_bytes("f"), disk.unsynced_bytes("other")) == (7, 0)
    syncing.join()

    assert (disk.unsynced_bytes("f"), held.waiting) == (4, 0)
    file.sync()
    assert disk.unsynced_bytes("f") == 0


@pytest.mark.parametrize("ending", ["now", "in an operation", "kill"])
def test_the_power_may_go_off_while_a_sync_is_held(ending):
    disk = SimulatedDisk(7)
    file = file_with(disk, b"old")
    file.pwritev([b"new"], 0)
    seen: list[BaseException] = []

    def sync() -> None:
        try:
            file.sync()
        except PowerCut as cut:
            seen.append(cut)

    held = disk.hold_syncs()
    syncing = threading.Thread(target=sync)
    syncing.start()
    held.wait_until_held()
    if ending == "now":
        disk.cut_power()
    elif ending == "kill":
        disk.restart()
    else:
        disk.cut_power_after(1)
        with pytest.raises(PowerCut):
            disk.sync()
    syncing.join()

    assert len(seen) == 1
    assert disk.unsynced_bytes("f") == 3
