"""Servers as processes: start on a loopback port, read what the operating system says of them, stop by id.

It must not know any protocol. What counts as a server is its whole process tree: RabbitMQ is a shell script that starts
an Erlang machine that starts helpers.
"""

from __future__ import annotations

import abc
import os
import random
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
PORTS = range(20_000, 32_000)
"""Below those that the system gives to outgoing connections: a server that was killed or stopped must not find its port
taken by some client's connection when it comes back."""


class ServerFailed(RuntimeError):
    """A server did not start or ended early; the message holds the end of its log."""


_given: set[int] = set()


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses at the moment, and that was not returned before."""
    for port in random.sample(PORTS, len(PORTS)):
        if port in _given:
            continue
        with socket.socket() as probe:
            # As servers do: a connection that has ended, and is only remembered, takes nothing.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise ServerFailed(f"no port from {PORTS.start} to {PORTS.stop - 1} is free")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process tree has used so far: CPU in seconds, resident memory in bytes."""

    cpu_seconds: float
    memory_bytes: int


def usage_of(pid: int) -> Usage:
    """Return the usage of process *pid* and all below it, those included that have ended and were waited for."""
    cpu, memory = 0.0, 0
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
            cpu += times.user + times.system + times.children_user + times.children_system
            memory += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return Usage(cpu, memory)


class Server(abc.ABC):
    """One server; subclasses say which command, with which environment.

    Data outlives `stop` and serves the next `start`.

    Args:
        directory: For its data and its log; made if missing. On the file system that is to be measured.
        prefix: Command in front of the server's own, such as strace.

    """

    program = ""

    def __init__(self, directory: Path, prefix: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.prefix = prefix
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @abc.abstractmethod
    def command(self) -> list[str]:
        """Return the command that runs it in the foreground."""

    def environment(self) -> dict[str, str]:
        """Return what its environment has beyond ours."""
        return {}

    @property
    def pid(self) -> int:
        """The id of its first process."""
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it was started and neither stopped nor reaped."""
        return self._process is not None

    @property
    def ports(self) -> tuple[int, ...]:
        """Where clients connect: one port."""
        return (self.port,)

    def pids(self) -> list[int]:
        """Return the ids of all its processes, helpers included."""
        root = psutil.Process(self.pid)
        return [root.pid, *(child.pid for child in root.children(recursive=True))]

    def usage(self) -> Usage:
        """Return what it has used so far, helpers included."""
        return usage_of(self.pid)

    def synchronous_files(self) -> int:
        """Return how many files it holds open whose every write is a sync by itself (O_SYNC, O_DSYNC)."""
        root = psutil.Process(self.pid)
        count = 0
        for process in [root, *root.children(recursive=True)]:
            for described in Path(f"/proc/{process.pid}/fdinfo").glob("*"):
                flags = next(
                    line.split()[1] for line in described.read_text().splitlines() if line.startswith("flags:")
                )
                count += bool(int(flags, 8) & os.O_DSYNC)
        return count

    def start(self) -> float:
        """Start it and wait until it takes connections; return the seconds that this took.

        Raises:
            ServerFailed: It ended, or was not ready in time.

        """
        started = time.monotonic()
        self.spawn()
        self.wait_answering(started)
        return time.monotonic() - started

    def spawn(self) -> None:
        """Start it without waiting."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, **self.environment()},
                start_new_session=True,
            )

    def wait_answering(self, started: float) -> None:
        """Return when it takes connections.

        Raises:
            ServerFailed: It ended, or was not ready in time.

        """
        assert self._process is not None
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() - started > START_SECONDS_MAX:
                self.stop()
                raise ServerFailed(f"{self.program} did not start: ...{self._log_end()}")
            time.sleep(0.005)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _log_end(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-1500:]

    def reap(self) -> None:
        """Wait for the end of a process that was killed from outside, so that it can be started again."""
        process, self._process = self._process, None
        assert process is not None
        process.wait(STOP_SECONDS_MAX)

    def stop(self) -> None:
        """Ask it to end, and end by id whatever of its tree is left after a while."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            tree = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            tree = []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _gone, alive = psutil.wait_procs(tree, timeout=STOP_SECONDS_MAX / 4)
        for member in alive:
            member.kill()
