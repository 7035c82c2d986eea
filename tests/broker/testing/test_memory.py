"""The disk in memory: like a real directory for who uses it, and merciless for who forgets to sync."""

from __future__ import annotations

import errno
import random
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from sluicemq.broker.testing.memory import BLOCK_BYTES, MemoryDisk
from sluicemq.broker.testing.power import Power, PoweredDirectory, PowerOff
from sluicemq.storage.errors import DirectoryLocked
from sluicemq.storage.files import RealDirectory

if TYPE_CHECKING:
    from pathlib import Path

    from sluicemq.storage.files import Directory

NAMES = ("first", "second", "third")
SIZES = (1, 100, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES)


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk(1 << 30)


def write(disk: MemoryDisk, name: str, data: bytes, offset: int = 0) -> None:
    with closing(disk.open(name, create=name not in disk.names())) as file:
        file.pwritev([data], offset)


def read(disk: Directory, name: str) -> bytes:
    with closing(disk.open(name)) as file:
        return file.pread(file.size() + 1, 0)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_done_it_holds_what_a_real_directory_holds(seed: int, tmp_path: Path, disk: MemoryDisk) -> None:
    rng = random.Random(seed)
    real = RealDirectory(str(tmp_path / "real"))
    for _ in range(150):
        name, target, size = rng.choice(NAMES), rng.choice(NAMES), rng.choice(SIZES)
        place = rng.choice((0, 1, 5_000, BLOCK_BYTES, 200_000))
        data = [rng.choice((bytes(size), rng.randbytes(size))), b"tail"]
        deed = rng.choice(("write", "write", "write", "zeros", "truncate", "rename", "unlink", "create"))
        outcomes = []
        for directory in (real, disk):
            try:
                if deed == "create":
                    directory.open(name, create=True).close()
                elif deed == "rename":
                    directory.rename(name, target)
                elif deed == "unlink":
                    directory.unlink(name)
                else:
                    file = directory.open(name)
                    if deed == "write":
                        file.pwritev(data, place)
                    elif deed == "zeros":
                        file.write_zeros(place, place + size)
                    else:
                        file.truncate(size)
                    file.close()
            except OSError as error:
                outcomes.append(error.errno)
            else:
                outcomes.append(0)
        assert outcomes[0] == outcomes[1]
        assert real.names() == disk.names()
        assert all(read(real, each) == read(disk, each) for each in disk.names())


def test_what_was_not_synced_is_gone(disk: MemoryDisk) -> None:
    write(disk, "log", b"old" * 40_000)
    file = disk.open("log")
    file.sync()
    disk.sync()
    file.pwritev([b"new"], 0)
    file.pwritev([b"more"], 500_000)
    file.truncate(10)
    write(disk, "unnamed", b"x")
    disk.open("unnamed").sync()
    disk.unlink("log")
    assert disk.names() == ["unnamed"]
    disk.lose_unsynced()
    assert disk.names() == ["log"], "names are durable with the sync of the directory"
    assert read(disk, "log") == b"old" * 40_000


def test_what_was_synced_stays(disk: MemoryDisk) -> None:
    write(disk, "log", b"old")
    disk.sync()
    file = disk.open("log")
    file.pwritev([b"new", b"er"], 0)
    file.sync()
    file.pwritev([b"lost"], 0)
    disk.lose_unsynced()
    assert read(disk, "log") == b"newer"
    disk.lose_unsynced()
    assert read(disk, "log") == b"newer"


def test_a_name_that_was_synced_may_have_lost_all_that_was_in_it(disk: MemoryDisk) -> None:
    write(disk, "log", b"content")
    disk.sync()
    disk.lose_unsynced()
    assert (disk.names(), read(disk, "log")) == (["log"], b"")


def test_prepared_zeros_take_no_memory(disk: MemoryDisk) -> None:
    write(disk, "segment", bytes(64 << 20))
    assert disk.open("segment").size() == 64 << 20
    assert not disk._names["segment"].blocks


def test_it_is_full_when_it_is_full() -> None:
    disk = MemoryDisk(1_000)
    write(disk, "log", bytes(900))
    assert disk.free_bytes() == 100
    with pytest.raises(OSError, match="No space") as full:
        write(disk, "log", bytes(200), 900)
    assert full.value.errno == errno.ENOSPC
    write(disk, "log", b"x" * 900)


def test_one_at_a_time_holds_it_and_the_dead_do_not(disk: MemoryDisk) -> None:
    lock = disk.lock()
    with pytest.raises(DirectoryLocked):
        disk.lock()
    lock.release()
    disk.lock()
    disk.lose_unsynced()
    disk.lock()


def test_without_power_nothing_reaches_a_disk_but_what_the_system_does_for_the_dead(tmp_path: Path) -> None:
    power = Power()
    directory = PoweredDirectory(RealDirectory(str(tmp_path / "data")), power)
    lock = directory.lock()
    file = directory.open("log", create=True)
    file.pwritev([b"before"], 0)
    power.off()
    for deed in (
        lambda: file.pwritev([b"after!"], 0),
        file.sync,
        lambda: file.truncate(0),
        lambda: directory.unlink("log"),
        lambda: directory.rename("log", "gone"),
        lambda: directory.open("other", create=True),
        directory.sync,
    ):
        with pytest.raises(PowerOff, match="killed"):
            deed()
    file.close()
    lock.release()
    assert (tmp_path / "data" / "log").read_bytes() == b"before"
    RealDirectory(str(tmp_path / "data")).lock().release()
