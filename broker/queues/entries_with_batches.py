"""Entries that hold a batch of messages: what is common to them, for those who look for bodies.

A batch that is published alone, one of a transaction, one of a half message: to whoever reads, keeps or rewrites bodies
they are the same. This module must not know what becomes of the messages.
"""

from __future__ import annotations

import msgpack

from sluicemq.broker.queues.entries import Publish, PublishGrouped, PublishIdentified, decode_entry, shared_route
from sluicemq.broker.queues.entries_of_transactions import PART_NUMBERS, Prepare, Transaction
from sluicemq.broker.queues.entry import pack

BatchEntry = Publish | Transaction | Prepare
"""Entries that hold a batch of messages."""
BATCH_KINDS = frozenset((Publish.KIND, Transaction.KIND, Prepare.KIND))
"""Their kinds."""


def targets_of(entry: BatchEntry) -> list[tuple[int, int]]:
    """Return the queues and topics that an entry publishes to, by number, each with how many messages."""
    if isinstance(entry, Transaction):
        return list(zip(entry.parts[::PART_NUMBERS], entry.parts[1::PART_NUMBERS], strict=True))
    return [(entry.target if isinstance(entry, Prepare) else entry.queue, entry.count)]


def without_groups(kind: int, version: int, header: bytes | memoryview) -> tuple[int, bytes]:
    """Return version and header of an entry with a batch without its groups and ids; what tells routes stays."""
    if kind != Publish.KIND:
        entry = decode_entry(kind, version, header)
        assert isinstance(entry, Transaction | Prepare), "these hold a batch"
        return version, entry.bare().header()
    if version not in (PublishGrouped.VERSION, PublishIdentified.VERSION):
        return version, bytes(header)
    fields = msgpack.unpackb(header)
    if version == PublishIdentified.VERSION:
        del fields[-2:]
    *fields, groups, routes = fields
    route = shared_route(groups, routes)
    if route:
        return PublishGrouped.VERSION, pack(*fields, [fields[4], 0, 0, 0, 0, 1], [route])
    return Publish.VERSION, pack(*fields)
