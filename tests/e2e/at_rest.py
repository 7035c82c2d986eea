"""What a broker costs that has nothing to do: `python -m tests.e2e.at_rest [--seconds 20] [--log-bytes 1GB]`.

Measures resident memory and CPU of the process over a while with nothing connected, then with 1,000 idle connections
and 1,000 queues, and the time from the start of the process to its ready line, on an empty directory (median of ten)
and on one with a gigabyte of log.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.broker_process import BrokerProcess
from tests.e2e.wire_client import WireClient

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 1000
QUEUES = 1000
STARTS = 10
SPARES = 2
"""The default of `--spares-max`."""
SETTLE_SECONDS_MAX = 60.0
QUIET = ("--log-level", "warning")
BATCH_MESSAGES = 1000
BODY_BYTES = 100
WINDOW_BATCHES = 8


@dataclass(frozen=True)
class Rest:
    """What a broker used while nothing happened.

    Attributes:
        resident_bytes: Resident memory at the end.
        cpu_share: CPU seconds a second.

    """

    resident_bytes: int
    cpu_share: float

    def __str__(self) -> str:
        return f"{self.resident_bytes / 1e6:6.1f} MB resident, {self.cpu_share:7.3%} CPU"


def wait_settled(broker: BrokerProcess) -> None:
    """Return when the broker has zeroed its spare segments, which it does once after its start in the background."""
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    with WireClient(broker.url) as client:
        while client.statistics()["spare_segments"] < SPARES:
            assert time.monotonic() < deadline, "the spare segments are not ready"
            threading.Event().wait(0.05)


def watch(broker: BrokerProcess, seconds: float) -> Rest:
    """Let *seconds* pass and return what the process used meanwhile."""
    before = broker.usage()
    threading.Event().wait(seconds)
    after = broker.usage()
    return Rest(after.resident_bytes, (after.cpu_seconds - before.cpu_seconds) / (after.at - before.at))


@contextlib.contextmanager
def idle_clients(broker: BrokerProcess, connections: int, queues: int) -> Iterator[None]:
    """Hold *connections* open sessions, whose clients answer heartbeats, and make *queues* queues."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < connections + 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, connections + 200), hard))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(WireClient(broker.url)) for _ in range(connections)]
        for number in range(queues):
            clients[0].declare(f"idle {number}")
        yield


def start_up(directory: Path, *, starts: int = STARTS) -> list[float]:
    """Return the seconds from process start to ready line, each time on an empty directory."""
    taken = []
    for number in range(starts):
        with BrokerProcess(directory / f"empty-{number}", options=QUIET) as broker:
            taken.append(broker.start_seconds)
            broker.stop()
    return taken


def start_up_with_log(directory: Path, log_bytes: int) -> tuple[float, int, float]:
    """Return (seconds to the ready line, bytes of log, resident bytes) on a directory with that much log."""
    bodies = [bytes(BODY_BYTES)] * BATCH_MESSAGES
    with BrokerProcess(directory / "full", options=QUIET) as broker:
        with WireClient(broker.url) as client:
            client.declare("full")
            producer = client.open_producer()
            waiting: list[int] = []
            sequence = published = 0
            while published < log_bytes:
                sequence += 1
                published += BATCH_MESSAGES * (BODY_BYTES + 2)
                waiting.append(client.send_publish("full", producer, sequence, bodies))
                if len(waiting) >= WINDOW_BATCHES:
                    client.reply_to(waiting.pop(0))
            for correlation in waiting:
                client.reply_to(correlation)
            size = client.statistics()["log_bytes"]
        broker.stop()
        broker.start()
        with WireClient(broker.url) as client:
            assert client.queue_info("full")["ready"] == sequence * BATCH_MESSAGES
        result = broker.start_seconds, size, float(broker.usage().resident_bytes)
        broker.stop()
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--log-bytes", type=float, default=1e9)
    chosen = parser.parse_args(arguments)
    # Below the checkout: /tmp is memory on many machines, and a gigabyte of log belongs on a disk.
    with tempfile.TemporaryDirectory(prefix=".sluicemq-rest-", dir=Path(__file__).resolve().parents[2]) as temporary:
        directory = Path(temporary)
        with BrokerProcess(directory / "rest", options=QUIET) as broker:
            wait_settled(broker)
            print(f"nothing connected:             {watch(broker, chosen.seconds)}", flush=True)
            with idle_clients(broker, CONNECTIONS, QUEUES):
                rest = watch(broker, chosen.seconds)
                print(f"{CONNECTIONS:,} connections and {QUEUES:,} queues: {rest}", flush=True)
            broker.stop()
        taken = start_up(directory)
        print(
            f"start-up, empty directory:     {statistics.median(taken):.3f} s "
            f"(median of {len(taken)}; {min(taken):.3f} to {max(taken):.3f})",
            flush=True,
        )
        seconds, size, resident = start_up_with_log(directory, int(chosen.log_bytes))
        print(f"start-up, {size / 1e9:.2f} GB of log:      {seconds:.3f} s, {resident / 1e6:.1f} MB resident")
    return 0


if __name__ == "__main__":
    sys.exit(main())
