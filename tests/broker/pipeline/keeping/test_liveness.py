"""What a snapshot keeps alive, file by file: counted from summaries where they suffice, exact in every case."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.pipeline.keeping.liveness import Liveness, Span, Survivors
from sluicemq.broker.queues.chunks import CHUNK_RUNS, ROW, Page, summary_of
from sluicemq.broker.queues.image import LiveRuns
from sluicemq.broker.queues.runs import Run

FILES = [Span(101, 200), Span(201, 300), Span(401, 500)]
START = 510
BATCH = 10


def row(zxid: int, first: int = 0, size: int = BATCH) -> bytes:
    """Return a run of a batch of ten messages of a hundred bytes."""
    return ROW.pack(*Run(zxid, zxid, first, size, BATCH, 1000, 5))


def part(*rows: bytes, queue: int = 7, skip: int = 0, front: tuple[int, int] | None = None) -> LiveRuns:
    data = b"".join(rows)
    return LiveRuns(queue, "ready", summary_of(data), None, data, skip, front, len(rows))


def no_page(page: Page) -> bytes:
    raise AssertionError(f"page {page} was read")


def counted(*parts: LiveRuns, read_page=no_page) -> Liveness:
    liveness = Liveness(FILES, read_page, START)
    for each in parts:
        liveness.add(each)
    return liveness


def test_a_chunk_within_one_file_is_counted_without_its_rows():
    rows = b"".join(row(101 + number % 50) for number in range(CHUNK_RUNS))
    chunk = LiveRuns(7, "ready", summary_of(rows), Page(3, 0), b"", row_count=CHUNK_RUNS)
    liveness = counted(chunk)
    assert liveness.runs == [CHUNK_RUNS, 0, 0]
    assert liveness.messages == [CHUNK_RUNS * BATCH, 0, 0]
    assert liveness.rows_read == 0


def test_a_chunk_over_a_border_is_read_from_its_page():
    rows = b"".join(row(190 + number // 64) for number in range(CHUNK_RUNS))
    read = []

    def read_page(page: Page) -> bytes:
        read.append(page)
        return rows

    part = LiveRuns(7, "ready", summary_of(rows), Page(3, 0), b"", row_count=CHUNK_RUNS)
    liveness = counted(part, read_page=read_page)
    assert read == [Page(3, 0)]
    assert liveness.runs == [11 * 64, 5 * 64, 0]


def test_a_consumed_front_keeps_nothing_alive():
    liveness = counted(part(row(150), row(151), row(250), skip=2))
    assert liveness.runs == [0, 1, 0]
    assert liveness.oldest == {7: 250}


def test_what_lies_in_the_log_proper_is_nobodys_business_here():
    liveness = counted(part(row(511), row(900)), part(row(450), row(600)))
    assert liveness.runs == [0, 0, 1]
    assert liveness.missing_runs == 0


@pytest.mark.parametrize("zxid", [50, 350, 505])
def test_a_living_message_in_no_file_is_told(zxid):
    liveness = counted(part(row(zxid)))
    assert liveness.missing_runs == 1
    assert liveness.runs == [0, 0, 0]


def test_the_oldest_unsettled_message_of_each_queue_is_known():
    liveness = counted(part(row(250), queue=1), part(row(150), queue=2), part(row(120), row(280), queue=1))
    assert liveness.oldest == {1: 120, 2: 150}


@given(
    st.lists(
        st.lists(st.tuples(st.integers(90, 520), st.integers(0, 9), st.integers(1, 10)), min_size=1, max_size=8),
        max_size=8,
    )
)
def test_counts_are_those_of_a_walk_over_all_rows(parts):
    expected: Counter[int] = Counter()
    missing = 0
    for rows in parts:
        for zxid, _first, _size in rows:
            within = [number for number, span in enumerate(FILES) if span.first_zxid <= zxid <= span.last_zxid]
            expected.update(within)
            missing += not within and zxid <= START
    liveness = counted(*(part(*(row(zxid, first, size) for zxid, first, size in rows)) for rows in parts))
    assert liveness.runs == [expected[0], expected[1], expected[2]]
    assert liveness.missing_runs == missing


@given(st.sets(st.tuples(st.integers(90, 520), st.integers(0, 9))), st.randoms())
def test_survivors_are_every_living_message_once_with_neighbours_made_one(messages, rng):
    shuffled = sorted(messages)
    rng.shuffle(shuffled)
    survivors = Survivors(FILES[:2], no_page)
    for zxid, index in shuffled:
        survivors.add(part(row(zxid, index, 1)))
    found = {
        (zxid, index)
        for span in FILES[:2]
        for zxid, ranges in survivors.within(*span)
        for first, count in ranges
        for index in range(first, first + count)
    }
    assert found == {each for each in messages if 101 <= each[0] <= 300}
    for zxid, ranges in survivors.within(101, 300):
        ends = [first + count for first, count in ranges]
        assert all(end < first for end, (first, _) in zip(ends, ranges[1:], strict=False)), zxid


def test_survivors_come_in_the_order_of_the_log():
    survivors = Survivors([Span(1, 1 << 20)], no_page)
    for zxid in (70_000, 5, 9_000, 8_999):
        survivors.add(part(row(zxid)))
    assert [zxid for zxid, _ in survivors.within(1, 1 << 20)] == [5, 8_999, 9_000, 70_000]


def test_what_several_subscriptions_keep_alive_is_counted_once():
    first, second = part(row(101), row(102), row(410), queue=7), part(row(102), row(410), row(103, 0, 5), queue=8)
    alone = counted(part(row(101), row(102), row(410), row(103, 0, 5)))
    liveness = counted(first._replace(shared=True), second._replace(shared=True))
    assert (liveness.bytes, liveness.messages) == (alone.bytes, alone.messages)
    assert liveness.runs == [4, 0, 2], "those are as many as are kept when files are rewritten"
    assert liveness.oldest == {7: 101, 8: 102}
    assert counted(first, second).messages[0] > alone.messages[0], "others are counted as they are"


def test_beyond_what_is_remembered_each_subscription_counts_for_itself(monkeypatch):
    monkeypatch.setattr("sluicemq.broker.pipeline.keeping.liveness.SHARED_BATCHES_MAX", 0)
    liveness = counted(part(row(101))._replace(shared=True), part(row(101), queue=8)._replace(shared=True))
    assert liveness.runs == [2, 0, 0]


@given(st.lists(st.tuples(st.integers(101, 104), st.integers(0, 8), st.integers(1, 5)), max_size=30))
def test_survivors_of_several_subscriptions_are_every_message_once_however_they_overlap(pieces):
    survivors = Survivors(FILES[:1], no_page)
    alive = set()
    for zxid, first, size in pieces:
        survivors.add(part(row(zxid, first, size)))
        alive |= {(zxid, index) for index in range(first, first + size)}
    found = [
        (zxid, index)
        for zxid, ranges in survivors.within(101, 200)
        for first, count in ranges
        for index in range(first, first + count)
    ]
    assert found == sorted(alive)
    for _, ranges in survivors.within(101, 200):
        assert all(first + count < later for (first, count), (later, _) in itertools.pairwise(ranges)), (
            "apart, with a gap"
        )


@given(st.lists(st.tuples(st.integers(101, 104), st.integers(0, 8), st.integers(1, 2)), max_size=30))
def test_messages_that_lie_in_several_places_count_once_and_runs_as_often_as_survivors_find_them(pieces):
    survivors, liveness = Survivors(FILES[:1], no_page), Liveness(FILES, no_page, START)
    for zxid, first, size in pieces:
        each = part(row(zxid, first, size))._replace(shared=True)
        survivors.add(each)
        liveness.add(each)
    alive = {(zxid, index) for zxid, first, size in pieces for index in range(first, first + size)}
    assert liveness.messages == [len(alive), 0, 0]
    assert liveness.runs[0] == survivors.runs(101) == len(pieces)
