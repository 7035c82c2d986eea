"""The parts of the log that tell of one message, read in a worker thread. Knows the log and the index, not the machine.

Whatever was reclaimed meanwhile is simply not there: the story says from when on it is whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.pipeline.explaining.index import NOTED_KINDS, Chapter, Stretch, Writer
from sluicemq.broker.pipeline.explaining.life import KINDS
from sluicemq.broker.queues.entries import SPARSE, ProducerOpen, decode_entry
from sluicemq.broker.queues.entries_with_batches import BATCH_KINDS, BatchEntry
from sluicemq.broker.queues.sparse import Ranges, read_left_over, time_of
from sluicemq.storage.errors import ZxidNotFound
from sluicemq.storage.record import record_size
from sluicemq.wire.message_ids import COUNT_BITS, EPOCH_MS, NODE_MASK, moment_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sluicemq.broker.pipeline.explaining.life import Life
    from sluicemq.storage.log import SegmentLog
    from sluicemq.storage.record import Record

READ_BYTES = 1024 * 1024
"""Bytes of one read."""
ID_AHEAD_MS = 30
"""Ids may run so far ahead of the time of their batch, where very many messages come at once."""
ID_BEHIND_MS = 5
"""Entries get their times in order, and ids with them: what comes so much later does not hold the id."""
ID_BYTES_MAX = 64 * 1024 * 1024
"""Most bytes of batches that are read for an id once its time is found."""


class Origin(NamedTuple):
    """The entry that published a message.

    Attributes:
        entry: The entry; of a rewritten one the payload holds what is left.
        left: Which messages are left, of a rewritten one; None: all.

    """

    entry: BatchEntry
    left: Ranges | None


def read_origin(log: SegmentLog, zxid: int) -> Origin | None:
    """Return the entry with messages of this zxid; None where there is none, or none any more. Blocks."""
    try:
        record = log.read(zxid)
    except ZxidNotFound:
        return None
    return _origin(record)


def read_vhost(log: SegmentLog, producer: int) -> str | None:
    """Return the vhost of a producer, as the entry says that opened it; None: it is not in the log any more. Blocks."""
    try:
        record = log.read(producer)
    except ZxidNotFound:
        return None
    if record.kind != ProducerOpen.KIND:
        return None
    opened = decode_entry(record.kind, record.kind_version, record.header, record.payload)
    return opened.vhost if isinstance(opened, ProducerOpen) else None


def _origin(record: Record) -> Origin | None:
    if record.kind == SPARSE:
        left = read_left_over(record.kind_version, record.header, record.payload)
        return Origin(left.publish, left.ranges)
    if record.kind not in BATCH_KINDS:
        return None
    entry = decode_entry(record.kind, record.kind_version, record.header, record.payload)
    assert isinstance(entry, BatchEntry), "its kind says so"
    return Origin(entry, None)


def read_chapter(log: SegmentLog, behind: int, last: int, *, whole: bool = False) -> tuple[Chapter | None, int]:
    """Return a chapter of the entries behind *behind*, up to *last* or its usual size, and how many bytes were read.

    With *whole* it holds all of them, however many there are. None: there are no entries, or not all any more. Blocks.
    """
    writer, read_bytes = Writer(behind, whole=whole), 0
    try:
        for record in _records(log, behind, last):
            decoded = None
            if record.kind in NOTED_KINDS:
                decoded = decode_entry(record.kind, record.kind_version, record.header, record.payload)
            batch_bytes = 0 if decoded is not None else len(record.payload)
            if not writer.note(record.zxid, decoded, batch_bytes):
                break
            read_bytes += record_size(len(record.header) + len(record.payload))
    except ZxidNotFound:
        return None, read_bytes
    chapter = writer.chapter
    chapter.close()
    return (chapter if chapter.stretches else None), read_bytes


def read_life(log: SegmentLog, stretches: Sequence[Stretch], life: Life) -> int:
    """Give *life* all that *stretches* tell of it; return the zxid from which on they could be read. Blocks."""
    from_zxid = 0
    for stretch in stretches:
        if stretch.last <= life.zxid or not stretch.may_tell(life):
            continue
        try:
            for record in _records(log, stretch.first - 1, stretch.last):
                if record.zxid > life.zxid and record.kind in KINDS:
                    life.take(
                        record.zxid, decode_entry(record.kind, record.kind_version, record.header, record.payload)
                    )
        except ZxidNotFound:
            from_zxid = stretch.last
    return from_zxid


def find_id(log: SegmentLog, number: int) -> tuple[int, int] | None:
    """Return zxid and index of the message that was given the id *number*; None: nothing in the log says so. Blocks.

    Ids rise with time and so do entries: the place is found by halving the log.

    Args:
        log: The log.
        number: An id as `wire.message_ids` makes them.

    """
    given_ms = (moment_of(number) >> COUNT_BITS) + EPOCH_MS
    files = log.live_files()
    first = low = files[0].first_zxid if files else log.first_zxid
    high = log.last_zxid
    if not first:
        return None
    try:
        while low < high:
            middle = (low + high) // 2
            record = log.read_along(middle, 1, exact=False)[0]
            if time_of(record.kind, record.header) < given_ms - ID_AHEAD_MS:
                low = middle + 1
            else:
                high = middle
        # What is read begins somewhat before the place that was asked for: so does the last piece that is too early.
        left, behind = ID_BYTES_MAX, 0
        low = max(low - 1, first)
        while left > 0:
            records = [record for record in log.read_along(low, READ_BYTES, exact=False) if record.zxid > behind]
            if not records:
                return None
            for record in records:
                if time_of(record.kind, record.header) > given_ms + ID_BEHIND_MS:
                    return None
                found = _index_of(record, number)
                if found is not None:
                    return record.zxid, found
                left -= len(record.payload)
            behind = records[-1].zxid
            low = behind + 1
    except ZxidNotFound:
        return None  # behind the last entry, or in front of what is left
    return None


def _index_of(record: Record, number: int) -> int | None:
    origin = _origin(record)
    if origin is None:
        return None
    entry = origin.entry
    base = entry.id_base
    if not base or base >> COUNT_BITS & NODE_MASK != number >> COUNT_BITS & NODE_MASK:
        return None
    index = moment_of(number) - moment_of(base)
    return index if 0 <= index < entry.count else None


def _records(log: SegmentLog, behind: int, last: int) -> Iterator[Record]:
    """Yield the entries behind *behind*, up to *last*, of whole files.

    Raises:
        ZxidNotFound: The first ones are not all there any more.

    """
    files = log.whole_files()
    if files[0].first_zxid > behind + 1:
        raise ZxidNotFound(behind + 1, files[0].first_zxid - 1, files[-1].last_zxid)
    for file in files:
        at, end = max(behind + 1, file.first_zxid), min(last, file.last_zxid)
        size = READ_BYTES
        while at <= end:
            # It begins somewhat before the place that was asked for: with an entry that is larger than all this, even.
            found = [record for record in log.read_along(at, size, exact=False) if at <= record.zxid]
            if not found:
                if size > log.entry_bytes_max:
                    break
                size *= 4
            for record in found:
                at = record.zxid + 1
                if record.zxid <= end:
                    yield record
