"""Runs: neighbouring messages of one batch that share one fate, and the queue's index that holds them packed.

A run is the machine's only currency: whatever happens to messages happens to runs, which are split where a border
falls inside one. This module must not know queues, leases or sessions.

Why packed: a backlog of a million single messages is a million runs. As rows of `RUN_BYTES` in chunks they take 64
bytes each and the garbage collector never looks at them; one call in C reads a thousand of them. A full chunk is sealed
and may leave the memory (`chunks`), so whoever reads must expect that some are not there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.queues.chunks import (
    AHEAD_RUNS,
    CHUNK_BYTES,
    CHUNK_RUNS,
    ROW,
    RUN_BYTES,
    Chunk,
    ChunksMissing,
    published_ms_at,
    sizes,
    zxid_at,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sluicemq.broker.queues.chunks import ChunkPool

DELIVERIES_MAX = 65_535  # frozen by the log's format, see `MachineLimits`: it shows in the state
"""Deliveries and attempts of a message are counted up to here."""

NOBODY_READ = -(1 << 62)
"""`RunFifo.read_ordinal` before anybody read."""


class Run(NamedTuple):
    """Messages *first* to *first + size - 1* of the batch that the entry *zxid* published.

    Attributes:
        zxid: The PUBLISH entry; together with an index, the address of a message.
        ready: The entry that made the messages ready; (ready, zxid, first) is the place in the queue.
        first: Index of the first message within the batch.
        size: How many messages.
        batch_count: Messages in the whole batch.
        batch_bytes: Bytes of the whole batch.
        published_ms: Log time of the PUBLISH entry.
        deliveries: Leases that these messages have had; a lease that still runs is not among them.
        attempts: Hand-overs to user code that are known to have begun, without the running lease.
        key: crc32c of the key that the messages share, where the queue is ordered by keys; 0: none.
        expires_ms: Log time from which on the messages are not delivered any more; 0: never.
        note: Number of the queue's note that says why they were given back or died; 0: none.
        priority: 0 to 9; higher ones are delivered first.

    """

    zxid: int
    ready: int
    first: int
    size: int
    batch_count: int
    batch_bytes: int
    published_ms: int
    deliveries: int = 0
    attempts: int = 0
    key: int = 0
    expires_ms: int = 0
    note: int = 0
    priority: int = 0

    @property
    def place(self) -> tuple[int, int, int]:
        """What the queue is ordered by."""
        return (self.ready, self.zxid, self.first)

    @property
    def whole(self) -> bool:
        """Whether the run is the whole batch, so that its bytes can be forwarded untouched."""
        return self.size == self.batch_count

    def split(self, count: int) -> tuple[Run, Run]:
        """Return the first *count* messages and the rest; both must have at least one message."""
        assert 0 < count < self.size, "a run is split inside"
        zxid, ready, first, size, *shared = self
        return Run(zxid, ready, first, count, *shared), Run(zxid, ready, first + count, size - count, *shared)

    def bytes_of(self, count: int) -> int:
        """Return about how many bytes *count* messages of the batch take: its mean, rounded up."""
        return -(-self.batch_bytes * count // self.batch_count)

    def settled_back(self, ready: int, attempts: int, note: int | None = None) -> Run:
        """Return the run after a lease has ended without an ack: one delivery and *attempts* more.

        Args:
            ready: Its new place.
            attempts: How many attempts more.
            note: Why; None: the run keeps the note that it has.

        """
        return Run(
            self.zxid,
            ready,
            self.first,
            self.size,
            self.batch_count,
            self.batch_bytes,
            self.published_ms,
            min(self.deliveries + 1, DELIVERIES_MAX),
            min(self.attempts + attempts, DELIVERIES_MAX),
            self.key,
            self.expires_ms,
            self.note if note is None else note,
            self.priority,
        )


size_of = itemgetter(3)
"""`run.size`, for loops that run in C."""
place_of = itemgetter(1, 0, 2)
"""`run.place`, for loops that run in C."""


def messages_in(runs: Iterable[Run]) -> int:
    """Return how many messages *runs* hold."""
    return sum(map(size_of, runs))


def flat_runs(runs: Sequence[Run]) -> list[int]:
    """Return *runs* as a GRANT names them: `[zxid, first, size, ...]`."""
    flat: list[int] = []
    for run in runs:
        flat += (run[0], run[2], run[3])
    return flat


def joined(runs: Iterable[Run]) -> list[Run]:
    """Return *runs* with neighbours made one where nothing but a border tells them apart.

    Leases fall to pieces as consumers settle; without this a batch that comes back message by message would stay in
    a thousand pieces for ever.
    """
    result: list[Run] = []
    last: Run | None = None
    for run in runs:
        if (
            last is not None
            and last.zxid == run.zxid
            and last.first + last.size == run.first
            and last.ready == run.ready
            and last[7:] == run[7:]
        ):
            last = result[-1] = last._replace(size=last.size + run.size)
        else:
            result.append(run)
            last = run
    return result


class FifoImage(NamedTuple):
    """All that a `RunFifo`, or the `DelayedRuns` of a queue, is at one moment; nothing changes when they do.

    Attributes:
        head: Rows of the first chunk (of *open_rows*, when there is no chunk) that were consumed.
        messages: Messages in all runs.
        front: (first, size) of the run in front, where it lost messages since its row was written.
        front_ms: When the run in front was published, or is due; None when there is none.
        chunks: The sealed chunks. Their rows never change, but may leave the memory once they have a page.
        open_rows: The byte array that runs are appended to; only its first *open_bytes* belong to the image. It grows
            meanwhile, so it must be copied, never viewed.
        open_bytes: Bytes of *open_rows* that count.
        last_ms: When the last run is due; 0 where runs are ready.

    """

    head: int
    messages: int
    front: tuple[int, int] | None
    front_ms: int | None
    chunks: Sequence[Chunk]
    open_rows: bytearray
    open_bytes: int
    last_ms: int = 0


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

    """

    __slots__ = (
        "_base",
        "_chunks",
        "_front",
        "_front_ms",
        "_open",
        "_pool",
        "_sealed",
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
        self._front_ms = 0  # when the run in front was published, if its chunk was dropped when partly consumed

    def __len__(self) -> int:
        return self.tail - self.head

    # --- appending and consuming ---------------------------------------------------------------------------------

    def append(self, run: Run) -> None:
        """Put *run* behind all others."""
        rows = self._open
        rows += ROW.pack(*run)
        self.tail += 1
        self.messages += run[3]
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
        chunk = Chunk(self, self._sealed, bytes(self._open))
        assert chunk.rows == CHUNK_RUNS, "a chunk is sealed when it is full"
        self._chunks.append(chunk)
        self._open = bytearray()
        self._sealed = self.tail
        if self._pool is not None:
            self._pool.add(chunk)

    def consume(self, runs: int, messages: int) -> None:
        """Drop the *runs* in front, which hold *messages* messages; none is fine."""
        if not runs:
            return
        self.head += runs
        self.messages -= messages
        self._front = None
        assert self.head <= self.tail, "no more runs are consumed than there are"
        if self.head == self.tail:
            self._forget()
        elif self._chunks and self.head - self._base >= CHUNK_RUNS:
            consumed: deque[Chunk] = deque()
            while self._chunks and self.head - self._base >= CHUNK_RUNS:
                consumed.append(self._chunks.popleft())
                self._base += CHUNK_RUNS
            if self._pool is not None:
                self._pool.let_go(consumed)

    def trim(self, messages: int) -> None:
        """Drop *messages* messages, but not all, of the run in front."""
        run = self.first()
        assert run is not None, "there is a run in front"
        assert 0 < messages < run.size, "a run is trimmed inside"
        self._front = (run.first + messages, run.size - messages)
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
        self._base = self._sealed = self.tail

    # --- reading -------------------------------------------------------------------------------------------------

    def first(self) -> Run | None:
        """Return the run in front; its chunk must be in memory."""
        if self.head == self.tail:
            return None
        if self.head >= self._sealed:
            rows: bytes | bytearray | None = self._open
            row = self.head - self._sealed
        else:
            assert self._chunks, "rows in front of the open ones are sealed"
            rows = self._chunks[0].data
            row = self.head - self._base
        assert rows is not None, "the chunk in front is in memory"
        run = Run._make(ROW.unpack_from(rows, row * RUN_BYTES))
        return run if self._front is None else _fronted(run, self._front)

    def front_published_ms(self) -> int | None:
        """Return when the run in front was published, wherever its chunk lies; None when there is none."""
        if self.head == self.tail:
            return None
        if self.head >= self._sealed:
            return published_ms_at(self._open, self.head - self._sealed)
        assert self._chunks, "rows in front of the open ones are sealed"
        chunk, row = self._chunks[0], self.head - self._base
        if chunk.data is not None:
            return published_ms_at(chunk.data, row)
        return self._front_ms if row else chunk.summary.published_ms

    def read(self, ordinal: int, runs_max: int) -> list[Run]:
        """Return at most *runs_max* runs from *ordinal* on, or from the front if that is consumed already.

        The answer ends early where a chunk is not in memory; `missing` says which.
        """
        head = self.head
        if ordinal < head:
            ordinal = head
        start = ordinal
        end = min(ordinal + runs_max, self.tail)
        runs: list[Run] = []
        sealed = self._sealed
        while ordinal < end:
            if ordinal >= sealed:
                row = ordinal - sealed
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
        if self._front is not None and start == head and runs:
            runs[0] = _fronted(runs[0], self._front)
        return runs

    def missing(self, ordinal: int, runs_max: int) -> list[Chunk]:
        """Return the chunks that are not in memory among those that hold *runs_max* runs from *ordinal* on."""
        ordinal = max(ordinal, self.head)
        end = min(ordinal + runs_max, self._sealed)
        if ordinal >= end or self._chunks is None:
            return []
        numbers = range((ordinal - self._base) // CHUNK_RUNS, (end - 1 - self._base) // CHUNK_RUNS + 1)
        return [chunk for number in numbers if (chunk := self._chunks[number]).data is None]

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
            open_messages = sum(sizes(self._open))
            held = self.messages - open_messages - sum(chunk.messages for chunk in self._chunks)
            # The first chunk lost what was consumed of it.
            held += self._chunks[0].messages
            for chunk in self._chunks:
                if ordinal != self.head:
                    held = chunk.messages
                if left < held:
                    if chunk.data is None:
                        raise ChunksMissing([chunk])
                    return self._find_in(chunk.data, chunk.base, ordinal, left)
                left -= held
                ordinal = chunk.base + CHUNK_RUNS
        return self._find_in(self._open, self._sealed, ordinal, left)

    def _find_in(self, rows: bytes | bytearray, base: int, ordinal: int, left: int) -> tuple[int, int]:
        run_sizes = sizes(rows, ordinal - base)
        if self._front is not None and ordinal == self.head:
            run_sizes[0] = self._front[1]
        for size in run_sizes:
            if left < size:
                return ordinal, left
            left -= size
            ordinal += 1
        raise AssertionError("the sizes of all runs add up to the messages of the queue")

    def seek_zxid(self, zxid: int) -> int:
        """Return the ordinal of the first run whose batch has this number or a later one, where these ascend.

        Raises:
            ChunksMissing: The runs around it lie in a chunk that is not in memory.

        """
        return self._seek(zxid, _lowest_zxid_of, zxid_at)

    def seek_published(self, published_ms: int) -> int:
        """Return the ordinal of the first run published then or later, likewise."""
        return self._seek(published_ms, _published_ms_of, published_ms_at)

    def _seek(
        self,
        wanted: int,
        of_first: Callable[[Chunk], int],
        of_row: Callable[[bytes | bytearray, int], int],
    ) -> int:
        rows: bytes | bytearray | None = self._open
        base = self._sealed
        chunks = self._chunks
        if chunks and not (rows and of_row(rows, 0) < wanted):
            number = bisect_left(chunks, wanted, key=of_first)
            chunk = chunks[max(0, number - 1)]
            rows, base = chunk.data, chunk.base
            if rows is None:
                raise ChunksMissing([chunk])
        assert rows is not None, "open rows are in memory"
        found = bisect_left(range(len(rows) // RUN_BYTES), wanted, key=lambda row: of_row(rows, row))
        return max(self.head, base + found)

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
            self._front_ms = published_ms_at(chunk.data, row)

    # --- all of it -----------------------------------------------------------------------------------------------

    def packed(self) -> bytes:
        """Return all rows as bytes: the same for the same runs, whatever the history and wherever they lie.

        Chunks that are not in memory are read back for this and not kept; so it blocks, and is for audits only.
        """
        rows = bytearray().join(self._parts())
        del rows[: self._consumed_rows * RUN_BYTES]
        if self._front is not None:
            run = _fronted(Run._make(ROW.unpack_from(rows)), self._front)
            ROW.pack_into(rows, 0, *run)
        return bytes(rows)

    def runs(self) -> list[Run]:
        """Return all runs, as `packed` does."""
        return list(map(Run._make, ROW.iter_unpack(self.packed())))

    def image(self) -> FifoImage:
        """Return all that it is at this moment; costs 10 ns a chunk."""
        return FifoImage(
            self._consumed_rows,
            self.messages,
            self._front,
            self.front_published_ms(),
            tuple(self._chunks or ()),
            self._open,
            len(self._open),
        )

    @classmethod
    def restored(cls, image: FifoImage, pool: ChunkPool | None = None) -> RunFifo:
        """Return the fifo of *image*, whose chunks are new and belong to nobody else."""
        fifo = cls(pool)
        if image.chunks:
            fifo._chunks = deque(image.chunks)
            for chunk in image.chunks:
                assert chunk.rows == CHUNK_RUNS, "chunks of ready runs are full"
                chunk.fifo = fifo
                chunk.base = fifo._sealed
                fifo._sealed += CHUNK_RUNS
                if pool is not None:
                    pool.add(chunk)
        fifo._open = image.open_rows[: image.open_bytes]
        fifo.head = image.head
        fifo.tail = fifo._sealed + image.open_bytes // RUN_BYTES
        fifo.messages = image.messages
        fifo._front = image.front
        fifo._front_ms = image.front_ms or 0
        return fifo

    @property
    def _consumed_rows(self) -> int:
        """Rows in front that are still stored but consumed."""
        return self.head - (self._base if self._chunks else self._sealed)

    def _parts(self) -> Iterator[bytes | bytearray]:
        for chunk in self._chunks or ():
            rows = chunk.data
            if rows is None:
                assert self._pool is not None, "only a pool lets chunks leave the memory"
                assert self._pool.read_back is not None, "whoever drops chunks can read them back"
                rows = self._pool.read_back(chunk)
            yield rows
        yield self._open


def _lowest_zxid_of(chunk: Chunk) -> int:
    return chunk.summary.lowest_zxid


def _published_ms_of(chunk: Chunk) -> int:
    return chunk.summary.published_ms


def _fronted(run: Run, front: tuple[int, int]) -> Run:
    """Return *run* as it is after its front lost messages."""
    zxid, ready, _first, _size, *shared = run
    return Run(zxid, ready, *front, *shared)
