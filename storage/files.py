"""The few things that the log needs from a file system, and the real file system behind them.

Why: every durability argument in this package rests on the order of these calls, so they are named here once, and the
tests put a simulated disk behind the same two protocols. Nothing here knows records, segments or zxids.

Rules for users of the protocols: data is durable after `File.sync`; a created, renamed or unlinked name is durable
after `Directory.sync`; a failed write or sync is final (see `LogWriteFailed`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sluicemq.storage.errors import DirectoryLocked, NotAFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["NO_SPACE", "Directory", "DirectoryLock", "File", "RealDirectory", "RealFile", "naming", "refuse_odd"]

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors that say that there is no room, now; all others of a write mean a broken disk."""
ZEROS_ALIGNMENT_BYTES = 4096
"""Writes past the page cache begin and end at multiples of this; no disk wants more."""
_ZEROS = memoryview(mmap.mmap(-1, 256 * 1024))  # pages of their own, as such writes demand
IOVEC_MAX = 1024  # Linux and macOS accept this many buffers in one call
LOCK_NAME = "lock"
_FOLDERS = ("damaged", "lost+found")
"""Folders that may lie in a directory: what a repair keeps aside, and what file systems put there."""


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """An OSError that says nothing of a file, as those of reads and writes do, leaves with this name."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or name
        raise


def refuse_odd(path: str | os.PathLike[str]) -> None:
    """Before opening, which may hang: raises NotAFile where something lies under this name that is no file."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.lexists(path):
            raise NotAFile(os.fspath(path), "a link that leads nowhere") from None
        return
    if not stat.S_ISREG(mode):
        raise NotAFile(os.fspath(path), _KINDS.get(stat.S_IFMT(mode), "something else"))


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class File(Protocol):
    """An open file. `pread` may be called from any thread; all else from one thread at a time."""

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
        """Write all buffers, one after the other, at this byte offset.

        Raises OSError; then nothing is known of the range.
        """

    def write_zeros(self, start: int, end: int) -> None:
        """Write zeros over a byte range that nobody is going to read: not by way of memory, where that can be.

        Raises OSError; then nothing is known of the range.
        """

    def pread(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes at the offset: fewer only at the end of the file. Raises OSError."""

    def sync(self) -> None:
        """Return when data and size are durable. Raises OSError; never call again after that."""

    def size(self) -> int:
        """Size in bytes."""

    def truncate(self, size: int) -> None:
        """Cut or extend to this size in bytes; durable after `sync`."""

    def forget(self) -> None:
        """Ask the operating system to drop what it keeps of this file in memory, so that reads come from the disk.

        After `sync`, to verify what was written. Where it cannot be asked, nothing happens.
        """

    def close(self) -> None:
        """Close, once running `pread`s have ended. Later calls of `pread` raise OSError (EBADF)."""


class DirectoryLock(Protocol):
    """Held while a process owns the directory."""

    def release(self) -> None:
        """Give the directory up. May be called twice."""


class Directory(Protocol):
    """One flat directory of files."""

    def names(self) -> list[str]:
        """Names of all files, sorted."""

    def open(self, name: str, *, create: bool = False) -> File:
        """Open for reading and writing. `create` demands that the name is free.

        Raises FileNotFoundError or FileExistsError.
        """

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing `new` where it exists. Durable after `sync`."""

    def unlink(self, name: str) -> None:
        """Remove a name. Durable after `sync`."""

    def sync(self) -> None:
        """Return when all names are durable."""

    def lock(self) -> DirectoryLock:
        """Take the directory for this process. Raises DirectoryLocked with the holder's process id."""

    def free_bytes(self) -> int:
        """Bytes that can still be written here."""

    def path_of(self, name: str) -> str:
        """The name as an operator would look it up, for messages."""

    def unique_id(self) -> bytes:
        """16 bytes that no other directory has: the only place where randomness enters this package."""


if sys.platform == "darwin":

    def sync_data(descriptor: int) -> None:
        """Make the data of a file durable. Raises OSError."""
        # fsync leaves data in the drive's cache; F_FULLFSYNC does not. Some network file systems know only fsync.
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL):
                raise
            os.fsync(descriptor)

else:

    def sync_data(descriptor: int) -> None:
        """Make the data of a file durable. Raises OSError."""
        os.fdatasync(descriptor)


def _join_and_write(descriptor: int, buffers: Sequence[bytes], offset: int) -> int:
    return os.pwrite(descriptor, b"".join(buffers), offset)


# Pythons built for older versions of macOS lack pwritev.
write_vector = os.pwritev if hasattr(os, "pwritev") else _join_and_write


@contextlib.contextmanager
def _opened_for_direct_writes(descriptor: int) -> Iterator[int]:
    """Open a file once more: other threads read by *descriptor*, and direct reads must begin and end as writes do."""
    direct = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
    try:
        yield direct
    finally:
        os.close(direct)


class RealFile:
    """A file of the operating system."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._direct = hasattr(os, "O_DIRECT")
        self._guard = threading.Lock()
        self._readers = 0
        self._closing = False

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
        """Write all buffers at this byte offset; a short write is continued."""
        for start in range(0, len(buffers), IOVEC_MAX):
            chunk = buffers[start : start + IOVEC_MAX] if len(buffers) > IOVEC_MAX else buffers
            written = write_vector(self._descriptor, chunk, offset)
            total = sum(map(len, chunk))
            if written < total:
                self._write_rest(chunk, offset, written)
            offset += total

    def write_zeros(self, start: int, end: int) -> None:
        """Write zeros; past the page cache where the file system takes that, which saves nearly all of its CPU time."""
        if self._direct and not (start | end) % ZEROS_ALIGNMENT_BYTES:
            try:
                with _opened_for_direct_writes(self._descriptor) as descriptor:
                    self._write_zeros(descriptor, start, end)
                return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT):
                    raise
                self._direct = False  # a file system that does not know it, or a machine without /proc
        self._write_zeros(self._descriptor, start, end)

    @staticmethod
    def _write_zeros(descriptor: int, start: int, end: int) -> None:
        while start < end:
            count = os.pwrite(descriptor, _ZEROS[: min(end - start, len(_ZEROS))], start)
            if count == 0:
                raise OSError(errno.EIO, "write made no progress")
            start += count

    def _write_rest(self, buffers: Sequence[bytes], offset: int, written: int) -> None:
        # A short write is legal (a signal, a nearly full disk) and rare: joining the rest is simpler than slicing
        # buffers.
        rest = memoryview(b"".join(buffers))
        while written < len(rest):
            count = os.pwrite(self._descriptor, rest[written:], offset + written)
            if count == 0:
                raise OSError(errno.EIO, "write made no progress")
            written += count

    def pread(self, length: int, offset: int) -> bytes:
        """Read up to `length` bytes; any thread."""
        with self._guard:
            if self._closing:
                raise OSError(errno.EBADF, "file is closed")
            self._readers += 1
        try:
            data = os.pread(self._descriptor, length, offset)
            if len(data) == length or not data:
                return data
            pieces = [data]
            remaining = length - len(data)
            while remaining:
                data = os.pread(self._descriptor, remaining, offset + length - remaining)
                if not data:
                    break
                pieces.append(data)
                remaining -= len(data)
            return b"".join(pieces)
        finally:
            with self._guard:
                self._readers -= 1
                last = self._closing and self._readers == 0
            if last:
                os.close(self._descriptor)

    def sync(self) -> None:
        """fdatasync, or F_FULLFSYNC on macOS."""
        sync_data(self._descriptor)

    def size(self) -> int:
        """Size in bytes."""
        return os.fstat(self._descriptor).st_size

    def truncate(self, size: int) -> None:
        """Set the size."""
        os.ftruncate(self._descriptor, size)

    def forget(self) -> None:
        """Drop the file's clean pages from the page cache; macOS has no such call."""
        advise = getattr(os, "posix_fadvise", None)
        if advise is not None:
            with contextlib.suppress(OSError):
                advise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close; the last running reader does it."""
        # The last reader closes: a descriptor number that is reused while a reader is about to use it would read
        # another file.
        with self._guard:
            if self._closing:
                return
            self._closing = True
            last = self._readers == 0
        if last:
            os.close(self._descriptor)


class RealLock:
    """A flock on the lock file; the kernel drops it when the process ends, however it ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Give the directory up."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class RealDirectory:
    """A directory of the operating system. Made, with its parents, where it does not exist."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        missing = [parent for parent in (self.path, *self.path.parents) if not parent.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        for made in missing:
            _sync_directory(made.parent)

    def names(self) -> list[str]:
        """Names of all files, sorted; also of what is no file, so that it is met under a file's name and refused."""
        with os.scandir(self.path) as entries:
            return sorted(entry.name for entry in entries if entry.is_file() or entry.name not in _FOLDERS)

    def open(self, name: str, *, create: bool = False) -> File:
        """Open a file, or create it. Raises NotAFile too."""
        refuse_odd(self.path / name)
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        return RealFile(os.open(self.path / name, flags, 0o640))

    def rename(self, old: str, new: str) -> None:
        """Rename; durable after `sync`."""
        os.rename(self.path / old, self.path / new)

    def unlink(self, name: str) -> None:
        """Remove; durable after `sync`."""
        os.unlink(self.path / name)

    def sync(self) -> None:
        """fsync of the directory."""
        _sync_directory(self.path)

    def lock(self) -> DirectoryLock:
        """Take the lock file; see `DirectoryLock`. Raises NotAFile too."""
        refuse_odd(self.path / LOCK_NAME)
        descriptor = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).split(b"\n")[0]
            os.close(descriptor)
            raise DirectoryLocked(str(self.path), int(holder) if holder.isdigit() else None) from None
        except OSError as error:
            os.close(descriptor)
            error.filename = str(self.path / LOCK_NAME)
            raise
        try:
            os.ftruncate(descriptor, os.pwrite(descriptor, b"%d\n" % os.getpid(), 0))
        except OSError as error:
            if error.errno not in NO_SPACE:
                os.close(descriptor)
                raise
            # The name of the holder is a courtesy; on a full disk others learn only that there is one.
        return RealLock(descriptor)

    def free_bytes(self) -> int:
        """Bytes free for this user."""
        figures = os.statvfs(self.path)
        return figures.f_bavail * figures.f_frsize

    def path_of(self, name: str) -> str:
        """The full path."""
        return str(self.path / name)

    def unique_id(self) -> bytes:
        """16 random bytes."""
        return os.urandom(16)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
