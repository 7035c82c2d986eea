"""How fast does a broker with very many queues start? `python -m tests.e2e.many_queues --queues 100000`.

Declares so many queues, each with a message in it, and starts the broker again: after an orderly stop, and after
SIGKILL behind the last snapshot. Printed are the seconds from the start of the process to the ready line and to the
first delivery, resident memory, and what the snapshot took. The promise: 100,000 queues in less than 10 s.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from tests.e2e.broker_process import BrokerProcess
from tests.e2e.wire_client import WireClient

QUEUES_DEFAULT = 100_000
WINDOW_REQUESTS = 200
SECONDS_PROMISED = 10.0


def queue_name(number: int) -> str:
    """Return the name of a queue."""
    return f"queue-{number:06}"


def fill(client: WireClient, queues: int, messages: int = 1) -> None:
    """Declare *queues* queues and publish *messages* to each."""
    batch = encode_batch([b"a message in a queue of its own"] * messages)
    producer = client.open_producer()
    waiting: list[int] = []
    for number in range(queues):
        waiting.append(client.send(m.DeclareQueue(queue_name(number), {})))
        if len(waiting) > WINDOW_REQUESTS:
            client.reply_to(waiting.pop(0))
    while waiting:
        client.reply_to(waiting.pop(0))
    for number in range(queues if messages else 0):
        waiting.append(client.send(m.Publish(queue_name(number), producer, number + 1), batch))
        while len(waiting) > WINDOW_REQUESTS:
            client.reply_to(waiting.pop(0))
    while waiting:
        client.reply_to(waiting.pop(0))


def restart(broker: BrokerProcess, queues: int) -> dict[str, float]:
    """Start *broker* and return what that took."""
    started = time.monotonic()
    broker.start(timeout=3600.0)
    figures = {"ready s": time.monotonic() - started}
    with WireClient(broker.url) as client:
        client.consume(queue_name(queues - 1), credit=1)
        client.delivery(timeout=60.0)
        figures["first delivery s"] = time.monotonic() - started
        statistics = client.statistics()
        assert statistics["queues"] == queues
    for name in ("recovery_seconds", "recovery_replayed_entries", "snapshot_bytes"):
        figures[name] = statistics[name]
    figures["resident MB"] = broker.usage().resident_bytes / 1e6
    return figures


def main() -> int:
    """Measure and print; the exit code says whether every start was fast enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queues", type=int, default=QUEUES_DEFAULT, help=f"How many ({QUEUES_DEFAULT}).")
    parser.add_argument("--folder", type=Path, default=None, help="Where the data lies for the time being.")
    parser.add_argument("options", nargs="*", help="Options of `sluicemq serve`, behind `--`.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="sluicemq-queues-") as folder:
        broker = BrokerProcess(Path(folder) / "data", options=arguments.options).start()
        with WireClient(broker.url) as client:
            fill(client, arguments.queues)
            turn = client.statistics()["loop_stall_seconds_max"]
        started = time.monotonic()
        broker.stop(timeout=600.0)
        sys.stdout.write(f"{'longest turn ms':50} {1000 * turn:12,.1f}\n")
        sys.stdout.write(f"{'stop s':50} {time.monotonic() - started:12,.2f}\n")
        slowest = 0.0
        for how in ("after a stop", "after SIGKILL"):
            figures = restart(broker, arguments.queues)
            slowest = max(slowest, figures["first delivery s"])
            for name, value in figures.items():
                sys.stdout.write(f"{how + ', ' + name:50} {value:12,.2f}\n")
            broker.kill()
    return int(slowest > SECONDS_PROMISED)


if __name__ == "__main__":
    sys.exit(main())
