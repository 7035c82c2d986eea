"""What a repair lost is given up wherever it is, once, in an epoch of its own; a broker serves the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sluicemq.broker.commands import forgetting
from sluicemq.broker.commands.repairing import PENDING_NAME
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.image import live_runs
from sluicemq.storage import SegmentLog
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE
from tests.broker.commands.test_log import Story, flip, publish, sluicemq, story, verify, zxid
from tests.broker.commands.test_log_repair import kept, photograph, repair, started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sluicemq.broker.queues.machine import Machine

__all__ = ["story"]
ORDERS = zxid(1, 1)
SESSION = zxid(1, 3)
LATER_MS = 1_800_000_000_000
FIRST_TAG = 100


def big(number: int) -> bytes:
    return b"number %06d " % number + b"x" * 9000


def delayed(tags: list[int]) -> Iterable[e.Entry]:
    """Each is due at another time, the later ones first."""
    for tag in tags:
        yield e.Settle(LATER_MS, SESSION, 2, VERDICT_NACK, [tag, tag], LATER_MS + 1_000_000 - tag, "")


PLACES: dict[str, Callable[[list[int]], Iterable[e.Entry]] | None] = {
    "ready": None,
    "leased": lambda _tags: (),
    "returned": lambda tags: [e.Settle(LATER_MS, SESSION, 2, VERDICT_RELEASE, [tags[0], tags[-1]])],
    "delayed": delayed,
    "settled": lambda tags: [e.Settle(LATER_MS, SESSION, 2, VERDICT_ACK, [tags[0], tags[-1]])],
}


class Shop:
    """Four files of messages of 9 KB, six to a file, all of them in one place; the log begins behind them.

    Attributes:
        story: The directory.
        zxids: The entries that published them.

    """

    def __init__(self, story: Story, place: str, *, retains: bool) -> None:
        self.story = story
        if retains:
            story.write(e.Declare(1_700_000_000_010, "/", "queue", "orders", {"retention": {"seconds": 1e7}}))
        self.zxids: list[int] = []
        while len(story.segments()) < 4:
            story.write(publish(ORDERS, len(self.zxids) + 2, big(len(self.zxids))))
            self.zxids.append(zxid(1, story.counter))
        move = PLACES[place]
        if move is not None:
            flat = [number for each in self.zxids for number in (each, 0, 1)]
            tags = list(range(FIRST_TAG, FIRST_TAG + len(self.zxids)))
            # In front lies what the story gave back.
            story.write(e.Grant(LATER_MS, ORDERS, SESSION, 3, 1, [zxid(1, 4), 2, 1]))
            story.write(e.Grant(LATER_MS, ORDERS, SESSION, 2, FIRST_TAG, flat), *move(tags))
        photograph(story)
        story.log.begin_at(story.log.last_zxid)
        story.close()
        assert where_they_are(story)[place] == len(self.zxids) + (place == "ready"), "they are where they should be"

    def files_of(self, number: int) -> str:
        return next(path.name for path in self.story.segments() if big(number) in path.read_bytes())

    def damage(self, number: int) -> None:
        path = self.story.directory / self.files_of(number)
        flip(path, path.read_bytes().index(big(number)) + 50)


def where_they_are(story: Story) -> dict[str, int]:
    """How many messages of the queue are in each place."""
    log, machine = started(story)
    log.close()
    queue = machine.queue(ORDERS)
    assert queue is not None
    return {
        "ready": queue.main.messages,
        "leased": queue.leased - 1,
        "returned": queue.returned.messages,
        "delayed": queue.delayed.messages,
        "settled": queue.settled_total - 2,
    }


def alive(machine: Machine) -> dict[str, list[tuple[int, int, int]]]:
    """(zxid, first, size) of every living run by place."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    for part in live_runs(machine.freeze().pack(lambda: True)):
        found.setdefault(part.place, []).extend((run.zxid, run.first, run.size) for run in part.runs())
    return {place: sorted(runs) for place, runs in found.items()}


def living(story: Story) -> dict[str, list[tuple[int, int, int]]]:
    """What a start finds alive, all of which can be read."""
    log, machine = started(story)
    machine.check()
    found = alive(machine)
    for runs in found.values():
        for each, _, _ in runs:
            log.read(each)
    log.close()
    return found


def without(before: dict[str, list[tuple[int, int, int]]], gone: set[int]) -> dict[str, list[tuple[int, int, int]]]:
    left = {place: [run for run in runs if run[0] not in gone] for place, runs in before.items()}
    return {place: runs for place, runs in left.items() if runs}


def by_place(retains: bool) -> list[str]:
    return [place for place in PLACES if retains or place != "settled"]


WHERE = [(place, retains) for retains in (False, True) for place in by_place(retains)]


@pytest.mark.parametrize(("place", "retains"), WHERE)
def test_a_damaged_record_is_given_up_wherever_its_message_is(place: str, retains: bool, story: Story) -> None:
    shop = Shop(story, place, retains=retains)
    before = living(story)
    lost = [shop.zxids[7], shop.zxids[8], shop.zxids[13]]
    files = {shop.files_of(number) for number in (7, 8, 13)}
    for number in (7, 8, 13):
        shop.damage(number)

    found = repair(story)

    assert found["settled"] == found["lost_messages"] == {"orders": 3}
    assert living(story) == without(before, set(lost))
    assert verify(story)["ok"] is True
    assert kept(story).keys() == files


@pytest.mark.parametrize(("place", "retains"), WHERE)
def test_so_is_what_a_missing_file_held(place: str, retains: bool, story: Story) -> None:
    shop = Shop(story, place, retains=retains)
    before = living(story)
    name = shop.files_of(8)
    content = (story.directory / name).read_bytes()
    lost = {each for number, each in enumerate(shop.zxids) if big(number) in content}
    (story.directory / name).unlink()

    found = repair(story)

    assert found["settled"] == found["lost_messages"] == {"orders": len(lost)}
    assert living(story) == without(before, lost)
    assert verify(story)["ok"] is True


@pytest.mark.parametrize(("place", "retains"), WHERE)
def test_so_is_a_record_that_an_old_file_lost_without_a_trace(
    place: str, retains: bool, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a repair of before, which left delayed messages alive."""
    shop = Shop(story, place, retains=retains)
    before = living(story)
    shop.damage(8)
    with monkeypatch.context() as older:
        older.setattr(forgetting._Forgetting, "run", lambda _self: {})
        assert repair(story)["settled"] == {}
    assert verify(story)["problems"][0]["reason"].startswith("records of this file are missing: 1 messages of orders")

    found = repair(story)

    assert found["settled"] == found["lost_messages"] == {"orders": 1}
    assert living(story) == without(before, {shop.zxids[8]})
    assert verify(story)["ok"] is True


def test_what_is_given_up_stands_in_an_epoch_of_its_own(story: Story) -> None:
    shop = Shop(story, "delayed", retains=False)
    shop.damage(7)
    shop.damage(9)
    repair(story)
    log, machine = started(story)
    records = log.read_after(zxid(1, story.counter))
    assert [(each.zxid, each.kind) for each in records] == [
        (zxid(2, 0), e.Epoch.KIND),
        (zxid(2, 1), e.Forget.KIND),
    ]
    forgot = e.decode_entry(records[1].kind, records[1].kind_version, records[1].header)
    assert isinstance(forgot, e.Forget)
    assert forgot.entries == [shop.zxids[7], shop.zxids[7], shop.zxids[9], shop.zxids[9]], "what can be read stays"
    assert (machine.epoch, log.promised_epoch) == (2, 2)
    log.close()


def test_an_epoch_that_was_promised_to_others_is_not_used(story: Story) -> None:
    story.log.save_promised_epoch(7)
    shop = Shop(story, "ready", retains=False)
    shop.damage(7)
    repair(story)
    log, machine = started(story)
    assert (machine.epoch, log.promised_epoch) == (8, 8)
    log.close()


def test_where_nothing_alive_is_lost_nothing_is_written(story: Story) -> None:
    shop = Shop(story, "settled", retains=False)
    shop.damage(7)
    assert repair(story)["settled"] == {}
    log, _ = started(story)
    assert log.last_zxid == zxid(1, story.counter)
    log.close()


def test_a_second_repair_finds_nothing_and_changes_nothing(story: Story) -> None:
    shop = Shop(story, "delayed", retains=True)
    shop.damage(7)
    repair(story)
    before = story.digest()
    result = sluicemq("log", "repair", "--yes", "--json", "--data", story.directory)
    assert json.loads(result.stdout) == {"damaged": [], "lost": []}
    assert story.digest() == before


@pytest.mark.parametrize("appends", range(5))
@pytest.mark.parametrize("place", by_place(retains=True))
def test_a_repair_that_was_interrupted_while_it_gave_up_is_run_again(
    place: str, appends: int, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each lost message is an entry of its own here; the process ends before, between and behind them."""
    monkeypatch.setattr(forgetting, "FORGET_ENTRIES_MAX", 1)
    shop = Shop(story, place, retains=True)
    before = living(story)
    for number in (7, 9, 13):
        shop.damage(number)
    append, left = SegmentLog.append, list(range(appends))

    def append_some(log: SegmentLog, records: list[object]) -> None:
        if not left:
            log.sync()
            raise OSError(5, "the disk went away")
        left.pop()
        append(log, records)  # type: ignore[arg-type]

    with monkeypatch.context() as broken:
        broken.setattr(SegmentLog, "append", append_some)
        if appends == 4:
            broken.setattr(SegmentLog, "sync", lambda _log: left.remove(99))
        result = sluicemq("log", "repair", "--yes", "--data", story.directory)
        assert result.exit_code == 1, result.output
    assert (story.directory / "damaged" / PENDING_NAME).exists()

    repair(story)

    assert living(story) == without(before, {shop.zxids[number] for number in (7, 9, 13)})
    assert not (story.directory / "damaged" / PENDING_NAME).exists()
    assert verify(story)["ok"] is True
