"""What is no file and lies under the name of one: refused by name, and never opened, for reading a pipe never ends."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sluicemq.storage import LogOptions, RealDirectory, SegmentLog
from sluicemq.storage.errors import NotAFile
from sluicemq.storage.record import Record
from tests.broker.commands.test_log import sluicemq

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def dangle(path: Path) -> None:
    path.symlink_to(path.with_name("nothing lies here"))


ODD: list[tuple[Callable[[Path], None], str]] = [
    (os.mkfifo, "a pipe"),
    (os.mkdir, "a folder"),
    (dangle, "a link that leads nowhere"),
]
FIRST = "segment-0000000000000001"
COMMANDS = (("verify",), ("stats",), ("dump",), ("repair", "--yes"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    log = SegmentLog.open(RealDirectory(path), options=LogOptions(segment_bytes=65536, initial_bytes=65536))
    log.append([Record(1, 2, 1, 0, b"header", b"payload")])
    log.sync()
    log.close()
    return path


@pytest.mark.parametrize(("make", "found"), ODD, ids=[found for _, found in ODD])
@pytest.mark.parametrize("name", ["superblock", FIRST, "lock"])
def test_it_is_refused_by_name_by_a_start_and_by_every_command(
    data: Path, name: str, make: Callable[[Path], None], found: str
) -> None:
    (data / name).unlink()
    make(data / name)

    with pytest.raises(NotAFile) as refused:
        SegmentLog.open(RealDirectory(data))
    assert str(data / name) in str(refused.value)
    assert f"is {found}" in str(refused.value)

    for command in COMMANDS:
        result = sluicemq("log", *command, "--data", data)
        assert result.exit_code == 1, command
        assert name in result.stdout + result.stderr, command
        assert f"is {found}" in result.stdout + result.stderr, command


@pytest.mark.parametrize(("make", "found"), ODD, ids=[found for _, found in ODD])
@pytest.mark.parametrize("name", ["spare-9", "segment-0000000000000002", "index-0000000000000001", "pages"])
def test_it_is_named_also_where_no_file_of_that_name_need_be(
    data: Path, name: str, make: Callable[[Path], None], found: str
) -> None:
    make(data / name)
    for command in (("verify",), ("repair", "--yes")):
        result = sluicemq("log", *command, "--data", data)
        assert result.exit_code == 1, command
        assert f"{name} is {found}" in result.stdout + result.stderr, command


def test_what_has_a_name_of_its_own_is_nobodys_business(data: Path) -> None:
    os.mkfifo(data / "mine")
    SegmentLog.open(RealDirectory(data)).close()
    for command in COMMANDS:
        result = sluicemq("log", *command, "--data", data)
        assert "is a pipe" not in result.stdout + result.stderr


def test_a_link_to_a_file_is_a_file(data: Path) -> None:
    elsewhere = data.parent / "elsewhere"
    (data / FIRST).rename(elsewhere)
    (data / FIRST).symlink_to(elsewhere)
    log = SegmentLog.open(RealDirectory(data))
    assert log.last_zxid == 1
    log.close()


def test_folders_of_a_repair_and_of_the_file_system_are_no_files(data: Path) -> None:
    for name in ("damaged", "lost+found"):
        (data / name).mkdir()
        assert name not in RealDirectory(data).names()
