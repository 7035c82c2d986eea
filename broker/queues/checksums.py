"""What the rows of an index come to, wherever its chunks begin.

Where chunks begin is no function of the log: an image leaves rows out that were consumed, so whoever starts from it
seals the next chunk elsewhere. Equal are the rows that were appended since the index was last empty, in their order. So
an index keeps the checksum of all of them (crc32c), chunk after chunk, and what those before its first chunk came to,
which goes with an image: from there the checksums of the chunks lead to the same sum wherever they were cut. That of a
chunk on a page is the page's, so nothing is read for it.

What is worked out of an index without asking an entry is for comparing brokers only (`pipeline/ensemble/contents`).
This module must not know queues, nor who compares what.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from google_crc32c import extend as crc32c_extend
from google_crc32c import value as crc32c

from sluicemq.broker.queues.chunks import RUN_BYTES

if TYPE_CHECKING:
    from collections.abc import Collection

    from sluicemq.broker.queues.chunks import Chunk, FifoImage
    from sluicemq.broker.queues.fifo import RunFifo

NOTHING_SEALED = (0, 0)
"""What the rows before the first chunk, and those before the open ones, come to in an index that was empty."""
_HOLES_MODULUS = (1 << 64) - 59


def of_chunk(chunk: Chunk) -> int:
    """Return the checksum of what a chunk's rows are now, 16 µs; while they are on a page only, what that must have.

    The chunk must fill its page.
    """
    if chunk.data is not None:
        checksum: int = crc32c(chunk.data)
        return checksum
    assert chunk.page is not None, "rows are in memory or on a page"
    return chunk.page.checksum


def sealed(sums: tuple[int, int], chunk: Chunk) -> tuple[int, int]:
    """Return what the rows come to when *chunk*, whose checksum is worked out here, stands behind all others."""
    chunk.checksum = of_chunk(chunk)
    return sums[0], _joined(sums[1], chunk)


def left(sums: tuple[int, int], chunk: Chunk) -> tuple[int, int]:
    """Return what the rows come to when *chunk*, the first one, left."""
    return _joined(sums[0], chunk), sums[1]


def before_image(image: FifoImage) -> int:
    """Return what the rows before those that are packed of *image* come to: consumed open rows are not."""
    return image.checksum if image.chunks else _extended(image.checksum, image.open_rows[: image.head * RUN_BYTES])


def of_fifo(fifo: RunFifo, turn: int, rows_max: int) -> tuple[Any, ...]:
    """Return what every broker knows of *fifo* alike, wherever its rows are: all counts, the run in front, all rows.

    And what left from the middle of at most *rows_max* rows, others with another *turn*, at 10 µs a chunk.
    """
    front = fifo._front, fifo.front_published_ms(), fifo.front_expires_ms()
    return fifo.messages, len(fifo), fifo.expiry_ms, front, of_holes(fifo, turn, rows_max), of_rows(fifo)


def of_rows(fifo: RunFifo) -> int:
    """Return what all rows appended since *fifo* was last empty come to; costs as much as the open rows, 16 µs."""
    return _extended(fifo._sums[1], fifo._open)


def of_holes(fifo: RunFifo, turn: int, rows_max: int) -> int:
    """Return what the holes among some rows come to."""
    count = fifo.tail - fifo.head
    if count == len(fifo):
        return 0
    start = fifo.head + (scattered(turn, count) if count > rows_max else 0)
    end = min(start + rows_max, fifo.tail)
    total, ordinal = 0, start
    while ordinal < end:
        base, behind = fifo._part(ordinal)
        bits = fifo._bits(base) >> (ordinal - base) & (1 << min(behind, end) - ordinal) - 1
        if bits:
            total += bits % _HOLES_MODULUS * pow(2, ordinal - start, _HOLES_MODULUS)
        ordinal = behind
    return total % _HOLES_MODULUS


def look_anew(fifo: RunFifo, turn: int, chunks_max: int) -> int:
    """Work out anew what at most so many chunks of *fifo* come to, others with another *turn*; return how many.

    No program changes sealed rows. If they changed all the same, because memory failed, what all rows come to does too.
    """
    chunks = fifo._chunks or ()
    looked_at, changed = of_some(chunks, turn, chunks_max)
    for chunk, checksum in changed:
        fifo._sums = fifo._sums[0], fifo._sums[1] ^ checksum ^ (chunk.checksum or 0)
        chunk.checksum = checksum
    return looked_at


def of_some(chunks: Collection[Chunk], turn: int, chunks_max: int) -> tuple[int, list[tuple[Chunk, int]]]:
    """Look at so many of *chunks*; return how many it were, and those that are not what was sealed, with what they are
    now."""
    start = scattered(turn, len(chunks))
    looked_at = [*islice(chunks, start, start + chunks_max)]
    return len(looked_at), [(chunk, now) for chunk in looked_at if (now := of_chunk(chunk)) != chunk.checksum]


def scattered(turn: int, count: int) -> int:
    """Return a place before *count*, with each *turn* another one, all over it; 0 where there is none."""
    return (turn * 2_654_435_761 & 0xFFFF_FFFF) * count >> 32


def _extended(checksum: int, rows: bytes | bytearray) -> int:
    extended: int = crc32c_extend(checksum, bytes(rows))
    return extended


def _joined(checksum: int, chunk: Chunk) -> int:
    """Return the checksum of some bytes and the rows of *chunk* behind them, from the checksums of both; 0.4 µs."""
    assert chunk.checksum is not None, "the checksum of a sealed chunk is known"
    first, second, third, fourth = _shifts(chunk.rows * RUN_BYTES)
    shifted = (
        first[checksum & 0xFF] ^ second[checksum >> 8 & 0xFF] ^ third[checksum >> 16 & 0xFF] ^ fourth[checksum >> 24]
    )
    return shifted ^ chunk.checksum


@lru_cache(maxsize=8)
def _shifts(bytes_: int) -> list[list[int]]:
    """Return what each byte of a checksum becomes when so many bytes follow: their own checksum is added by XOR.

    A crc is linear: what follows as zeros moves the bits that were there, each by itself.
    """
    zeros = bytes(bytes_)
    nothing = crc32c(zeros)
    bits = [crc32c_extend(1 << bit, zeros) ^ nothing for bit in range(32)]
    tables: list[list[int]] = []
    for byte in range(4):
        table = [0]
        for bit in bits[byte * 8 : byte * 8 + 8]:
            table += [value ^ bit for value in table]
        tables.append(table)
    return tables
