"""The adaptive rate of a real broker against a real consumer, whose service has a capacity that halves and recovers.

    python -m tests.e2e.adaptive_rates                        # both kinds of services, 45 seconds each
    python -m tests.e2e.adaptive_rates --kind refuses --capacity 1000 --seconds 15

One kind of service refuses at once what is beyond its capacity, and those messages are nacked; the other one lets it
queue before its workers. Each line says what was delivered, second by second, as a share of the capacity.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anyio

from sluicemq.client import connect
from tests.e2e.broker_process import BrokerProcess

if TYPE_CHECKING:
    from sluicemq.client import Client, Consumer

Kind = Literal["refuses", "queues"]
WORKERS = 4
LATENCY_SECONDS = 0.3
BATCH_MESSAGES = 1_000
SPELL_SECONDS = 15.0
"""How long the capacity is what it is: whole, halved, whole again."""


class Service:
    """A consumer with a service behind it.

    Args:
        kind: What it does with what is beyond its capacity.
        capacity: Messages a second.
        halves: Whether that halves after `SPELL_SECONDS`, and recovers after as long again.
        saved_seconds: What it did not take for so long it takes at once: a process that stood still refuses less.

    Attributes:
        delivered: Messages that came, by the second.

    """

    def __init__(self, kind: Kind, capacity: float, *, halves: bool = True, saved_seconds: float = 0.05) -> None:
        self._kind = kind
        self._most = capacity
        self._halves = halves
        self._saved_seconds = saved_seconds
        self._began = time.perf_counter()
        self._tokens = 2.0
        self._at = self._began
        self.delivered: Counter[int] = Counter()

    def capacity(self, at: float) -> float:
        """Return the capacity so many seconds after the beginning."""
        halved = self._halves and SPELL_SECONDS <= at < 2 * SPELL_SECONDS
        return self._most / 2 if halved else self._most

    async def run(self, consumer: Consumer, seconds: float) -> None:
        """Consume for so long."""
        send, receive = anyio.create_memory_object_stream[Any](1_000_000)
        with send, receive, anyio.move_on_after(seconds):
            async with anyio.create_task_group() as group:
                for _ in range(WORKERS if self._kind == "queues" else 0):
                    group.start_soon(self._work, receive)
                self._began = self._at = time.perf_counter()
                while True:
                    batch = await consumer.receive(max_messages=1_000, max_wait=1.0)
                    now = time.perf_counter()
                    self.delivered[int(now - self._began)] += len(batch)
                    if self._kind == "queues":
                        for message in batch:
                            send.send_nowait(message)
                    else:
                        taken = self._admitted(now, len(batch))
                        group.start_soon(self._answer, list(batch), taken)

    def _admitted(self, now: float, wanted: int) -> int:
        capacity = self.capacity(now - self._began)
        self._tokens = min(self._tokens + (now - self._at) * capacity, max(capacity * self._saved_seconds, 2.0))
        self._at = now
        taken = min(wanted, int(self._tokens))
        self._tokens -= taken
        return taken

    @staticmethod
    async def _answer(messages: list[Any], taken: int) -> None:
        for message in messages[taken:]:
            await message.nack(delay=0)
        await anyio.sleep(0.02)
        for message in messages[:taken]:
            await message.ack()

    async def _work(self, receive: Any) -> None:
        # Behind schedule it catches up: what sleeping takes too long is not a lack of capacity.
        free_at = time.perf_counter()
        async for message in receive:
            now = time.perf_counter()
            free_at = max(free_at, now - 0.05) + WORKERS / self.capacity(now - self._began)
            await anyio.sleep(max(free_at - now, 0.0))
            await message.ack()


async def measure(client: Client, queue: str, service: Service, kind: Kind, *, seconds: float, messages: int) -> None:
    """Let a service consume a full queue at an adaptive rate."""
    latency = LATENCY_SECONDS if kind == "queues" else None
    await client.declare_queue(queue, delivery_adaptive={"latency": latency})
    async with client.producer(queue) as producer:
        for _ in range(0, messages, BATCH_MESSAGES):
            await producer.send_many([b"x" * 100] * BATCH_MESSAGES)
    async with client.consumer(queue, credit=100_000, lease=60.0) as consumer:
        await service.run(consumer, seconds)


async def _say(url: str, kind: Kind, capacity: float, seconds: float) -> None:
    async with connect(url) as client:
        service = Service(kind, capacity)
        await measure(
            client, f"{kind}.{capacity:g}", service, kind, seconds=seconds, messages=int(capacity * seconds * 2)
        )
    shares = [service.delivered[at] / service.capacity(at) for at in range(int(seconds))]
    print(f"{kind} {capacity:g}/s:", " ".join(f"{share:.2f}" for share in shares), flush=True)
    for begin in range(10, int(seconds) - 4, int(SPELL_SECONDS)):
        print(
            f"    seconds {begin} to {begin + 5}: {sum(shares[begin : begin + 5]) / 5:.3f} of the capacity", flush=True
        )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("refuses", "queues"))
    parser.add_argument("--capacity", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=3 * SPELL_SECONDS)
    arguments = parser.parse_args()
    kinds: tuple[Kind, ...] = ("refuses", "queues") if arguments.kind is None else (arguments.kind,)
    with tempfile.TemporaryDirectory() as folder, BrokerProcess(Path(folder) / "data") as broker:
        for kind in kinds:
            anyio.run(_say, broker.url, kind, arguments.capacity, arguments.seconds)
        broker.stop()


if __name__ == "__main__":
    main()
