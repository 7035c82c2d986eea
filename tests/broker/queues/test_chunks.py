"""Chunks that leave the memory and come back, and the pool that keeps accounts of them."""

from __future__ import annotations

import random

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.chunks import CHUNK_BYTES, CHUNK_RUNS, Chunk, ChunkPool, ChunksMissing, Page, summary_of
from sluicemq.broker.queues.fifo import RunFifo
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Deleted, Purged
from sluicemq.broker.queues.runs import Run, messages_in
from tests.broker.paged import WhimsicalPager
from tests.broker.queues.effort import effort_of

LONG_QUEUE_CHUNKS = 10_000
DELETE_SECONDS_MAX = 0.020


def batch(zxid: int, count: int = 10, batch_bytes: int = 1000) -> Run:
    return Run(zxid, zxid, 0, count, count, batch_bytes, 1_000 + zxid)


def page_out(pager: WhimsicalPager, *chunks: Chunk) -> None:
    for chunk in chunks:
        assert chunk.data is not None
        chunk.page = pager.write(chunk.data)
        pager.pool.drop(chunk)


def paged_fifo(chunks: int) -> tuple[WhimsicalPager, RunFifo, list[Chunk]]:
    """A fifo of so many whole chunks, and a few runs behind them."""
    pager = WhimsicalPager(random.Random(1))
    fifo = RunFifo(pager.pool)
    fifo.extend(map(batch, range(1, chunks * CHUNK_RUNS + 4)))
    return pager, fifo, list(fifo.image().chunks)


def test_the_summary_says_what_the_rows_hold() -> None:
    runs = [batch(7 << 32 | 5, 3, 100), batch(9, 10, 999).split(4)[1], batch(1 << 33, 1, 7)]
    fifo = RunFifo()
    fifo.extend(runs)
    summary = summary_of(fifo.packed())
    assert summary.messages == messages_in(runs) == 10
    assert summary.bytes == sum(run.bytes_of(run.size) for run in runs)
    assert (summary.lowest_zxid, summary.highest_zxid) == (9, 7 << 32 | 5)
    assert summary.published_ms == runs[0].published_ms


def test_a_reader_stops_at_what_is_not_in_memory_and_learns_what_it_misses() -> None:
    pager, fifo, chunks = paged_fifo(3)
    page_out(pager, chunks[1])
    assert len(fifo.read(0, 10_000)) == CHUNK_RUNS
    assert fifo.read(CHUNK_RUNS, 1) == []
    assert fifo.missing(0, CHUNK_RUNS) == []
    assert fifo.missing(CHUNK_RUNS - 1, 2) == [chunks[1]]
    pager.fill(fifo.missing(0, 10_000))
    assert len(fifo.read(0, 10_000)) == len(fifo)


def test_a_look_passes_chunks_by_their_counts() -> None:
    pager, fifo, chunks = paged_fifo(3)
    fifo.consume(3, 30)
    fifo.trim(4)
    page_out(pager, *chunks)
    with pytest.raises(ChunksMissing) as missing:
        fifo.find(10 * CHUNK_RUNS)
    assert missing.value.chunks == [chunks[1]]
    assert fifo.find(10 * 3 * CHUNK_RUNS - 34 + 15) == (3 * CHUNK_RUNS + 1, 5), "behind all chunks nothing is needed"
    pager.fill([chunks[0]])
    assert fifo.find(6) == (4, 0), "the run in front has lost four messages"


def test_the_age_of_the_front_is_known_wherever_it_lies() -> None:
    pager, fifo, chunks = paged_fifo(2)
    fifo.consume(5, 50)
    page_out(pager, *chunks)
    assert fifo.front_published_ms() == batch(6).published_ms
    pager.fill(chunks[:1])
    fifo.consume(CHUNK_RUNS - 5, 10 * (CHUNK_RUNS - 5))
    assert fifo.front_published_ms() == batch(CHUNK_RUNS + 1).published_ms
    fifo.clear()
    assert fifo.front_published_ms() is None


def test_rows_are_the_same_bytes_wherever_they_lie() -> None:
    pager, fifo, chunks = paged_fifo(2)
    fifo.consume(2, 20)
    fifo.trim(1)
    before = fifo.packed()
    page_out(pager, chunks[0])
    assert fifo.packed() == before
    assert chunks[0].data is None, "an audit reads and keeps nothing"


def test_a_restored_fifo_is_the_one_of_the_image_whatever_happened_since() -> None:
    pager, fifo, chunks = paged_fifo(2)
    fifo.consume(7, 70)
    fifo.trim(3)
    page_out(pager, chunks[0])
    image, before = fifo.image(), fifo.packed()
    assert chunks[0].page is not None
    fifo.extend(map(batch, range(5000, 5000 + CHUNK_RUNS)))
    fifo.clear()
    copies = [
        Chunk.on_page(chunks[0].page, chunks[0].summary),
        Chunk(None, 0, chunks[1].data or b""),
    ]
    restored = RunFifo.restored(image._replace(chunks=copies), pager.new_pool())
    assert restored.packed() == before
    assert restored.front_published_ms() == image.front_ms == batch(8).published_ms
    assert (pager.pool.absent, len(pager.pool.resident)) == (1, 1)
    restored.append(batch(9999))
    assert restored.messages == image.messages + 10


def test_what_leaves_the_queue_leaves_the_accounts_in_slices() -> None:
    pager, fifo, chunks = paged_fifo(5)
    page_out(pager, *chunks[2:4])
    fifo.consume(CHUNK_RUNS + 1, 10 * (CHUNK_RUNS + 1))
    assert pager.pool.take_gone(10) == chunks[:1]
    fifo.clear()
    assert len(pager.pool.take_gone(3)) == 3
    assert pager.pool.take_gone(3) == chunks[4:]
    assert (pager.pool.absent, len(pager.pool.resident)) == (0, 0)


def test_a_chunk_without_a_page_cannot_be_dropped_nor_filled_with_less() -> None:
    pager, _, chunks = paged_fifo(1)
    with pytest.raises(AssertionError, match="once they are on a page"):
        pager.pool.drop(chunks[0])
    page_out(pager, chunks[0])
    with pytest.raises(AssertionError, match="all rows"):
        pager.pool.fill(chunks[0], b"")
    assert pager.pool.absent == 1


def test_a_grant_whose_chunk_is_not_in_memory_is_no_judgement_but_a_mistake() -> None:
    pager = WhimsicalPager(random.Random(1))
    machine = Machine(pool=pager.pool)
    queue_id = long_queue(machine, 1)
    queue = machine.queue(queue_id)
    assert queue is not None
    page_out(pager, *queue.main.image().chunks)
    grant = e.Grant(1, queue_id, 1, 1, 1, [batch(2).zxid, 0, 10])
    assert machine.prefetch(grant) == list(queue.main.image().chunks)
    assert machine.prefetch(e.Purge(1, queue_id)) == []
    with pytest.raises(AssertionError, match="the chunks of a grant are in memory"):
        machine.apply(1 << 40, grant)


def long_queue(machine: Machine, chunks: int) -> int:
    """Declare a queue with so many chunks, without publishing each message."""
    outcome = machine.apply(1, e.Declare(1, "/", "queue", "long", {}))
    queue = machine.queue(outcome.value.queue_id)
    assert queue is not None
    one = RunFifo()
    one.extend(map(batch, range(2, CHUNK_RUNS + 2)))
    rows = one.packed()
    image = one.image()._replace(
        chunks=[Chunk(None, 0, rows) for _ in range(chunks)], open_bytes=0, messages=one.messages * chunks
    )
    queue.lanes.main = RunFifo.restored(image, machine.pool)
    queue.published_total = queue.main.messages
    return queue.id


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("entry", [e.Delete(2, "/", "queue", "long", False), e.Purge(2, 1)])
def test_a_queue_of_ten_thousand_chunks_is_emptied_at_once_without_reading_any(entry: e.Entry, resident: bool) -> None:
    pool = ChunkPool()
    machine = Machine(pool=pool)
    queue = machine.queue(long_queue(machine, LONG_QUEUE_CHUNKS))
    assert queue is not None
    if not resident:
        for number, chunk in enumerate(list(queue.main.image().chunks)):
            chunk.page = Page(number, 0)
            pool.drop(chunk)
    (value, taken), seconds = effort_of(lambda: (machine.apply(2, entry).value, len(pool.take_gone(256))))

    assert isinstance(value, Deleted | Purged)
    assert value.count == LONG_QUEUE_CHUNKS * CHUNK_RUNS * 10
    assert taken == 256
    assert seconds < DELETE_SECONDS_MAX
    assert sum(map(len, pool.gone)) == LONG_QUEUE_CHUNKS - 256
    assert CHUNK_BYTES * len(pool.resident) == (pool.resident_bytes if resident else 0)
