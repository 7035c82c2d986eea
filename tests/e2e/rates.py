"""How exactly a real broker holds its limits of deliveries, with a real client: rate, burst and evenness.

    python -m tests.e2e.rates                       # ten seconds at 10/s and at 50,000/s
    python -m tests.e2e.rates --rate 1000 --burst 500 --seconds 5

Each line: how many messages came, against how many the rate allows; how many of them at once; the longest gap. Run it
alone for figures that count: other load shows in gaps, and no longer in the mean.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import anyio

from sluicemq.client import Client, connect
from tests.e2e.broker_process import BrokerProcess

BATCH_MESSAGES = 1_000
AT_ONCE_SECONDS = 0.05
"""What comes so soon after the first message counts as the burst, together with what the rate allows by then."""


class Measured(NamedTuple):
    """What came.

    Attributes:
        messages: How many messages, behind the burst.
        seconds: In how many seconds, from the first message on.
        at_once: How many in the first `AT_ONCE_SECONDS`.
        longest_gap: Longest time without any.

    """

    messages: int
    seconds: float
    at_once: int
    longest_gap: float

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds


async def measure(client: Client, queue: str, *, rate: float, burst: int | None, seconds: float) -> Measured:
    """Fill a queue, consume it for so long at its limit, and return what came."""
    await client.declare_queue(queue, delivery_rate=rate, delivery_burst=burst)
    wanted = int(rate * (seconds + 1)) + (burst or 0) + BATCH_MESSAGES
    async with client.producer(queue) as producer:
        for _ in range(0, wanted, BATCH_MESSAGES):
            await producer.send_many([b"x" * 100] * BATCH_MESSAGES)
    arrivals: list[tuple[float, int]] = []
    async with client.consumer(queue, credit=200_000, lease=120.0) as consumer:
        end = time.perf_counter() + 3_600
        while time.perf_counter() < end:
            batch = await consumer.receive(max_messages=10_000, max_wait=1.0)
            now = time.perf_counter()
            if len(batch):
                if not arrivals:
                    end = now + seconds
                arrivals.append((now, len(batch)))
                await batch.ack()
    await client.delete_queue(queue)
    first = arrivals[0][0]
    at_once = sum(count for at, count in arrivals if at - first <= AT_ONCE_SECONDS)
    last = arrivals[-1][0]
    gaps = [after[0] - before[0] for before, after in pairwise(arrivals)]
    return Measured(sum(count for _, count in arrivals) - (burst or 0), last - first, at_once, max(gaps, default=0.0))


async def _say(url: str, rate: float, burst: int | None, seconds: float) -> None:
    async with connect(url) as client:
        found = await measure(client, "rates", rate=rate, burst=burst, seconds=seconds)
    print(
        f"{rate:>8,.0f}/s burst {burst or '-':>5}: {found.rate:>10,.2f}/s over {found.seconds:5.2f} s "
        f"({100 * (found.rate / rate - 1):+.2f} %), {found.at_once} in the first {1000 * AT_ONCE_SECONDS:.0f} ms, "
        f"longest gap {1000 * found.longest_gap:.1f} ms",
        flush=True,
    )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--burst", type=int)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    cases = [(10.0, 1), (10.0, 100), (1_000.0, 1), (50_000.0, None), (50_000.0, 5_000)]
    if arguments.rate is not None:
        cases = [(arguments.rate, arguments.burst)]
    with tempfile.TemporaryDirectory() as folder, BrokerProcess(Path(folder) / "data") as broker:
        for rate, burst in cases:
            anyio.run(_say, broker.url, rate, burst, arguments.seconds)
        broker.stop()


if __name__ == "__main__":
    main()
