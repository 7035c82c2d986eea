"""Holes: rows that left an index from the middle, as one bitmap a chunk.

Rows of a sealed chunk never change, so what left from between others is noted beside them. A bitmap is a Python
integer, bit 0 for the first row: it is replaced, never changed, so whoever froze an index keeps the old one for
nothing. This module must not know indexes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.queues.chunks import RUN_BYTES, expires_ms_at, published_ms_at, sizes

if TYPE_CHECKING:
    from collections.abc import Iterator


class Holes(NamedTuple):
    """The holes of one chunk, or of the open rows.

    Attributes:
        bits: The bitmap.
        messages: Messages in the rows that left.
        published_ms: Where the first row left: when the first one that stayed was published; else 0.
        expires_ms: Likewise when that expires; 0: never.

    """

    bits: int
    messages: int
    published_ms: int = 0
    expires_ms: int = 0


NONE = Holes(0, 0)


def with_holes(holes: Holes, mask: int, messages: int, rows: bytes | bytearray) -> Holes:
    """Return *holes* of the packed *rows* after the rows in *mask*, which had so many messages, left too."""
    return noted(Holes(holes.bits | mask, holes.messages + messages), rows)


def noted(holes: Holes, rows: bytes | bytearray) -> Holes:
    """Return *holes* with the times of the first of the packed *rows* that stayed: known without the rows from now on.

    They are zeros where the first row stayed, or none did.
    """
    if not holes.bits & 1:
        return holes
    row = first_left(holes.bits)
    if row * RUN_BYTES >= len(rows):
        return holes
    return Holes(holes.bits, holes.messages, published_ms_at(rows, row), expires_ms_at(rows, row))


def of_bitmap(bits: int, rows: bytes | bytearray) -> Holes:
    """Return the holes of the packed *rows* that a bitmap says."""
    messages = sum(size for row, size in enumerate(sizes(rows)) if bits >> row & 1) if bits else 0
    return noted(Holes(bits, messages), rows)


def first_left(bits: int, row: int = 0) -> int:
    """Return the first row from *row* on that is no hole; there may be none so far: then it is the next to come."""
    stayed = ~(bits >> row)
    return row + (stayed & -stayed).bit_length() - 1


def stretches(bits: int, row: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of neighbouring rows without a hole, from *row* to before *end*."""
    while True:
        row = first_left(bits, row)
        if row >= end:
            return
        behind = bits >> row
        stop = end if not behind else min(end, row + (behind & -behind).bit_length() - 1)
        yield row, stop
        row = stop


def count_left(bits: int, row: int, end: int) -> int:
    """Return how many rows from *row* to before *end* are no holes."""
    return end - row - (bits >> row & (1 << (end - row)) - 1).bit_count()


def without_holes(rows: bytes | bytearray, bits: int, row: int = 0) -> bytes:
    """Return the packed *rows* from *row* on without those that left."""
    end = len(rows) // RUN_BYTES
    return b"".join([rows[first * RUN_BYTES : stop * RUN_BYTES] for first, stop in stretches(bits, row, end)])


def packed_bits(bits: int) -> bytes:
    """Return a bitmap as bytes, little-endian, no longer than it must be."""
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def unpacked_bits(packed: bytes) -> int:
    """Return the bitmap of `packed_bits`."""
    return int.from_bytes(packed, "little")
