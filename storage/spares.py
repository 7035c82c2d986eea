"""Segments that wait for use: full-size files whose blocks are written, so that a sync of the log moves data only.

Why: a sync on a growing file must also make the new size and new blocks durable, which more than doubles its time. So a
background thread zeroes files ahead, and retired segments come back without being zeroed again, for record checksums
depend on the generation. This module knows no records and no zxids; when to take and when to retire is the log's
business.

Names: `zeroing-N` while it is made (removed at start), `spare-N` when it is whole and durable.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.storage.errors import FileWriteFailed, SpareNotPrepared
from sluicemq.storage.files import NO_SPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sluicemq.storage.files import Directory, File

__all__ = ["READY_PREFIX", "UNFINISHED_PREFIX", "Spare", "SparePool", "zero_range"]

UNFINISHED_PREFIX = "zeroing-"
READY_PREFIX = "spare-"


class Spare(NamedTuple):
    """A file that is ready to become a segment."""

    name: str
    file: File


def zero_range(file: File, start: int, end: int, piece_bytes: int) -> None:
    """Write zeros over a byte range and sync, piece by piece. Raises OSError."""
    while start < end:
        piece_end = min(start + piece_bytes, end)
        file.write_zeros(start, piece_end)
        file.sync()
        start = piece_end


class SparePool:
    """The spares of one directory.

    `take` belongs to the log thread; `retire` may be called from several, `prepare` from one other.

    Attributes: `segment_bytes` and `spares_max` as given; `unfinished_bytes`, what the spare that is being prepared
    takes on disk so far; `recycled`, how many segments became spares.
    """

    def __init__(self, directory: Directory, segment_bytes: int, spares_max: int, piece_bytes: int) -> None:
        self._directory = directory
        self.segment_bytes = segment_bytes
        self.spares_max = spares_max
        self._piece_bytes = piece_bytes
        self._guard = threading.Lock()
        self._preparing = threading.Lock()
        self._retiring = threading.Lock()
        self._ready: deque[Spare] = deque()
        self._next_number = 1
        self._closing = False
        self.unfinished_bytes = 0
        self.recycled = 0

    def adopt(self) -> None:
        """Take over what an earlier run left: whole spares are kept, all else of ours is removed. Raises OSError."""
        removed = False
        for name in self._directory.names():
            if name.startswith(READY_PREFIX):
                self._next_number = max(self._next_number, _number(name) + 1)
                file = self._directory.open(name)
                if len(self._ready) < self.spares_max and file.size() == self.segment_bytes:
                    self._ready.append(Spare(name, file))
                    continue
                file.close()
            elif not name.startswith(UNFINISHED_PREFIX):
                continue
            self._directory.unlink(name)
            removed = True
        if removed:
            self._directory.sync()

    @property
    def ready(self) -> int:
        """How many spares can be taken now."""
        return len(self._ready)

    @property
    def needed(self) -> bool:
        """Another spare should be prepared."""
        return len(self._ready) < self.spares_max and not self._closing

    def take(self) -> Spare | None:
        """The oldest spare, now the caller's; None if there is none."""
        with self._guard:
            return self._ready.popleft() if self._ready else None

    def blank(self) -> Spare:
        """An empty file under a name that a restart would remove: what a growing segment starts from.

        Raises OSError.
        """
        name = f"{UNFINISHED_PREFIX}{self._take_number()}"
        return Spare(name, self._directory.open(name, create=True))

    def retire(self, segments: Iterable[Spare]) -> None:
        """Turn segment files, in this order, into spares where there is room and the size is right, or remove them.

        They are offered after the directory is durable, never before: a spare that gets a new header while a power cut
        can still bring its old name back would be a damaged segment. `segments` may open them as it goes: no more than
        one that is not kept is open at a time. Raises OSError.
        """
        with self._retiring:
            kept: list[Spare] = []
            for name, file in segments:
                if len(self._ready) + len(kept) < self.spares_max and file.size() == self.segment_bytes:
                    spare = Spare(f"{READY_PREFIX}{self._take_number()}", file)
                    self._directory.rename(name, spare.name)
                    kept.append(spare)
                else:
                    self._directory.unlink(name)
                    file.close()
            self._directory.sync()
            with self._guard:
                self._ready.extend(kept)
            self.recycled += len(kept)

    def prepare(self, free_bytes_min: int = 0, pause: Callable[[], None] | None = None) -> bool:
        """Make one spare and offer it; blocks for the time of writing a segment of zeros. Call it from a background
        thread. It gives up where less than `free_bytes_min` is left on the disk. `pause` is called after each piece
        while another spare is ready: nobody waits for this one, so its syncs need not hold up the log's.

        Returns False without doing anything where no spare is needed, and when the pool is closed meanwhile, or a
        segment that was retired has become the spare. Raises SpareNotPrepared for a full disk; then nothing is left
        behind. FileWriteFailed for a broken one: fatal.
        """
        with self._preparing:
            if not self.needed:
                return False
            name, file = f"{UNFINISHED_PREFIX}{self._take_number()}", None
            try:
                file = self._directory.open(name, create=True)
                if not self._fill(file, free_bytes_min, pause):
                    self._remove(name, file)
                    return False
                spare = Spare(f"{READY_PREFIX}{self._take_number()}", file)
                self._directory.rename(name, spare.name)
                self._directory.sync()
                with self._guard:
                    self._ready.append(spare)
            except OSError as error:
                self._remove(name, file)
                path = self._directory.path_of(name)
                if error.errno not in NO_SPACE:
                    raise FileWriteFailed(path, "preparing a segment", error.errno or errno.EIO) from error
                raise SpareNotPrepared(path, error.errno, self.segment_bytes) from error
            finally:
                self.unfinished_bytes = 0
            return True

    def end_preparing(self) -> None:
        """Let a preparation end after its current piece; none is begun any more. Any thread; does not wait."""
        self._closing = True

    def close(self) -> None:
        """Stop a preparation after its current piece, wait for it, and close all files. The spares stay on disk."""
        self._closing = True
        with self._preparing, self._guard:
            while self._ready:
                self._ready.popleft().file.close()

    def _fill(self, file: File, free_bytes_min: int, pause: Callable[[], None] | None) -> bool:
        for start in range(0, self.segment_bytes, self._piece_bytes):
            if pause is not None and start and self._ready:
                pause()
            if not self.needed:
                return False
            end = min(start + self._piece_bytes, self.segment_bytes)
            if free_bytes_min and self._directory.free_bytes() < free_bytes_min + end - start:
                raise OSError(errno.ENOSPC, "less would be free than must stay free")
            zero_range(file, start, end, self._piece_bytes)
            self.unfinished_bytes = end
        return True

    def _remove(self, name: str, file: File | None) -> None:
        if file is not None:
            file.close()
        try:
            self._directory.unlink(name)
        except OSError:
            pass  # it stays behind as `zeroing-N`, which the next start removes

    def _take_number(self) -> int:
        with self._guard:
            number = self._next_number
            self._next_number += 1
            return number


def _number(name: str) -> int:
    digits = name.removeprefix(READY_PREFIX)
    return int(digits) if digits.isdigit() else 0
