"""The index of a queue, from the middle of which runs leave, against a plain list."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import holes as h
from sluicemq.broker.queues.chunks import RUN_BYTES, ChunksMissing
from sluicemq.broker.queues.fifo import RunFifo
from sluicemq.broker.queues.image import live_runs, load
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.runs import Run, messages_in
from tests.broker.paged import WhimsicalPager, make_chunks_small

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.queues.chunks import Chunk

CHUNK = 4
NOW = 1_000


@pytest.fixture(autouse=True)
def _small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_chunks_small(patch, CHUNK)
        yield


class Pair:
    """A fifo, paged by whim, beside the list that it must be equal to; several runs may be ready at once."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.pager = WhimsicalPager(rng)
        self.fifo = RunFifo(self.pager.pool)
        self.plain: list[Run] = []
        self.appended: list[Run] = []
        self.zxid = 0

    # --- what happens --------------------------------------------------------------------------------------------

    def append(self, count: int) -> None:
        ready = self.zxid + count
        together = self.rng.random() < 0.3
        runs = []
        for _ in range(count):
            self.zxid += 1
            size = self.rng.choice((1, 1, 5))
            expires_ms = self.rng.choice((0, self.rng.randrange(1, 100)))
            first = self.rng.randrange(3)
            run = Run(self.zxid, ready if together else self.zxid, first, size, 8, 80, self.zxid, expires_ms=expires_ms)
            runs.append(run)
        if together:
            self.rng.shuffle(runs)  # those that waited come in the order in which they were due
        self.fifo.extend(runs)
        self.plain += runs
        self.appended += runs

    def consume(self, count: int) -> None:
        count = min(count, len(self.plain))
        self.filled(lambda: self.fifo.missing(self.fifo.head, count))
        taken = self.fifo.read(self.fifo.head, count)
        assert taken == self.plain[:count]
        self.fifo.consume(count, messages_in(taken))
        del self.plain[:count]

    def trim(self) -> None:
        if self.plain and self.plain[0].size > 1:
            self.filled(lambda: self.fifo.missing(self.fifo.head, 1))
            self.fifo.trim(1)
            self.plain[0] = self.plain[0].split(1)[1]

    def remove(self) -> None:
        """A part of any run leaves; what is left of it leaves too, unless it stays in front."""
        if not self.plain:
            return
        index = self.rng.randrange(len(self.plain))
        run = self.plain[index]
        first = run.first + self.rng.randrange(run.size)
        size = self.rng.randrange(1, run.first + run.size - first + 1)
        place = run.ready, run.zxid, first
        self.filled(lambda: self.fifo.missing_place(place))
        ordinal = self.fifo.find_place(place)
        assert ordinal is not None
        assert self.fifo.run_at(ordinal) == run
        rest = self.fifo.remove(ordinal, first, size)
        before, behind = first - run.first, run.first + run.size - first - size
        parts = [run._replace(size=before)] if before else []
        if behind:
            parts.append(run._replace(first=first + size, size=behind))
        if index == 0 and not before and behind:
            self.plain[0] = parts[0]
            assert not rest
        else:
            del self.plain[index]
            assert rest == parts

    def clear(self) -> None:
        self.fifo.clear()
        self.plain.clear()

    def page(self) -> None:
        self.pager.disturb()

    def reload(self) -> None:
        """Let an image of it take its place."""
        machine = Machine(pool=self.pager.pool)
        machine.apply(1, e.Declare(1, "/", "queue", "orders", {}))
        queue = machine.queue(1)
        assert queue is not None
        queue.lanes.main = self.fifo
        sections = machine.freeze().pack(lambda: True)
        alive = [run for part in live_runs(sections) for run in part.runs(lambda page: self.pager.pages[page.slot])]
        assert sorted(alive) == sorted(self.plain)
        loaded = load(sections, self.pager.new_pool()).queue(1)
        assert loaded is not None
        assert loaded.main.expiry_ms == (self.fifo.expiry_ms if self.plain else 0)
        self.fifo = loaded.main

    def filled(self, missing: object) -> None:
        assert callable(missing)
        chunks: list[Chunk] = missing()
        self.pager.fill(chunks)
        assert missing() == []

    # --- what must be --------------------------------------------------------------------------------------------

    def check(self) -> None:
        fifo, plain = self.fifo, self.plain
        assert fifo.runs() == plain
        assert (len(fifo), fifo.messages) == (len(plain), messages_in(plain))
        front = plain[0] if plain else None
        assert fifo.front_published_ms() == (None if front is None else front.published_ms)
        assert fifo.front_expires_ms() == (None if front is None else front.expires_ms or None)
        frozen = fifo.image()
        assert frozen.front_expires_ms == (fifo.front_expires_ms() or 0)

    def read_from_somewhere(self) -> None:
        fifo = self.fifo
        self.filled(lambda: fifo.missing(fifo.head, len(self.plain)))
        ordinals, runs = fifo.read_with_ordinals(0, len(self.plain) + 3)
        assert runs == self.plain
        assert [fifo.run_at(ordinal) for ordinal in ordinals] == self.plain
        if ordinals:
            assert ordinals[0] == fifo.head
            start, count = self.rng.randrange(len(ordinals)), self.rng.randrange(1, 9)
            assert fifo.read(ordinals[start], count) == self.plain[start : start + count]
            behind = start + count
            if behind < len(ordinals):
                assert ordinals[behind - 1] < fifo.read_ordinal <= ordinals[behind]
        skip = self.rng.randrange(fifo.messages + 1)
        ordinal, inside = fifo.find(skip)
        rest = fifo.read(ordinal, len(self.plain))
        assert messages_in(rest) - inside == fifo.messages - skip
        assert not rest or inside < rest[0].size

    def look_for_what_left(self) -> None:
        """Every run that was ever appended is found exactly while it is there, and may be missing till then."""
        for run in self.rng.sample(self.appended, min(len(self.appended), 5)):
            here = [there for there in self.plain if there.zxid == run.zxid]
            place = run.ready, run.zxid, run.first
            self.filled(lambda place=place: self.fifo.missing_place(place))
            ordinal = self.fifo.find_place(place)
            assert ([] if ordinal is None else [self.fifo.run_at(ordinal)]) == here
            assert self.fifo.find_place((run.ready, run.zxid, run.first + run.size)) is None


@given(seed=st.integers(0, 1 << 32), steps=st.integers(5, 60))
@settings(max_examples=300, deadline=None)
def test_an_index_with_holes_is_the_list_that_anyone_would_keep(seed: int, steps: int) -> None:
    rng = random.Random(seed)
    pair = Pair(rng)
    for _ in range(steps):
        what = rng.choices(("append", "consume", "trim", "remove", "page", "reload", "clear"), (30, 8, 8, 40, 12, 6, 1))
        if what == ["append"]:
            pair.append(rng.choice((1, 2, 9)))
        elif what == ["consume"]:
            pair.consume(rng.choice((1, 2, 7)))
        else:
            getattr(pair, what[0])()
        pair.check()
        if rng.random() < 0.3:
            pair.read_from_somewhere()
            pair.look_for_what_left()
            pair.page()
            pair.check()


def runs_of(count: int, size: int = 1) -> list[Run]:
    return [Run(zxid, zxid, 0, size, size, 10, zxid) for zxid in range(1, count + 1)]


def filled_fifo(count: int) -> RunFifo:
    fifo = RunFifo()
    fifo.extend(runs_of(count))
    return fifo


def test_a_frozen_index_keeps_what_leaves_afterwards() -> None:
    fifo = filled_fifo(10)
    fifo.remove(3, 0, 1)
    before = fifo.packed()
    image = fifo.image()
    fifo.remove(5, 0, 1)
    fifo.remove(9, 0, 1)
    for chunk in image.chunks:
        chunk.fifo = None
    assert RunFifo.restored(image).packed() == before
    assert len(fifo) == 7


def test_the_front_passes_over_whole_chunks_that_left() -> None:
    fifo = filled_fifo(3 * CHUNK + 2)
    for ordinal in range(1, 3 * CHUNK):
        fifo.remove(ordinal, 0, 1)
    fifo.remove(0, 0, 1)
    assert fifo.head == 3 * CHUNK
    assert not fifo.image().chunks
    assert not fifo.has_holes
    assert fifo.runs() == runs_of(3 * CHUNK + 2)[-2:]


def test_an_index_whose_last_run_left_begins_anew() -> None:
    fifo = filled_fifo(3)
    for ordinal in (2, 1, 0):
        fifo.remove(ordinal, 0, 1)
    assert (fifo.head, fifo.tail, len(fifo), fifo.messages) == (3, 3, 0, 0)
    fifo.extend(runs_of(1))
    assert fifo.runs() == runs_of(1)


def test_a_run_that_may_lie_on_a_page_is_not_said_to_be_gone() -> None:
    pager = WhimsicalPager(random.Random(1))
    fifo = RunFifo(pager.pool)
    fifo.extend(runs_of(3 * CHUNK))
    chunk = fifo.image().chunks[1]
    chunk.page = pager.write(chunk.page_data)
    pager.pool.drop(chunk)
    with pytest.raises(ChunksMissing) as missing:
        fifo.find_place((CHUNK + 2, CHUNK + 2, 0))
    assert missing.value.chunks == [chunk] == fifo.missing_place((CHUNK + 2, CHUNK + 2, 0))
    assert fifo.missing_place((3 * CHUNK, 3 * CHUNK, 0)) == []
    assert fifo.find_place((3 * CHUNK, 3 * CHUNK, 0)) == 3 * CHUNK - 1


def test_what_is_not_there_cannot_be_removed() -> None:
    fifo = filled_fifo(5)
    with pytest.raises(AssertionError, match="only what is there leaves"):
        fifo.remove(2, 0, 2)
    fifo.remove(2, 0, 1)
    with pytest.raises(AssertionError, match="is there"):
        fifo.remove(2, 0, 1)


@given(bits=st.integers(0, 2**12 - 1), row=st.integers(0, 12), more=st.integers(0, 12))
def test_stretches_are_the_rows_without_a_hole(bits: int, row: int, more: int) -> None:
    end = row + more
    expected = [each for each in range(row, end) if not bits >> each & 1]
    found = list(h.stretches(bits, row, end))
    assert [each for first, stop in found for each in range(first, stop)] == expected
    assert all(stop < first for (_, stop), (first, _) in pairwise(found)), "neighbours are one"
    assert h.count_left(bits, row, end) == len(expected)
    rows = bytes(each for each in range(end) for _ in range(RUN_BYTES))
    assert list(h.without_holes(rows, bits, row)[::RUN_BYTES]) == expected
    assert h.unpacked_bits(h.packed_bits(bits)) == bits
