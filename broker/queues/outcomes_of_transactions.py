"""What entries about transactions and half messages did; see `outcomes`."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Transacted:
    """The transaction holds, as a whole.

    Attributes:
        zxid: The entry that did it; 0 for a duplicate so old that its receipt is forgotten.
        count: Messages that it published.
        duplicate: Whether it was done before, by this entry.
        known: Which of its messages are not stored, because others with their ids were; see `IdWindow.judge`.
        id_base: Id of the first message, for those without one of their own; 0: forgotten.

    """

    zxid: int
    count: int
    duplicate: bool
    known: list[int] = dataclasses.field(default_factory=list)
    id_base: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """The half message is stored; its number is *zxid*, 0 for a duplicate so old that its receipt is forgotten."""

    zxid: int
    count: int
    duplicate: bool
    id_base: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Resolved:
    """The half message is committed, or rolled back; *again*: it was so before. *messages* became ready now.

    Those that *known* names did not, because others with their ids were stored before; see `IdWindow.judge`.
    """

    committed: bool
    again: bool
    messages: int
    known: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class ChecksDue:
    """Somebody is to be asked now about the half messages *asked*; those that are *parked* were asked too often."""

    asked: list[int]
    parked: list[int]
