"""Single delayed messages, wherever they are: found by when they are due and by their batch, and taken out.

Somebody cancels a thousand messages that lie anywhere among a million. So what is named in one go is sorted by chunk,
and each chunk is rewritten once; where a row lies in it, one byte of each row tells nearly.
This module must not know entries, nor why messages go.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from itertools import count, islice
from struct import Struct
from typing import TYPE_CHECKING

from sluicemq.broker.queues import delayed_rows as r
from sluicemq.broker.queues.chunks import (
    CHUNK_BYTES,
    PART_OFFSET,
    READY_OFFSET,
    ROW,
    RUN_BYTES,
    ZXID_OFFSET,
    ChunksMissing,
    column,
    long_at,
    long_column,
    sizes,
)
from sluicemq.broker.queues.runs import Run, messages_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.delayed import DelayedRuns

MANY = 64
"""Of so many messages in one chunk it is quicker to list what lies where than to search for each."""
LOWEST_OFFSET = READY_OFFSET if sys.byteorder == "little" else READY_OFFSET + 7
_HEAD = Struct("=QQ")
_PART = Struct("=II")
_NO_ROW = 1 << 64
_NO_PARTS: list[tuple[int, int, int]] = []

Named = tuple[int, int, int, int]
"""Messages that wait: when they are due, their batch, the index of the first, and how many."""


def remove(delayed: DelayedRuns, named: Sequence[Named]) -> list[Run]:
    """Take out what is there of the messages *named*; what `missing_removed` names was filled before.

    Returns:
        The runs, in due order, those of one time in the order of publishing.

    """
    assert delayed._offset == READY_OFFSET, "what waits for its time is found by that"
    taken: list[Run] = []
    shares: dict[int, list[Named]] = {}
    for each in named:
        for number in _candidates(delayed, each[0]):
            shares.setdefault(number, []).append(each)
    for number in sorted(shares, reverse=True):  # chunks behind one that is replaced move
        _remove_from_chunk(delayed, number, shares[number], taken)
    skip = 0 if delayed._chunks else delayed._head
    if len(delayed._open) > skip * RUN_BYTES:
        open_ms = long_at(delayed._open, skip, READY_OFFSET)
        rows = _without(delayed._open, skip, [each for each in named if each[0] >= open_ms], taken)
        if rows is not None:
            delayed.replace_open(rows)
    if taken:
        delayed.messages -= messages_in(taken)
        taken.sort(key=r.address_of)
        if taken[0].ready == delayed.next_due_ms:
            delayed.next_due_ms = first_due(delayed)
    return taken


def missing_removed(delayed: DelayedRuns, named: Iterable[Named]) -> list[Chunk]:
    """Return the chunks that `remove` needs and that are not in memory."""
    missing: dict[Chunk, None] = {}
    for due_ms, zxid in {(each[0], each[1]) for each in named}:
        for number in _candidates(delayed, due_ms):
            chunk = delayed._chunks[number]
            if chunk.data is None and _may_hold(chunk, zxid):
                missing[chunk] = None
        if due_ms == delayed.next_due_ms and delayed._head and delayed._chunks and delayed._chunks[0].data is None:
            missing[delayed._chunks[0]] = None  # to see what is due first afterwards
    return list(missing)


def find(delayed: DelayedRuns, times: Sequence[int], zxid: int) -> list[Run]:
    """Return the runs of a batch that wait until one of these *times*.

    Raises:
        ChunksMissing: Some of them may lie in chunks that are not in memory.

    """
    missing = missing_removed(delayed, [(due_ms, zxid, 0, 1) for due_ms in times])
    if missing:
        raise ChunksMissing(missing)
    found: list[Run] = []
    for due_ms in times:
        for number in _candidates(delayed, due_ms):
            rows = delayed._chunks[number].data
            if rows is not None:
                found += _runs_of(rows, 0 if number else delayed._head, due_ms, zxid)
            found += _runs_of(delayed._buffers[number], 0, due_ms, zxid)
        found += _runs_of(delayed._open, 0 if delayed._chunks else delayed._head, due_ms, zxid)
    return found


def _candidates(delayed: DelayedRuns, due_ms: int) -> range:
    """Return the numbers of the chunks that may hold rows of *due_ms*, with their buffers."""
    firsts = delayed._firsts
    if not firsts:
        return range(0)
    return range(max(bisect_left(firsts, due_ms) - 1, 0), max(bisect_right(firsts, due_ms), 1))


def _remove_from_chunk(delayed: DelayedRuns, number: int, named: list[Named], taken: list[Run]) -> None:
    buffer = delayed._buffers[number]
    if buffer:
        kept = _without(buffer, 0, named, taken)
        if kept is not None:
            buffer = delayed.replace_buffer(number, kept)
    chunk = delayed._chunks[number]
    if chunk.data is None:
        return  # it holds none of them
    before = len(taken)
    head = 0 if number else delayed._head
    rows = _without(chunk.data, head, named, taken)
    if rows is None:
        return
    left = None if head else chunk.messages - messages_in(taken[before:])
    if not number:
        delayed._head = 0
    is_in_order = chunk is delayed._front and not buffer
    first_goes = not rows or long_at(rows, 0, READY_OFFSET) != chunk.base
    if not is_in_order and (number == 0 or first_goes or len(rows) > CHUNK_BYTES):
        # What the buffer holds may not belong to what is left of the chunk, whose first row may be due after others.
        left = None
        rows = bytearray(r.in_order((rows, buffer), READY_OFFSET))
        delayed.replace_buffer(number, bytearray())
        is_in_order = True
        buffer = delayed._buffers[number]
    if not rows:
        delayed._drop_chunk(number)
        return
    delayed._replace(number, r.pieces(rows), left)
    if buffer:
        delayed._buffers[number] = buffer
    if not number and is_in_order:
        delayed._front = delayed._chunks[0]


def _without(rows: bytes | bytearray, skip: int, named: Sequence[Named], taken: list[Run]) -> bytearray | None:
    """Return *rows* behind the first *skip* without what is *named*; None: none of it is among these.

    *taken* gets what was found.
    """
    wanted: dict[int, list[tuple[int, int]]] = {}
    for row, (_, _, first, size) in (_found_in_list if len(named) >= MANY else _found)(rows, skip, named):
        wanted.setdefault(row, []).append((first, first + size))
    if not wanted:
        return None
    kept = bytearray()
    done = skip
    for row in sorted(wanted):
        gone, left = _cut(Run._make(ROW.unpack_from(rows, row * RUN_BYTES)), sorted(wanted[row]))
        taken += gone
        kept += rows[done * RUN_BYTES : row * RUN_BYTES]
        for part in left:
            kept += ROW.pack(*part)
        done = row + 1
    kept += rows[done * RUN_BYTES :]
    return kept


def _cut(run: Run, ranges: list[tuple[int, int]]) -> tuple[list[Run], list[Run]]:
    """Return the parts of *run* within *ranges*, which ascend by their beginnings, and those that are not."""
    gone: list[Run] = []
    left: list[Run] = []
    start, end = run.first, run.first + run.size
    for low, high in ranges:
        low, high = max(low, start), min(high, end)
        if low < high:
            if start < low:
                left.append(run._replace(first=start, size=low - start))
            gone.append(run._replace(first=low, size=high - low))
            start = high
    if start < end:
        left.append(run._replace(first=start, size=end - start))
    return gone, left


def _found(rows: bytes | bytearray, skip: int, named: Sequence[Named]) -> list[tuple[int, Named]]:
    """Return in which of *rows* behind the first *skip* lies which of what is named."""
    found: list[tuple[int, Named]] = []
    for each in named:
        due_ms, zxid, first, size = each
        for row in _rows_of(rows, skip, due_ms, zxid):
            begins, holds = _PART.unpack_from(rows, row * RUN_BYTES + PART_OFFSET)
            if begins < first + size and first < begins + holds:
                found.append((row, each))
    return found


def _found_in_list(rows: bytes | bytearray, skip: int, named: Sequence[Named]) -> list[tuple[int, Named]]:
    """Do what `_found` does, with a list of what lies where."""
    zxids, times = long_column(rows, ZXID_OFFSET, skip), long_column(rows, READY_OFFSET, skip)
    firsts, counts = column(rows, skip, PART_OFFSET // 4), sizes(rows, skip)
    batches: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for place, part in zip(zip(times, zxids, strict=True), zip(firsts, counts, count(skip)), strict=False):
        batches.setdefault(place, []).append(part)
    for parts in batches.values():
        parts.sort()
    found: list[tuple[int, Named]] = []
    for each in named:
        parts = batches.get(each[:2], _NO_PARTS)
        # No two runs of a batch hold the same message, so they end in the order in which they begin.
        start = max(bisect_right(parts, (each[2], _NO_ROW, 0)) - 1, 0)
        for begins, holds, row in islice(parts, start, None):
            if begins >= each[2] + each[3]:
                break
            if each[2] < begins + holds:
                found.append((row, each))
    return found


def _rows_of(rows: bytes | bytearray, skip: int, due_ms: int, zxid: int) -> list[int]:
    """Return which of *rows* behind the first *skip* are of a batch and wait until *due_ms*.

    Of each row the lowest byte of its due time is looked at first, all of them in one go; a search for the whole would
    go through 64 KiB.
    """
    head = _HEAD.pack(zxid, due_ms)
    lowest = rows[LOWEST_OFFSET::RUN_BYTES]
    wanted = head[LOWEST_OFFSET]
    found: list[int] = []
    row = lowest.find(wanted, skip)
    while row >= 0:
        if rows[row * RUN_BYTES : row * RUN_BYTES + _HEAD.size] == head:
            found.append(row)
        row = lowest.find(wanted, row + 1)
    return found


def _runs_of(rows: bytes | bytearray, skip: int, due_ms: int, zxid: int) -> list[Run]:
    return [Run._make(ROW.unpack_from(rows, row * RUN_BYTES)) for row in _rows_of(rows, skip, due_ms, zxid)]


def first_due(delayed: DelayedRuns) -> int | None:
    """Return when the first row is due, once rows were taken out; None: none is left."""
    offset = delayed._offset
    if not delayed._chunks:
        return long_at(delayed._open, delayed._head, offset) if delayed._open else None
    first_ms = delayed._firsts[0]
    if delayed._head:
        rows = delayed._chunks[0].data
        assert rows is not None, "a chunk that is consumed in part is in memory when its first row may go"
        first_ms = long_at(rows, delayed._head, offset)
    return min((first_ms, *long_column(delayed._buffers[0], offset)))


def _may_hold(chunk: Chunk, zxid: int) -> bool:
    return chunk.summary.lowest_zxid <= zxid <= chunk.summary.highest_zxid
