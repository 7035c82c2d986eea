"""A snapshot on its way out: the newest durable one, the pages that it names, and every entry that it keeps alive.

Read in pieces by a worker thread, at a measured pace, while everything goes on: whoever opens it holds the stores
(`Stores.hold`), so nothing that is read here leaves the disk meanwhile. What the snapshot does not keep alive is not
sent: of an entry that is alive in part, only the part is (`queues/sparse`), as the reclaimer would have left it.

Everything begins where the other side says, so a stream that broke goes on where it was. Memory is bounded by
`RUNS_MAX` and the size of a piece. This module must not know sockets, nor what becomes of the pieces.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.pipeline.keeping.liveness import Liveness, Span, Survivors
from sluicemq.broker.pipeline.keeping.pace import Pace
from sluicemq.broker.queues.chunks import CHUNK_BYTES
from sluicemq.broker.queues.image import live_runs, pages_named
from sluicemq.broker.queues.sparse import Body, left_of
from sluicemq.storage.errors import FileWriteFailed, StorageError, format_zxid
from sluicemq.storage.incoming import SOURCE_BYTES
from sluicemq.storage.record import Record, body_digest, record_size
from sluicemq.wire.errors import SluiceError, Unavailable
from sluicemq.wire.peers import FILE_PAGES, FILE_SNAPSHOT, PeerEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.pipeline.ensemble.links import Stores
    from sluicemq.broker.queues.chunks import Page
    from sluicemq.broker.queues.sparse import Ranges
    from sluicemq.broker.replication.membership import Configuration
    from sluicemq.storage.log import SegmentLog
    from sluicemq.storage.pagefile import PageFile
    from sluicemq.storage.snapshot_file import Snapshot

PIECE_BYTES = 1024 * 1024
"""Size of a piece, about; one entry may be larger."""
RUNS_MAX = 1_000_000
"""Most runs that are in memory at once, 16 bytes each."""
NEIGHBOURS_BYTES = 256 * 1024
"""So much is read with an entry that is sent: those that follow it are mostly wanted next."""
BYTES_PER_SECOND = 256 * 1024 * 1024
"""Bytes read a second, about: the log's own writing keeps its disk."""
FOOTER_BYTES = 48
"""What is read of the end of a snapshot's file: the digest of everything before it lies there."""


class SnapshotUnsent(Unavailable):
    """There is no snapshot to be sent now, or what it needs could not be read."""

    code = "snapshot_unsent"


class FilePiece(NamedTuple):
    """Bytes of one of the two files of a snapshot."""

    file: int
    offset: int
    data: bytes


class EntriesPiece(NamedTuple):
    """Entries that are alive, ascending."""

    entries: list[PeerEntry]
    entry_bytes: int


class SnapshotSource:
    """One snapshot, open. Everything here blocks, except the attributes; one thread at a time.

    Attributes:
        zxid: What it covers.
        chain: The log's chain value there.
        source: Names these very bytes: a stream goes on only with bytes of the same source.
        snapshot_bytes: Size of its file.
        pages_bytes: Up to where it names pages.
        configuration_zxid: The entry that gave the configuration.
        configuration: Who votes there.

    """

    def __init__(self, stores: Stores, snapshot: Snapshot, configuration: tuple[int, Configuration]) -> None:
        self._log: SegmentLog = stores.log
        self._file: PageFile = stores.pages
        self._snapshot = snapshot
        self.zxid = snapshot.zxid
        self.chain = snapshot.chain
        self.configuration_zxid, self.configuration = configuration
        self.snapshot_bytes = snapshot.info.file_bytes
        self._pages: list[Page] = sorted(set(pages_named(snapshot.sections())), key=lambda page: page.slot)
        self.pages_bytes = self._file.offset_of(self._pages[-1].slot + 1) if self._pages else 0
        footer = snapshot.read(FOOTER_BYTES, max(0, self.snapshot_bytes - FOOTER_BYTES))
        self.source = blake2b(self._log.incarnation + footer, digest_size=SOURCE_BYTES).digest()
        self._pace = Pace(BYTES_PER_SECOND)

    @classmethod
    def open(cls, stores: Stores, start_zxid: int) -> SnapshotSource:
        """Open the newest durable snapshot, which must cover *start_zxid*; the caller holds the stores.

        Raises:
            SnapshotUnsent: There is none, or it cannot be read.

        """
        try:
            snapshot = stores.snapshots.newest_good()
            if snapshot is None or snapshot.zxid < start_zxid:
                newest = "none" if snapshot is None else format_zxid(snapshot.zxid)
                if snapshot is not None:
                    snapshot.close()
                raise SnapshotUnsent(f"no snapshot reaches {format_zxid(start_zxid)} yet, the newest is {newest}")
            try:
                configuration = stores.configuration_at(snapshot.zxid)
                if configuration is None:
                    raise SnapshotUnsent(f"nobody knows who voted at {format_zxid(snapshot.zxid)}")
                return cls(stores, snapshot, configuration)
            except BaseException:
                snapshot.close()
                raise
        except FileWriteFailed:
            raise
        except StorageError as error:
            raise SnapshotUnsent(f"the snapshot cannot be read: {error}") from error

    def close(self) -> None:
        """Close its file. May be called twice."""
        self._snapshot.close()

    def pieces(self, entries_after: int, snapshot_offset: int, pages_offset: int) -> Iterator[EntriesPiece | FilePiece]:
        """Yield what the other side lacks: entries first, because they hold up the reclaiming, then the files.

        Args:
            entries_after: It has the entries up to this one.
            snapshot_offset: It has the snapshot's file up to here.
            pages_offset: It has the page file up to here.

        Raises:
            SnapshotUnsent: Something cannot be read.

        """
        try:
            yield from self._entries(entries_after)
            yield from self._snapshot_file(snapshot_offset)
            yield from self._page_file(pages_offset)
        except FileWriteFailed:
            raise
        except (StorageError, SluiceError) as error:
            raise SnapshotUnsent(f"the snapshot at {format_zxid(self.zxid)} cannot be sent: {error}") from error

    # --- entries --------------------------------------------------------------------------------------------------

    def _entries(self, after: int) -> Iterator[EntriesPiece]:
        entries: list[PeerEntry] = []
        entry_bytes = 0
        for record in self._records(after):
            size = record_size(len(record.header) + len(record.payload))
            if entries and entry_bytes + size > PIECE_BYTES:
                yield EntriesPiece(entries, entry_bytes)
                entries, entry_bytes = [], 0
            entries.append(PeerEntry(*record))
            entry_bytes += size
        if entries:
            yield EntriesPiece(entries, entry_bytes)

    def _records(self, after: int) -> Iterator[Record]:
        for spans in self._portions(after):
            survivors = Survivors(spans, self._read_page)
            for part in live_runs(self._sections()):
                survivors.add(part)
            for span in spans:
                yield from self._read(survivors.within(span.first_zxid, span.last_zxid))

    def _portions(self, after: int) -> Iterator[list[Span]]:
        """Cut all that may be alive into portions whose runs fit into memory."""
        spans = [
            Span(max(each.first_zxid, after + 1), min(each.last_zxid, self.zxid))
            for each in self._log.live_files()
            if each.last_zxid > after and each.first_zxid <= self.zxid
        ]
        start = max(self._log.start_zxid, after)
        if start < self.zxid:
            spans.append(Span(start + 1, self.zxid))
        counted = Liveness(spans, self._read_page, 0)
        for part in live_runs(self._sections()):
            counted.add(part)
        portion: list[Span] = []
        runs = 0
        for span, span_runs in zip(spans, counted.runs, strict=True):
            if portion and runs + span_runs > RUNS_MAX:
                yield portion
                portion, runs = [], 0
            if span_runs:
                portion.append(span)
                runs += span_runs
        if portion:
            yield portion

    def _read(self, alive: Iterator[tuple[int, Ranges]]) -> Iterator[Record]:
        nearby: dict[int, Record] = {}
        for zxid, ranges in alive:
            record = nearby.get(zxid)
            if record is None:
                nearby = {each.zxid: each for each in self._log.read_along(zxid, NEIGHBOURS_BYTES)}
                record = nearby[zxid]
            body = Body(record.kind, record.kind_version, record.header, record.payload)
            left = left_of(body, ranges, body_digest(record.header, record.payload))
            self._took(record_size(len(left.header) + len(left.payload)))
            yield Record(record.zxid, left.kind, left.kind_version, record.flags, left.header, left.payload)

    def _sections(self) -> Iterator[tuple[int, bytes]]:
        for kind, data in self._snapshot.sections():
            self._took(len(data))
            yield kind, data

    def _read_page(self, page: Page) -> bytes:
        self._took(CHUNK_BYTES)
        return self._file.read(page.slot, CHUNK_BYTES, page.checksum)

    # --- files ----------------------------------------------------------------------------------------------------

    def _snapshot_file(self, offset: int) -> Iterator[FilePiece]:
        while offset < self.snapshot_bytes:
            data = self._snapshot.read(min(PIECE_BYTES, self.snapshot_bytes - offset), offset)
            if not data:
                raise SnapshotUnsent(f"its file ends at byte {offset} of {self.snapshot_bytes}")
            self._took(len(data))
            yield FilePiece(FILE_SNAPSHOT, offset, data)
            offset += len(data)

    def _page_file(self, offset: int) -> Iterator[FilePiece]:
        """Yield the first page, and the slots that are named; neighbours together."""
        start, gathered = 0, [self._file.first_page] if self._pages and not offset else []
        end = len(gathered[0]) if gathered else 0
        for page in self._pages:
            begin = self._file.offset_of(page.slot)
            if begin < offset:
                continue
            if begin != end or end - start >= PIECE_BYTES:
                if gathered:
                    yield FilePiece(FILE_PAGES, start, b"".join(gathered))
                start, gathered = begin, []
            data = self._read_page(page)
            gathered.append(data + bytes(self._file.slot_bytes - len(data)))
            end = self._file.offset_of(page.slot + 1)
        if gathered:
            yield FilePiece(FILE_PAGES, start, b"".join(gathered))

    def _took(self, bytes_: int) -> None:
        self._pace.took(bytes_)

    def resume(self) -> None:
        """Another thread goes on."""
        self._pace.begin()
