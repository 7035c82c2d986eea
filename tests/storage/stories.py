"""Words that the storage tests share: a small log on the simulated disk, and entries for it."""

from __future__ import annotations

from sluicemq.storage import LogOptions, Record, SegmentLog
from sluicemq.storage.pages import PAGE_BYTES
from tests.disk import SimulatedDisk

SMALL = LogOptions(
    segment_bytes=16 * 1024,
    initial_bytes=8 * 1024,
    growth_bytes=1024,
    zero_piece_bytes=8 * 1024,
    index_stride_bytes=256,
    read_bytes=PAGE_BYTES,
    generations_reserved=2,
)


def zxid(epoch: int, counter: int) -> int:
    return epoch << 32 | counter


def entry(at: int, payload: bytes = b"a payload", header: bytes = b"header") -> Record:
    return Record(at, 7, 1, 0, header, payload)


def entries(first: int, count: int, payload_bytes: int = 500) -> list[Record]:
    """Entries that follow each other, each with a payload of its own."""
    return [entry(first + n, (b"%d " % (first + n)).ljust(payload_bytes, b".")) for n in range(count)]


def open_log(disk: SimulatedDisk, options: LogOptions = SMALL) -> SegmentLog:
    return SegmentLog.open(disk, options=options)


def all_entries(log: SegmentLog) -> list[Record]:
    found: list[Record] = []
    position = log.start_zxid
    while records := log.read_after(position, 2000):
        found += records
        position = records[-1].zxid
    return found
