"""Messages that a program lets go of without a verdict: nobody could settle them, so they go back."""

import gc
import logging

import anyio
import pytest

from sluicemq.client import connect
from sluicemq.wire import messages as m
from tests.client.conftest import virtual_time

pytestmark = [pytest.mark.anyio, virtual_time]


def numbered(first, last):
    return [b"%d" % number for number in range(first, last + 1)]


def nacks(broker):
    return [settle for settle in broker.peer.of(m.Settle) if settle.verdict == m.VERDICT_NACK]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if "let go of" in record.getMessage()]


async def test_what_is_let_go_of_is_nacked_by_the_retry_policy_and_said_once(broker, caplog):
    with caplog.at_level(logging.WARNING, "sluicemq.client"):
        async with connect(broker.url) as client, client.consumer("orders", lease=12) as consumer:
            await broker.peer.deliver(1, numbered(1, 6))
            await anext(consumer)
            kept = await anext(consumer)
            await consumer.receive(2)
            gc.collect()
            await anyio.sleep(5)
            assert not nacks(broker), "somebody may settle them yet"
            assert consumer.statistics().dropped == 3
            await anyio.sleep(16)
            (nack,) = nacks(broker)
            assert (nack.tags, nack.delay_seconds) == ([1, 1, 3, 4], None)
            assert "without a verdict" in nack.reason
            (warning,) = warnings(caplog)
            assert "3 messages of 'orders'" in warning
            await kept.ack(confirm=True)
            await anext(consumer)
            gc.collect()
            await anyio.sleep(30)
            assert [nack.tags for nack in nacks(broker)] == [[1, 1, 3, 4], [5, 5]]
            assert len(warnings(caplog)) == 1
            assert consumer.statistics().dropped == 4
            assert (await anext(consumer)).body == b"6"


async def test_what_got_its_verdict_or_is_in_hand_is_left_alone(broker, caplog):
    with caplog.at_level(logging.WARNING, "sluicemq.client"):
        async with connect(broker.url) as client, client.consumer("orders", lease=3) as consumer:
            await broker.peer.deliver(1, numbered(1, 9))
            async with await anext(consumer):
                pass
            await (await anext(consumer)).nack(reason="later")
            batch = await consumer.receive(2)
            bodies = [message.body for message in batch]
            await batch.ack()
            whole = await consumer.receive(2)
            of_batch = list(whole)[1]
            del whole, batch
            hand = await anext(consumer)
            gc.collect()
            await anyio.sleep(10)
            assert bodies == [b"3", b"4"]
            assert [nack.reason for nack in nacks(broker)] == ["later"]
            assert not warnings(caplog)
            assert consumer.statistics().dropped == 0
            await hand.ack()
            await of_batch.ack(confirm=True)


async def test_whoever_acknowledges_all_up_to_a_message_need_not_keep_them(broker, caplog):
    with caplog.at_level(logging.WARNING, "sluicemq.client"):
        async with connect(broker.url) as client, client.consumer("orders", lease=30) as consumer:
            await broker.peer.deliver(1, numbered(1, 6))
            for _ in range(2):
                await anext(consumer)
            await consumer.ack_through(await anext(consumer))
            for _ in range(2):
                await anext(consumer)
            gc.collect()
            await anyio.sleep(300)
            await consumer.ack_through(await anext(consumer))
            await consumer.flush()
            assert [settle.tags for settle in broker.peer.of(m.Settle)] == [[1, 3], [4, 6]]
            assert not warnings(caplog)


async def test_a_consumer_that_is_left_ends_when_what_it_let_go_of_is_nacked(broker):
    async with connect(broker.url) as client:
        async with client.consumer("orders", lease=3) as consumer:
            await broker.peer.deliver(1, numbered(1, 2))
            await anext(consumer)
        gc.collect()
        await anyio.sleep(8)
        assert [nack.tags for nack in nacks(broker)] == [[1, 1]]
        assert consumer.statistics().in_hand == 0
