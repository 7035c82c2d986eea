"""A disk in memory, behind the interface of the storage: what was not synced is gone after `lose_unsynced`.

As strict as the worst disk in what it forgets, and never at random, so that a test that passes once passes always:
a write is durable with the sync of its file, a name with the sync of its directory, and of what is not durable nothing
is left. Files are sparse: prepared segments of zeros take next to no memory. This module must not know what is stored;
whoever uses it from several threads puts a lock around it (`power`).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from sluicemq.storage.errors import DirectoryLocked

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_BYTES = 64 * 1024
_ZEROS = bytes(BLOCK_BYTES)


class _Content:
    """Bytes of a file: blocks, of which those that hold only zeros may be absent, and what they were at the last sync.

    Attributes:
        size: Bytes.
        blocks: By number.
        before: Each block that changed since the last sync as it was then; None: it was absent.
        size_before: The size then.

    """

    __slots__ = ("before", "blocks", "size", "size_before")

    def __init__(self) -> None:
        self.size = self.size_before = 0
        self.blocks: dict[int, bytearray] = {}
        self.before: dict[int, bytes | None] = {}

    def write(self, data: memoryview, offset: int) -> None:
        place = 0
        while place < len(data):
            number, start = divmod(offset + place, BLOCK_BYTES)
            piece = data[place : place + BLOCK_BYTES - start]
            if number in self.blocks or piece != _ZEROS[: len(piece)]:
                self._block_to_change(number)[start : start + len(piece)] = piece
            place += len(piece)
        self.size = max(self.size, offset + len(data))

    def _block_to_change(self, number: int) -> bytearray:
        block = self.blocks.get(number)
        if number not in self.before:
            self.before[number] = None if block is None else bytes(block)
        if block is None:
            block = self.blocks[number] = bytearray(BLOCK_BYTES)
        return block

    def write_zeros(self, start: int, end: int) -> None:
        for number in list(self.blocks):
            first = number * BLOCK_BYTES
            low, high = max(start, first), min(end, first + BLOCK_BYTES)
            if low < high:
                self._block_to_change(number)[low - first : high - first] = bytes(high - low)
        self.size = max(self.size, end)

    def read(self, length: int, offset: int) -> bytes:
        end = min(offset + length, self.size)
        pieces: list[bytes | bytearray] = []
        while offset < end:
            number, start = divmod(offset, BLOCK_BYTES)
            stop = min(BLOCK_BYTES, start + end - offset)
            pieces.append(self.blocks.get(number, _ZEROS)[start:stop])
            offset += stop - start
        return b"".join(pieces)

    def truncate(self, size: int) -> None:
        if size < self.size:
            last, start = divmod(size, BLOCK_BYTES)
            for number in [number for number in self.blocks if number > last or (number == last and not start)]:
                self._block_to_change(number)
                del self.blocks[number]
            if last in self.blocks:
                self._block_to_change(last)[start:] = bytes(BLOCK_BYTES - start)
        self.size = size

    def sync(self) -> None:
        self.before.clear()
        self.size_before = self.size

    def lose_unsynced(self) -> None:
        for number, block in self.before.items():
            if block is None:
                self.blocks.pop(number, None)
            else:
                self.blocks[number] = bytearray(block)
        self.before.clear()
        self.size = self.size_before


class MemoryFile:
    """An open file of a `MemoryDisk`; see `storage.files.File`."""

    def __init__(self, disk: MemoryDisk, content: _Content) -> None:
        self._disk = disk
        self._content = content
        self._closed = False

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
        """Write all buffers. Raises OSError (ENOSPC): the disk is full."""
        data = b"".join(buffers)
        self._make_room(offset + len(data))
        with memoryview(data) as view:
            self._content.write(view, offset)

    def write_zeros(self, start: int, end: int) -> None:
        """Write zeros; takes no memory. Raises as `pwritev`."""
        self._make_room(end)
        self._content.write_zeros(start, end)

    def _make_room(self, size: int) -> None:
        grown = size - self._content.size
        if grown > 0 and grown > self._disk.free_bytes():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def pread(self, length: int, offset: int) -> bytes:
        """Read. Raises OSError (EBADF): it is closed."""
        if self._closed:
            raise OSError(errno.EBADF, "file is closed")
        return self._content.read(length, offset)

    def sync(self) -> None:
        """What was written is there also after `lose_unsynced`."""
        self._content.sync()

    def size(self) -> int:
        """Bytes."""
        return self._content.size

    def truncate(self, size: int) -> None:
        """Cut or extend."""
        self._content.truncate(size)

    def forget(self) -> None:
        """Do nothing: memory is all there is."""

    def close(self) -> None:
        """Close."""
        self._closed = True


class _Lock:
    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk

    def release(self) -> None:
        self._disk.locked = False


class MemoryDisk:
    """A directory in memory; see `storage.files.Directory`.

    Args:
        bytes_max: Its size: beyond it there is no space left.

    Attributes:
        bytes_max: As above; may be changed at any time.
        locked: Somebody holds it.

    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.locked = False
        self._names: dict[str, _Content] = {}
        self._durable_names: dict[str, _Content] = {}

    def names(self) -> list[str]:
        """Names of all files, sorted."""
        return sorted(self._names)

    def open(self, name: str, *, create: bool = False) -> MemoryFile:
        """Open a file, or make it. Raises FileNotFoundError or FileExistsError."""
        if create:
            if name in self._names:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            self._names[name] = _Content()
        content = self._names.get(name)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return MemoryFile(self, content)

    def rename(self, old: str, new: str) -> None:
        """Rename. Raises FileNotFoundError."""
        self._names[new] = self._taken(old)

    def unlink(self, name: str) -> None:
        """Remove a name. Raises FileNotFoundError."""
        self._taken(name)

    def _taken(self, name: str) -> _Content:
        content = self._names.pop(name, None)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return content

    def sync(self) -> None:
        """All names are there also after `lose_unsynced`."""
        self._durable_names = dict(self._names)

    def lock(self) -> _Lock:
        """Take it. Raises DirectoryLocked."""
        if self.locked:
            raise DirectoryLocked(self.path_of(""), os.getpid())
        self.locked = True
        return _Lock(self)

    def free_bytes(self) -> int:
        """Bytes that can still be written."""
        return max(0, self.bytes_max - sum(content.size for content in self._names.values()))

    def path_of(self, name: str) -> str:
        """Return what messages call a file."""
        return f"(memory)/{name}"

    def unique_id(self) -> bytes:
        """16 bytes that no other directory has."""
        return os.urandom(16)

    def lose_unsynced(self) -> None:
        """Be what a disk is after the power went off: unsynced writes and names are gone, and so is the lock."""
        self._names = dict(self._durable_names)
        for content in self._names.values():
            content.lose_unsynced()
        self.locked = False
