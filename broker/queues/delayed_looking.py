"""What of delayed runs is looked at, in due order, wherever it lies; nothing is changed."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from sluicemq.broker.queues import delayed_rows as r
from sluicemq.broker.queues.chunks import ROW, RUN_BYTES, ChunksMissing, long_at, long_column, sizes
from sluicemq.broker.queues.looking import look_at
from sluicemq.broker.queues.runs import Run

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.delayed import DelayedRuns


def look_delayed(delayed: DelayedRuns, from_ms: int, to_ms: int | None, skip: int, messages_max: int) -> list[Run]:
    """Return what waits from *from_ms* to before *to_ms* (None: for ever), in order, behind the first *skip*.

    Raises:
        ChunksMissing: Some of it lies in a chunk that is not in memory.

    """
    found: list[Run] = []
    first = max(bisect_left(delayed._firsts, from_ms) - 1, 0)
    for number, rows in enumerate(delayed._live(first), first):
        if number < len(delayed._chunks):
            chunk = delayed._chunks[number]
            if to_ms is not None and number and delayed._firsts[number] >= to_ms:
                break
            # All of it is passed over: no need to look.
            whole = number and delayed._firsts[number] >= from_ms
            held = chunk.messages + (sum(sizes(delayed._buffers[number])) if delayed._buffers[number] else 0)
            inside = number + 1 < len(delayed._chunks) and (to_ms is None or delayed._firsts[number + 1] <= to_ms)
            if whole and inside and held <= skip:
                skip -= held
                continue
            if rows is None:
                raise ChunksMissing(_missing(delayed, number, to_ms, skip + messages_max))
        assert rows is not None, "open rows are in memory"
        count = len(rows) // RUN_BYTES
        start = r.behind(rows, from_ms - 1, 0, count, delayed._offset) if from_ms else 0
        end = count if to_ms is None else r.behind(rows, to_ms - 1, start, count, delayed._offset)
        skip, messages_max = look_at(
            map(Run._make, ROW.iter_unpack(rows[start * RUN_BYTES : end * RUN_BYTES])), found, skip, messages_max
        )
        if not messages_max:
            break
    return found


def next_due_after(delayed: DelayedRuns, log_time_ms: int) -> int | None:
    """Return when the first message is due of those due after *log_time_ms*, at some microseconds.

    None: there is none, or the chunk that would say it is not in memory.
    """
    if delayed.next_due_ms is None or delayed.next_due_ms > log_time_ms:
        return delayed.next_due_ms
    offset = delayed._offset
    times: list[int] = []
    if delayed._chunks:
        chunk = delayed._chunks[0]
        if chunk.data is None:
            return None
        if chunk is delayed._front:
            row = r.behind(chunk.data, log_time_ms, delayed._head, chunk.rows, offset)
            times += [long_at(chunk.data, row, offset)] if row < chunk.rows else []
        else:
            times += long_column(chunk.data, offset, delayed._head)
        times += long_column(delayed._buffers[0], offset)
        # What is behind the first chunk is not due before the next begins.
        if len(delayed._chunks) > 1:
            times.append(max(delayed._firsts[1], log_time_ms + 1))
        elif delayed._open:
            times.append(max(long_at(delayed._open, 0, offset), log_time_ms + 1))
    else:
        rows = len(delayed._open) // RUN_BYTES
        row = r.behind(delayed._open, log_time_ms, delayed._head, rows, offset)
        times += [long_at(delayed._open, row, offset)] if row < rows else []
    return min((due_ms for due_ms in times if due_ms > log_time_ms), default=None)


def _missing(delayed: DelayedRuns, number: int, to_ms: int | None, messages: int) -> list[Chunk]:
    """Return the chunks that are not in memory among those from *number* on that hold so many messages."""
    missing: list[Chunk] = []
    for place in range(number, len(delayed._chunks)):
        if missing and (messages <= 0 or (to_ms is not None and delayed._firsts[place] >= to_ms)):
            break
        chunk = delayed._chunks[place]
        if chunk.data is None:
            missing.append(chunk)
        messages -= chunk.messages
    return missing
