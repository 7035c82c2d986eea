"""A worker is killed, and then the broker: what the worker had goes to the next one soon after the restart."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from sluicemq.broker.commands.log_files import LogFiles, ReadOnlyDirectory
from sluicemq.broker.queues.entries_of_sessions import MarkClosed
from tests.e2e.wire_client import WireClient
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import StartBroker

GRACE_SECONDS = 600.0
"""So long the broker waits for a client of which it knows nothing: longer than anybody here."""
LOOK_SECONDS = 0.02


def wait_for_mark(data: Path) -> None:
    """Wait until the log says whose end closed its connection."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not any(found.head.kind == MarkClosed.KIND for found in LogFiles(ReadOnlyDirectory(data)).entries()):
        assert time.monotonic() < deadline, "the log never says that the worker's end closed its connection"
        time.sleep(LOOK_SECONDS)


def test_the_message_of_a_killed_worker_goes_to_the_next_one_soon_though_the_broker_is_killed_too(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(options=["--session-grace-seconds", f"{GRACE_SECONDS:g}"])
    with WireClient(broker.url) as client:
        client.declare("orders")
        client.publish("orders", client.open_producer(), 1, [b"order 1"])
    with subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.mortal_worker", broker.url, "orders"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"working\n"
        worker.kill()
    wait_for_mark(broker.data)
    broker.kill()
    broker.start()
    with WireClient(broker.url) as client:
        client.consume("orders")
        (message,) = client.take(1, timeout=WAIT_SECONDS)
        assert (message.body, message.deliveries) == (b"order 1", 2)
