"""A data directory opened as a start of a broker opens it, for commands that change what they find there.

All of the log is applied, and what a start would carry out is carried out. This module must not know what for.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sluicemq.broker.pipeline.keeping.restart import Restart, load_newest, replay
from sluicemq.broker.queues.chunks import CHUNK_BYTES
from sluicemq.storage.log import SegmentLog
from sluicemq.storage.pagefile import PageFile
from sluicemq.storage.snapshots import SnapshotStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sluicemq.broker.queues.chunks import Chunk, Page
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.storage.files import Directory


class PageReader:
    """Reads chunks of indexes back, where the pager of a broker would.

    Args:
        pages: The page file.
        machine: Whose chunks.

    """

    def __init__(self, pages: PageFile, machine: Machine) -> None:
        self.pages = pages
        self._pool = machine.pool

    def read(self, page: Page) -> bytes:
        """Return the bytes of a chunk. Raises PageCorrupt."""
        return self.pages.read(page.slot, CHUNK_BYTES, page.checksum)

    def fill_now(self, chunks: Sequence[Chunk]) -> None:
        """Read what is missing of *chunks*. Raises PageCorrupt."""
        assert self._pool is not None, "chunks lie on pages only with a pool"
        for chunk in chunks:
            if chunk.data is None and chunk.page is not None:
                self._pool.fill(chunk, self.read(chunk.page))

    def keep_within_now(self) -> None:
        """Keep all of it: a tool that runs once needs no bound below the index itself."""


@contextmanager
def replayed(directory: Directory) -> Iterator[tuple[SegmentLog, Machine, PageReader]]:
    """Give the log of a directory, the machine to which all of it was applied, and a reader of its pages.

    Raises:
        StorageError: The directory cannot be opened as a broker would open it.

    """
    log = SegmentLog.open(directory)
    try:
        pages = PageFile.open(directory, cluster_id=log.cluster_id)
        try:
            restart = Restart()
            machine = load_newest(log, SnapshotStore(directory, log.cluster_id), pages, restart)
            reader = PageReader(pages, machine)
            replay(log, machine, reader, restart)  # type: ignore[arg-type] # it does for a tool what a pager does
            yield log, machine, reader
        finally:
            pages.close()
    finally:
        log.close()
