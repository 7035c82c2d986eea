"""Leases on the clock: renewal, its end, and what becomes of leases that ran out."""

# ruff: noqa: SIM117 (what a block does before it fails is the story)

import logging

import anyio
import pytest
import trio.lowlevel
import trio.testing

from sluicemq.client import connect
from sluicemq.client.errors import AlreadySettled, LeaseLost
from sluicemq.client.tag_ranges import TagRanges
from sluicemq.wire import messages as m
from sluicemq.wire.messages import RANGES_MAX
from tests.client.conftest import virtual_time
from tests.client.scripted_broker import SILENCE

pytestmark = [pytest.mark.anyio, virtual_time]


def numbered(first, last):
    return [b"%d" % number for number in range(first, last + 1)]


def block_the_loop(seconds):
    """What a handler does that calls blocking code: time passes and nothing else runs."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    clock.jump(seconds)


async def test_buffered_and_handled_messages_are_renewed_every_third_of_the_lease(broker):
    async with connect(broker.url) as client, client.consumer("orders", lease=30) as consumer:
        await broker.peer.deliver(1, numbered(1, 10))
        async with await anext(consumer), await anext(consumer):
            await anyio.sleep(95)
        extends = broker.peer.of(m.Extend)
        assert extends == [m.Extend(consumer=1, tags=[1, 10], seconds=30.0)] * 9
        await anyio.sleep(10)
        assert broker.peer.of(m.Extend)[-1].tags == [3, 10]
        assert consumer.statistics().leases_lost == 0
        assert (await anext(consumer)).body == b"3"


async def test_nothing_is_renewed_where_nothing_is_held_or_nobody_wants_it(broker):
    async with connect(broker.url) as client:
        async with client.consumer("orders", lease=3):
            await anyio.sleep(10)
        async with client.consumer("orders", lease=3, auto_renew=False) as consumer:
            await broker.peer.deliver(2, [b"x", b"y"])
            message = await anext(consumer)
            await anyio.sleep(2)
            await message.ack()
            late = await anext(consumer)
            await anyio.sleep(1.5)
            with pytest.raises(LeaseLost, match="not renewed or settled in time"):
                await late.ack()
            assert late.lease_lost
        assert broker.count(m.Extend) == 0


async def test_renewal_stops_after_the_longest_lease_so_that_a_hung_handler_lets_go(broker):
    async with connect(broker.url) as client, client.consumer("orders", lease=30, max_lease=120) as consumer:
        await broker.peer.deliver(1, numbered(1, 2))
        message = await anext(consumer)
        await anyio.sleep(300)
        tags = [extend.tags for extend in broker.peer.of(m.Extend)]
        assert tags[:12] == [[1, 2]] * 12
        assert tags[12:] == [[2, 2]] * (len(tags) - 12)
        assert len(tags) > 20
        with pytest.raises(LeaseLost):
            await message.ack()


async def test_a_blocked_loop_is_named_with_its_duration_and_its_messages_are_neither_yielded_nor_acked(broker, caplog):
    lost: list[LeaseLost] = []
    async with connect(broker.url) as client:
        async with client.consumer("orders", lease=30, on_lease_lost=lost.append) as consumer:
            await broker.peer.deliver(1, numbered(1, 3))
            with caplog.at_level(logging.WARNING, "sluicemq.client"):
                async with await anext(consumer):
                    block_the_loop(45)
            (warning,) = [record.getMessage() for record in caplog.records if "blocked" in record.getMessage()]
            assert "blocked for 35.0 seconds" in warning
            assert "leases (30 seconds) of 3 messages of 'orders'" in warning
            assert [(error.messages, error.reason) for error in lost] == [(1, "expired")]
            await broker.peer.deliver(1, [b"next"])
            message = await anext(consumer)
            assert message.body == b"next"
            await message.ack(confirm=True)
            assert [settle.tags for settle in broker.peer.of(m.Settle)] == [[4, 4]]
            assert consumer.statistics().delivered == 4


async def test_receive_passes_over_what_expired_too(broker):
    async with connect(broker.url) as client, client.consumer("orders", lease=30) as consumer:
        await broker.peer.deliver(1, numbered(1, 3))
        batch = await consumer.receive(1)
        block_the_loop(31)
        with pytest.raises(LeaseLost):
            await batch.ack()
        await broker.peer.deliver(1, [b"next"])
        assert (await consumer.receive()).bodies == [b"next"]


async def test_a_lease_that_the_broker_ended_is_known(broker):
    lost: list[LeaseLost] = []
    async with connect(broker.url) as client:
        async with client.consumer("orders", on_lease_lost=lost.append) as consumer:
            await broker.peer.deliver(1, numbered(1, 6))
            messages = [await anext(consumer) for _ in range(3)]
            batch = await consumer.receive(1)
            await broker.peer.send(m.LeasesLost(consumer=1, tags=[2, 2, 4, 5], reason="expired"))
            await anyio.sleep(1)
            await messages[0].ack()
            with pytest.raises(LeaseLost) as caught:
                await messages[1].ack()
            assert (caught.value.queue, caught.value.messages) == ("orders", 1)
            with pytest.raises(LeaseLost):
                await messages[1].nack()
            with pytest.raises(LeaseLost):
                await batch.ack()
            async with messages[1]:
                pass  # a handler's loop survives it: it was reported when it happened
            assert (await anext(consumer)).body == b"6"  # 5 was in the buffer: never yielded
            assert [(error.messages, error.reason) for error in lost] == [(2, "expired")]
            assert consumer.statistics().leases_lost == 2
        await broker.until(lambda: [settle.tags for settle in broker.peer.of(m.Settle)] == [[1, 1]])


def fail(_error):
    raise ZeroDivisionError


async def test_without_a_callback_the_log_tells_and_a_failing_callback_harms_nobody(broker, caplog):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, numbered(1, 2))
        await anext(consumer)
        await anext(consumer)
        with caplog.at_level(logging.WARNING, "sluicemq.client"):
            await broker.peer.send(m.LeasesLost(consumer=1, tags=[1, 1], reason="expired"))
            await anyio.sleep(1)
            assert "1 messages of 'orders' lost their leases (expired)" in caplog.text
            consumer.on_lease_lost = fail
            await broker.peer.send(m.LeasesLost(consumer=1, tags=[2, 2], reason="expired"))
            await anyio.sleep(1)
            assert "ZeroDivisionError" in caplog.text
        assert consumer.statistics().leases_lost == 2


async def test_a_renewal_that_came_too_late_is_a_lost_lease(broker):
    broker.on[m.Extend] = lambda *_: m.Extended(lost=[1, 1])
    async with connect(broker.url) as client, client.consumer("orders", lease=30) as consumer:
        await broker.peer.deliver(1, numbered(1, 2))
        first, second = await anext(consumer), await anext(consumer)
        await anyio.sleep(11)
        with pytest.raises(LeaseLost):
            await first.ack()
        await second.ack(confirm=True)


async def test_unanswered_renewals_end_in_lost_leases(broker):
    broker.on[m.Extend] = lambda *_: SILENCE
    async with connect(broker.url) as client, client.consumer("orders", lease=30) as consumer:
        await broker.peer.deliver(1, numbered(1, 2))
        message = await anext(consumer)
        await anyio.sleep(31)
        with pytest.raises(LeaseLost):
            await message.ack()


async def test_a_handler_may_ask_for_a_longer_lease_before_it_blocks(broker):
    async with connect(broker.url) as client, client.consumer("orders", lease=30) as consumer:
        await broker.peer.deliver(1, numbered(1, 3))
        message = await anext(consumer)
        await message.extend(600)
        assert broker.peer.of(m.Extend) == [m.Extend(consumer=1, tags=[1, 1], seconds=600.0)]
        await anyio.sleep(11)
        assert broker.peer.of(m.Extend)[-1].tags == [2, 3], "renewal must not shorten it"
        block_the_loop(500)
        await message.ack(confirm=True)
        with pytest.raises(AlreadySettled):
            await message.extend(5)


async def test_extending_a_lost_lease_or_a_batch(broker):
    async with connect(broker.url) as client, client.consumer("orders", lease=30) as consumer:
        await broker.peer.deliver(1, numbered(1, 3))
        batch = await consumer.receive()
        await batch.extend(60)
        assert broker.peer.of(m.Extend) == [m.Extend(consumer=1, tags=[1, 3], seconds=60.0)]
        broker.on[m.Extend] = lambda *_: m.Extended(lost=[2, 2])
        with pytest.raises(LeaseLost):
            await batch[1].extend(60)
        with pytest.raises(LeaseLost):
            await batch[1].extend(60)
        assert broker.count(m.Extend) == 2, "what is known to be lost is not asked for"
        del broker.on[m.Extend]
        await batch[0].extend(60)


async def test_frames_of_tags_are_cut_to_what_the_broker_takes(broker):
    """Every second message was settled, so that each of the others is a range of its own."""
    held = 2 * RANGES_MAX + 1
    async with connect(broker.url) as client, client.consumer("orders", lease=30, auto_renew=False) as consumer:
        await broker.peer.deliver(1, numbered(1, 2 * held))
        batch = await consumer.receive(2 * held)
        for message in batch[::2]:
            await message.ack()
        await batch.extend(60)
        assert [len(extend.tags) // 2 for extend in broker.peer.of(m.Extend)] == [RANGES_MAX, RANGES_MAX, 1]
        assert all(extend.seconds == 60.0 for extend in broker.peer.of(m.Extend))
        extended = TagRanges([tag for extend in broker.peer.of(m.Extend) for tag in extend.tags])
        assert (extended.count, 1 in extended, 2 in extended, 2 * held in extended) == (held, False, True, True)
        await anyio.sleep(59)
        reports = [settle for settle in broker.peer.of(m.Settle) if settle.verdict == m.VERDICT_HANDED_OVER]
        assert [len(report.tags) // 2 for report in reports] == [RANGES_MAX, RANGES_MAX, 1]
        assert TagRanges([tag for report in reports for tag in report.tags]).flat() == extended.flat()


async def test_renewals_of_scattered_messages_are_cut_to_what_the_broker_takes(broker):
    async with connect(broker.url) as client, client.consumer("orders", lease=30) as consumer:
        await broker.peer.deliver(1, numbered(1, 2 * RANGES_MAX + 2))
        for message in (await consumer.receive(2 * RANGES_MAX + 2))[::2]:
            await message.ack()
        await anyio.sleep(11)
        assert [len(extend.tags) // 2 for extend in broker.peer.of(m.Extend)] == [RANGES_MAX, 1]
