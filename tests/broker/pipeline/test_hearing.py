"""A life is told whole from however long a log, whatever the index knows; and where it cannot be, that is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicemq.broker.pipeline.explaining import hearing as hearing_module
from sluicemq.broker.pipeline.explaining import index as index_module
from sluicemq.broker.pipeline.explaining.hearing import Heard, Hearing
from sluicemq.broker.pipeline.explaining.index import LogIndex
from sluicemq.broker.pipeline.explaining.life import Life
from sluicemq.broker.queues import entries as e
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK
from tests.broker.pipeline.test_explaining import FILE_ENTRIES, FIRST, MESSAGE, QUEUE, MemoryLog, entries, publish

if TYPE_CHECKING:
    from sluicemq.broker.queues.entry import Entry


@pytest.fixture
def small_chapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretches of four entries, chapters of four stretches, of which three stay in memory."""
    monkeypatch.setattr(index_module, "STRETCH_ENTRIES", 4)
    monkeypatch.setattr(index_module, "CHAPTER_STRETCHES", 4)
    monkeypatch.setattr(index_module, "STRETCHES_MAX", 12)


class Teller:
    """A log whose index knows only what was applied since a restart behind the first *unknown* entries."""

    def __init__(self, following: list[Entry], *, unknown: int = 0) -> None:
        self.log = MemoryLog([publish(), *following])
        self.index = LogIndex()
        for record, entry in list(zip(self.log.records, [publish(), *following], strict=True))[unknown:]:
            self.index.note(record.zxid, entry)
        self._hearing = Hearing(self.log, self.index, self._read)  # type: ignore[arg-type] # all that is read of a log

    async def _read(self, read: Any, *arguments: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return read(self.log, *arguments)

    def tell(self, number: int = 0, *, all_known: bool = False) -> tuple[Life, Heard]:
        """Return the life of the first batch's message of this number, and how much of it is known."""
        life = Life(MESSAGE, number, all_known=all_known)
        life.queues[QUEUE] = None
        return life, trio.run(self._hearing.hear, life, self.log.records[-1].zxid)


def told_whole(following: list[Entry], number: int) -> Life:
    """Return the life as whoever reads everything would tell it."""
    life = Life(MESSAGE, number)
    life.queues[QUEUE] = None
    for place, entry in enumerate(following, 2):
        life.take(FIRST + place, entry)
    return life


def rounds(count: int) -> list[Entry]:
    """Lease the first message and take it back, so many times; other messages come and go between."""
    found: list[Entry] = []
    for number in range(1, count + 1):
        found += [
            e.Grant(2, QUEUE, 5, 1, 100 * number, [MESSAGE, 0, 1]),
            *[e.Grant(2, QUEUE, 5, 2, 100 * number + other, [MESSAGE + 1 + other, 0, 1]) for other in range(20)],
            e.Settle(3, 5, 1, VERDICT_NACK, [100 * number, 100 * number], 0, ""),
        ]
    return found


@settings(max_examples=150, deadline=None)
@given(st.lists(entries, max_size=120), st.integers(0, 9), st.integers(0, 121), st.integers(1, 3))
def test_a_life_is_the_same_after_a_restart_and_asked_again_from_a_small_memory(
    following: list[Entry], number: int, unknown: int, chapter: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "STRETCH_ENTRIES", 3)
        patch.setattr(index_module, "CHAPTER_STRETCHES", chapter)
        patch.setattr(index_module, "STRETCHES_MAX", 4)
        patch.setattr(index_module, "CONSUMERS_MAX", 1)
        patch.setattr(index_module, "NAMES_MAX", 1)
        teller = Teller(following, unknown=min(unknown, len(following) + 1))
        whole = told_whole(following, number)
        for _ in range(3):
            life, heard = teller.tell(number)
            assert heard == Heard(MESSAGE, 0)
            assert life.events == whole.events
            assert life.leases == whole.leases


@pytest.mark.usefixtures("small_chapters")
def test_what_the_index_knows_in_memory_stays_bounded_however_long_the_log_is() -> None:
    teller = Teller(rounds(40))
    assert len(teller.index.chapters) > 50
    life, _ = teller.tell()
    assert len(life.events) == 80
    in_memory = [chapter for chapter in teller.index.chapters if chapter.stretches is not None]
    assert len(in_memory) <= 4
    assert sum(len(chapter.stretches or ()) for chapter in in_memory) <= 12 + index_module.CHAPTER_STRETCHES


@pytest.mark.usefixtures("small_chapters")
def test_chapters_that_cannot_tell_of_a_message_are_not_read_again() -> None:
    others: list[Entry] = [
        e.Grant(2, QUEUE, 5, 2, number, [MESSAGE + 1 + number, 0, 1]) for number in range(FILE_ENTRIES * 3)
    ]
    teller = Teller([e.Grant(2, QUEUE, 5, 1, 1, [MESSAGE, 0, 1]), *others, *rounds(1)])
    reads = teller.log.reads
    life, _ = teller.tell()
    assert [event.what for event in life.events] == ["leased", "leased", "nacked"]
    assert teller.log.reads - reads < 8, "the first chapter and the last ones"


@pytest.mark.usefixtures("small_chapters")
def test_a_message_that_is_done_with_is_told_without_what_came_later() -> None:
    done: list[Entry] = [
        e.Grant(2, QUEUE, 5, 1, 1, [MESSAGE, 0, 1]),
        e.Settle(3, 5, 1, VERDICT_ACK, [1, 1], 0, ""),
    ]
    others: list[Entry] = [e.Grant(2, QUEUE, 5, 2, number, [MESSAGE + 1 + number, 0, 1]) for number in range(20)]
    following = [*done, *others, *rounds(30)]
    teller = Teller(following, unknown=len(following))
    life, heard = teller.tell(all_known=True)
    assert [event.what for event in life.events] == ["leased", "acknowledged"]
    assert heard == Heard(MESSAGE, 0)
    assert teller.log.reads < 5
    life, _ = teller.tell(all_known=False)
    assert len(life.events) == 62, "a topic's message may have gone to a subscription that nobody knows any more"


@pytest.mark.usefixtures("small_chapters")
def test_of_a_long_unknown_log_each_question_reads_a_part_until_the_story_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hearing_module, "UNKNOWN_BYTES_MAX", 2_000)
    following = rounds(40)
    teller = Teller(following, unknown=len(following) + 1)
    whole = told_whole(following, 0)
    read_zxids = []
    while True:
        reads = teller.log.reads
        life, heard = teller.tell()
        if not heard.read_zxid:
            break
        assert teller.log.reads - reads < 200
        assert heard.from_zxid > MESSAGE, "it is not whole"
        assert life.events == [event for event in whole.events if event.zxid <= heard.read_zxid]
        read_zxids.append(heard.read_zxid)
    assert len(read_zxids) > 3
    assert read_zxids == sorted(set(read_zxids)), "each gets farther"
    assert life.events == whole.events
    assert heard.from_zxid == MESSAGE


@pytest.mark.usefixtures("small_chapters")
@pytest.mark.parametrize("unknown", [0, 500])
def test_what_was_reclaimed_is_said_to_be_missing(unknown: int) -> None:
    teller = Teller(rounds(30), unknown=unknown)
    teller.tell()
    del teller.log.records[: 2 * FILE_ENTRIES]
    life, heard = teller.tell()
    assert 0 <= heard.from_zxid - (FIRST + 2 * FILE_ENTRIES) < 16, "a chapter that was cut is left out as a whole"
    assert life.events
    assert all(event.zxid > heard.from_zxid for event in life.events)
