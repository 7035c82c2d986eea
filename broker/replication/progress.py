"""How far one learner is, and how much may be on its way to it. A leader has one of these per learner.

===========  ================================================  ========================================================
state        meaning                                           what may be sent
===========  ================================================  ========================================================
PROBE        told what to do with its log, not yet confirmed   one message of entries
REPLICATE    its log is ours up to `acknowledged`              entries until the window is full
SNAPSHOT     a snapshot is on its way                          nothing
===========  ================================================  ========================================================

PROBE becomes REPLICATE with the first acknowledgement; any state becomes SNAPSHOT when the leader's log begins too late
for the learner; SNAPSHOT becomes REPLICATE when the learner has installed it.

Invariant: acknowledged <= sent. Between them lies the window; it is counted in bytes, and may be exceeded by one entry,
because an entry larger than the window must get through too. Nothing is sent twice in one session: connections are
reliable or they end, and with them the session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum

from sluicemq.broker.replication.history import Entry, Position, window_bytes


class ProgressState(Enum):
    """See the module."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """Progress of one learner in one session.

    Args:
        window_bytes_max: Most bytes that are sent and not acknowledged.
        message_bytes_max: Most bytes in one message.

    """

    def __init__(self, window_bytes_max: int, message_bytes_max: int) -> None:
        self._window_bytes_max = window_bytes_max
        self._message_bytes_max = message_bytes_max
        self._in_flight: deque[tuple[int, int]] = deque()
        self.in_flight_bytes = 0
        self.state = ProgressState.SNAPSHOT
        self.acknowledged_zxid = 0
        self.sent = Position(0, b"")
        """The last position that is on its way to the learner, or there."""
        self.reading = False
        """Whether entries for it are being read from the log."""

    def probe(self, position: Position) -> None:
        """The learner was told to bring its log to *position*."""
        self._restart(ProgressState.PROBE, position)

    def await_snapshot(self) -> None:
        """The learner was told to wait for a snapshot."""
        self._restart(ProgressState.SNAPSHOT, self.sent)

    def installed(self, position: Position) -> None:
        """The learner's log begins at *position*, durably."""
        self._restart(ProgressState.REPLICATE, position)
        self.acknowledged_zxid = position.zxid

    @property
    def room_bytes(self) -> int:
        """Bytes of entries that may be sent now; 0 if none may."""
        if self.state is ProgressState.SNAPSHOT or self.reading:
            return 0
        if not self._in_flight:
            return self._message_bytes_max
        if self.state is ProgressState.PROBE:
            return 0
        return max(0, min(self._message_bytes_max, self._window_bytes_max - self.in_flight_bytes))

    @property
    def idle(self) -> bool:
        """Whether everything sent was acknowledged."""
        return not self._in_flight

    def send(self, entries: Sequence[Entry]) -> None:
        """*entries* are on their way; they follow `sent`."""
        assert self.state is not ProgressState.SNAPSHOT, "nothing is proposed while a snapshot is under way"
        assert entries[0].previous_zxid == self.sent.zxid, "B1: a learner gets every entry, in order"
        size_bytes = window_bytes(entries)
        self.sent = entries[-1].position
        self._in_flight.append((self.sent.zxid, size_bytes))
        self.in_flight_bytes += size_bytes

    def acknowledge(self, zxid: int) -> None:
        """The learner has everything up to *zxid*, durably."""
        assert zxid <= self.sent.zxid, "I9: nobody acknowledges what was not sent"
        if self.state is ProgressState.PROBE:
            self.state = ProgressState.REPLICATE
        self.acknowledged_zxid = max(self.acknowledged_zxid, zxid)
        while self._in_flight and self._in_flight[0][0] <= zxid:
            self.in_flight_bytes -= self._in_flight.popleft()[1]

    def _restart(self, state: ProgressState, position: Position) -> None:
        self.state = state
        self.sent = position
        self.acknowledged_zxid = 0
        self.reading = False
        self._in_flight.clear()
        self.in_flight_bytes = 0
