"""What a client asks about queues, and what happens when the answer does not come."""

from datetime import UTC, datetime
from itertools import count

import anyio
import pytest

from sluicemq.client import Declaration, connect
from sluicemq.client.errors import (
    ConnectionFailed,
    InvalidRequest,
    NotLeader,
    OutcomeUnknown,
    QueueNotFound,
    RequestTimeout,
    UnknownOption,
)
from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from tests.client.conftest import virtual_time
from tests.client.scripted_broker import CUT, SILENCE

pytestmark = pytest.mark.anyio


async def test_a_declaration_says_what_it_did(broker):
    async with connect(broker.url) as client:
        assert await client.declare_queue("stock") == Declaration("created", {})
        broker.on[m.DeclareQueue] = lambda *_: m.Declared(outcome="changed", changes={"retry_delay": [1.0, 2.0]})
        assert await client.declare_queue("stock", retry_delay=2) == Declaration("changed", {"retry_delay": (1.0, 2.0)})
        assert broker.peer.of(m.DeclareQueue)[-1].settings == {"retry_delay": 2.0}


async def test_a_setting_that_does_not_exist_never_leaves_the_client(broker):
    async with connect(broker.url) as client:
        with pytest.raises(UnknownOption, match="retry_dely"):
            await client.declare_queue("stock", retry_dely=2)  # type: ignore[call-arg]
        with pytest.raises(InvalidRequest, match="wildcard"):
            await client.declare_queue("stock.*")
        assert broker.count(m.DeclareQueue) == 0


async def test_delete_purge_info_and_statistics(broker):
    async with connect(broker.url) as client:
        assert await client.purge_queue("orders") == 4
        assert await client.queue_info("orders") == {"name": "orders", "ready": 7}
        assert await client.statistics() == {"fsyncs_total": 3}
        assert await client.delete_queue("orders", if_empty=True) == 3
        assert broker.peer.of(m.DeleteQueue) == [m.DeleteQueue(name="orders", if_empty=True)]
        with pytest.raises(QueueNotFound) as caught:
            await client.queue_info("orders")
        assert isinstance(caught.value, LookupError)


async def test_queues_come_in_pages_and_are_returned_whole(broker):
    names = [f"q{number}" for number in range(5)]

    def page(_peer, request, _tail):
        rest = [name for name in names if name > request.after]
        return m.Queues(queues=[{"name": name} for name in rest[:2]], more=len(rest) > 2)

    broker.on[m.ListQueues] = page
    async with connect(broker.url) as client:
        assert [queue["name"] for queue in await client.queues()] == names


async def test_peek_shows_messages_as_plain_values(broker):
    data = encode_batch([b"a", b"b"], keys=["k", None], headers=[{"h": 1}, None])

    async def peeked(peer, _request, _tail):
        head = m.Peeked(runs=[5, 3, 2, len(data), 1_700_000_000_000, 8, 9, 1, 1])
        await peer.send(head, correlation=len(peer.received) - 3, tail=data)
        return SILENCE

    broker.on[m.Peek] = peeked
    async with connect(broker.url) as client:
        first, second = await client.peek("orders", count=2, skip=1)
        assert broker.peer.of(m.Peek) == [m.Peek(name="orders", skip=1, count_max=2)]
        assert (first.body, first.key, dict(first.headers), first.position) == (b"a", "k", {"h": 1}, "0-5-3")
        assert (second.body, second.key, second.message_id, second.attempts) == (b"b", None, "000000000000000d", 1)
        assert first.published_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


async def test_a_question_survives_a_broken_connection(broker):
    asked = count(1)
    broker.on[m.QueueInfo] = lambda *_: CUT if next(asked) < 3 else None
    async with connect(broker.url) as client:
        assert (await client.queue_info("orders"))["ready"] == 7
    assert len(broker.peers) == 3


async def test_whether_a_purge_happened_is_unknown_when_the_connection_breaks(broker):
    broker.on[m.PurgeQueue] = lambda *_: CUT
    async with connect(broker.url) as client:
        with pytest.raises(OutcomeUnknown):
            await client.purge_queue("orders")
    assert broker.count(m.PurgeQueue) == 1


async def test_an_answer_not_leader_is_never_shown(broker):
    asked = count(1)
    error = NotLeader("broker 2 leads", retry_after=0.01)
    broker.on[m.QueueInfo] = lambda *_: error if next(asked) == 1 else None
    async with connect(broker.url) as client:
        assert (await client.queue_info("orders"))["ready"] == 7
    assert len(broker.peers) == 2


@virtual_time
async def test_no_answer_is_a_timeout_and_no_broker_a_failed_connection(broker):
    broker.on[m.QueueInfo] = lambda *_: SILENCE
    broker.on[m.PurgeQueue] = lambda *_: SILENCE
    async with connect(broker.url, request_timeout=5) as client:
        with pytest.raises(RequestTimeout, match="QueueInfo within 5 seconds") as caught:
            await client.queue_info("orders")
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(OutcomeUnknown, match="PurgeQueue within 5 seconds"):
            await client.purge_queue("orders")
        broker.open = False
        await broker.peer.cut()
        with pytest.raises(ConnectionFailed, match="no broker could be reached"):
            await client.queues()


async def test_cancelling_a_question_leaves_the_connection_alone(broker):
    broker.on[m.QueueInfo] = lambda *_: SILENCE
    async with connect(broker.url) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.queue_info, "orders")
            await broker.until(lambda: broker.count(m.QueueInfo))
            tasks.cancel_scope.cancel()
        assert await client.purge_queue("orders") == 4
