"""Going round sectors that a disk does not give back any more.

Why: a tool that looks for damage, or saves what can be saved, must not end at the first error of a read, and must not
ask a dying disk for the same sector again and again either: each attempt may take seconds. So a read that fails is
split in halves until the sectors that fail are found; they are remembered, and zeros stand for them, which no checksum
of ours accepts. After `SECTORS_MAX` of them in one file, whatever lies in one piece of `PIECE_BYTES` with a bad sector
is given up as a whole.

A broker never reads like this: where it cannot read, it stops. This module knows files and bytes only.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sluicemq.storage.files import File

__all__ = ["AroundGaps", "Gap", "Gaps"]

SECTOR_BYTES = 512
SECTORS_MAX = 1024
PIECE_BYTES = 64 * 1024


class Gap(NamedTuple):
    """Bytes of a file that cannot be read; the end is not one of them."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"bytes {self.start} to {self.end - 1} cannot be read (I/O error)"


class Gaps:
    """What of one file is known to be unreadable."""

    def __init__(self) -> None:
        self._gaps: list[Gap] = []  # in order, apart from each other
        self._found = 0

    @property
    def unit_bytes(self) -> int:
        """The least that is given up at once."""
        return SECTOR_BYTES if self._found < SECTORS_MAX else PIECE_BYTES

    def add(self, start: int, end: int) -> None:
        """Note another one."""
        self._found += 1
        apart = [gap for gap in self._gaps if gap.end < start or gap.start > end]
        touching = [gap for gap in self._gaps if not (gap.end < start or gap.start > end)]
        start = min([start, *(gap.start for gap in touching)])
        end = max([end, *(gap.end for gap in touching)])
        self._gaps = sorted([*apart, Gap(start, end)])

    def within(self, start: int, end: int) -> list[Gap]:
        """Those that reach into a range, in order."""
        return [gap for gap in self._gaps if gap.start < end and gap.end > start]

    def __iter__(self) -> Iterator[Gap]:
        return iter(self._gaps)


class AroundGaps:
    """An open file, read only, in which zeros stand for what cannot be read.

    Args:
        file: closed with this one. gaps: takes what is found; the same for all who open this file.
    """

    def __init__(self, file: File, gaps: Gaps) -> None:
        self._file = file
        self._gaps = gaps
        self.size = file.size
        self.forget = file.forget
        self.close = file.close

    def pread(self, length: int, offset: int) -> bytes:
        """As of a file. Raises OSError for all but EIO."""
        end = min(offset + length, self.size())
        if end <= offset:
            return b""
        if not self._gaps.within(offset, end):
            try:
                return self._file.pread(length, offset)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
        pieces: list[bytes] = []
        at = offset
        while at < end:
            gap = next(iter(self._gaps.within(at, end)), None)
            if gap is not None and gap.start <= at:
                stop = min(gap.end, end)
                pieces.append(bytes(stop - at))
            else:
                stop = end if gap is None else gap.start
                pieces.append(self._read_or_find(at, stop))
                stop = at + len(pieces[-1])
            at = stop
        return b"".join(pieces)

    def _read_or_find(self, start: int, end: int) -> bytes:
        """Read a range in which no gap is known, up to the first that is found; empty where that is right here."""
        while True:
            try:
                return self._file.pread(end - start, start)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
            unit = self._gaps.unit_bytes
            first = start - start % unit
            if end <= first + unit:
                self._gaps.add(first, min(first + unit, self.size()))
                return b""
            half = start + (end - start) // 2
            end = max(half - half % unit, first + unit)

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
        """Refused."""
        del buffers, offset
        raise OSError(errno.EBADF, "this file is only read")

    def write_zeros(self, start: int, end: int) -> None:
        """Refused."""
        self.pwritev((), start)
        del end

    def sync(self) -> None:
        """Refused."""
        self.pwritev((), 0)

    def truncate(self, size: int) -> None:
        """Refused."""
        self.pwritev((), size)
