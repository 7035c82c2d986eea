"""What the bare disk does: one fdatasync of 4 KiB in a file of zeros, which no durable broker can undercut."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from sluicemq.broker.commands.benchmark.figures import Histogram
from sluicemq.storage.files import RealDirectory

BLOCK_BYTES = 4096
ROUNDS = 500


def sync_latency(directory: Path, rounds: int = ROUNDS) -> Histogram:
    """Write and sync *rounds* blocks, one after the other, in a new file of zeros in *directory*; remove the file.

    The sync is the one that the log uses (F_FULLFSYNC on macOS).
    """
    name = "bare-sync"
    folder = RealDirectory(directory)
    file = folder.open(name, create=True)
    try:
        file.pwritev([bytes(BLOCK_BYTES * rounds)], 0)
        file.sync()
        block = [os.urandom(BLOCK_BYTES)]
        durations: list[float] = []
        for number in range(rounds):
            start = time.perf_counter()
            file.pwritev(block, number * BLOCK_BYTES)
            file.sync()
            durations.append(time.perf_counter() - start)
    finally:
        file.close()
        folder.unlink(name)
    histogram = Histogram()
    histogram.add_all(durations)
    return histogram


def against_bare_disk(latency_seconds: float, before: Histogram, after: Histogram) -> dict[str, Any]:
    """Return what the disk alone took before and after a measurement, and what the broker took beyond the former.

    A disk that took another time afterwards was busy with something else: then the difference says little, and
    `bare_sync_steady` is False.
    """
    first, second = before.quantile(0.5), after.quantile(0.5)
    assert first is not None
    assert second is not None
    return {
        "bare_sync_p50_seconds": first,
        "bare_sync_p50_afterwards_seconds": second,
        "bare_sync_p99_seconds": before.quantile(0.99),
        "bare_sync_steady": max(first, second) <= 1.3 * min(first, second),
        "above_bare_sync_seconds": latency_seconds - first,
    }


def file_system_of(path: Path) -> str:
    """Return type and mount point of the file system that holds *path*, as far as the system tells."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    place = str(path.resolve())
    best = ("", "unknown")
    for line in lines:
        _device, mount, kind, *_rest = line.split(" ")
        mount = mount.replace("\\040", " ")
        if (place == mount or place.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best[0]):
            best = (mount, kind)
    return f"{best[1]} on {best[0]}" if best[0] else best[1]
