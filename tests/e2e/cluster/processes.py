"""Several broker processes that are one cluster: started together, killed one by one, asked how they are.

This module knows processes, ports and the status that any broker tells; what is published is the tests' business.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from sluicemq.client import connect, probe_cluster
from sluicemq.client.errors import SluiceError
from tests.e2e.broker_process import BrokerProcess, unused_port
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from sluicemq.client import Client, ClusterReport

LOOK_SECONDS = 0.05


class Cluster:
    """Brokers by node id.

    Args:
        folder: Where their data directories lie.
        options: More options of each.

    """

    def __init__(self, folder: Path, options: Iterable[str] = ()) -> None:
        self._folder = folder
        self._options = [*options]
        self.ports: dict[int, int] = {}
        self.brokers: dict[int, BrokerProcess] = {}

    @property
    def url(self) -> str:
        """Of all of them."""
        return "sluicemq://" + ",".join(f"127.0.0.1:{port}" for port in self.ports.values())

    def prepare(self, *nodes: int) -> None:
        """Choose ports: `peers` of whoever starts afterwards names these nodes too."""
        for node in nodes:
            self.ports[node] = unused_port()

    def start(self, *nodes: int) -> None:
        """Start brokers and return when they accept connections; whether anybody leads is another question."""
        peers = ",".join(f"{node}=127.0.0.1:{port}" for node, port in self.ports.items())
        for node in nodes:
            options = ["--node-id", str(node), "--peers", peers, *self._options]
            self.brokers[node] = BrokerProcess(self._folder / f"node-{node}", port=self.ports[node], options=options)
            self.brokers[node].spawn()
        for node in nodes:
            self.brokers[node].wait_ready()

    def url_of(self, node: int) -> str:
        """Of one of them."""
        return f"sluicemq://127.0.0.1:{self.ports[node]}"

    def wipe(self, node: int) -> None:
        """Its disk is lost; the process has ended."""
        shutil.rmtree(self._folder / f"node-{node}")

    def end(self) -> None:
        """Kill all, and check that none of them complained of itself."""
        for broker in self.brokers.values():
            if broker.runs:
                broker.kill()
            broker.check_calm()

    # --- asking ---------------------------------------------------------------------------------------------------

    async def until(self, node: int, condition: Callable[[ClusterReport], Any]) -> ClusterReport:
        """Wait until what *node* says of the cluster fulfils *condition*, and return it."""
        report: ClusterReport | None = None
        with trio.move_on_after(WAIT_SECONDS):
            while True:
                try:
                    report = await probe_cluster(self.url_of(node))
                    if condition(report):
                        return report
                except SluiceError:
                    pass
                await trio.sleep(LOOK_SECONDS)
        raise AssertionError(f"node {node} never said so; it says {report}\n{self.brokers[node].stderr[-3000:]}")

    async def leader(self, asked: int | None = None) -> int:
        """Wait until a broker that runs knows a leader that runs too and serves, and return that."""
        node = asked or next(node for node, broker in self.brokers.items() if broker.runs)

        def led(report: ClusterReport) -> bool:
            return report.leader is not None and row_of(report, report.leader)["phase"] == "broadcast"

        report = await self.until(node, led)
        assert report.leader is not None
        return report.leader

    async def all_caught_up(self, *nodes: int, lag_max: int = 0) -> ClusterReport:
        """Wait until the leader says that these are there, and at most so many entries behind."""
        leader = await self.leader()

        def done(report: ClusterReport) -> bool:
            rows = [row_of(report, node) for node in nodes]
            there = (row for row in rows if row["reachable"] and row["phase"] == "broadcast")
            return sum(row["lag_entries"] <= lag_max for row in there) == len(rows)

        return await self.until(leader, done)

    async def hand_over(self, client: Client, node: int) -> None:
        """Let a node lead; on a busy machine it may not have caught up in time, or somebody else leads meanwhile."""
        refusal: SluiceError | None = None
        with trio.move_on_after(WAIT_SECONDS):
            while True:
                try:
                    await client.transfer_lead(node)
                except SluiceError as error:
                    refusal = error
                    await trio.sleep(LOOK_SECONDS)
                else:
                    return
        raise AssertionError(f"the lead was not handed over to node {node}: {refusal!r}")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client of whoever leads now."""
        async with connect(self.url_of(await self.leader())) as client:
            yield client


def each_once(bodies: Iterable[bytes]) -> list[bytes]:
    """Return these bodies as they came first: behind a new leader, which a busy machine may get at any time, what went
    out in the last moment of the one before comes again."""
    return list(dict.fromkeys(bodies))


def row_of(report: ClusterReport, node: int) -> dict[str, Any]:
    """Return what is said of one node; nothing known where it is not mentioned."""
    unknown = {"role": None, "phase": None, "reachable": False, "lag_entries": None, "voter": False}
    return next((row for row in report.nodes if row["id"] == node), unknown)


async def take(client: Client, queue: str, count: int) -> list[bytes]:
    """Consume so many messages and acknowledge them; return each body once."""
    found: list[bytes] = []
    async with client.consumer(queue, credit=500) as consumer:
        while len(found) < count:
            batch = await consumer.receive(max_messages=count - len(found), max_wait=WAIT_SECONDS)
            assert len(batch), f"only {len(found)} of {count} came"
            found = each_once([*found, *batch.bodies])
            await batch.ack()
    return found
