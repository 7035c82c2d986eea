"""Where dispatch finds the bodies of messages: a bounded cache of recent entries, and cold reads through a thread.

What was just published is usually consumed at once, so it is served from memory; a backlog is read from the log in
large sequential pieces, never in the event loop. This module must not know queues or consumers.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import trio

from sluicemq.broker.queues.entries import SPARSE, decode_entry
from sluicemq.broker.queues.entries_of_transactions import Routes
from sluicemq.broker.queues.entries_with_batches import BATCH_KINDS, BatchEntry
from sluicemq.broker.queues.sparse import Kept, read_left_over
from sluicemq.storage.errors import StorageError, ZxidNotFound
from sluicemq.storage.log import SegmentLog
from sluicemq.storage.record import Record
from sluicemq.wire.batch import Batch
from sluicemq.wire.errors import InternalError, MessageNotFound
from sluicemq.wire.positions import format_position

logger = logging.getLogger("sluicemq.bodies")

GROUP = 0
"""The group whose log this is: the only one so far."""
PIECE_BYTES_MIN = 256 * 1024
PIECE_BYTES_MAX = 4 * 1024 * 1024
"""One cold read fetches between these, so that a backlog is read at the disk's speed and a single message cheaply; so
much is kept at most of what was read along."""


ENTRY_OVERHEAD_BYTES = 384
"""Memory that an entry takes in the cache beside its payload: without it, single messages of 100 bytes would take four
times what the cache is allowed."""
OPENED_MAX = 256
OPENED_BYTES_MAX = 16 * 1024 * 1024
"""Entries, and bytes of them, that are kept as batches while they are sent in parts, so that each is decoded once."""

NEAR_ENTRIES = 64
"""Entries that lie no farther apart than this are worth one read."""


class Stored(NamedTuple):
    """One PUBLISH entry as dispatch needs it: its batch, and what each message's receipt and age derive from.

    Attributes:
        batch: The messages; of a rewritten entry only those that were left then.
        published_ms: Log time of the entry.
        producer: Number of the producer.
        id_base: Id of the first message of the original batch, for those without an id of their own.
        end: Number of the message after the last one that is here.
        kept: Where the messages of a rewritten entry lie; None where all are here.
        route: What of the destination followed behind the topic's name, if it was published to one and all messages
            share it; "": nothing; None: each message has its subject as its route. A transaction has one for each of
            its parts.

    """

    batch: Batch
    published_ms: int
    producer: int
    id_base: int
    end: int
    kept: Kept | None = None
    route: str | Routes | None = ""

    def part_pieces(self, first: int, count: int) -> list[bytes | memoryview]:
        """Return messages by their numbers in the original batch, as `Batch.part_pieces` does.

        Raises:
            SurvivorsMissing: They were dead when the entry was rewritten.

        """
        if self.kept is not None:
            first = self.kept.position(first, count)
        return self.batch.part_pieces(first, count)

    def routed(self, first: int, count: int) -> list[tuple[int, int, str | None]]:
        """Return messages by their numbers in pieces that share one route, as (first, count, route)."""
        if not isinstance(self.route, tuple):
            return [(first, count, self.route)]
        end = first + count
        starts = [start for start, _ in self.route] + [end]
        pieces = zip(self.route, starts[1:], strict=True)
        cut = [(max(start, first), min(behind, end), route) for (start, route), behind in pieces]
        return [(start, behind - start, route) for start, behind, route in cut if start < behind]

    def closed(self) -> Closed:
        """Return what the cache keeps of it."""
        return (self.batch.data, *self[1:])

    def undecoded(self) -> Stored:
        """Return the same without what was decoded on the way."""
        return self._replace(batch=Batch(self.batch.data))


Closed: TypeAlias = tuple[bytes | memoryview, int, int, int, int, Kept | None, str | Routes | None]
"""A `Stored` in the cache: with the bytes of the batch in its place. A plain tuple of plain values, because the garbage
collector soon leaves those alone: 75,000 batches as objects made one full collection hold the event loop for 100 ms."""


class _Read:
    """A cold read under way, for whoever wants the same meanwhile; nothing is *found* when it came to nothing."""

    __slots__ = ("done", "found")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.found: dict[int, Stored] = {}


class Bodies:
    """Cache of PUBLISH entries by zxid, oldest evicted first.

    Args:
        log: Where entries come from that are not in memory.
        cache_bytes_max: Most bytes of memory that entries take, about.

    """

    def __init__(self, log: SegmentLog, *, cache_bytes_max: int) -> None:
        self._log = log
        self._cache_bytes_max = cache_bytes_max
        self._cache: OrderedDict[int, Closed] = OrderedDict()
        self._cached_bytes = 0
        # Entries of several messages that were asked for lately; all of them are in the cache too.
        self._opened: dict[int, Stored] = {}
        self._opened_bytes = 0
        self._piece_bytes_max = max(PIECE_BYTES_MIN, min(PIECE_BYTES_MAX, cache_bytes_max // 4))
        self._limiter = trio.CapacityLimiter(2)
        self._reads: dict[int, _Read] = {}
        # Who has chosen messages and reads them now, in the order in which they chose.
        self._readers: dict[object, trio.Event] = {}

    def begin_reading(self) -> object:
        """Say that messages were chosen that will be read by `load`; give the answer to `end_reading` afterwards.

        Meanwhile nothing that is alive now leaves the disk, even if it dies.
        """
        reader = object()
        self._readers[reader] = trio.Event()
        return reader

    def end_reading(self, reader: object) -> None:
        """Say that all that was chosen has been read, or is not wanted any more. May be said twice."""
        ended = self._readers.pop(reader, None)
        if ended is not None:
            ended.set()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Begin and end reading around the block."""
        reader = self.begin_reading()
        try:
            yield
        finally:
            self.end_reading(reader)

    async def wait_for_readers(self) -> None:
        """Return when everybody has read who has begun before this call."""
        for ended in list(self._readers.values()):
            await ended.wait()

    def add(self, zxid: int, entry: BatchEntry) -> None:
        """Keep *entry*, just proposed."""
        closed = (entry.payload, entry.log_time_ms, entry.producer, entry.id_base, entry.count, None, entry.route)
        self._keep(zxid, closed)

    def _keep(self, zxid: int, closed: Closed) -> None:
        cache = self._cache
        if zxid in cache:
            return
        cache[zxid] = closed
        self._cached_bytes += len(closed[0]) + ENTRY_OVERHEAD_BYTES
        while self._cached_bytes > self._cache_bytes_max and len(cache) > 1:
            evicted, (data, *_) = cache.popitem(last=False)
            self._cached_bytes -= len(data) + ENTRY_OVERHEAD_BYTES
            if evicted in self._opened:
                self.forget_decoded(evicted)

    def get(self, zxid: int) -> Stored | None:
        """Return the entry if it is in memory."""
        stored = self._opened.get(zxid)
        if stored is None:
            closed = self._cache.get(zxid)
            if closed is None:
                return None
            stored = Stored(Batch(closed[0]), *closed[1:])
            if stored.batch.count > 1:
                self._open(zxid, stored)
        return stored

    def _open(self, zxid: int, stored: Stored) -> None:
        opened = self._opened
        opened[zxid] = stored
        self._opened_bytes += len(stored.batch.data)
        while len(opened) > OPENED_MAX or (self._opened_bytes > OPENED_BYTES_MAX and len(opened) > 1):
            self.forget_decoded(next(iter(opened)))

    def forget_decoded(self, zxid: int) -> None:
        """Keep only the bytes of an entry whose columns were decoded to send it in parts: they count as its size."""
        stored = self._opened.pop(zxid, None)
        if stored is not None:
            self._opened_bytes -= len(stored.batch.data)

    async def load(self, zxids: Iterable[int]) -> dict[int, Stored]:
        """Return these entries, read in a thread where they are not in memory, and keep what was read along.

        Raises:
            MessageNotFound: One of them is gone, as after a repair that gave it up.
            LogCorrupt: A record does not match its checksum.
            LogReadFailed: The disk does not answer.

        """
        found: dict[int, Stored] = {}
        missing: list[int] = []
        for zxid in zxids:
            stored = self.get(zxid)
            if stored is None:
                missing.append(zxid)
            else:
                found[zxid] = stored
        while missing:
            others = {zxid: read for zxid in missing if (read := self._reads.get(zxid)) is not None}
            own = {zxid for zxid in missing if zxid not in others}
            if own:
                found |= await self._read_for_all(own)
            missing = []
            for zxid, read in others.items():
                await read.done.wait()
                stored = read.found.get(zxid)
                if stored is None:
                    # Whoever read it was cancelled or failed: read it here, or hear why that is impossible.
                    missing.append(zxid)
                else:
                    found[zxid] = stored
        return found

    async def load_to_show(self, zxids: Iterable[int]) -> dict[int, Stored]:
        """As `load`, for whoever only looks: what the disk does not give ends the request, not the broker.

        Raises:
            MessageNotFound: As `load`.
            InternalError: What is asked for is damaged, or the disk does not answer; the text names the file.

        """
        try:
            return await self.load(zxids)
        except StorageError as error:
            logger.warning("messages that somebody asked to see cannot be read: %s", error)
            raise InternalError(f"the broker cannot read these messages from its disk: {error}") from error

    async def _read_for_all(self, needed: set[int]) -> dict[int, Stored]:
        """Read *needed* in a thread, and let everyone share it who asks for any of it meanwhile."""
        read = _Read()
        self._reads.update(dict.fromkeys(needed, read))
        try:
            entries = await trio.to_thread.run_sync(self._read, sorted(needed), limiter=self._limiter)
            for zxid, stored in entries:
                if zxid in needed:
                    read.found[zxid] = stored
                self._keep(zxid, stored.closed())
        finally:
            for zxid in needed:
                del self._reads[zxid]
            read.done.set()
        return read.found

    def _read(self, wanted: list[int]) -> list[tuple[int, Stored]]:
        """Read *wanted* (ascending), in pieces that grow while they contain what is wanted: a backlog lies together,
        messages that came back lie scattered."""
        needed = set(wanted)
        found: list[tuple[int, Stored]] = []
        along_bytes = 0
        piece_bytes = PIECE_BYTES_MIN
        for position, zxid in enumerate(wanted):
            if zxid not in needed:
                continue
            hits = 0
            try:
                if piece_bytes or (position + 1 < len(wanted) and wanted[position + 1] - zxid <= NEAR_ENTRIES):
                    records = self._log.read_along(zxid, piece_bytes or PIECE_BYTES_MIN)
                else:
                    records = [self._log.read(zxid)]
            except ZxidNotFound as error:
                raise given_up((zxid, 0), (zxid + 1, 0)) from error
            for record in records:
                if record.kind not in BATCH_KINDS and record.kind != SPARSE:
                    continue
                if record.zxid in needed:
                    needed.discard(record.zxid)
                    hits += 1
                elif along_bytes + len(record.payload) <= self._piece_bytes_max:
                    along_bytes += len(record.payload)
                else:
                    continue
                found.append((record.zxid, _stored_record(record)))
            # Where the first piece held nothing else that was wanted, messages lie scattered: read them one by one.
            piece_bytes = min(max(2 * piece_bytes, PIECE_BYTES_MIN), self._piece_bytes_max) if hits > 1 else 0
        return found


def given_up(first: tuple[int, int], behind: tuple[int, int]) -> MessageNotFound:
    """Return what is told to whoever asks for messages from the place *first* to that *behind* them: they are gone."""
    position, following = format_position(GROUP, *first), format_position(GROUP, *behind)
    return MessageNotFound(
        f"the messages at {position} are not on the broker's disk any more, as after a repair of its log that gave "
        f"them up; what follows begins at {following} or later",
        position=position,
        next_position=following,
    )


def _stored(entry: BatchEntry) -> Stored:
    batch = Batch(entry.payload)
    return Stored(batch, entry.log_time_ms, entry.producer, entry.id_base, batch.count, None, entry.route)


def _stored_record(record: Record) -> Stored:
    if record.kind == SPARSE:
        left = read_left_over(record.kind_version, record.header, record.payload)
        kept = Kept(left.ranges)
        return _stored(left.publish)._replace(end=kept.end, kept=kept)
    entry = decode_entry(record.kind, record.kind_version, record.header, record.payload)
    assert isinstance(entry, BatchEntry), "its kind says so"
    return _stored(entry)
