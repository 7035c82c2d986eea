"""Requests of one client that must cost the others nothing: large answers, unsendable frames, and goodbyes."""

from __future__ import annotations

import pytest
import trio

from sluicemq.broker.server import outbound as outbound_module
from sluicemq.broker.server import requests as requests_module
from sluicemq.broker.server import statistics as statistics_module
from sluicemq.wire import messages as m
from sluicemq.wire.errors import InvalidRequest, LimitReached, MessageTooLarge, QueueNotFound, error_from_wire
from tests.broker.server.talk import open_port, unpack
from tests.patience import WAIT_SECONDS


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
async def test_a_client_with_small_frames_gets_a_large_batch_in_many():
    async with open_port() as port:
        small, other = await port.connect(frame_bytes_max=4096), await port.connect()
        await other.declare()
        bodies = [b"%04d" % number + bytes(number % 700) for number in range(500)]
        await other.publish(await other.open_producer(), 1, bodies)
        frames: list[int] = []
        small.on_deliver = lambda _message, found: frames.append(len(found))
        consumer = await small.consume(credit=1000)

        assert await small.take(500) == bodies
        assert [tag for _, tag, _ in small.deliveries] == list(range(1, 501))
        assert len(frames) > 40
        assert (await small.ask(m.Settle(consumer, m.VERDICT_ACK, [1, 500]))).lost == []
        await port.road.wait_idle()
        assert (await other.ask(m.QueueInfo("orders"))).queues[0]["settled_total"] == 500


@pytest.mark.trio
async def test_a_message_larger_than_a_client_takes_ends_its_consumer_once_it_has_settled_what_came_before(
    monkeypatch,
):
    async with open_port() as port:
        small, other = await port.connect(frame_bytes_max=4096), await port.connect()
        await other.declare()
        await other.publish(await other.open_producer(), 1, [b"first", b"second", bytes(10_000), b"last"])
        consumer = await small.consume()
        assert await small.take(2) == [b"first", b"second"]
        large = await other.consume()
        assert await other.take(2) == [bytes(10_000), b"last"], "what one cannot take the others get"
        await small.ask(m.Settle(consumer, m.VERDICT_ACK, [1, 1]))
        assert small.unasked == []
        heard: list[type] = []
        take = small._take

        async def noted(message, correlation, tail):
            heard.append(type(message))
            await take(message, correlation, tail)

        monkeypatch.setattr(small, "_take", noted)
        assert (await small.ask(m.Settle(consumer, m.VERDICT_ACK, [2, 2]))).lost == []
        await small.until(lambda: bool(small.unasked))

        assert heard == [m.Settled, m.ConsumerEnded]
        [ended] = small.unasked
        assert isinstance(ended, m.ConsumerEnded)
        error = error_from_wire(ended.error)
        assert isinstance(error, MessageTooLarge)
        assert error.fields["message_bytes"] > 10_000
        assert error.fields["frame_bytes_max"] == 4096
        assert (await other.ask(m.Settle(large, m.VERDICT_ACK, [1, 2]))).lost == []
        assert (await small.ask(m.QueueInfo("orders"))).queues[0]["consumers"] == 1


@pytest.mark.trio
async def test_a_message_larger_than_any_consumer_takes_stays_in_the_queue_and_ends_each_at_once():
    async with open_port() as port:
        small, other = await port.connect(frame_bytes_max=4096), await port.connect()
        await other.declare()
        await other.publish(await other.open_producer(), 1, [bytes(10_000)])
        for consumer in (await small.consume(), await small.consume()):
            await small.until(lambda: bool(small.unasked))
            ended = small.unasked.pop(0)
            assert isinstance(ended, m.ConsumerEnded)
            assert ended.consumer == consumer
        await port.road.wait_idle()
        state = (await small.ask(m.QueueInfo("orders"))).queues[0]

        assert (state["ready"], state["leased"], state["consumers"]) == (1, 0, 0)
        assert small.deliveries == []


@pytest.mark.trio
async def test_a_consumer_that_is_about_to_end_can_be_cancelled_instead():
    async with open_port() as port:
        small = await port.connect(frame_bytes_max=4096)
        other = await port.connect()
        await other.declare()
        await other.publish(await other.open_producer(), 1, [b"first", bytes(10_000)])
        consumer = await small.consume()
        await small.take(1)
        await small.ask(m.CancelConsumer(consumer))
        await small.ask(m.Settle(consumer, m.VERDICT_ACK, [1, 1]))
        await port.road.wait_idle()
        await small.ask(m.QueueInfo("orders"))

        assert small.unasked == []


@pytest.mark.trio
async def test_what_was_sent_counts_as_leased_while_its_grant_is_on_the_way_to_the_disk(monkeypatch):
    async with open_port() as port:
        peer = await port.connect()
        queue_state = statistics_module.queue_state
        await peer.declare()
        await peer.publish(await peer.open_producer(), 1, [b"a", b"b", b"c"])
        queue = port.road.produce.find_queue("/", "orders")
        seen: list[tuple[int, int, int]] = []
        deliver = port.road.dispatch._send

        def watched(pick, cargo):
            deliver(pick, cargo)
            state = queue_state(port.road, queue)
            seen.append((queue.ready, state["ready"], state["leased"]))

        monkeypatch.setattr(port.road.dispatch, "_send", watched)
        await peer.consume(credit=2)
        await peer.take(2)
        await port.road.wait_idle()
        state = queue_state(port.road, queue)

        assert seen == [(3, 1, 2)], "the machine has not applied the grant yet"
        assert (queue.ready, state["ready"], state["leased"]) == (1, 1, 2)


@pytest.mark.trio
async def test_a_purge_ahead_of_a_grant_makes_no_figure_negative():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        await peer.publish(await peer.open_producer(), 1, [b"a", b"b", b"c"])
        queue = port.road.produce.find_queue("/", "orders")
        port.road.dispatch._unapplied_messages[queue.id] = 3
        await peer.ask(m.PurgeQueue("orders"))
        state = (await peer.ask(m.QueueInfo("orders"))).queues[0]

        assert (state["ready"], state["leased"]) == (0, 0)


@pytest.mark.trio
async def test_a_long_list_of_queues_is_made_in_slices_between_which_others_are_served(monkeypatch):
    monkeypatch.setattr(requests_module, "SLICE_SECONDS", 0.0)
    async with open_port() as port:
        peer = await port.connect()
        for number in range(20):
            await peer.declare(f"queue {number:02}")
        turns = 0
        at = set()

        async def count_turns():
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        def watched(road, queue):
            at.add(turns)
            return statistics_module.queue_state(road, queue)

        monkeypatch.setattr(requests_module, "queue_state", watched)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            listed = await peer.ask(m.ListQueues("", 100))
            nursery.cancel_scope.cancel()

        assert [state["name"] for state in listed.queues] == [f"queue {number:02}" for number in range(20)]
        assert len(at) > 10, "trio may run two tasks of one turn in either order"


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
async def test_one_connection_has_a_bounded_number_of_producers(monkeypatch):
    monkeypatch.setattr(requests_module, "PRODUCERS_MAX", 3)
    async with open_port() as port:
        peer, other = await port.connect(), await port.connect()
        await peer.declare()
        await peer.open_producer()
        second = await peer.open_producer()
        asked = [await peer.send(m.OpenProducer(name)) for name in ("web", "")]
        await peer.reply_to(asked[0])
        with pytest.raises(LimitReached, match="one connection may have 3 producers open") as caught:
            await peer.reply_to(asked[1])
        assert (caught.value.limit, caught.value.value) == ("session_producers_max", 3)

        assert await other.open_producer(), "another connection has room of its own"
        await other.ask(m.OpenProducer("web"))
        assert await peer.open_producer(), "one of them was fenced"
        with pytest.raises(LimitReached):
            await peer.open_producer()
        await peer.ask(m.CloseProducer(second))
        assert await peer.open_producer(), "one of them was closed"


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
        with trio.fail_after(WAIT_SECONDS):
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
        with trio.fail_after(WAIT_SECONDS):
            await port.server.stop(10 * WAIT_SECONDS)
            await peer.closed.wait()

        assert peer.error is not None
        assert peer.error.code == "broker_stopping"
