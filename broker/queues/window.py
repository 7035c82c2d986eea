"""A window of message ids: which ones came in the last so many seconds, among the last so many, and where.

An id is 16 bytes of hash, made by the leader (`pipeline/identities`); all zeros say that a message has none. Each id
that is recorded is a row of 32 bytes, in the order of recording, in sealed chunks that are paged like those of queues.
So whether an id still counts is exact, to the row: by its time and by how many rows follow it. What is too old leaves
chunk by chunk. In memory stays an index of fingerprints (`window_index`), derived from the rows; only where it says
"perhaps" the row itself is looked at, and whoever applies an entry fills those chunks before (`missing`).

All that decides is the rows, and where their chunks begin and end; both are the same on every broker. This module must
not know queues, entries or what becomes of a duplicate.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from google_crc32c import value as crc32c

from sluicemq.broker.queues.checksums import of_chunk, of_some
from sluicemq.broker.queues.chunks import CHUNK_BYTES, RUN_BYTES, Chunk, Page, Summary
from sluicemq.broker.queues.window_index import KEY_MASK, LEAF_MAX, NUMBER_MASK, HeldIndex, WindowIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sluicemq.broker.queues.chunks import ChunkPool

ID_BYTES = 16
"""Bytes of the hash of an id."""
NO_ID = bytes(ID_BYTES)
"""What stands for a message without an id."""
ROW = Struct("<16sQQ")
"""A row: the hash, the zxid, and time and index: milliseconds << `INDEX_BITS` | index of the message in the entry."""
ROW_BYTES = ROW.size
INDEX_BITS = 20
INDEX_MASK = (1 << INDEX_BITS) - 1
PARTS = 16
"""The index tells in which sixteenth of a chunk a row lies, because searching all of one takes 8 µs."""
CHUNKS_DROPPED_MAX = 8
"""Most chunks that go at once: the index is swept for each of them. Frozen by the log's format."""
LEAVES_SWEPT = 36
"""Leaves of the index that are looked through for each chunk that goes: about three chunks' worth of entries, so that
never more than a third of the index is dead."""
KNOWN_NUMBERS = 4
"""Numbers that say of neighbouring messages that they are duplicates, see `IdWindow.judge`."""

_MIXER = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835
_SUM_MASK = (1 << 64) - 1
_NO_SUMMARY = Summary(0, 0, 0, 0, 0, 0, 0)


class WindowChunk(Chunk):
    """Sealed rows of a window: as many bytes as a page has.

    Attributes:
        number: Which chunk of its window it is, from 0.
        newest_ms: Log time of its last row.

    """

    __slots__ = ("newest_ms", "number")

    def __init__(self, window: IdWindow | None, number: int, data: bytes, newest_ms: int) -> None:
        super().__init__(window, number, data, 0)
        self._summary = _NO_SUMMARY
        self.number = number
        self.newest_ms = newest_ms

    @classmethod
    def of_page(cls, number: int, page: Page, newest_ms: int) -> WindowChunk:
        """Return the chunk whose rows lie on *page*; its window takes it over."""
        chunk = cls.__new__(cls)
        chunk.fifo, chunk.base, chunk.rows, chunk.data = None, number, CHUNK_BYTES // RUN_BYTES, None
        chunk.messages, chunk.page, chunk._summary, chunk.checksum = 0, page, _NO_SUMMARY, None
        chunk.number, chunk.newest_ms = number, newest_ms
        return chunk


class WindowImage(NamedTuple):
    """All that a window is at one moment; nothing changes when that does.

    Attributes:
        scope: As of the window.
        number: Number of the open chunk.
        floor: Rows before this ordinal count no more.
        floor_ms: Likewise those of this time or before.
        look_ms: As of the window.
        confirmed_total: As of the window.
        chunks: The sealed chunks. Their rows never change, but may leave the memory once they have a page.
        open_rows: The rows behind them; they grow meanwhile, so they must be copied, never viewed.
        open_bytes: How many bytes of them count.
        fingerprints: The window's index, which grows meanwhile; what it holds too much does no harm. What the image
            needs of it stays as long as the image is there.

    """

    scope: int
    number: int
    floor: int
    floor_ms: int
    look_ms: int
    confirmed_total: int
    chunks: tuple[WindowChunk, ...]
    open_rows: bytearray
    open_bytes: int
    fingerprints: HeldIndex


class IdWindow:
    """The ids of one queue or topic.

    Args:
        scope: Within what ids are unique: one of `entries.SCOPES`; an id of another scope is none of its business.
        pool: Keeps accounts of sealed chunks, for a pager; None: all of them stay in memory.

    Attributes:
        scope: As above.
        age_ms: An id counts for so many milliseconds.
        ids_max: Only the last so many ids count.
        look_ms: Log time at which something may have to go, so that CLOCK is wanted; 0: there is nothing.
        confirmed_total: Duplicates that were found, ever.

    """

    __slots__ = (
        "_chunks",
        "_first",
        "_floor",
        "_floor_ms",
        "_index",
        "_newest_ms",
        "_number",
        "_open",
        "_pool",
        "_sum",
        "age_ms",
        "confirmed_total",
        "ids_max",
        "look_ms",
        "scope",
    )

    def __init__(self, scope: int, age_ms: int, ids_max: int, pool: ChunkPool | None = None) -> None:
        self.scope = scope
        self.age_ms = age_ms
        self.ids_max = ids_max
        self.look_ms = 0
        self.confirmed_total = 0
        self._pool = pool
        self._chunks: dict[int, WindowChunk] = {}
        self._first = 0  # number of the first chunk, or of the open one where there is no other
        self._number = 0
        self._open = bytearray()
        self._newest_ms = 0  # of the open rows
        # Rows before this ordinal, and those of this time or before, counted no more when the limits last changed.
        self._floor = 0
        self._floor_ms = 0
        self._index = WindowIndex()
        self._sum = 0  # what the sealed chunks come to, modulo 2**64

    # --- what a chunk asks ---------------------------------------------------------------------------------------

    def has_left(self, chunk: Chunk) -> bool:
        """Return whether the chunk went, because of its age."""
        return self._chunks.get(chunk.base) is not chunk

    def is_near(self, chunk: Chunk) -> bool:
        """Return False: nobody reads a window from front to back."""
        del chunk
        return False

    def before_drop(self, chunk: Chunk) -> None:
        """Note nothing: the index has all that must be known."""

    # --- questions -----------------------------------------------------------------------------------------------

    @property
    def ids(self) -> int:
        """How many rows there are; some may not count any more."""
        return (len(self._chunks) * CHUNK_BYTES + len(self._open)) // ROW_BYTES

    def missing(self, ids: bytes, log_time_ms: int) -> list[Chunk]:
        """Return the chunks that are not in memory and that `look` or `judge` of these hashes needs, by the clock."""
        if self._pool is None or not self._pool.absent:
            return []
        missing: dict[Chunk, None] = {}
        index, first, oldest_ms = self._index, self._first * PARTS, log_time_ms - self.age_ms
        for hash_ in _hashes_of(ids):
            for part in index.numbers_of(hash_, first):
                chunk = self._chunks.get(part // PARTS)
                if chunk is not None and chunk.data is None and chunk.newest_ms > oldest_ms:
                    missing[chunk] = None
        return list(missing)

    def look(self, ids: bytes, log_time_ms: int, zxid: int = 0) -> list[int]:
        """Return what `judge` of the entry *zxid* would return; nothing is recorded. Costs as much as that.

        With *zxid* 0 the messages are not compared with each other, only with what is recorded.
        """
        known: list[int] = []
        leaves, directory, shift = self._index.leaves, self._index.directory, self._index.shift
        coming: dict[bytes, tuple[int, int]] = {}
        recorded = 0
        for position, hash_ in enumerate(_hashes_of(ids)):
            if not hash_:
                continue
            id_ = ids[position * ID_BYTES : (position + 1) * ID_BYTES]
            index, before = coming.get(id_, (0, -1))
            place = (zxid, index) if before >= 0 and recorded - before <= self.ids_max else None
            if before < 0:
                leaf = leaves[directory[hash_ >> shift]]
                key = hash_ & KEY_MASK
                at = bisect_left(leaf, key)
                if at < len(leaf) and leaf[at] - key <= NUMBER_MASK:
                    place = self._find(id_, leaf, at, log_time_ms, recorded)
            if place is not None:
                _add_known(known, position, *place)
            elif zxid:
                coming[id_] = position, recorded
                recorded += 1
        return known

    def _find(self, id_: bytes, leaf: array[int], at: int, log_time_ms: int, coming: int = 0) -> tuple[int, int] | None:
        """Return zxid and index of the row of *id_*, if it counts when so many rows more are *coming* behind it.

        *leaf* from *at* on says where it may be.
        """
        key = leaf[at] & KEY_MASK
        first = self._first * PARTS
        ids_max = self.ids_max - coming
        found: tuple[int, int] | None = None
        for entry in leaf[at:]:
            if entry & KEY_MASK != key:
                break
            part = first + ((entry - first) & NUMBER_MASK)
            chunk = self._chunks.get(part // PARTS)
            if chunk is not None:
                if chunk.newest_ms + self.age_ms > log_time_ms:
                    assert chunk.data is not None, "what may hold an id was filled before"
                    found = self._find_in(chunk.data, part, id_, log_time_ms, ids_max) or found
            elif part // PARTS == self._number:
                found = self._find_in(self._open, part, id_, log_time_ms, ids_max) or found
        return found

    def _find_in(
        self, rows: bytes | bytearray, part: int, id_: bytes, log_time_ms: int, ids_max: int
    ) -> tuple[int, int] | None:
        """Return zxid and index of the last row of *id_* in a part of *rows*, if it is among the last *ids_max*."""
        number, within = divmod(part, PARTS)
        start, end = within * _part_bytes(), (within + 1) * _part_bytes()
        place = rows.rfind(id_, start, end)
        while place > 0 and place % ROW_BYTES:
            place = rows.rfind(id_, start, place + ID_BYTES - 1)
        if place < 0:
            return None
        _, zxid, stamp = ROW.unpack_from(rows, place)
        time_ms = stamp >> INDEX_BITS
        ordinal = number * (CHUNK_BYTES // ROW_BYTES) + place // ROW_BYTES
        if time_ms + self.age_ms <= log_time_ms or self._tail - ordinal > ids_max:
            return None
        if time_ms <= self._floor_ms or ordinal < self._floor:
            return None
        return zxid, stamp & INDEX_MASK

    @property
    def _tail(self) -> int:
        """The ordinal of the next row."""
        return self._number * (CHUNK_BYTES // ROW_BYTES) + len(self._open) // ROW_BYTES

    # --- what entries do -----------------------------------------------------------------------------------------

    def limit(self, age_ms: int, ids_max: int, log_time_ms: int) -> None:
        """Let ids count for so long, and so many of them, from now on; CLOCK drops what is too much.

        An id that counts no more never counts again, also where the limits grow: its row may be gone.
        """
        self._floor = max(self._floor, self._tail - self.ids_max)
        self._floor_ms = max(self._floor_ms, log_time_ms - self.age_ms)
        self.age_ms, self.ids_max = age_ms, ids_max
        if self.look_ms:
            self.look_ms = log_time_ms

    def judge(self, ids: bytes, zxid: int, log_time_ms: int, first: int = 0) -> list[int]:
        """Judge the messages of an entry one after the other, and record the ids of those that are new.

        Args:
            ids: A hash for each message. What `missing` names was filled before.
            zxid: The entry.
            log_time_ms: The machine's time.
            first: Index of the first of these messages in the entry.

        Returns:
            Which of them are duplicates, `KNOWN_NUMBERS` for neighbours whose originals are neighbours too: the first
            one in *ids*, how many, zxid and index of the original of the first.

        """
        known: list[int] = []
        index = self._index
        leaves, directory, shift = index.leaves, index.directory, index.shift
        rows, base, part_bytes = self._open, self._number * PARTS, _part_bytes()
        stamp = log_time_ms << INDEX_BITS | first
        pack = ROW.pack
        before = self._number, len(rows)
        for position, hash_ in enumerate(_hashes_of(ids)):
            if not hash_:
                continue
            leaf = leaves[directory[hash_ >> shift]]
            key = hash_ & KEY_MASK
            low = base + len(rows) // part_bytes & NUMBER_MASK
            at = bisect_left(leaf, key)
            id_ = ids[position * ID_BYTES : (position + 1) * ID_BYTES]
            if at < len(leaf) and leaf[at] - key <= NUMBER_MASK:
                place = self._find(id_, leaf, at, log_time_ms)
                if place is not None:
                    _add_known(known, position, *place)
                    continue
                at = bisect_left(leaf, key | low)
            leaf.insert(at, key | low)
            rows += pack(id_, zxid, stamp + position)
            if len(leaf) >= LEAF_MAX:
                index.divide(hash_, base + PARTS, self._first * PARTS, self.ids)
                leaves, directory, shift = index.leaves, index.directory, index.shift
            if len(rows) >= CHUNK_BYTES:
                self._seal(log_time_ms)
                rows, base, part_bytes = self._open, self._number * PARTS, _part_bytes()
        self.confirmed_total += sum(known[1::KNOWN_NUMBERS])
        self._recorded(log_time_ms, before)
        return known

    def add(self, ids: bytes, zxid: int, log_time_ms: int) -> None:
        """Record ids without asking whether they are new; those of before that are the same count no more."""
        index = self._index
        before = self._number, len(self._open)
        for position, hash_ in enumerate(_hashes_of(ids)):
            if hash_:
                id_ = ids[position * ID_BYTES : (position + 1) * ID_BYTES]
                part = self._number * PARTS + len(self._open) // _part_bytes()
                self._open += ROW.pack(id_, zxid, log_time_ms << INDEX_BITS | position & INDEX_MASK)
                index.add(hash_, part, self._first * PARTS, self.ids)
                if len(self._open) >= CHUNK_BYTES:
                    self._seal(log_time_ms)
        self._recorded(log_time_ms, before)

    def _recorded(self, log_time_ms: int, before: tuple[int, int]) -> None:
        """Note that rows may have come behind those that ended at *before*: open chunk and bytes in it."""
        if (self._number, len(self._open)) != before:
            self._newest_ms = log_time_ms
            if not self.look_ms:
                self.look_ms = log_time_ms + self.age_ms
        if self._chunks:
            self._drop(log_time_ms)

    def _seal(self, log_time_ms: int) -> None:
        chunk = WindowChunk(self, self._number, bytes(self._open), log_time_ms)
        self._chunks[self._number] = chunk
        chunk.checksum = of_chunk(chunk)
        self._count(chunk, 1)
        if self._pool is not None:
            self._pool.add(chunk)
        self._open = bytearray()  # an image may hold the old one
        self._number += 1

    def expire(self, log_time_ms: int) -> int:
        """Let go of what counts no more, at most `CHUNKS_DROPPED_MAX` chunks; return how many those were."""
        dropped = self._drop(log_time_ms)
        if not self._chunks and (not self._open or self._newest_ms + self.age_ms <= log_time_ms):
            self.clear()
        elif dropped < CHUNKS_DROPPED_MAX:
            chunk = self._chunks.get(self._first)
            self.look_ms = (self._newest_ms if chunk is None else chunk.newest_ms) + self.age_ms
        return dropped

    def _drop(self, log_time_ms: int) -> int:
        """Drop the chunks in front of which no row counts, at most so many."""
        ids_per_chunk = CHUNK_BYTES // ROW_BYTES
        gone: deque[Chunk] = deque()
        while self._first < self._number and len(gone) < CHUNKS_DROPPED_MAX:
            chunk = self._chunks[self._first]
            behind = (self._number - self._first - 1) * ids_per_chunk + len(self._open) // ROW_BYTES
            if chunk.newest_ms + self.age_ms > log_time_ms and behind < self.ids_max:
                break
            del self._chunks[self._first]
            self._count(chunk, -1)
            gone.append(chunk)
            self._first += 1
        dropped = len(gone)
        if dropped:
            self._index.sweep(LEAVES_SWEPT * dropped, (self._number + 1) * PARTS, self._first * PARTS)
            if self._pool is not None:
                self._pool.let_go(gone)
        return dropped

    def clear(self) -> None:
        """Forget all ids, at the same cost however many they are."""
        if self._pool is not None:
            self._pool.let_go(deque(self._chunks.values()))
        self._chunks = {}
        self._sum = 0
        self._open = bytearray()
        self._number = self._first = self._number + 1
        self._index = WindowIndex()
        self.look_ms = 0

    # --- comparing brokers ------------------------------------------------------------------------------------------

    def _count(self, chunk: WindowChunk, sign: int) -> None:
        """Let a sealed chunk come or go in what all of them come to; where it stands counts."""
        assert chunk.checksum is not None, "the checksum of a sealed chunk is known"
        mixed = (chunk.number << 32 | chunk.checksum) * _MIXER
        self._sum = (self._sum + sign * (mixed ^ mixed >> 64)) & _SUM_MASK

    def checksums(self) -> tuple[int, int]:
        """Return what the sealed and the open rows come to; at most 16 µs."""
        return self._sum, crc32c(bytes(self._open))

    def look_anew(self, turn: int, chunks_max: int) -> int:
        """Do what `checksums.look_anew` does."""
        looked_at, changed = of_some(self._chunks.values(), turn, chunks_max)
        for chunk, checksum in changed:
            held = self._chunks[chunk.base]
            self._count(held, -1)
            held.checksum = checksum
            self._count(held, 1)
        return looked_at

    # --- images --------------------------------------------------------------------------------------------------

    def image(self) -> WindowImage:
        """Return what it is at this moment; rows are not copied."""
        chunks = tuple(self._chunks.values())
        numbers = self.numbers()
        return WindowImage(*numbers, chunks, self._open, len(self._open), self._index.held(self._first * PARTS))

    def numbers(self) -> tuple[int, int, int, int, int, int]:
        """Return all that decides beside the rows: the first fields of `WindowImage`."""
        return self.scope, self._number, self._floor, self._floor_ms, self.look_ms, self.confirmed_total

    def restore(self, image: WindowImage) -> None:
        """Take over what an image holds; the window must be new."""
        assert not self.ids, "a window is restored before it records anything"
        self._number, self._floor, self._floor_ms = image.number, image.floor, image.floor_ms
        self.look_ms, self.confirmed_total = image.look_ms, image.confirmed_total
        self._open = image.open_rows
        self._newest_ms = _newest_of(self._open)
        self._first = image.number - len(image.chunks)
        for chunk in image.chunks:
            assert chunk.number == self._first + len(self._chunks), "chunks of a window follow each other"
            chunk.fifo = self
            chunk.checksum = of_chunk(chunk)
            self._count(chunk, 1)
            self._chunks[chunk.number] = chunk
            if self._pool is not None:
                self._pool.add(chunk)
        self._index = image.fingerprints.index

    def _hashes_by_part(self, read_back: Callable[[Chunk], bytes] | None) -> Iterator[tuple[int, list[int]]]:
        rows_per_part = _part_bytes() // ROW_BYTES
        for number, rows in self.pieces(read_back):
            with memoryview(rows) as view, view.cast("Q") as longs:
                hashes = longs[:: ROW_BYTES // 8].tolist()
            for within, row in enumerate(range(0, len(hashes), rows_per_part)):
                yield number * PARTS + within, hashes[row : row + rows_per_part]

    def pieces(self, read_back: Callable[[Chunk], bytes] | None) -> Iterator[tuple[int, bytes | bytearray]]:
        """Yield number and rows of each chunk in order, the open one last.

        *read_back* returns those of a chunk that is not in memory, and blocks.
        """
        for number, chunk in self._chunks.items():
            rows = chunk.data
            if rows is None:
                assert read_back is not None, "whoever drops chunks can read them back"
                rows = read_back(chunk)
            yield number, rows
        if self._open:
            yield self._number, self._open

    def check(self, read_back: Callable[[Chunk], bytes] | None) -> None:
        """Assert what the rest relies on; reads everything.

        Raises:
            AssertionError: It does not hold; the text says what.

        """
        assert list(self._chunks) == list(range(self._first, self._number)), "chunks of a window follow each other"
        stamps = [stamp for _, rows in self.pieces(read_back) for _, _, stamp in ROW.iter_unpack(bytes(rows))]
        times = [stamp >> INDEX_BITS for stamp in stamps]
        assert times == sorted(times), "ids are in the order in which they came"
        assert self.look_ms or not stamps, "who has ids has them looked at some time"
        for chunk in self._chunks.values():
            assert chunk.fifo is self, "a chunk knows its window"
        for part, hashes in self._hashes_by_part(read_back):
            for hash_ in hashes:
                found = self._index.numbers_of(hash_, self._first * PARTS)
                assert part in found, "every row is found through the index"


def ranges_without(known: list[int], count: int) -> list[tuple[int, int]]:
    """Return first and count of the neighbours among *count* messages of which `IdWindow.judge` says nothing."""
    ranges: list[tuple[int, int]] = []
    behind = 0
    for first, size in zip(known[::KNOWN_NUMBERS], known[1::KNOWN_NUMBERS], strict=True):
        if first > behind:
            ranges.append((behind, first - behind))
        behind = first + size
    if behind < count:
        ranges.append((behind, count - behind))
    return ranges


def _part_bytes() -> int:
    return max(CHUNK_BYTES // PARTS, ROW_BYTES)


def _hashes_of(ids: bytes) -> list[int]:
    """Return the first 64 bits of each hash; 0 for a message without an id."""
    hashes = array("Q")
    hashes.frombytes(ids)
    return hashes[::2].tolist()


def _newest_of(rows: bytearray) -> int:
    if not rows:
        return 0
    stamp: int = ROW.unpack_from(rows, len(rows) - ROW_BYTES)[2]
    return stamp >> INDEX_BITS


def _add_known(known: list[int], position: int, zxid: int, index: int) -> None:
    """Note that the message at *position* is a duplicate; it may be the neighbour of the last one."""
    if known:
        first, count, last_zxid, last_index = known[-KNOWN_NUMBERS:]
        if first + count == position and last_zxid == zxid and last_index + count == index:
            known[-3] += 1
            return
    known += (position, 1, zxid, index)
