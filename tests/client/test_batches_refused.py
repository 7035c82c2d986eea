"""A confirmed verdict on a batch is refused where the broker refused any message of it, not only the last."""

from __future__ import annotations

import pytest

from sluicemq.client import connect
from sluicemq.client.errors import LeaseLost
from sluicemq.wire import messages as m
from tests.client.test_consuming import numbered

pytestmark = pytest.mark.anyio


async def test_a_confirmed_ack_of_a_batch_says_that_one_in_its_middle_was_refused(broker):
    broker.on[m.Settle] = lambda *_: m.Settled(lost=[2, 2])
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, numbered(1, 3))
        batch = await consumer.receive(3)
        assert len(batch) == 3
        with pytest.raises(LeaseLost) as caught:
            await batch.ack(confirm=True)
        assert (caught.value.queue, caught.value.messages) == ("orders", 1)
