"""What the replication core calls the body of an entry: a record of the log, with the decoded entry beside it.

The core looks at no body but its own two, the record of an epoch and that of a membership. All others travel as bytes:
what a leader proposed it has decoded already, what a follower received it decodes once, when it applies it.

This module must not know the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from sluicemq.broker.pipeline.ensemble.configurations import pack_configuration, unpack_configuration
from sluicemq.broker.queues.entries import Epoch, Grant, decode_entry
from sluicemq.broker.queues.entries_of_cluster import Membership
from sluicemq.broker.queues.entry import Entry, EntryUnknown
from sluicemq.broker.replication.history import EpochRecord, MembershipRecord
from sluicemq.storage.record import Record
from sluicemq.wire.errors import ProtocolError

OnApplied = Callable[[Any], None]
KEPT_ENTRY_BYTES = 640
"""What an entry takes in memory beside its own bytes: objects, their headers, and their place in a list."""


class Body:
    """Any entry but the core's own.

    Attributes:
        record: As in the log; its zxid is the entry's once it has one, 0 before.
        entry: What it says, where it was decoded already.
        lazy: Nobody waits for it: it need not force a sync.
        on_applied: Hears the verdict, on the leader that proposed it.

    """

    __slots__ = ("entry", "lazy", "on_applied", "record")

    def __init__(
        self, record: Record, entry: Entry | None = None, *, lazy: bool = False, on_applied: OnApplied | None = None
    ) -> None:
        self.record = record
        self.entry = entry
        self.lazy = lazy
        self.on_applied = on_applied

    def forget(self) -> None:
        """It was applied: from now on it is wanted as a record only, for brokers that lag."""
        self.entry = self.on_applied = None

    def __repr__(self) -> str:
        return f"Body(kind={self.record.kind}, {len(self.record.header) + len(self.record.payload)} bytes)"


@dataclass(frozen=True, slots=True)
class StoredEpoch(EpochRecord):
    """The record of an epoch as it was read, byte for byte."""

    record: Record


@dataclass(frozen=True, slots=True)
class StoredMembership(MembershipRecord):
    """The record of a membership as it was read, byte for byte."""

    record: Record


def record_of(zxid: int, body: object) -> Record:
    """Return the record that holds *body* at *zxid*."""
    if isinstance(body, Body):
        record = body.record
        if record.zxid != zxid:
            record = body.record = record._replace(zxid=zxid)
        return record
    if isinstance(body, StoredEpoch | StoredMembership):
        return body.record
    if isinstance(body, EpochRecord):
        header = Epoch(0, body.leader).header()
        return Record(zxid, Epoch.KIND, Epoch.VERSION, 0, header, pack_configuration(body.configuration))
    assert isinstance(body, MembershipRecord), body
    payload = pack_configuration(body.configuration)
    return Record(zxid, Membership.KIND, Membership.VERSION, 0, Membership(0).header(), payload)


def body_in(record: Record) -> object:
    """Return the body that *record* holds.

    Raises:
        ProtocolError: The record of an epoch or a membership cannot be read.

    """
    if record.kind == Epoch.KIND and record.payload:
        entry = _decoded(record)
        assert isinstance(entry, Epoch), "its kind says so"
        return StoredEpoch(entry.node_id, unpack_configuration(record.payload), record)
    if record.kind == Membership.KIND:
        _decoded(record)
        return StoredMembership(unpack_configuration(record.payload), record)
    return Body(record, lazy=record.kind == Grant.KIND)


def log_time_of(body: object) -> int:
    """Return the log time in milliseconds at which *body* was proposed.

    0 where it says none, or cannot be read: whoever applies it will say so.
    """
    if not isinstance(body, Body):
        return 0
    if body.entry is not None:
        return body.entry.log_time_ms
    header = msgpack.Unpacker()
    header.feed(body.record.header)
    try:
        return int(header.unpack()) if header.read_array_header() else 0
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        return 0


def entry_of(zxid: int, body: object) -> Entry:
    """Return the entry for the machine.

    Raises:
        EntryUnknown: This version cannot read it.

    """
    if isinstance(body, Body):
        if body.entry is None:
            _, kind, version, _, header, payload = body.record
            body.entry = decode_entry(kind, version, header, payload)
        return body.entry
    record = record_of(zxid, body)
    return decode_entry(record.kind, record.kind_version, record.header, record.payload)


def _decoded(record: Record) -> Entry:
    try:
        return decode_entry(record.kind, record.kind_version, record.header, record.payload)
    except EntryUnknown as error:
        raise ProtocolError(f"entry {record.zxid}: {error}") from error


class RecordBodies:
    """`record_of` and `body_in` as the peers' messages want them."""

    @staticmethod
    def record_of(zxid: int, body: object) -> Record:
        """Return the record that holds *body*."""
        return record_of(zxid, body)

    @staticmethod
    def body_in(record: Record) -> object:
        """Return the body that *record* holds. Raises ProtocolError."""
        return body_in(record)
