"""What the core knows of a log: positions, entries, and the last position of each epoch.

The contents of entries are none of the core's business, with two exceptions that it writes itself: the record that
begins an epoch and the record that changes the membership. Everything else travels as an opaque `body`. This module
must not know who leads or who follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sluicemq.broker.replication.membership import Configuration

EPOCH_BITS = 32
COUNTER_MASK = (1 << EPOCH_BITS) - 1
EPOCH_MAX = (1 << 32) - 1
ENTRY_OVERHEAD_BYTES = 64
"""What an entry counts beyond its body in every window, so that a flood of empty entries is bounded too."""


def epoch_of(zxid: int) -> int:
    """Return the epoch in which the entry *zxid* was written."""
    return zxid >> EPOCH_BITS


def counter_of(zxid: int) -> int:
    """Return the place of the entry *zxid* in its epoch; 0 is the epoch record."""
    return zxid & COUNTER_MASK


def zxid_of(epoch: int, counter: int) -> int:
    """Return the zxid of the entry at *counter* of *epoch*."""
    return (epoch << EPOCH_BITS) | counter


def show_zxid(zxid: int) -> str:
    """Return *zxid* as people read it: `epoch.counter`."""
    return f"{epoch_of(zxid)}.{counter_of(zxid)}"


class Position(NamedTuple):
    """A place in a log: after the entry `zxid`, whose chain hash is `chain`.

    Two logs with the same position have the same entries up to it, because the chain runs over all of them.
    """

    zxid: int
    chain: bytes

    def __str__(self) -> str:
        return f"{show_zxid(self.zxid)}/{self.chain.hex()[:8]}"


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """Body of the entry `(epoch, 0)`: from here on *leader* writes, with the members of *configuration*."""

    leader: int
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class MembershipRecord:
    """Body of an entry after which *configuration* holds (see `membership` for the two records of a change)."""

    configuration: Configuration


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log as the core sees it.

    Attributes:
        zxid: `epoch << 32 | counter`.
        previous_zxid: The entry before it; 0 before the first. A receiver refuses a gap.
        chain: Chain hash after this entry.
        length_bytes: What it takes on the wire and in windows.
        body: `EpochRecord`, `MembershipRecord`, or anything else, which the core never looks at.

    """

    zxid: int
    previous_zxid: int
    chain: bytes
    length_bytes: int
    body: object

    @property
    def position(self) -> Position:
        """The place after this entry."""
        return Position(self.zxid, self.chain)

    def __str__(self) -> str:
        return show_zxid(self.zxid)


def configuration_in(entry: Entry) -> Configuration | None:
    """Return the configuration that *entry* brings, if it is one of the core's own records."""
    body = entry.body
    return body.configuration if isinstance(body, EpochRecord | MembershipRecord) else None


def window_bytes(entries: Iterable[Entry]) -> int:
    """Return what *entries* take in a window."""
    return sum(entry.length_bytes + ENTRY_OVERHEAD_BYTES for entry in entries)


def follows(previous_zxid: int, zxid: int) -> bool:
    """Say whether *zxid* may come right after *previous_zxid*: the next of its epoch, or the first of a later epoch."""
    if epoch_of(zxid) == epoch_of(previous_zxid):
        return zxid == previous_zxid + 1
    return counter_of(zxid) == 0 and epoch_of(zxid) > epoch_of(previous_zxid)


class History:
    """Where a log begins, and the last position of each epoch in it.

    The first row belongs to the epoch in which the log begins: its last entry, or the log's beginning where no further
    entry of that epoch follows. That is all that `synchronization.plan` needs to compare two logs.

    Args:
        start: Position after which the log proper begins; what lies before is in a snapshot.
        ends: Last position of each epoch that has entries in the log proper, rising.

    """

    def __init__(self, start: Position, ends: Sequence[Position] = ()) -> None:
        self.start = start
        self._ends = list(ends)
        if not ends or epoch_of(ends[0].zxid) > epoch_of(start.zxid):
            self._ends.insert(0, start)
        assert self._ends[0].zxid >= start.zxid, "a log ends behind its beginning"
        assert all(
            epoch_of(before.zxid) < epoch_of(after.zxid)
            for before, after in zip(self._ends, self._ends[1:], strict=False)
        ), "each epoch has one row, in order"

    @property
    def last(self) -> Position:
        """Position of the last entry."""
        return self._ends[-1]

    @property
    def ends(self) -> tuple[Position, ...]:
        """Last position of each epoch, rising; at least one."""
        return tuple(self._ends)

    def append(self, entry: Entry) -> None:
        """Note that *entry* was appended."""
        last = self._ends[-1]
        assert entry.previous_zxid == last.zxid, f"entry {entry} does not follow {last}"
        assert follows(last.zxid, entry.zxid), f"entry {entry} cannot follow {last}"
        if epoch_of(entry.zxid) == epoch_of(last.zxid):
            self._ends[-1] = entry.position
        else:
            self._ends.append(entry.position)

    def truncate(self, position: Position) -> None:
        """Note that everything after *position* was cut off."""
        assert self.start.zxid <= position.zxid <= self.last.zxid, f"{position} lies outside of the log"
        epoch = epoch_of(position.zxid)
        while self._ends and epoch_of(self._ends[-1].zxid) >= epoch:
            self._ends.pop()
        self._ends.append(position)

    def restart(self, position: Position) -> None:
        """Note that a snapshot at *position* has replaced the log."""
        self.start = position
        self._ends = [position]

    def begin_at(self, start: Position) -> None:
        """Note that the log proper begins later now: what lies before *start* is in a snapshot only."""
        if start.zxid <= self.start.zxid:
            return
        assert start.zxid <= self.last.zxid, f"a log cannot begin at {start}, behind its end"
        self.start = start
        kept = [end for end in self._ends if end.zxid > start.zxid]
        self._ends = kept if kept and epoch_of(kept[0].zxid) == epoch_of(start.zxid) else [start, *kept]

    def end_of(self, epoch: int) -> Position | None:
        """Return the last position of *epoch*, or None if the log has none."""
        return next((end for end in reversed(self._ends) if epoch_of(end.zxid) == epoch), None)
