"""Phase 3, broadcast: the leader's order of entries, and when they are committed.

The rule of commitment: an entry is committed when a quorum has it durably, *and* has the epoch record of this leader,
`(e, 0)`, durably too. Entries of earlier epochs are committed with `(e, 0)`, never by counting their own copies: a copy
on a quorum can still be replaced by a leader that was promised a later epoch and does not have it.

Pure: this module must not know messages, learners or the disk.
"""

from __future__ import annotations

from collections import deque

from sluicemq.broker.replication.history import Entry, window_bytes, zxid_of
from sluicemq.broker.replication.membership import Configuration, Member, reached_by_quorum


class Broadcast:
    """What a leader of *epoch* knows of copies of its log.

    Args:
        epoch: Its epoch, established.

    """

    def __init__(self, epoch: int) -> None:
        self.established_zxid = zxid_of(epoch, 0)
        self._reached: dict[Member, int] = {}
        self._uncommitted: deque[tuple[int, int]] = deque()
        self.uncommitted_bytes = 0

    def appended(self, entry: Entry) -> None:
        """The leader has given *entry* the next place in the order."""
        size_bytes = window_bytes((entry,))
        self._uncommitted.append((entry.zxid, size_bytes))
        self.uncommitted_bytes += size_bytes

    def durable(self, member: Member, zxid: int) -> None:
        """*member* has everything up to *zxid*, durably; the leader itself among the members."""
        if zxid > self._reached.get(member, 0):
            self._reached[member] = zxid

    def commit_point(self, configuration: Configuration) -> int:
        """Return up to where everything is committed; 0 while `(e, 0)` is not."""
        zxid = reached_by_quorum(configuration, self._reached)
        return zxid if zxid >= self.established_zxid else 0

    def committed(self, zxid: int) -> None:
        """Everything up to *zxid* is committed and needs no room any more."""
        while self._uncommitted and self._uncommitted[0][0] <= zxid:
            self.uncommitted_bytes -= self._uncommitted.popleft()[1]
