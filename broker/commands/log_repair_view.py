"""Files of entries that only lie wrong: under another's name, or shortened from outside.

Why: what such a file holds is all there, or nearly. Before `sluicemq log repair` looks for damage, it looks at the
directory as if every file had its own name and its length again, so that nothing is given up that can be read; `mend`
then makes it so. A shortened file is lengthened with zeros, as its unused end was: whether records were cut off shows
where the reader looks for them, as everywhere.

This module must not know what an entry means, nor what is done about other damage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.commands.log_files import ReadOnlyDirectory
from sluicemq.storage.decisions_files import Purpose
from sluicemq.storage.errors import StorageError
from sluicemq.storage.files import refuse_odd
from sluicemq.storage.names import purpose_of
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged
from sluicemq.storage.segment import SegmentHeader, segment_name, segment_sequence
from sluicemq.storage.spares import zero_range
from sluicemq.storage.sparse import SparseHeader, sparse_name, sparse_range

if TYPE_CHECKING:
    from pathlib import Path

    from sluicemq.storage.files import Directory, File
    from sluicemq.storage.unreadable import Gap

RENAMING_PREFIX = "renaming-"
"""A file that an interrupted repair was about to give its own name: `renaming-` and that name."""
_ZERO_PIECE_BYTES = 16 * 1024 * 1024


class OneNameTwice(StorageError):
    """Two files say that they are the same one, and nothing tells which is the copy."""

    def _explain(self) -> str:
        first, second, name = self.args
        return (
            f"the files {first} and {second} both say that they are {name}; nothing was changed. Move the one that is "
            "a copy, or older, out of the directory, then repair again"
        )


class Misnamed(NamedTuple):
    """A file that lies under another name than its first page says."""

    name: str
    own_name: str


class Shortened(NamedTuple):
    """A file that is shorter than it was made; *name* is its own."""

    name: str
    lies_at: str
    file_bytes: int
    made_bytes: int


class _Lengthened:
    """An open file as if zeros followed up to the length that it once had."""

    def __init__(self, file: File, made_bytes: int) -> None:
        self._file = file
        self._made_bytes = made_bytes
        self.pwritev = file.pwritev
        self.write_zeros = file.write_zeros
        self.sync = file.sync
        self.truncate = file.truncate
        self.forget = file.forget
        self.close = file.close

    def pread(self, length: int, offset: int) -> bytes:
        data = self._file.pread(length, offset)
        return data + bytes(max(0, min(length, self._made_bytes - offset) - len(data)))

    def size(self) -> int:
        return max(self._file.size(), self._made_bytes)


class OrderedDirectory(ReadOnlyDirectory):
    """A directory as it will be after `mend`: read only, every file of entries under its own name and in its length.

    Raises OneNameTwice, NotAFile, OSError.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.misnamed: list[Misnamed] = []
        self.shortened: dict[str, Shortened] = {}
        self._lies_at: dict[str, str] = {}
        self._look()

    def names(self) -> list[str]:
        """Names of all files, sorted."""
        moved = {each.name for each in self.misnamed}
        return sorted({name for name in super().names() if name not in moved} | set(self._lies_at))

    def open(self, name: str, *, create: bool = False) -> File:
        """Open a file for reading."""
        lies_at = self._lies_at.get(name, name)
        if lies_at == name and any(each.name == name for each in self.misnamed):
            raise FileNotFoundError(name)
        file = super().open(lies_at, create=create)
        short = self.shortened.get(name)
        return file if short is None else _Lengthened(file, short.made_bytes)

    def gap_behind(self, name: str, offset: int) -> Gap | None:
        """Return the first part of a file, at *offset* or behind it, that was met and could not be read."""
        return super().gap_behind(self._lies_at.get(name, name), offset)

    def mend(self, directory: Directory) -> None:
        """Make it so; durable when this returns. May be interrupted and run again. Raises OSError."""
        for name, own_name in self.misnamed:
            if not name.startswith(RENAMING_PREFIX):
                directory.rename(name, RENAMING_PREFIX + own_name)
        for _name, own_name in self.misnamed:
            directory.rename(RENAMING_PREFIX + own_name, own_name)
        directory.sync()
        self.misnamed.clear()
        self._lies_at.clear()
        for short in self.shortened.values():
            file = directory.open(short.name)
            try:
                # Written, not only declared: appending to the file must never meet a full disk.
                zero_range(file, file.size(), short.made_bytes, _ZERO_PIECE_BYTES)
            finally:
                file.close()
        self.shortened.clear()

    def _look(self) -> None:
        claims: dict[str, str] = {}
        for name in super().names():
            if purpose_of(name, ()) is not Purpose.STRANGE:
                refuse_odd(self.path / name)
            header = self._header_of(name)
            if header is None:
                continue
            own_name, made_bytes, file_bytes = header
            if own_name in claims:
                raise OneNameTwice(claims[own_name], name, own_name)
            claims[own_name] = name
            if own_name != name:
                self.misnamed.append(Misnamed(name, own_name))
                self._lies_at[own_name] = name
            if file_bytes < made_bytes:
                self.shortened[own_name] = Shortened(own_name, name, file_bytes, made_bytes)
        for own_name, name in self._lies_at.items():
            # A file that cannot say what it is may hold anything: it is not replaced.
            if own_name in super().names() and own_name not in {each.name for each in self.misnamed}:
                raise OneNameTwice(own_name, name, own_name)

    def _header_of(self, name: str) -> tuple[str, int, int] | None:
        """Return a file's own name, the bytes that it was made with and those that it has; None without a good page."""
        stem = name.removeprefix(RENAMING_PREFIX)
        dense = segment_sequence(stem) is not None
        if not dense and sparse_range(stem) is None:
            return None
        file = super().open(name)
        try:
            page, file_bytes = file.pread(PAGE_BYTES, 0), file.size()
        finally:
            file.close()
        try:
            if dense:
                segment = SegmentHeader.from_page(page)[1]
                return segment_name(segment.sequence), segment.file_bytes, file_bytes
            sparse = SparseHeader.from_page(page)[1]
            return sparse_name(sparse.first_sequence, sparse.last_sequence), sparse.file_bytes, file_bytes
        except PageDamaged:
            return None
