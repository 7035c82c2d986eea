"""`sluicemq log repair`: what is lost is said first, damaged files are kept, and a broker's start works afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sluicemq.broker.pipeline.keeping.restart import Restart, load_newest, replay
from sluicemq.broker.queues.chunks import ChunkPool, Page
from sluicemq.broker.queues.machine import Machine
from sluicemq.storage import (
    LogCorrupt,
    PageFile,
    RealDirectory,
    SegmentLog,
    SnapshotStore,
    SuperblockDamaged,
)
from tests.broker.commands.test_log import PAGE_BYTES, Story, filled, flip, publish, sluicemq, story, verify, zxid

__all__ = ["story"]
ORDERS = zxid(1, 1)
BODY = b"x" * 9000


def started(story: Story) -> tuple[SegmentLog, Machine]:
    """Start as a broker does."""
    directory = RealDirectory(story.directory)
    log = SegmentLog.open(directory)
    try:
        pages = PageFile.open(directory, cluster_id=log.cluster_id)
        machine = load_newest(log, SnapshotStore(directory, log.cluster_id), pages, Restart())
        replay(log, machine, None, Restart())
        pages.close()
    except BaseException:
        log.close()
        raise
    return log, machine


def photograph(story: Story) -> int:
    """Take a snapshot of the story so far; its zxid."""
    machine = Machine()
    replay(story.log, machine, None, Restart())
    store = SnapshotStore(RealDirectory(story.directory), story.log.cluster_id)
    writer = store.begin(machine.applied_zxid, story.log.last_chain, story.counter)
    for section in machine.freeze().pack(lambda: True):
        writer.add(section.kind, section.data)
    writer.finish()
    return machine.applied_zxid


def repair(story: Story, *arguments: str) -> dict[str, Any]:
    result = sluicemq("log", "repair", "--json", "--yes", "--data", story.directory, *arguments)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def readable(log: SegmentLog, machine: Machine) -> list[int]:
    """Every message that the queue would deliver can be read; their entries."""
    queue = machine.queue(ORDERS)
    assert queue is not None
    runs = queue.peek(0, 1_000_000)
    for run in runs:
        log.read(run.zxid)
    machine.check()
    return [run.zxid for run in runs]


def kept(story: Story) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in story.directory.glob("damaged/*/*")}


def damage_body(path: Path, number: int) -> None:
    data = path.read_bytes()
    at = -1
    for _ in range(number):
        at = data.index(BODY, at + 1)
    flip(path, at + 50)


def test_a_whole_directory_is_left_alone(story: Story) -> None:
    story.close()
    before = story.digest()
    result = sluicemq("log", "repair", "--data", story.directory)
    assert result.exit_code == 0
    assert "Nothing is damaged" in result.stdout
    assert story.digest() == before


def test_without_a_snapshot_the_log_is_cut_in_front_of_the_damage(story: Story) -> None:
    filled(story, 3).close()
    first, second, third = story.segments()
    damage_body(first, 3)
    damaged, later = first.read_bytes(), second.read_bytes()
    with pytest.raises(LogCorrupt) as refused:
        started(story)
    good = refused.value.last_good_zxid

    before = story.digest()
    looked = sluicemq("log", "repair", "--dry-run", "--data", story.directory)
    assert looked.exit_code == 0
    assert f"entries 1.{(good & 0xFFFF) + 1} to 1.{story.counter}" in looked.stderr
    declined = sluicemq("log", "repair", "--data", story.directory)
    assert declined.exit_code == 1
    assert story.digest() == before, "neither looking nor declining changes anything"

    found = repair(story)

    lost = story.counter - (good & 0xFFFF)
    assert found["lost"] == [
        {
            "first_zxid": f"1.{(good & 0xFFFF) + 1}",
            "last_zxid": f"1.{story.counter}",
            "entries": lost,
            "entries_or_more": False,
        }
    ]
    assert found["lost_messages"] == {"orders": lost - 1}, "the damaged one cannot be read, so it is not known"
    assert kept(story)[first.name] == damaged
    assert kept(story)[second.name] == later
    assert third.name in kept(story)
    log, machine = started(story)
    assert log.last_zxid == good
    assert readable(log, machine)[-1] == good
    log.close()
    assert verify(story)["ok"] is True


def test_with_a_snapshot_behind_the_damage_only_what_cannot_be_read_is_lost(story: Story) -> None:
    filled(story, 3)
    photograph(story)
    story.write(publish(ORDERS, story.counter - 5, b"after the snapshot"))
    story.close()
    first, last = story.segments()[0], story.segments()[-1]
    damage_body(first, 3)
    damage_body(last, 1)
    gone = {f"1.{number}" for number in range(story.counter + 1)}

    found = repair(story)

    assert [each["entries"] for each in found["lost"]] == [1, 1], found["lost"]
    assert found["lost_messages"] == {"orders": 2}
    assert found["settled"] == {"orders": 2}
    log, machine = started(story)
    left = readable(log, machine)
    gone -= {f"1.{each & 0xFFFF}" for each in left}
    assert {each["first_zxid"] for each in found["lost"]} <= gone
    assert left[-1] == zxid(1, story.counter), "what came after the snapshot is there too"
    # Beside those behind 1.7 there is 1.4: one of its messages was given back.
    assert len(left) == story.counter - 7 + 1 - 2
    log.close()
    assert verify(story)["ok"] is True
    assert first.name in kept(story)


def test_of_a_damaged_old_file_only_the_unreadable_entries_are_dropped(story: Story) -> None:
    filled(story, 4)
    photograph(story)
    story.log.begin_at(story.log.last_zxid)
    story.close()
    second = story.segments()[1]
    damage_body(second, 2)
    damaged = second.read_bytes()
    started(story)[0].close()  # a start does not read old files

    found = repair(story)

    assert [each["entries"] for each in found["lost"]] == [1]
    assert found["settled"] == {"orders": 1}
    assert kept(story) == {second.name: damaged}
    log, machine = started(story)
    left = readable(log, machine)
    assert len(left) == story.counter - 7 + 1 - 1
    log.close()


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("old", [False, True], ids=["a segment of the log", "an old file"])
def test_a_file_without_its_first_page_is_set_aside_where_a_snapshot_lies_behind_it(
    story: Story, number: int, old: bool
) -> None:
    filled(story, 4)
    photograph(story)
    if old:
        story.log.begin_at(story.log.last_zxid)
    story.close()
    damaged = story.segments()[number]
    flip(damaged, 100)
    content = damaged.read_bytes()
    with pytest.raises(LogCorrupt):
        started(story)

    found = repair(story)

    assert found["lost"]
    assert found["settled"]["orders"] > 0
    assert kept(story)[damaged.name] == content
    log, machine = started(story)
    left = readable(log, machine)
    assert len(left) + found["settled"]["orders"] >= story.counter - 7
    log.close()
    assert verify(story)["ok"] is True


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_what_a_missing_old_file_held_is_given_up(missing: int, story: Story) -> None:
    filled(story, 4)
    photograph(story)
    story.log.begin_at(story.log.last_zxid)
    held = [record.zxid for record in story.log.walk_live(story.log.live_files()[missing])]
    story.close()
    log, machine = started(story)
    before = readable(log, machine)
    log.close()
    story.segments()[missing].unlink()

    found = repair(story)

    gone = [zxid for zxid in before if zxid in held]
    assert found["settled"] == found["lost_messages"] == {"orders": len(gone)}
    log, machine = started(story)
    assert readable(log, machine) == [zxid for zxid in before if zxid not in held]
    log.close()
    assert verify(story)["ok"] is True


def test_a_superblock_without_a_whole_copy_is_made_from_the_segments(story: Story) -> None:
    filled(story, 3).close()
    superblock = story.directory / "superblock"
    flip(superblock, 50)
    flip(superblock, PAGE_BYTES + 50)
    damaged = superblock.read_bytes()
    with pytest.raises(SuperblockDamaged):
        started(story)

    found = repair(story)

    assert found["lost"] == []
    assert kept(story) == {"superblock": damaged}
    log, machine = started(story)
    assert log.last_zxid == zxid(1, story.counter)
    readable(log, machine)
    log.close()
    assert verify(story)["ok"] is True


def test_a_missing_superblock_too(story: Story) -> None:
    filled(story, 2).close()
    (story.directory / "superblock").unlink()
    assert repair(story)["lost"] == []
    log, machine = started(story)
    assert readable(log, machine)
    log.close()


def test_a_damaged_snapshot_is_set_aside(story: Story) -> None:
    photograph(story)
    filled(story, 2).close()
    [snapshot] = story.directory.glob("snapshot-*")
    flip(snapshot, PAGE_BYTES + 40)
    damaged = snapshot.read_bytes()

    found = repair(story)

    assert found["damaged"][0]["name"] == snapshot.name
    assert found["lost"] == []
    assert not snapshot.exists()
    assert kept(story) == {snapshot.name: damaged}
    log, machine = started(story)
    assert log.last_zxid == zxid(1, story.counter)
    readable(log, machine)
    log.close()


def with_a_paged_snapshot(story: Story, messages: int) -> None:
    """Messages enough for sealed chunks, and a snapshot that names them by their pages."""
    machine = Machine(pool=ChunkPool())
    first = story.counter - 5
    story.write(*(publish(ORDERS, first + number, b"x") for number in range(messages)))
    replay(story.log, machine, None, Restart())
    assert machine.pool is not None
    directory = RealDirectory(story.directory)
    pages = PageFile.open(directory, cluster_id=story.log.cluster_id)
    pages.adopt({})
    for chunk in list(machine.pool.resident):
        slot = pages.allocate()
        assert chunk.data is not None
        chunk.page = Page(slot, pages.write(slot, bytes(chunk.data)))
    pages.sync()
    writer = SnapshotStore(directory, story.log.cluster_id).begin(
        machine.applied_zxid, story.log.last_chain, pages.freeze()
    )
    for section in machine.freeze().pack(lambda: True):
        writer.add(section.kind, section.data)
    writer.finish()
    pages.close()


@pytest.mark.parametrize("missing", [False, True], ids=["damaged", "missing"])
def test_a_snapshot_whose_pages_are_gone_is_set_aside(story: Story, missing: bool) -> None:
    with_a_paged_snapshot(story, 2200)
    story.close()
    for pages in (story.directory / "pages", story.directory / "pages-copy"):
        if missing:
            pages.unlink()
        else:
            flip(pages, PAGE_BYTES + 1000)
    assert verify(story)["ok"] is False

    found = repair(story)

    assert [each["name"].partition("-")[0] for each in found["damaged"]] == ["snapshot"]
    assert found["lost"] == []
    assert verify(story)["ok"] is True
    log, machine = started(story)
    assert len(readable(log, machine)) >= 2200
    log.close()


def test_where_the_log_begins_behind_the_only_snapshot_nothing_is_changed(story: Story) -> None:
    filled(story, 4)
    photograph(story)
    story.log.begin_at(story.log.last_zxid)
    story.close()
    [snapshot] = story.directory.glob("snapshot-*")
    flip(snapshot, PAGE_BYTES + 40)
    before = story.digest()
    result = sluicemq("log", "repair", "--yes", "--data", story.directory)
    assert result.exit_code == 1
    assert "nothing was changed" in result.stderr
    assert story.digest() == before


def test_a_directory_that_a_broker_holds_is_refused(story: Story) -> None:
    result = sluicemq("log", "repair", "--yes", "--data", story.directory)
    assert result.exit_code == 1
    assert "is in use by process" in result.stderr
    story.close()


def test_what_is_no_directory_is_not_made(tmp_path: Path) -> None:
    result = sluicemq("log", "repair", "--yes", "--data", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert not (tmp_path / "nowhere").exists()


def test_where_nothing_can_be_gone_on_from_nothing_is_changed(story: Story) -> None:
    filled(story, 2).close()
    flip(story.segments()[0], 20)
    before = story.digest()
    result = sluicemq("log", "repair", "--yes", "--data", story.directory)
    assert result.exit_code == 1
    assert "nothing was changed" in result.stderr
    assert story.digest() == before


INTERRUPTED = {
    "before the superblock is changed": "sluicemq.broker.commands.repairing.SuperblockStore.save_truncation",
    "before a file is rewritten": "sluicemq.broker.commands.repairing.Repair._rewrite",
    "before the log says what is lost": "sluicemq.broker.commands.replayed.load_newest",
}


@pytest.mark.parametrize("where", INTERRUPTED)
def test_a_repair_that_was_interrupted_is_run_again(where: str, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(story, 3)
    photograph(story)
    story.write(publish(ORDERS, story.counter - 5, b"after the snapshot")).close()
    damage_body(story.segments()[0], 3)
    damage_body(story.segments()[-1], 1)

    def fails(*_: object, **__: object) -> None:
        raise OSError(5, "the disk went away")

    with monkeypatch.context() as broken:
        broken.setattr(INTERRUPTED[where], fails)
        result = sluicemq("log", "repair", "--yes", "--data", story.directory)
        assert result.exit_code == 1
        assert "the disk went away" in result.stderr

    assert repair(story)["settled"] == {"orders": 2}

    log, machine = started(story)
    left = readable(log, machine)
    assert len(left) == story.counter - 7 + 1 - 2
    assert left[-1] == zxid(1, story.counter)
    log.close()
    assert verify(story)["ok"] is True
