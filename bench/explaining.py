"""How long `explain` takes with a long log behind it: `python -m bench.explaining [--messages N] [--batch N]`.

Publishes to one queue, consumes a part of it, and asks for the lives of messages all over: settled ones, leased ones,
ready ones, by position and by id, each several times; before and after a restart of the broker. `--history 100GiB`
keeps all of the log whole.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import trio

from sluicemq.client import connect
from sluicemq.client.errors import MessageNotFound
from tests.e2e.broker_process import BrokerProcess

BODY = b"x" * 100
TIMES = 5
QUEUE = "orders"


async def fill(url: str, messages: int, batch: int, consumed: int) -> dict[str, tuple[str, str]]:
    """Publish and consume; return positions and ids of messages by where they are."""
    places = {
        "settled first": 0,
        "settled in the middle": consumed // 2,
        "settled last": consumed - 1,
        "ready next": consumed + 1,
        "ready in the middle": (messages + consumed) // 2,
        "ready last": messages - 1,
    }
    wanted = {number: name for name, number in places.items()}
    found: dict[str, tuple[str, str]] = {}
    async with connect(url) as client:
        await client.declare_queue(QUEUE)
        began = time.perf_counter()
        limit = trio.CapacityLimiter(8 if batch > 1 else 200)

        async def send(first: int) -> None:
            async with limit:
                receipts = await producer.send_many([BODY] * batch)
                for index in range(batch):
                    name = wanted.get(first + index)
                    if name is not None:
                        found[name] = receipts[index].position, receipts[index].message_id

        async with client.producer(QUEUE) as producer:
            for start in range(0, messages, batch * 1000):
                async with trio.open_nursery() as nursery:
                    for first in range(start, min(start + batch * 1000, messages), batch):
                        nursery.start_soon(send, first)
        print(f"published {messages:,} messages in {time.perf_counter() - began:.1f} s")
        left = consumed
        async with client.consumer(QUEUE, credit=2_000) as consumer:
            while left:
                received = await consumer.receive(min(1000, left))
                await received.ack()
                left -= len(received)
            await consumer.flush()
    return found


async def ask(url: str, found: dict[str, tuple[str, str]]) -> None:
    """Explain each, and print how long that took."""
    async with connect(url) as client:
        for name, (position, message_id) in found.items():
            for how, kwargs in (("position", {"message": position}), ("id", {"message_id": message_id})):
                seconds = []
                for _ in range(TIMES):
                    began = time.perf_counter()
                    try:
                        life = await client.explain(**kwargs)
                        said = f"{life.status}, {len(life.events)} events, complete {life.complete}"
                    except MessageNotFound as error:
                        said = f"not found: {error.text[:60]}"
                    seconds.append(time.perf_counter() - began)
                shown = f"first {1000 * seconds[0]:7.1f} ms, median {1000 * median(seconds):6.1f} ms"
                print(f"{name:22} by {how:8} {shown}  {said}")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--consumed", type=int, default=0, help="messages to consume; default: a fifth")
    parser.add_argument("--history", default="0", metavar="SIZE", help="history_bytes_max of the broker (0)")
    options = parser.parse_args()
    serve_options = ["--history-bytes-max", options.history]
    with tempfile.TemporaryDirectory() as folder, BrokerProcess(Path(folder) / "data", options=serve_options) as broker:
        consumed = options.consumed or options.messages // 5
        found = trio.run(fill, broker.url, options.messages, options.batch, consumed)
        trio.run(ask, broker.url, found)
        broker.stop()
        broker.start()
        print(f"after a restart that took {broker.start_seconds:.2f} s:")
        trio.run(ask, broker.url, found)


if __name__ == "__main__":
    main()
