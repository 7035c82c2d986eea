"""The index of the log misses no entry that tells of a message, and a life is read the same with it and without."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicemq.broker.pipeline.explaining import index as index_module
from sluicemq.broker.pipeline.explaining.index import LogIndex, Stretch
from sluicemq.broker.pipeline.explaining.life import Life
from sluicemq.broker.pipeline.explaining.reading import read_life
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues.entries_of_sessions import Resume
from sluicemq.storage.reading import WholeFile
from sluicemq.storage.record import Record
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK

if TYPE_CHECKING:
    from sluicemq.broker.queues.entry import Entry

FIRST = 1 << 32
MESSAGE = FIRST + 1
QUEUE = 7


FILE_ENTRIES = 100


class MemoryLog:
    """A log of entries in memory; the first ones may have been reclaimed."""

    def __init__(self, entries: list[Entry]) -> None:
        self.records = [
            Record(FIRST + number, entry.KIND, entry.VERSION, 0, entry.header(), b"")
            for number, entry in enumerate(entries, 1)
        ]
        self.reads = 0

    def whole_files(self) -> list[WholeFile]:
        parts = [self.records[at : at + FILE_ENTRIES] for at in range(0, len(self.records), FILE_ENTRIES)]
        return [
            WholeFile(number, part[0].zxid, part[-1].zxid, 1, in_log=part is parts[-1])
            for number, part in enumerate(parts)
        ]

    def read_along(self, zxid: int, bytes_max: int, *, exact: bool) -> list[Record]:
        assert not exact
        del bytes_max
        self.reads += 1
        place = next(place for place, record in enumerate(self.records) if record.zxid >= zxid)
        return self.records[max(0, place - 1) : place + 50]


def stretches_of(index: LogIndex) -> list[Stretch]:
    return [stretch for chapter in index.chapters for stretch in chapter.stretches or ()]


def publish() -> Entry:
    return e.Publish(1, QUEUE, 1, 1, 10, 10, None, b"")


def ranges(first: int, size: int) -> list[int]:
    return [first, first + size]


zxids = st.integers(FIRST + 1, FIRST + 6)
small = st.integers(1, 3)
entries = st.one_of(
    st.builds(lambda zxid, c, tag: e.Grant(2, QUEUE, 5, c, tag, [zxid, 0, 10]), zxids, small, st.integers(1, 40)),
    st.builds(lambda z, c, tag: e.GrantPlaced(2, QUEUE, 5, c, tag, [z, z, 4, 2]), zxids, small, st.integers(1, 40)),
    st.builds(
        lambda c, verdict, first, size: e.SettleJudged(3, 5, c, verdict, ranges(first, size), 0, "why"),
        small,
        st.sampled_from([VERDICT_ACK, VERDICT_NACK, VERDICT_HANDED_OVER, e.EXPIRED]),
        st.integers(1, 40),
        small,
    ),
    st.builds(lambda zxid: q.Redrive(4, QUEUE, [1, zxid, 0, 10], 9), zxids),
    st.builds(lambda zxid: q.Discard(4, QUEUE, [1, zxid, 5, 1]), zxids),
    st.builds(lambda c, first: Resume(5, 5, c, ranges(first, 1), "back"), small, st.integers(1, 40)),
    st.just(e.SessionClose(6, 5, "gone")),
    st.just(e.Purge(7, QUEUE)),
    st.just(publish()),
    st.just(e.Clock(8, 1)),
)


@settings(max_examples=300)
@given(st.lists(entries, max_size=60), st.integers(0, 9), st.integers(1, 5))
def test_a_life_is_the_same_whether_the_index_chooses_what_is_read_or_everything_is(
    following: list[Entry], number: int, stretch: int
) -> None:
    log = MemoryLog([publish(), *following])
    whole, chosen = Life(MESSAGE, number), Life(MESSAGE, number)
    whole.queues[QUEUE] = chosen.queues[QUEUE] = None
    index = LogIndex()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "STRETCH_ENTRIES", stretch)
        patch.setattr(index_module, "CONSUMERS_MAX", 1)
        for record, entry in zip(log.records, [publish(), *following], strict=True):
            index.note(record.zxid, entry)
            if record.zxid > MESSAGE:
                whole.take(record.zxid, entry)
    assert read_life(log, stretches_of(index), chosen) == 0  # type: ignore[arg-type] # all that is read of a log
    assert chosen.events == whole.events
    assert chosen.leases == whole.leases


def test_what_cannot_concern_a_message_is_not_read() -> None:
    grants: list[Entry] = [
        e.Grant(2, QUEUE, 5, 1, 1 + 10 * number, [FIRST + number, 0, 10]) for number in range(1, 400)
    ]
    log = MemoryLog([publish(), *grants])
    index = LogIndex()
    for record, entry in zip(log.records, [publish(), *grants], strict=True):
        index.note(record.zxid, entry)
    life = Life(FIRST + 300, 3)
    read_life(log, stretches_of(index), life)  # type: ignore[arg-type] # all that is read of a log
    assert [event.what for event in life.events] == ["leased"]
    assert log.reads <= 1 + 144 // 50, "the last 144 entries in pieces of 50, none of the 256 in front"


def test_what_many_consumers_settled_is_kept_in_little_memory_and_found() -> None:
    consumers = range(1, 1 + index_module.CONSUMERS_MAX)
    settles: list[Entry] = [
        e.Settle(3, 1 << 32, consumer, VERDICT_ACK, [1_000 * consumer, 1_000 * consumer + 9], 0, "")
        for consumer in consumers
    ]
    count = 100
    tracemalloc.start()
    try:
        index = LogIndex()
        for number in range(index_module.STRETCH_ENTRIES * count):
            index.note(FIRST + number, settles[number % len(settles)])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / count < 500 + 40 * len(settles)
    packed, open_ = stretches_of(index)[0], stretches_of(index)[-1]
    for stretch in (packed, open_):
        for consumer in consumers:
            assert stretch.may_settle(1 << 32, consumer, 1_000 * consumer + 9)
            assert not stretch.may_settle(1 << 32, consumer, 1_000 * consumer + 10)
        assert not stretch.may_settle(1 << 32, len(settles) + 1, 1_009)
        assert not stretch.may_settle(1, 1 << 32, 1_009)


def test_what_was_reclaimed_is_said_to_be_missing() -> None:
    grants: list[Entry] = [e.Grant(2, QUEUE, 5, 1, number, [MESSAGE, number, 1]) for number in range(1, 400)]
    log = MemoryLog([publish(), *grants])
    index = LogIndex()
    for record, entry in zip(log.records, [publish(), *grants], strict=True):
        index.note(record.zxid, entry)
    del log.records[: index_module.STRETCH_ENTRIES]
    life = Life(MESSAGE, 300)
    assert read_life(log, stretches_of(index), life) == stretches_of(index)[0].last  # type: ignore[arg-type] # likewise
    assert [event.what for event in life.events] == ["leased"]


def test_a_message_that_comes_again_without_end_has_a_story_of_bounded_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicemq.broker.pipeline.explaining.life.EVENTS_MAX", 10)
    life = Life(MESSAGE, 0)
    for number in range(1, 50):
        life.take(MESSAGE + 2 * number, e.Grant(2, QUEUE, 5, 1, number, [MESSAGE, 0, 1]))
        life.take(MESSAGE + 2 * number + 1, e.Settle(3, 5, 1, VERDICT_NACK, [number, number], 0, ""))
    assert (len(life.events), life.left_out) == (10, 88)
    assert [event.what for event in life.events[:3]] == ["leased", "nacked", "leased"]
    assert life.events[-1].zxid == MESSAGE + 99
