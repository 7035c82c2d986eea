"""How entries of the core become records of the log, and back; and the log as the core sees it.

The core's own records (epoch, membership) hold the configuration in the payload. The queue machine sees an EPOCH entry
with the log time 0, which changes nothing, so that the record follows from the body alone and is the same everywhere.

`LogMemory` is the log view of the driver: everything that was given to `Append`, durable or not. This module must not
know when anything becomes durable.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

import msgpack

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.machine import MachineLimits
from sluicemq.broker.replication.history import (
    ENTRY_OVERHEAD_BYTES,
    Entry,
    EpochRecord,
    MembershipRecord,
    Position,
    epoch_of,
)
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.storage.record import Record, encode_head, record_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.storage import SegmentLog

EPOCH_KIND = e.Epoch.KIND
MACHINE_LIMITS = MachineLimits(receipts_max=16, fenced_max=4, queues_max=8, sessions_max=1_000, producers_max=1_000)
"""Small, so that a run comes near to them. All nodes and the account must have the same."""
MEMBERSHIP_KIND = 17
READ_BYTES = 1 << 20


class Body(NamedTuple):
    """Any other entry than the core's own: what stands in the record, and the entry of the queue machine."""

    kind: int
    version: int
    header: bytes
    payload: bytes
    entry: e.Entry


def body_of(entry: e.Entry) -> Body:
    """Return the body of an entry of the queue machine."""
    return Body(entry.KIND, entry.VERSION, entry.header(), bytes(entry.payload), entry)


def pack_configuration(configuration: Configuration) -> bytes:
    """Return the bytes of a configuration; equal ones give equal bytes."""
    groups = (configuration.voters, configuration.next_voters)
    packed: bytes = msgpack.packb([None if group is None else sorted(map(list, group)) for group in groups])
    return packed


def unpack_configuration(data: bytes) -> Configuration:
    """Return the configuration of these bytes."""
    voters, next_voters = (
        None if group is None else frozenset(Member(*member) for member in group) for group in msgpack.unpackb(data)
    )
    assert voters is not None
    return Configuration(voters, next_voters)


def record_of(zxid: int, body: object) -> Record:
    """Return the record of the log for a body."""
    if isinstance(body, Body):
        return Record(zxid, body.kind, body.version, 0, body.header, body.payload)
    if isinstance(body, EpochRecord):
        header = e.Epoch(0, body.leader).header()
        return Record(zxid, EPOCH_KIND, e.Epoch.VERSION, 0, header, pack_configuration(body.configuration))
    assert isinstance(body, MembershipRecord), body
    return Record(zxid, MEMBERSHIP_KIND, 1, 0, b"", pack_configuration(body.configuration))


def body_in(record: Record) -> object:
    """Return the body that a record holds."""
    if record.kind == MEMBERSHIP_KIND:
        return MembershipRecord(unpack_configuration(record.payload))
    entry = e.decode_entry(record.kind, record.kind_version, record.header, record.payload)
    if isinstance(entry, e.Epoch):
        return EpochRecord(entry.node_id, unpack_configuration(record.payload))
    return Body(record.kind, record.kind_version, record.header, record.payload, entry)


def seal(zxid: int, previous: Position, body: object) -> Entry:
    """Return the entry at *zxid* behind *previous*, with the chain that the log will give it."""
    record = record_of(zxid, body)
    _, chain = encode_head(0, 0, 0, previous.zxid, previous.chain, record)
    return Entry(zxid, previous.zxid, chain, record_size(len(record.header) + len(record.payload)), body)


class LogMemory:
    """The log as the core sees it, in memory.

    Args:
        log: The log on disk.
        base: The configuration of the snapshot that the node started from, with its entry.

    """

    def __init__(self, log: SegmentLog, base: tuple[int, Configuration] | None) -> None:
        self._log = log
        self._start = Position(0, b"")
        self._zxids: list[int] = []
        self._entries: dict[int, Entry] = {}
        self._ends: list[Position] = []
        self._base = base
        self._configurations: list[tuple[int, Configuration]] = []
        self.reload()

    # --- what the core asks -------------------------------------------------------------------------------------------

    @property
    def start(self) -> Position:
        """Where the log proper begins."""
        return self._start

    def ends(self) -> Sequence[Position]:
        """The last position of each epoch."""
        return tuple(self._ends)

    def chain_at(self, zxid: int) -> bytes | None:
        """The chain at an entry."""
        entry = self._entries.get(zxid)
        if entry is not None:
            return entry.chain
        return self._start.chain if zxid == self._start.zxid else None

    def configuration_at(self, zxid: int) -> tuple[int, Configuration] | None:
        """The configuration that holds after an entry."""
        return next((known for known in reversed(self._configurations) if known[0] <= zxid), None)

    def seal(self, zxid: int, previous: Position, body: object) -> Entry:
        """The entry that a body makes."""
        return seal(zxid, previous, body)

    # --- what the driver does -----------------------------------------------------------------------------------------

    @property
    def last(self) -> Position:
        """Position of the last entry."""
        return self._ends[-1] if self._ends else self._start

    def entry(self, zxid: int) -> Entry | None:
        """One entry."""
        return self._entries.get(zxid)

    def read_after(self, zxid: int, bytes_max: int) -> tuple[Entry, ...]:
        """Entries that follow *zxid*: at least one, if it is still there, then up to so many bytes."""
        if zxid < self._start.zxid:
            return ()
        found: list[Entry] = []
        total = 0
        for position in range(bisect_right(self._zxids, zxid), len(self._zxids)):
            entry = self._entries[self._zxids[position]]
            total += entry.length_bytes + ENTRY_OVERHEAD_BYTES
            if found and total > bytes_max:
                break
            found.append(entry)
        return tuple(found)

    def between(self, after: int, upto: int) -> list[Entry]:
        """Entries behind *after* up to and with *upto*."""
        zxids = self._zxids
        return [self._entries[zxid] for zxid in zxids[bisect_right(zxids, after) : bisect_right(zxids, upto)]]

    def append(self, entries: Sequence[Entry]) -> None:
        """Show *entries* behind the last one."""
        for entry in entries:
            last = self.last
            assert entry.previous_zxid == last.zxid, f"{entry} does not follow {last}"
            self._entries[entry.zxid] = entry
            self._zxids.append(entry.zxid)
            if self._ends and epoch_of(self._ends[-1].zxid) == epoch_of(entry.zxid):
                self._ends[-1] = entry.position
            else:
                self._ends.append(entry.position)
            body = entry.body
            if isinstance(body, EpochRecord | MembershipRecord):
                self._configurations.append((entry.zxid, body.configuration))

    def truncate(self, zxid: int) -> None:
        """Show nothing behind *zxid* any more."""
        keep = bisect_right(self._zxids, zxid)
        for gone in self._zxids[keep:]:
            del self._entries[gone]
        del self._zxids[keep:]
        self._configurations = [known for known in self._configurations if known[0] <= zxid]
        self._recount()

    def begin_at_start_of_log(self) -> None:
        """Follow the log on disk, which begins later now."""
        start = self._log.start_zxid
        if start == self._start.zxid:
            return
        self._start = Position(start, self._log.chain_at(start))
        self._base = self.configuration_at(start) or self._base
        keep = bisect_right(self._zxids, start)
        for gone in self._zxids[:keep]:
            del self._entries[gone]
        del self._zxids[:keep]
        self._recount()

    def restart(self, log: SegmentLog, configuration: tuple[int, Configuration]) -> None:
        """Show a log that begins behind a snapshot."""
        self._log = log
        self._base = configuration
        self._ends = []
        self._start = Position(-1, b"")
        self.reload()

    def install(self, position: Position, configuration: tuple[int, Configuration]) -> None:
        """Show what a snapshot will leave: nothing but its position."""
        self._start = position
        self._zxids, self._entries, self._ends = [], {}, []
        self._configurations = [configuration]

    def reload(self) -> None:
        """Show exactly what the log on disk holds."""
        log = self._log
        start = Position(log.start_zxid, log.chain_at(log.start_zxid))
        if start == self._start and self.last == (log.last_zxid, log.last_chain):
            return
        if start == self._start and self.chain_at(log.last_zxid) == log.last_chain:
            self.truncate(log.last_zxid)
            return
        self._start, self._zxids, self._entries, self._ends = start, [], {}, []
        base = self._base
        # The snapshot's configuration may be an entry of the log as well; then that tells where it stands.
        outside = base is not None and (base[0] <= start.zxid or base[0] > log.last_zxid)
        self._configurations = [base] if base is not None and outside else []
        zxid = start.zxid
        while records := log.read_after(zxid, READ_BYTES):
            for record in records:
                self.append((seal(record.zxid, self.last, body_in(record)),))
            zxid = self.last.zxid
        assert self.last == (log.last_zxid, log.last_chain), "the log reads back as it was written"

    def _recount(self) -> None:
        ends: list[Position] = []
        zxids = self._zxids
        last = len(zxids)
        while last:
            entry = self._entries[zxids[last - 1]]
            ends.append(entry.position)
            last = bisect_left(zxids, epoch_of(entry.zxid) << 32)
        self._ends = ends[::-1]
