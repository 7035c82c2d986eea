"""What each request answers, as a client sees it at the port."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from sluicemq.broker.server import requests as requests_module
from sluicemq.broker.server import showing as showing_module
from sluicemq.broker.server import statistics as statistics_module
from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.connection import REQUESTS
from sluicemq.wire.errors import (
    BatchTooLarge,
    Conflict,
    ConsumerNotFound,
    InvalidRequest,
    LimitReached,
    MessageTooLarge,
    ProducerNotFound,
    QueueNotFound,
    UnknownOption,
)
from tests.broker.server.talk import open_port
from tests.patience import WAIT_SECONDS

# --- queues -------------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_plan_says_what_a_declaration_would_do_and_does_nothing():
    async with open_port() as port:
        peer = await port.connect()
        entries = port.road.entries_total
        planned = await peer.ask(m.DeclareQueue("orders", {"retry_delay": 7.0}, True))
        assert (planned.outcome, port.road.machine.queues()) == ("created", [])
        await peer.declare("orders", retry_delay=7.0)
        assert (await peer.ask(m.DeclareQueue("orders", {"retry_delay": 7.0}, True))).outcome == "unchanged"
        planned = await peer.ask(m.DeclareQueue("orders", {"retry_delay": 9.0}, True))
        assert (planned.outcome, planned.changes) == ("changed", {"retry_delay": [7.0, 9.0]})
        with pytest.raises(InvalidRequest):
            await peer.ask(m.DeclareQueue("orders", {"retry_delay": "soon"}, True))

        assert port.road.entries_total == entries + 1
        assert (await peer.ask(m.QueueInfo("orders"))).queues[0]["settings"]["retry_delay"] == 7.0


@pytest.mark.trio
async def test_a_setting_that_no_queue_has_never_reaches_the_log():
    async with open_port() as port:
        peer = await port.connect()
        entries = port.road.entries_total
        with pytest.raises(UnknownOption, match="retry_delya"):
            await peer.declare("orders", retry_delya=7.0)
        assert port.road.entries_total == entries, "where it would stop every broker that does not know it"


@pytest.mark.trio
async def test_queues_are_listed_page_by_page_in_the_order_of_their_names():
    async with open_port() as port:
        peer, small = await port.connect(), await port.connect(frame_bytes_max=4096)
        names = sorted(f"queue {number}" for number in range(30))
        for name in reversed(names):
            await peer.declare(name)
        for asker, most in ((peer, 10), (small, 3)):
            listed: list[str] = []
            more = True
            while more:
                page = await asker.ask(m.ListQueues(listed[-1] if listed else "", 10))
                assert 0 < len(page.queues) <= most
                listed += [queue["name"] for queue in page.queues]
                more = page.more
            assert listed == names


@pytest.mark.trio
async def test_a_queue_with_messages_is_deleted_only_by_who_says_so():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        await peer.publish(await peer.open_producer(), 1, [b"x", b"y"])
        with pytest.raises(Conflict, match="holds 2 messages"):
            await peer.ask(m.DeleteQueue("orders", True))
        assert (await peer.ask(m.DeleteQueue("orders"))).messages == 2
        with pytest.raises(QueueNotFound):
            await peer.ask(m.DeleteQueue("orders"))


# --- producers ----------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_batches_that_are_too_large_are_refused_by_the_limits_that_opened_told():
    async with open_port() as port:
        port.road.produce.batch_bytes_max = 1000
        port.road.produce.batch_messages_max = 10
        port.road.produce.message_bytes_max = 500
        peer = await port.connect()
        assert peer.opened is not None
        assert (peer.opened.batch_bytes_max, peer.opened.batch_messages_max) == (1000, 10)
        assert peer.opened.message_bytes_max == 500
        await peer.declare()
        producer = await peer.open_producer()
        with pytest.raises(BatchTooLarge, match="bytes; allowed are 1000"):
            await peer.publish(producer, 1, [bytes(400)] * 3)
        with pytest.raises(BatchTooLarge, match="11 messages; allowed are 10"):
            await peer.publish(producer, 1, [b"x"] * 11)
        with pytest.raises(MessageTooLarge):
            await peer.publish(producer, 1, [bytes(501)])

        # A refusal burns no number.
        assert not (await peer.publish(producer, 1, [b"x"] * 10)).duplicate


@pytest.mark.trio
async def test_a_producer_that_is_closed_or_never_was_publishes_nothing():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        producer = await peer.open_producer()
        await peer.publish(producer, 1, [b"x"])
        await peer.ask(m.CloseProducer(producer))
        for number in (producer, 12345, 0):
            with pytest.raises(ProducerNotFound):
                await peer.publish(number, 2, [b"y"])

        assert (await peer.ask(m.QueueInfo("orders"))).queues[0]["ready"] == 1


# --- consumers ----------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_cancelled_consumer_keeps_its_leases_and_gets_nothing_more():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        producer = await peer.open_producer()
        await peer.publish(producer, 1, [b"a", b"b"])
        consumer = await peer.consume()
        await peer.take(2)
        await peer.ask(m.CancelConsumer(consumer))
        await peer.ask(m.CancelConsumer(consumer))  # once more does no harm
        await peer.publish(producer, 2, [b"c"])
        state = (await peer.ask(m.QueueInfo("orders"))).queues[0]
        assert (state["ready"], state["leased"], state["consumers"]) == (1, 2, 0)
        assert (await peer.ask(m.Extend(consumer, [1, 3], 60.0))).lost == [3, 3]
        assert (await peer.ask(m.Settle(consumer, m.VERDICT_ACK, [1, 2]))).lost == []
        # Credit that crosses the cancellation on the way is no news.
        await peer.send(m.Credit(consumer, 100, 1000), correlation=0)

        assert len(peer.deliveries) == 2
        assert (await peer.ask(m.QueueInfo("orders"))).queues[0]["ready"] == 1


@pytest.mark.trio
async def test_credit_bounds_what_is_held_and_more_of_it_lets_more_come():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        await peer.publish(await peer.open_producer(), 1, [b"%d" % number for number in range(10)])
        consumer = await peer.consume(credit=2)
        await peer.take(2)
        await port.road.wait_idle()
        await trio.testing.wait_all_tasks_blocked()
        assert len(peer.deliveries) == 2
        await peer.send(m.Credit(consumer, 5, 1 << 20), correlation=0)
        await peer.take(5)
        await peer.send(m.Credit(consumer, 1, 1 << 20), correlation=0)
        await peer.ask(m.Settle(consumer, m.VERDICT_ACK, [1, 4]))
        await trio.testing.wait_all_tasks_blocked()
        assert len(peer.deliveries) == 5
        await peer.ask(m.Settle(consumer, m.VERDICT_ACK, [5, 5]))
        await peer.take(6)
        await trio.testing.wait_all_tasks_blocked()

        assert len(peer.deliveries) == 6


@pytest.mark.trio
@pytest.mark.parametrize("number", [0, 2, 99])
async def test_a_consumer_that_never_was_is_named_in_the_refusal(number):
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        await peer.consume()
        tags = [1, 1]
        for request in (m.Settle(number, m.VERDICT_ACK, tags), m.Extend(number, tags, 1.0), m.CancelConsumer(number)):
            with pytest.raises(ConsumerNotFound, match=f"no consumer {number}"):
                await peer.ask(request)
        # A refusal of what nobody answers can only be told by the end of the connection.
        await peer.send(m.Credit(number, 1, 1), correlation=0)
        with trio.fail_after(WAIT_SECONDS):
            await peer.closed.wait()

        assert isinstance(peer.error, ConsumerNotFound)


@pytest.mark.trio
async def test_a_session_has_so_many_consumers_and_a_cancelled_one_makes_room(monkeypatch):
    monkeypatch.setattr(requests_module, "CONSUMERS_MAX", 2)
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        first, _second = await peer.consume(), await peer.consume()
        with pytest.raises(LimitReached, match="2 consumers"):
            await peer.consume()
        await peer.ask(m.CancelConsumer(first))

        assert await peer.consume() == 3, "numbers are not used again"


# --- operators ----------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_the_brokers_figures_count_what_happened():
    async with open_port() as port:
        peer, other = await port.connect(), await port.connect()
        await peer.declare()
        await peer.publish(await peer.open_producer(), 1, [b"a", b"b", b"c"])
        consumer = await other.consume()
        await other.take(3)
        await other.ask(m.Settle(consumer, m.VERDICT_ACK, [1, 2]))
        figures = (await peer.ask(m.Statistics())).values
        told = {name: figures[name] for name in ("connections", "sessions", "queues", "consumers", "epoch", "node_id")}
        assert told == {"connections": 2, "sessions": 2, "queues": 1, "consumers": 1, "epoch": 1, "node_id": 1}
        counted = [figures[f"{what}_messages_total"] for what in ("published", "delivered", "settled")]

        assert counted == [3, 3, 2]
        assert figures["committed_zxid"] <= figures["last_zxid"] == port.road.log.last_zxid
        assert figures["memory_resident_bytes"] > 1 << 20
        assert figures["log_bytes"] > 0 < figures["fsyncs_total"] <= figures["entries_total"]


def test_resident_memory_is_told_also_where_the_system_has_no_proc(monkeypatch):
    linux = statistics_module.resident_bytes()

    class Nowhere:
        def __init__(self, path: str) -> None:
            raise FileNotFoundError(path)

    monkeypatch.setattr(statistics_module, "Path", Nowhere)

    assert statistics_module.resident_bytes() > linux / 4


@pytest.mark.trio
async def test_a_long_peek_lets_others_run(monkeypatch):
    monkeypatch.setattr(showing_module, "SLICE_SECONDS", -1.0)
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        producer = await peer.open_producer()
        for sequence in range(1, 21):
            await peer.publish(producer, sequence, [b"%d" % sequence])
        checkpoints = 0
        checkpoint = trio.lowlevel.checkpoint

        async def counted() -> None:
            nonlocal checkpoints
            checkpoints += 1
            await checkpoint()

        (session,) = port.server.sessions
        replies: list[object] = []
        monkeypatch.setattr(session, "reply", lambda _correlation, message, parts=(): replies.append(message))
        monkeypatch.setattr(trio.lowlevel, "checkpoint", counted)
        await requests_module.peek(session, m.Peek("orders", 0, 20), 1, memoryview(b""))

        assert checkpoints == 20
        assert [type(reply) for reply in replies] == [m.Peeked]


@pytest.mark.trio
async def test_a_batch_that_is_malformed_ends_the_connection_and_nothing_of_it_is_stored():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        producer = await peer.open_producer()
        entries = port.road.entries_total
        await peer.send(m.Publish("orders", producer, 1), encode_batch([b"x"])[:-1])
        with trio.fail_after(WAIT_SECONDS):
            await peer.closed.wait()

        assert peer.error is not None
        assert peer.error.code == "protocol"
        other = await port.connect()
        assert (await other.ask(m.QueueInfo("orders"))).queues[0]["ready"] == 0
        assert port.road.entries_total <= entries + 2, "the end of one session, the beginning of another"


@pytest.mark.trio
async def test_a_queue_takes_no_larger_message_than_it_was_declared_for():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare(message_bytes_max=10)
        producer = await peer.open_producer()
        with pytest.raises(MessageTooLarge, match="a message of 11 bytes; allowed are 10"):
            await peer.publish(producer, 1, [b"x", b"x" * 11])
        await peer.declare(message_bytes_max=None)
        await peer.publish(producer, 1, [b"x" * 11])


def test_every_request_of_the_protocol_has_a_handler() -> None:
    assert [request.__name__ for request in REQUESTS if request not in requests_module.HANDLERS] == []


@pytest.mark.trio
@pytest.mark.parametrize("weight", [0, 1001])
async def test_a_consumer_weighs_1_to_1000(weight: int):
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        with pytest.raises(InvalidRequest, match=f"the weight of a consumer is 1 to 1000, not {weight}"):
            await peer.ask(m.Consume("orders", 1, 1, 30.0, weight))
