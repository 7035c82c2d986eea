"""The files of a snapshot that is on its way in: they lie in the same directory under names of their own.

Why the same directory: to put them in the place of the old log is to rename them, and a rename stays on one disk.
`IncomingFiles` shows them as a directory of its own, under the names that they are to have, so that everything that
makes files can make these too, and nothing takes them for the log's. This module knows names and the note that says
what they belong to; not how the switch is made.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sluicemq.storage.pages import PAGE_BYTES, PageDamaged, seal, unseal

if TYPE_CHECKING:
    from sluicemq.storage.files import Directory, DirectoryLock, File

__all__ = ["INCOMING_PREFIX", "SOURCE_BYTES", "IncomingFiles", "Note", "load_note", "save_note"]

INCOMING_PREFIX = "incoming-"
SOURCE_BYTES = 16
NOTE_NAME = "note"

_NOTE_NEW_NAME = "note.new"
_NOTE_FORMAT_VERSION = 1
_MAGIC = b"SluiceIN"
_BODY = struct.Struct("<16sIQ8s16sQQQ")


class IncomingFiles:
    """The incoming files of a directory, as a directory.

    Args:
        directory: where they lie.

    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def names(self) -> list[str]:
        """Names that they are to have, sorted."""
        found = self._directory.names()
        return sorted(name.removeprefix(INCOMING_PREFIX) for name in found if name.startswith(INCOMING_PREFIX))

    def open(self, name: str, *, create: bool = False) -> File:
        """Open one, or make it. Raises FileNotFoundError or FileExistsError."""
        return self._directory.open(INCOMING_PREFIX + name, create=create)

    def rename(self, old: str, new: str) -> None:
        """Rename one among the others. Durable after `sync`."""
        self._directory.rename(INCOMING_PREFIX + old, INCOMING_PREFIX + new)

    def unlink(self, name: str) -> None:
        """Remove one. Durable after `sync`."""
        self._directory.unlink(INCOMING_PREFIX + name)

    def sync(self) -> None:
        """Return when all names are durable."""
        self._directory.sync()

    def lock(self) -> DirectoryLock:
        """Take the directory they lie in. Raises DirectoryLocked."""
        return self._directory.lock()

    def free_bytes(self) -> int:
        """Bytes that can still be written here."""
        return self._directory.free_bytes()

    def path_of(self, name: str) -> str:
        """Where it lies now, for messages."""
        return self._directory.path_of(INCOMING_PREFIX + name)

    def unique_id(self) -> bytes:
        """16 bytes that no other directory has."""
        return self._directory.unique_id()

    def arrive(self, name: str) -> None:
        """Give one the name that it is to have, in the place of what has it. Durable after `sync`."""
        self._directory.rename(INCOMING_PREFIX + name, name)


@dataclass(frozen=True, slots=True)
class Note:
    """What the incoming files belong to.

    `zxid` and `chain` are the snapshot's, `source` is what the sender calls it: bytes of another source do not continue
    it. `base` is the number of the segment that the first file of the live store is to stand for. `snapshot_bytes` and
    `pages_bytes` are durable.
    """

    cluster_id: bytes
    group_id: int
    zxid: int
    chain: bytes
    source: bytes
    base: int
    snapshot_bytes: int = 0
    pages_bytes: int = 0


def load_note(incoming: IncomingFiles) -> Note | None:
    """The note; None where there is none that can be read. Raises OSError."""
    try:
        file = incoming.open(NOTE_NAME)
    except FileNotFoundError:
        return None
    try:
        version, body = unseal(file.pread(PAGE_BYTES, 0), _MAGIC)
    except PageDamaged:
        return None
    finally:
        file.close()
    return Note(*_BODY.unpack_from(body)) if version == _NOTE_FORMAT_VERSION else None


def save_note(incoming: IncomingFiles, note: Note) -> None:
    """Write the note, durably; the old one stays until the new one is whole. Raises OSError."""
    body = _BODY.pack(
        note.cluster_id,
        note.group_id,
        note.zxid,
        note.chain,
        note.source,
        note.base,
        note.snapshot_bytes,
        note.pages_bytes,
    )
    if _NOTE_NEW_NAME in incoming.names():
        incoming.unlink(_NOTE_NEW_NAME)
    file = incoming.open(_NOTE_NEW_NAME, create=True)
    try:
        file.pwritev([seal(_MAGIC, _NOTE_FORMAT_VERSION, body)], 0)
        file.sync()
    finally:
        file.close()
    incoming.rename(_NOTE_NEW_NAME, NOTE_NAME)
    incoming.sync()
