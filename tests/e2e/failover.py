"""`python -m tests.e2e.failover --times 20 [--silent | --cut | --transfer]`: for how long does publishing stop?

Three brokers, one client that publishes 200 messages a second and waits for each confirm, one that consumes. Again and
again the leader is killed (its connections are reset), frozen, cut off from everybody, or told to hand over; counted is
the longest time between two confirms around that. Afterwards every confirmed message must have come, and no call may
have failed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from sluicemq.client import connect
from tests.e2e.chaos.cluster import Cluster
from tests.e2e.chaos.network import CLIENTS

if TYPE_CHECKING:
    from sluicemq.client import Client

RATE = 200.0
SETTLE_SECONDS = 2.0
"""How long everything works before the leader goes, and after it is back."""
DOWN_SECONDS = 4.0
CALL_SECONDS = 60.0


class Publisher:
    """Publishes at an even rate, each message on its own, and notes when each was confirmed."""

    def __init__(self) -> None:
        self.confirms: list[float] = []
        self.stopped = False
        self.done = trio.Event()
        self.sent = 0

    async def run(self, url: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Publish until told to stop."""
        async with connect(url, connect_timeout=CALL_SECONDS) as client, client.producer("failover") as producer:
            task_status.started()
            due = trio.current_time()
            async with trio.open_nursery() as nursery:
                while not self.stopped:
                    nursery.start_soon(self._send, producer)
                    due += 1 / RATE
                    await trio.sleep_until(due)
        self.done.set()

    async def _send(self, producer) -> None:
        self.sent += 1
        await producer.send(b"%d" % self.sent, timeout=CALL_SECONDS)
        self.confirms.append(time.monotonic())

    def longest_gap(self, since: float, until: float) -> float:
        """Return the longest time between two confirms from *since* to *until*."""
        confirms = [since, *(at for at in self.confirms if since < at < until), until]
        return max(after - before for before, after in itertools.pairwise(confirms))


async def _consume(client: Client, bodies: set[bytes], *, task_status=trio.TASK_STATUS_IGNORED) -> None:
    async with client.consumer("failover") as consumer:
        task_status.started()
        async for message in consumer:
            bodies.add(message.body)
            await message.ack()


async def measure(arguments: argparse.Namespace, folder: Path) -> list[float]:
    """Return the gap of each time."""
    cluster = Cluster(folder, arguments.nodes, random.Random(1))
    publisher, bodies, gaps = Publisher(), set[bytes](), list[float]()
    try:
        async with trio.open_nursery() as nursery:
            await cluster.start(nursery)
            async with connect(cluster.url, connect_timeout=CALL_SECONDS) as client:
                await client.declare_queue("failover")
                async with trio.open_nursery() as clients:
                    await clients.start(_consume, client, bodies)
                    await clients.start(publisher.run, cluster.url)
                    for number in range(arguments.times):
                        gaps.append(await _once(arguments, cluster, publisher))
                        print(f"{number + 1}: {gaps[-1]:.3f} s", file=sys.stderr)
                    publisher.stopped = True
                    with trio.fail_after(CALL_SECONDS):
                        await publisher.done.wait()
                        while len(bodies) < publisher.sent:  # noqa: ASYNC110 - what comes is no event of ours
                            await trio.sleep(0.05)
                    clients.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    finally:
        cluster.stop()
    return gaps


async def _once(arguments: argparse.Namespace, cluster: Cluster, publisher: Publisher) -> float:
    await trio.sleep(SETTLE_SECONDS)
    leader = await cluster.leader()
    began = time.monotonic()
    if arguments.transfer:
        await cluster.transfer(leader)
    elif arguments.silent:
        cluster.freeze(leader)
    elif arguments.cut:
        cluster.network.part([{leader}, {CLIENTS, *cluster.numbers} - {leader}])
    else:
        cluster.kill(leader)
    await trio.sleep(DOWN_SECONDS)
    gap = publisher.longest_gap(began, time.monotonic())
    await cluster.mend()
    return gap


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.failover", description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=3, choices=(1, 3, 5))
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--silent", action="store_true", help="freeze the leader instead of killing it")
    how.add_argument("--cut", action="store_true", help="let nothing that it says arrive, nor anything at it, instead")
    how.add_argument("--transfer", action="store_true", help="hand the lead over instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="failover-") as folder:
        gaps = trio.run(measure, arguments, Path(folder))
    print(json.dumps({"times": len(gaps), "p50": round(statistics.median(gaps), 3), "worst": round(max(gaps), 3)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
