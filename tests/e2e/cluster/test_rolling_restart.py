"""All brokers are restarted, one after the other, while clients publish and consume: as docs/cluster.md says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.client import connect
from tests.e2e.cluster.processes import each_once

if TYPE_CHECKING:
    from sluicemq.client import Client
    from tests.e2e.cluster.processes import Cluster

pytestmark = pytest.mark.trio

PAUSE_SECONDS = 0.005
"""Between two messages: about 200 a second."""


class Traffic:
    """What clients do meanwhile; anything that they raise fails the test."""

    def __init__(self) -> None:
        self.confirmed: list[bytes] = []
        self.received: list[bytes] = []
        self.longest_gap_seconds = 0.0
        self.ending = self.ended = False

    async def publish(self, client: Client) -> None:
        async with client.producer("orders", name="the one") as producer:
            before = trio.current_time()
            while not self.ending:
                body = b"%d" % len(self.confirmed)
                await producer.send(body)
                self.confirmed.append(body)
                now = trio.current_time()
                self.longest_gap_seconds = max(self.longest_gap_seconds, now - before)
                before = now
                await trio.sleep(PAUSE_SECONDS)
        self.ended = True

    async def consume(self, client: Client) -> None:
        async with client.consumer("orders", credit=100) as consumer:
            while not self.ended or len(set(self.received)) < len(self.confirmed):
                batch = await consumer.receive(max_messages=100, max_wait=0.2)
                self.received += batch.bodies
                await batch.ack()


async def test_clients_notice_nothing_and_nothing_is_lost(cluster: Cluster) -> None:
    traffic = Traffic()
    await cluster.leader()
    with trio.fail_after(240):
        async with connect(cluster.url) as client:
            await client.declare_queue("orders")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(traffic.publish, client)
                nursery.start_soon(traffic.consume, client)
                leader = await cluster.leader()
                for node in [*(each for each in cluster.ports if each != leader), leader]:
                    before = len(traffic.confirmed)
                    await trio.to_thread.run_sync(cluster.brokers[node].stop)
                    await trio.to_thread.run_sync(cluster.start, node)
                    await cluster.all_caught_up(1, 2, 3, lag_max=10)
                    while len(traffic.confirmed) < before + 50:  # noqa: ASYNC110 - the traffic is in no hurry
                        await trio.sleep(PAUSE_SECONDS)
                traffic.ending = True
    assert sorted(set(traffic.received), key=int) == traffic.confirmed
    assert each_once(traffic.received) == traffic.confirmed, "in order, repetitions aside"
    print(f"{len(traffic.confirmed)} messages, longest gap {traffic.longest_gap_seconds:.2f} s")
