"""Turns between processes that run tests at the same time: a test that measures runs while no other one does.

Two files, locked, in a directory that the processes share: who has the *room* runs tests, many together or one alone;
who comes to the *door* waits there for the room and lets nobody pass meanwhile, so that who wants to be alone waits no
longer than the tests take that run already. The system frees both when a process ends, however it ends.

It must not know pytest: tests/conftest.py says when a test begins, and which tests these are.
"""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Turns:
    """One process's part in it."""

    def __init__(self, shared: Path) -> None:
        self._door = (shared / "door").open("wb")
        self._room = (shared / "room").open("wb")
        self._alone = False

    def begin(self, *, alone: bool) -> None:
        """Return when the test may run."""
        if self._alone and alone:
            return
        fcntl.flock(self._door, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._door, fcntl.LOCK_UN)
        self._alone = alone

    def end(self, *, stay_alone: bool) -> None:
        """Let others run, unless the next test of this process is alone as well."""
        if not (self._alone and stay_alone):
            fcntl.flock(self._room, fcntl.LOCK_UN)
            self._alone = False

    def close(self) -> None:
        """Leave."""
        self._door.close()
        self._room.close()
