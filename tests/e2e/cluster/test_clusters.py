"""Three processes are one broker: they form a cluster, and whoever dies takes nothing that was confirmed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.client import connect
from tests.e2e.cluster.processes import each_once

if TYPE_CHECKING:
    from tests.e2e.cluster.trio_of_brokers import Brokers

PUBLISHED = 300
DEATH_AT = (100, 200)
"""After so many confirmed messages the leader is killed."""


@pytest.mark.trio
async def test_killing_every_leader_loses_no_confirmed_message(brokers: Brokers) -> None:
    confirmed: list[bytes] = []
    killed = 0
    with trio.fail_after(240):
        async with connect(brokers.url) as client:
            await client.declare_queue("orders")
            async with client.producer("orders", name="the one") as producer:
                for number in range(PUBLISHED):
                    body = b"%d" % number
                    await producer.send(body)
                    confirmed.append(body)
                    if number in DEATH_AT:
                        if killed:
                            brokers.nodes[killed].start()
                        killed = brokers.leader()
                        brokers.nodes[killed].kill()
            received: list[bytes] = []
            async with client.consumer("orders", credit=100) as consumer:
                while len(received) < PUBLISHED:
                    batch = await consumer.receive(max_messages=100, max_wait=5.0)
                    received = each_once([*received, *batch.bodies])
                    await batch.ack()
    assert received == confirmed


@pytest.mark.trio
async def test_all_brokers_killed_at_once_come_back_with_everything(brokers: Brokers) -> None:
    with trio.fail_after(240):
        async with connect(brokers.url) as client:
            await client.declare_queue("orders")
            async with client.producer("orders") as producer:
                await producer.send_many([b"%d" % number for number in range(1_000)])
        for node in brokers.nodes.values():
            node.kill()
        brokers.start()
        async with connect(brokers.url) as client:
            state = await client.queue_info("orders")
    assert state["ready"] == 1_000
