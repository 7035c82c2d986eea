"""A disk for tests: it forgets, tears and reorders what was not synced, exactly as badly as a real one may.

Why: the log's promises are about power cuts, which cannot be had from a real file system on demand. `SimulatedDisk`
stands behind the same protocols as the real directory (`sluicemq.storage.Directory`, `File`), keeps what is durable
apart from what was merely written, and `crash()` gives the disk as it may look afterwards:

- each unsynced write is kept, dropped, or kept in a random subset of its 512-byte sectors, independently of the others;
- an unsynced change of size is lost or kept;
- names (create, rename, unlink) are kept in order up to a random point, unless the directory was synced; a synced file
  whose name was not synced can vanish;
- after a failed sync, what it should have made durable is kept or dropped at random, and the next sync claims success;
- of a write that fails, a part may have been done; of one that finds no space, as much as there was room for;
- the space of a file comes back when its name is gone and nobody has it open.

On demand it is a bad disk: operations fail (`fail_after`), writes are lost or land elsewhere (`lose_write_after`,
`misdirect_write_after`), ranges cannot be read (`make_unreadable`), bits flip (`flip_bit`, `flip_random_bit`), syncs
take as long as a test wants (`hold_syncs`). What the kernel still has in memory hides most of that from readers until
`drop_caches` or the next start.

All randomness comes from one `random.Random`. Contents are shared pages, so that a 64 MiB file of zeros costs next to
nothing and a crash copies no data.

    disk = SimulatedDisk(seed=7)
    disk.cut_power_after(12)           # the 12th operation from now raises PowerCut, and so does everything after it
    ...
    disk = disk.crash()                # what the next start finds
"""

from __future__ import annotations

import errno
import os
import random
import threading
from typing import TYPE_CHECKING

from sluicemq.storage import DirectoryLocked
from tests.disk_faults import Failure, FaultPlan, HeldSyncs, Loss, Misdirection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAGE_BYTES = 4096
SECTOR_BYTES = 512
_ZERO_PAGE = bytes(PAGE_BYTES)
_ENDLESS = 1 << 50


class PowerCut(Exception):
    """The power went off during this operation, or before it. Use `crash()` to get the disk for the next start."""


class _Content:
    """Bytes of one file as shared, immutable pages; absent pages are zeros."""

    __slots__ = ("pages", "size")

    def __init__(self, pages: dict[int, bytes] | None = None, size: int = 0) -> None:
        self.pages = {} if pages is None else pages
        self.size = size

    def copy(self) -> _Content:
        return _Content(dict(self.pages), self.size)

    def write(self, data: bytes, offset: int) -> None:
        pages = self.pages
        position, end = 0, len(data)
        while position < end:
            number, start = divmod(offset + position, PAGE_BYTES)
            length = min(PAGE_BYTES - start, end - position)
            piece = data[position : position + length]
            if length == PAGE_BYTES:
                pages[number] = _ZERO_PAGE if piece == _ZERO_PAGE else piece
            else:
                old = pages.get(number, _ZERO_PAGE)
                pages[number] = old[:start] + piece + old[start + length :]
            position += length
        self.size = max(self.size, offset + end)

    def read(self, length: int, offset: int) -> bytes:
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        first, start = divmod(offset, PAGE_BYTES)
        last = (offset + length - 1) // PAGE_BYTES
        get = self.pages.get
        joined = b"".join([get(number, _ZERO_PAGE) for number in range(first, last + 1)])
        return joined[start : start + length]

    def truncate(self, size: int) -> None:
        if size < self.size:
            last, start = divmod(size, PAGE_BYTES)
            for number in [number for number in self.pages if number > last or (number == last and not start)]:
                del self.pages[number]
            if start and last in self.pages:
                self.pages[last] = self.pages[last][:start].ljust(PAGE_BYTES, b"\0")
        self.size = size


class _Inode:
    """A file, apart from its name: what readers see, what is durable, and the changes between the two in order.

    A change is `(offset, bytes)` for a write, `(size, None)` for a truncation. `unreadable` holds ranges (start, end);
    `handles` counts those who have it open. `name` is the last that it had.
    """

    __slots__ = ("current", "durable", "handles", "name", "unreadable", "unsynced")

    def __init__(
        self, name: str, durable: _Content | None = None, unreadable: list[tuple[int, int]] | None = None
    ) -> None:
        self.name = name
        self.durable = durable or _Content()
        self.current = self.durable.copy()
        self.unsynced: list[tuple[int, bytes | None]] = []
        self.unreadable = unreadable or []
        self.handles = 0

    def write(self, data: bytes, offset: int) -> None:
        self.current.write(data, offset)
        self.unsynced.append((offset, data))

    def settle(self, changes: int | None = None) -> None:
        """Everything is durable, or the first so many changes."""
        settled = self.unsynced[:changes]
        _carry_out(settled, self.durable)
        del self.unsynced[: len(settled)]

    def forget(self) -> None:
        """Readers see what the disk has, and what is still to be written to it."""
        self.current = self.durable.copy()
        _carry_out(self.unsynced, self.current)

    def survive(self, rng: random.Random) -> _Content:
        """What is left of it after the power went off."""
        content = self.durable.copy() if self.unsynced else self.durable
        for offset, data in self.unsynced:
            fate = rng.random()
            if fate < 0.3:
                continue
            if data is None:
                content.truncate(offset)
            elif fate < 0.6:
                content.write(data, offset)
            else:
                _write_some_sectors(content, data, offset, rng)
        return content


def _carry_out(changes: list[tuple[int, bytes | None]], content: _Content) -> None:
    for offset, data in changes:
        if data is None:
            content.truncate(offset)
        else:
            content.write(data, offset)


def _write_some_sectors(content: _Content, data: bytes, offset: int, rng: random.Random) -> None:
    # Mostly kept, mostly lost, or half and half: each finds other mistakes.
    kept = rng.choice((0.1, 0.5, 0.9))
    position = 0
    while position < len(data):
        length = min(SECTOR_BYTES - (offset + position) % SECTOR_BYTES, len(data) - position)
        if rng.random() < kept:
            content.write(data[position : position + length], offset + position)
        position += length
    if rng.random() < 0.5 and content.size < offset + len(data):
        content.truncate(offset + len(data))


class SimulatedFile:
    """One open file of a SimulatedDisk."""

    def __init__(self, disk: SimulatedDisk, inode: _Inode) -> None:
        self._disk = disk
        self._inode = inode
        self._closed = False
        inode.handles += 1

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
        data = b"".join(buffers)
        inode = self._inode
        with self._disk.operation(
            "write", self._inode.name, failed=lambda: self._write_fails(data, offset)
        ) as may_finish:
            self._write_within_capacity(data, offset)
            if inode.unreadable:
                end = offset + len(data)
                inode.unreadable = [(low, high) for low, high in inode.unreadable if high <= offset or low >= end]
            # A write that the power cut interrupts may still have reached the disk.
            may_finish()

    def write_zeros(self, start: int, end: int) -> None:
        self.pwritev([bytes(end - start)], start)

    def _write_within_capacity(self, data: bytes, offset: int) -> None:
        disk, inode = self._disk, self._inode
        missing = offset + len(data) - inode.current.size - disk.room_bytes()
        if missing > 0:
            if missing < len(data):
                inode.write(data[:-missing], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        fault = disk.write_fault
        if fault is None:
            inode.write(data, offset)
            return
        grown = offset + len(data) > inode.current.size
        inode.current.write(data, offset)
        if grown:
            inode.unsynced.append((inode.current.size, None))
        if isinstance(fault, Misdirection):
            disk.misdirect(data, inode, fault)

    def _write_fails(self, data: bytes, offset: int) -> None:
        done = self._disk.random.choice((0, len(data) // 2, len(data)))
        if done:
            self._inode.write(data[:done], offset)

    def pread(self, length: int, offset: int) -> bytes:
        self._disk.require_power()
        if self._closed:
            raise OSError(errno.EBADF, "file is closed")
        unreadable = self._inode.unreadable
        if unreadable and any(low < offset + length and offset < high for low, high in unreadable):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._inode.current.read(length, offset)

    def sync(self) -> None:
        changes = len(self._inode.unsynced)
        self._disk.stand_in_line(self._inode.name)
        with self._disk.operation("sync", self._inode.name, failed=self._sync_fails) as may_finish:
            may_finish()
            # What was written while it waited is for the next one.
            self._inode.settle(changes)

    def _sync_fails(self) -> None:
        # The kernel marks the pages clean: nobody will ever write them, and the next sync is a success.
        self._inode.durable = self._inode.survive(self._disk.random)
        self._inode.unsynced.clear()

    def size(self) -> int:
        self._disk.require_power()
        return self._inode.current.size

    def truncate(self, size: int) -> None:
        with self._disk.operation("truncate", self._inode.name) as may_finish:
            self._inode.current.truncate(size)
            self._inode.unsynced.append((size, None))
            may_finish()

    def forget(self) -> None:
        self._disk.require_power()
        self._inode.forget()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            # What a dead process closes is nothing to the next one, which may have the same file open.
            self._inode.handles -= self._disk.powered


class _Operation:
    """Counts one operation, and lets it fail or be the last one.

    `may_finish()` marks the point where the power goes off.
    """

    __slots__ = ("_cut", "_disk", "_failed", "_kind", "_name")

    def __init__(self, disk: SimulatedDisk, kind: str, name: str, failed: Callable[[], None] | None) -> None:
        self._disk = disk
        self._kind = kind
        self._name = name
        self._failed = failed

    def __enter__(self) -> Callable[[], None]:
        self._disk.guard.acquire()
        try:
            self._disk.require_power()
            self._cut = self._disk.count(self._kind, self._name, self._failed)
        except BaseException:
            self._disk.guard.release()
            raise
        return self._may_finish

    def _may_finish(self) -> None:
        if self._cut:
            self._disk.cut_power()
            raise PowerCut(f"power went off during {self._kind} of {self._name}")

    def __exit__(self, *_: object) -> None:
        self._disk.guard.release()


class SimulatedDisk:
    """A directory on a disk that loses what was not synced. Give it a seed, or the Random of the whole simulation.

    `capacity_bytes` bounds the sum of file sizes (ENOSPC beyond), and may be changed at any time.
    `observer(kind, name)` is called before each operation; kinds are write, sync, truncate, create, rename, unlink,
    directory sync.
    """

    def __init__(
        self,
        seed: int | random.Random = 0,
        *,
        capacity_bytes: int | None = None,
        observer: Callable[[str, str], None] | None = None,
    ) -> None:
        self.random = seed if isinstance(seed, random.Random) else random.Random(seed)
        self.capacity_bytes = capacity_bytes
        self.observer = observer
        self.operations = 0
        self.powered = True
        self.guard = threading.RLock()
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._unsynced_names: list[tuple[str, ...] | tuple[str, str, _Inode]] = []
        self.cut_at: int | None = None
        self.faults = FaultPlan()
        self.write_fault: Loss | Misdirection | None = None
        self._held_syncs: list[HeldSyncs] = []
        self._nameless: list[_Inode] = []
        self._holder: SimulatedLock | None = None

    # --- What the storage layer uses: the Directory protocol
    # ---------------------------------------------------------------

    def names(self) -> list[str]:
        with self.guard:
            self.require_power()
            return sorted(self._names)

    def open(self, name: str, *, create: bool = False) -> SimulatedFile:
        if create:
            with self.operation("create", name) as may_finish:
                if name in self._names:
                    raise FileExistsError(errno.EEXIST, "File exists", name)
                inode = self._names[name] = _Inode(name)
                self._unsynced_names.append(("create", name, inode))
                may_finish()
        self.require_power()
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file", name)
        return SimulatedFile(self, self._names[name])

    def rename(self, old: str, new: str) -> None:
        with self.operation("rename", f"{old} to {new}") as may_finish:
            if old not in self._names:
                raise FileNotFoundError(errno.ENOENT, "No such file", old)
            self._drop(new)
            inode = self._names[new] = self._names.pop(old)
            inode.name = new
            self._unsynced_names.append(("rename", old, new))
            may_finish()

    def unlink(self, name: str) -> None:
        with self.operation("unlink", name) as may_finish:
            if name not in self._names:
                raise FileNotFoundError(errno.ENOENT, "No such file", name)
            self._drop(name)
            self._unsynced_names.append(("unlink", name))
            may_finish()

    def sync(self) -> None:
        with self.operation("directory sync", "") as may_finish:
            may_finish()
            self._durable_names = dict(self._names)
            self._unsynced_names.clear()

    def _drop(self, name: str) -> None:
        inode = self._names.pop(name, None)
        if inode is not None and inode.handles:
            self._nameless.append(inode)

    def lock(self) -> SimulatedLock:
        self.require_power()
        if self._holder is not None and self._holder.held:
            raise DirectoryLocked("simulated disk", os.getpid())
        self._holder = SimulatedLock()
        return self._holder

    def free_bytes(self) -> int:
        self.require_power()
        return self.room_bytes()

    def path_of(self, name: str) -> str:
        return name

    def unique_id(self) -> bytes:
        return self.random.randbytes(16)

    # --- What tests use
    # ------------------------------------------------------------------------------------------------------

    def cut_power_after(self, operations: int) -> None:
        """The power goes off during the n-th operation from now (1: the next); all later ones raise PowerCut too."""
        self.cut_at = self.operations + operations

    def fail_after(
        self, operations: int, error_number: int = errno.EIO, kind: str | None = None, name_prefix: str = ""
    ) -> None:
        """The n-th operation from now fails with this error.

        With a kind, only operations of that kind count; with a prefix, only those on files whose names begin so.
        """
        self.faults.add(Failure(error_number), operations, kind, name_prefix)

    def lose_write_after(self, writes: int = 1, name_prefix: str = "") -> None:
        """The n-th write from now is acknowledged, and its data never reaches the disk."""
        self.faults.add(Loss(), writes, "write", name_prefix)

    def misdirect_write_after(
        self, writes: int = 1, name_prefix: str = "", to_name: str | None = None, to_offset: int | None = None
    ) -> None:
        """The n-th write from now lands elsewhere, by default at a random place of the same file."""
        self.faults.add(Misdirection(to_name, to_offset), writes, "write", name_prefix)

    def hold_syncs(self, name_prefix: str = "") -> HeldSyncs:
        """Syncs of files whose names begin so wait from now on until they are let go, or the power goes off."""
        held = HeldSyncs(name_prefix)
        self._held_syncs.append(held)
        return held

    def make_unreadable(self, name: str, offset: int, length: int) -> None:
        """Reads that touch this range raise EIO, until something is written there."""
        self._names[name].unreadable.append((offset, offset + length))

    def drop_caches(self) -> None:
        """The kernel forgets what it has in memory: readers see what lost and misdirected writes did to the disk."""
        for inode in self._names.values():
            inode.forget()

    def cut_power(self) -> None:
        """The power goes off now, between operations."""
        self.powered = False
        for held in self._held_syncs:
            held.let_go()

    def crash(self) -> SimulatedDisk:
        """The disk that the next start finds. This one is dead from now on; call it once per disk."""
        self.cut_power()
        after = SimulatedDisk(self.random, capacity_bytes=self.capacity_bytes, observer=self.observer)
        names = dict(self._durable_names)
        for change in self._unsynced_names[: self.random.randint(0, len(self._unsynced_names))]:
            _replay(names, change)
        for name in sorted(names):
            after._names[name] = _Inode(name, names[name].survive(self.random), names[name].unreadable)
        after._durable_names = dict(after._names)
        return after

    def restart(self) -> SimulatedDisk:
        """The same content, as after kill -9: nothing is lost, nothing became durable."""
        after = SimulatedDisk(self.random, capacity_bytes=self.capacity_bytes, observer=self.observer)
        after._names = self._names
        after._durable_names = self._durable_names
        after._unsynced_names = self._unsynced_names
        self.cut_power()
        for inode in after._names.values():
            inode.handles = 0
        return after

    def flush(self) -> None:
        """The kernel wrote everything back on its own: all of it is durable, though nobody asked."""
        for inode in self._names.values():
            inode.settle()
        self._durable_names = dict(self._names)
        self._unsynced_names.clear()

    def content_of(self, name: str) -> bytes:
        """All bytes of a file as readers see them."""
        current = self._names[name].current
        return current.read(current.size, 0)

    def flip_bit(self, name: str, offset: int, bit: int = 0) -> None:
        """Damage one bit at rest, in what is durable as well as in what readers see."""
        inode = self._names[name]
        if offset >= inode.durable.size:
            inode.settle()  # at rest means that the kernel wrote it back
        for content in (inode.current, inode.durable):
            old = content.read(1, offset)
            content.write(bytes([old[0] ^ (1 << bit)]), offset)

    def flip_random_bit(self, name_prefix: str = "") -> tuple[str, int, int]:
        """Damage any bit at rest of the files whose names begin so; says name, offset and bit."""
        names = [
            name for name in sorted(self._names) if name.startswith(name_prefix) and self._names[name].current.size
        ]
        sizes = [self._names[name].current.size for name in names]
        name = self.random.choices(names, sizes)[0]
        offset, bit = self.random.randrange(self._names[name].current.size), self.random.randrange(8)
        self.flip_bit(name, offset, bit)
        return name, offset, bit

    def overwrite(self, name: str, offset: int, data: bytes) -> None:
        """Damage a range at rest: a lost or misdirected write."""
        inode = self._names[name]
        for content in (inode.current, inode.durable):
            content.write(data, offset)

    def unsynced_bytes(self, name: str) -> int:
        """Bytes of writes that a power cut could lose now."""
        return sum(len(data) for _, data in self._names[name].unsynced if data is not None)

    # --- For the parts of this module
    # ----------------------------------------------------------------------------------------

    def used_bytes(self) -> int:
        self._nameless = [inode for inode in self._nameless if inode.handles > 0]
        inodes = [*self._names.values(), *self._nameless]
        return sum(inode.current.size for inode in inodes)

    def room_bytes(self) -> int:
        return _ENDLESS if self.capacity_bytes is None else max(0, self.capacity_bytes - self.used_bytes())

    def misdirect(self, data: bytes, inode: _Inode, fault: Misdirection) -> None:
        target = inode if fault.to_name is None else self._names[fault.to_name]
        end = max(1, target.current.size - len(data) + 1)
        offset = self.random.randrange(end) if fault.to_offset is None else fault.to_offset
        target.unsynced.append((offset, data))

    def stand_in_line(self, name: str) -> None:
        for held in self._held_syncs:
            if name.startswith(held.name_prefix):
                held.stand_in_line()

    def require_power(self) -> None:
        if not self.powered:
            raise PowerCut("the power is off")

    def operation(self, kind: str, name: str, failed: Callable[[], None] | None = None) -> _Operation:
        return _Operation(self, kind, name, failed)

    def count(self, kind: str, name: str, failed: Callable[[], None] | None) -> bool:
        """Count an operation; True if the power goes off during it. Raises the planned error."""
        if self.observer is not None:
            self.observer(kind, name)
        self.operations += 1
        self.write_fault = None
        if self.faults:
            fault = self.faults.due(kind, name)
            if isinstance(fault, Failure):
                if failed is not None:
                    failed()
                raise OSError(fault.error_number, os.strerror(fault.error_number))
            self.write_fault = fault
        return self.operations == self.cut_at


class SimulatedLock:
    """The lock of a simulated directory; a crash or restart of the disk forgets it."""

    def __init__(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False


def _replay(names: dict[str, _Inode], change: tuple) -> None:
    kind, name, *rest = change
    if kind == "create":
        names[name] = rest[0]
    elif kind == "rename":
        names[rest[0]] = names.pop(name)
    else:
        del names[name]
