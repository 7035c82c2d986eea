"""The servers and workers of one run, and turns on a shared machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import psutil

from bench.leftovers import make_folder, remove_leftovers
from bench.servers import Server
from bench.systems import System
from bench.workers import Worker


def note(text: str) -> None:
    """Tell whoever waits what happens."""
    print(text, file=sys.stderr, flush=True)


class Session:
    """Starts servers and workers when they are first needed; ends them all.

    Args:
        systems: Who takes part.
        place: A directory on the file system to measure; data goes below a temporary one in it.
        lock: A file to lock during each measurement, so that other heavy work on the machine can take turns.

    """

    def __init__(self, systems: list[System], place: Path, lock: Path | None = None) -> None:
        self.systems = systems
        for text in remove_leftovers(place):
            note(text)
        self.directory = make_folder(place)
        self._lock = lock
        self._servers: dict[str, Server] = {}
        self._workers: dict[tuple[str, str], Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for worker in self._workers.values():
            worker.close()
        for server in self._servers.values():
            server.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the lock, if there is one."""
        if self._lock is None:
            yield
            return
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def server(self, system: System) -> Server:
        """Return the running server of *system*; systems with the same configuration share it."""
        server = self._servers.get(system.server)
        if server is None:
            directory = Path(tempfile.mkdtemp(prefix=system.server.replace(":", "-") + "-", dir=self.directory))
            directory.chmod(0o755)
            server = system.server_class()(directory)
            server.start()
            self._servers[system.server] = server
        return server

    @contextmanager
    def fresh_server(self, system: System, prefix: tuple[str, ...] = ()) -> Iterator[Server]:
        """Yield a server of its own on an empty directory, started; remove both."""
        directory = Path(tempfile.mkdtemp(prefix="fresh-", dir=self.directory))
        directory.chmod(0o755)
        server: Server = system.server_class()(directory, prefix)
        try:
            server.start()
            yield server
        finally:
            server.stop()
            shutil.rmtree(directory, ignore_errors=True)

    def worker(self, system: System, role: str = "producer") -> Worker:
        """Return the worker of *system* in this role."""
        worker = self._workers.get((system.name, role))
        if worker is None:
            worker = self._workers[(system.name, role)] = Worker(system.name)
        return worker

    def drop(self, system: System) -> None:
        """End server and workers of *system* after a failure, whatever their state; the next use starts others."""
        for key in [key for key in self._workers if key[0] == system.name]:
            self._workers.pop(key).close()
        server = self._servers.pop(system.server, None)
        if server is not None:
            with suppress(OSError, psutil.Error, subprocess.SubprocessError):
                server.stop()
            shutil.rmtree(server.directory, ignore_errors=True)
