"""The lead goes from broker to broker while workers are at work: no message is given to a second worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.client import connect

if TYPE_CHECKING:
    from sluicemq.client import Client
    from tests.e2e.cluster.processes import Cluster

pytestmark = pytest.mark.trio

MESSAGES = 400
PAUSE_SECONDS = 0.005
WORK_SECONDS = 0.02
WORKERS = 5
CHANGES = 3


class Shop:
    """Who publishes, who works, and what went through whose hands."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.published = 0

    async def publish(self, url: str) -> None:
        async with connect(url) as client, client.producer("orders") as producer:
            for number in range(MESSAGES):
                await producer.send(b"%d" % number)
                self.published += 1
                await trio.sleep(PAUSE_SECONDS)

    async def work(self, client: Client) -> None:
        async with client.consumer("orders", credit=20) as consumer:
            async for message in consumer:
                self.begun.append(message.body)
                await trio.sleep(WORK_SECONDS)
                await message.ack()

    @property
    def done(self) -> bool:
        return len(set(self.begun)) == MESSAGES


async def test_no_message_is_begun_twice_while_the_lead_is_handed_over(cluster: Cluster) -> None:
    shop = Shop()
    with trio.fail_after(240):
        async with connect(cluster.url) as client:
            await client.declare_queue("orders")
            epoch = (await client.statistics())["epoch"]
            async with trio.open_nursery() as nursery:
                for _ in range(WORKERS):
                    nursery.start_soon(_worker, shop, cluster.url)
                nursery.start_soon(shop.publish, cluster.url)
                for change in range(1, CHANGES + 1):
                    while shop.published < change * MESSAGES // (CHANGES + 1):  # noqa: ASYNC110 - others publish
                        await trio.sleep(PAUSE_SECONDS)
                    leader = await cluster.leader()
                    await cluster.hand_over(client, leader % 3 + 1)
                while not shop.done:  # noqa: ASYNC110 - others work
                    await trio.sleep(PAUSE_SECONDS)
                nursery.cancel_scope.cancel()
            elected = (await client.statistics())["epoch"] - epoch - CHANGES
    wanted = [b"%d" % number for number in range(MESSAGES)]
    assert sorted(set(shop.begun), key=int) == wanted
    # Where the machine stood still for a second, a leader was elected besides: that one may begin some of them again.
    assert elected or sorted(shop.begun, key=int) == wanted


async def _worker(shop: Shop, url: str) -> None:
    async with connect(url) as client:
        await shop.work(client)
