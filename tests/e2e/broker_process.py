"""A real broker in a process of its own: started, watched, stopped, killed, and never left behind.

Why: what this project promises is about processes and disks, so the tests in this folder talk to the program that users
start, over a real socket. This module knows the command line, the ready line and signals; it must not know the protocol
(see `wire_client`).
"""

from __future__ import annotations

import atexit
import os
import re
import selectors
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

READY = re.compile(rb"^sluicemq (\d+) ready on sluicemq://(\S+):(\d+)$")
PROGRAM = ("-m", "sluicemq.broker.cli")
"""Works from an editable install as well as with the packages on PYTHONPATH."""
START_SECONDS_MAX = 120.0
"""Patience with a start on a loaded machine; how fast a start must be is the business of `at_rest`."""
STOP_SECONDS_MAX = 60.0
PORTS = (15_000, 30_000)
"""Between these lie the ports of brokers that are started again on the same one."""
PORT_SHARES = 8
"""For so many processes that run tests at the same time each has ports of its own."""

_alive: weakref.WeakSet[BrokerProcess] = weakref.WeakSet()
_ports_given: set[int] = set()


class BrokerFailed(AssertionError):
    """The broker did something that no test wanted; the text holds its standard error."""


class Usage(NamedTuple):
    """What a process has used so far.

    Attributes:
        resident_bytes: Resident memory now.
        cpu_seconds: CPU seconds since its start, user and system together.
        at: `time.monotonic()` of the sample.

    """

    resident_bytes: int
    cpu_seconds: float
    at: float


class BrokerProcess:
    """One broker process on one data directory; can be started again after it ended.

    Args:
        data: Data directory.
        port: Port to listen on; 0 takes a free one, at every start another.
        options: More options of `sluicemq serve`.
        prefix: A command in front of the interpreter, which must run it as its own process (`strace -D ...`).
        program: What the interpreter runs; another one for brokers that are wrong on purpose.

    """

    def __init__(
        self,
        data: Path,
        *,
        port: int = 0,
        options: Sequence[str] = (),
        prefix: Sequence[str] = (),
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.data = data
        self.options = list(options)
        self.prefix = list(prefix)
        self.program = list(program)
        self.host = "127.0.0.1"
        self.port = port
        self.node_id = 0
        self.start_seconds = 0.0
        self._port_wanted = port
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr_path = data.parent / f"{data.name}.stderr"
        self._stderr_start = 0

    # --- life -------------------------------------------------------------------------------------------------

    def start(self, *, timeout: float = START_SECONDS_MAX) -> Self:
        """Start the process and return when it serves."""
        began = time.monotonic()
        self.spawn()
        self.wait_ready(timeout=timeout)
        self.start_seconds = time.monotonic() - began
        return self

    def spawn(self) -> None:
        """Start the process without waiting for it to serve."""
        assert self._process is None, "this broker runs already"
        self.data.parent.mkdir(parents=True, exist_ok=True)
        _alive.add(self)
        with self._stderr_path.open("ab") as stderr:
            self._stderr_start = stderr.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                [
                    *self.prefix,
                    *(sys.executable, *self.program, "serve"),
                    *("--data", str(self.data), "--listen", f"{self.host}:{self._port_wanted}"),
                    *self.options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(),
                cwd=Path(__file__).resolve().parents[2],
                # A test that is interrupted from the keyboard ends its brokers itself, in its own order.
                start_new_session=True,
            )

    def wait_ready(self, *, timeout: float = START_SECONDS_MAX) -> None:
        """Return when the ready line came; raise `BrokerFailed` when the process ends or stays silent instead."""
        process = self._running
        assert process.stdout is not None
        line = _read_line(process.stdout.fileno(), time.monotonic() + timeout)
        match = READY.match(line.rstrip(b"\n"))
        if match is None:
            self.kill()
            raise BrokerFailed(f"the broker printed {line!r} instead of its ready line; it said:\n{self.stderr}")
        self.node_id = int(match[1])
        self.port = int(match[3])

    def stop(self, *, timeout: float = STOP_SECONDS_MAX) -> None:
        """SIGTERM, and check that the process ends with 0 and without a traceback."""
        self.terminate()
        code = self.wait(timeout=timeout)
        if code != 0:
            raise BrokerFailed(f"the broker ended with {code} after SIGTERM; it said:\n{self.stderr}")
        self.check_calm()

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self._running.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and return when the process is gone. Does nothing where there is none."""
        if self._process is not None:
            self._process.kill()
            self.wait(timeout=STOP_SECONDS_MAX)

    def wait(self, *, timeout: float = STOP_SECONDS_MAX) -> int:
        """Return the exit code once the process has ended by itself; raise `BrokerFailed` when it does not."""
        process = self._running
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self._forget()
            raise BrokerFailed(f"the broker did not end within {timeout} s; it said:\n{self.stderr}") from None
        self._forget()
        return code

    def check_calm(self) -> None:
        """Raise `BrokerFailed` where the process wrote a traceback since its last start."""
        text = self.stderr
        if "Traceback (most recent call last)" in text:
            raise BrokerFailed(f"the broker wrote a traceback:\n{text}")

    def _forget(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdout is not None:
            process.stdout.close()
        _alive.discard(self)

    def __enter__(self) -> Self:
        if self._process is None:
            self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()

    # --- what one may ask --------------------------------------------------------------------------------------

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "this broker does not run"
        return self._process

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def ended(self) -> bool:
        """Whether the process has ended by itself, and nobody has asked with which code (`wait`)."""
        return self._process is not None and self._process.poll() is not None

    @property
    def pid(self) -> int:
        """Process id of the broker."""
        return self._running.pid

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"sluicemq://{self.host}:{self.port}"

    @property
    def stderr(self) -> str:
        """What the process wrote to standard error since its last start."""
        with self._stderr_path.open("rb") as file:
            file.seek(self._stderr_start)
            return file.read().decode(errors="replace")

    def usage(self) -> Usage:
        """Return memory and CPU time of the process."""
        process = psutil.Process(self.pid)
        times = process.cpu_times()
        return Usage(process.memory_info().rss, times.user + times.system, time.monotonic())


def unused_port() -> int:
    """Return a free port below the range from which the system takes ports for outgoing connections.

    A broker that is killed and restarted keeps its port; a client that knocks meanwhile must not get that very port as
    its own end, which would connect it to itself. For the same reason no port is returned twice in a process, and
    processes that run tests at the same time have ports of their own: nobody gets the port of a broker that is down.
    """
    import random
    import socket

    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PORT_SHARES
    while True:
        port = random.SystemRandom().randrange(*PORTS, PORT_SHARES) + worker
        if port in _ports_given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _ports_given.add(port)
        return port


def _environment() -> Mapping[str, str]:
    # Settings of the developer's shell must not reach the broker under test.
    return {name: value for name, value in os.environ.items() if not name.startswith("SLUICEMQ_")}


def _read_line(descriptor: int, deadline: float) -> bytes:
    """Return the first line, or what there is of it when the writer ends or the deadline passes."""
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                break
            data = os.read(descriptor, 1)
            if not data:
                break
            line += data
    return line


@atexit.register
def _kill_all() -> None:
    for broker in list(_alive):
        broker.kill()
