"""What the log costs on this machine's disk, beside the bare system calls. Prints one line a figure.

    python -m bench log [--data DIRECTORY] [--only throughput]

Run it on the disk that matters: a temporary directory in memory tells nothing about syncs. The figure that counts is
the share of the bare loop's throughput that the log reaches in groups of 1 MiB: `LOG_SHARE_MIN` is the target.
"""

from __future__ import annotations

import functools
import os
import shutil
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicemq.storage import LogOptions, RealDirectory, Record, SegmentLog
from sluicemq.storage.files import sync_data
from sluicemq.storage.record import HEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MIB = 1 << 20
FIRST = 1 << 32
ROUNDS = 5
GROUPS = 150
GROUP_RECORDS = (1, 10, 100)
LOG_SHARE_MIN = 0.8


def timed(work: Callable[[], object]) -> float:
    """Run *work*; return the seconds that it took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def microseconds(samples: list[float]) -> str:
    """Say median, 99th percentile and maximum of *samples* (seconds)."""
    samples = sorted(samples)
    p50, p99 = statistics.median(samples), samples[int(len(samples) * 0.99)]
    return f"p50 {p50 * 1e6:.0f} µs, p99 {p99 * 1e6:.0f} µs, max {samples[-1] * 1e6:.0f} µs"


def zeroed_file(path: Path, size: int) -> int:
    """Make a file of zeros, durable; return its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for offset in range(0, size, MIB):
        os.pwrite(descriptor, bytes(MIB), offset)
    os.fsync(descriptor)
    return descriptor


def bare(base: Path, size: int, count: int, *, growing: bool) -> list[float]:
    """pwrite and sync of the same sizes, without a log.

    The file stays until the end: blocks that a deleted file gives back are cheaper than fresh ones on a thin disk.
    """
    path = base / f"bare-{size}-{growing}"
    descriptor = zeroed_file(path, 0 if growing else size * count)
    data, samples = os.urandom(size), []
    for number in range(count):
        started = time.perf_counter()
        os.pwrite(descriptor, data, number * size)
        sync_data(descriptor)
        samples.append(time.perf_counter() - started)
    os.close(descriptor)
    return samples


def log_in(base: Path, name: str, **options: Any) -> SegmentLog:
    """Open a log in a directory of its own, with these `LogOptions`."""
    return SegmentLog.open(RealDirectory(base / name), options=replace(LogOptions(), **options))


def append_and_sync(log: SegmentLog, payload: bytes, count: int) -> list[float]:
    """Append and sync one record at a time; return the seconds that each took."""
    zxid, samples = log.last_zxid or FIRST - 1, []
    for _ in range(count):
        zxid += 1
        started = time.perf_counter()
        log.append([Record(zxid, 1, 1, 0, b"", payload)])
        log.sync()
        samples.append(time.perf_counter() - started)
    return samples


def on_spares(base: Path, name: str, spares: int) -> SegmentLog:
    """A log whose first segment is full-size and which has spares ready."""
    log = log_in(base, name, initial_bytes=64 * MIB, spares_max=max(spares, 1))
    for _ in range(spares):
        log.prepare_spare()
    return log


def group_of(records: int) -> list[bytes]:
    """Payloads that make a group of 1 MiB on disk."""
    return [os.urandom(MIB // records - HEAD_BYTES) for _ in range(records)]


def append_groups(log: SegmentLog, payloads: list[bytes], count: int) -> float:
    """Append and sync so many groups; return MiB/s."""
    started = time.perf_counter()
    for _ in range(count):
        first = (log.last_zxid or FIRST - 1) + 1
        log.append([Record(first + number, 1, 1, 0, b"", payload) for number, payload in enumerate(payloads)])
        log.sync()
    return count / (time.perf_counter() - started)


def measure_throughput(base: Path) -> None:
    """Groups of 1 MiB, bare and through the log by turns, on files of zeros; a segment is 64 groups long."""
    rates: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        rates.setdefault("bare", []).append(GROUPS / sum(bare(base, MIB, GROUPS, growing=False)))
        for records in GROUP_RECORDS:
            name = f"spares-{number}-{records}"
            log = on_spares(base, name, 3)
            rates.setdefault(f"log, {records} records a group", []).append(
                append_groups(log, group_of(records), GROUPS)
            )
            log.close()
            shutil.rmtree(base / name)
    middle = {label: statistics.median(each) for label, each in rates.items()}
    for label, each in rates.items():
        share = (
            "" if label == "bare" else f", {middle[label] / middle['bare']:.0%} of bare (target {LOG_SHARE_MIN:.0%})"
        )
        print(f"1 MiB groups, {label}: {middle[label]:.0f} MiB/s ({min(each):.0f} to {max(each):.0f}){share}")


def measure_latency(base: Path) -> None:
    """One small record at a time, as a producer that waits for each confirm makes it."""
    payload = os.urandom(4096 - 64)
    print(f"4 KiB, bare, zeroed file: {microseconds(bare(base, 4096, 2000, growing=False))}")
    print(f"4 KiB, bare, growing file: {microseconds(bare(base, 4096, 2000, growing=True))}")
    print(f"4 KiB, log on a spare: {microseconds(append_and_sync(on_spares(base, 'spare', 0), payload, 2000))}")
    growing = log_in(base, "grow")
    append_and_sync(growing, payload, 260)  # beyond what was zeroed at the start
    print(f"4 KiB, log growing: {microseconds(append_and_sync(growing, payload, 2000))}")


def measure_zeroing(base: Path) -> None:
    """The log's syncs while a spare is zeroed beside them, by piece size."""
    payload = os.urandom(4096 - 64)
    for piece in (MIB // 4, MIB, 4 * MIB, 16 * MIB, 64 * MIB):
        log = log_in(base, f"zero{piece}", initial_bytes=64 * MIB, zero_piece_bytes=piece, spares_max=6)
        seconds: list[float] = []

        def prepare(log: SegmentLog = log, seconds: list[float] = seconds) -> None:
            seconds.extend(timed(log.prepare_spare) for _ in range(6))

        thread = threading.Thread(target=prepare)
        thread.start()
        samples = []
        while thread.is_alive():
            samples += append_and_sync(log, payload, 1)
        thread.join()
        print(
            f"4 KiB while spares are zeroed in pieces of {piece // 1024} KiB: {microseconds(samples)}; "
            f"a spare takes {statistics.mean(seconds):.2f} s"
        )
        log.close()
        shutil.rmtree(base / f"zero{piece}")


def measure_python(base: Path) -> None:
    """The same calls with a file that takes everything at once."""
    log = log_in(base, "python", initial_bytes=64 * MIB)

    class Nowhere:
        def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
            pass

        def sync(self) -> None:
            pass

    real = log._active.file
    for size in (100, 1000, 100_000):
        payload = os.urandom(size)
        count = min(20_000, 30 * MIB // size // 3)
        log.truncate_after(0)
        log._active.file = Nowhere()  # type: ignore[assignment]
        zxid = FIRST - 1

        def one_by_one(payload: bytes = payload, count: int = count) -> None:
            nonlocal zxid
            for _ in range(count):
                zxid += 1
                log.append([Record(zxid, 1, 1, 0, b"header", payload)])

        single = timed(one_by_one) / count
        group = [Record(zxid + 1 + n, 1, 1, 0, b"header", payload) for n in range(100)]
        grouped = timed(functools.partial(log.append, group)) / 100
        log._active.file = real
        print(
            f"Python per append of {size} bytes: {single * 1e6:.1f} µs alone, "
            f"{grouped * 1e6:.1f} µs in a group of 100 (checksum included)"
        )
        log._reader.segments = (log._active,)


def measure_open(base: Path) -> None:
    """Starts: an empty directory, and 1 GB of large and of small entries."""
    print(f"open of an empty directory: {timed(lambda: log_in(base, 'empty')) * 1e3:.1f} ms")
    for size, count in ((100_000, 10_000), (1000, 1_000_000)):
        log = log_in(base, "big")
        payload = os.urandom(size)
        group = max(1, MIB // size)
        for start in range(0, count, group):
            log.append([Record(FIRST + start + n, 1, 1, 0, b"header", payload) for n in range(group)])
        log.close()
        seconds = timed(lambda: log_in(base, "big").close())
        log = log_in(base, "big")

        def scan(log: SegmentLog = log) -> None:
            position = log.start_zxid
            while records := log.read_after(position):
                position = records[-1].zxid

        print(
            f"1 GB log in entries of {size} bytes: open {seconds:.2f} s, read through {timed(scan):.2f} s, "
            f"index {log.statistics().index_bytes} bytes"
        )
        log.close()
        shutil.rmtree(base / "big")


MEASURES = {
    "throughput": measure_throughput,
    "latency": measure_latency,
    "zeroing": measure_zeroing,
    "python": measure_python,
    "open": measure_open,
}


def measure(data: Path, only: str | None) -> int:
    """Measure in a directory of its own below *data*, everything or *only* one of `MEASURES`; return the exit code."""
    base = Path(tempfile.mkdtemp(dir=data))
    try:
        for name, part in MEASURES.items():
            if only in (None, name):
                part(base)
    finally:
        shutil.rmtree(base)
    return 0
