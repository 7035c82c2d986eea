"""Worker processes seen from outside: give a task, learn when its measured part began, read its result."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TASK_SECONDS_MAX = 100.0
DEFAULTS: dict[str, Any] = {
    "size": 100,
    "vary": True,
    "batch": 1000,
    "in_flight": 4,
    "seconds": 2.0,
    "warm_up_seconds": 0.0,
    "messages": 0,
    "stamp": False,
    "every": False,
    "patient": False,
    "rate": 1000,
    "pids": [],
    "signal": 0,
    "settle_seconds": 1.5,
}


class WorkerFailed(RuntimeError):
    """A worker process ended or hangs; what it said of it is on standard error."""


class Worker:
    """One process that carries out tasks of one system."""

    def __init__(self, system: str, python: str = sys.executable, root: Path = ROOT) -> None:
        self._system = system
        self._process = subprocess.Popen(
            [python, "-m", "bench", "worker", system], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._rest = b""

    def begin(self, do: str, ports: Sequence[int], queue: str, **task: Any) -> None:
        """Give a task and wait until its measured part begins."""
        assert self._process.stdin is not None
        line = json.dumps({**DEFAULTS, **task, "do": do, "ports": list(ports), "queue": queue})
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        self._read()

    def result(self) -> dict[str, Any]:
        """Wait for the result of the task that was begun."""
        return self._read()

    def run(self, do: str, ports: Sequence[int], queue: str, **task: Any) -> dict[str, Any]:
        """Give a task and wait for its result."""
        self.begin(do, ports, queue, **task)
        return self.result()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            readable, _, _ = select.select([self._process.stdout], [], [], TASK_SECONDS_MAX)
            piece = os.read(self._process.stdout.fileno(), 1 << 20) if readable else b""
            if not piece:
                raise WorkerFailed(f"the worker of {self._system} " + ("ended" if readable else "hangs"))
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
