"""Faults that a simulated disk was told to have: which operation they strike, and what it does then.

Why apart from the disk: that one models what any disk may do when the power goes off; this is what a bad or busy one
does on top, and only when a test asks for it. Knows no files and no contents.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

WAIT_SECONDS = 60.0
"""Real seconds after which a thread that should have come to the disk, or should have been let go, is given up."""


@dataclass(frozen=True)
class Failure:
    """The operation raises OSError with this errno."""

    error_number: int


@dataclass(frozen=True)
class Loss:
    """The write is acknowledged and never done: readers see it as long as the kernel keeps the page."""


@dataclass(frozen=True)
class Misdirection:
    """The write lands elsewhere: in the file of this name (None: its own) at this offset (None: anywhere in it)."""

    to_name: str | None = None
    to_offset: int | None = None


Fault = Failure | Loss | Misdirection


@dataclass
class _Planned:
    remaining: int
    kind: str | None
    name_prefix: str
    fault: Fault


class FaultPlan:
    """The faults that are still to come. Each strikes once, at the n-th operation that it is meant for."""

    def __init__(self) -> None:
        self._planned: list[_Planned] = []

    def add(self, fault: Fault, operations: int, kind: str | None, name_prefix: str) -> None:
        """Strike the n-th operation from now (1: the next) of this kind on files whose names begin so."""
        self._planned.append(_Planned(operations, kind, name_prefix, fault))

    def due(self, kind: str, name: str) -> Fault | None:
        """Count this operation; the fault that strikes it."""
        for planned in self._planned:
            if planned.kind not in (None, kind) or not name.startswith(planned.name_prefix):
                continue
            planned.remaining -= 1
            if not planned.remaining:
                self._planned.remove(planned)
                return planned.fault
        return None

    def clear(self) -> None:
        """No more faults."""
        self._planned.clear()

    def __bool__(self) -> bool:
        return bool(self._planned)


class HeldSyncs:
    """Syncs of some files wait until the test lets them go: a slow disk without a clock. A context manager."""

    def __init__(self, name_prefix: str) -> None:
        self.name_prefix = name_prefix
        self._changed = threading.Condition()
        self._waiting = 0
        self._held = True

    @property
    def waiting(self) -> int:
        """Threads that are in a sync now."""
        return self._waiting

    def wait_until_held(self, threads: int = 1) -> None:
        """Return when this many threads wait in a sync. Raises AssertionError after WAIT_SECONDS."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting >= threads, WAIT_SECONDS), "nobody came to sync"

    def let_go(self) -> None:
        """All syncs finish, those to come too."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def stand_in_line(self) -> None:
        """The disk's side: wait until the test lets go."""
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            try:
                assert self._changed.wait_for(lambda: not self._held, WAIT_SECONDS), "a held sync was never let go"
            finally:
                self._waiting -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
