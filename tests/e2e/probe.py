"""Asks the broker "are you there?" without a pause: `python -m tests.e2e.probe URL`.

Why: whatever blocks the broker's event loop delays the answer to a PING, so the longest round trip bounds the longest
stall from above. A process of its own, because the load comes from another interpreter. Ends when its standard input
ends, and prints what it measured as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

from tests.e2e.wire_client import WireClient


class Probe:
    """Runs the probe in a process as long as the block lasts; `figures` holds what it measured afterwards."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.figures: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.probe", self._url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[2],
            env=dict(os.environ),
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"probing\n"
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            output, _ = self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        if exception[0] is None:
            assert self._process.returncode == 0, "the probe failed; its traceback stands above"
            self.figures = json.loads(output)


def main(arguments: list[str]) -> int:
    """Probe until standard input ends."""
    (url,) = arguments
    stopping = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        stopping.set()

    threading.Thread(target=listen, daemon=True).start()
    trips: list[float] = []
    with WireClient(url, client_name="probe") as client:
        print("probing", flush=True)
        while not stopping.is_set():
            trips.append(client.ping())
    trips.sort()
    count = len(trips)
    print(
        json.dumps({"count": count, "median": trips[count // 2], "p99": trips[count * 99 // 100], "longest": trips[-1]})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
