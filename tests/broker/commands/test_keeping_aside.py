"""What a repair keeps aside is whole, or as it was before."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sluicemq.broker.commands.keeping_aside import copy_durably, make_folder, write_whole
from sluicemq.storage import RealDirectory


def test_a_note_that_cannot_be_written_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "lost"
    write_whole(note, "1 2\n")

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.EIO, "refused")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="refused"):
        write_whole(note, "1 2\n3 4\n")
    assert note.read_text() == "1 2\n"


def test_each_repair_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    assert [make_folder(tmp_path / "damaged").name for _ in range(3)] == ["1", "2", "3"]


def test_half_a_copy_does_not_stay_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "damaged").mkdir()
    source, target = tmp_path / "segment", tmp_path / "damaged" / "segment"
    source.write_bytes(b"what can be read")
    file = RealDirectory(tmp_path).open("segment")

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match=f"No space left on device: '{target}'"):
            copy_durably(source, target, file)
    assert list(target.parent.iterdir()) == []
    copy_durably(source, target, file)
    assert target.read_bytes() == b"what can be read"
    file.close()
