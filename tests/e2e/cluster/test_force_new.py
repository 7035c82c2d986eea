"""A majority is lost for good: one directory becomes the first of a new cluster, and the old one stays apart."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from sluicemq.client import NewMessage, connect
from tests.e2e.broker_process import PROGRAM
from tests.e2e.cluster.processes import Cluster, row_of, take
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.trio


async def sluicemq(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end, whatever its exit code."""
    command = [sys.executable, *PROGRAM, *map(str, arguments)]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)


async def force_new(data: Path, node: int, *options: str) -> dict[str, Any]:
    done = await sluicemq("cluster", "force-new", "--data", data, "--node-id", node, "--json", *options)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def orders(first: int, last: int) -> list[NewMessage]:
    return [NewMessage(b"order %d" % number, message_id=f"o-{number}") for number in range(first, last + 1)]


async def refused(cluster: Cluster, node: int, text: str) -> None:
    """Wait until a broker says this in its log."""
    with trio.move_on_after(WAIT_SECONDS):
        while text not in cluster.brokers[node].stderr:  # noqa: ASYNC110 - another process says it
            await trio.sleep(0.05)
        return
    raise AssertionError(f"node {node} never said {text!r}; it says\n{cluster.brokers[node].stderr[-3000:]}")


async def test_one_disk_of_three_is_left_and_all_of_it_is_served_again(cluster: Cluster, tmp_path: Path) -> None:
    leader = await cluster.leader()
    survivor = next(node for node in (1, 2, 3) if node != leader)
    lost, returning = (node for node in (1, 2, 3) if node != survivor)
    data = tmp_path / f"node-{survivor}"
    async with connect(cluster.url) as client:
        await client.declare_queue("orders", dedup_window=86_400)
        await client.declare_queue("reminders")
        async with client.producer("orders") as producer, client.producer("reminders") as reminding:
            before = await producer.send_many(orders(1, 300))
            await reminding.send(b"in an hour", delay=3_600)
            assert await take(client, "orders", 100) == [each.body for each in orders(1, 100)]
            await cluster.all_caught_up(1, 2, 3)
            old_id = (await client.cluster_status()).cluster_id
            for broker in cluster.brokers.values():
                broker.kill()
            shutil.copytree(tmp_path / f"node-{returning}", tmp_path / "kept")

            # What there is to choose from is looked at before anything is changed.
            seen = await force_new(data, survivor, "--dry-run")
            assert (seen["node_id"], seen["cluster_id"], seen["voters"]) == (survivor, old_id, [1, 2, 3])
            assert await force_new(data, survivor, "--dry-run") == seen
            made = await force_new(data, survivor, "--yes")
            assert made["last_zxid"] == seen["last_zxid"]

            cluster.start(survivor)
            assert await cluster.leader(survivor) == survivor
            report = await cluster.until(survivor, lambda told: row_of(told, survivor)["voter"])
            assert report.cluster_id == made["new_cluster_id"] != old_id
            assert [row["id"] for row in report.nodes if row["voter"]] == [survivor]
            assert row_of(report, survivor)["epoch"] > made["new_epoch"]

            # The client and its producer went through all of it: what it sent is known, what it sends is confirmed.
            again = await producer.send_many(orders(1, 300))
            assert [each.position for each in again] == [each.position for each in before]
            assert all(each.duplicate for each in again)
            assert not (await producer.send(b"order 301", message_id="o-301")).duplicate

    # A broker of the old cluster comes back with its old disk: neither of the two listens to the other.
    cluster.start(returning)
    await refused(cluster, returning, f"to cluster {made['new_cluster_id']}; ")
    report = await cluster.until(returning, lambda told: told.leader is None)
    assert row_of(report, returning)["role"] == "looking"
    cluster.brokers[returning].kill()

    # On empty directories both others learn, and vote once they are promoted.
    cluster.wipe(returning)
    cluster.wipe(lost)
    async with connect(cluster.url_of(survivor)) as client:
        for node in (lost, returning):
            await client.add_node(node, f"127.0.0.1:{cluster.ports[node]}")
        cluster.start(lost, returning)
        await cluster.all_caught_up(1, 2, 3)
        for node in (lost, returning):
            assert await client.promote_node(node)
            await cluster.until(survivor, lambda told: row_of(told, node)["role"] == "following")  # noqa: B023
    await cluster.all_caught_up(1, 2, 3)
    cluster.brokers[survivor].kill()
    await cluster.until(lost, lambda told: told.leader in (lost, returning))
    async with cluster.client() as client:
        assert await take(client, "orders", 201) == [each.body for each in orders(101, 301)]
        assert (await client.queue_info("reminders"))["delayed"] == 1
        async with client.producer("orders") as producer:
            assert (await producer.send(b"order 7", message_id="o-7")).duplicate


async def test_a_disk_that_lagged_goes_on_from_where_it_was_and_producers_say_what_is_missing(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leader = await cluster.leader()
    survivor, other = (node for node in (1, 2, 3) if node != leader)
    async with connect(cluster.url) as client:
        await client.declare_queue("orders", dedup_window=86_400)
        async with client.producer("orders") as producer:
            await producer.send_many(orders(1, 100))
            await cluster.all_caught_up(1, 2, 3)
            cluster.brokers[survivor].kill()
            await producer.send_many(orders(101, 200))
            await producer.send_many(orders(201, 300))
            for broker in cluster.brokers.values():
                broker.kill()
            lagging = await force_new(tmp_path / f"node-{survivor}", survivor, "--dry-run")
            ahead = await force_new(tmp_path / f"node-{other}", other, "--dry-run")
            assert lagging["last_zxid"] < ahead["last_zxid"], "the operator sees which disk goes further"
            cluster.wipe(leader)
            cluster.wipe(other)

            await force_new(tmp_path / f"node-{survivor}", survivor, "--yes")
            cluster.start(survivor)
            assert await cluster.leader(survivor) == survivor
            after = await producer.send_many(orders(301, 310))
            assert not any(each.duplicate for each in after)
            (warning,) = (record.getMessage() for record in caplog.records if "any more" in record.getMessage())
            assert "the last 2 batches" in warning

            # Whoever kept what it sent sends it again: ids tell what is still there.
            again = await producer.send_many(orders(1, 300))
            assert [each.duplicate for each in again] == [True] * 100 + [False] * 200
        found = await take(client, "orders", 310)
    assert found == [each.body for each in [*orders(1, 100), *orders(301, 310), *orders(101, 300)]]
