"""Three brokers in one process: a cluster forms, loses its leader, and goes on with every confirmed message."""

from __future__ import annotations

import pytest
import trio

from tests.broker.pipeline.ensemble.cluster import WAIT_SECONDS, open_cluster
from tests.broker.pipeline.roads import Client, declare, open_producer, publish


@pytest.mark.trio
async def test_three_empty_brokers_form_a_cluster_and_agree_on_what_is_published() -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        road = leader.road
        assert road is not None
        await declare(road)
        producer = await open_producer(road)
        with trio.fail_after(WAIT_SECONDS):
            for sequence in range(1, 20):
                await publish(road, producer, sequence, [b"x"] * 10)
        await cluster.agree()
        ids = {node.ensemble.log.cluster_id for node in cluster.nodes.values()}
        assert ids == {leader.ensemble.log.cluster_id}


@pytest.mark.trio
async def test_when_the_leader_goes_another_leads_with_everything_that_was_confirmed() -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        road = leader.road
        assert road is not None
        await declare(road)
        producer = await open_producer(road)
        await publish(road, producer, 1, [b"confirmed"])
        await cluster.stop(leader.number)
        other = await cluster.leader()
        assert other.number != leader.number
        assert other.road is not None
        client = Client(other.road)
        await client.open()
        client.consume(other.road.produce.find_queue("/", "orders"))
        assert [one.body for one in await client.take(1)] == [b"confirmed"]
        await cluster.start(leader.number)
        await cluster.agree()
