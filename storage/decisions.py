"""What a start finds on the disk and what it does about it, as tables: data that the recovery code looks up.

Why: whether bytes are cut, finished, made anew or refused is the most dangerous choice of a broker. Spread over code
it cannot be seen whole, so it stands here, row by row, each with what the operator does; a test proves that every
combination of observations matches exactly one row, and `docs/recovery.md` is made from the rows. The rule above all
rows: what may have been confirmed is never cut, removed or passed over without a word.

The tables themselves stand in `decisions_superblock`, `decisions_files` and `decisions_log`, in the order in which they
are asked; each is about one thing, and the first that refuses ends the start. This module knows no files: who asks
observes, and who asks acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NOTHING", "OWN", "REPAIR", "UPGRADE", "Decision", "Row", "Table"]


class Decision(Enum):
    """What a start does."""

    START = "go on"
    FORM = "form a new log"
    CUT = "cut, durably"
    FINISH = "finish what was begun"
    REBUILD = "make it anew"
    FALL_BACK = "fall back"
    REFUSE = "refuse to start"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: it holds when each dimension that `when` names has one of the values named.

    `name` is how messages and tests call it; `found`, `happens` and `operator` are sentences for people.
    """

    name: str
    when: tuple[Enum, ...]
    decision: Decision
    found: str
    happens: str
    operator: str

    def matches(self, seen: tuple[Enum, ...]) -> bool:
        """Whether it holds for one value of each dimension."""
        wanted = self.when
        named = {type(value) for value in wanted}
        return all(value in wanted for value in seen if type(value) in named)


@dataclass(frozen=True, slots=True)
class Table:
    """The rows for one thing that is observed, along its dimensions."""

    name: str
    about: str
    dimensions: tuple[type[Enum], ...]
    rows: tuple[Row, ...]

    def decide(self, *seen: Enum) -> Row:
        """The row for these observations: one value of each dimension, in order."""
        assert tuple(map(type, seen)) == self.dimensions, "an observation along every dimension"
        (row,) = (row for row in self.rows if row.matches(seen))
        return row

    def combinations(self) -> Iterator[tuple[Enum, ...]]:
        """Every combination of observations, possible or not."""
        return product(*self.dimensions)


NOTHING = "Nothing."
REPAIR = (
    "Restore the directory from a backup; in a cluster, start with an empty directory. Otherwise `sluicemq log repair` "
    "shows what would be lost, and goes on without it when told to."
)
OWN = "Point the broker at its own data directory, or remove the file that somebody put there."
UPGRADE = "Run the version that wrote it, or a newer one."
