"""Checks the snapshots of a data directory against their checksums, their pages and the log; changes nothing.

Why beside `log_files`: a snapshot is what the log's entries made of the queues, so checking it takes the machine, which
the walk through the files must not know. Three questions: is each file whole; does every page that it names hold what
was written; and does replaying the log from one snapshot to the next, or from the first entry where the log still has
it, lead to the same state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.commands.log_files import Problem
from sluicemq.broker.commands.log_others import drop_read_back
from sluicemq.broker.pipeline.keeping.paging import INDEX_MEMORY_BYTES_DEFAULT, Pager
from sluicemq.broker.pipeline.keeping.restart import apply_records
from sluicemq.broker.queues.chunks import CHUNK_BYTES, ChunkPool
from sluicemq.broker.queues.image import live_runs, load, pages_named
from sluicemq.broker.queues.machine import Machine
from sluicemq.storage.errors import StorageError
from sluicemq.storage.pagefile import COPY_NAME, PAGES_NAME, PageFile, StoredPage
from sluicemq.storage.record import Record
from sluicemq.storage.snapshot_file import Snapshot, snapshot_name
from sluicemq.storage.snapshots import SnapshotStore
from sluicemq.storage.superblock import SuperblockStore
from sluicemq.wire.errors import SluiceError

if TYPE_CHECKING:
    from sluicemq.broker.commands.log_files import Located, LogFiles


CHECK_ROWS_MAX = 250_000
"""Most runs of messages that a snapshot is checked with for contradictions: that takes some 300 bytes for each."""
NOTES_MAX = 20
"""Most pages with one bad copy that are named one by one."""


class _Known(NamedTuple):
    """A whole snapshot: its file, the log's chain there, and the digest of its state (None: unusable)."""

    file: str
    chain: bytes
    digest: bytes | None


class SnapshotChecks:
    """The snapshots of one directory. Call `begin`, then `entry` for each entry of the log, then `end`.

    Attributes:
        checked: Snapshots that were read.
        compared: Those of them whose state was compared with a replay.

    """

    def __init__(self, files: LogFiles) -> None:
        self._files = files
        self._known: dict[int, _Known] = {}
        self._machine: Machine | None = None
        self._pager: Pager | None = None
        self._pages: PageFile | None = None
        self._noted: set[int] = set()
        self.checked = 0
        self.compared = 0

    @property
    def state(self) -> Machine | None:
        """What the log leads to, after `end`; None: not known, because something is damaged."""
        return self._machine

    def begin(self) -> None:
        """Read all snapshots and their pages."""
        directory = self._files.directory
        try:
            superblock = SuperblockStore.load(directory)
        except (OSError, StorageError):
            return  # reading the log says so
        superblock.close()
        cluster_id = superblock.current.cluster_id
        store = SnapshotStore(directory, cluster_id)
        if {PAGES_NAME, COPY_NAME} & set(directory.names()):
            try:
                self._pages = PageFile.open(directory, cluster_id=cluster_id, read_only=True)
            except StorageError as error:
                self._problem(directory.path_of(PAGES_NAME), 0, str(error))
        for found in store.every():
            self.checked += 1
            if isinstance(found, Snapshot):
                with found:
                    self._read(found)
            elif self._is_there(found.file):
                self._problem(found.file, found.offset, str(found))

    def _read(self, snapshot: Snapshot) -> None:
        digest = None
        try:
            for page in pages_named(snapshot.sections()):
                if self._pages is None:
                    raise SluiceError("it names pages, and there is no page file")
                self._pages.read(page.slot, CHUNK_BYTES, page.checksum)
                self._look_at_both(StoredPage(page.slot, CHUNK_BYTES, page.checksum))
            machine = load(snapshot.sections(), ChunkPool())
            pager = self._pager_of(machine)
            rows = sum(part.row_count for part in live_runs(snapshot.sections()))
            if rows <= CHECK_ROWS_MAX:
                machine.check()
            else:
                self._files.notes.append(
                    f"{snapshot.info.file} is too large ({rows} runs of messages) to be checked for contradictions "
                    "within itself; its checksums, and what a replay leads to, are"
                )
            digest = machine.state_hash()
            self._machine, self._pager = machine, pager  # the oldest one comes last
        except (SluiceError, StorageError, AssertionError) as error:
            if self._is_there(snapshot.info.file):
                self._problem(snapshot.info.file, 0, f"{type(error).__name__}: {error}")
        self._known[snapshot.zxid] = _Known(snapshot.info.file, snapshot.chain, digest)

    def _look_at_both(self, page: StoredPage) -> None:
        """Note a page that only one of its two files holds: no damage, a broker mends it."""
        assert self._pages is not None, "somebody names pages"
        for rot in self._pages.inspect(page):
            if page.slot not in self._noted:
                self._noted.add(page.slot)
                # A file that is being made anew lacks many.
                if len(self._noted) <= NOTES_MAX:
                    self._files.notes.append(f"{rot}; the other copy of the page is whole, and a broker mends this one")

    def _pager_of(self, machine: Machine) -> Pager | None:
        if self._pages is None:
            return None
        assert machine.pool is not None
        pager = Pager(self._pages, machine.pool, bytes_max=INDEX_MEMORY_BYTES_DEFAULT, on_failure=lambda _error: None)
        self._pages.on_rot = lambda _rot: None  # it is among the notes already, and nothing is mended here
        return pager

    def _is_there(self, file: str) -> bool:
        """Whether a snapshot is still kept: a broker that serves meanwhile removes old ones and uses their pages."""
        return any(self._files.directory.path_of(name) == file for name in self._files.directory.names())

    def entry(self, located: Located) -> None:
        """Follow the log by one good entry."""
        head = located.head
        if not head.previous_zxid:
            self._machine, self._pager = Machine(), None  # the log is whole: from its first entry
        machine = self._machine
        if machine is not None and head.zxid > machine.applied_zxid:
            if self._files.problems and machine.applied_zxid != head.previous_zxid:
                self._machine = machine = None  # something is missing: what follows means nothing without it
            else:
                record = Record(head.zxid, head.kind, head.kind_version, 0, located.header, located.payload)
                try:
                    apply_records(machine, self._pager, [record])
                    drop_read_back(machine.pool)
                except (SluiceError, StorageError) as error:
                    self._files.report(located, str(error))
                    self._machine = machine = None
        known = self._known.get(head.zxid)
        if known is not None:
            self._compare(known, located, machine)

    def _compare(self, known: _Known, located: Located, machine: Machine | None) -> None:
        if known.chain != located.chain:
            self._problem(
                known.file, 0, f"it belongs to another log: its chain is {known.chain.hex()}, not {located.chain.hex()}"
            )
        elif machine is not None and known.digest is not None:
            self.compared += 1
            if machine.state_hash() != known.digest:
                self._problem(known.file, 0, "its state is not what the entries of the log lead to")

    def end(self) -> None:
        """Judge what the log did not meet."""
        for zxid, known in self._known.items():
            if zxid > self._files.last_zxid and self._files.served_by is None and not self._files.problems:
                self._problem(known.file, 0, f"{snapshot_name(zxid)} is newer than the log's last entry")
        if len(self._noted) > NOTES_MAX:
            more = len(self._noted) - NOTES_MAX
            self._files.notes.append(f"{more} more pages have only one good copy; a broker makes the others anew")
        if self._pages is not None:
            self._pages.close()

    def _problem(self, file: str, offset: int, reason: str) -> None:
        self._files.problems.append(Problem(file, offset, reason, self._files.last_zxid))
