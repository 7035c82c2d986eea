"""`log verify`, `log dump` and `log stats` on what lies beside the log proper: old files, their indexes, strangers."""

from __future__ import annotations

import errno
import json
import os
from typing import Any

import pytest

from sluicemq.broker.commands import log_snapshots
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.sparse import Body, left_of
from sluicemq.storage.record import body_digest
from tests.broker.commands.test_log import Story, dump, filled, flip, publish, sluicemq, story, verify, zxid
from tests.broker.commands.test_log_repair import BODY, damage_body, photograph

__all__ = ["story"]
ORDERS = zxid(1, 1)


@pytest.fixture
def aged(story: Story) -> Story:
    """Four files of which only the last is the log proper; two of three messages of entry 1.4 were settled."""
    filled(story, 4)
    photograph(story)
    story.log.begin_at(story.log.last_zxid)
    return story


def rewritten(aged: Story) -> Story:
    """Of the first old file only what is alive is left: one message of entry 1.4, and what came later."""
    first = aged.log.live_files()[0]
    old, *later = [record for record in aged.log.walk_live(first) if record.kind == e.Publish.KIND]
    assert old.zxid == zxid(1, 4)
    body = Body(old.kind, old.kind_version, old.header, old.payload)
    left = left_of(body, ((2, 1),), body_digest(old.header, old.payload))
    sparse = old._replace(kind=left.kind, kind_version=left.kind_version, header=left.header, payload=left.payload)
    aged.log.install_sparse(1, 1, [sparse, *later])
    return aged


def stats(story: Story) -> dict[str, Any]:
    result = sluicemq("log", "stats", "--json", "--data", story.directory)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_old_files_and_their_indexes_are_verified(aged: Story) -> None:
    rewritten(aged).close()
    found = verify(aged)
    assert found["ok"] is True
    assert found["live_files"] == 3
    assert found["indexes"] == 2
    assert found["live_entries"] + found["entries"] == len(dump(aged))


def test_a_damaged_old_file_is_named(aged: Story) -> None:
    aged.close()
    second = aged.segments()[1]
    damage_body(second, 2)
    problem, lost = verify(aged)["problems"]
    assert problem["file"] == lost["file"] == str(second)
    assert lost["reason"] == (
        "records of this file are missing: 1 messages of orders are alive in entries 1.15 to 1.15, which no file holds"
    )
    assert problem["reason"] == "header or payload do not match their digest; lost are entries 1.15 to 1.15"


def test_what_is_lost_is_told_as_far_as_the_newest_snapshot_knows_where_the_log_is_damaged_too(aged: Story) -> None:
    for number in range(12):
        aged.write(publish(ORDERS, aged.counter - 5 + number, BODY))
    aged.close()
    first, *_, damaged, _last = aged.segments()
    first.unlink()
    damage_body(damaged, 1)

    in_log, behind = verify(aged)["problems"]

    assert in_log["file"] == str(damaged)
    assert "the old file in front of this one is missing" in behind["reason"]
    assert "(as of the snapshot at 1." in behind["reason"]


def test_a_damaged_or_missing_index_is_no_damage(aged: Story) -> None:
    aged.close()
    first, second, _third = sorted(aged.directory.glob("index-*"))
    flip(first, 30)
    second.unlink()
    found = verify(aged)
    assert found["ok"] is True
    assert sum("is made anew when the segment is read" in text for text in found["notes"]) == 2


def test_strangers_are_named_and_left_alone(aged: Story) -> None:
    aged.close()
    (aged.directory / "notes.txt").write_text("somebody's")
    found = verify(aged)
    assert found["ok"] is True
    assert any("notes.txt" in text for text in found["notes"])


def test_a_dump_begins_with_what_is_left_in_old_files(aged: Story) -> None:
    rewritten(aged).close()
    lines = dump(aged)
    assert lines[0]["zxid"] == "1.4"
    assert lines[0]["kind"] == "sparse"
    assert lines[0]["left"] == [[2, 1]]
    assert lines[0]["queue"] == "orders", "its declaration is gone; the snapshot knows the name"
    assert dump(aged, "--kind", "sparse") == lines[:1]
    text = sluicemq("log", "dump", "--kind", "sparse", "--data", aged.directory).stdout
    assert "sparse         queue=orders producer=1.2 sequence=1 count=3" in text
    assert "left=2..2" in text


def test_stats_tell_what_is_alive_dead_and_pinned(aged: Story) -> None:
    aged.close()
    found = stats(aged)
    assert [each["kind"] for each in found["files"]] == ["dense", "dense", "dense", "log"]
    for path, each in zip(aged.segments(), found["files"], strict=True):
        assert each["bytes"] == path.stat().st_size
        assert each["live_bytes"] + each["dead_bytes"] == each["bytes"]
    [orders] = found["queues"]
    assert orders["queue"] == "orders"
    assert orders["oldest_zxid"] == "1.4"
    assert orders["live_messages"] == sum(each["live_messages"] for each in found["files"]) == aged.counter - 7 + 1
    assert orders["pinned_bytes"] == sum(each["dead_bytes"] for each in found["files"][:3])
    assert found["files"][3]["pinned_bytes"] == 0, "the log is needed as it is"
    shown = sluicemq("log", "stats", "--data", aged.directory)
    assert shown.exit_code == 0
    assert "orders" in shown.stdout


def test_stats_of_a_log_without_messages(story: Story) -> None:
    story.close()
    found = stats(story)
    assert [each["kind"] for each in found["files"]] == ["log"]
    assert [each["live_messages"] for each in found["queues"]] == [1], "the one that was given back"


def test_a_snapshot_that_is_too_large_to_be_checked_within_itself_is_compared_all_the_same(
    aged: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_snapshots, "CHECK_ROWS_MAX", 3)
    aged.close()
    found = verify(aged)
    assert found["ok"] is True
    assert found["snapshots"] == 1
    assert [note for note in found["notes"] if "too large" in note]


def test_what_is_behind_the_snapshot_counts_too(aged: Story) -> None:
    before = stats(aged)["queues"][0]["live_messages"]
    aged.write(publish(ORDERS, aged.counter - 5, b"one", b"two"))
    aged.close()
    assert stats(aged)["queues"][0]["live_messages"] == before + 2


@pytest.mark.parametrize("tool", ["verify", "dump", "repair"])
def test_a_file_that_the_disk_refuses_to_read_is_named(
    tool: str, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(story, 3).close()
    segment = story.segments()[1]
    number, pread = segment.stat().st_ino, os.pread

    def refuse(descriptor: int, length: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == number and offset + length > 8000:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", refuse)
    result = sluicemq("log", tool, "--data", story.directory)

    assert result.exit_code == 1
    told = result.stdout + result.stderr
    assert segment.name in told
    assert "bytes 7680 to 65535 cannot be read" in told


@pytest.mark.parametrize(("missing", "place", "named"), [(0, "in front of", 1), (1, "behind", 0), (2, "behind", 1)])
def test_a_missing_old_file_is_named_by_the_messages_that_it_held(
    missing: int, place: str, named: int, aged: Story
) -> None:
    aged.close()
    files = aged.segments()
    files[missing].unlink()
    [problem] = verify(aged)["problems"]
    assert problem["file"] == str(files[named])
    assert f"the old file {place} this one is missing" in problem["reason"]
    assert "messages of orders are alive" in problem["reason"]


def test_what_died_leaves_gaps_that_are_no_damage(aged: Story) -> None:
    rewritten(aged).close()
    assert verify(aged)["problems"] == []
