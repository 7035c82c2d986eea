"""Runs: neighbouring messages of one batch that share one fate, and the queue's index that holds them packed.

A run is the machine's only currency: whatever happens to messages happens to runs, which are split where a border
falls inside one. This module must not know queues, leases or sessions.

Ordinals are not dense: a chunk that lost messages to a repair is short, and the ordinals of its missing rows name no
run. A reader that comes to one is led on to the next run.

Why packed: a backlog of a million single messages is a million runs. As rows of `RUN_BYTES` in chunks they take 44
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
from sluicemq.broker.queues.chunks import FifoImage as FifoImage
from sluicemq.broker.queues.lost import rest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sluicemq.broker.queues.chunks import ChunkPool
    from sluicemq.broker.queues.lost import LostEntries

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

    def settled_back(self, ready: int, attempts: int) -> Run:
        """Return the run after a lease has ended without an ack: one delivery and *attempts* more."""
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
            and last.deliveries == run.deliveries
            and last.attempts == run.attempts
        ):
            last = result[-1] = last._replace(size=last.size + run.size)
        else:
            result.append(run)
            last = run
    return result


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
        self.messages -= messages
        self._front = None
        chunks = self._chunks
        if chunks and self.head - self._base + runs >= chunks[0].rows:
            consumed: deque[Chunk] = deque()
            while chunks and (left := chunks[0].rows - self.head + self._base) <= runs:
                runs -= left
                consumed.append(chunks.popleft())
                self._base += CHUNK_RUNS
                self.head = self._base
            if self._pool is not None:
                self._pool.let_go(consumed)
        self.head += runs
        assert self.head <= self.tail, "no more runs are consumed than there are"
        if self.head == self.tail:
            self._forget()

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

    # --- giving up -----------------------------------------------------------------------------------------------

    def missing_of(self, lost: LostEntries) -> list[Chunk]:
        """Return the chunks that are not in memory among those that `forget` needs."""
        absent = (chunk for chunk in self._chunks or () if chunk.data is None)
        # A short one may become the last.
        return [chunk for chunk in absent if chunk.rows < CHUNK_RUNS or lost.may_be_in(chunk)]

    def forget(self, lost: LostEntries) -> list[Run]:
        """Take out all runs of *lost* entries, wherever they are, and return them in order; `missing_of` was filled.

        Only chunks that hold some are replaced, by short ones. All runs get new ordinals, behind those of before: a
        reader finds itself in front of all that is left.
        """
        rest = rest_of(lost, self._chunks or (), self._open, self._left_of, lambda rows: Chunk(self, 0, rows))
        gone = list(map(Run._make, ROW.iter_unpack(rest.gone)))
        if not gone:
            return gone
        skip, front = (0, None) if rest.front_changed else (self._consumed_rows, self._front)
        kept, open_rows = deque(rest.chunks), bytearray(rest.open_rows)
        while kept and not open_rows and kept[-1].rows < CHUNK_RUNS:
            # A short chunk has runs behind it, for a reader to be led on to.
            last = kept.pop()
            assert last.data is not None, "the last chunk, if it is short, is in memory"
            open_rows = bytearray(last.data)
            if last in rest.new:
                rest.new.remove(last)
            else:
                rest.old.append(last)
        if self._pool is not None:
            self._pool.replace(rest.old, rest.new)
        self._base = base = self.tail
        for chunk in kept:
            chunk.base = base
            base += CHUNK_RUNS
        self._chunks = kept or None
        self._open, self._sealed = open_rows, base
        self.head = self._base + skip
        self.tail = base + len(open_rows) // RUN_BYTES
        self.messages -= messages_in(gone)
        self._front = front
        self.read_ordinal = NOBODY_READ
        return gone

    def _left_of(self, rows: bytes | bytearray) -> bytes:
        """Return the rows in front, the first chunk or else the open ones, without what is consumed of them."""
        left = bytearray(rows[self._consumed_rows * RUN_BYTES :])
        if self._front is not None:
            ROW.pack_into(left, 0, *_fronted(Run._make(ROW.unpack_from(left)), self._front))
        return bytes(left)

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

    def front_zxid(self) -> int | None:
        """Return the number of the batch in front, or a lower one where its chunk is not in memory; None: there is
        none."""
        if self._chunks and self._chunks[0].data is None:
            return self._chunks[0].summary.lowest_zxid
        run = self.first()
        return None if run is None else run.zxid

    def read(self, ordinal: int, runs_max: int) -> list[Run]:
        """Return at most *runs_max* runs from *ordinal* on, or from the front if that is consumed already.

        The answer ends early where a chunk is not in memory, which `missing` names, and behind a short chunk: so the
        ordinals of one answer follow each other, up to `read_ordinal`.
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
                chunk = self._chunks[number]  # type: ignore[index]  # rows in front of the open ones are sealed
                if row >= chunk.rows:
                    if runs:
                        break
                    ordinal += CHUNK_RUNS - row
                    end = min(ordinal + runs_max, self.tail)
                    continue
                if chunk.data is None:
                    break
                rows = chunk.data
                count = min(end - ordinal, chunk.rows - row)
            runs += map(Run._make, ROW.iter_unpack(rows[row * RUN_BYTES : (row + count) * RUN_BYTES]))
            ordinal += count
        self.read_ordinal = ordinal
        if self._front is not None and start == head and runs:
            runs[0] = _fronted(runs[0], self._front)
        return runs

    def missing(self, ordinal: int, runs_max: int) -> list[Chunk]:
        """Return the chunks that are not in memory among those that hold *runs_max* runs from *ordinal* on."""
        ordinal = max(ordinal, self.head)
        if ordinal >= self._sealed or self._chunks is None:
            return []
        missing: list[Chunk] = []
        number, row = divmod(ordinal - self._base, CHUNK_RUNS)
        while runs_max > 0 and number < len(self._chunks):
            chunk = self._chunks[number]
            if row < chunk.rows:
                if chunk.data is None:
                    missing.append(chunk)
                runs_max -= chunk.rows - row
            number, row = number + 1, 0
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
        count = len(rows) // RUN_BYTES
        found = bisect_left(range(count), wanted, key=lambda row: of_row(rows, row))
        if found == count and base != self._sealed:
            found = CHUNK_RUNS  # the chunk may be short
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
        return self._left_of(bytearray().join(self._parts()))

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
                assert 0 < chunk.rows <= CHUNK_RUNS, "chunks of ready runs have rows"
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
                rows = self._pool.read_back(chunk)[: chunk.rows * RUN_BYTES]
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
