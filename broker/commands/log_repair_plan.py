"""What a repair of a directory found and means to do, as it is shown before anything is changed.

Why apart: the command that shows it, the module that makes it and the one that settles what is lost all speak of it.
This module must not know files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.storage.errors import StorageError, format_zxid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.storage.superblock import Superblock, Truncation


class Span(NamedTuple):
    """Entries that are lost, both ends included; what of them existed is not always known."""

    first_zxid: int
    last_zxid: int

    def __str__(self) -> str:
        """As all tools show zxids."""
        return f"{format_zxid(self.first_zxid)} to {format_zxid(self.last_zxid)}"

    @property
    def over_epochs(self) -> bool:
        """Whether it begins in one epoch and ends in another."""
        return self.first_zxid >> 32 != self.last_zxid >> 32

    @property
    def entries(self) -> int:
        """How many entries: at most, or at least where it reaches `over_epochs`, as an epoch's end is not known."""
        if self.over_epochs:
            return (self.last_zxid & 0xFFFFFFFF) + 1
        return self.last_zxid - self.first_zxid + 1


class Damaged(NamedTuple):
    """A file that is not as it should be, and what will be done."""

    name: str
    offset: int
    reason: str
    remedy: str


class CannotRepair(StorageError):
    """What is there is not enough to go on from. Nothing was changed."""

    def _explain(self) -> str:
        return f"{self.args[0]}; nothing was changed. Restore the directory from a backup"


class RepairStopped(StorageError):
    """The disk refused something while a repair was carried out. Run again, it goes on."""

    def __init__(self, path: str, error: OSError) -> None:
        super().__init__(path, error)
        self.file = error.filename or path
        self.error_number = error.errno

    def _explain(self) -> str:
        path, error = self.args
        place = path if error.filename is None else error.filename
        return (
            f"the repair of {path} stopped, because the disk refused to read or write {place}: "
            f"{error.strerror or error} (errno {error.errno}). Damaged files that were kept stay under damaged/, "
            "and nothing more is lost by this. Free space, or mend the disk, then run `sluicemq log repair` again: "
            "it does what is left. Do not start a broker before"
        )


class NoRoomToRepair(StorageError):
    """Damaged files cannot be kept aside. Nothing was changed."""

    def __init__(self, path: str, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(path, needed_bytes, free_bytes)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes

    def _explain(self) -> str:
        path, needed, free = self.args
        return (
            f"the repair of {path} needs {needed} bytes to keep the damaged files and to write anew what can be read "
            f"of them, and {free} are free; nothing was changed. Free that much, then run it again"
        )


@dataclass(slots=True)
class Plan:
    """What was found, and what will be done.

    Attributes:
        damaged: Every damaged file.
        lost: Entries that are lost.
        lost_messages: Messages among them by queue, as far as known.
        notes: What else the operator should know.

    """

    damaged: list[Damaged] = field(default_factory=list)
    lost: list[Span] = field(default_factory=list)
    lost_messages: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    superblock: Superblock | None = None
    snapshot_names: list[str] = field(default_factory=list)
    rewrite: list[str] = field(default_factory=list)
    rebase: SnapshotBase | None = None
    cut: Truncation | None = None
    aside: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Nothing is to be done."""
        return not self.damaged


class SnapshotBase(NamedTuple):
    """A good snapshot that the log can begin anew from."""

    name: str
    zxid: int
    chain: bytes


def is_lost(zxid: int, lost: Sequence[Span]) -> bool:
    """Whether an entry lies in one of the spans."""
    return any(span.first_zxid <= zxid <= span.last_zxid for span in lost)
