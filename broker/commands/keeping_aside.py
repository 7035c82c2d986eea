"""Keeping damaged files before anything is changed: durable copies in a numbered folder of their own.

Why apart: nothing of a repair may begin before these copies are on the disk. This module must not know what is damaged.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sluicemq.storage.scan import Readable

COPY_BYTES = 1024 * 1024


def make_folder(parent: Path) -> Path:
    """Make a new folder in *parent*, numbered from 1, and return it."""
    number = 1
    while (folder := parent / str(number)).exists():
        number += 1
    folder.mkdir(parents=True)
    return folder


def copy_durably(source: Path, target: Path, read: Readable) -> None:
    """Copy a file with its times; its content is durable when this returns, its name after `sync_folders`.

    *read* is the same file, opened by who knows a way round what cannot be read of it. The copy is whole under its name
    or not there, and has holes where the file is zero.
    """
    aside = target.with_name(f"{target.name}.new")
    size = source.stat().st_size
    try:
        with aside.open("wb") as copied:
            for offset in range(0, size, COPY_BYTES):
                data = read.pread(min(COPY_BYTES, size - offset), offset)
                if data.strip(b"\0"):
                    copied.seek(offset)
                    copied.write(data)
            copied.truncate(size)
            copied.flush()
            os.fsync(copied.fileno())
    except OSError as error:
        aside.unlink(missing_ok=True)  # half a copy is of no use, and the disk may be full
        raise OSError(error.errno, error.strerror, str(target)) from error
    shutil.copystat(source, aside)
    aside.replace(target)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there with all of *text* or as it was; its name is durable after `sync_folders`."""
    aside = path.with_suffix(".new")
    with aside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def free_bytes(folder: Path) -> int:
    """Return how many bytes may still be written there."""
    figures = os.statvfs(folder)
    return figures.f_bavail * figures.f_frsize


def sync_folders(folder: Path) -> None:
    """Make the names in *folder* durable, and its own and its parent's."""
    for each in (folder, folder.parent, folder.parent.parent):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
