"""Messages that wait for their time: packed rows in the order in which they are due.

A delayed run is a row like any other, with its due time where a ready run has its place: that is forgotten, because a
message that was delayed goes behind the tail. So a million delayed messages take 44 MB, each may be due in a
millisecond of its own, and rows lie in the same chunks and on the same pages as those of the ready ones.

Rows are ordered by due time, and within one millisecond as they came. They lie in a list of sealed chunks, found by the
due time of their first row, and in open rows behind those. Messages of one delay only ever go behind the last row.
Others go into the middle of a chunk, which another then replaces: no bytes that an image refers to ever change. A chunk
that would become too large shares with the emptier of its neighbours, so chunks stay about four fifths full.

Which rows share a chunk, and where chunks lie, follows from the history and is never judged by: `take_due` and digests
see rows only. This module must not know clocks: what is due, it is told.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from itertools import pairwise, starmap
from struct import Struct
from typing import TYPE_CHECKING

from sluicemq.broker.queues.chunks import CHUNK_BYTES, CHUNK_RUNS, ROW, RUN_BYTES, Chunk, sizes
from sluicemq.broker.queues.lost import rest_of
from sluicemq.broker.queues.runs import FifoImage, Run, messages_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sluicemq.broker.queues.chunks import ChunkPool
    from sluicemq.broker.queues.lost import LostEntries

NEAR_CHUNKS = 2
"""Chunks in front that are the last to be paged out: they are due next."""

_DUE = Struct("=Q")
_DUE_OFFSET = 8  # of `ready` within a row
_DUE_WORDS = (2, 3)
_ROW_WORDS = RUN_BYTES // 4

# What every queue without sealed chunks refers to, never changed: most of a hundred thousand queues have none.
_NO_CHUNKS: list[Chunk] = []
_NO_TIMES: list[int] = []
_NO_ROWS = bytearray()


class DelayedRuns:
    """The delayed runs of one queue.

    Args:
        pool: Keeps accounts of sealed chunks, for a pager; None: all of them stay in memory.

    Attributes:
        messages: Messages in all of them.
        next_due_ms: When the first of them is due, in log time; None when there are none.

    """

    __slots__ = ("_chunks", "_emptied", "_firsts", "_head", "_last_ms", "_open", "_pool", "messages", "next_due_ms")

    def __init__(self, pool: ChunkPool | None = None) -> None:
        self.messages = 0
        self.next_due_ms: int | None = None
        self._pool = pool
        self._chunks = _NO_CHUNKS  # sealed
        self._firsts = _NO_TIMES  # due time of the first row of each, the consumed ones too
        # Behind the chunks; never changed but by appending, so that an image may keep its beginning.
        self._open = _NO_ROWS
        self._head = 0  # rows in front, of the first chunk or else of `_open`, that are consumed
        self._last_ms = 0  # no row is due later; the last one is due then, unless it was given up
        self._emptied = False

    # --- adding ----------------------------------------------------------------------------------------------------

    def add(self, due_ms: int, runs: list[Run]) -> None:
        """Let *runs* wait until *due_ms*; what `missing` names was filled before."""
        assert runs, "there is something to delay"
        rows = _packed(due_ms, runs)
        if not self.messages or due_ms >= self._last_ms:
            self._append(rows)
            self._last_ms = due_ms
        elif not self._chunks or (self._open and due_ms >= due_ms_at(self._open, 0)):
            self._insert_open(due_ms, rows)
        else:
            self._insert_sealed(due_ms, rows)
        if self.next_due_ms is None or due_ms < self.next_due_ms:
            self.next_due_ms = due_ms
        self.messages += messages_in(runs)

    def missing(self, due_ms: int, runs_max: int) -> list[Chunk]:
        """Return the chunks that are not in memory among those that `add` of at most so many runs needs."""
        if not self._chunks or due_ms >= self._last_ms or (self._open and due_ms >= due_ms_at(self._open, 0)):
            return []
        first, end = self._place_of(due_ms, runs_max)
        return [chunk for chunk in self._chunks[first:end] if chunk.data is None]

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

    def _insert_open(self, due_ms: int, rows: bytes) -> None:
        """Put packed *rows* between the open ones."""
        live = self._open
        if not self._chunks:
            live = live[self._head * RUN_BYTES :]
            self._head = 0
        inserted = bytearray(_inserted(live, due_ms, rows))
        if len(inserted) < CHUNK_BYTES:
            self._open = inserted
        else:
            *sealed, last = _cut(inserted)
            self._seal(sealed)
            self._open = bytearray()
            self._append(last)

    def _seal(self, parts: list[bytes]) -> None:
        """Put chunks of these rows behind the others."""
        if not parts:
            return
        if self._chunks is _NO_CHUNKS:
            self._chunks, self._firsts = [], []
        for part in parts:
            chunk = Chunk(self, due_ms_at(part, 0), part)
            self._chunks.append(chunk)
            self._firsts.append(chunk.base)
            if self._pool is not None:
                self._pool.add(chunk)

    def _insert_sealed(self, due_ms: int, rows: bytes) -> None:
        """Put packed *rows* into the sealed chunk to which their time belongs; others take its place."""
        first, end = self._place_of(due_ms, len(rows) // RUN_BYTES)
        old = self._chunks[first:end]
        assert all(chunk.data is not None for chunk in old), "the chunks that a delay goes to are in memory"
        live = b"".join([chunk.data for chunk in old if chunk.data is not None])
        consumed = 0 if first else self._head
        if consumed:
            live = live[consumed * RUN_BYTES :]
            self._head = 0
        inserted = _inserted(live, due_ms, rows)
        if len(inserted) > CHUNK_BYTES:
            new = [Chunk(self, due_ms_at(part, 0), part) for part in _cut(inserted)]
        else:
            # Counting all of them again would take as long as all the rest.
            messages = sum(chunk.messages for chunk in old) + sum(sizes(rows)) if not consumed else None
            new = [Chunk(self, due_ms_at(inserted, 0), inserted, messages)]
        self._chunks[first:end] = new
        self._firsts[first:end] = [chunk.base for chunk in new]
        if self._pool is None:
            for chunk in old:
                chunk.fifo = None
        else:
            self._pool.replace(old, new)

    def _place_of(self, due_ms: int, count: int) -> tuple[int, int]:
        """Return which sealed chunks so many rows of *due_ms* must share, from the first to behind the last."""
        number = max(bisect_right(self._firsts, due_ms) - 1, 0)
        if self._rows_in(number) + count <= CHUNK_RUNS:
            return number, number + 1
        before = self._rows_in(number - 1) if number else CHUNK_RUNS + 1
        behind = self._rows_in(number + 1) if number + 1 < len(self._chunks) else CHUNK_RUNS + 1
        if before < behind:
            return number - 1, number + 1
        return (number, number + 2) if behind <= CHUNK_RUNS else (number, number + 1)

    def _rows_in(self, number: int) -> int:
        """Return how many rows of a sealed chunk are not consumed."""
        return self._chunks[number].rows - (0 if number else self._head)

    # --- taking ----------------------------------------------------------------------------------------------------

    def take_due(self, until_ms: int, runs_max: int) -> list[Run]:
        """Take at most *runs_max* of the runs that are due by *until_ms*, in order; `missing_due` was filled before."""
        taken: list[Run] = []
        while self.next_due_ms is not None and self.next_due_ms <= until_ms and len(taken) < runs_max:
            rows: bytes | bytearray | None = self._chunks[0].data if self._chunks else self._open
            assert rows is not None, "the chunks that are due are in memory"
            count = len(rows) // RUN_BYTES
            end = min(count, self._head + runs_max - len(taken))
            if due_ms_at(rows, end - 1) > until_ms:
                end = _behind(rows, until_ms, self._head, end)
            taken += map(Run._make, ROW.iter_unpack(rows[self._head * RUN_BYTES : end * RUN_BYTES]))
            self._head = end
            if end == count:
                self._leave_front()
            else:
                self.next_due_ms = due_ms_at(rows, end)
        self.messages -= messages_in(taken)
        return taken

    def missing_due(self, until_ms: int, runs_max: int) -> list[Chunk]:
        """Return the chunks that are not in memory among those that `take_due` may need."""
        missing: list[Chunk] = []
        for number, chunk in enumerate(self._chunks):
            if runs_max <= 0 or (self._firsts[number] if number else self.next_due_ms or 0) > until_ms:
                break
            if chunk.data is None:
                missing.append(chunk)
            runs_max -= self._rows_in(number)
        return missing

    def _leave_front(self) -> None:
        """Drop the first chunk, or else the open rows, all of which are consumed."""
        self._head = 0
        if self._chunks:
            chunk = self._chunks.pop(0)
            del self._firsts[0]
            if self._pool is None:
                chunk.fifo = None
            else:
                self._pool.replace((chunk,), ())
        else:
            self._open = _NO_ROWS
        self._look_at_front()

    def _look_at_front(self) -> None:
        """Note when the first row is due, of which none is consumed."""
        if self._chunks:
            self.next_due_ms = self._firsts[0]
        elif self._open:
            self.next_due_ms = due_ms_at(self._open, 0)
        else:
            self.next_due_ms = None

    def empty(self) -> None:
        """Drop everything, at the same cost however much it is, and for good: another takes its place."""
        self._emptied = True
        if self._pool is not None:
            self._pool.let_go(deque(self._chunks))
        self._chunks, self._firsts, self._open = _NO_CHUNKS, _NO_TIMES, _NO_ROWS
        self._head = self.messages = 0
        self.next_due_ms = None

    # --- giving up -------------------------------------------------------------------------------------------------

    def missing_of(self, lost: LostEntries) -> list[Chunk]:
        """Return the chunks that are not in memory among those that `forget` needs."""
        return [chunk for chunk in self._chunks if chunk.data is None and lost.may_be_in(chunk)]

    def forget(self, lost: LostEntries) -> int:
        """Take out all runs of *lost* entries; return how many messages that were. `missing_of` was filled before."""
        rest = rest_of(
            lost,
            self._chunks,
            self._open,
            lambda rows: bytes(rows[self._head * RUN_BYTES :]),
            lambda rows: Chunk(self, due_ms_at(rows, 0), rows),
        )
        if not rest.gone:
            return 0
        if self._pool is not None:
            self._pool.replace(rest.old, rest.new)
        else:
            for chunk in rest.old:
                chunk.fifo = None
        self._chunks = rest.chunks or _NO_CHUNKS
        self._firsts = [chunk.base for chunk in rest.chunks] or _NO_TIMES
        self._open = bytearray(rest.open_rows) if rest.open_rows else _NO_ROWS
        if rest.front_changed:
            self._head = 0
            self._look_at_front()
        messages = sum(sizes(rest.gone))
        self.messages -= messages
        return messages

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
        """Return all that it is at this moment, None when that is nothing; costs 10 ns a chunk."""
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
        )

    @classmethod
    def restored(cls, image: FifoImage, pool: ChunkPool | None = None) -> DelayedRuns:
        """Return the delayed runs of *image*, whose chunks are new and belong to nobody else."""
        delayed = cls(pool)
        if image.chunks:
            delayed._chunks = list(image.chunks)
            delayed._firsts = [chunk.base for chunk in image.chunks]
            for chunk in image.chunks:
                chunk.fifo = delayed
                if pool is not None:
                    pool.add(chunk)
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
        rows = bytearray().join(self._parts())
        del rows[: self._head * RUN_BYTES]
        return bytes(rows)

    def runs(self) -> list[Run]:
        """Return all runs in order, as `packed` does; `ready` of each is when it is due."""
        return list(map(Run._make, ROW.iter_unpack(self.packed())))

    def check(self) -> None:
        """Assert what the rest relies on; reads everything.

        Raises:
            AssertionError: It does not hold; the text says what.

        """
        runs = self.runs()
        times = [run.ready for run in runs]
        assert times == sorted(times), "delayed messages are in the order in which they are due"
        assert self.next_due_ms == (times[0] if times else None), "it is known when the first is due"
        assert not times or self._last_ms >= times[-1], "nothing is due after the last"
        assert self.messages == messages_in(runs), "delayed messages are counted"
        for chunk, first_ms, rows in zip(self._chunks, self._firsts, self._parts(), strict=False):
            assert chunk.fifo is self, "a chunk knows where it belongs"
            assert chunk.base == first_ms == due_ms_at(rows, 0), "chunks are found by their first row"
            assert 0 < chunk.rows == len(rows) // RUN_BYTES <= CHUNK_RUNS, "chunks are neither empty nor too large"
            assert chunk.messages == sum(sizes(rows)), "a chunk knows how many messages it has"
        assert len(self._open) < CHUNK_BYTES, "open rows are sealed when they are enough"
        assert not self._chunks or self._head < self._chunks[0].rows, "what is consumed is dropped"

    def _parts(self) -> Iterator[bytes | bytearray]:
        for chunk in self._chunks:
            rows = chunk.data
            if rows is None:
                assert self._pool is not None, "only a pool lets chunks leave the memory"
                assert self._pool.read_back is not None, "whoever drops chunks can read them back"
                rows = self._pool.read_back(chunk)[: chunk.rows * RUN_BYTES]
            yield rows
        yield self._open


def due_ms_at(rows: bytes | bytearray, row: int) -> int:
    """Return when the delayed run in *row* is due."""
    value: int = _DUE.unpack_from(rows, row * RUN_BYTES + _DUE_OFFSET)[0]
    return value


def _packed(due_ms: int, runs: Iterable[Run]) -> bytes:
    """Return *runs* as rows that wait until *due_ms*."""
    words = array("I", b"".join(starmap(ROW.pack, runs)))
    count = len(words) // _ROW_WORDS
    for word, value in zip(_DUE_WORDS, memoryview(_DUE.pack(due_ms)).cast("I"), strict=True):
        words[word::_ROW_WORDS] = array("I", (value,)) * count
    return words.tobytes()


def _behind(rows: bytes | bytearray, due_ms: int, first: int, end: int) -> int:
    """Return the row behind all of those from *first* to *end* that are due by *due_ms*."""
    return bisect_right(range(end), due_ms, first, end, key=lambda row: due_ms_at(rows, row))


def _inserted(rows: bytes | bytearray, due_ms: int, more: bytes) -> bytes:
    """Return *rows* with *more* rows, which are due at *due_ms*, at their place."""
    place = _behind(rows, due_ms, 0, len(rows) // RUN_BYTES) * RUN_BYTES
    return b"".join((memoryview(rows)[:place], more, memoryview(rows)[place:]))


def _cut(rows: bytes | bytearray) -> list[bytes]:
    """Cut rows, more than a chunk should have, into equal parts with some room in each."""
    count = len(rows) // RUN_BYTES
    parts = -(-count // max(CHUNK_RUNS * 15 // 16, 1))
    borders = [count * part // parts * RUN_BYTES for part in range(parts + 1)]
    return [bytes(rows[start:end]) for start, end in pairwise(borders)]
