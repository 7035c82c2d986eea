"""The log as the replication core sees it: what is on the disk, and what is on its way there.

The core appends, cuts and asks at once; the disk follows. So this view holds every entry that is not durable yet, and
some more, from which learners that keep up are served without a read. Of the rest it knows where each epoch ends and
who votes; entries are read from the log when somebody lags behind.

Everything but `read_from_disk` is for the event loop. This module must not know who leads, nor when anything is synced.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from typing import TYPE_CHECKING

from sluicemq.broker.pipeline import peer_messages
from sluicemq.broker.pipeline.ensemble.records import KEPT_ENTRY_BYTES, RecordBodies, body_in, entry_of
from sluicemq.broker.queues.entries_of_cluster import NodeAddress
from sluicemq.broker.replication.history import ENTRY_OVERHEAD_BYTES, Entry, Position, configuration_in, epoch_of
from sluicemq.storage.errors import ZxidNotFound
from sluicemq.storage.record import record_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.replication.membership import Configuration
    from sluicemq.storage.log import SegmentLog

RECENT_BYTES_MAX = 32 * 1024 * 1024
"""Entries that are kept in memory though they are durable, in bytes of memory."""
COMPACT_ENTRIES = 4_096
"""So many forgotten entries are let go at once."""
SCAN_BYTES = 8 * 1024 * 1024

_BODIES = RecordBodies()
_GONE = Entry(0, 0, b"", 0, None)


class View:
    """See the module; a `LogView` of the core.

    Args:
        log: Opened log, all of it durable.
        base: The configuration of the snapshot that the machine was made from, and its entry; None without one.
        snapshot_zxid: What that snapshot covers.

    Attributes:
        behind_entries: Entries of the log behind the snapshot, as it was found.
        behind_bytes: Their bytes on disk.
        addresses: Where brokers are reached by what was found in the log, committed or not: where to look for them.

    Raises:
        StorageError: The log cannot be read.
        ProtocolError: An entry of the core's own makes no sense.

    """

    def __init__(self, log: SegmentLog, base: tuple[int, Configuration] | None, snapshot_zxid: int) -> None:
        self._log = log
        self.start = Position(log.start_zxid, log.chain_at(log.start_zxid))
        self._ends: list[Position] = []
        self._configurations: list[tuple[int, Configuration]] = []
        if base is not None and base[0] <= log.start_zxid:
            self._configurations.append(base)
        self._recent: list[Entry] = []
        self._head = 0
        self._recent_bytes = 0
        self._durable_zxid = log.last_zxid
        self.behind_entries = self.behind_bytes = 0
        self.addresses: dict[int, str] = {}
        self._scan(log, snapshot_zxid)
        # Chains are worked out from where a reader was last, for the learner that reads on.
        self._places = threading.Lock()
        self._place_of: dict[int, Position] = {}

    def _scan(self, log: SegmentLog, snapshot_zxid: int) -> None:
        zxid = self.start.zxid
        while records := log.read_after(zxid, SCAN_BYTES):
            for record in records:
                if epoch_of(record.zxid) != epoch_of(zxid) and zxid > self.start.zxid:
                    self._ends.append(Position(zxid, log.chain_at(zxid)))
                zxid = record.zxid
                body = body_in(record)
                configuration = getattr(body, "configuration", None)
                if configuration is not None:
                    self._configurations.append((zxid, configuration))
                if record.kind == NodeAddress.KIND:
                    said = entry_of(zxid, body)
                    assert isinstance(said, NodeAddress), "its kind says so"
                    self.addresses[said.node] = said.address
                if zxid > snapshot_zxid:
                    self.behind_entries += 1
                    self.behind_bytes += record_size(len(record.header) + len(record.payload))
        if zxid > self.start.zxid:
            self._ends.append(Position(log.last_zxid, log.last_chain))

    # --- what the core asks -------------------------------------------------------------------------------------------

    @property
    def last(self) -> Position:
        """Position of the last entry."""
        return self._ends[-1] if self._ends else self.start

    def ends(self) -> Sequence[Position]:
        """Return the last position of each epoch that has entries in the log proper, rising."""
        return tuple(self._ends)

    def chain_at(self, zxid: int) -> bytes | None:
        """Return the chain hash at an entry or at the start; None if the log proper does not hold it."""
        if zxid == self.start.zxid:
            return self.start.chain
        if not self.start.zxid < zxid <= self.last.zxid:
            return None
        entry = self._recent_at(zxid)
        if entry is not None:
            return entry.chain
        if zxid > self._durable_zxid:
            return None
        try:
            return self._log.chain_at(zxid)
        except ZxidNotFound:
            return None

    def configuration_at(self, zxid: int) -> tuple[int, Configuration] | None:
        """Return the last configuration at or before *zxid*, and its entry; None without one."""
        return next((known for known in reversed(self._configurations) if known[0] <= zxid), None)

    def seal(self, zxid: int, previous: Position, body: object) -> Entry:
        """Make the entry *zxid* that follows *previous*."""
        return peer_messages.seal(zxid, previous, body, _BODIES)

    # --- what the driver does -----------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """Show *entries* behind the last one."""
        ends = self._ends
        for entry in entries:
            assert entry.previous_zxid == self.last.zxid, f"{entry} does not follow {self.last}"
            self._recent.append(entry)
            self._recent_bytes += entry.length_bytes + KEPT_ENTRY_BYTES
            if ends and epoch_of(ends[-1].zxid) == epoch_of(entry.zxid):
                ends[-1] = entry.position
            else:
                ends.append(entry.position)
            configuration = configuration_in(entry)
            if configuration is not None:
                self._configurations.append((entry.zxid, configuration))
        self._forget_old()

    def durable(self, zxid: int) -> None:
        """The disk holds what this view shows up to *zxid*."""
        self._durable_zxid = zxid
        self._forget_old()

    def truncate(self, position: Position) -> None:
        """Show nothing behind *position* any more."""
        zxid = position.zxid
        while len(self._recent) > self._head and self._recent[-1].zxid > zxid:
            entry = self._recent.pop()
            self._recent_bytes -= entry.length_bytes + KEPT_ENTRY_BYTES
        while self._ends and self._ends[-1].zxid > zxid:
            self._ends.pop()
        if zxid > self.start.zxid and self.last.zxid < zxid:
            self._ends.append(position)
        while self._configurations and self._configurations[-1][0] > zxid:
            self._configurations.pop()
        self._durable_zxid = min(self._durable_zxid, zxid)
        self._forget_places()

    def begin_at(self, position: Position) -> None:
        """Show a log that begins behind *position*: what lies before is in a snapshot."""
        if position.zxid <= self.start.zxid:
            return
        self.start = position
        while self._ends and self._ends[0].zxid <= position.zxid:
            self._ends.pop(0)
        known = self.configuration_at(position.zxid)
        later = [one for one in self._configurations if one[0] > position.zxid]
        self._configurations = later if known is None else [known, *later]

    def install(self, position: Position, configuration: tuple[int, Configuration]) -> None:
        """Show what a snapshot leaves: its position, and nothing behind."""
        self.start = position
        self._ends = []
        self._recent, self._head, self._recent_bytes = [], 0, 0
        self._configurations = [configuration]
        self._durable_zxid = position.zxid
        self._forget_places()

    @property
    def log(self) -> SegmentLog:
        """The log on the disk at the moment."""
        return self._log

    def use(self, log: SegmentLog) -> None:
        """The log is another object from now on, with the same entries."""
        self._log = log

    # --- reading ------------------------------------------------------------------------------------------------------

    def read_recent(self, after: int, bytes_max: int) -> tuple[Entry, ...] | None:
        """Return entries that follow *after*, at least one; None if they have to be read from the disk.

        Empty where the log proper does not hold them.
        """
        if after < self.start.zxid:
            return ()
        recent = self._recent
        if self._head == len(recent) or after < recent[self._head].previous_zxid:
            return None
        first = bisect_right(recent, after, self._head, key=_zxid_of)
        total, stop = 0, first
        while stop < len(recent):
            total += recent[stop].length_bytes + ENTRY_OVERHEAD_BYTES
            if total > bytes_max and stop > first:
                break
            stop += 1
        return tuple(recent[first:stop])

    def read_from_disk(self, after: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries that follow *after*, at least one; empty where the log proper does not hold them.

        For worker threads; of a log that is not cut meanwhile. Raises StorageError.
        """
        log, durable_zxid = self._log, self._durable_zxid
        try:
            with self._places:
                known = self._place_of.pop(after, None)
            previous = known or Position(after, log.chain_at(after))
            records = log.read_after(after, bytes_max)
        except ZxidNotFound:
            return ()
        entries: list[Entry] = []
        for record in records:
            if record.zxid > durable_zxid:
                break
            entry = peer_messages.seal(record.zxid, previous, body_in(record), _BODIES)
            entries.append(entry)
            previous = entry.position
        with self._places:
            self._place_of[previous.zxid] = previous
            while len(self._place_of) > COMPACT_ENTRIES:
                del self._place_of[next(iter(self._place_of))]
        return tuple(entries)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _recent_at(self, zxid: int) -> Entry | None:
        place = bisect_right(self._recent, zxid, self._head, key=_zxid_of) - 1
        if place < self._head or self._recent[place].zxid != zxid:
            return None
        return self._recent[place]

    def _forget_old(self) -> None:
        recent, head = self._recent, self._head
        while self._recent_bytes > RECENT_BYTES_MAX and head < len(recent) and recent[head].zxid <= self._durable_zxid:
            self._recent_bytes -= recent[head].length_bytes + KEPT_ENTRY_BYTES
            recent[head] = _GONE  # a few more bytes than none
            head += 1
        if head >= COMPACT_ENTRIES:
            del recent[:head]
            head = 0
        self._head = head

    def _forget_places(self) -> None:
        with self._places:
            self._place_of.clear()


def _zxid_of(entry: Entry) -> int:
    return entry.zxid
