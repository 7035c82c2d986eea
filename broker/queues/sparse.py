"""SPARSE records: what is left of an entry with messages when the file that held it is rewritten.

A batch of a thousand messages of which ten are alive keeps a hundredth of its bytes. The record has the entry's zxid,
the entry's header as it was (but for its groups), which messages are left (by their numbers in the original batch, so
that addresses never change), the digest of the original record, and those messages as a batch. What was left may be
rewritten again.

This module owns the format and the arithmetic of what is left. It must not know files, nor who decides what is alive.
An entry that is alive as a whole is kept as it is. A SPARSE record is never applied: it stands only in files that hold
what is older than a snapshot.

The header is a msgpack array: kind and version of the entry, its header, digest (crc32c over header and payload of the
original), ranges `[first, count, first, count, ...]`, ascending and apart. The kinds are those that hold a batch.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from sluicemq.broker.queues.entries import SPARSE, EntryUnknown, decode_entry
from sluicemq.broker.queues.entries_with_batches import BATCH_KINDS, BatchEntry, without_groups
from sluicemq.wire.batch import Batch
from sluicemq.wire.errors import SluiceError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "SPARSE_VERSION",
    "Body",
    "Kept",
    "LeftOver",
    "Ranges",
    "SurvivorsMissing",
    "left_of",
    "read_left_over",
    "time_of",
]

SPARSE_VERSION = 2

Ranges = tuple[tuple[int, int], ...]
"""(first, count) of neighbouring messages, ascending, with a gap between any two."""


class SurvivorsMissing(SluiceError):
    """Messages that must be alive are not in the record that should hold them: they were dropped before, or this is
    another record.

    The file must stay as it is. This is a bug of ours, or the work of an older snapshot than the last one.
    """

    code = "survivors_missing"


class LeftOver(NamedTuple):
    """A SPARSE record, read.

    Attributes:
        publish: The entry that it is left of; its payload holds the messages of *ranges* only, its counts say what the
            whole batch had.
        ranges: Which messages of the original batch are left.
        digest: crc32c over header and payload of the original record.

    """

    publish: BatchEntry
    ranges: Ranges
    digest: int


class Body(NamedTuple):
    """The part of a record that its kind decides."""

    kind: int
    kind_version: int
    header: bytes
    payload: bytes


def left_of(body: Body, alive: Ranges, digest: int) -> Body:
    """Return what to keep of a PUBLISH or SPARSE record of which the messages *alive* are alive: itself, if all are.

    Args:
        body: The record.
        alive: Messages by their numbers in the original batch; at least one.
        digest: crc32c over header and payload of *body*; it counts for a PUBLISH only.

    Raises:
        SurvivorsMissing: *alive* has messages that the record does not hold.
        EntryUnknown: It is a SPARSE record of a newer version.

    """
    if body.kind == SPARSE:
        kind, version, header, digest, held = _decode_header(body.kind_version, body.header)
        if alive == held:
            return body
        batch = Batch(body.payload)
    elif body.kind in BATCH_KINDS:
        # It is never applied again: what it said about delivery would only be dead weight.
        kind = body.kind
        version, header = without_groups(kind, body.kind_version, body.header)
        batch = Batch(body.payload)
        held = ((0, batch.count),)
        if alive == held:
            return body
    else:
        raise SurvivorsMissing(f"a record of kind {body.kind} holds no messages")
    kept = Kept(held)
    part = batch.select([(kept.position(first, count), count) for first, count in alive])
    flat = [number for piece in alive for number in piece]
    packed: bytes = msgpack.packb((kind, version, header, digest, flat))
    return Body(SPARSE, SPARSE_VERSION, packed, part)


def time_of(kind: int, header: bytes) -> int:
    """Return the log time in ms of an entry, rewritten or not: the first thing that each header says."""
    if kind == SPARSE:
        header = msgpack.unpackb(header)[2]
    time_ms: int = msgpack.unpackb(header, strict_map_key=False)[0]
    return time_ms


def read_left_over(version: int, header: bytes | memoryview, payload: bytes | memoryview) -> LeftOver:
    """Return what a SPARSE record holds.

    Raises:
        EntryUnknown: A version, or fields, that this version does not know.

    """
    kind, entry_version, entry_header, digest, ranges = _decode_header(version, header)
    entry = decode_entry(kind, entry_version, entry_header, payload)
    assert isinstance(entry, BatchEntry), "its kind was checked"
    return LeftOver(entry, ranges, digest)


class Kept:
    """Where the messages that are left lie in the batch that holds only them; found in logarithmic time.

    Attributes:
        end: Number of the message after the last one.

    """

    __slots__ = ("_firsts", "_positions", "_ranges", "end")

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._firsts = [first for first, _ in ranges]
        self._positions = list(accumulate((count for _, count in ranges), initial=0))
        self.end = ranges[-1][0] + ranges[-1][1]

    def position(self, first: int, count: int) -> int:
        """Return where the messages from *first* on lie.

        Raises:
            SurvivorsMissing: Not all *count* of them are left.

        """
        number = bisect_right(self._firsts, first) - 1
        if number >= 0:
            start, size = self._ranges[number]
            if first + count <= start + size:
                return self._positions[number] + first - start
        raise SurvivorsMissing(
            f"messages {first} to {first + count - 1} are not among those that are left: {_told(self._ranges)}"
        )


def _told(ranges: Ranges) -> str:
    shown = ", ".join(f"{first} to {first + count - 1}" for first, count in ranges[:10])
    return shown + (", ..." if len(ranges) > 10 else "")


def _decode_header(version: int, header: bytes | memoryview) -> tuple[int, int, bytes, int, Ranges]:
    if version != SPARSE_VERSION:
        raise EntryUnknown(
            f"version {version} of a rewritten record (kind {SPARSE}) is unknown; this version reads {SPARSE_VERSION}",
            kind=SPARSE,
            version=version,
        )
    try:
        kind, entry_version, entry_header, digest, flat = msgpack.unpackb(header)
        ranges = _checked_ranges(flat)
        known = kind in BATCH_KINDS and type(entry_version) is int and type(entry_header) is bytes
        known = known and type(digest) is int
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise EntryUnknown(f"header of a rewritten record: {error!s:.200}", kind=SPARSE) from None
    if not known:
        raise EntryUnknown("header of a rewritten record: fields of another type", kind=SPARSE)
    return kind, entry_version, entry_header, digest, ranges


def _checked_ranges(flat: Sequence[Any]) -> Ranges:
    firsts, counts = flat[::2], flat[1::2]
    ranges = tuple(zip(firsts, counts, strict=True))
    ordered = all(count > 0 for _, count in ranges) and all(
        first + count < later for (first, count), (later, _) in pairwise(ranges)
    )
    if not ranges or not ordered:
        raise ValueError("its ranges are not ascending and apart")
    return ranges
