"""Paging: long indexes leave the memory for a page file, and come back before they are needed.

The queue machine keeps its indexes in chunks and does no I/O (`queues/chunks`). This module moves their bytes: when
sealed chunks take more than `index_memory_bytes_max`, those farthest from the front of their queues are written out by
a thread and dropped; what dispatch or an entry needs is read by another, with a few chunks that follow it. A chunk is
written once, however often it comes and goes. The event loop never waits for a page: who needs one says so (`want`) and
is told when it is there (`on_filled`).

What lies where is this broker's own affair: no entry, verdict or digest depends on it. This module must not know
consumers, sessions or the log.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.queues.chunks import CHUNK_BYTES, Page
from sluicemq.storage.errors import DiskFull

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from sluicemq.broker.queues.chunks import Chunk, ChunkPool
    from sluicemq.storage.page_copies import Rot
    from sluicemq.storage.pagefile import PageFile

logger = logging.getLogger("sluicemq.paging")

INDEX_MEMORY_BYTES_DEFAULT = 64 * 1024 * 1024
TRIP_CHUNKS = 32
"""Most chunks that a thread writes or reads at once: 2 MB."""
LOOK_CHUNKS = 256
"""Most chunks that one choice of what to page out looks at."""
SLICE_CHUNKS = 512
"""Chunks of purged queues that are released before the event loop is let in."""
SHRINK_CHUNKS = 1_024
"""After so many releases the page file is asked whether its end is free."""
ROT_LINES_MAX = 100
"""Rotten pages that are told one by one; of more, one in so many."""
DISK_FULL_SECONDS = 1.0
"""Pause after a page found no room on the disk."""
BYTES_MIN = 2 * TRIP_CHUNKS * CHUNK_BYTES
"""Least memory for sealed chunks: what one grant needs, and what is read ahead, must have room in it."""


class Pager:
    """Keeps the sealed chunks of one machine within their memory.

    Args:
        pages: Where chunks are written; opened, and adopted.
        pool: The chunks of the machine.
        bytes_max: Most bytes of sealed chunks in memory, about, and of rows that belong into them and are not there
            yet; those that are being read count too.
        on_failure: Called in the event loop with an error that ends the broker: a page cannot be read back, or the
            disk fails.

    Attributes:
        on_filled: Called in the event loop with chunks that were wanted: they are in memory now, or have left their
            queues.
        filled_total: Chunks read back since the start.

    """

    def __init__(
        self, pages: PageFile, pool: ChunkPool, *, bytes_max: int, on_failure: Callable[[BaseException], None]
    ) -> None:
        self._pages = pages
        self._pool = pool
        self._chunks_of_all = max(bytes_max, BYTES_MIN) // CHUNK_BYTES
        self._on_failure = on_failure
        self.on_filled: Callable[[list[Chunk]], None] = lambda _chunks: None
        self.filled_total = 0
        self._wanted: dict[Chunk, None] = {}
        self._reading: set[Chunk] = set()
        self._passed = 0  # chunks near a reader that were passed over since one was last chosen
        self._released = 0
        self._disk_is_full = False
        self._retry_at = 0.0
        self._wake_reader = trio.Event()
        self._wake_writer = trio.Event()
        self._filled = trio.Event()
        self._room = trio.Event()
        self._reader_limit = trio.CapacityLimiter(1)
        self._writer_limit = trio.CapacityLimiter(1)
        self._writing = trio.Lock()  # a chunk is chosen to be written by one task at a time
        pool.read_back = self.read_back
        self._rots = 0
        pages.on_rot = self._report_rot

    @property
    def mended_total(self) -> int:
        """Pages that one file or both had lost and that were written again, since the start."""
        return self._pages.statistics().mended

    @property
    def _chunks_max(self) -> int:
        """How many chunks may be in memory: rows beside them, which cannot leave it, count too, as far as one can."""
        beside = self._pool.buffered_bytes // CHUNK_BYTES
        return max(self._chunks_of_all - beside, min(self._chunks_of_all, 2 * TRIP_CHUNKS))

    @property
    def _chunks_left(self) -> int:
        """A little less than is allowed, so that one trip of the thread is worth its cost."""
        return self._chunks_max - min(self._chunks_max // 16, 2 * TRIP_CHUNKS)

    # --- from the event loop -------------------------------------------------------------------------------------

    def look(self) -> None:
        """Start what is to be done; costs nothing when there is nothing, so it is called after every turn."""
        if self._has_work(self._chunks_max):
            self._wake_writer.set()

    def _has_work(self, chunks_max: int) -> bool:
        pool = self._pool
        return (
            bool(pool.gone)
            or self._released >= SHRINK_CHUNKS
            or (len(pool.resident) > chunks_max and trio.current_time() >= self._retry_at)
        )

    def want(self, chunks: Iterable[Chunk]) -> None:
        """Read *chunks* back; `on_filled` tells when some of what was wanted is there."""
        for chunk in chunks:
            if chunk.data is None and chunk not in self._reading:
                self._wanted[chunk] = None
        if self._wanted:
            self._wake_reader.set()

    async def load(self, chunks: list[Chunk]) -> None:
        """Return when *chunks* are in memory, or gone."""
        await trio.lowlevel.checkpoint()
        while any(chunk.data is None and not chunk.gone for chunk in chunks):
            self.want(chunks)
            await self._filled.wait()

    async def run(self) -> None:
        """Move chunks until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fail_with, self._read_what_is_wanted)
            nursery.start_soon(self._fail_with, self._write_what_is_too_much)

    async def _fail_with(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do *work*; its failure ends the broker: without its index it would judge wrongly, or not at all."""
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing goes on after it
            self._on_failure(error)

    # --- reading -------------------------------------------------------------------------------------------------

    async def _read_what_is_wanted(self) -> None:
        while True:
            await self._wake_reader.wait()
            self._wake_reader = trio.Event()
            while self._wanted:
                await self._wait_for_room()
                wanted = self._take_wanted()
                trip = [chunk for chunk in wanted if chunk.data is None and not chunk.gone]
                if trip:
                    self._reading.update(trip)
                    rows = await trio.to_thread.run_sync(self._read_all, trip, limiter=self._reader_limit)
                    self._reading.difference_update(trip)
                    self._put_back(trip, rows)
                self._filled.set()
                self._filled = trio.Event()
                self.on_filled(wanted)
                self.look()

    async def _wait_for_room(self) -> None:
        """Wait while much more is in memory than should be: thousands of queues may want their next chunks at once."""
        while len(self._pool.resident) >= self._chunks_max + TRIP_CHUNKS and trio.current_time() >= self._retry_at:
            self._room = trio.Event()
            self._wake_writer.set()
            await self._room.wait()

    def _take_wanted(self) -> list[Chunk]:
        trip = list(self._wanted)[:TRIP_CHUNKS]
        for chunk in trip:
            del self._wanted[chunk]
        return trip

    def _put_back(self, chunks: list[Chunk], rows: list[bytes]) -> None:
        # Backwards, so that those in front are the very last to be paged out.
        for chunk, data in zip(reversed(chunks), reversed(rows), strict=True):
            if chunk.fifo is None:
                self._release(chunk)  # it left its queue, and the pool, while it was read
            elif chunk.data is None:
                self._pool.fill(chunk, data)
                self.filled_total += 1

    def _read_all(self, chunks: list[Chunk]) -> list[bytes]:
        return list(map(self.read_back, chunks))

    def read_back(self, chunk: Chunk) -> bytes:
        """Return the rows of *chunk* from its page; blocks.

        Raises:
            PageCorrupt: The page does not hold what was written.
            FileReadFailed: The disk does not answer.

        """
        assert chunk.page is not None, "what is not in memory is on a page"
        return self._pages.read(chunk.page.slot, CHUNK_BYTES, chunk.page.checksum)

    def rows_of(self, slot: int) -> bytes | None:
        """Return what the page in *slot* should hold, if it happens to be in memory: the page is lost."""
        for chunk in self._pool.resident:
            if chunk.page is not None and chunk.page.slot == slot:
                return chunk.page_data
        return None

    def _report_rot(self, rot: Rot) -> None:
        """Tell of a page that one of its two files lost; any thread."""
        if rot.mended and rot.blank:
            logger.debug("page %d was missing in %s and was written there", rot.slot, rot.file)
            return
        self._rots += 1
        if self._rots > ROT_LINES_MAX and self._rots % ROT_LINES_MAX:
            return  # a whole file that was overwritten must not fill the broker's log
        if rot.mended:
            logger.warning("%s; it was written again from the other file. If this happens again, replace the disk", rot)
        else:
            logger.error("%s; the other file still has it. Make room, or replace the disk, before it rots too", rot)
        if self._rots >= ROT_LINES_MAX:
            logger.warning("that was rotten page %d; of the next %d one is told", self._rots, ROT_LINES_MAX)

    # --- writing and releasing -----------------------------------------------------------------------------------

    async def write_out(self) -> None:
        """Give every sealed chunk a page, so that a snapshot need not repeat it; they stay in memory.

        Those that find no room on the disk go without.
        """
        chunks = [chunk for chunk in self._pool.resident if chunk.page is None]
        for start in range(0, len(chunks), TRIP_CHUNKS):
            async with self._writing:
                trip = chunks[start : start + TRIP_CHUNKS]
                fresh = [chunk for chunk in trip if chunk.page is None and not chunk.gone]
                if fresh:
                    pages = await trio.to_thread.run_sync(self._write_all, fresh, limiter=self._writer_limit)
                    self._drop([], fresh, pages)
                    if None in pages:
                        return

    async def _write_what_is_too_much(self) -> None:
        while True:
            await self._wake_writer.wait()
            self._wake_writer = trio.Event()
            while self._has_work(self._chunks_left):
                if self._pool.gone:
                    self._release_gone()
                elif self._released >= SHRINK_CHUNKS:
                    self._released = 0
                    await trio.to_thread.run_sync(self._tidy, limiter=self._writer_limit)
                else:
                    async with self._writing:
                        chosen = self._choose()
                        fresh = [chunk for chunk in chosen if chunk.page is None]
                        pages: list[Page | None] = []
                        if fresh:
                            pages = await trio.to_thread.run_sync(self._write_all, fresh, limiter=self._writer_limit)
                        self._drop(chosen, fresh, pages)
                self._room.set()
                await trio.lowlevel.checkpoint()
            self._room.set()  # also where room came about by itself: who waits for it looks again

    def _choose(self) -> list[Chunk]:
        """Return a few chunks to page out: the last ones of the pool that no reader comes near to.

        Where everything is near a reader, the budget comes first: what is needed is read back.
        """
        resident = self._pool.resident
        wanted = min(len(resident) - self._chunks_left, TRIP_CHUNKS)
        chosen: list[Chunk] = []
        for _ in range(min(len(resident), LOOK_CHUNKS)):
            chunk = next(reversed(resident))
            resident.move_to_end(chunk, last=False)
            if chunk.gone:
                continue
            if is_near_reader(chunk) and self._passed < len(resident):
                self._passed += 1
                continue
            chosen.append(chunk)
            if len(chosen) >= wanted:
                break
        if chosen:
            self._passed = 0
        return chosen

    def _write_all(self, chunks: list[Chunk]) -> list[Page | None]:
        """Write *chunks*; return the page of each, None for those that found no room on the disk."""
        written: list[Page | None] = []
        for chunk in chunks:
            data = chunk.page_data
            _ = chunk.summary  # worked out here, because it costs more than the event loop should spend
            slot = self._pages.allocate()
            try:
                written.append(Page(slot, self._pages.write(slot, data)))
            except DiskFull as error:
                self._pages.release(slot)
                self._report_full_disk(error)
                break
        return written + [None] * (len(chunks) - len(written))

    def _drop(self, chosen: list[Chunk], fresh: list[Chunk], pages: list[Page | None]) -> None:
        for chunk, page in zip(fresh, pages, strict=True):
            if page is None:
                self._retry_at = trio.current_time() + DISK_FULL_SECONDS
            chunk.page = page
            if chunk.fifo is None:
                self._release(chunk)  # it left its queue, and the pool, while it was written
        if None not in pages and fresh and self._disk_is_full:
            self._disk_is_full = False
            logger.info("the page file has room again")
        for chunk in chosen:
            if chunk.page is not None and chunk.data is not None and not chunk.gone:
                self._pool.drop(chunk)

    def _report_full_disk(self, error: DiskFull) -> None:
        if not self._disk_is_full:
            self._disk_is_full = True
            logger.warning(
                "%s; %d bytes of queue indexes stay in memory until there is room", error, self._pool.resident_bytes
            )

    def _release_gone(self) -> None:
        for chunk in self._pool.take_gone(SLICE_CHUNKS):
            if chunk not in self._reading:
                self._release(chunk)

    def _release(self, chunk: Chunk) -> None:
        """Give the page of *chunk*, which left its queue, up."""
        if chunk.page is not None:
            self._pages.release(chunk.page.slot)
            self._released += 1

    def _tidy(self) -> None:
        if self._pages.number == 0:
            # No snapshot was ever begun, so none can name a page; afterwards the snapshots say what they keep.
            self._pages.retain(1)
        self._pages.shrink()

    # --- before the event loop -----------------------------------------------------------------------------------

    def fill_now(self, chunks: list[Chunk]) -> None:
        """Read *chunks* back, as replay needs them; blocks, raises as `read_back`."""
        self._put_back(chunks, self._read_all(chunks))

    def keep_within_now(self) -> None:
        """Release and page out what must, between two pieces of replay; blocks.

        Raises:
            FileWriteFailed: The disk fails.

        """
        while self._pool.gone:
            self._release_gone()
        if self._released >= SHRINK_CHUNKS:
            self._released = 0
            self._tidy()
        while len(self._pool.resident) > self._chunks_left and not self._disk_is_full:
            chosen = self._choose()
            fresh = [chunk for chunk in chosen if chunk.page is None]
            for chunk, page in zip(fresh, self._write_all(fresh), strict=True):
                chunk.page = page
            for chunk in chosen:
                if chunk.page is not None:
                    self._pool.drop(chunk)


def is_near_reader(chunk: Chunk) -> bool:
    """Whether a reader of the queue is in *chunk*, or will soon be."""
    return chunk.fifo is not None and chunk.fifo.is_near(chunk)
