"""`python -m tests.e2e.chaos.faulty_broker FILE serve ...`: the broker, whose wall clock jumps and whose disk fills up.

What is wrong stands in FILE, as JSON, and is looked at all the time:
`clock_seconds` is added to the wall clock; while `disk_full`, nothing is free, and no file grows, as on a real disk
that is full: what has its blocks can be overwritten. Everything else is the program that users start.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import threading
import time
from pathlib import Path

LOOK_SECONDS = 0.05


class Faults:
    """What is wrong at the moment.

    Args:
        path: The file that says so; nothing is wrong while it is not there.

    """

    def __init__(self, path: Path) -> None:
        self.clock_seconds = 0.0
        self.disk_full = False
        self._path = path
        self.look()
        threading.Thread(target=self._watch, daemon=True, name="faults").start()

    def look(self) -> None:
        """Read the file."""
        told = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            told = json.loads(self._path.read_bytes())
        self.clock_seconds = told.get("clock_seconds", 0.0)
        self.disk_full = told.get("disk_full", False)

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            self.look()


def put_in_force(faults: Faults) -> None:
    """Let this process live with *faults*."""
    from sluicemq.storage import files

    wall, write, free_bytes = time.time, files.RealFile.pwritev, files.RealDirectory.free_bytes
    truncate = files.RealFile.truncate

    def jumping_wall() -> float:
        return wall() + faults.clock_seconds

    def check_room(file: files.RealFile, end: int) -> None:
        if faults.disk_full and end > file.size():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_if_room(self: files.RealFile, buffers, offset: int) -> None:
        if faults.disk_full:
            check_room(self, offset + sum(map(len, buffers)))
        write(self, buffers, offset)

    def truncate_if_room(self: files.RealFile, size: int) -> None:
        check_room(self, size)
        truncate(self, size)

    def free_bytes_of(self: files.RealDirectory) -> int:
        return 0 if faults.disk_full else free_bytes(self)

    time.time = jumping_wall
    files.RealFile.pwritev = write_if_room  # type: ignore[method-assign]
    files.RealFile.truncate = truncate_if_room  # type: ignore[method-assign]
    files.RealDirectory.free_bytes = free_bytes_of  # type: ignore[method-assign]


def main() -> None:
    """Run the broker's command line."""
    from sluicemq.broker.cli import main as broker

    put_in_force(Faults(Path(sys.argv.pop(1))))
    broker()


if __name__ == "__main__":
    main()
