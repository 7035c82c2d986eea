"""Whose disks confirm a send: said by the producer or by the send itself, and told by its receipt."""

import pytest

from sluicemq.client import connect
from sluicemq.client.errors import InvalidRequest
from sluicemq.client.outgoing import NO_ATTRIBUTES, Pending
from sluicemq.client.sending_window import SendingWindow
from sluicemq.wire import messages as m


@pytest.mark.anyio
async def test_each_send_may_ask_for_other_disks_than_its_producer(broker):
    async with connect(broker.url) as client, client.producer("orders", acks="all") as producer:
        receipts = [
            await producer.send(b"1"),
            await producer.send(b"2", acks="leader"),
            await (await producer.submit(b"3", acks="quorum")),
            (await producer.send_many([b"4", b"5"], acks="leader"))[0],
            (await producer.send_many([b"6"]))[0],
            await client.send("orders", b"7"),
            await client.send("orders", b"8", acks="all"),
        ]
    assert [receipt.acks for receipt in receipts] == ["all", "leader", "quorum", "leader", "all", "quorum", "all"]


@pytest.mark.anyio
async def test_nobody_else_can_be_asked(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        with pytest.raises(InvalidRequest, match="acks is 'most'; it must be one of quorum, all, leader"):
            await producer.send(b"x", acks="most")
        with pytest.raises(InvalidRequest, match="acks is 'most'"):
            await producer.send_many([b"x"], acks="most")
        with pytest.raises(InvalidRequest, match="acks is 'most'"):
            await client.send("orders", b"x", acks="most")
        assert broker.count(m.Publish) == 0


def test_sends_that_ask_for_other_disks_travel_in_batches_of_their_own_in_the_order_of_sending():
    window = SendingWindow()
    window.numbered(1)
    for body, acks in ((b"1", 0), (b"2", 0), (b"3", 1), (b"4", 0), (b"5", 0)):
        window.collect("orders", body, NO_ATTRIBUTES, Pending(0.0), 10, acks)
    batches = list(iter(window.next, None))
    assert [(batch.bodies, batch.acks) for batch in batches] == [
        *(([b"1", b"2"], 0), ([b"3"], 1), ([b"4", b"5"], 0)),
    ]
