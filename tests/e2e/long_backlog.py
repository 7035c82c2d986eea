"""How does a broker bear a very long queue? `python -m tests.e2e.long_backlog --messages 10000000 [--batch 1]`.

One queue grows to so many messages, is looked at on the way, survives a restart and is drained. Printed are the rates
of publishing and consuming when the queue is a million long and at the end, resident memory at its peak in each part,
and the time from the start of the process to the first delivery. The promises: under 300 MB with 10 million messages of
100 bytes published singly, rates at the end within a quarter of those at a million.

The rates depend on this client, which is one Python process on the same machine; they are there to be compared with
each other.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import error_from_wire
from tests.e2e.broker_process import BrokerProcess
from tests.e2e.wire_client import WireClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sluicemq.wire.connection import Received

QUEUE = "backlog"
WINDOW_MESSAGES = 2_000
"""Messages on their way to a confirm; one batch at least."""
CREDIT_MESSAGES = 20_000
SETTLE_MESSAGES = 2_000
READ_BYTES = 1 << 18
SAMPLE_MESSAGES = 20_000
"""Messages between two looks at the broker's memory."""
FIRST_MARK = 1_000_000
UNHEARD = 1 << 31
"""Correlation of requests whose replies are counted, not looked up."""
RATE_MESSAGES = 200_000
"""Messages that a rate is measured over, behind each mark."""


@dataclass
class Memory:
    """Resident memory of a broker: the peak of each part of its life, in bytes."""

    broker: BrokerProcess
    peaks: dict[str, int] = field(default_factory=dict)

    def sample(self, part: str) -> None:
        """Look at it once, on behalf of *part*."""
        self.peaks[part] = max(self.peaks.get(part, 0), self.broker.usage().resident_bytes)


class Publisher:
    """Publishes equal batches through one connection, with a window of unconfirmed ones."""

    def __init__(self, client: WireClient, batch: int, body_bytes: int) -> None:
        self._client = client
        self._batch = batch
        self._tail = encode_batch([bytes(body_bytes)] * batch)
        self._producer = client.open_producer()
        self._sequence = 0
        self._waiting = 0

    def publish(self, messages: int, tick: Callable[[], None]) -> float:
        """Publish at least *messages*, wait for the last confirm, and return the messages a second."""
        started = time.monotonic()
        batches = -(-messages // self._batch)
        window = max(1, WINDOW_MESSAGES // self._batch)
        sent = ticked = 0
        while sent < batches or self._waiting:
            while self._waiting <= window // 2 and sent < batches:
                count = min(window - self._waiting, batches - sent)
                self._send(count)
                sent += count
            self._receive()
            if (sent - ticked) * self._batch >= SAMPLE_MESSAGES:
                ticked = sent
                tick()
        return batches * self._batch / (time.monotonic() - started)

    def _send(self, batches: int) -> None:
        frames = bytearray()
        for _ in range(batches):
            self._sequence += 1
            publish = m.Publish(QUEUE, self._producer, self._sequence)
            frames += self._client.connection.send(publish, correlation=UNHEARD, tail_length=len(self._tail))
            frames += self._tail
        self._client.socket.sendall(frames)
        self._waiting += batches

    def _receive(self) -> None:
        for received in receive(self._client):
            message = received.message
            assert isinstance(message, m.Published), f"a batch was not confirmed: {message}"
            self._waiting -= 1


def receive(client: WireClient) -> Sequence[Received]:
    """Return what one read brings; the bodies of deliveries are left alone, which `WireClient` would decode."""
    data = client.socket.recv(READ_BYTES)
    assert data, "the broker closed the connection"
    received = client.connection.receive(data)
    for one in received:
        if isinstance(one.message, m.Close) and one.message.error is not None:
            raise error_from_wire(one.message.error)
    return received


def consume(client: WireClient, messages: int, tick: Callable[[], None]) -> float:
    """Take and acknowledge at least *messages*; return the messages a second from the first delivery on."""
    consumer = client.consume(QUEUE, credit=CREDIT_MESSAGES)
    taken = [delivery.last_tag - delivery.first_tag + 1 for delivery in client.deliveries]
    client.deliveries.clear()
    last_tag = sum(taken)
    unsettled_from = ticked = 0
    started = time.monotonic()
    while last_tag < messages:
        for received in receive(client):
            if isinstance(received.message, m.Deliver):
                last_tag += sum(received.message.runs[2 :: m.RUN_NUMBERS])
        if last_tag - unsettled_from >= SETTLE_MESSAGES:
            tags = [unsettled_from + 1, last_tag]
            client.socket.sendall(
                client.connection.send(m.Settle(consumer, m.VERDICT_ACK, tags, None), correlation=UNHEARD)
            )
            unsettled_from = last_tag
        if last_tag - ticked >= SAMPLE_MESSAGES:
            ticked = last_tag
            tick()
    return last_tag / (time.monotonic() - started)


def take_and_leave(broker: BrokerProcess, messages: int, tick: Callable[[], None]) -> float:
    """Consume at least *messages* through a connection of its own; what it holds unsettled returns to the queue."""
    with WireClient(broker.url) as client:
        return consume(client, messages, tick)


def turns(client: WireClient, part: str) -> dict[str, float]:
    """Return the longest turn of the broker's event loop so far, by the clock and in processor time."""
    values = client.statistics()
    return {
        f"longest turn ms, while {part}": 1000 * values["loop_stall_seconds_max"],
        f"longest turn ms of CPU, while {part}": 1000 * values["loop_turn_cpu_seconds_max"],
    }


def measure(messages: int, batch: int, body_bytes: int, folder: Path, options: Sequence[str]) -> dict[str, float]:
    """Run everything; return the figures by name, in the order in which they came about."""
    figures: dict[str, float] = {}
    first_mark = min(FIRST_MARK, messages // 2)
    sample = min(RATE_MESSAGES, messages // 10)
    broker = BrokerProcess(folder / "data", options=options).start()
    memory = Memory(broker)

    def grown() -> None:
        memory.sample("growing")

    with WireClient(broker.url) as client:
        client.declare(QUEUE)
        publisher = Publisher(client, batch, body_bytes)
        publisher.publish(first_mark - sample, grown)
        figures["publish/s at the first mark"] = publisher.publish(sample, grown)
        figures["consume/s at the first mark"] = take_and_leave(broker, sample, grown)
        publisher.publish(messages - first_mark, grown)
        figures["publish/s at the end"] = publisher.publish(sample, grown)
        figures["consume/s at the end"] = take_and_leave(broker, sample, grown)
        figures |= turns(client, "growing")
    broker.stop()

    started = time.monotonic()
    broker.start(timeout=3600.0)
    figures["restart to ready s"] = time.monotonic() - started
    memory.sample("restarted")
    with WireClient(broker.url) as client:
        client.consume(QUEUE, credit=1)
        client.delivery(timeout=60.0)
        figures["restart to first delivery s"] = time.monotonic() - started
    with WireClient(broker.url) as client:
        info = client.queue_info(QUEUE)
        left = info["ready"] + info["leased"]  # the first consumer's come back
        figures["messages to drain"] = left
        figures["drain/s"] = consume(client, left, lambda: memory.sample("draining"))
        figures |= turns(client, "draining")
    broker.stop()
    for part, peak in memory.peaks.items():
        figures[f"resident MB, peak while {part}"] = peak / 1e6
    return figures


def main() -> int:
    """Measure and print; the exit code says whether memory stayed within the promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000, help="Length of the queue (1000000).")
    parser.add_argument("--batch", type=int, default=1, help="Messages a batch (1).")
    parser.add_argument("--size", type=int, default=100, help="Bytes of a body (100).")
    parser.add_argument("--memory", type=int, default=300, help="Resident MB that are promised (300).")
    parser.add_argument("--folder", type=Path, default=None, help="Where the data lies for the time being.")
    parser.add_argument("options", nargs="*", help="Options of `sluicemq serve`, behind `--`.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="sluicemq-backlog-") as folder:
        figures = measure(arguments.messages, arguments.batch, arguments.size, Path(folder), arguments.options)
    for name, value in figures.items():
        sys.stdout.write(f"{name:40} {value:14,.1f}\n")
    peaks = [value for name, value in figures.items() if name.startswith("resident")]
    return int(max(peaks) > arguments.memory)


if __name__ == "__main__":
    sys.exit(main())
