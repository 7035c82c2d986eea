"""When entries are committed: exhaustively, against the definition."""

from __future__ import annotations

import itertools

from sluicemq.broker.replication.broadcast import Broadcast
from sluicemq.broker.replication.history import ENTRY_OVERHEAD_BYTES, Entry, zxid_of
from sluicemq.broker.replication.membership import Configuration, Member


def members(*nodes: int) -> frozenset[Member]:
    return frozenset(Member(node, b"first") for node in nodes)


OLD, RECORD, FIRST, SECOND = zxid_of(2, 9), zxid_of(3, 0), zxid_of(3, 1), zxid_of(3, 2)
POSITIONS = (0, OLD, RECORD, FIRST, SECOND)


def test_committed_is_what_a_quorum_has_from_the_epochs_record_on() -> None:
    """All positions of four members, with and without a change of voters under way."""
    configurations = [
        Configuration(members(1)),
        Configuration(members(1, 2)),
        Configuration(members(1, 2, 3)),
        Configuration(members(1, 2, 3, 4)),
        Configuration(members(1, 2, 3), members(1, 2, 3, 4)),
        Configuration(members(1, 2), members(1)),
    ]
    for zxids in itertools.product(POSITIONS, repeat=4):
        for configuration in configurations:
            broadcast = Broadcast(epoch=3)
            for node, zxid in enumerate(zxids, 1):
                broadcast.durable(Member(node, b"first"), zxid)
            holders = {
                wanted: [Member(node, b"first") for node, zxid in enumerate(zxids, 1) if zxid >= wanted]
                for wanted in POSITIONS
            }
            expected = max((one for one in (RECORD, FIRST, SECOND) if configuration.is_quorum(holders[one])), default=0)
            assert broadcast.commit_point(configuration) == expected, (zxids, configuration)


def test_copies_of_older_entries_alone_commit_nothing() -> None:
    broadcast = Broadcast(epoch=3)
    for node in (1, 2, 3):
        broadcast.durable(Member(node, b"first"), OLD)
    assert broadcast.commit_point(Configuration(members(1, 2, 3))) == 0


def test_a_position_never_goes_back() -> None:
    broadcast = Broadcast(epoch=3)
    broadcast.durable(Member(1, b"first"), SECOND)
    broadcast.durable(Member(1, b"first"), FIRST)
    assert broadcast.commit_point(Configuration(members(1))) == SECOND


def test_what_waits_for_a_quorum_is_counted_until_it_is_committed() -> None:
    broadcast = Broadcast(epoch=3)
    for zxid in (RECORD, FIRST, SECOND):
        broadcast.appended(Entry(zxid, zxid - 1, b"", 100, None))
    assert broadcast.uncommitted_bytes == 3 * (100 + ENTRY_OVERHEAD_BYTES)
    broadcast.committed(FIRST)
    assert broadcast.uncommitted_bytes == 100 + ENTRY_OVERHEAD_BYTES
