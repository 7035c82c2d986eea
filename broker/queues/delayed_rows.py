"""Packed rows in the order of a time that each of them names: how they are made, put in order, cut and taken out.

Plain functions over bytes, as quick as Python allows: of all that happens to delayed messages this is what costs. This
module must not know which chunks rows lie in.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import chain, compress, pairwise, starmap
from operator import itemgetter, not_
from struct import Struct
from typing import TYPE_CHECKING

from sluicemq.broker.queues.chunks import CHUNK_RUNS, PART_OFFSET, READY_OFFSET, ROW, RUN_BYTES, long_at, long_column
from sluicemq.broker.queues.runs import Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_DUE = Struct("=Q")
_WHOLE_ROW = Struct(f"={RUN_BYTES}s")
_ROW_WORDS = RUN_BYTES // 4
_ROW_LONGS = RUN_BYTES // 8
_SAMPLE_ROWS = 256
address_of = itemgetter(1, 0, 2)
"""When a run that waits is due, then its batch, and the index of its first message."""


def packed(due_ms: int, runs: Iterable[Run], offset: int) -> bytes:
    """Return *runs* as rows that wait until *due_ms*."""
    words = array("I", b"".join(starmap(ROW.pack, runs)))
    count = len(words) // _ROW_WORDS
    for word, value in enumerate(memoryview(_DUE.pack(due_ms)).cast("I"), offset // 4):
        words[word::_ROW_WORDS] = array("I", (value,)) * count
    return words.tobytes()


def packed_columns(like: Run, times: Sequence[int], firsts: Sequence[int], counts: Sequence[int]) -> bytes:
    """Return a row for each of these parts of one batch: first index, size and when it is due, the rest as *like*.

    Five times quicker than to make runs of them.
    """
    rows = array("Q", ROW.pack(*like)) * len(times)
    rows[READY_OFFSET // 8 :: _ROW_LONGS] = array("Q", times)
    numbers = array("I", bytes(8 * len(times)))
    numbers[::2] = array("I", firsts)
    numbers[1::2] = array("I", counts)
    rows[PART_OFFSET // 8 :: _ROW_LONGS] = array("Q", numbers.tobytes())
    return rows.tobytes()


def behind(rows: bytes | bytearray, due_ms: int, first: int, end: int, offset: int) -> int:
    """Return the row behind all of those from *first* to *end* that are due by *due_ms*."""
    return bisect_right(range(end), due_ms, first, end, key=lambda row: long_at(rows, row, offset))


def order_of(times: Sequence[int]) -> list[int]:
    """Return the indices of *times* in their order; equal ones stay as they are.

    As floats, which hold milliseconds exactly for the next 280,000 years, they are compared in half the time.
    """
    return sorted(range(len(times)), key=list(map(float, times)).__getitem__)


def are_in_order(rows: bytes | bytearray, offset: int) -> bool:
    """Return whether *rows* lie in the order of their times."""
    times = long_column(rows, offset)
    return times == sorted(times)


def in_order(parts: Sequence[bytes | bytearray], offset: int) -> bytes:
    """Return the rows of all *parts* in the order of their times; those of one time stay as they came."""
    rows = b"".join(parts)
    times = long_column(rows, offset)
    order = order_of(times)
    whole = list(chain.from_iterable(_WHOLE_ROW.iter_unpack(rows)))
    return b"".join(map(whole.__getitem__, order))


def parted(rows: bytes | bytearray, offset: int) -> list[bytes]:
    """Return *rows* as they fit chunks: each piece is due before the next, and begins with a row due first in it.

    Rows of one time stay as they came; others may lie in any order within their piece. So this costs a third of
    `in_order`. The first of *rows* is due before no other of them.
    """
    if len(rows) <= CHUNK_RUNS * RUN_BYTES:
        return [bytes(rows)]
    whole = list(chain.from_iterable(_WHOLE_ROW.iter_unpack(rows)))
    found: list[bytes] = []
    left = [(whole, long_column(rows, offset))]
    while left:
        part, times = left.pop()
        if len(part) <= CHUNK_RUNS:
            first = times.index(min(times))
            part.insert(0, part.pop(first))
            found.append(b"".join(part))
            continue
        sample = sorted(times[:: max(len(times) // _SAMPLE_ROWS, 1)])
        middle_ms = sample[len(sample) // 2]
        before = list(map(middle_ms.__gt__, times))
        if True not in before:
            before = list(map(middle_ms.__ge__, times))
        if False in before:
            behind = list(map(not_, before))
            left.append((list(compress(part, behind)), list(compress(times, behind))))
            left.append((list(compress(part, before)), list(compress(times, before))))
        else:  # all of them are due together
            found += cut(b"".join(part))
    return found


def pieces(rows: bytes | bytearray) -> list[bytes]:
    """Return *rows* as they fit chunks."""
    return cut(rows) if len(rows) > CHUNK_RUNS * RUN_BYTES else [bytes(rows)]


def cut(rows: bytes | bytearray) -> list[bytes]:
    """Cut rows, more than a chunk should have, into equal parts with some room in each."""
    count = len(rows) // RUN_BYTES
    parts = -(-count // max(CHUNK_RUNS * 15 // 16, 1))
    borders = [count * part // parts * RUN_BYTES for part in range(parts + 1)]
    return [bytes(rows[start:end]) for start, end in pairwise(borders)]
