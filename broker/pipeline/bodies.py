"""Where dispatch finds the bodies of messages: a bounded cache of recent entries, and cold reads through a thread.

What was just published is usually consumed at once, so it is served from memory; a backlog is read from the log in
large sequential pieces, never in the event loop. This module must not know queues or consumers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

import trio

from sluicemq.broker.queues.entries import Publish, decode_entry
from sluicemq.storage.log import SegmentLog
from sluicemq.wire.batch import Batch

READ_AHEAD_BYTES = 4 * 1024 * 1024
"""How much one cold read fetches at least, so that a backlog is read at the disk's speed."""


class Stored(NamedTuple):
    """One PUBLISH entry as dispatch needs it: its batch, and what each message's receipt and age derive from."""

    batch: Batch
    published_ms: int
    producer: int
    sequence: int


class Bodies:
    """Cache of PUBLISH entries by zxid, oldest evicted first.

    Args:
        log: Where entries come from that are not in memory.
        cache_bytes_max: Most payload bytes kept.

    """

    def __init__(self, log: SegmentLog, *, cache_bytes_max: int) -> None:
        self._log = log
        self._cache_bytes_max = cache_bytes_max
        self._cache: OrderedDict[int, Stored] = OrderedDict()
        self._cached_bytes = 0
        self._limiter = trio.CapacityLimiter(2)

    def add(self, zxid: int, entry: Publish) -> None:
        """Keep *entry*, just proposed or just read."""
        if zxid in self._cache:
            return
        batch = Batch(entry.payload)
        self._cache[zxid] = Stored(batch, entry.log_time_ms, entry.producer, entry.sequence)
        self._cached_bytes += len(batch.data)
        while self._cached_bytes > self._cache_bytes_max and len(self._cache) > 1:
            _, evicted = self._cache.popitem(last=False)
            self._cached_bytes -= len(evicted.batch.data)

    def get(self, zxid: int) -> Stored | None:
        """Return the entry if it is in memory."""
        return self._cache.get(zxid)

    def drop(self, zxid: int) -> None:
        """Forget an entry that nobody will ask for again."""
        stored = self._cache.pop(zxid, None)
        if stored is not None:
            self._cached_bytes -= len(stored.batch.data)

    async def load(self, zxids: Iterable[int]) -> None:
        """Read what of *zxids* is not in memory, with what follows it in the log, in a thread.

        At least the first of *zxids* is in memory afterwards; the others as far as one read's size goes.

        Raises:
            LogCorrupt: A record does not match its checksum.

        """
        wanted = sorted(zxid for zxid in zxids if zxid not in self._cache)
        if not wanted:
            return
        for zxid, entry in await trio.to_thread.run_sync(self._read, wanted, limiter=self._limiter):
            self.add(zxid, entry)

    def _read(self, wanted: list[int]) -> list[tuple[int, Publish]]:
        needed = set(wanted)
        found: list[tuple[int, Publish]] = []
        read_bytes = 0
        for zxid in wanted:
            if zxid not in needed:
                continue
            if read_bytes >= READ_AHEAD_BYTES:
                break
            for record in self._log.read_after(zxid - 1, min(READ_AHEAD_BYTES, self._cache_bytes_max // 2)):
                read_bytes += len(record.payload)
                if record.kind == Publish.KIND:
                    entry = decode_entry(record.kind, record.kind_version, record.header, record.payload)
                    assert isinstance(entry, Publish)
                    found.append((record.zxid, entry))
                    needed.discard(record.zxid)
        return found
