"""A pager for tests that is all whims: between any two entries it drops and fills chunks by chance.

It plays by the pool's rules and reads every page by its checksum, so a machine behind it must judge, hash and count
exactly like one that keeps everything in memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from google_crc32c import value as crc32c

from sluicemq.broker.queues.chunks import RUN_BYTES, ChunkPool, ChunksMissing, Page

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    import pytest

    from sluicemq.broker.queues import entries as e
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run

MODULES = (
    "sluicemq.broker.pipeline.keeping.paging",
    "sluicemq.broker.queues.chunks",
    "sluicemq.broker.queues.delayed",
    "sluicemq.broker.queues.delayed_rows",
    "sluicemq.broker.queues.dispatching.cursors",
    "sluicemq.broker.queues.dispatching.key_order",
    "sluicemq.broker.queues.fifo",
    "sluicemq.broker.queues.freeze",
    "sluicemq.broker.queues.image",
    "sluicemq.broker.queues.runs",
    "sluicemq.broker.queues.window",
    "sluicemq.broker.queues.window_images",
)


def make_chunks_small(monkeypatch: pytest.MonkeyPatch, runs: int) -> None:
    """Let chunks hold *runs* runs, so that the few messages of a test fill many."""
    sizes = {"CHUNK_RUNS": runs, "CHUNK_BYTES": runs * RUN_BYTES, "AHEAD_RUNS": 2 * runs}
    for name in MODULES:
        module = importlib.import_module(name)
        for constant, value in sizes.items():
            if hasattr(module, constant):
                monkeypatch.setattr(module, constant, value)


class WhimsicalPager:
    """Pages the chunks of one machine by chance.

    Attributes:
        pool: The chunks.
        pages: What was ever written, by slot; slots are not used again, so images of old machines can be loaded.
        held: Slots that were written and not released.
        drops: How many chunks were dropped.
        fills: How many were filled because something needed them.

    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.pages: list[bytes] = []
        self.held: set[int] = set()
        self.drops = 0
        self.fills = 0
        self.pool = self.new_pool()

    def new_pool(self) -> ChunkPool:
        """Return the pool of a machine that is to be loaded, and serve that from now on."""
        self.pool = ChunkPool(self.read_back)
        return self.pool

    def write(self, data: bytes) -> Page:
        """Put *data* on a new page."""
        page = Page(len(self.pages), crc32c(data))
        self.held.add(page.slot)
        self.pages.append(data)
        return page

    def read_back(self, chunk: Chunk) -> bytes:
        assert chunk.page is not None
        data = self.pages[chunk.page.slot]
        assert crc32c(data) == chunk.page.checksum, "a page holds what was written"
        return data

    def apply(self, machine: Machine, zxid: int, entry: e.Entry) -> Outcome:
        """Let *machine* apply *entry*, with whims before and after."""
        self.disturb()
        while missing := machine.prefetch(entry):
            self.fill(missing)
        outcome = machine.apply(zxid, entry)
        self.disturb()
        return outcome

    def peek(self, queue: Queue, skip: int, count_max: int) -> list[Run]:
        """Look into a queue, wherever it lies."""
        while True:
            try:
                return queue.peek(skip, count_max)
            except ChunksMissing as missing:
                self.fill(missing.chunks)

    def fill(self, chunks: list[Chunk]) -> None:
        """Read *chunks* back."""
        for chunk in chunks:
            if chunk.data is None and chunk.fifo is not None:
                self.pool.fill(chunk, self.read_back(chunk))
                self.fills += 1

    def disturb(self) -> None:
        """Release what is gone, or not yet; drop some chunks."""
        if self._rng.random() < 0.7:
            for chunk in self.pool.take_gone(self._rng.choice((1, 2, 100))):
                if chunk.page is not None:
                    self.held.discard(chunk.page.slot)
        for chunk in list(self._chosen()):
            if chunk.page is None:
                chunk.page = self.write(chunk.page_data)
            self.pool.drop(chunk)
            self.drops += 1

    def settle_accounts(self, machine: Machine) -> None:
        """Assert that the pool knows exactly the chunks that the machine has."""
        self.pool.take_gone(10**6)
        alive = {chunk for queue in machine.queues() for image in queue.images() for chunk in image.chunks}
        assert {chunk for chunk in alive if chunk.data is not None} == set(self.pool.resident)
        assert sum(chunk.data is None for chunk in alive) == self.pool.absent

    def _chosen(self) -> Iterator[Chunk]:
        share = self._rng.choice((0.0, 0.2, 1.0))
        for chunk in self.pool.resident:
            if not chunk.gone and self._rng.random() < share:
                yield chunk
