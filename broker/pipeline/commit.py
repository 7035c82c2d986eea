"""Stage 4, commit: entries wait here, in order, until a quorum has them durably.

This stage must not know what entries mean or who waits for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

OnApplied = Callable[[Any], None]


class Proposed(NamedTuple):
    """One entry on its way: where it stands in the log, what it says, and who wants to hear the verdict."""

    zxid: int
    entry: Any
    on_applied: OnApplied | None


class Commits(Protocol):
    """Entries on their way, oldest first."""

    committed_zxid: int

    def commit(self, zxid: int) -> None:
        """Everything up to *zxid* is committed."""

    def next_committed(self) -> Proposed | None:
        """Take the oldest entry if it is committed."""

    def put_back(self, proposed: Proposed) -> None:
        """Let *proposed*, just taken, be the oldest again: its turn has not come."""

    def __len__(self) -> int:
        """How many are under way."""


class CommitStage:
    """Entries that are proposed and not applied yet, oldest first. Bounded by the append stage's pending bytes."""

    def __init__(self) -> None:
        self._waiting: deque[Proposed] = deque()
        self.committed_zxid = 0

    def propose(self, zxid: int, entry: Any, on_applied: OnApplied | None) -> None:
        """Queue *entry*; zxids must rise."""
        self._waiting.append(Proposed(zxid, entry, on_applied))

    def commit(self, zxid: int) -> None:
        """Everything up to *zxid* is committed."""
        if zxid > self.committed_zxid:
            self.committed_zxid = zxid

    def next_committed(self) -> Proposed | None:
        """Take the oldest entry if it is committed."""
        if self._waiting and self._waiting[0].zxid <= self.committed_zxid:
            return self._waiting.popleft()
        return None

    def put_back(self, proposed: Proposed) -> None:
        """Let *proposed*, just taken, be the oldest again: its turn has not come."""
        self._waiting.appendleft(proposed)

    def __len__(self) -> int:
        return len(self._waiting)
