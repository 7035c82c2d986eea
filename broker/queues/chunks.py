"""Chunks: the pieces of a queue's packed indexes, each of which may lie in memory or on a page of a file.

A backlog of ten million single messages is 640 MB of rows; most of them are not looked at for hours. So rows lie in
chunks of at most `CHUNK_RUNS`; a sealed chunk never changes again, so it can be written to a page once, dropped from
memory, and filled again when it is needed. What stays in memory of a dropped chunk is its summary. An index that must
change a sealed chunk puts another in its place.

This module does no I/O: whoever pages (`pipeline/keeping/paging.py`) writes and reads the bytes, and tells the pool. It
must not know queues or what a run means beyond the layout of its row. Where the bytes of a chunk lie is never part of
the machine's state: judgements and digests are the same wherever they are.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from itertools import starmap
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sluicemq.broker.queues.holes import Holes

CHUNK_RUNS = 1_024
"""Most runs in one sealed chunk."""
AHEAD_RUNS = 8 * CHUNK_RUNS
"""Runs behind a queue's reader that are wanted in memory before it comes to them."""

ROW = Struct("=QQIIIIQHHIQIB3x")
"""A run: zxid, ready, first, size, batch_count, batch_bytes, published_ms, deliveries, attempts, key, expires_ms, note,
priority, and three bytes of zeros, so that every number of 64 bits lies where one may."""
RUN_BYTES = ROW.size
CHUNK_BYTES = CHUNK_RUNS * RUN_BYTES

_ROW_WORDS, _ROW_LONGS = RUN_BYTES // 4, RUN_BYTES // 8
FIRST_WORD, _SIZE_WORD, _COUNT_WORD, _BYTES_WORD = 4, 5, 6, 7
_LONG = Struct("=Q")
_PART = Struct("=QQII")  # zxid, ready, first and size: the beginning of a row
ZXID_OFFSET, READY_OFFSET, PUBLISHED_OFFSET, EXPIRES_OFFSET = 0, 8, 32, 48
"""Where the numbers of 64 bits lie within a row."""
PART_OFFSET = 16
"""Where `first` and `size` lie, neighbours of 32 bits."""


class ChunksMissing(Exception):
    """What was asked for lies in chunks that are not in memory: fill *chunks* and ask again."""

    def __init__(self, chunks: list[Chunk]) -> None:
        super().__init__(f"{len(chunks)} chunks are not in memory; fill them and ask again")
        self.chunks = chunks


class Page(NamedTuple):
    """Where the bytes of a chunk lie: a slot of the page file, and what their checksum must be."""

    slot: int
    checksum: int


class Summary(NamedTuple):
    """What is known of a sealed chunk without its rows.

    Attributes:
        messages: Messages in all its runs.
        bytes: About how many bytes they take.
        lowest_zxid: Smallest zxid of a batch in it.
        highest_zxid: Largest zxid of a batch in it.
        published_ms: Log time at which its first run was published.
        ready: The entry that made its first run ready.
        expires_ms: When its first run expires; 0: never.

    """

    messages: int
    bytes: int
    lowest_zxid: int
    highest_zxid: int
    published_ms: int
    ready: int
    expires_ms: int


class FifoImage(NamedTuple):
    """All that an index of runs is at one moment; nothing changes when that does.

    Attributes:
        head: Rows of the first chunk (of *open_rows*, when there is no chunk) that were consumed.
        messages: Messages in all runs.
        front: (first, size) of the run in front, where it lost messages since its row was written.
        front_ms: When the run in front was published, or is due; None when there is none.
        chunks: The sealed chunks. Their rows never change, but may leave the memory once they have a page.
        open_rows: The byte array that runs are appended to; only its first *open_bytes* belong to the image. It grows
            meanwhile, so it must be copied, never viewed.
        open_bytes: Bytes of *open_rows* that count.
        last_ms: When the last run is due, of an index in the order of time; else the index's `expiry_ms`.
        front_expires_ms: When the run in front expires; 0: never, or there is none.
        holes: What left from between, by the position of the chunk; the position behind the last is that of the open
            rows.
        checksum: What rows before the first chunk, or else before the open ones, come to, see `checksums`; 0 of an
            index in the order of time.
        buffers: What belongs to chunks and is not in them yet, by the position of the chunk, of an index in the order
            of time: rows as they came, and how many bytes of them count, as with *open_rows*.

    """

    head: int
    messages: int
    front: tuple[int, int] | None
    front_ms: int | None
    chunks: Sequence[Chunk]
    open_rows: bytearray
    open_bytes: int
    last_ms: int = 0
    front_expires_ms: int = 0
    holes: tuple[tuple[int, Holes], ...] = ()
    checksum: int = 0
    buffers: tuple[tuple[int, bytearray, int], ...] = ()


class Index(Protocol):
    """What a chunk asks the index that it belongs to."""

    def has_left(self, chunk: Chunk) -> bool:
        """Return whether all runs of *chunk* left the index."""

    def is_near(self, chunk: Chunk) -> bool:
        """Return whether somebody reads in *chunk*, or soon will."""

    def before_drop(self, chunk: Chunk) -> None:
        """Note what must stay known of *chunk*, whose rows are dropped now."""


class Chunk:
    """Sealed rows of a queue's index, at most `CHUNK_RUNS`.

    The rows never change; what was taken out of the front is noted beside them, in the index.

    Attributes:
        fifo: The index it belongs to; None once it left that.
        base: Where it stands in its index: the ordinal of its first run, or when that is due.
        rows: How many rows.
        checksum: Of its rows when they were sealed, see `checksums`; None where nobody asks: an index in the order of
            time puts others in the place of its chunks.
        data: Its rows; None while they lie on the page only.
        messages: Messages in all its rows, also those that were taken meanwhile.
        page: Where its rows lie in the page file; None while they lie in memory only. Stays when the rows come back,
            because they cannot have changed, and also when the chunk is consumed, because a snapshot may name it.

    """

    __slots__ = ("_summary", "base", "checksum", "data", "fifo", "messages", "page", "rows")

    def __init__(self, fifo: Index | None, base: int, data: bytes, messages: int | None = None) -> None:
        assert 0 < len(data) <= CHUNK_BYTES, "a sealed chunk has rows, but no more than a page"
        self.fifo = fifo
        self.base = base
        self.rows = len(data) // RUN_BYTES
        self.checksum: int | None = None
        self.data: bytes | None = data
        self.messages: int = sum(column(data, 0, _SIZE_WORD)) if messages is None else messages
        self.page: Page | None = None
        self._summary: Summary | None = None

    @classmethod
    def on_page(cls, page: Page, summary: Summary, rows: int | None = None, base: int = 0) -> Chunk:
        """Return a chunk of so many rows (None: all that it may have) on *page*; its index gives it its place."""
        chunk = cls.__new__(cls)
        chunk.fifo = None
        chunk.base = base
        chunk.rows = CHUNK_RUNS if rows is None else rows
        chunk.checksum = None
        chunk.data = None
        chunk.messages = summary.messages
        chunk.page = page
        chunk._summary = summary
        return chunk

    @property
    def gone(self) -> bool:
        """Whether all its runs left the queue, or the queue is gone."""
        return self.fifo is None or self.fifo.has_left(self)

    @property
    def ready(self) -> int:
        """The entry that made its first run ready."""
        return self.summary.ready if self.data is None else ready_at(self.data, 0)

    @property
    def page_data(self) -> bytes:
        """The rows as they are written to a page, which they fill: whoever reads it need not know how many they are."""
        assert self.data is not None, "only rows in memory are written"
        return self.data.ljust(CHUNK_BYTES, b"\0")

    @property
    def summary(self) -> Summary:
        """What is known of it without its rows; worked out when first asked for, 0.1 ms, by any thread."""
        if self._summary is None:
            assert self.data is not None, "the summary is known before the rows are dropped"
            self._summary = summary_of(self.data)
        return self._summary

    def fill(self, data: bytes) -> None:
        """Put the rows back that were read from the page; what the page holds beyond them is left out."""
        assert self.data is None, "a chunk is filled once"
        assert len(data) >= self.rows * RUN_BYTES, "a page holds all rows of its chunk"
        self.data = data[: self.rows * RUN_BYTES]

    def drop(self) -> None:
        """Forget the rows, which lie on the page."""
        assert self.page is not None, "rows are dropped once they are on a page"
        _ = self.summary
        if self.fifo is not None:
            self.fifo.before_drop(self)
        self.data = None


class ChunkPool:
    """The sealed chunks of all queues of a machine: what lies in memory, what does not, what is to be released.

    It only keeps accounts; a pager decides and does the work.

    Attributes:
        resident: Chunks in memory; the last is the first to be paged out: it is farthest from the front of its queue.
        absent: How many chunks are on their page only. May count some that are in `gone` already.
        gone: Chunks that left their queues; the pager releases their pages, in slices.
        buffered_bytes: Bytes of rows that belong to sealed chunks and are not in them yet; always in memory.
        kept: Chunks that the next entry needs all at once; none of them is paged out before that.
        read_back: Returns the rows of a chunk from its page, without filling it; for audits, which may block.

    """

    __slots__ = ("absent", "buffered_bytes", "gone", "kept", "read_back", "resident")

    def __init__(self, read_back: Callable[[Chunk], bytes] | None = None) -> None:
        self.resident: OrderedDict[Chunk, None] = OrderedDict()
        self.absent = 0
        self.buffered_bytes = 0
        self.gone: deque[deque[Chunk]] = deque()
        self.kept: dict[Chunk, None] = {}
        self.read_back = read_back

    @property
    def resident_bytes(self) -> int:
        """Bytes of the sealed rows in memory, and of those beside them."""
        return len(self.resident) * CHUNK_BYTES + self.buffered_bytes

    def add(self, chunk: Chunk) -> None:
        """Note a chunk that was just sealed or restored."""
        if chunk.data is None:
            self.absent += 1
        else:
            self.resident[chunk] = None

    def fill(self, chunk: Chunk, data: bytes) -> None:
        """Put the rows of *chunk* back; it will be needed soon, so it is the last to be paged out."""
        chunk.fill(data)
        self.absent -= 1
        if chunk not in self.kept:
            self._put_first(chunk)

    def _put_first(self, chunk: Chunk) -> None:
        self.resident[chunk] = None
        self.resident.move_to_end(chunk, last=False)

    def keep(self, chunks: Iterable[Chunk]) -> None:
        """Let *chunks*, which are not in memory, stay there once they come, until `let_kept_go`.

        An entry that needs many would never find them all there if those that came first could leave meanwhile.
        """
        self.kept.update(dict.fromkeys(chunks))

    def let_kept_go(self) -> None:
        """Let what was kept be paged out again."""
        for chunk in self.kept:
            if chunk.data is not None and not chunk.gone:
                self._put_first(chunk)
        self.kept.clear()

    def replace(self, old: Iterable[Chunk], new: Iterable[Chunk]) -> None:
        """Note that *old*, all in memory, left their index, and *new* came instead: the last to be paged out."""
        for chunk in old:
            chunk.fifo = None
            if chunk.page is None:
                self.resident.pop(chunk, None)
            else:
                self.gone.append(deque((chunk,)))
        for chunk in new:
            self._put_first(chunk)

    def drop(self, chunk: Chunk) -> None:
        """Forget the rows of *chunk*, which lie on its page."""
        chunk.drop()
        del self.resident[chunk]
        self.absent += 1

    def let_go(self, chunks: deque[Chunk]) -> None:
        """Note that *chunks*, which the caller gives away, left their queue; costs the same however many they are."""
        if chunks:
            self.gone.append(chunks)

    def take_gone(self, chunks_max: int) -> list[Chunk]:
        """Take at most *chunks_max* chunks out of `gone` and out of the accounts; those with a page hold a slot."""
        taken: list[Chunk] = []
        while self.gone and len(taken) < chunks_max:
            chunks = self.gone[0]
            while chunks and len(taken) < chunks_max:
                chunk = chunks.popleft()
                chunk.fifo = None
                if chunk.data is None:
                    self.absent -= 1
                else:
                    self.resident.pop(chunk, None)  # it may be kept
                taken.append(chunk)
            if not chunks:
                self.gone.popleft()
        return taken


def column(rows: bytes | bytearray, row: int, word: int, end: int | None = None) -> list[int]:
    """Return one 32-bit column of packed rows from *row* to before *end* (None: all), at 20 ns a row."""
    stop = None if end is None else end * _ROW_WORDS
    with memoryview(rows) as view, view.cast("I") as words:
        return words[row * _ROW_WORDS + word : stop : _ROW_WORDS].tolist()


def sizes(rows: bytes | bytearray, row: int = 0) -> list[int]:
    """Return how many messages each run has, from *row* on."""
    return column(rows, row, _SIZE_WORD)


def long_at(rows: bytes | bytearray, row: int, offset: int) -> int:
    """Return the number of 64 bits that lies *offset* bytes within *row*."""
    value: int = _LONG.unpack_from(rows, row * RUN_BYTES + offset)[0]
    return value


def long_column(rows: bytes | bytearray, offset: int, row: int = 0, end: int | None = None) -> list[int]:
    """Return the numbers of 64 bits *offset* bytes within each row, from *row* to before *end* (None: all)."""
    stop = None if end is None else end * _ROW_LONGS
    with memoryview(rows) as view, view.cast("Q") as longs:
        return longs[row * _ROW_LONGS + offset // 8 : stop : _ROW_LONGS].tolist()


def published_ms_at(rows: bytes | bytearray, row: int) -> int:
    """Return when the run in *row* was published."""
    return long_at(rows, row, PUBLISHED_OFFSET)


def zxid_at(rows: bytes | bytearray, row: int) -> int:
    """Return the number of the batch of the run in *row*."""
    return long_at(rows, row, ZXID_OFFSET)


def ready_at(rows: bytes | bytearray, row: int) -> int:
    """Return the entry that made the run in *row* ready."""
    return long_at(rows, row, READY_OFFSET)


def expires_ms_at(rows: bytes | bytearray, row: int) -> int:
    """Return when the run in *row* expires; 0: never."""
    return long_at(rows, row, EXPIRES_OFFSET)


def row_at(rows: bytes | bytearray, place: tuple[int, int, int], start: int, *, in_order: bool = False) -> int | None:
    """Return the row from *start* on that was appended with the message at this (ready, zxid, first).

    With *in_order* only where runs are looked for that the batch itself made ready, which mostly lie in its order, and
    the row lies where that order says: 100 times quicker than to find out that there is none.
    """
    ready, zxid, first = place
    count = len(rows) // RUN_BYTES

    with memoryview(rows) as view, view.cast("I") as words, view.cast("Q") as longs:
        row = (
            bisect_left(range(count), ready, start, key=lambda at: longs[at * _ROW_LONGS + 1])
            if start < count
            else count
        )
        if row == count or longs[row * _ROW_LONGS + 1] != ready:
            return None
        end = bisect_right(range(count), ready, row, key=lambda at: longs[at * _ROW_LONGS + 1])
        if in_order:
            at = bisect_right(range(count), first, row, end, key=lambda at: words[at * _ROW_WORDS + FIRST_WORD]) - 1
            return at if at >= row and _holds(rows, at, zxid, first) else None
    zxids = long_column(rows, ZXID_OFFSET, row, end)
    found = -1
    try:
        while True:
            found = zxids.index(zxid, found + 1)
            if _holds(rows, row + found, zxid, first):
                return row + found
    except ValueError:
        return None


def _holds(rows: bytes | bytearray, row: int, zxid: int, first: int) -> bool:
    """Return whether the run in *row* was appended with this message."""
    run_zxid, _, run_first, size = _PART.unpack_from(rows, row * RUN_BYTES)
    inside: bool = run_zxid == zxid and run_first <= first < run_first + size
    return inside


def span_bytes(batch_bytes: int, count: int, first: int, size: int) -> int:
    """Return about how many bytes *size* messages from *first* on take of a batch of *count*: parts add up exactly."""
    return batch_bytes * (first + size) // count - batch_bytes * first // count


def summary_of(rows: bytes | bytearray) -> Summary:
    """Return the summary of packed *rows*, at least one."""
    run_sizes, counts, byte_counts = sizes(rows), column(rows, 0, _COUNT_WORD), column(rows, 0, _BYTES_WORD)
    if run_sizes == counts:
        bytes_ = sum(byte_counts)
    else:
        parts = zip(byte_counts, counts, column(rows, 0, FIRST_WORD), run_sizes, strict=True)
        bytes_ = sum(starmap(span_bytes, parts))
    return Summary(
        sum(run_sizes), bytes_, *zxid_span(rows), published_ms_at(rows, 0), ready_at(rows, 0), expires_ms_at(rows, 0)
    )


def zxid_span(rows: bytes | bytearray) -> tuple[int, int]:
    """Return the lowest and the highest zxid."""
    zxids = long_column(rows, ZXID_OFFSET)
    return min(zxids), max(zxids)
