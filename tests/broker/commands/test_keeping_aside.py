"""What a repair keeps aside is whole, or as it was before."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sluicemq.broker.commands.keeping_aside import make_folder, write_whole


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
