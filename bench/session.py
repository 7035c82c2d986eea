"""The servers and workers of one run, and turns on a shared machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

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
        self.directory = Path(tempfile.mkdtemp(prefix="sluicemq-bench-", dir=place))
        # Servers that change their user must reach their data.
        self.directory.chmod(0o755)
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
            server = system.server_class()(self.directory / system.server.replace(":", "-"))
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

    def drop_workers(self, system: System) -> None:
        """End the workers of *system* after a failure; the next use starts new ones."""
        for key in [key for key in self._workers if key[0] == system.name]:
            self._workers.pop(key).close()
