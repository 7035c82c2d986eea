"""While the lead is handed over nothing is delivered that the next leader would not know of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from sluicemq.broker.replication import events as ev
from sluicemq.wire.errors import RequestTimeout
from tests.broker.pipeline.ensemble.cluster import OPTIONS, Cluster, Node, open_cluster
from tests.broker.pipeline.roads import Client, declare, open_producer, publish
from tests.patience import WAIT_SECONDS


class Silenced:
    """A node whose answers to others are held back."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._held: list = []
        self._send = node.ensemble.driver._links.send
        node.send = lambda peer, message: self._held.append((peer, message))  # type: ignore[method-assign]

    def speak(self) -> None:
        """Let everything go."""
        self._node.send = self._send  # type: ignore[method-assign]
        for peer, message in self._held:
            self._send(peer, message)


async def a_queue_with_ten(cluster: Cluster) -> tuple[Node, Node]:
    """Return the leader, whose queue holds ten messages, and another node."""
    leader = await cluster.leader()
    road = leader.road
    assert road is not None
    await declare(road)
    producer = await open_producer(road)
    await publish(road, producer, 1, [b"x"] * 10)
    await cluster.agree()
    return leader, next(node for node in cluster.nodes.values() if node is not leader)


@pytest.mark.trio
async def test_what_comes_up_while_the_lead_is_handed_over_is_delivered_by_the_next_leader_only() -> None:
    async with open_cluster() as cluster:
        leader, heir = await a_queue_with_ten(cluster)
        road = leader.road
        assert road is not None
        client = await Client(road).open()
        await cluster.agree()
        silenced = Silenced(heir)
        await declare(road, "something that the heir does not confirm")
        leader.ensemble.driver.ask(lambda asked: ev.TransferLeadership(asked, heir.number))
        client.consume(road.produce.find_queue("/", "orders"))
        road.advance()
        silenced.speak()
        await heir.until(lambda: heir.road is not None)
        assert client.received == []
        assert heir.road is not None
        assert heir.road.produce.find_queue("/", "orders").ready == 10


@pytest.mark.trio
async def test_a_leader_whose_heir_does_not_catch_up_delivers_again() -> None:
    async with open_cluster(options=replace(OPTIONS, transfer_seconds=0.5)) as cluster:
        leader, heir = await a_queue_with_ten(cluster)
        road = leader.road
        assert road is not None
        client = await Client(road).open()
        await cluster.agree()
        silenced = Silenced(heir)
        await declare(road, "something that the heir does not confirm")
        asked = leader.ensemble.driver.ask(lambda asked: ev.TransferLeadership(asked, heir.number))
        client.consume(road.produce.find_queue("/", "orders"))
        road.advance()
        assert client.received == []
        with trio.fail_after(WAIT_SECONDS), pytest.raises(RequestTimeout):
            await asked.wait()
        assert len(await client.take(10)) == 10
        silenced.speak()
