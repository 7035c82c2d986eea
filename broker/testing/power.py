"""A switch between a broker and its disk: once it is off, nothing that the broker still does reaches the disk.

A killed process does nothing more; a broker that lives in a thread of the test would still write, sync and tidy up on
its way out. So its directory is behind this. What is under way when the switch goes off is finished first, as by a
kernel. This module must not know which directory that is.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from sluicemq.storage.files import Directory, DirectoryLock, File


class PowerOff(OSError):
    """The broker was killed: this did not happen any more."""


class Power:
    """One life of a broker: `with power:` around whatever needs it, one at a time."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self.on = True

    def off(self) -> None:
        """End it, after what is under way."""
        with self._guard:
            self.on = False

    def __enter__(self) -> None:
        self._guard.acquire()
        if not self.on:
            self._guard.release()
            raise PowerOff(errno.EIO, "the broker was killed")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guard.release()


class PoweredFile:
    """A file as long as there is power; see `storage.files.File`."""

    def __init__(self, file: File, power: Power) -> None:
        self._file = file
        self._power = power

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
        """Write."""
        with self._power:
            self._file.pwritev(buffers, offset)

    def write_zeros(self, start: int, end: int) -> None:
        """Write zeros."""
        with self._power:
            self._file.write_zeros(start, end)

    def pread(self, length: int, offset: int) -> bytes:
        """Read."""
        with self._power:
            return self._file.pread(length, offset)

    def sync(self) -> None:
        """Sync."""
        with self._power:
            self._file.sync()

    def size(self) -> int:
        """Bytes."""
        with self._power:
            return self._file.size()

    def truncate(self, size: int) -> None:
        """Cut or extend."""
        with self._power:
            self._file.truncate(size)

    def forget(self) -> None:
        """Let the system forget it."""
        with self._power:
            self._file.forget()

    def close(self) -> None:
        """Close, as the system does for the dead."""
        self._file.close()


class PoweredDirectory:
    """A directory as long as there is power; see `storage.files.Directory`."""

    def __init__(self, directory: Directory, power: Power) -> None:
        self._directory = directory
        self._power = power

    def names(self) -> list[str]:
        """Names of all files."""
        with self._power:
            return self._directory.names()

    def open(self, name: str, *, create: bool = False) -> PoweredFile:
        """Open or make a file."""
        with self._power:
            return PoweredFile(self._directory.open(name, create=create), self._power)

    def rename(self, old: str, new: str) -> None:
        """Rename."""
        with self._power:
            self._directory.rename(old, new)

    def unlink(self, name: str) -> None:
        """Remove a name."""
        with self._power:
            self._directory.unlink(name)

    def sync(self) -> None:
        """Sync the names."""
        with self._power:
            self._directory.sync()

    def lock(self) -> DirectoryLock:
        """Take the directory; given back without power too, as the system does for the dead."""
        with self._power:
            return self._directory.lock()

    def free_bytes(self) -> int:
        """Bytes that can still be written."""
        with self._power:
            return self._directory.free_bytes()

    def path_of(self, name: str) -> str:
        """Return what messages call a file."""
        return self._directory.path_of(name)

    def unique_id(self) -> bytes:
        """16 bytes that no other directory has."""
        return self._directory.unique_id()
