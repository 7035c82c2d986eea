"""Entries that this broker has and has not applied yet, in order: the commit stage of an ensemble.

What comes in is kept until it is committed and applied. What is not in memory (a broker that starts has a log behind
its snapshot, one that lags has more than it may keep) is read back from the log, in pieces, by a thread. Whoever
proposed an entry hears the verdict while its leadership lasts, and never after.

This module must not know how entries become committed.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from sluicemq.broker.pipeline.commit import Proposed
from sluicemq.broker.pipeline.ensemble.records import KEPT_ENTRY_BYTES, Body, body_in, entry_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.broker.replication.history import Entry
    from sluicemq.storage.record import Record

BACKLOG_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of entries in memory beyond which durable ones are dropped that nobody here waits for; they are read again."""


class Backlog:
    """See the module.

    Args:
        applied_zxid: The last entry that was applied.

    Attributes:
        committed_zxid: Everything up to here is committed.

    """

    def __init__(self, applied_zxid: int) -> None:
        self.committed_zxid = applied_zxid
        self._taken_zxid = applied_zxid
        self._filled_zxid = 0
        # (zxid, previous zxid, body), contiguous but for a gap between what was read back and what came in.
        self._waiting: deque[tuple[int, int, object]] = deque()
        self._bytes = 0
        self._last: tuple[int, int, object] | None = None

    # --- coming in ----------------------------------------------------------------------------------------------------

    def append(self, entries: Iterable[Entry], durable_zxid: int) -> None:
        """Take *entries*, behind all others; what is durable is so up to *durable_zxid*."""
        for entry in entries:
            self._waiting.append((entry.zxid, entry.previous_zxid, entry.body))
            self._bytes += _size(entry.body)
        waiting, filled_zxid = self._waiting, self._filled_zxid
        while self._bytes > BACKLOG_BYTES_MAX and filled_zxid < waiting[0][0] <= durable_zxid:
            if _is_awaited(waiting[0][2]):
                break
            self._bytes -= _size(waiting.popleft()[2])

    def truncate(self, zxid: int) -> None:
        """What is behind *zxid* was cut off; it is not committed."""
        assert zxid >= self.committed_zxid, "what is committed is never cut off"
        while self._waiting and self._waiting[-1][0] > zxid:
            self._bytes -= _size(self._waiting.pop()[2])

    def commit(self, zxid: int) -> None:
        """Everything up to *zxid* is committed."""
        self.committed_zxid = max(self.committed_zxid, zxid)

    def forget_waiters(self) -> None:
        """The leadership is over: nobody hears the verdict on what is left."""
        for _, _, body in self._waiting:
            if isinstance(body, Body):
                body.on_applied = None

    def install(self, zxid: int) -> None:
        """A snapshot up to *zxid* takes the place of everything: also of what came after it by another history."""
        self._waiting.clear()
        self._bytes = self._filled_zxid = 0
        self.restart(zxid)

    def restart(self, applied_zxid: int) -> None:
        """The machine is at *applied_zxid* now; nothing before it is applied any more."""
        while self._waiting and self._waiting[0][0] <= applied_zxid:
            self._bytes -= _size(self._waiting.popleft()[2])
        self._taken_zxid = applied_zxid
        self.committed_zxid = max(self.committed_zxid, applied_zxid)

    # --- going out ----------------------------------------------------------------------------------------------------

    def next_committed(self) -> Proposed | None:
        """Take the oldest entry if it is committed and in memory. Raises EntryUnknown."""
        waiting = self._waiting
        if not waiting:
            return None
        zxid, previous_zxid, body = waiting[0]
        if zxid > self.committed_zxid or previous_zxid != self._taken_zxid:
            return None
        entry = entry_of(zxid, body)
        if self._last is not None and isinstance(self._last[2], Body):
            self._last[2].forget()
        self._last = waiting.popleft()
        self._bytes -= _size(body)
        self._taken_zxid = zxid
        return Proposed(zxid, entry, body.on_applied if isinstance(body, Body) else None)

    def put_back(self, proposed: Proposed) -> None:
        """Let *proposed*, just taken, be the oldest again: its turn has not come."""
        assert self._last is not None
        assert self._last[0] == proposed.zxid, "only the last one is put back"
        self._waiting.appendleft(self._last)
        self._bytes += _size(self._last[2])
        self._taken_zxid = self._last[1]
        self._last = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether everything that is committed was taken."""
        return self._taken_zxid >= self.committed_zxid

    # --- reading back -------------------------------------------------------------------------------------------------

    def missing(self) -> tuple[int, int] | None:
        """Return after which entry and up to which one committed entries have to be read back; None: none are."""
        after, upto = self._taken_zxid, self.committed_zxid
        if self._waiting:
            upto = min(upto, self._waiting[0][1])
        return (after, upto) if after < upto else None

    def fill(self, after: int, records: list[Record]) -> None:
        """Take what was read back behind *after*; if something else was applied meanwhile, it comes too late."""
        if after != self._taken_zxid:
            return
        first_zxid = self._waiting[0][0] if self._waiting else None
        items: list[tuple[int, int, object]] = []
        for record in records:
            if first_zxid is not None and record.zxid >= first_zxid:
                break
            items.append((record.zxid, after, body_in(record)))
            after = record.zxid
        for item in reversed(items):
            self._waiting.appendleft(item)
            self._bytes += _size(item[2])
        # Whoever read them waits until they are applied: dropped again, they would never be.
        self._filled_zxid = after


def _is_awaited(body: object) -> bool:
    return isinstance(body, Body) and body.on_applied is not None


def _size(body: object) -> int:
    if not isinstance(body, Body):
        return KEPT_ENTRY_BYTES
    return KEPT_ENTRY_BYTES + len(body.record.header) + len(body.record.payload)
