"""The log tools on a disk that does not give some sectors back: they go round them, and say what is lost with them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sluicemq.storage import files
from tests.broker.commands.test_log import PAGE_BYTES, Story, dump, filled, sluicemq, story, verify
from tests.broker.commands.test_log_others import aged, rewritten
from tests.broker.commands.test_log_repair import BODY, kept, photograph, readable, repair, started

__all__ = ["aged", "story"]
SECTOR = 512


class BadSectors:
    """Sectors of real files that the system refuses to read until somebody writes them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._bad: dict[int, set[int]] = {}
        self._pread, self._pwrite, self._write = os.pread, os.pwrite, files.write_vector
        monkeypatch.setattr(os, "pread", self.pread)
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        monkeypatch.setattr(files, "write_vector", self.write)

    def strike(self, path: Path, offset: int, length: int = 1) -> None:
        sectors = range(offset // SECTOR, -(-(offset + length) // SECTOR))
        self._bad.setdefault(path.stat().st_ino, set()).update(sectors)

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        bad = self._bad.get(os.fstat(descriptor).st_ino, set())
        if bad and bad.intersection(range(offset // SECTOR, -(-(offset + length) // SECTOR))):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._pread(descriptor, length, offset)

    def write(self, descriptor: int, buffers, offset: int) -> int:
        return self._written(descriptor, self._write(descriptor, buffers, offset), offset)

    def pwrite(self, descriptor: int, data, offset: int) -> int:
        return self._written(descriptor, self._pwrite(descriptor, data, offset), offset)

    def _written(self, descriptor: int, written: int, offset: int) -> int:
        bad = self._bad.get(os.fstat(descriptor).st_ino, set())
        bad.difference_update(range(-(-offset // SECTOR), (offset + written) // SECTOR))
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> BadSectors:
    return BadSectors(monkeypatch)


def body_at(path: Path, number: int) -> int:
    """Where the n-th large body of a file begins."""
    data, at = path.read_bytes(), -1
    for _ in range(number):
        at = data.index(BODY, at + 1)
    return at


def test_a_bad_sector_in_the_middle_is_named_with_what_is_lost(story: Story, disk: BadSectors) -> None:
    filled(story, 3).close()
    first, second, _ = story.segments()
    whole = verify(story)
    at = body_at(first, 3) + 1000
    disk.strike(first, at)

    found = verify(story)

    [problem] = found["problems"]
    start = at - at % SECTOR
    assert problem["file"] == str(first)
    assert f"bytes {start} to {start + 511} cannot be read (I/O error)" in problem["reason"]
    lost = problem["reason"].partition("; lost are entries ")[2]
    first_lost, _, last_lost = lost.partition(" to ")
    assert first_lost == last_lost, "one record"
    assert found["segments"] == whole["segments"], "the others are read"
    damaged = sluicemq("log", "dump", "--data", story.directory)
    assert damaged.exit_code == 1
    assert f"bytes {start} to {start + 511} cannot be read" in damaged.stderr
    assert str(second) not in damaged.stderr


def test_bad_sectors_behind_the_last_entry_are_told_too(story: Story, disk: BadSectors) -> None:
    """A start reads them, to see that nothing was written there."""
    filled(story, 2).close()
    last = story.segments()[-1]
    end = last.read_bytes().rstrip(b"\0")
    disk.strike(last, len(end) + 3 * SECTOR)

    [problem] = verify(story)["problems"]

    assert "nothing tells whether entries were there" in problem["reason"]
    assert problem["offset"] % SECTOR == 0
    assert problem["offset"] >= len(end)


@pytest.mark.parametrize("again", [False, True], ids=["dense", "rewritten"])
def test_a_bad_sector_of_an_old_file_costs_the_entries_that_lie_there(
    aged: Story, disk: BadSectors, again: bool
) -> None:
    (rewritten(aged) if again else aged).close()
    old = min(aged.directory.glob("sparse-*" if again else "segment-*"))
    before = len(dump(aged))
    at = body_at(old, 2)
    disk.strike(old, at + 2000, 3000)

    where, what = verify(aged)["problems"]
    assert where["file"] == what["file"] == str(old)
    assert "cannot be read (I/O error); lost are entries" in where["reason"]
    assert "1 messages of orders are alive in entries" in what["reason"]
    found = repair(aged)

    assert [each["name"] for each in found["damaged"]] == [old.name]
    assert found["lost_messages"] == {"orders": 1}
    assert found["settled"] == {"orders": 1}
    content = kept(aged)[old.name]
    assert content[:at] == (aged.directory / "damaged" / "1" / old.name).read_bytes()[:at]
    assert bytes(SECTOR) in content[at + 1000 : at + 5000], "zeros stand for what cannot be read"
    assert verify(aged)["ok"] is True
    assert len(dump(aged)) >= before - 1
    log, machine = started(aged)
    readable(log, machine)
    log.close()


def test_the_log_is_cut_in_front_of_a_bad_sector_where_no_snapshot_lies_behind_it(
    story: Story, disk: BadSectors
) -> None:
    filled(story, 3).close()
    second = story.segments()[1]
    disk.strike(second, body_at(second, 2) + 3000)
    looked = sluicemq("log", "repair", "--dry-run", "--data", story.directory)
    assert looked.exit_code == 0
    assert "cannot be read (I/O error)" in looked.stderr

    found = repair(story)

    assert found["lost"]
    log, machine = started(story)
    readable(log, machine)
    log.close()
    assert verify(story)["ok"] is True


def test_with_a_snapshot_behind_it_the_log_begins_anew_from_there(story: Story, disk: BadSectors) -> None:
    filled(story, 3)
    photograph(story)
    story.close()
    first = story.segments()[0]
    disk.strike(first, body_at(first, 2) + 1000, PAGE_BYTES)

    found = repair(story)

    assert sum(each["entries"] for each in found["lost"]) == found["lost_messages"]["orders"] == 1
    log, machine = started(story)
    readable(log, machine)
    log.close()


def test_a_superblock_that_cannot_be_read_is_made_anew(story: Story, disk: BadSectors) -> None:
    filled(story, 2).close()
    disk.strike(story.directory / "superblock", 0, (story.directory / "superblock").stat().st_size)

    found = repair(story)

    assert [each["name"] for each in found["damaged"]] == ["superblock"]
    assert found["lost"] == []
    assert verify(story)["ok"] is True
