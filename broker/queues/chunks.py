"""Chunks: the pieces of a queue's packed indexes, each of which may lie in memory or on a page of a file.

A backlog of ten million single messages is 440 MB of rows; most of them are not looked at for hours. So rows lie in
chunks of at most `CHUNK_RUNS`; a sealed chunk never changes again, so it can be written to a page once, dropped from
memory, and filled again when it is needed. What stays in memory of a dropped chunk is its summary. An index that must
change a sealed chunk puts another in its place.

This module does no I/O: whoever pages (`pipeline/keeping/paging.py`) writes and reads the bytes, and tells the pool. It
must not know queues or what a run means beyond the layout of its row. Where the bytes of a chunk lie is never part of
the machine's state: judgements and digests are the same wherever they are.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

CHUNK_RUNS = 1_024
"""Most runs in one sealed chunk."""
AHEAD_RUNS = 8 * CHUNK_RUNS
"""Runs behind a queue's reader that are wanted in memory before it comes to them."""

ROW = Struct("=QQIIIIQHH")
"""A run: zxid, ready, first, size, batch_count, batch_bytes, published_ms, deliveries, attempts."""
RUN_BYTES = ROW.size
CHUNK_BYTES = CHUNK_RUNS * RUN_BYTES

_ROW_WORDS = RUN_BYTES // 4
_ZXID_WORD, _SIZE_WORD, _COUNT_WORD, _BYTES_WORD = 0, 5, 6, 7
_PUBLISHED = Struct("=Q")
_PUBLISHED_OFFSET = 32


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

    """

    messages: int
    bytes: int
    lowest_zxid: int
    highest_zxid: int
    published_ms: int


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
        data: Its rows; None while they lie on the page only.
        messages: Messages in all its rows, also those that were taken meanwhile.
        page: Where its rows lie in the page file; None while they lie in memory only. Stays when the rows come back,
            because they cannot have changed, and also when the chunk is consumed, because a snapshot may name it.

    """

    __slots__ = ("_summary", "base", "data", "fifo", "messages", "page", "rows")

    def __init__(self, fifo: Index | None, base: int, data: bytes, messages: int | None = None) -> None:
        assert 0 < len(data) <= CHUNK_BYTES, "a sealed chunk has rows, but no more than a page"
        self.fifo = fifo
        self.base = base
        self.rows = len(data) // RUN_BYTES
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


class FifoImage(NamedTuple):
    """All that a `runs.RunFifo`, or the `DelayedRuns` of a queue, is at one moment; nothing changes when they do.

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


class ChunkPool:
    """The sealed chunks of all queues of a machine: what lies in memory, what does not, what is to be released.

    It only keeps accounts; a pager decides and does the work.

    Attributes:
        resident: Chunks in memory; the last is the first to be paged out: it is farthest from the front of its queue.
        absent: How many chunks are on their page only. May count some that are in `gone` already.
        gone: Chunks that left their queues; the pager releases their pages, in slices.
        kept: Chunks that the next entry needs all at once; none of them is paged out before that.
        read_back: Returns the rows of a chunk from its page, without filling it; for audits, which may block.

    """

    __slots__ = ("absent", "gone", "kept", "read_back", "resident")

    def __init__(self, read_back: Callable[[Chunk], bytes] | None = None) -> None:
        self.resident: OrderedDict[Chunk, None] = OrderedDict()
        self.absent = 0
        self.gone: deque[deque[Chunk]] = deque()
        self.kept: dict[Chunk, None] = {}
        self.read_back = read_back

    @property
    def resident_bytes(self) -> int:
        """Bytes of the sealed rows in memory."""
        return len(self.resident) * CHUNK_BYTES

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


def column(rows: bytes | bytearray, row: int, word: int) -> list[int]:
    """Return one 32-bit column of packed rows from *row* on, at 20 ns a row."""
    with memoryview(rows) as view, view.cast("I") as words:
        return words[row * _ROW_WORDS + word :: _ROW_WORDS].tolist()


def sizes(rows: bytes | bytearray, row: int = 0) -> list[int]:
    """Return how many messages each run has, from *row* on."""
    return column(rows, row, _SIZE_WORD)


def published_ms_at(rows: bytes | bytearray, row: int) -> int:
    """Return when the run in *row* was published."""
    value: int = _PUBLISHED.unpack_from(rows, row * RUN_BYTES + _PUBLISHED_OFFSET)[0]
    return value


def zxid_at(rows: bytes | bytearray, row: int) -> int:
    """Return the number of the batch of the run in *row*."""
    value: int = _PUBLISHED.unpack_from(rows, row * RUN_BYTES)[0]
    return value


def summary_of(rows: bytes | bytearray) -> Summary:
    """Return the summary of packed *rows*, at least one."""
    run_sizes, counts, byte_counts = sizes(rows), column(rows, 0, _COUNT_WORD), column(rows, 0, _BYTES_WORD)
    if run_sizes == counts:
        bytes_ = sum(byte_counts)
    else:
        parts = zip(byte_counts, run_sizes, counts, strict=True)
        bytes_ = sum(-(-batch_bytes * size // count) for batch_bytes, size, count in parts)
    return Summary(sum(run_sizes), bytes_, *zxid_span(rows), published_ms_at(rows, 0))


def zxid_span(rows: bytes | bytearray) -> tuple[int, int]:
    """Return the lowest and the highest zxid."""
    first, second = column(rows, 0, _ZXID_WORD), column(rows, 0, _ZXID_WORD + 1)
    lows, highs = (first, second) if sys.byteorder == "little" else (second, first)
    epoch = max(highs)
    if min(highs) == epoch:  # nearly always
        return epoch << 32 | min(lows), epoch << 32 | max(lows)
    zxids = [high << 32 | low for low, high in zip(lows, highs, strict=True)]
    return min(zxids), max(zxids)
