"""The life of a cluster of real processes: it forms, loses its leader and a disk, gains and loses members."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.client import connect
from sluicemq.client.errors import Conflict
from tests.e2e.broker_process import BrokerProcess
from tests.e2e.cluster.processes import Cluster, row_of, take

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sluicemq.client import Client

pytestmark = pytest.mark.trio

SMALL = ("--segment-bytes", "256KiB", "--snapshot-every-bytes", "256KiB", "--snapshot-every-entries", "500")


@pytest.fixture
def options() -> Iterable[str]:
    return SMALL


async def publish(client: Client, first: int, last: int, *, body_bytes: int = 100) -> list[bytes]:
    """Publish numbered messages and return their bodies once all are confirmed."""
    bodies = [b"%d" % number + bytes(body_bytes) for number in range(first, last + 1)]
    async with client.producer("orders") as producer:
        for start in range(0, len(bodies), 50):
            await producer.send_many(bodies[start : start + 50])
    return bodies


async def test_three_empty_directories_form_a_cluster_that_serves(cluster: Cluster) -> None:
    async with cluster.client() as client:
        await client.declare_queue("orders")
        bodies = await publish(client, 1, 500)
        assert await take(client, "orders", 500) == bodies
    report = await cluster.all_caught_up(1, 2, 3)
    assert sorted(row["role"] for row in report.nodes) == ["following", "following", "leading"]
    assert [row["voter"] for row in report.nodes] == [True] * 3
    assert [row["address"] for row in report.nodes] == [f"127.0.0.1:{port}" for port in cluster.ports.values()]
    for node in cluster.ports:
        await cluster.until(node, lambda told: told.leader == report.leader and told.cluster_id == report.cluster_id)


async def test_a_killed_leader_is_replaced_by_one_that_has_all_that_was_confirmed(cluster: Cluster) -> None:
    async with cluster.client() as client:
        await client.declare_queue("orders")
        bodies = await publish(client, 1, 300)
    for _ in range(3):
        await cluster.all_caught_up(1, 2, 3)
        leader = await cluster.leader()
        cluster.brokers[leader].kill()
        rest = [node for node in cluster.ports if node != leader]
        other = (await cluster.until(rest[0], lambda told: told.leader in rest)).leader  # noqa: B023
        assert other is not None
        async with cluster.client() as client:
            bodies += await publish(client, len(bodies) + 1, len(bodies) + 100)
        cluster.start(leader)
    async with cluster.client() as client:
        assert await take(client, "orders", len(bodies)) == bodies


async def test_a_wiped_disk_comes_back_by_a_snapshot_and_votes_again_when_it_is_promoted(cluster: Cluster) -> None:
    async with cluster.client() as client:
        await client.declare_queue("orders")
        bodies = await publish(client, 1, 5_000, body_bytes=500)
        done = await take(client, "orders", 4_500)
        assert done == bodies[:4_500]
        leader = await cluster.leader()
        lost = next(node for node in cluster.ports if node != leader)
        cluster.brokers[lost].kill()
        cluster.wipe(lost)
        bodies += await publish(client, 5_001, 6_000, body_bytes=500)
        cluster.start(lost)
        report = await cluster.all_caught_up(lost)
        assert (row_of(report, lost)["role"], row_of(report, lost)["voter"]) == ("observing", True)
        assert "snapshot" in cluster.brokers[lost].stderr
        assert await client.promote_node(lost)
        await cluster.until(leader, lambda told: row_of(told, lost)["role"] == "following")
        # It has it all: it leads, alone with one other.
        await cluster.hand_over(client, lost)
    await cluster.until(lost, lambda told: told.leader == lost)
    cluster.brokers[leader].kill()
    async with cluster.client() as client:
        assert await take(client, "orders", 1_500) == bodies[4_500:]


async def test_a_node_is_added_promoted_leads_and_is_removed(cluster: Cluster) -> None:
    async with cluster.client() as client:
        await client.declare_queue("orders")
        bodies = await publish(client, 1, 200)
        leader = await cluster.leader()
        cluster.prepare(4)
        assert await client.add_node(4, f"127.0.0.1:{cluster.ports[4]}")
        assert not await client.add_node(4, f"127.0.0.1:{cluster.ports[4]}")
        cluster.start(4)
        report = await cluster.all_caught_up(1, 2, 3, 4)
        assert (row_of(report, 4)["role"], row_of(report, 4)["voter"]) == ("observing", False)
        assert await client.promote_node(4)
        assert not await client.promote_node(4)
        await cluster.until(leader, lambda told: row_of(told, 4)["role"] == "following" and row_of(told, 4)["voter"])
        await cluster.hand_over(client, 4)
    assert (await cluster.until(1, lambda told: told.leader == 4)).leader == 4
    async with cluster.client() as client:
        assert await take(client, "orders", 200) == bodies
        assert await client.remove_node(1)
        cluster.brokers.pop(1).stop()
        report = await cluster.until(4, lambda told: not row_of(told, 1)["reachable"])
        assert not row_of(report, 1)["voter"]
        bodies = await publish(client, 201, 300)
        assert await take(client, "orders", 100) == bodies


async def test_a_planned_transfer_takes_a_moment_and_loses_nothing(cluster: Cluster) -> None:
    async with cluster.client() as client:
        await client.declare_queue("orders")
        bodies = await publish(client, 1, 100)
        leader = await cluster.leader()
        other = next(node for node in cluster.ports if node != leader)
        await cluster.all_caught_up(1, 2, 3)
        began = trio.current_time()
        assert await client.transfer_lead(other)
        await cluster.until(other, lambda told: told.leader == other)
        assert trio.current_time() - began < 15.0
    async with cluster.client() as client:
        assert await take(client, "orders", 100) == bodies


async def test_all_are_killed_and_come_back_with_everything(cluster: Cluster) -> None:
    async with cluster.client() as client:
        await client.declare_queue("orders")
        bodies = await publish(client, 1, 500)
    for broker in cluster.brokers.values():
        broker.kill()
    cluster.start(1, 2, 3)
    async with cluster.client() as client:
        assert await take(client, "orders", 500) == bodies


async def test_a_broker_alone_of_three_serves_nobody_and_says_so(cluster: Cluster) -> None:
    leader = await cluster.leader()
    for node in cluster.ports:
        if node != leader:
            cluster.brokers[node].kill()
    report = await cluster.until(leader, lambda told: told.leader is None)
    assert row_of(report, leader)["role"] == "looking"
    assert sum(row["reachable"] for row in report.nodes) == 1


async def test_a_frozen_leader_is_replaced_and_follows_when_it_wakes(cluster: Cluster) -> None:
    async with cluster.client() as client:
        await client.declare_queue("orders")
        bodies = await publish(client, 1, 100)
    leader = await cluster.leader()
    rest = [node for node in cluster.ports if node != leader]
    os.kill(cluster.brokers[leader].pid, signal.SIGSTOP)
    began = trio.current_time()
    report = await cluster.until(rest[0], lambda told: told.leader in rest)
    took = trio.current_time() - began
    async with connect(cluster.url_of(report.leader or 0)) as client:
        bodies += await publish(client, 101, 200)
    os.kill(cluster.brokers[leader].pid, signal.SIGCONT)
    await cluster.until(leader, lambda told: row_of(told, leader)["role"] == "following")
    await cluster.all_caught_up(1, 2, 3)
    async with cluster.client() as client:
        assert await take(client, "orders", 200) == bodies
    assert took < 30.0, "a loaded machine needs most of it"


async def test_a_broker_on_its_own_becomes_the_first_of_three(tmp_path: Path) -> None:
    alone = BrokerProcess(tmp_path / "node-1")
    with alone:
        async with connect(alone.url) as client:
            await client.declare_queue("orders")
            bodies = await publish(client, 1, 300)
            report = await client.cluster_status()
            assert [(row["id"], row["role"], row["voter"]) for row in report.nodes] == [(1, "leading", True)]
            with pytest.raises(Conflict, match="start it again with --peers"):
                await client.promote_node(2)
        alone.stop()
    three = Cluster(tmp_path)
    three.prepare(1, 2, 3)
    try:
        three.start(1)
        assert await three.leader() == 1
        three.start(2, 3)
        await three.all_caught_up(2, 3)
        async with three.client() as client:
            for node in (2, 3):
                assert await client.promote_node(node)
                await three.until(1, lambda told: row_of(told, node)["role"] == "following")  # noqa: B023
        three.brokers[1].kill()
        await three.until(2, lambda told: told.leader in (2, 3))
        async with connect(three.url) as client:
            assert await take(client, "orders", 300) == bodies
    finally:
        three.end()
