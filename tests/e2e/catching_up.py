"""`python -m tests.e2e.catching_up [--bytes 1000000000]`: a broker that missed much catches up, and nobody minds.

Three brokers. It is measured how fast they take messages; then one is killed, misses so many bytes, and comes back
while clients publish at half of that rate. Looked at is whether the rate is kept, how long a confirm takes meanwhile,
how long the catching up takes, and that there is no election: the same broker leads in the same epoch throughout.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from sluicemq.client import connect, probe_cluster
from sluicemq.client.errors import SluiceError
from tests.e2e.cluster.processes import row_of
from tests.e2e.cluster.trio_of_brokers import Brokers

if TYPE_CHECKING:
    from sluicemq.client import Producer

BATCH = 200
IN_FLIGHT = 4
MEASURE_SECONDS = 5.0
LAG_ENTRIES_MAX = 20
"""It has caught up when it lacks no more than what is on its way to it."""
CATCH_UP_SECONDS_MAX = 600.0
CALL_SECONDS = 120.0


class Publishing:
    """Batches in parallel, as fast as they are confirmed or at an even rate.

    Args:
        producer: Entered.
        size: Bytes of a body.

    """

    def __init__(self, producer: Producer, size: int) -> None:
        self._producer = producer
        self._batch = [os.urandom(size) for _ in range(BATCH)]
        self.messages = 0
        self.seconds: list[float] = []
        self.begun = time.monotonic()

    @property
    def rate(self) -> float:
        """Messages a second so far."""
        return self.messages / (time.monotonic() - self.begun)

    async def send(self) -> None:
        """Send one batch."""
        begun = time.monotonic()
        await self._producer.send_many(self._batch, timeout=CALL_SECONDS)
        self.seconds.append(time.monotonic() - begun)
        self.messages += BATCH

    async def at_full_speed(self, *, seconds: float = 0.0, messages: int = 0) -> None:
        """Send for so long, or so many."""
        until = self.begun + seconds

        async def work() -> None:
            while self.messages < messages or time.monotonic() < until:
                await self.send()

        async with trio.open_nursery() as nursery:
            for _ in range(IN_FLIGHT):
                nursery.start_soon(work)

    async def at_rate(self, rate: float) -> None:
        """Send so many messages a second, until cancelled; what cannot be sent in time is sent late, not left out."""
        due = trio.current_time()
        room = trio.CapacityLimiter(4 * IN_FLIGHT)
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._send_within, room)
                due += BATCH / rate
                await trio.sleep_until(due)

    async def _send_within(self, room: trio.CapacityLimiter) -> None:
        async with room:
            await self.send()

    def slowest(self, share: float) -> float:
        """Return within how many seconds this share of the batches was confirmed."""
        return sorted(self.seconds)[int(len(self.seconds) * share)]


async def leadership(url: str) -> tuple[int, int]:
    """Return who leads, and in which epoch."""
    async with connect(url, connect_timeout=CALL_SECONDS) as client:
        said = await client.statistics()
    return int(said["node_id"]), int(said["epoch"])


async def caught_up(url: str, node: int) -> None:
    """Wait until *node* has what the leader has."""
    with trio.fail_after(CATCH_UP_SECONDS_MAX):
        while True:
            try:
                row = row_of(await probe_cluster(url), node)
                if row["reachable"] and row["lag_entries"] is not None and row["lag_entries"] <= LAG_ENTRIES_MAX:
                    return
            except SluiceError:
                pass
            await trio.sleep(0.25)


async def measure(brokers: Brokers, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what was found."""
    before = await leadership(brokers.url)
    leader = before[0]
    away = next(number for number in brokers.nodes if number != leader)
    leader_url = f"sluicemq://127.0.0.1:{brokers.nodes[leader].port}"
    async with connect(brokers.url, connect_timeout=CALL_SECONDS) as client:
        await client.declare_queue("missed")
        async with client.producer("missed") as producer:
            fastest = Publishing(producer, arguments.size)
            await fastest.at_full_speed(seconds=MEASURE_SECONDS)
            rate_max = fastest.rate
            brokers.nodes[away].kill()
            await Publishing(producer, arguments.size).at_full_speed(messages=arguments.bytes // arguments.size)
            begun = time.monotonic()
            brokers.nodes[away].spawn()
            steady = Publishing(producer, arguments.size)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(steady.at_rate, rate_max / 2)
                await trio.to_thread.run_sync(brokers.nodes[away].wait_ready)
                await caught_up(leader_url, away)
                seconds = time.monotonic() - begun
                kept = steady.rate
                nursery.cancel_scope.cancel()
    return {
        "missed_bytes": arguments.bytes,
        "messages_per_second_max": round(rate_max),
        "messages_per_second_asked": round(rate_max / 2),
        "messages_per_second_kept": round(kept),
        "confirm_p50_seconds": round(steady.slowest(0.5), 4),
        "confirm_p99_seconds": round(steady.slowest(0.99), 4),
        "confirm_worst_seconds": round(max(steady.seconds), 4),
        "catch_up_seconds": round(seconds, 1),
        "same_leadership": await leadership(brokers.url) == before,
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.catching_up", description=__doc__)
    parser.add_argument("--bytes", type=int, default=1_000_000_000, help="how much is missed, in bodies")
    parser.add_argument("--size", type=int, default=1000, help="bytes of a body")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="catching-up-", dir=Path.cwd()) as folder:
        brokers = Brokers(Path(folder))
        try:
            brokers.start()
            brokers.leader()
            found = trio.run(measure, brokers, arguments)
        finally:
            brokers.end()
    print(json.dumps(found))
    return 0 if found["same_leadership"] else 1


if __name__ == "__main__":
    sys.exit(main())
