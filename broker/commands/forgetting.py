"""Letting the log say that messages are lost: the last step of `sluicemq log repair`.

Why through the log: a message whose bytes are gone is still alive in the machine, and a broker that came to deliver it
would have to stop. So a session of the tool takes such messages and settles them, by the entries that a consumer's
broker would write; every broker that reads the log agrees. What is taken with them, because it lies in front, goes back
to its place when the session ends.

This module must not know how files are repaired.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sluicemq.broker.commands.log_repair_plan import Span, is_lost
from sluicemq.broker.pipeline.keeping.restart import Restart, load_newest, replay
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.chunks import CHUNK_BYTES, ChunksMissing
from sluicemq.broker.queues.image import live_runs
from sluicemq.storage.errors import LogCorrupt, ZxidNotFound
from sluicemq.storage.files import RealDirectory
from sluicemq.storage.log import SegmentLog
from sluicemq.storage.pagefile import PageFile
from sluicemq.storage.record import Record
from sluicemq.storage.snapshots import SnapshotStore
from sluicemq.wire.messages import VERDICT_ACK

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sluicemq.broker.queues.chunks import Chunk, Page
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run

GRANT_MESSAGES = 10_000
"""So many messages are taken at once, at most about."""
_NAME = "sluicemq log repair"


class _Pages:
    """Reads chunks of indexes back, where the pager of a broker would."""

    def __init__(self, pages: PageFile, machine: Machine) -> None:
        self._pages = pages
        self._pool = machine.pool

    def read(self, page: Page) -> bytes:
        return self._pages.read(page.slot, CHUNK_BYTES, page.checksum)

    def fill_now(self, chunks: Sequence[Chunk]) -> None:
        assert self._pool is not None, "chunks lie on pages only with a pool"
        for chunk in chunks:
            if chunk.data is None and chunk.page is not None:
                self._pool.fill(chunk, self.read(chunk.page))

    def keep_within_now(self) -> None:
        """Keep all of it: a tool that runs once needs no bound below the index itself."""


def forget_lost(path: Path, lost: Sequence[Span]) -> tuple[Counter[str], int]:
    """Settle the messages of *lost* entries that are alive; return how many by queue, and how many are delayed still.

    The start that this makes carries out what the repair has noted, as a broker's would.

    Raises:
        StorageError: The directory cannot be opened as a broker would open it.

    """
    directory = RealDirectory(path)
    log = SegmentLog.open(directory)
    try:
        pages = PageFile.open(directory, cluster_id=log.cluster_id)
        try:
            restart = Restart()
            machine = load_newest(log, SnapshotStore(directory, log.cluster_id), pages, restart)
            reader = _Pages(pages, machine)
            replay(log, machine, reader, restart)  # type: ignore[arg-type] # it does for a tool what a pager does
            return _Forgetting(log, machine, reader, lost).run()
        finally:
            pages.close()
    finally:
        log.close()


class _Forgetting:
    """Writes and applies the entries."""

    def __init__(self, log: SegmentLog, machine: Machine, pages: _Pages, lost: Sequence[Span]) -> None:
        self._log = log
        self._machine = machine
        self._pages = pages
        self._lost = lost
        self._gone: dict[int, bool] = {}
        self._counts: Counter[str] = Counter()

    def run(self) -> tuple[Counter[str], int]:
        """Do it."""
        counts, delayed = self._alive()
        if counts:
            for session in list(self._machine.sessions):
                self._write(e.SessionClose(self._machine.log_time_ms, session, _NAME))
            session = self._write(e.SessionOpen(self._machine.log_time_ms, "/", "", _NAME, b""))
            for consumer, (queue_id, messages) in enumerate(counts.items(), 1):
                queue = self._machine.queue(queue_id)
                assert queue is not None, "what is alive is in a queue"
                self._settle(session, consumer, queue, messages)
            self._write(e.SessionClose(self._machine.log_time_ms, session, _NAME))
            self._log.sync()
        return self._counts, delayed

    def _alive(self) -> tuple[dict[int, int], int]:
        """Return how many lost messages each queue has, and how many more of them are delayed.

        What a queue retains is among them, settled or not: then all that is ready is looked at.
        """
        counts: dict[int, int] = {}
        delayed = 0
        freeze = self._machine.freeze()
        sections = freeze.pack(lambda: True)
        for part in live_runs(sections):
            for run in part.runs(self._pages.read):
                if self._is_gone(run.zxid):
                    if part.place == "delayed":
                        delayed += run.size
                    else:
                        counts[part.queue] = counts.get(part.queue, 0) + run.size
        return counts, delayed

    def _is_gone(self, zxid: int) -> bool:
        if not is_lost(zxid, self._lost):
            return False
        if zxid not in self._gone:
            try:
                self._log.read(zxid)
            except (ZxidNotFound, LogCorrupt):
                self._gone[zxid] = True
            else:
                self._gone[zxid] = False
        return self._gone[zxid]

    def _settle(self, session: int, consumer: int, queue: Queue, messages: int) -> None:
        tag = 1
        while messages > 0 and queue.ready:
            flat: list[int] = []
            tags: list[int] = []
            first_tag = tag
            for run in self._front(queue):
                flat += (run.zxid, run.first, run.size)
                if self._is_gone(run.zxid):
                    tags += (tag, tag + run.size - 1)
                    messages -= run.size
                    self._counts[queue.name] += run.size
                tag += run.size
            now = self._machine.log_time_ms
            self._write(e.Grant(now, queue.id, session, consumer, first_tag, flat))
            if tags:
                self._write(e.Settle(now, session, consumer, VERDICT_ACK, _joined(tags), 0, "lost: log repair"))

    def _front(self, queue: Queue) -> list[Run]:
        while True:
            try:
                return queue.peek(0, GRANT_MESSAGES)
            except ChunksMissing as missing:
                self._pages.fill_now(missing.chunks)

    def _write(self, entry: e.Entry) -> int:
        zxid = self._log.last_zxid + 1
        self._log.append([Record(zxid, entry.KIND, entry.VERSION, 0, entry.header(), b"")])
        while missing := self._machine.prefetch(entry):
            self._pages.fill_now(missing)
        self._machine.apply(zxid, entry)
        return zxid


def _joined(tags: list[int]) -> list[int]:
    """Return ranges of tags with neighbours made one."""
    found: list[int] = []
    for first, last in zip(tags[::2], tags[1::2], strict=True):
        if found and found[-1] + 1 == first:
            found[-1] = last
        else:
            found += (first, last)
    return found
