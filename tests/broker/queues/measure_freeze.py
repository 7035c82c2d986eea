"""What a freeze costs a machine of a hundred thousand queues, sessions and producers. A script, not a test.

    python -m tests.broker.queues.measure_freeze

Bounds that must hold on the machines that we build on (2 cores, Python 3.11): the longest step 10 ms, a slice of
packing 4 ms where 2 ms were allowed, an entry while a freeze is under way 2 ms, loading 4 s, loading 10,000 chunks on
pages 200 ms. Processor time of this process, so that other load shows less. What the garbage collector takes stands
apart: the next collection of the young looks once at the lists that a freeze made. Exits with 1 when a bound is broken.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.chunks import CHUNK_RUNS, Chunk, ChunkPool, FifoImage, Page, Summary
from sluicemq.broker.queues.fifo import RunFifo
from sluicemq.broker.queues.image import live_runs, load
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.runs import flat_runs
from sluicemq.wire.messages import VERDICT_ACK
from tests.broker.queues.measure import report

if TYPE_CHECKING:
    from sluicemq.broker.queues.sections import Section

OBJECTS = 100_000
GRANT_MESSAGES = 1_000
SLICE_SECONDS = 0.002
CHUNKS = 10_000
PUBLISHES = 200_000
now = time.process_time


class Large:
    """A machine with many queues, sessions and producers, a message in each queue, and many leased singles."""

    def __init__(self, objects: int) -> None:
        self.machine = Machine()
        self.zxid = 0
        self.queues = [self.apply(e.Declare(1, "/", "queue", f"queue-{i}", {})) for i in range(objects)]
        self.sessions = [self.apply(e.SessionOpen(1, "/", "somebody", "a client", b"")) for _ in range(objects)]
        self.producers = [
            self.apply(e.ProducerOpen(1, "/", f"producer-{i}", f"identity-{i % 1000}")) for i in range(objects)
        ]
        for queue, producer in zip(self.queues, self.producers, strict=True):
            self.apply(self.publish(queue, producer, 1))
        self.sequence = 1
        self.tag = 1
        for _ in range(objects // GRANT_MESSAGES):
            for _ in range(GRANT_MESSAGES):
                self.sequence += 1
                self.apply(self.publish(self.queues[0], self.producers[0], self.sequence))
            runs = self.machine.peek(self.queues[0], 0, GRANT_MESSAGES)
            self.apply(e.Grant(1, self.queues[0], self.sessions[0], 1, self.tag, flat_runs(runs)))
            self.tag += GRANT_MESSAGES

    def apply(self, entry: e.Entry) -> int:
        self.zxid += 1
        self.machine.apply(self.zxid, entry)
        return self.zxid

    def publish(self, queue: int, producer: int, sequence: int) -> e.Publish:
        return e.Publish(1, queue, producer, sequence, 1, 100, None, b"x" * 100)

    def settle(self) -> e.Settle:
        """Acknowledge every second lease of a thousand."""
        tags = [tag for first in range(1, 1_000, 2) for tag in (first, first)]
        return e.Settle(1, self.sessions[0], 1, VERDICT_ACK, tags)


def timed(large: Large, entry: e.Entry) -> float:
    began = now()
    large.apply(entry)
    return now() - began


def freeze_and_load() -> bool:
    large = Large(OBJECTS)
    machine = large.machine
    gc.collect()
    gc.freeze()
    before = machine.state_hash()
    began = now()
    freeze = machine.freeze()
    freezing = now() - began
    began = now()
    gc.collect(0)
    collecting = now() - began
    gc.disable()
    entries = [timed(large, large.settle()), timed(large, e.Purge(1, large.queues[0]))]
    sections: list[Section] = []
    longest, packing, slices, index = 0.0, 0.0, 0, 1
    while not freeze.done:
        began = now()
        end = began + SLICE_SECONDS
        sections += freeze.pack(lambda: now() < end)  # noqa: B023  # called within the turn
        took = now() - began
        longest, packing, slices = max(longest, took), packing + took, slices + 1
        for _ in range(20):
            entries.append(timed(large, large.publish(large.queues[-index], large.producers[-index], 2)))
            index += 1
    size = sum(len(section.data) for section in sections)
    print(f"{OBJECTS:,} queues, sessions, producers and leased singles: {len(sections)} sections, {size / 1e6:.1f} MB")
    held = report("freezing", freezing * 1e3, 10, "ms")
    held &= report("the next collection of young garbage", collecting * 1e3, 10, "ms")
    held &= report(f"the longest of {slices} slices", longest * 1e3, 4, "ms")
    held &= report("packing, all slices", packing * 1e3, None, "ms")
    held &= report(f"the longest of {len(entries)} entries meanwhile", max(entries) * 1e3, 2, "ms")
    began = now()
    loaded = load(sections)
    held &= report("loading", (now() - began) * 1e3, 4_000, "ms")
    assert loaded.state_hash() == before
    began = now()
    messages = sum(runs.summary.messages for runs in live_runs(sections))
    held &= report("going through what is alive", (now() - began) * 1e3, None, "ms")
    assert messages == 2 * OBJECTS
    gc.enable()
    gc.unfreeze()
    return held


def pages() -> bool:
    """Freeze and load a queue of ten million messages whose index lies on pages."""
    chunks = [Chunk.on_page(Page(slot, slot), Summary(CHUNK_RUNS, 9, slot, slot, 7, slot, 0)) for slot in range(CHUNKS)]
    machine = Machine(pool=ChunkPool())
    machine.apply(1, e.Declare(1, "/", "queue", "orders", {}))
    queue = machine.queue(1)
    assert queue is not None
    queue.lanes.main = RunFifo.restored(
        FifoImage(0, CHUNKS * CHUNK_RUNS, None, 7, chunks, bytearray(), 0), machine.pool
    )
    queue.published_total = queue.main.messages
    began = now()
    sections = machine.freeze().pack(lambda: True)
    held = report(f"{CHUNKS:,} chunks on pages: freezing and packing", (now() - began) * 1e3, None, "ms")
    began = now()
    load(sections, ChunkPool())
    return report(f"{CHUNKS:,} chunks on pages: loading", (now() - began) * 1e3, 200, "ms") and held


def publishing(frozen: bool) -> float:
    """Return the microseconds of a PUBLISH, with or without a freeze of which nothing is packed."""
    machine = Machine()
    machine.apply(1, e.Declare(1, "/", "queue", "orders", {}))
    machine.apply(2, e.ProducerOpen(1, "/", "", ""))
    if frozen:
        machine.freeze()
    entries = [e.Publish(1, 1, 2, sequence, 1, 100, None, b"x" * 100) for sequence in range(1, PUBLISHES + 1)]
    began = now()
    for zxid, entry in enumerate(entries, 3):
        machine.apply(zxid, entry)
    return (now() - began) / PUBLISHES * 1e6


def main() -> int:
    """Measure and print everything; return the exit code."""
    held = freeze_and_load()
    held &= pages()
    rounds = [(publishing(False), publishing(True)) for _ in range(3)]
    report("a PUBLISH without a freeze", min(free for free, _ in rounds), None)
    report("a PUBLISH while a freeze is under way", min(frozen for _, frozen in rounds), None)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
