"""Delayed messages: in order of their due times, wherever their rows lie and whatever happens to those meanwhile."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.chunks import CHUNK_RUNS, RUN_BYTES, Chunk, ChunksMissing, FifoImage, Page
from sluicemq.broker.queues.delayed import LATE_CHUNKS, DelayedRuns, buffer_rows_max
from sluicemq.broker.queues.delayed_check import check_delayed
from sluicemq.broker.queues.delayed_looking import look_delayed, next_due_after
from sluicemq.broker.queues.delayed_removing import MANY, find, missing_removed, remove
from sluicemq.broker.queues.image import live_runs, load
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Deleted, Purged
from sluicemq.broker.queues.runs import Run, flat_runs, messages_in
from sluicemq.wire.messages import VERDICT_NACK
from tests.broker.paged import WhimsicalPager, make_chunks_small
from tests.broker.queues.effort import effort_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.queues.freeze import Freeze
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.sections import Section

EMPTY_SECONDS_MAX = 0.020
CLOCK_SECONDS_MAX = 0.050


def single(zxid: int) -> Run:
    return Run(zxid, zxid, 0, 1, 1, 100, 1_000, 1, 1)


def page_out(pager: WhimsicalPager, *chunks: Chunk) -> None:
    for chunk in chunks:
        if chunk.page is None:
            chunk.page = pager.write(chunk.page_data)
        pager.pool.drop(chunk)


def chunks_of(delayed: DelayedRuns) -> list[Chunk]:
    image = delayed.image()
    return [] if image is None else list(image.chunks)


# --- against a sorted list --------------------------------------------------------------------------------------------


class Plain:
    """What delayed runs are: a list sorted by due time, and within one by arrival."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Run]] = []

    def add(self, due_ms: int, runs: list[Run]) -> None:
        self.waiting += [(due_ms, run) for run in runs]
        self.waiting.sort(key=lambda item: item[0])

    def take_due(self, until_ms: int, runs_max: int) -> list[Run]:
        due = [item for item in self.waiting if item[0] <= until_ms][:runs_max]
        del self.waiting[: len(due)]
        return [run._replace(ready=due_ms) for due_ms, run in due]

    def take_exactly(self, until_ms: int, messages: int) -> list[Run]:
        """Take so many messages that are due; what was cut may lie in other pieces than in the real thing."""
        taken: list[Run] = []
        while messages:
            due_ms, run = self.waiting.pop(0)
            assert due_ms <= until_ms
            if run.size > messages:
                run, rest = run.split(messages)
                self.waiting.insert(0, (due_ms, rest))
            taken.append(run._replace(ready=due_ms))
            messages -= run.size
        return taken

    def remove(self, due_ms: int, zxid: int, first: int, size: int) -> list[tuple[int, int]]:
        gone: list[tuple[int, int]] = []
        left: list[tuple[int, Run]] = []
        for due, run in self.waiting:
            if due != due_ms or run.zxid != zxid:
                left.append((due, run))
                continue
            for index in range(run.first, run.first + run.size):
                if first <= index < first + size:
                    gone.append((zxid, index))
                else:
                    left.append((due, run._replace(first=index, size=1)))
        self.waiting = left
        return sorted(gone)

    def runs(self) -> list[Run]:
        return [run._replace(ready=due_ms) for due_ms, run in self.waiting]


def exploded(runs: list[Run]) -> list[Run]:
    return [run._replace(first=run.first + offset, size=1) for run in runs for offset in range(run.size)]


def copied(image: FifoImage) -> FifoImage:
    """The image with chunks of its own, as if it had been written down and read again."""
    chunks = [
        Chunk(None, chunk.base, chunk.data or b"")
        if chunk.page is None
        else Chunk.on_page(chunk.page, chunk.summary, chunk.rows, chunk.base)
        for chunk in image.chunks
    ]
    return image._replace(chunks=chunks, buffers=tuple((n, rows[:size], size) for n, rows, size in image.buffers))


class Paged:
    """The real thing, with a pager full of whims."""

    def __init__(self, seed: int) -> None:
        self.pager = WhimsicalPager(random.Random(seed))
        self.delayed = DelayedRuns(self.pager.pool)

    def add(self, due_ms: int, runs: list[Run]) -> None:
        self.pager.disturb()
        self.pager.fill(self.delayed.missing_late())
        self.delayed.add(due_ms, runs)

    def take_due(self, until_ms: int, runs_max: int) -> list[Run]:
        self.pager.disturb()
        self.pager.fill(self.delayed.missing_due(until_ms, runs_max))
        return self.delayed.take_due(until_ms, runs_max)

    def remove(self, due_ms: int, zxid: int, first: int, size: int) -> list[tuple[int, int]]:
        self.pager.disturb()
        named = [(due_ms, zxid, first, size)]
        self.pager.fill(missing_removed(self.delayed, named))
        taken = remove(self.delayed, named)
        assert {run.ready for run in taken} <= {due_ms}
        return sorted((run.zxid, run.first + offset) for run in taken for offset in range(run.size))

    def look(self, from_ms: int, to_ms: int | None, skip: int, messages_max: int) -> list[Run]:
        while True:
            self.pager.disturb()
            try:
                return look_delayed(self.delayed, from_ms, to_ms, skip, messages_max)
            except ChunksMissing as missing:
                # As the pager of a broker does, which drops nothing while somebody waits for it.
                self.pager.fill(missing.chunks)
                try:
                    return look_delayed(self.delayed, from_ms, to_ms, skip, messages_max)
                except ChunksMissing:
                    continue

    def reload(self, image: FifoImage) -> None:
        self.pager.new_pool()
        self.delayed = DelayedRuns.restored(copied(image), self.pager.pool)

    def settle_accounts(self) -> None:
        self.pager.pool.take_gone(10**6)
        alive = chunks_of(self.delayed)
        assert {chunk for chunk in alive if chunk.data is not None} == set(self.pager.pool.resident)
        assert sum(chunk.data is None for chunk in alive) == self.pager.pool.absent


adding = st.tuples(st.just("add"), st.integers(1, 40), st.sampled_from((1, 1, 1, 2, 3, 7)))
taking = st.tuples(st.just("take"), st.integers(0, 45), st.integers(1, 9))
removing = st.tuples(st.just("remove"), st.integers(0, 100), st.sampled_from((1, 2, 2, 3)))
others = st.tuples(st.sampled_from(("freeze", "reload")), st.just(0), st.just(0))


@settings(max_examples=400, deadline=None)
@given(
    steps=st.lists(st.one_of(adding, adding, adding, taking, removing, others), max_size=60),
    seed=st.integers(0, 1_000),
    size=st.sampled_from((1, 2, 3, 5, 16)),
)
def test_delayed_runs_are_a_sorted_list_wherever_they_lie(
    steps: list[tuple[str, int, int]], seed: int, size: int
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_chunks_small(monkeypatch, size)
        plain, paged = Plain(), Paged(seed)
        zxid = 0
        frozen: tuple[list[tuple[int, Run]], FifoImage | None] | None = None
        for what, when_ms, count in steps:
            if what == "add":
                runs = [single(zxid + number) for number in range(1, count + 1)]
                if count == 3:
                    runs = [Run(zxid + 1, zxid + 1, 0, 3, 5, 100, 1_000)]
                zxid += count
                plain.add(when_ms, runs)
                paged.add(when_ms, runs)
            elif what == "take":
                taken = paged.take_due(when_ms, count)
                assert exploded(taken) == exploded(plain.take_exactly(when_ms, messages_in(taken)))
                assert len(taken) == count or not plain.waiting or plain.waiting[0][0] > when_ms
            elif what == "remove":
                if plain.waiting:
                    due_ms, run = plain.waiting[when_ms % len(plain.waiting)]
                    gone = plain.remove(due_ms, run.zxid, count - 1, count)
                    assert paged.remove(due_ms, run.zxid, count - 1, count) == gone
            elif what == "freeze":
                frozen = list(plain.waiting), paged.delayed.image()
            elif frozen is not None:
                # What was frozen comes back as it was, whatever happened since.
                waiting, image = frozen
                plain.waiting = list(waiting)
                if image is None:
                    paged.pager.new_pool()
                    paged.delayed = DelayedRuns(paged.pager.pool)
                else:
                    paged.reload(image)
                frozen = None
            assert exploded(paged.delayed.runs()) == exploded(plain.runs())
            assert paged.delayed.next_due_ms == (plain.waiting[0][0] if plain.waiting else None)
            check_delayed(paged.delayed)
            paged.settle_accounts()
        if plain.waiting:
            paged.pager.fill(paged.delayed.missing_due(plain.waiting[0][0], 1))
        for after_ms in (0, 8, 14, 25):
            later = [due_ms for due_ms, _ in plain.waiting if due_ms > after_ms]
            next_ms = next_due_after(paged.delayed, after_ms)
            assert not later or (next_ms is not None and after_ms < next_ms <= later[0]), "in time, if too early"
        for from_ms, to_ms, skip, count in ((0, None, 0, 7), (9, 30, 2, 5), (12, None, 4, 9), (0, 20, 1, 100)):
            span = [run for run in plain.runs() if from_ms <= run.ready < (to_ms or 10**9)]
            assert exploded(paged.look(from_ms, to_ms, skip, count)) == exploded(span)[skip : skip + count]


@pytest.mark.parametrize("seed", range(4))
def test_thousands_in_any_order_share_chunks_that_are_well_filled(seed: int) -> None:
    rng = random.Random(seed)
    plain, paged = Plain(), Paged(seed)
    for zxid in range(1, 200):
        due_ms, runs = rng.randrange(1, 5_000), [single(100 * zxid + number) for number in range(rng.choice((1, 90)))]
        if runs:
            plain.add(due_ms, runs)
            paged.add(due_ms, runs)
    assert paged.delayed.runs() == plain.runs()
    check_delayed(paged.delayed)
    chunks = chunks_of(paged.delayed)
    assert len(chunks) >= 3
    assert min(chunk.rows for chunk in chunks) >= CHUNK_RUNS // 3
    while plain.waiting:
        assert paged.take_due(2_500, 700) == plain.take_due(2_500, 700)
        if plain.waiting[0][0] > 2_500:
            break
    assert paged.delayed.runs() == plain.runs()


@pytest.mark.parametrize("count", [1, 7, MANY, 3 * MANY])
@pytest.mark.parametrize("seed", range(3))
def test_many_are_found_and_taken_out_at_once_as_they_would_be_one_by_one(
    monkeypatch: pytest.MonkeyPatch, seed: int, count: int
) -> None:
    """Wherever they lie: in the first chunk and behind it, beside chunks, and in the open rows; whole and in parts."""
    make_chunks_small(monkeypatch, 2 * MANY)
    rng = random.Random(seed)
    plain, paged = Plain(), Paged(seed)
    for zxid in range(1, 400):
        due_ms = rng.randrange(1, 200)
        runs = [Run(zxid, zxid, first, 3, 9, 900, 1_000) for first in (0, 3, 6)[: rng.randrange(1, 4)]]
        plain.add(due_ms, runs)
        paged.add(due_ms, runs)
    assert paged.take_due(10, 5) == plain.take_due(10, 5)
    for _ in range(5):
        some = [rng.choice(plain.waiting) for _ in range(count)]
        named = [(due_ms, run.zxid, run.first + rng.randrange(-1, 3), rng.randrange(1, 5)) for due_ms, run in some]
        named += [(named[0][0], 9_999, 0, 9), (77_777, 1, 0, 9)]
        paged.pager.disturb()
        paged.pager.fill(missing_removed(paged.delayed, named))
        due_ms, zxid = named[0][:2]
        assert exploded(find(paged.delayed, [due_ms], zxid)) == [
            run for run in exploded(plain.runs()) if (run.ready, run.zxid) == (due_ms, zxid)
        ]
        expected = sorted((each[0], *address) for each in named for address in plain.remove(*each))
        taken = exploded(remove(paged.delayed, named))
        assert [(run.ready, run.zxid, run.first) for run in taken] == expected
        assert exploded(paged.delayed.runs()) == exploded(plain.runs())
        check_delayed(paged.delayed)
        paged.settle_accounts()


# --- what needs which chunks ------------------------------------------------------------------------------------------


def long_wait(chunks: int = 5) -> Paged:
    """One message every 10 ms, as many as fill so many chunks and half of another; nothing in memory but that half."""
    paged = Paged(1)
    for zxid in range(1, chunks * CHUNK_RUNS + CHUNK_RUNS // 2 + 1):
        paged.delayed.add(10 * zxid, [single(zxid)])
    page_out(paged.pager, *chunks_of(paged.delayed))
    return paged


def test_messages_of_one_delay_never_need_a_chunk() -> None:
    paged = Paged(1)
    for zxid in range(1, 4 * CHUNK_RUNS):
        assert paged.delayed.missing_late() == []
        paged.delayed.add(10 * zxid, [single(zxid)])
        for chunk in list(paged.pager.pool.resident):
            page_out(paged.pager, chunk)
    assert paged.pager.pool.absent == 3
    assert [chunk.rows for chunk in chunks_of(paged.delayed)] == [CHUNK_RUNS] * 3


def test_delays_into_the_middle_need_no_chunk_until_many_have_full_buffers() -> None:
    """One trip to the disk for all of them, instead of one for each."""
    paged = long_wait(2 * LATE_CHUNKS)
    chunks = chunks_of(paged.delayed)
    for number in range(LATE_CHUNKS):
        assert paged.delayed.missing_late() == []
        due_ms = chunks[2 * number].base + 7
        for zxid in range(buffer_rows_max(chunks[2 * number].base) + 1):
            paged.delayed.add(due_ms, [single(100_000 + zxid)])
    assert paged.delayed.missing_late() == chunks[0 : 2 * LATE_CHUNKS : 2]
    paged.pager.fill(paged.delayed.missing_late())
    paged.delayed.add(chunks[1].base + 7, [single(200_000)])
    assert paged.pager.pool.buffered_bytes == RUN_BYTES, "all but the new one have found their places"
    check_delayed(paged.delayed)


def test_what_cannot_wait_for_a_page_gathers_beside_its_chunk_until_that_is_back() -> None:
    paged = long_wait()
    chunks = chunks_of(paged.delayed)
    due_ms = 10 * (2 * CHUNK_RUNS + 7)
    for zxid in range(CHUNK_RUNS):
        paged.delayed.add(due_ms, [single(100_000 + zxid)])
    assert paged.delayed.missing_late() == []
    for zxid in range(2 * CHUNK_RUNS):
        paged.delayed.add(due_ms, [single(200_000 + zxid)])
    assert paged.delayed.missing_late() == chunks[2:3], "more than a chunk is too much"
    before = paged.delayed.next_due_ms, paged.delayed.messages
    paged.pager.fill(paged.delayed.missing_late())
    paged.delayed.merge_late()
    assert paged.delayed.missing_late() == []
    assert paged.pager.pool.buffered_bytes == 0
    assert (paged.delayed.next_due_ms, paged.delayed.messages) == before
    assert max(chunk.rows for chunk in chunks_of(paged.delayed)) <= CHUNK_RUNS
    paged.settle_accounts()


def test_a_delay_behind_the_paged_out_ones_waits_for_none() -> None:
    paged = long_wait()
    paged.delayed.add(10 * 5 * CHUNK_RUNS + 25, [single(99_999)])
    assert paged.pager.pool.buffered_bytes == 0
    assert paged.delayed.missing_late() == []
    check_delayed(paged.delayed)


def test_a_clock_needs_the_chunks_in_front_that_it_will_take_from() -> None:
    paged = long_wait()
    chunks = chunks_of(paged.delayed)
    assert paged.delayed.missing_due(9, 1_000) == []
    assert paged.delayed.missing_due(10, 10**6) == chunks[:1]
    assert paged.delayed.missing_due(10**9, CHUNK_RUNS) == chunks[:1]
    assert paged.delayed.missing_due(10**9, CHUNK_RUNS + 1) == chunks[:2]
    paged.pager.fill(chunks[:1])
    assert len(paged.delayed.take_due(10**9, 3)) == 3
    page_out(paged.pager, chunks[0])
    assert paged.delayed.missing_due(39, 1_000) == [], "the first three rows are consumed"
    assert paged.delayed.missing_due(40, 1_000) == chunks[:1]
    paged.pager.fill(chunks[:1])
    assert paged.delayed.missing_due(10**9, CHUNK_RUNS - 2) == chunks[1:2]
    with pytest.raises(AssertionError, match="the chunks that are due are in memory"):
        paged.delayed.take_due(10**9, CHUNK_RUNS)


def test_a_chunk_that_another_replaced_or_that_is_consumed_gives_its_page_up() -> None:
    paged = long_wait()
    chunks = chunks_of(paged.delayed)
    paged.pager.fill(chunks[:1])
    paged.delayed.take_due(10**9, 3)
    paged.pager.fill(chunks[2:4])
    for number in (0, 2):
        for _ in range(buffer_rows_max(chunks[number].base) + 1):
            paged.delayed.add(chunks[number].base + 77, [single(99_999)])
    gone = paged.pager.pool.take_gone(10)
    assert gone == [chunks[0], chunks[2]]
    assert all(chunk.page is not None and chunk.gone for chunk in gone)
    paged.pager.fill(chunks[1:2])
    paged.delayed.take_due(10**9, 3 * CHUNK_RUNS)
    assert chunks[1] in paged.pager.pool.take_gone(10)
    paged.settle_accounts()


def test_what_is_due_next_is_near_and_what_comes_later_is_not() -> None:
    paged = long_wait()
    near = [paged.delayed.is_near(chunk) for chunk in chunks_of(paged.delayed)]
    assert near == [True, True, False, False, False]


# --- the machine ------------------------------------------------------------------------------------------------------


class Delays:
    """Two machines of one log, of which one pages by chance; two queues whose messages are delayed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.pager = WhimsicalPager(random.Random(seed + 1))
        self.paging = Machine(pool=self.pager.pool)
        self.plain = Machine()
        self.zxid = 0
        self.now = 1_000
        self.queues = [self.apply(e.Declare(self.now, "/", "queue", name, {})) for name in ("orders", "mail")]
        self.session = self.apply(e.SessionOpen(self.now, "/", "", "", b""))
        self.producer = self.apply(e.ProducerOpen(self.now, "/", "", ""))
        self.sequence = 0
        self.tag = 1

    def apply(self, entry: e.Entry) -> int:
        self.zxid += 1
        outcome = self.pager.apply(self.paging, self.zxid, entry)
        assert self.plain.apply(self.zxid, entry) == outcome
        return self.zxid

    def delay(self, queue_id: int, count: int, due_ms: int) -> None:
        """Publish, lease and nack so many messages."""
        for _ in range(count):
            self.sequence += 1
            size = self.rng.choice((1, 1, 4))
            self.apply(e.Publish(self.now, queue_id, self.producer, self.sequence, size, 10, None, b"x" * 10 * size))
        runs = self.plain.peek(queue_id, 0, 10**6)
        messages = messages_in(runs)
        self.apply(e.Grant(self.now, queue_id, self.session, queue_id, self.tag, flat_runs(runs)))
        tags = [self.tag, self.tag + messages - 1]
        self.apply(e.Settle(self.now, self.session, queue_id, VERDICT_NACK, tags, due_ms))
        self.tag += messages

    def anything(self) -> None:
        queue_id = self.rng.choice(self.queues)
        what = self.rng.random()
        if what < 0.7:
            self.delay(queue_id, self.rng.choice((1, 1, 3, 9)), self.now + self.rng.randint(1, 300))
        elif what < 0.98:
            self.now += self.rng.choice((0, 5, 20, 60))
            self.apply(e.Clock(self.now, self.rng.randint(1, 12)))
        else:
            self.apply(e.Purge(self.now, queue_id))


@pytest.mark.parametrize("seed", range(12))
def test_machines_agree_whatever_is_paged_out_and_images_are_what_was_frozen(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_chunks_small(monkeypatch, (1, 2, 3, 8)[seed % 4])
    delays = Delays(seed)
    freeze: Freeze | None = None
    sections: list[Section] = []
    frozen_hash, frozen_live = b"", 0
    loaded = 0
    for _ in range(250):
        delays.anything()
        assert delays.paging.state_hash() == delays.plain.state_hash()
        delays.paging.check()
        if freeze is None:
            freeze, sections = delays.paging.freeze(), []
            frozen_hash = delays.paging.state_hash()
            frozen_live = sum(queue.messages for queue in delays.paging.queues())
            continue
        left = iter(range(delays.rng.randint(0, 3)))
        sections += freeze.pack(lambda left=left: next(left, None) is not None)  # type: ignore[misc]
        if freeze.done:
            again = load(sections, WhimsicalPager(random.Random(0)).pool)
            assert again.pool is not None
            again.pool.read_back = delays.pager.read_back
            assert again.state_hash() == frozen_hash
            again.check()
            assert frozen_live == sum(
                messages_in(part.runs(lambda page: delays.pager.pages[page.slot])) for part in live_runs(sections)
            )
            loaded += 1
            freeze = None
    delays.pager.settle_accounts(delays.paging)
    assert delays.pager.drops
    assert delays.pager.fills
    assert loaded


def test_delays_of_two_queues_come_by_time_however_a_clock_cuts_them() -> None:
    """Queue by queue within a millisecond, the older queue first; a bounded CLOCK takes just the first ones."""
    for items_max in (1, 2, 3, 5, 100):
        delays = Delays(3)
        orders, mail = delays.queues
        for queue_id, due_ms in ((mail, 2_000), (orders, 2_001), (mail, 2_001), (mail, 2_003), (orders, 2_000)):
            delays.delay(queue_id, 1, due_ms)
        order: list[tuple[int, int]] = []
        while delays.plain.next_due_ms() is not None:
            before = {queue.id: queue.delayed.runs() for queue in delays.plain.queues()}
            delays.apply(e.Clock(3_000, items_max))
            taken = []
            for queue in delays.plain.queues():
                left = len(queue.delayed.runs())
                runs = before[queue.id]
                taken += [(run.ready, queue.id) for run in runs[: len(runs) - left]]
            assert len(taken) <= items_max
            order += sorted(taken)
        assert order == [(2_000, orders), (2_000, mail), (2_001, orders), (2_001, mail), (2_003, mail)]


def million(machine: Machine) -> Queue:
    """Return a queue with 1,000 chunks of delayed messages, all on pages."""
    machine.apply(1, e.Declare(1, "/", "queue", "long", {}))
    queue = machine.queue(1)
    assert queue is not None
    for zxid in range(2, CHUNK_RUNS + 2):
        queue.delayed.add(10 * zxid, [single(zxid)])
    (chunk,) = chunks_of(queue.delayed)
    span_ms = 10 * CHUNK_RUNS
    image = queue.delayed.image()
    assert image is not None
    chunks = [
        Chunk.on_page(Page(number, 0), chunk.summary, CHUNK_RUNS, chunk.base + number * span_ms)
        for number in range(1_000)
    ]
    last_ms = image.last_ms + 999 * span_ms
    queue.delayed.empty()
    queue.delayed = DelayedRuns.restored(
        image._replace(chunks=chunks, messages=1_000 * CHUNK_RUNS, last_ms=last_ms), machine.pool
    )
    queue.published_total = queue.delayed.messages
    machine.due_changed(queue)
    return queue


@pytest.mark.parametrize("entry", [e.Delete(2, "/", "queue", "long", False), e.Purge(2, 1)])
def test_a_million_delayed_messages_go_at_once_and_their_pages_are_released_unread(entry: e.Entry) -> None:
    pager = WhimsicalPager(random.Random(1))
    machine = Machine(pool=pager.pool)
    million(machine)
    pager.pool.take_gone(1)
    assert pager.pool.absent == 1_000
    assert machine.prefetch(entry) == []
    outcome, seconds = effort_of(lambda: machine.apply(2, entry))
    value = outcome.value
    assert isinstance(value, Deleted | Purged)
    assert value.count == 1_000 * CHUNK_RUNS
    assert machine.next_due_ms() is None
    assert all(chunk.gone for chunks in pager.pool.gone for chunk in chunks)
    released = pager.pool.take_gone(10**6)
    assert sorted(chunk.page.slot for chunk in released if chunk.page is not None) == list(range(1_000))
    assert pager.pool.absent == 0
    assert seconds < EMPTY_SECONDS_MAX


def test_a_clock_pays_for_what_it_takes_only() -> None:
    """A million wait in one queue and one message each in a thousand others: CLOCK of 1,000 costs a thousand."""
    machine = Machine()
    for zxid in range(1, 1_002):
        machine.apply(zxid, e.Declare(1, "/", "queue", f"queue-{zxid}", {}))
    for number, queue in enumerate(machine.queues()):
        queue.delayed.add(5_000, [single(zxid) for zxid in range(2, 200_000)] if not number else [single(1)])
        machine.due_changed(queue)
    _, early_seconds = effort_of(lambda: machine.apply(2_000, e.Clock(4_999, 1_000)))
    _, seconds = effort_of(lambda: machine.apply(2_001, e.Clock(5_000, 1_000)))
    assert early_seconds + seconds < CLOCK_SECONDS_MAX
    assert machine.queues()[0].ready == 1_000


def test_chunks_that_one_entry_needs_together_stay_until_it_is_applied() -> None:
    """However little memory there is: those that came first must not leave while the others are read."""
    pager = WhimsicalPager(random.Random(1))
    machine = Machine(pool=pager.pool)
    for zxid in range(1, 4):
        machine.apply(zxid, e.Declare(1, "/", "queue", f"queue-{zxid}", {}))
    for queue in machine.queues():
        queue.delayed.add(5_000, [single(zxid) for zxid in range(10, 10 + CHUNK_RUNS)])
        machine.due_changed(queue)
    page_out(pager, *list(pager.pool.resident))
    clock = e.Clock(5_000, 4_000)
    needed = machine.prefetch(clock)
    assert len(needed) == 3
    for chunk in needed:
        pager.fill([chunk])
        page_out(pager, *list(pager.pool.resident))  # as a pager would that has no room
    assert machine.prefetch(clock) == []
    machine.apply(1_000, clock)
    assert not pager.pool.kept
    assert [queue.ready for queue in machine.queues()] == [CHUNK_RUNS] * 3


def test_what_was_kept_for_an_entry_may_leave_afterwards() -> None:
    pager = WhimsicalPager(random.Random(1))
    machine = Machine(pool=pager.pool)
    machine.apply(1, e.Declare(1, "/", "queue", "orders", {}))
    queue = machine.queue(1)
    assert queue is not None
    queue.delayed.add(5_000, [single(zxid) for zxid in range(10, 10 + CHUNK_RUNS)])
    machine.due_changed(queue)
    page_out(pager, *list(pager.pool.resident))
    clock = e.Clock(5_000, 4)
    pager.fill(machine.prefetch(clock))
    assert not pager.pool.resident
    machine.apply(1_000, clock)
    assert list(pager.pool.resident) == chunks_of(queue.delayed)
    assert len(pager.pool.resident) == 1


def bytes_in_memory(delayed: DelayedRuns) -> Iterator[int]:
    image = delayed.image()
    assert image is not None
    yield image.open_bytes
    yield from (len(chunk.data) for chunk in image.chunks if chunk.data is not None)
    yield from (bytes_ for _, _, bytes_ in image.buffers)


def test_a_delayed_single_takes_the_bytes_of_its_row() -> None:
    rng = random.Random(5)
    delayed = DelayedRuns()
    for zxid in range(1, 30_001):
        delayed.add(rng.randrange(1, 10**9), [single(zxid)])
    assert sum(bytes_in_memory(delayed)) == 30_000 * RUN_BYTES
    assert len(chunks_of(delayed)) < 1.35 * 30_000 / CHUNK_RUNS
