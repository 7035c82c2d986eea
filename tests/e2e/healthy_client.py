"""A client that just works, in a process of its own: `python -m tests.e2e.healthy_client URL QUEUE`.

Why: while other clients misbehave, this one publishes, consumes and acknowledges in a loop and measures its longest
round. It is a process because the misbehaving ones keep the test's own interpreter busy. Ends when its standard input
ends, and prints what it measured as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from tests.e2e.side_process import SideProcess
from tests.e2e.wire_client import WireClient

BATCH_MESSAGES = 10


def work(url: str, queue: str, stopping: threading.Event) -> dict[str, Any]:
    """Loop until *stopping* is set; return rounds, the longest and the median round in seconds."""
    rounds: list[float] = []
    with WireClient(url, client_name="healthy") as client:
        client.declare(queue)
        producer = client.open_producer()
        consumer = client.consume(queue, credit=100)
        while not stopping.is_set():
            sequence = len(rounds) + 1
            started = time.perf_counter()
            bodies = [b"%d.%d" % (sequence, place) for place in range(BATCH_MESSAGES)]
            client.publish(queue, producer, sequence, bodies)
            taken = client.take(BATCH_MESSAGES)
            assert [message.body for message in taken] == bodies
            assert client.settle(consumer, [taken[0].tag, taken[-1].tag]) == []
            rounds.append(time.perf_counter() - started)
    ordered = sorted(rounds)
    return {"rounds": len(rounds), "longest": ordered[-1], "median": ordered[len(ordered) // 2]}


class HealthyClient(SideProcess):
    """Runs `work` in a process as long as the block lasts; `figures` holds what it measured afterwards."""

    def __init__(self, url: str, queue: str = "healthy") -> None:
        super().__init__("tests.e2e.healthy_client", "working", url, queue)


def main(arguments: list[str]) -> int:
    """Work until standard input ends."""
    stopping = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        stopping.set()

    threading.Thread(target=listen, daemon=True).start()
    print("working", flush=True)
    url, queue = arguments
    print(json.dumps(work(url, queue, stopping)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
