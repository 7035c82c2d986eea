"""What a run that was killed has left behind: its folder, and servers that still run in it.

A run ends its servers itself, but for `kill -9`. What it left would take processor time from the next one, and disk.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

PREFIX = "sluicemq-bench-"
OWNER = "owner"
"""A file in the folder of a run: the id of its process, and when that began, for ids come again."""


def make_folder(place: Path) -> Path:
    """Return a new folder below *place* that says whose it is."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    # Servers that change their user must reach their data.
    folder.chmod(0o755)
    (folder / OWNER).write_text(_identity(psutil.Process(os.getpid())))
    return folder


def remove_leftovers(place: Path) -> list[str]:
    """End what still runs in folders of runs that are gone, remove the folders, and return a line about each."""
    said = []
    for folder in sorted(place.glob(PREFIX + "*")):
        if not folder.is_dir() or _owner_runs(folder):
            continue
        ended = [process.pid for process in psutil.process_iter() if _ended(process, folder)]
        shutil.rmtree(folder, ignore_errors=True)
        processes = f", and ended its processes {', '.join(map(str, ended))}" if ended else ""
        said.append(f"removed {folder.name} of an earlier run{processes}")
    return said


def _identity(process: psutil.Process) -> str:
    return f"{process.pid} {process.create_time():.2f}"


def _owner_runs(folder: Path) -> bool:
    try:
        written = (folder / OWNER).read_text()
        return _identity(psutil.Process(int(written.split()[0]))) == written
    except (OSError, ValueError, IndexError, psutil.Error):
        return False


def _ended(process: psutil.Process, folder: Path) -> bool:
    """End *process* if it works within *folder*; return whether it did."""
    with suppress(psutil.Error, OSError):
        if Path(process.cwd()).is_relative_to(folder):
            process.kill()
            process.wait(5)
            return True
    return False
