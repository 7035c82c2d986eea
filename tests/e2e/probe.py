"""Asks the broker "are you there?" without a pause: `python -m tests.e2e.probe URL`.

Why: whatever blocks the broker's event loop delays the answer to a PING, so the longest round trip bounds the longest
stall from above. A process of its own, because the load comes from another interpreter. Ends when its standard input
ends, and prints what it measured as JSON.
"""

from __future__ import annotations

import json
import sys
import threading

from tests.e2e.side_process import SideProcess
from tests.e2e.wire_client import WireClient


class Probe(SideProcess):
    """Runs the probe in a process as long as the block lasts; `figures` holds what it measured afterwards."""

    def __init__(self, url: str) -> None:
        super().__init__("tests.e2e.probe", "probing", url)


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
