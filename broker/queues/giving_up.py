"""Indexes without the runs of lost entries, wherever these lie.

A ready, dead, held or retained run leaves a hole, so ordinals stay and whoever reads passes on. Delayed rows close up:
their chunks are written again as they are whenever something is delayed between others. Apart from the indexes,
because only a repair does this; it must not know queues, nor why anything is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues import delayed_rows
from sluicemq.broker.queues.chunks import ROW, RUN_BYTES, ZXID_OFFSET, long_column, zxid_span
from sluicemq.broker.queues.delayed_removing import first_due
from sluicemq.broker.queues.holes import NONE
from sluicemq.broker.queues.runs import Run, messages_in

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.delayed import DelayedRuns
    from sluicemq.broker.queues.fifo import RunFifo
    from sluicemq.broker.queues.lost import LostEntries


def forget_runs(fifo: RunFifo, lost: LostEntries) -> list[Run]:
    """Take all runs of *lost* entries out of *fifo* and return them in order; `missing_runs` was filled before."""
    return [run for _, run in forget_with_ordinals(fifo, lost)]


def forget_with_ordinals(fifo: RunFifo, lost: LostEntries) -> list[tuple[int, Run]]:
    """Do what `forget_runs` does; return each run with the ordinal that it had."""
    gone: list[tuple[int, Run]] = []
    for ordinal in _ordinals_of(fifo, lost):
        run = fifo.run_at(ordinal)
        fifo.remove(ordinal, run.first, run.size)
        gone.append((ordinal, run))
    return gone


def missing_runs(fifo: RunFifo, lost: LostEntries) -> list[Chunk]:
    """Return the chunks that are not in memory among those that `forget_runs` needs."""
    return [chunk for chunk in fifo.image().chunks if chunk.data is None and lost.may_be_in(chunk)]


def _ordinals_of(fifo: RunFifo, lost: LostEntries) -> list[int]:
    """Return the ordinals of the runs of *lost* entries."""
    if not fifo.messages:
        return []
    image = fifo.image()
    holes = dict(image.holes)
    parts: list[tuple[int, int, bytes | bytearray]] = []
    for number, chunk in enumerate(image.chunks):
        if lost.may_be_in(chunk):
            assert chunk.data is not None, "the chunks that lose messages are in memory"
            parts.append((chunk.base, holes.get(number, NONE).bits, chunk.data))
    if image.open_bytes and lost.meet(*zxid_span(image.open_rows)):
        base = fifo.tail - image.open_bytes // RUN_BYTES
        parts.append((base, holes.get(len(image.chunks), NONE).bits, image.open_rows))
    return [
        base + row
        for base, bits, rows in parts
        for row, zxid in enumerate(long_column(rows, ZXID_OFFSET))
        if zxid in lost and base + row >= fifo.head and not bits >> row & 1
    ]


def forget_delayed(delayed: DelayedRuns, lost: LostEntries) -> list[Run]:
    """Take all runs of *lost* entries out of *delayed* and return them; `missing_delayed` was filled before."""
    has_front = not delayed._chunks or _may_lose(delayed, 0, lost)
    skip = 0 if delayed._chunks else delayed._head
    rows = bytearray()
    for number in reversed(range(len(delayed._chunks))):  # those in front keep their numbers
        if _may_lose(delayed, number, lost):
            rows += _forget_in_chunk(delayed, number, lost)
    left, gone = lost.split(delayed._open[skip * RUN_BYTES :])
    if gone:
        rows += gone
        delayed._open = bytearray(left)
        delayed._head -= skip
    runs = sorted(map(Run._make, ROW.iter_unpack(rows)))
    if runs:
        delayed.messages -= messages_in(runs)
        if has_front:
            delayed.next_due_ms = first_due(delayed)
    return runs


def missing_delayed(delayed: DelayedRuns, lost: LostEntries) -> list[Chunk]:
    """Return the chunks that are not in memory among those that `forget_delayed` needs."""
    return [
        chunk for number, chunk in enumerate(delayed._chunks) if chunk.data is None and _may_lose(delayed, number, lost)
    ]


def _may_lose(delayed: DelayedRuns, number: int, lost: LostEntries) -> bool:
    """Return whether a chunk, or what gathers beside it, may hold something lost."""
    buffer = delayed._buffers[number]
    return lost.may_be_in(delayed._chunks[number]) or (bool(buffer) and lost.meet(*zxid_span(buffer)))


def _forget_in_chunk(delayed: DelayedRuns, number: int, lost: LostEntries) -> bytes:
    """Let the rows of lost entries leave a chunk with its buffer; return them."""
    chunk, buffer = delayed._chunks[number], delayed._buffers[number]
    assert chunk.data is not None, "the chunks that lose messages are in memory"
    left, gone = lost.split(chunk.data[0 if number else delayed._head * RUN_BYTES :])
    left_beside, gone_beside = lost.split(buffer)
    if not gone and not gone_beside:
        return b""
    if not number:
        delayed._head = 0
    delayed._count_buffered(-len(buffer))
    rows = delayed_rows.in_order((left, left_beside), delayed._offset)
    if rows:
        delayed._replace(number, delayed_rows.pieces(rows))
    else:
        delayed._drop_chunk(number)
    return gone + gone_beside
