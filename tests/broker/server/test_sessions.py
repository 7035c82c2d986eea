"""Requests of one client that must cost the others nothing: large answers, unsendable frames, and goodbyes."""

from __future__ import annotations

import pytest
import trio

from sluicemq.broker.server import outbound as outbound_module
from sluicemq.wire import messages as m
from sluicemq.wire.errors import InternalError, InvalidRequest, MessageTooLarge, QueueNotFound
from tests.broker.server.talk import open_port, unpack


@pytest.mark.trio
async def test_a_request_that_fails_leaves_the_connection_as_it_was():
    async with open_port() as port:
        peer = await port.connect()
        with pytest.raises(QueueNotFound):
            await peer.consume("nowhere")
        await peer.declare()
        consumer = await peer.consume()
        with pytest.raises(InvalidRequest):
            await peer.ask(m.Settle(consumer, 99, [1, 1]))

        assert (await peer.ask(m.QueueInfo("orders"))).queues[0]["consumers"] == 1


@pytest.mark.trio
async def test_a_delivery_larger_than_a_client_takes_ends_that_client_only():
    async with open_port() as port:
        small, other = await port.connect(frame_bytes_max=4096), await port.connect()
        await other.declare()
        await other.publish(await other.open_producer(), 1, [bytes(10_000)])
        await small.consume()
        with trio.fail_after(10):
            await small.closed.wait()
        assert isinstance(small.error, InternalError)
        await other.consume()

        assert await other.take(1) == [bytes(10_000)]


@pytest.mark.trio
async def test_peek_shows_what_fits_the_clients_frames_and_says_when_nothing_does():
    async with open_port() as port:
        small, other = await port.connect(frame_bytes_max=4096), await port.connect()
        await other.declare()
        producer = await other.open_producer()
        await other.publish(producer, 1, [b"%03d" % number + bytes(500) for number in range(20)])
        peeked, tail = await small.ask(m.Peek("orders", 0, 100))
        assert [body[:3] for body in unpack(peeked.runs, tail)] == [b"000"]
        await other.ask(m.PurgeQueue("orders"))
        await other.publish(producer, 2, [bytes(10_000)])
        with pytest.raises(MessageTooLarge):
            await small.ask(m.Peek("orders", 0, 1))

        peeked, tail = await other.ask(m.Peek("orders", 0, 1))
        assert unpack(peeked.runs, tail) == [bytes(10_000)]


@pytest.mark.trio
async def test_small_requests_with_large_answers_wait_until_the_client_reads(monkeypatch):
    monkeypatch.setattr(outbound_module, "OUTBOUND_BYTES_MAX", 100_000)
    async with open_port(send_bytes=8192) as port:
        greedy, other = await port.connect(receive_bytes=4096), await port.connect()
        await other.declare()
        await other.publish(await other.open_producer(), 1, [bytes(90_000)])
        greedy.reading = trio.Event()
        session = next(each for each in port.server.sessions if each.session == greedy.opened.session)
        correlations = range(10_001, 10_201)
        await greedy.send_bytes(
            b"".join(greedy.connection.send(m.Peek("orders", 0, 1), correlation=number) for number in correlations)
        )
        with trio.fail_after(10):
            while not session.suspended:
                await trio.lowlevel.checkpoint()

        assert session.outbound.pending_bytes < 400_000, "200 answers would be 18 MB"
        greedy.reading.set()
        for number in correlations:
            await greedy.reply_to(number)


@pytest.mark.trio
async def test_a_settlement_of_ten_million_tags_costs_entries_only_for_those_held():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        await peer.publish(await peer.open_producer(), 1, [b"a", b"b", b"c"])
        consumer = await peer.consume()
        await peer.take(3)
        await peer.ask(m.Settle(consumer, m.VERDICT_ACK, [2, 2]))
        before = port.road.entries_total
        settled = await peer.ask(m.Settle(consumer, m.VERDICT_ACK, [1, 10_000_000]))

        assert settled.lost == [2, 2, 4, 10_000_000]
        assert port.road.entries_total - before <= 2


@pytest.mark.trio
async def test_leases_lost_in_thousands_of_ranges_reach_the_client_in_parts():
    async with open_port() as port:
        peer = await port.connect(frame_bytes_max=65_536)
        await peer.declare()
        await peer.publish(await peer.open_producer(), 1, [b"x"] * 4000)
        consumer = await peer.consume(credit=4000)
        await peer.take(4000)
        odd = [tag for tag in range(1, 4001, 2) for _ in range(2)]
        for start in range(0, len(odd), 2000):
            await peer.ask(m.Settle(consumer, m.VERDICT_ACK, odd[start : start + 2000]))
        await peer.ask(m.DeleteQueue("orders"))
        lost = [tag for message in peer.unasked if isinstance(message, m.LeasesLost) for tag in message.tags]

        assert lost == [tag for tag in range(2, 4001, 2) for _ in range(2)]


@pytest.mark.trio
async def test_a_stopping_broker_confirms_what_is_on_the_road_and_says_goodbye_at_once():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        producer = await peer.open_producer()
        assert not (await peer.publish(producer, 1, [b"x"])).duplicate
        started = trio.current_time()
        await port.server.stop(10.0)
        with trio.fail_after(5):
            await peer.closed.wait()

        assert trio.current_time() - started < 5
        assert peer.error is not None
        assert peer.error.code == "broker_stopping"
