"""`sluicemq log repair` where files only lie wrong: shortened from outside, or under each other's names."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from sluicemq.broker.commands import log_repair_view
from sluicemq.broker.commands.repairing import Repair
from sluicemq.storage import LogCorrupt, RealDirectory
from tests.broker.commands.test_log import Story, filled, publish, sluicemq, story, verify, zxid
from tests.broker.commands.test_log_repair import BODY, ORDERS, photograph, readable, repair, started

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["story"]


def exchange(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def grown(story: Story, *, old: bool, snapshot: bool = True, files: int = 4) -> list[int]:
    """A log of several files, stopped; what its queue would deliver."""
    filled(story, files)
    if snapshot:
        photograph(story)
    if old:
        story.log.begin_at(story.log.last_zxid)
    story.close()
    log, machine = started(story)
    before = readable(log, machine)
    log.close()
    return before


@pytest.mark.parametrize(
    ("files", "old", "snapshot"),
    [(4, True, True), (4, False, True), (4, False, False), (1, False, True), (1, False, False)],
    ids=["an old file", "with a snapshot", "without", "the last file with a snapshot", "the last file without"],
)
def test_where_only_unused_bytes_were_cut_off_nothing_is_lost(
    story: Story, files: int, old: bool, snapshot: bool
) -> None:
    before = grown(story, old=old, snapshot=snapshot, files=files)
    short = story.segments()[0]
    size = short.stat().st_size
    os.truncate(short, size - 1)
    with pytest.raises(LogCorrupt, match="shortened"):
        started(story)

    found = repair(story)

    assert [each["name"] for each in found["damaged"]] == [short.name]
    assert found["lost"] == []
    assert found["notes"] == []
    assert short.stat().st_size == size
    log, machine = started(story)
    assert readable(log, machine) == before
    log.close()
    assert verify(story)["ok"] is True


@pytest.mark.parametrize("old", [False, True], ids=["the log", "an old file"])
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("within", [True, False], ids=["within an entry", "between two"])
def test_of_a_shortened_file_every_entry_that_can_be_read_stays(
    story: Story, number: int, old: bool, within: bool
) -> None:
    before = grown(story, old=old)
    short = story.segments()[number]
    # Only the file's last entry is lost, all others are there.
    data = short.read_bytes()
    last_body = data.rindex(BODY)
    before_it = data.rindex(BODY, 0, last_body) + len(BODY)
    os.truncate(short, last_body + 100 if within else (before_it + 7) & -8)

    found = repair(story)

    assert [each["entries"] for each in found["lost"]] == [1]
    assert found["settled"] == found["lost_messages"] == {"orders": 1}
    log, machine = started(story)
    left = readable(log, machine)
    assert len(left) == len(before) - 1
    assert set(left) < set(before)
    log.close()
    assert verify(story)["ok"] is True


def test_where_nothing_tells_what_was_cut_off_the_end_the_operator_hears_it(story: Story) -> None:
    for sequence in (2, 3, 4):
        story.write(publish(ORDERS, sequence, BODY))
    whole = story.directory.with_name("as a crash left it")
    shutil.copytree(story.directory, whole)
    story.close()
    shutil.rmtree(story.directory)
    whole.rename(story.directory)
    last = story.segments()[-1]
    os.truncate(last, last.read_bytes().rindex(BODY) + 100)

    found = repair(story)

    assert f"nothing tells whether entries behind 1.{story.counter - 1} were cut off {last.name}" in found["notes"]
    log, machine = started(story)
    assert readable(log, machine)[-1] == zxid(1, story.counter - 1)
    log.close()


@pytest.mark.parametrize("old", [False, True], ids=["the log", "old files"])
@pytest.mark.parametrize("other", [1, 2])
def test_files_under_each_others_names_are_renamed_back(story: Story, other: int, old: bool) -> None:
    before = grown(story, old=old)
    digest = story.digest()
    one, another = story.segments()[0], story.segments()[other]
    exchange(one, another)

    looked = sluicemq("log", "repair", "--dry-run", "--data", story.directory)
    assert f"renamed to {one.name}" in looked.stderr
    assert f"renamed to {another.name}" in looked.stderr
    found = repair(story)

    assert found["lost"] == []
    shutil.rmtree(story.directory / "damaged")
    assert story.digest() == digest
    log, machine = started(story)
    assert readable(log, machine) == before
    log.close()


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_renaming_that_was_interrupted_is_run_again(done: int, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    before = grown(story, old=False)
    exchange(*story.segments()[:2])
    renamed: list[str] = []
    rename = RealDirectory.rename

    def fail(directory: RealDirectory, old: str, new: str) -> None:
        if len(renamed) == done:
            raise KeyboardInterrupt
        renamed.append(new)
        rename(directory, old, new)

    repairing = Repair(story.directory)
    repairing.examine()
    monkeypatch.setattr(RealDirectory, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        repairing.carry_out()
    monkeypatch.undo()
    assert list(story.directory.glob(f"{log_repair_view.RENAMING_PREFIX}*"))
    with pytest.raises(LogCorrupt):
        started(story)

    assert repair(story)["lost"] == []

    log, machine = started(story)
    assert readable(log, machine) == before
    log.close()
    assert verify(story)["ok"] is True


def test_where_two_files_say_that_they_are_the_same_both_are_named_and_nothing_changes(story: Story) -> None:
    filled(story, 3).close()
    first, second = story.segments()[:2]
    shutil.copy(first, second)
    before = story.digest()

    result = sluicemq("log", "repair", "--yes", "--data", story.directory)

    assert result.exit_code == 1
    assert first.name in result.stderr
    assert second.name in result.stderr
    assert "Move the one" in result.stderr
    assert story.digest() == before
