"""What the core may ask of the log while it decides. Read only; writing is an effect.

The view shows every entry of the `Append` effects given so far, durable or not, and not what a `Truncate` cut off.
After a `Join` it shows exactly what is durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sluicemq.broker.replication.history import Entry, Position
from sluicemq.broker.replication.membership import Configuration


class LogView(Protocol):
    """A log as the core sees it."""

    @property
    def start(self) -> Position:
        """Where the log proper begins: the position of the snapshot before it, or zxid 0. It may rise at any time."""
        ...

    def ends(self) -> Sequence[Position]:
        """Return the last position of each epoch that has entries in the log proper, rising."""
        ...

    def chain_at(self, zxid: int) -> bytes | None:
        """Return the chain hash at the entry *zxid* or at `start`; None if the log proper does not hold it."""
        ...

    def configuration_at(self, zxid: int) -> tuple[int, Configuration] | None:
        """Return the last configuration at or before *zxid*, also of a snapshot, and its entry; None without one."""
        ...

    def seal(self, zxid: int, previous: Position, body: object) -> Entry:
        """Make the entry *zxid* that follows *previous*: its length and its chain hash. Changes nothing."""
        ...
