"""Files of the live store, as readers see them: old entries, in files that never change, few of them open at a time.

Why lazily: a broker keeps entries as long as somebody has not settled them, which may be thousands of files, and file
descriptors and memory for indexes are bounded. So a file is opened when somebody reads it and closed when others were
read since; its index is loaded likewise, from `index-N` or from the file itself, and rebuilt from the records where it
is missing or damaged.

A file is opened by name, and names may be given to another content (rewritten again) or to none (reclaimed): whoever
opens compares number and generation with what it knows, so no reader takes other bytes for its own. What to do then
(the view changed: try again) is the reader's business. This module changes nothing but index files, which are derived.
"""

from __future__ import annotations

import errno
import threading
from collections import OrderedDict
from enum import Enum
from typing import TYPE_CHECKING

from sluicemq.storage.decisions import Decision
from sluicemq.storage.decisions_files import (
    DERIVED,
    FIRST_PAGES,
    DerivedFile,
    FirstPage,
    Given,
    Kind,
    Named,
    Needed,
    Size,
)
from sluicemq.storage.decisions_superblock import Belongs
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged
from sluicemq.storage.record import CHAIN_START, MARK, seed_of
from sluicemq.storage.scan import BLANK, BadPlaceError, Walk, find_traces
from sluicemq.storage.segment import SegmentHeader, segment_name
from sluicemq.storage.segment_index import IndexUnfit, SealedIndex, SegmentIndex, index_name
from sluicemq.storage.sparse import SparseHeader, sparse_name

if TYPE_CHECKING:
    from sluicemq.storage.files import Directory, File
    from sluicemq.storage.options import LogOptions

__all__ = ["LiveFile", "LiveKind", "OpenFiles"]


class LiveKind(Enum):
    """What a file of the live store is."""

    DENSE = "dense"
    """A segment as the log wrote it."""

    SPARSE = "sparse"
    """Rewritten: what was alive of one or more files."""


class LiveFile:
    """One file of the live store. Its properties may be used from any thread."""

    __slots__ = (
        "_file",
        "_files",
        "_gone",
        "_last_zxid",
        "_pins",
        "_sealed",
        "bytes",
        "first_previous_zxid",
        "header",
        "seed",
    )

    def __init__(
        self,
        files: OpenFiles,
        header: SegmentHeader | SparseHeader,
        file_bytes: int,
        *,
        last_zxid: int | None,
        file: File | None = None,
        sealed: SealedIndex | None = None,
    ) -> None:
        self.header = header
        self.seed = seed_of(header.generation)
        self.first_previous_zxid = header.first_previous_zxid
        self.bytes = file_bytes
        self._files = files
        self._last_zxid = last_zxid
        # What follows belongs to OpenFiles.
        self._file = file
        self._sealed = sealed
        # A file that is made open stays so until `OpenFiles.enter`.
        self._pins = int(file is not None)
        self._gone = False

    @property
    def kind(self) -> LiveKind:
        """Dense or sparse."""
        return LiveKind.DENSE if isinstance(self.header, SegmentHeader) else LiveKind.SPARSE

    @property
    def first_sequence(self) -> int:
        """The first segment that this file is or stands for."""
        header = self.header
        return header.sequence if isinstance(header, SegmentHeader) else header.first_sequence

    @property
    def last_sequence(self) -> int:
        """The last segment that this file is or stands for."""
        header = self.header
        return header.sequence if isinstance(header, SegmentHeader) else header.last_sequence

    @property
    def name(self) -> str:
        """File name."""
        if self.kind is LiveKind.DENSE:
            return segment_name(self.first_sequence)
        return sparse_name(self.first_sequence, self.last_sequence)

    @property
    def first_zxid(self) -> int:
        """The lowest zxid that an entry here could have."""
        return self.first_previous_zxid + 1

    @property
    def last_zxid(self) -> int:
        """The highest zxid that an entry here could have. Raises OSError, BadPlaceError where it must be read first."""
        if self._last_zxid is None:
            self._last_zxid = self._files.sealed(self).last_zxid
        return self._last_zxid

    @property
    def start_chain(self) -> bytes:
        """The chain value before the first record."""
        return self.header.chain if isinstance(self.header, SegmentHeader) else CHAIN_START

    @property
    def end_offset(self) -> int:
        """Where the last record ends. Raises OSError, BadPlaceError."""
        return self._files.sealed(self).end_offset

    def pread(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes at the offset, opening the file if need be. Raises OSError, BadPlaceError."""
        return self._files.pread(self, length, offset)

    def span_of(self, zxid: int) -> tuple[int, int]:
        """Byte range that starts with an entry and contains the entry with this zxid, if the file holds it.

        Raises OSError, BadPlaceError.
        """
        sealed = self._files.sealed(self)
        return sealed.index.span_of(zxid, sealed.end_offset)

    def __repr__(self) -> str:
        return f"<LiveFile {self.name}, {self.bytes} bytes>"


class OpenFiles:
    """The open files and loaded indexes of the live store, the least recently used closed first. For any thread."""

    def __init__(self, directory: Directory, options: LogOptions) -> None:
        self._directory = directory
        self._open_max = options.live_open_max
        self._stride_bytes = options.index_stride_bytes
        self._read_bytes = options.read_bytes
        self._guard = threading.Lock()
        # Held while an index file is made or removed, so that none is left behind for a segment that is gone.
        self._index_files = threading.Lock()
        self._used: OrderedDict[LiveFile, None] = OrderedDict()
        self._closed = False
        self.indexes_rebuilt = 0

    @property
    def open_count(self) -> int:
        """Files that are open or whose index is in memory."""
        return len(self._used)

    @property
    def index_bytes(self) -> int:
        """Memory of the loaded indexes."""
        with self._guard:
            return sum(each._sealed.index.memory_bytes for each in self._used if each._sealed is not None)

    def pread(self, live: LiveFile, length: int, offset: int) -> bytes:
        """Read from a file. Raises OSError, BadPlaceError."""
        file = self._pin(live)
        try:
            return file.pread(length, offset)
        except OSError as error:
            error.filename = error.filename or live.name
            raise
        finally:
            with self._guard:
                live._pins -= 1

    def sealed(self, live: LiveFile) -> SealedIndex:
        """The index of a file, loaded or rebuilt where it is not in memory. Raises OSError, BadPlaceError."""
        with self._guard:
            if live._sealed is not None:
                self._touch(live)
                return live._sealed
        sealed = self._load(live)
        with self._guard:
            live._sealed = sealed
            self._touch(live)
        return sealed

    def enter(self, live: LiveFile) -> None:
        """Take charge of a file that was made open: from now on it may be closed."""
        with self._guard:
            live._pins -= 1
            self._touch(live)

    def take_out(self, live: LiveFile) -> File:
        """Part with a file that is out of every new reader's sight; the file itself is the caller's. Its index file is
        removed.

        Raises OSError.
        """
        with self._guard:
            live._gone = True
            file, live._file = live._file, None
            live._sealed = None
            self._used.pop(live, None)
        if live.kind is LiveKind.DENSE:
            with self._index_files:
                self._remove_index(live)
        return self._directory.open(live.name) if file is None else file

    def write_index(self, live: LiveFile, sealed: SealedIndex) -> None:
        """Write `index-N`, without a sync. Where that fails, the index will be rebuilt when it is needed."""
        header = live.header
        assert isinstance(header, SegmentHeader)
        with self._index_files:
            if live._gone:
                return
            try:
                self._remove_index(live)
                file = self._directory.open(index_name(header.sequence), create=True)
                try:
                    sealed.write(file, header.sequence, header.generation, header.first_previous_zxid)
                finally:
                    file.close()
            except OSError:
                pass  # derived data: a full disk must not fail a read, and a failing one shows at the log itself

    def close(self) -> None:
        """Close all files, for good."""
        with self._guard:
            self._closed = True
            for live in self._used:
                if live._file is not None:
                    live._file.close()
                    live._file = None
            self._used.clear()

    # --- Inside
    # ----------------------------------------------------------------------------------------------------------

    def _pin(self, live: LiveFile) -> File:
        with self._guard:
            if live._file is not None:
                live._pins += 1
                self._touch(live)
                return live._file
        opened = self._open(live)
        with self._guard:
            if self._closed:
                opened.close()
                raise OSError(errno.EBADF, "the log is closed")
            if live._gone:
                opened.close()
                raise BadPlaceError(live.name, 0, "the file was removed", live.first_previous_zxid)
            if live._file is None:
                live._file = opened
            else:
                opened.close()
            live._pins += 1
            self._touch(live)
            return live._file

    def _touch(self, live: LiveFile) -> None:
        """Note the use of a file, and close what was not used for long. Call it with the guard."""
        if live._gone:
            return
        self._used[live] = None
        self._used.move_to_end(live)
        if len(self._used) <= self._open_max:
            return
        for oldest in list(self._used)[: len(self._used) - self._open_max]:
            if oldest._pins == 0:
                del self._used[oldest]
                oldest._sealed = None
                if oldest._file is not None:
                    oldest._file.close()
                    oldest._file = None

    def _open(self, live: LiveFile) -> File:
        file = self._directory.open(live.name)
        try:
            page = file.pread(PAGE_BYTES, 0)
            try:
                _version, header = type(live.header).from_page(page)
            except PageDamaged as damage:
                raise BadPlaceError(live.name, 0, f"first page: {damage}", live.first_previous_zxid) from None
            if header != live.header:
                raise BadPlaceError(live.name, 0, "another file under this name", live.first_previous_zxid)
        except BaseException:
            file.close()
            raise
        return file

    def _load(self, live: LiveFile) -> SealedIndex:
        header = live.header
        try:
            if isinstance(header, SparseHeader):
                file = self._pin(live)
                try:
                    index = header.read_index(file, self._stride_bytes)
                finally:
                    with self._guard:
                        live._pins -= 1
                return SealedIndex(index, header.end_offset, header.last_zxid, header.chain)
            file = self._directory.open(index_name(header.sequence))
            try:
                sealed = SealedIndex.read(file, header.sequence, header.generation, self._stride_bytes)
            finally:
                file.close()
            row = FIRST_PAGES.decide(Kind.INDEX, FirstPage.GOOD, Belongs.OURS, Named.RIGHT, Size.WHOLE)
            if row.decision is Decision.START:
                return sealed
        except FileNotFoundError:
            row = DERIVED.decide(DerivedFile.INDEX, Given.MISSING, Needed.NO)
        except IndexUnfit as unfit:
            row = FIRST_PAGES.decide(*unfit.seen)
        except (OSError, PageDamaged):
            return self._rebuild(live)
        assert row.decision is Decision.REBUILD, "an index is derived from the records"
        return self._rebuild(live)

    def _rebuild(self, live: LiveFile) -> SealedIndex:
        """Read a whole file through, with every check."""
        header = live.header
        sparse = isinstance(header, SparseHeader)
        end_offset = header.end_offset if isinstance(header, SparseHeader) else live.bytes
        index = SegmentIndex(self._stride_bytes)
        walk = Walk(
            live,
            live.seed,
            PAGE_BYTES,
            end_offset,
            live.first_previous_zxid,
            live.start_chain,
            self._read_bytes,
            bodies=False,
        )
        for found in walk:
            if found.kind != MARK:
                index.note(found.zxid, found.offset)
        assert walk.last_zxid is not None
        assert walk.chain is not None
        if sparse:
            whole = walk.offset == end_offset
        elif live._last_zxid is not None:
            whole = walk.last_zxid == live._last_zxid
        else:
            # A segment is synced before the next one begins, so nothing of its generation lies behind a good end.
            traces = find_traces(live, live.seed, walk.offset, live.bytes, self._read_bytes)
            whole = walk.reason == BLANK and next(traces, None) is None
        if not whole:
            raise BadPlaceError(live.name, walk.offset, walk.reason, walk.last_zxid)
        sealed = SealedIndex(
            index, walk.offset, header.last_zxid if isinstance(header, SparseHeader) else walk.last_zxid, walk.chain
        )
        self.indexes_rebuilt += 1
        if not sparse:
            self.write_index(live, sealed)
        return sealed

    def _remove_index(self, live: LiveFile) -> None:
        try:
            self._directory.unlink(index_name(live.first_sequence))
        except FileNotFoundError:
            pass
