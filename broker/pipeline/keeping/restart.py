"""What a start makes of the files: the machine of the newest good snapshot, and the log behind it.

Why apart from the road: a tool that checks snapshots and a test that replays need the same way back, without threads
or an event loop. Everything here blocks and is done before the broker serves.

The rules: a snapshot that is damaged, or contradicts itself, is passed over for the older one, with a warning that
names what is wrong; one that fits another log is no damage but a mix-up, and refused; without any good snapshot the
log must reach back to its first entry, or the start is refused. Nothing is changed before all of that is known.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from sluicemq.broker.queues.chunks import CHUNK_BYTES, ChunkPool
from sluicemq.broker.queues.entries import decode_entry
from sluicemq.broker.queues.image import load, pages_named
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.sections import ImageDamaged
from sluicemq.storage.decisions import Decision
from sluicemq.storage.decisions_log import CHOICE, History, LogReach, LogStart, Snapshots
from sluicemq.storage.errors import (
    FileReadFailed,
    PageCorrupt,
    SnapshotContradictsLog,
    SnapshotDamaged,
    SnapshotMissing,
    StorageError,
    format_zxid,
)
from sluicemq.storage.pagefile import StoredPage
from sluicemq.storage.record import record_size
from sluicemq.wire.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.pipeline.keeping.paging import Pager
    from sluicemq.broker.queues.entry import Entry
    from sluicemq.storage.log import SegmentLog
    from sluicemq.storage.pagefile import PageFile
    from sluicemq.storage.record import Record
    from sluicemq.storage.snapshot_file import Snapshot, SnapshotInfo
    from sluicemq.storage.snapshots import SnapshotStore

OnEntry: TypeAlias = "Callable[[int, Entry], None]"
"""Hears of an entry that was applied: its zxid, and the entry."""

logger = logging.getLogger("sluicemq.restart")

REPLAY_BYTES = 8 * 1024 * 1024


@dataclass(slots=True)
class Restart:
    """What a start found and did.

    Attributes:
        snapshot: The snapshot that the machine was made from; None: from the log alone.
        oldest_kept: The older one that is kept beside it, or itself.
        rejected: Why newer or other snapshots do not count.
        load_seconds: How long reading the snapshot took.
        replayed_entries: Entries of the log behind it.
        replayed_bytes: Their bytes on disk.
        replay_seconds: How long applying them took.

    """

    snapshot: SnapshotInfo | None = None
    oldest_kept: SnapshotInfo | None = None
    rejected: tuple[StorageError, ...] = ()
    load_seconds: float = 0.0
    replayed_entries: int = 0
    replayed_bytes: int = 0
    replay_seconds: float = 0.0

    def __str__(self) -> str:
        """One line for the broker's log."""
        replayed = (
            f"{self.replayed_entries} entries ({self.replayed_bytes} bytes) of the log in {self.replay_seconds:.2f} s"
        )
        if self.snapshot is None:
            return f"recovered from the log alone: {replayed}"
        zxid = format_zxid(self.snapshot.zxid)
        return (
            f"recovered from the snapshot at {zxid} ({self.snapshot.file_bytes} bytes) in {self.load_seconds:.2f} s, "
            f"and {replayed}"
        )


def load_newest(log: SegmentLog, store: SnapshotStore, pages: PageFile | None, restart: Restart) -> Machine:
    """Return the machine of the newest good snapshot, or an empty one where there is none; blocks.

    Args:
        log: Opened log; what was applied in a snapshot is not replayed.
        store: The snapshots beside it.
        pages: The page file, opened and not adopted; adopted afterwards. None: no snapshot may name pages.
        restart: Takes the figures.

    Raises:
        SnapshotMissing: No snapshot is good, and the log does not reach back to its first entry.
        SnapshotContradictsLog: The newest good one belongs to another log.
        ImageUnknown, NewerFormat, ForeignData: A newer version or another cluster wrote it.

    """
    started = time.monotonic()
    while (snapshot := store.newest_good()) is not None:
        with snapshot:
            check_fits(log, snapshot, fallen_back=bool(store.rejected))
            try:
                machine = load(snapshot.sections(), None if pages is None else ChunkPool())
                if machine.applied_zxid != snapshot.zxid:
                    raise ImageDamaged(f"its image is of {format_zxid(machine.applied_zxid)}")
                _adopt(store, snapshot, pages, restart)
            except (ImageDamaged, PageCorrupt, SnapshotDamaged, FileReadFailed) as error:
                store.reject(snapshot.info, str(error))
                continue
            restart.snapshot = snapshot.info
            restart.load_seconds = time.monotonic() - started
            return machine
    none = Snapshots.ALL_DAMAGED if store.rejected else Snapshots.NONE
    start = LogStart.BEHIND if log.start_zxid else LogStart.FIRST_ENTRY
    if CHOICE.decide(none, start, LogReach.REACHES, History.SAME).decision is Decision.REFUSE:
        raise SnapshotMissing(log.start_zxid, tuple(str(error) for error in store.rejected))
    _set_aside(store, restart)
    if pages is not None:
        pages.adopt({})
    return Machine(pool=None if pages is None else ChunkPool())


def check_fits(log: SegmentLog, snapshot: Snapshot, *, fallen_back: bool = False) -> None:
    """Raise SnapshotContradictsLog unless the log has the snapshot's entry, with the history that led to it.

    *fallen_back*: newer snapshots do not count.
    """
    zxid = snapshot.zxid
    start = LogStart.BEHIND if log.start_zxid > zxid else LogStart.REACHES_BACK
    reach = LogReach.SHORT if log.last_zxid < zxid else LogReach.REACHES
    within = start is not LogStart.BEHIND and reach is LogReach.REACHES
    chain = log.chain_at(zxid) if within else snapshot.chain
    row = CHOICE.decide(
        Snapshots.OLDER_GOOD if fallen_back else Snapshots.NEWEST_GOOD,
        start if log.start_zxid else LogStart.FIRST_ENTRY,
        reach,
        History.SAME if chain == snapshot.chain else History.OTHER,
    )
    if row.decision is Decision.REFUSE:
        if not within:
            span = f"the log holds {format_zxid(log.start_zxid)} to {format_zxid(log.last_zxid)}"
            raise SnapshotContradictsLog(snapshot.info.file, zxid, span)
        reason = f"the chain there is {chain.hex()} in the log and {snapshot.chain.hex()} in the snapshot"
        raise SnapshotContradictsLog(snapshot.info.file, snapshot.zxid, reason)


def _adopt(store: SnapshotStore, snapshot: Snapshot, pages: PageFile | None, restart: Restart) -> None:
    """Tell the page file what the kept snapshots name, and set aside what does not count.

    Raises:
        PageCorrupt: The page file is too short for this snapshot.

    """
    named = _named_by(snapshot)
    if pages is not None:
        pages.check_reach(page.slot for page in named)
    elif named:
        raise ImageDamaged(f"it names {len(named)} pages, and there is no page file")
    _set_aside(store, restart)
    kept = store.keep()
    _set_aside(store, restart)
    restart.oldest_kept = kept[-1]
    if pages is None:
        return
    used = {snapshot.generation: named}
    for info in kept[1:]:
        try:
            with store.open(info) as older:
                slots = _named_by(older)
            pages.check_reach(page.slot for page in slots)
        except (ImageDamaged, SnapshotDamaged, FileReadFailed, PageCorrupt) as error:
            store.reject(info, str(error))
            _set_aside(store, restart)
            restart.oldest_kept = snapshot.info
        else:
            used[info.generation] = slots
    pages.adopt(used)
    pages.shrink()


def _named_by(snapshot: Snapshot) -> list[StoredPage]:
    return [StoredPage(page.slot, CHUNK_BYTES, page.checksum) for page in pages_named(snapshot.sections())]


def _set_aside(store: SnapshotStore, restart: Restart) -> None:
    for error in store.rejected:
        logger.warning("%s", error)
    restart.rejected += store.rejected
    for name in store.set_aside_rejected():
        logger.warning("it was set aside as %s", name)


def replay(
    log: SegmentLog, machine: Machine, pager: Pager | None, restart: Restart, note: OnEntry = lambda _zxid, _entry: None
) -> None:
    """Give *machine* everything in the log behind what it has applied; nothing of it has effects. Blocks.

    *note* hears of each entry.

    Raises:
        InternalError: An entry cannot be applied.
        StorageError: The log or a page cannot be read.

    """
    started = time.monotonic()
    zxid = max(machine.applied_zxid, log.start_zxid)
    while records := log.read_after(zxid, REPLAY_BYTES):
        restart.replayed_bytes += apply_records(machine, pager, records, note)
        restart.replayed_entries += len(records)
        zxid = records[-1].zxid
        if pager is not None:
            pager.keep_within_now()
    restart.replay_seconds = time.monotonic() - started


def apply_records(
    machine: Machine,
    pager: Pager | None,
    records: list[Record],
    note: OnEntry = lambda _zxid, _entry: None,
) -> int:
    """Apply *records* in order, and *note* them; return their bytes on disk. Raises as `replay`."""
    pool = machine.pool
    total = 0
    for record in records:
        try:
            entry = decode_entry(record.kind, record.kind_version, record.header, record.payload)
            if pager is not None and pool is not None and pool.absent:
                while missing := machine.prefetch(entry):  # what is needed may show only in what was
                    pager.fill_now(missing)
            machine.apply(record.zxid, entry)
            note(record.zxid, entry)
        except StorageError:
            raise  # it says itself which file fails, and why
        except Exception as error:
            raise InternalError(
                f"the log's entry {format_zxid(record.zxid)} (kind {record.kind}) "
                f"cannot be applied: {error}; nothing was changed; `sluicemq log dump` shows it, and a newer "
                "version may know it"
            ) from error
        total += record_size(len(record.header) + len(record.payload))
    return total
