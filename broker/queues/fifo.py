"""The queue's index of runs: packed rows, appended behind, consumed in front, readable everywhere.

Why packed: a backlog of a million single messages is a million runs. As rows of `RUN_BYTES` in chunks they take 64
bytes each and the garbage collector never looks at them; one call in C reads a thousand of them. A full chunk is sealed
and may leave the memory (`chunks`), so whoever reads must expect that some are not there.

Runs may leave from the middle too; then their rows are holes, which reading passes over (`holes`). Where there are
none, they cost nothing. This module must not know queues, leases or sessions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

from sluicemq.broker.queues import checksums
from sluicemq.broker.queues import holes as h
from sluicemq.broker.queues.chunks import (
    AHEAD_RUNS,
    CHUNK_BYTES,
    CHUNK_RUNS,
    EXPIRES_OFFSET,
    PUBLISHED_OFFSET,
    ROW,
    RUN_BYTES,
    Chunk,
    ChunksMissing,
    FifoImage,
    long_at,
    published_ms_at,
    ready_at,
    row_at,
    sizes,
)
from sluicemq.broker.queues.runs import Run, bytes_in, fronted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Self

    from sluicemq.broker.queues.chunks import ChunkPool
    from sluicemq.broker.queues.holes import Holes

NOBODY_READ = -(1 << 62)
"""`RunFifo.read_ordinal` before anybody read."""

_ready_of = attrgetter("ready")
_NO_TIMES = (0, 0)
# What every index without holes refers to, never changed.
_NO_HOLES: dict[int, Holes] = {}


class RunFifo:
    """Runs in the order in which they became ready: appended behind, consumed in front, readable everywhere.

    Each run keeps its ordinal for ever: 0 for the first one that was ever appended. So a reader's position stays true
    however much is consumed in front of it.

    Args:
        pool: Keeps accounts of sealed chunks, for a pager; None: all of them stay in memory.

    Attributes:
        head: Ordinal of the first run; equals *tail* when empty.
        tail: Ordinal of the next run to be appended.
        messages: Messages in all runs.
        read_ordinal: Where the last reader stopped; a hint which chunks will be needed next. Negative: nobody read.
        expiry_ms: Whoever appends keeps here what it must know of all runs together; goes with an image, 0 at first.

    """

    __slots__ = (
        "_base",
        "_chunks",
        "_front",
        "_front_times",
        "_holes",
        "_open",
        "_pool",
        "_sealed",
        "_sums",
        "expiry_ms",
        "head",
        "messages",
        "read_ordinal",
        "tail",
    )

    def __init__(self, pool: ChunkPool | None = None) -> None:
        self.head = 0
        self.tail = 0
        self.messages = 0
        self.read_ordinal = NOBODY_READ
        self._pool = pool
        # Sealed chunks; made with the first, because most of a hundred thousand queues have none.
        self._chunks: deque[Chunk] | None = None
        self._open = bytearray()  # never changed but by appending, so that an image may keep its beginning
        self._base = 0  # ordinal of the first row of the first chunk
        self._sealed = 0  # ordinal of the first row of `_open`
        # (first, size) of the run in front, if that is not what its row says.
        self._front: tuple[int, int] | None = None
        # When the run in front was published and when it expires, if its chunk was dropped when partly consumed.
        self._front_times = _NO_TIMES
        self._holes = _NO_HOLES  # by the ordinal of the first row of a chunk, or of the open rows
        self._sums = checksums.NOTHING_SEALED  # of the rows before the first chunk, and of those before the open ones
        self.expiry_ms = 0

    def __len__(self) -> int:
        return self.tail - self.head - sum(holes.bits.bit_count() for holes in self._holes_ahead())

    @property
    def has_holes(self) -> bool:
        """Whether rows behind the first one left: then ordinals of what is read have gaps."""
        return bool(self._holes)

    def _holes_ahead(self) -> Iterator[Holes]:
        """Yield the holes behind the first row, by chunk."""
        for base, holes in self._holes.items():
            row = max(self.head - base, 0)
            yield holes if not row else holes._replace(bits=holes.bits >> row)

    # --- appending and consuming ---------------------------------------------------------------------------------

    def append(self, run: Run) -> None:
        """Put *run* behind all others."""
        self.append_row(ROW.pack(*run), run[3])

    def append_row(self, row: bytes, messages: int) -> None:
        """Put a packed run of so many messages behind all others."""
        rows = self._open
        rows += row
        self.tail += 1
        self.messages += messages
        if len(rows) == CHUNK_BYTES:
            self._seal()

    def extend(self, runs: Iterable[Run]) -> None:
        """Put *runs* behind all others, in their order."""
        for run in runs:
            self.append(run)

    def _seal(self) -> None:
        if self._chunks is None:
            self._chunks = deque()
        if not self._chunks:
            self._base = self._sealed
        rows = bytes(self._open)
        chunk = Chunk(self, self._sealed, rows)
        if self._sealed in self._holes:
            self._holes[self._sealed] = h.noted(self._holes[self._sealed], rows)
        assert chunk.rows == CHUNK_RUNS, "a chunk is sealed when it is full"
        self._chunks.append(chunk)
        self._sums = checksums.sealed(self._sums, chunk)
        self._open = bytearray()
        self._sealed = self.tail
        if self._pool is not None:
            self._pool.add(chunk)

    def consume(self, runs: int, messages: int) -> None:
        """Drop the *runs* in front, which hold *messages* messages; none is fine."""
        if not runs:
            return
        self.head = self.head + runs if not self._holes else self._behind(runs)
        self.messages -= messages
        self._front = None
        assert self.head <= self.tail, "no more runs are consumed than there are"
        if self._holes:
            self._pass_holes()
        if self.head == self.tail:
            self._forget()
        elif self._chunks and self.head - self._base >= CHUNK_RUNS:
            consumed: deque[Chunk] = deque()
            while self._chunks and self.head - self._base >= CHUNK_RUNS:
                consumed.append(self._chunks.popleft())
                self._sums = checksums.left(self._sums, consumed[-1])
                if self._holes:
                    self._holes.pop(self._base, None)
                self._base += CHUNK_RUNS
            if self._pool is not None:
                self._pool.let_go(consumed)

    def _behind(self, runs: int) -> int:
        """Return the ordinal behind so many runs in front."""
        ordinal = self.head
        while runs:
            base, end = self._part(ordinal)
            for first, stop in h.stretches(self._bits(base), ordinal - base, end - base):
                count = min(runs, stop - first)
                runs -= count
                ordinal = base + first + count
                if not runs:
                    return ordinal
            assert end < self.tail, "no more runs are consumed than there are"
            ordinal = end
        return ordinal

    def _pass_holes(self) -> None:
        """Let `head` be the first run that has not left."""
        while self.head < self.tail:
            base, end = self._part(self.head)
            row = h.first_left(self._bits(base), self.head - base)
            self.head = min(base + row, end)
            if base + row < end:
                return

    def _part(self, ordinal: int) -> tuple[int, int]:
        """Return the ordinals of the first row, and behind the last one, of the chunk or open rows that hold it."""
        if ordinal >= self._sealed:
            return self._sealed, self.tail
        base = ordinal - (ordinal - self._base) % CHUNK_RUNS
        return base, base + CHUNK_RUNS

    def _bits(self, base: int) -> int:
        return self._holes.get(base, h.NONE).bits

    def _rows(self, base: int) -> bytes | bytearray | None:
        """Return the rows of the chunk that begins with this ordinal, or the open rows; None: not in memory."""
        if base >= self._sealed:
            return self._open
        assert self._chunks, "rows in front of the open ones are sealed"
        return self._chunks[(base - self._base) // CHUNK_RUNS].data

    def trim(self, messages: int) -> None:
        """Drop *messages* messages, but not all, of the run in front."""
        run = self.first()
        assert run is not None, "there is a run in front"
        assert 0 < messages < run.size, "a run is trimmed inside"
        self._front = (run.first + messages, run.size - messages)
        self.messages -= messages

    def remove(self, ordinal: int, first: int, size: int) -> list[Run]:
        """Drop *size* messages from *first* of the batch on out of the run at *ordinal*, wherever that stands.

        Returns:
            What is left of the run: nothing, or up to two parts. They left the index too, and the caller puts them
            elsewhere; only where the run in front loses its front part the rest stays in its place.

        """
        run = self.run_at(ordinal)
        before, behind = first - run.first, run.first + run.size - first - size
        assert size > 0, "something leaves"
        assert min(before, behind) >= 0, "only what is there leaves"
        rest: list[Run] = []
        if before:
            rest.append(run._replace(size=before))
        elif behind and ordinal == self.head:
            self.trim(size)
            return rest
        if behind:
            rest.append(run._replace(first=first + size, size=behind))
        if ordinal == self.head:
            self.consume(1, run.size)
        else:
            base, _ = self._part(ordinal)
            self._punch(base, 1 << (ordinal - base), run.size)
        return rest

    def _punch(self, base: int, mask: int, messages: int) -> None:
        """Let the rows in *mask*, behind the first one, of the chunk that begins with this ordinal leave."""
        rows = self._rows(base)
        assert rows is not None, "the chunks that runs leave from are in memory"
        if self._holes is _NO_HOLES:
            self._holes = {}
        self._holes[base] = h.with_holes(self._holes.get(base, h.NONE), mask, messages, rows)
        self.messages -= messages

    def clear(self) -> None:
        """Drop everything, at the same cost however much it is; ordinals go on."""
        self.head = self.tail
        self.messages = 0
        self._front = None
        self._forget()

    def _forget(self) -> None:
        """Drop all rows, which are consumed."""
        if self._open:
            self._open = bytearray()
        if self._chunks:
            if self._pool is not None:
                self._pool.let_go(self._chunks)
            self._chunks = None
        self._holes = _NO_HOLES
        self._sums = checksums.NOTHING_SEALED
        self._base = self._sealed = self.tail

    # --- reading -------------------------------------------------------------------------------------------------

    def first(self) -> Run | None:
        """Return the run in front; its chunk must be in memory."""
        if self.head == self.tail:
            return None
        base = self._sealed if self.head >= self._sealed else self._base
        rows = self._rows(base)
        assert rows is not None, "the chunk in front is in memory"
        run = Run._make(ROW.unpack_from(rows, (self.head - base) * RUN_BYTES))
        return run if self._front is None else fronted(run, self._front)

    def run_at(self, ordinal: int) -> Run:
        """Return the run at *ordinal*, which did not leave; its chunk must be in memory."""
        base, _ = self._part(ordinal)
        rows = self._rows(base)
        assert rows is not None, "the chunk of a run that is wanted is in memory"
        gone = ordinal < self.head or self._bits(base) >> (ordinal - base) & 1
        assert not gone, "a run that is wanted is there"
        run = Run._make(ROW.unpack_from(rows, (ordinal - base) * RUN_BYTES))
        return run if self._front is None or ordinal != self.head else fronted(run, self._front)

    def front_published_ms(self) -> int | None:
        """Return when the run in front was published, wherever its chunk lies; None when there is none."""
        return None if self.head == self.tail else self._of_front(PUBLISHED_OFFSET)

    def front_expires_ms(self) -> int | None:
        """Return when the run in front expires, wherever its chunk lies; None when there is none, or that is never."""
        return None if self.head == self.tail else self._of_front(EXPIRES_OFFSET) or None

    def _of_front(self, offset: int) -> int:
        """Return one of the two times of the run in front."""
        if self.head >= self._sealed:
            return long_at(self._open, self.head - self._sealed, offset)
        assert self._chunks, "rows in front of the open ones are sealed"
        chunk, row = self._chunks[0], self.head - self._base
        if chunk.data is not None:
            return long_at(chunk.data, row, offset)
        holes = self._holes.get(self._base, h.NONE)
        if not row:
            times = chunk.summary.published_ms, chunk.summary.expires_ms
        elif h.first_left(holes.bits) == row:
            times = holes.published_ms, holes.expires_ms
        else:
            times = self._front_times
        return times[offset == EXPIRES_OFFSET]

    def read(self, ordinal: int, runs_max: int) -> list[Run]:
        """Return at most *runs_max* runs from *ordinal* on, or from the front if that is consumed already.

        The answer ends early where a chunk is not in memory; `missing` says which. `read_ordinal` says where to go on.
        """
        if self._holes:
            return self.read_with_ordinals(ordinal, runs_max)[1]
        start = ordinal = max(ordinal, self.head)
        end = min(ordinal + runs_max, self.tail)
        runs: list[Run] = []
        while ordinal < end:
            if ordinal >= self._sealed:
                row = ordinal - self._sealed
                rows: bytes | bytearray = self._open
                count = end - ordinal
            else:
                number, row = divmod(ordinal - self._base, CHUNK_RUNS)
                data = self._chunks[number].data  # type: ignore[index]  # rows in front of the open ones are sealed
                if data is None:
                    break
                rows = data
                count = min(end - ordinal, CHUNK_RUNS - row)
            runs += map(Run._make, ROW.iter_unpack(rows[row * RUN_BYTES : (row + count) * RUN_BYTES]))
            ordinal += count
        self.read_ordinal = ordinal
        if self._front is not None and start == self.head and runs:
            runs[0] = fronted(runs[0], self._front)
        return runs

    def read_with_ordinals(self, ordinal: int, runs_max: int) -> tuple[Sequence[int], list[Run]]:
        """Return what `read` does, with the ordinal of each run: they have gaps where runs left from the middle."""
        ordinal = max(ordinal, self.head)
        if not self._holes:
            runs = self.read(ordinal, runs_max)
            return range(ordinal, ordinal + len(runs)), runs
        ordinals: list[int] = []
        runs = []
        while runs_max > 0 and ordinal < self.tail:
            base, end = self._part(ordinal)
            rows = self._rows(base)
            if rows is None:
                break
            for first, stop in h.stretches(self._bits(base), ordinal - base, end - base):
                behind = min(stop, first + runs_max)
                runs += map(Run._make, ROW.iter_unpack(rows[first * RUN_BYTES : behind * RUN_BYTES]))
                ordinals += range(base + first, base + behind)
                runs_max -= behind - first
                ordinal = base + behind
                if not runs_max:
                    break
            else:
                ordinal = end
        self.read_ordinal = ordinal
        if self._front is not None and ordinals and ordinals[0] == self.head:
            runs[0] = fronted(runs[0], self._front)
        return ordinals, runs

    def missing(self, ordinal: int, runs_max: int) -> list[Chunk]:
        """Return the chunks that are not in memory among those that hold *runs_max* runs from *ordinal* on."""
        ordinal = max(ordinal, self.head)
        if ordinal >= self._sealed or self._chunks is None or runs_max <= 0:
            return []
        number = (ordinal - self._base) // CHUNK_RUNS
        if not self._holes:
            end = min(ordinal + runs_max, self._sealed)
            numbers = range(number, (end - 1 - self._base) // CHUNK_RUNS + 1)
            return [chunk for number in numbers if (chunk := self._chunks[number]).data is None]
        missing = []
        row = ordinal - self._base - number * CHUNK_RUNS
        for chunk in islice(self._chunks, number, None):
            if runs_max <= 0:
                break
            if chunk.data is None:
                missing.append(chunk)
            runs_max -= h.count_left(self._bits(chunk.base), row, CHUNK_RUNS)
            row = 0
        return missing

    def find(self, messages: int) -> tuple[int, int]:
        """Return the ordinal of the run after *messages* messages, and how many of them lie within that run.

        Chunks on the way are passed by their counts, and the sizes of one are added in C, 20 ns a run: a look far into
        a long queue must not block the others.

        Raises:
            ChunksMissing: The run lies in a chunk that is not in memory.

        """
        left = messages
        if left >= self.messages:
            return self.tail, 0
        ordinal = self.head
        if self._chunks:
            open_messages = sum(sizes(self._open)) - self._holes.get(self._sealed, h.NONE).messages
            held = self.messages - open_messages - sum(map(self._held_by, islice(self._chunks, 1, None)))
            for chunk in self._chunks:
                if ordinal != self.head:
                    held = self._held_by(chunk)
                if left < held:
                    if chunk.data is None:
                        raise ChunksMissing([chunk])
                    return self._find_in(chunk.data, chunk.base, ordinal, left)
                left -= held
                ordinal = chunk.base + CHUNK_RUNS
        return self._find_in(self._open, self._sealed, ordinal, left)

    def _held_by(self, chunk: Chunk) -> int:
        """Return how many messages a chunk behind the first one holds."""
        return chunk.messages - self._holes.get(chunk.base, h.NONE).messages

    def _find_in(self, rows: bytes | bytearray, base: int, ordinal: int, left: int) -> tuple[int, int]:
        run_sizes = sizes(rows, ordinal - base)
        if self._front is not None and ordinal == self.head:
            run_sizes[0] = self._front[1]
        bits = self._bits(base) >> (ordinal - base)
        for row, size in enumerate(run_sizes):
            if bits >> row & 1:
                continue
            if left < size:
                return ordinal + row, left
            left -= size
        raise AssertionError("the sizes of all runs add up to the messages of the queue")

    def find_place(self, place: tuple[int, int, int]) -> int | None:
        """Return the ordinal of the first run that is here and began with, or held, this (ready, zxid, first), or None.

        Raises ChunksMissing where it may lie in a chunk that is not in memory: `missing_place` names all of them."""
        # What a batch itself made ready is there once, and mostly where the batch's order says.
        for in_order in (True, False) if place[0] == place[1] else (False,):
            for base, rows, chunk in self.parts_of(place[0]):
                if rows is None:
                    raise ChunksMissing([chunk] if chunk is not None else [])
                row = row_at(rows, place, max(self.head - base, 0), in_order=in_order)
                while row is not None and self._bits(base) >> row & 1:
                    row = row_at(rows, place, row + 1)  # one message may have come twice
                if row is not None:
                    return base + row
        return None

    def missing_place(self, place: tuple[int, int, int]) -> list[Chunk]:
        """Return the chunks that `find_place` needs and that are not in memory."""
        return [chunk for _, rows, chunk in self.parts_of(place[0]) if rows is None and chunk is not None]

    def parts_of(self, ready: int) -> Iterator[tuple[int, bytes | bytearray | None, Chunk | None]]:
        """Yield (ordinal of the first row, rows, chunk) of what may hold runs that became ready then."""
        chunks = self._chunks
        if chunks:
            number = max(bisect_left(chunks, ready, key=_ready_of) - 1, 0)
            for chunk in islice(chunks, number, None):
                if chunk.ready > ready:
                    return
                yield chunk.base, chunk.data, chunk
        if self._open and ready_at(self._open, 0) <= ready:
            yield self._sealed, self._open, None

    def count_bytes(self) -> int:
        """Return about how many bytes all runs take, from the summaries of chunks that lost nothing."""
        total = 0
        for chunk in self._chunks or ():
            if self._lost_something(chunk):
                assert chunk.data is not None, "chunks that lost something are in memory when bytes are counted"
                total += self._bytes_in(chunk.data, chunk.base)
            else:
                total += chunk.summary.bytes
        return total + self._bytes_in(self._open, self._sealed)

    def missing_bytes(self) -> list[Chunk]:
        """Return the chunks that `count_bytes` must look into and that are not in memory."""
        return [chunk for chunk in self._chunks or () if chunk.data is None and self._lost_something(chunk)]

    def _lost_something(self, chunk: Chunk) -> bool:
        return chunk.base in self._holes or (
            chunk.base <= self.head < chunk.base + CHUNK_RUNS and (self.head > chunk.base or self._front is not None)
        )

    def _bytes_in(self, rows: bytes | bytearray, base: int) -> int:
        runs = list(map(Run._make, ROW.iter_unpack(h.without_holes(rows, self._bits(base), max(self.head - base, 0)))))
        if self._front is not None and runs and base <= self.head < base + CHUNK_RUNS:
            runs[0] = fronted(runs[0], self._front)
        return bytes_in(runs)

    def has_left(self, chunk: Chunk) -> bool:
        """Return whether all runs of *chunk* are consumed."""
        return chunk.base + CHUNK_RUNS <= self.head

    def is_near(self, chunk: Chunk) -> bool:
        """Return whether a reader is in *chunk*, or will soon be."""
        return chunk.base < self.read_ordinal + AHEAD_RUNS

    def before_drop(self, chunk: Chunk) -> None:
        """Note what must stay known of a chunk whose rows are dropped now."""
        row = self.head - chunk.base
        if 0 < row < CHUNK_RUNS and chunk.data is not None:
            self._front_times = published_ms_at(chunk.data, row), long_at(chunk.data, row, EXPIRES_OFFSET)

    def packed(self) -> bytes:
        """Return all rows as bytes: the same for the same runs, whatever the history and wherever they lie."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes | bytearray]:
        """Yield `packed` chunk by chunk. Those not in memory are read back and not kept: it blocks, for audits only."""
        parts = self._parts()
        if self._front is not None:
            rows = bytearray(next(parts))
            ROW.pack_into(rows, 0, *fronted(Run._make(ROW.unpack_from(rows)), self._front))
            yield rows
        yield from parts

    def runs(self) -> list[Run]:
        """Return all runs, as `packed` does."""
        return list(map(Run._make, ROW.iter_unpack(self.packed())))

    def image(self) -> FifoImage:
        """Return all that it is at this moment; costs 10 ns a chunk."""
        base = self._base if self._chunks else self._sealed
        return FifoImage(
            self.head - base,
            self.messages,
            self._front,
            self.front_published_ms(),
            tuple(self._chunks or ()),
            self._open,
            len(self._open),
            self.expiry_ms,
            self.front_expires_ms() or 0,
            tuple(((first - base) // CHUNK_RUNS, holes) for first, holes in self._holes.items()),
            self._sums[0],
        )

    @classmethod
    def restored(cls, image: FifoImage, pool: ChunkPool | None = None) -> Self:
        """Return the fifo of *image*, whose chunks are new and belong to nobody else."""
        fifo = cls(pool)
        fifo._sums = image.checksum, image.checksum
        if image.chunks:
            fifo._chunks = deque(image.chunks)
            for chunk in image.chunks:
                assert chunk.rows == CHUNK_RUNS, "chunks of ready runs are full"
                chunk.fifo = fifo
                chunk.base = fifo._sealed
                fifo._sealed += CHUNK_RUNS
                fifo._sums = checksums.sealed(fifo._sums, chunk)
                if pool is not None:
                    pool.add(chunk)
        fifo._open = image.open_rows[: image.open_bytes]
        fifo.head = image.head
        fifo.tail = fifo._sealed + image.open_bytes // RUN_BYTES
        fifo.messages = image.messages
        fifo._front = image.front
        fifo._front_times = image.front_ms or 0, image.front_expires_ms
        fifo.expiry_ms = image.last_ms
        if image.holes:
            fifo._holes = {position * CHUNK_RUNS: holes for position, holes in image.holes}
        return fifo

    def _parts(self) -> Iterator[bytes | bytearray]:
        """Yield what did not leave of each chunk, and of the open rows."""
        for chunk in self._chunks or ():
            rows = chunk.data
            if rows is None:
                assert self._pool is not None, "only a pool lets chunks leave the memory"
                assert self._pool.read_back is not None, "whoever drops chunks can read them back"
                rows = self._pool.read_back(chunk)
            yield h.without_holes(rows, self._bits(chunk.base), max(self.head - chunk.base, 0))
        yield h.without_holes(self._open, self._bits(self._sealed), max(self.head - self._sealed, 0))
