"""What does a window of ten million message ids cost? `python -m tests.broker.queues.window_scale [--ids 10000000]`.

One machine with a real page file takes batches of new ids until the window holds so many, as a broker applies them;
messages themselves are purged on the way, for they cost what they cost anywhere. Printed are microseconds of the
processor an id (hash, apply), for lookups of new and of known ids at full size, bytes on disk, resident memory, and
what a restart takes, in a process of its own. The promise: under 1 GB of disk and 300 MB resident.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sluicemq.broker.pipeline.identities import hashes_of
from sluicemq.broker.pipeline.keeping.paging import Pager
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.chunks import CHUNK_BYTES, ChunkPool
from sluicemq.broker.queues.image import load, pages_named
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Published
from sluicemq.broker.server.statistics import resident_bytes
from sluicemq.storage.files import RealDirectory
from sluicemq.storage.pagefile import PageFile, StoredPage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DISK_BYTES_MAX = 1_000_000_000
RESIDENT_BYTES_MAX = 300_000_000
KEEP_EVERY = 50
"""Entries between two looks at what must leave the memory."""
PROBES = 100_000
IMAGE = "image"


class Scale:
    """A machine whose window grows, and its pages."""

    def __init__(self, folder: Path, batch: int, memory_bytes: int) -> None:
        self.folder = folder
        self.batch = batch
        self.pages = PageFile.open(RealDirectory(str(folder)))
        self.pages.adopt({})
        self.machine = Machine(pool=ChunkPool())
        assert self.machine.pool is not None
        self.pager = Pager(self.pages, self.machine.pool, bytes_max=memory_bytes, on_failure=_fail)
        self.zxid = 1 << 32
        self.now_ms = 1_000
        self.sequence = 0
        self.peak_bytes = 0
        self.hash_seconds = self.apply_seconds = 0.0
        self.longest_seconds = 0.0
        self.apply(e.Declare(self.now_ms, "/", "queue", "orders", {"dedup_window": 86_400.0, "dedup_count": 0}))
        self.queue = self.zxid
        self.apply(e.ProducerOpen(self.now_ms, "/", "", ""))
        self.producer = self.zxid

    def apply(self, entry: e.Entry) -> object:
        self.zxid += 1
        while missing := self.machine.prefetch(entry):
            self.pager.fill_now(missing)
        return self.machine.apply(self.zxid, entry).value

    def publish(self, names: Sequence[str]) -> int:
        """Publish messages with these ids; return how many of them were known."""
        started = time.process_time()
        ids = hashes_of(names, None, 0)
        hashed = time.process_time()
        self.sequence += 1
        self.now_ms += 1
        fields = self.now_ms, self.queue, self.producer, self.sequence, len(names), 0, None, b""
        value = self.apply(e.PublishIdentified(*fields, [], [], 0, ids))
        done = time.process_time()
        self.hash_seconds += hashed - started
        self.apply_seconds += done - hashed
        self.longest_seconds = max(self.longest_seconds, done - hashed)
        assert isinstance(value, Published)
        if self.sequence % KEEP_EVERY == 0:
            self.apply(e.Purge(self.now_ms, self.queue))
            self.pager.keep_within_now()
            self.peak_bytes = max(self.peak_bytes, resident_bytes())
        return sum(value.known[1::4])

    def timed(self, batches: Iterator[list[str]]) -> tuple[float, float, int, int]:
        """Publish all of them; return microseconds of hashing and of applying an id, ids, and how many were known."""
        self.hash_seconds = self.apply_seconds = 0.0
        count = known = 0
        for names in batches:
            known += self.publish(names)
            count += len(names)
        return self.hash_seconds / count * 1e6, self.apply_seconds / count * 1e6, count, known

    def write_image(self) -> float:
        started = time.process_time()
        freeze = self.machine.freeze()
        with (self.folder / IMAGE).open("wb") as file:
            while not freeze.done:
                left = iter(range(500))
                for kind, data in freeze.pack(lambda left=left: next(left, None) is not None):  # type: ignore[misc]
                    file.write(kind.to_bytes(2, "big") + len(data).to_bytes(4, "big") + data)
        return time.process_time() - started

    def disk_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.iterdir())


def _fail(error: BaseException) -> None:
    raise error


def new_ids(ids: int, batch: int, prefix: str = "order") -> Iterator[list[str]]:
    for first in range(0, ids, batch):
        yield [f"{prefix}-{number}" for number in range(first, min(first + batch, ids))]


def sections_of(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        while head := file.read(6):
            yield int.from_bytes(head[:2], "big"), file.read(int.from_bytes(head[2:], "big"))


def restart(folder: Path) -> None:
    """What a start does with what is on disk; for a process of its own."""
    started = time.process_time()
    pages = PageFile.open(RealDirectory(str(folder)))
    machine = load(sections_of(folder / IMAGE), ChunkPool())
    named = [StoredPage(page.slot, CHUNK_BYTES, page.checksum) for page in pages_named(sections_of(folder / IMAGE))]
    pages.adopt({1: named})
    window = machine.queues()[0].window
    assert window is not None
    seconds = time.process_time() - started
    known = hashes_of([f"order-{number}" for number in range(0, window.ids, window.ids // PROBES + 1)], None, 0)
    chunks = len(window.missing(known, machine.log_time_ms))
    print(json.dumps({"seconds": seconds, "resident": resident_bytes(), "ids": window.ids, "chunks": chunks}))


def measure(ids: int, batch: int, memory_bytes: int, folder: Path) -> bool:
    idle = resident_bytes()
    scale = Scale(folder, batch, memory_bytes)
    hash_us, apply_us, count, known = scale.timed(new_ids(ids, batch))
    assert (count, known) == (ids, 0), "new ids are new"
    print(f"{ids} ids in batches of {batch}: hash {hash_us:.2f} µs, apply {apply_us:.2f} µs an id (processor), ")
    print(f"  longest entry {scale.longest_seconds * 1e3:.1f} ms")
    print(f"resident {scale.peak_bytes / 1e6:.0f} MB at its peak, of which {idle / 1e6:.0f} MB without a window")
    _, new_us, _, known = scale.timed(new_ids(PROBES, batch, "new"))
    assert not known
    rng = random.Random(7)
    recent = [[f"order-{ids - 1 - rng.randrange(min(ids, 100_000))}" for _ in range(batch)] for _ in range(20)]
    _, recent_us, count, known = scale.timed(iter(recent))
    assert known == count
    spread = [[f"order-{rng.randrange(ids)}" for _ in range(10)] for _ in range(200)]
    _, spread_us, count, known = scale.timed(iter(spread))
    assert known == count
    print(f"lookups at that size: new {new_us:.2f} µs; known of late {recent_us:.2f} µs; known, anywhere, each on a ")
    print(f"  page of its own: {spread_us:.0f} µs an id, reading included")
    image_seconds = scale.write_image()
    disk = scale.disk_bytes()
    image_bytes = (folder / IMAGE).stat().st_size
    print(f"disk {disk / 1e6:.0f} MB: two copies of each page, and an image of {image_bytes / 1e6:.1f} MB ")
    print(f"  (packed in {image_seconds:.2f} s)")
    peak = scale.peak_bytes
    again = subprocess.run(
        [sys.executable, "-m", "tests.broker.queues.window_scale", "--restart", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    told = json.loads(again.stdout)
    seconds, resident = told["seconds"], told["resident"] / 1e6
    print(f"restart: {seconds:.1f} s of the processor, resident {resident:.0f} MB, {told['ids']} ids")
    good = disk <= DISK_BYTES_MAX and max(peak, told["resident"]) <= RESIDENT_BYTES_MAX
    print("within 1 GB of disk and 300 MB resident" if good else "NOT within 1 GB of disk and 300 MB resident")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--memory", type=int, default=64 << 20, help="bytes for sealed chunks, as a broker's default")
    parser.add_argument("--restart", type=Path, help="only start from what is in this folder")
    options = parser.parse_args()
    if options.restart is not None:
        restart(options.restart)
        return 0
    with tempfile.TemporaryDirectory(prefix="window-scale-") as folder:
        return 0 if measure(options.ids, options.batch, options.memory, Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
