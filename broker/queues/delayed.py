"""Messages that wait for their time: packed rows in the order in which they are due.

A delayed run is a row like any other, with its due time where a ready run has its place: that is forgotten, because a
message that was delayed goes behind the tail. So a million delayed messages take 64 MB, each may be due in a
millisecond of its own, and rows lie in the same chunks and on the same pages as those of the ready ones.

Rows lie in a list of sealed chunks, found by the due time of their first row, which no other of them is due before, and
in open rows behind those, which are in order. Messages of one delay only ever go behind the last row. Others belong
into the middle of a chunk: they gather, as they come, in a buffer beside it, which joins the chunk when it is full;
only then another chunk replaces the old one, or two do where it would become too large, one with what is due before
some row and one with the rest. So of a million messages with random due times each is copied a few times, not with
every one that comes after it, and a chunk on a page stays there while its buffer fills. The rows of a chunk are put in
order when it is the first: to keep them so all the time cost more than all the rest of adding them. Those due within
one millisecond always stay as they came. No bytes that an image refers to ever change: buffers only grow.

Which rows share a chunk, and where chunks lie, follows from the history and is never judged by: `take_due` and digests
see rows only. What packs, sorts and cuts rows stands in `delayed_rows`. This module must not know clocks: what is due,
it is told.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from sluicemq.broker.queues import delayed_rows as r
from sluicemq.broker.queues.chunks import (
    CHUNK_BYTES,
    CHUNK_RUNS,
    READY_OFFSET,
    ROW,
    RUN_BYTES,
    Chunk,
    FifoImage,
    long_at,
)
from sluicemq.broker.queues.runs import Run, bytes_in, messages_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sluicemq.broker.queues.chunks import ChunkPool

LATE_CHUNKS = 16
"""So many chunks take at once what gathered beside them while they were not in memory: one trip to the disk for all."""
NEAR_CHUNKS = 2
"""Chunks in front that are the last to be paged out: they are due next."""

# What every queue without sealed chunks refers to, never changed: most of a hundred thousand queues have none.
_NO_CHUNKS: list[Chunk] = []
_NO_TIMES: list[int] = []
_NO_BUFFERS: list[bytearray] = []
_NO_ROWS = bytearray()
_NOTHING_LATE: dict[Chunk, None] = {}


def buffer_rows_max(base: int) -> int:
    """Return how many rows the buffer of the chunk with this first due time takes: an eighth to three eighths of one.

    They differ so that not all of them are full at once.
    """
    return CHUNK_RUNS // 8 + (base * 2_654_435_761 >> 8) % (CHUNK_RUNS // 4 + 1)


class DelayedRuns:
    """The delayed runs of one queue.

    Args:
        pool: Keeps accounts of sealed chunks, for a pager; None: all of them stay in memory.
        offset: Where in a row the time lies that rows are ordered by: `chunks.READY_OFFSET` or `EXPIRES_OFFSET`.

    Attributes:
        messages: Messages in all of them.
        next_due_ms: When the first of them is due, in log time; None when there are none.

    """

    __slots__ = (
        "_buffers",
        "_chunks",
        "_emptied",
        "_firsts",
        "_front",
        "_head",
        "_last_ms",
        "_late",
        "_late_is_long",
        "_offset",
        "_open",
        "_pool",
        "messages",
        "next_due_ms",
    )

    def __init__(self, pool: ChunkPool | None = None, offset: int = READY_OFFSET) -> None:
        self.messages = 0
        self._offset = offset
        self.next_due_ms: int | None = None
        self._pool = pool
        self._chunks = _NO_CHUNKS  # sealed
        self._firsts = _NO_TIMES  # due time of the first row of each, the consumed ones too
        # What belongs to each chunk and is not in it yet, as it came; those of the first may be due before its rows.
        # Each is changed only by appending, and another takes its place.
        self._buffers = _NO_BUFFERS
        # Behind the chunks; never changed but by appending, so that an image may keep its beginning.
        self._open = _NO_ROWS
        self._head = 0  # rows in front, of the first chunk or else of `_open`, that are consumed
        self._front: Chunk | None = None  # the first chunk, once it is known that its rows are in order
        self._last_ms = 0  # nothing is due later
        self._emptied = False
        self._late = _NOTHING_LATE  # chunks that were not in memory when their buffers became full
        self._late_is_long = False  # more than a chunk waits beside one of them

    # --- adding ----------------------------------------------------------------------------------------------------

    def add(self, due_ms: int, runs: list[Run]) -> None:
        """Let *runs* wait until *due_ms*. It takes less memory where `missing_late` was filled before."""
        assert runs, "there is something to delay"
        self.add_rows(r.packed(due_ms, runs, self._offset), [due_ms] * len(runs), messages_in(runs))

    def add_rows(self, rows: bytes, times: Sequence[int], messages: int) -> None:
        """Let packed *rows* of so many messages wait until these *times*, in whose order they are; likewise."""
        first_ms = times[0]
        start = 0
        if self.messages:
            end = bisect_left(times, self._last_ms)
            if end and self._chunks:
                border_ms = self._due_at(self._open, 0) if self._open else self._last_ms
                start = bisect_left(times, border_ms, 0, end)
                if start:
                    self._insert_sealed(rows, times, start)
            if end > start:
                self._insert_open(rows[start * RUN_BYTES : end * RUN_BYTES])
            start = end
        if start < len(times):
            self._append(rows[start * RUN_BYTES :] if start else rows)
            self._last_ms = times[-1]
        if self.next_due_ms is None or first_ms < self.next_due_ms:
            self.next_due_ms = first_ms
        self.messages += messages

    def _append(self, rows: bytes | bytearray) -> None:
        """Put packed *rows* behind all others."""
        if self._open is _NO_ROWS:
            self._open = bytearray()
        start = 0
        while start < len(rows):
            part = rows[start : start + CHUNK_BYTES - len(self._open)]
            self._open += part
            start += len(part)
            if len(self._open) == CHUNK_BYTES:
                self._seal([bytes(self._open)])
                self._open = bytearray()

    def _insert_open(self, rows: bytes) -> None:
        """Put packed *rows* between the open ones."""
        live = self._open
        if not self._chunks:
            live = live[self._head * RUN_BYTES :]
            self._head = 0
        inserted = bytearray(r.in_order((live, rows), self._offset))
        if len(inserted) < CHUNK_BYTES:
            self._open = inserted
        else:
            *sealed, last = r.cut(inserted)
            self._seal(sealed)
            self._open = bytearray()
            self._append(last)

    def _seal(self, parts: list[bytes]) -> None:
        """Put chunks of these rows behind the others."""
        if not parts:
            return
        if self._chunks is _NO_CHUNKS:
            self._chunks, self._firsts, self._buffers = [], [], []
        for part in parts:
            chunk = Chunk(self, self._due_at(part, 0), part)
            self._chunks.append(chunk)
            self._firsts.append(chunk.base)
            self._buffers.append(_NO_ROWS)
            if self._pool is not None:
                self._pool.add(chunk)

    def _insert_sealed(self, rows: bytes, times: Sequence[int], end: int) -> None:
        """Put the first *end* of packed *rows* into the buffers of the sealed chunks to which their times belong."""
        self._count_buffered(end * RUN_BYTES)
        if self._late:
            self.merge_late()
        firsts, buffers = self._firsts, self._buffers
        last = len(firsts) - 1
        few_bytes = CHUNK_RUNS // 8 * RUN_BYTES
        full: list[int] = []
        number = start = 0
        # Often hardly two neighbours go to the same chunk, so this is what a delay of its own costs.
        while start < end:
            number = bisect_right(firsts, times[start], number) - 1
            if number < 0:
                number = 0
            stop = end
            if number < last:
                behind_ms = firsts[number + 1]
                stop = start + 1
                if stop < end and times[stop] < behind_ms:
                    stop = bisect_left(times, behind_ms, stop, end)
            buffer = buffers[number]
            if buffer is _NO_ROWS:
                buffer = buffers[number] = bytearray()
            buffer += rows[start * RUN_BYTES : stop * RUN_BYTES]
            if len(buffer) > few_bytes and self._is_full(number):
                full.append(number)
            start = stop
        for number in reversed(full):  # chunks behind one that is replaced move
            self._merge(number)

    def _is_full(self, number: int) -> bool:
        """Return whether a chunk in memory is to take what its buffer holds."""
        rows = len(self._buffers[number]) // RUN_BYTES
        chunk = self._chunks[number]
        if rows <= buffer_rows_max(chunk.base):
            return False
        if chunk.data is None:
            if self._late is _NOTHING_LATE:
                self._late = {}
            self._late[chunk] = None
            self._late_is_long = self._late_is_long or rows > CHUNK_RUNS
        return chunk.data is not None

    def merge_late(self) -> None:
        """Let chunks that are in memory now take what gathered beside them while they were not."""
        for chunk in list(self._late):
            if chunk.data is not None:
                del self._late[chunk]
                if chunk.fifo is self:
                    self._merge(self._chunks.index(chunk))
        if not self._late:
            self._late_is_long = False

    def missing_late(self) -> list[Chunk]:
        """Return chunks that are not in memory and that should be before anything is added: their buffers are full.

        None as long as they are few, and what is beside each is no more than a chunk: then they can wait for others.
        """
        if len(self._late) < LATE_CHUNKS and not self._late_is_long:
            return []
        return [chunk for chunk in islice(self._late, LATE_CHUNKS) if chunk.data is None]

    def _count_buffered(self, bytes_: int) -> None:
        if self._pool is not None:
            self._pool.buffered_bytes += bytes_

    def _merge(self, number: int) -> None:
        """Let chunks that hold what the buffer of one does take its place; the first one is put in order."""
        rows, buffer = self._chunks[number].data, self._buffers[number]
        assert rows is not None, "the chunks that are put together are in memory"
        self._count_buffered(-len(buffer))
        if number:
            self._replace(number, r.parted(rows + buffer, self._offset))
        else:
            merged = r.in_order((rows[self._head * RUN_BYTES :], buffer), self._offset)
            self._head = 0
            self._replace(number, r.pieces(merged))
            self._front = self._chunks[0]

    def _replace(self, number: int, pieces: list[bytes], messages: int | None = None) -> None:
        """Let chunks of these rows, with empty buffers, take the place of one; *messages* are in a single one."""
        old = self._chunks[number]
        if len(pieces) == 1:
            new = [Chunk(self, self._due_at(pieces[0], 0), pieces[0], messages)]
        else:
            new = [Chunk(self, self._due_at(piece, 0), piece) for piece in pieces]
        self._chunks[number : number + 1] = new
        self._firsts[number : number + 1] = [chunk.base for chunk in new]
        self._buffers[number : number + 1] = [_NO_ROWS] * len(new)
        if self._pool is None:
            old.fifo = None
        else:
            self._pool.replace((old,), new)

    def _rows_in(self, number: int) -> int:
        """Return how many rows of a sealed chunk are not consumed."""
        return self._chunks[number].rows - (0 if number else self._head)

    # --- taking ----------------------------------------------------------------------------------------------------

    def take_due(self, until_ms: int, runs_max: int) -> list[Run]:
        """Take at most *runs_max* of the runs that are due by *until_ms*, in order; `missing_due` was filled before."""
        taken: list[Run] = []
        while self.next_due_ms is not None and self.next_due_ms <= until_ms and len(taken) < runs_max:
            if self._chunks:
                self._order_front()
            rows: bytes | bytearray | None = self._chunks[0].data if self._chunks else self._open
            assert rows is not None, "the chunks that are due are in memory"
            count = len(rows) // RUN_BYTES
            end = min(count, self._head + runs_max - len(taken))
            if self._due_at(rows, end - 1) > until_ms:
                end = r.behind(rows, until_ms, self._head, end, self._offset)
            taken += map(Run._make, ROW.iter_unpack(rows[self._head * RUN_BYTES : end * RUN_BYTES]))
            self._head = end
            if end == count:
                self._leave_front()
            else:
                self.next_due_ms = self._due_at(rows, end)
        self.messages -= messages_in(taken)
        return taken

    def _order_front(self) -> None:
        """Put the rows of the first chunk and its buffer in order."""
        chunk = self._chunks[0]
        assert chunk.data is not None, "the chunks that are due are in memory"
        if self._buffers[0] or (chunk is not self._front and not r.are_in_order(chunk.data, self._offset)):
            self._merge(0)
        self._front = self._chunks[0]

    def look_due(self, until_ms: int, runs_max: int) -> list[Run]:
        """Return what `take_due` would take, as far as that is in memory."""
        found: list[Run] = []
        for rows in self._live():
            if rows is None or len(found) >= runs_max or not rows:
                break
            count = len(rows) // RUN_BYTES
            end = min(r.behind(rows, until_ms, 0, count, self._offset), runs_max - len(found))
            found += map(Run._make, ROW.iter_unpack(rows[: end * RUN_BYTES]))
            if end < count:
                break
        return found

    def missing_due(self, until_ms: int, runs_max: int) -> list[Chunk]:
        """Return the chunks that are not in memory among those that `take_due` may need."""
        missing: list[Chunk] = []
        for number, chunk in enumerate(self._chunks):
            if runs_max <= 0 or (self._firsts[number] if number else self.next_due_ms or 0) > until_ms:
                break
            if chunk.data is None:
                missing.append(chunk)
            runs_max -= self._rows_in(number) + len(self._buffers[number]) // RUN_BYTES
        return missing

    def _leave_front(self) -> None:
        """Drop the first chunk, or else the open rows, all of which are consumed."""
        self._head = 0
        if self._chunks:
            self._drop_chunk(0)
        else:
            self._open = _NO_ROWS
        # Nothing in a buffer behind the first is due before its chunk.
        if self._chunks:
            self.next_due_ms = self._firsts[0]
        elif self._open:
            self.next_due_ms = self._due_at(self._open, 0)
        else:
            self.next_due_ms = None

    def _drop_chunk(self, number: int) -> None:
        """Drop a chunk whose rows are gone and whose buffer is empty."""
        chunk = self._chunks.pop(number)
        del self._firsts[number], self._buffers[number]
        if self._pool is None:
            chunk.fifo = None
        else:
            self._pool.replace((chunk,), ())

    def empty(self) -> None:
        """Drop everything, at the same cost however much it is, and for good: another takes its place."""
        self._emptied = True
        if self._pool is not None:
            self._pool.let_go(deque(self._chunks))
        self._count_buffered(-sum(map(len, self._buffers)))
        self._chunks, self._firsts, self._buffers, self._open = _NO_CHUNKS, _NO_TIMES, _NO_BUFFERS, _NO_ROWS
        self._front = None
        self._late = _NOTHING_LATE
        self._late_is_long = False
        self._head = self.messages = 0
        self.next_due_ms = None

    # --- for those who take single ones out (`delayed_removing`) -----------------------------------------------------

    def replace_open(self, rows: bytearray) -> None:
        """Let *rows*, in order, be the open ones, none of them consumed."""
        self._head = self._head if self._chunks else 0
        self._open = _NO_ROWS
        self._append(rows)

    def replace_buffer(self, number: int, rows: bytearray) -> bytearray:
        """Let *rows* be what gathered beside a chunk; return them as they are kept."""
        self._count_buffered(len(rows) - len(self._buffers[number]))
        self._buffers[number] = rows or _NO_ROWS
        return self._buffers[number]

    # --- looking -----------------------------------------------------------------------------------------------------

    def count_bytes(self) -> int:
        """Return about how many bytes all runs take; `missing_bytes` was filled before."""
        total = 0
        for number, rows in enumerate((*(chunk.data for chunk in self._chunks), self._open)):
            head = 0 if number else self._head
            if number < len(self._chunks) and not head:
                total += self._chunks[number].summary.bytes
            else:
                assert rows is not None, "a chunk that is consumed in part is in memory when bytes are counted"
                total += bytes_in(map(Run._make, ROW.iter_unpack(rows[head * RUN_BYTES :])))
        return total + sum(bytes_in(map(Run._make, ROW.iter_unpack(buffer))) for buffer in self._buffers)

    def missing_bytes(self) -> list[Chunk]:
        """Return the chunk that `count_bytes` must look into, if it is not in memory."""
        return [chunk for chunk in self._chunks[:1] if chunk.data is None and self._head]

    # --- what chunks ask -------------------------------------------------------------------------------------------

    def has_left(self, chunk: Chunk) -> bool:
        """Return whether all runs of *chunk* left; those that left one by one have been told."""
        del chunk
        return self._emptied

    def is_near(self, chunk: Chunk) -> bool:
        """Return whether *chunk* is due next."""
        return chunk.base <= self._firsts[min(NEAR_CHUNKS, len(self._firsts)) - 1]

    def before_drop(self, chunk: Chunk) -> None:
        """Note nothing: due times of first rows are kept."""

    # --- all of it -------------------------------------------------------------------------------------------------

    def image(self) -> FifoImage | None:
        """Return all that it is at this moment, None when that is nothing; costs 10 ns a chunk, 100 a buffer."""
        if not self.messages:
            return None
        return FifoImage(
            self._head,
            self.messages,
            None,
            self.next_due_ms,
            tuple(self._chunks),
            self._open,
            len(self._open),
            self._last_ms,
            buffers=tuple((number, rows, len(rows)) for number, rows in enumerate(self._buffers) if rows),
        )

    @classmethod
    def restored(cls, image: FifoImage, pool: ChunkPool | None = None, offset: int = READY_OFFSET) -> DelayedRuns:
        """Return the delayed runs of *image*, whose chunks are new and belong to nobody else."""
        delayed = cls(pool, offset)
        if image.chunks:
            delayed._chunks = list(image.chunks)
            delayed._firsts = [chunk.base for chunk in image.chunks]
            delayed._buffers = [_NO_ROWS] * len(delayed._chunks)
            for chunk in image.chunks:
                chunk.fifo = delayed
                if pool is not None:
                    pool.add(chunk)
            for number, rows, bytes_ in image.buffers:
                delayed._buffers[number] = rows[:bytes_]
                delayed._count_buffered(bytes_)
        delayed._open = image.open_rows[: image.open_bytes]
        delayed._head = image.head
        delayed._last_ms = image.last_ms
        delayed.messages = image.messages
        delayed.next_due_ms = image.front_ms
        return delayed

    def packed(self) -> bytes:
        """Return all rows as bytes: the same for the same runs, whatever the history and wherever they lie.

        Chunks that are not in memory are read back for this and not kept; so it blocks, and is for audits only.
        """
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes | bytearray]:
        """Yield the bytes of `packed` a chunk at a time, so that an audit holds one of them in memory."""
        return (rows for rows in self._live(read_back=True) if rows is not None)

    def runs(self) -> list[Run]:
        """Return all runs in order, as `packed` does; `ready` of each is when it is due."""
        return list(map(Run._make, ROW.iter_unpack(self.packed())))

    def _due_at(self, rows: bytes | bytearray, row: int) -> int:
        return long_at(rows, row, self._offset)

    def _live(self, first: int = 0, *, read_back: bool = False) -> Iterator[bytes | bytearray | None]:
        """Yield what waits in each chunk from *first* on, then in the open rows, in order; None: not in memory."""
        for number in range(first, len(self._chunks)):
            rows = self._data(self._chunks[number], read_back=read_back)
            if rows is not None and not number and self._head:
                rows = rows[self._head * RUN_BYTES :]
            buffer = self._buffers[number]
            if rows is not None and (buffer or not r.are_in_order(rows, self._offset)):
                rows = r.in_order((rows, buffer), self._offset)
            yield rows
        yield self._open if self._chunks or not self._head else self._open[self._head * RUN_BYTES :]

    def _data(self, chunk: Chunk, *, read_back: bool) -> bytes | None:
        if chunk.data is not None or not read_back:
            return chunk.data
        assert self._pool is not None, "only a pool lets chunks leave the memory"
        assert self._pool.read_back is not None, "whoever drops chunks can read them back"
        return self._pool.read_back(chunk)[: chunk.rows * RUN_BYTES]
