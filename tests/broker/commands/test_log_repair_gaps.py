"""`sluicemq log repair`, wherever the damage lies and wherever the snapshot that the log begins anew from was made.

A small table of everything: each file of the log, each kind of damage, each place of the snapshot. After the repair a
broker starts, and serves every message that was not announced as lost.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Any

import pytest

from sluicemq.broker.commands.log_repair_plan import Span
from sluicemq.storage.sparse import SparseHeader
from tests.broker.commands.test_log import PAGE_BYTES, Story, filled, flip, publish, sluicemq, story, verify, zxid
from tests.broker.commands.test_log_repair import ORDERS, damage_body, photograph, readable, repair, started

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["story"]
SEGMENTS = 6
DAMAGES = ("a body", "the first page", "the file", "the second half")


def damage(path: Path, kind: str) -> None:
    if kind == "a body":
        damage_body(path, 4)
    elif kind == "the first page":
        flip(path, 40)
    elif kind == "the file":
        path.unlink()
    else:
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.truncate(PAGE_BYTES + (size - PAGE_BYTES) // 2)


def pictured(story: Story) -> Story:
    """A log of so many files, with a snapshot in the third."""
    filled(story, 3)
    for number in range(3):
        story.write(publish(ORDERS, story.counter - 5, b"before the snapshot %d" % number))
    photograph(story)
    filled_on(story)
    return story


def only_the_announced_is_missing(story: Story, published: int, found: dict[str, Any]) -> None:
    spans = [[int(each[end].partition(".")[2]) for end in ("first_zxid", "last_zxid")] for each in found["lost"]]
    lost = {number for first, last in spans for number in range(first, last + 1)}
    log, machine = started(story)
    left = {each & 0xFFFFFFFF for each in readable(log, machine)}
    log.close()
    wanted = set(range(8, published + 1)) - lost
    assert wanted <= left, f"missing beside {found['lost']}: {sorted(wanted - left)}"
    assert not left & lost, "what is lost is given up"
    assert verify(story)["ok"] is True
    assert repair(story) == {"damaged": [], "lost": []}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("number", range(SEGMENTS))
def test_all_but_the_announced_loss_is_served(number: int, kind: str, story: Story) -> None:
    published = pictured(story).counter
    story.close()
    damage(story.segments()[number], kind)
    only_the_announced_is_missing(story, published, repair(story))


def test_a_repair_interrupted_when_the_log_had_begun_anew_is_run_again(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the old log then hold what the new one holds too: that is not read twice, nor lost."""
    published = pictured(story).counter
    story.close()
    damage(story.segments()[0], "a body")

    def fails(*_: object) -> None:
        raise OSError(5, "the disk went away")

    with monkeypatch.context() as broken:
        broken.setattr("sluicemq.broker.commands.repairing.Repair._rewrite", fails)
        result = sluicemq("log", "repair", "--yes", "--json", "--data", story.directory)
        assert "the disk went away" in result.stderr
    again = repair(story)
    assert [each["entries"] for each in again["lost"]] == [1]
    only_the_announced_is_missing(story, published, again)


def test_a_damaged_snapshot_that_lies_behind_a_cut_is_set_aside_once(story: Story) -> None:
    pictured(story).close()
    damage(story.segments()[0], "a body")
    snapshot = next(iter(story.directory.glob("snapshot-*")))
    flip(snapshot, snapshot.stat().st_size - 20)
    repair(story)
    assert not snapshot.exists()
    assert verify(story)["ok"] is True


def test_what_a_file_lost_before_a_rewritten_one_is_announced(story: Story) -> None:
    """A rewritten file says what came before it, as a segment does."""
    filled_on(story)
    photograph(story)
    story.log.begin_at(story.log.last_zxid)
    second, third = story.log.live_files()[1:3]
    story.log.install_sparse(third.first_sequence, third.last_sequence, list(story.log.walk_live(third))[:1])
    story.close()
    path = story.directory / second.name
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)

    found = repair(story)

    rewritten = next(iter(story.directory.glob(f"sparse-*-{third.last_sequence:016d}")))
    reach = SparseHeader.from_page(rewritten.read_bytes()[:PAGE_BYTES])[1].first_previous_zxid
    assert found["lost"][-1]["last_zxid"] == f"1.{reach & 0xFFFF}"
    assert found["settled"]["orders"] == sum(each["entries"] for each in found["lost"]) > 1


def filled_on(story: Story) -> None:
    """Go on to the last segment, and well into it."""
    while len(story.segments()) < SEGMENTS:
        story.write(publish(ORDERS, story.counter - 5, b"x" * 9000))
    for _ in range(6):
        story.write(publish(ORDERS, story.counter - 5, b"x" * 9000))


def test_what_a_cut_loses_is_counted_by_queue_though_only_the_snapshot_knows_their_names(story: Story) -> None:
    filled(story, 3)
    photograph(story)
    story.log.begin_at(story.log.last_zxid)
    for _ in range(5):
        story.write(publish(ORDERS, story.counter - 5, b"x" * 9000))
    story.close()
    for path in story.segments()[:2]:
        path.unlink()  # the declaration of the queue was there
    damage_body(story.segments()[-1], 3)

    assert set(repair(story)["lost_messages"]) == {"orders"}


@pytest.mark.parametrize(
    ("span", "entries", "open_ended"),
    [(Span(zxid(1, 7), zxid(1, 7)), 1, False), (Span(zxid(1, 7), zxid(2, 2)), 3, True)],
)
def test_how_many_entries_are_lost_is_only_a_limit_within_one_epoch(span: Span, entries: int, open_ended: bool) -> None:
    """Nothing tells how far an epoch went of which the end is lost."""
    assert (span.entries, span.over_epochs) == (entries, open_ended)


def test_without_room_for_the_damaged_files_nothing_is_changed(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    pictured(story).close()
    damage(story.segments()[0], "a body")
    before = story.digest()
    with monkeypatch.context() as full:
        full.setattr("sluicemq.broker.commands.repairing.free_bytes", lambda _folder: 4096)
        result = sluicemq("log", "repair", "--yes", "--data", story.directory)
    assert result.exit_code == 1
    assert re.search(r"needs \d+ bytes .* and 4096 are free; nothing was changed. Free that much", result.stderr)
    assert story.digest() == before
    assert not (story.directory / "damaged").exists()
    assert repair(story)["damaged"]


def test_a_disk_that_refuses_in_the_middle_is_named_with_the_way_on(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = pictured(story).counter
    story.close()
    damage(story.segments()[0], "a body")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("sluicemq.broker.commands.repairing.put_sparse", full)
        result = sluicemq("log", "repair", "--yes", "--data", story.directory)
    assert result.exit_code == 1
    assert f"the repair of {story.directory} stopped" in result.stderr
    assert "No space left on device (errno 28)" in result.stderr
    assert "run `sluicemq log repair` again" in result.stderr
    only_the_announced_is_missing(story, published, repair(story))
