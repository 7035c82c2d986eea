"""Replay: retained messages page by page, over as many connections as it takes: each once, in order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import count

import anyio
import pytest

from sluicemq.client import connect
from sluicemq.client.errors import (
    BrokerStopping,
    ConnectionFailed,
    InvalidRequest,
    PositionExpired,
    RequestTimeout,
    RetentionOff,
)
from sluicemq.client.replay import WAIT_SECONDS
from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from tests.client.conftest import virtual_time
from tests.client.scripted_broker import CUT, SILENCE

pytestmark = pytest.mark.anyio

MS = 1_700_000_000_000


class Retaining:
    """Answers REPLAY like a broker that retains these batches; entries count from 1."""

    def __init__(self, broker, batches, page_messages=2):
        self.batches = list(batches)
        self.page_messages = page_messages
        self.changed = anyio.Event()
        self.asked = []
        broker.on[m.Replay] = self.answer

    def publish(self, *bodies):
        self.batches.append(list(bodies))
        self.changed.set()
        self.changed = anyio.Event()

    async def answer(self, _peer, request, _tail):
        self.asked.append(request)
        while True:
            reply, tail = self.page(request)
            if reply.runs or reply.complete or not request.wait_seconds:
                return reply, tail
            await self.changed.wait()

    def page(self, request):
        end = (1 << 60, 0) if request.end_zxid is None else (request.end_zxid, request.end_index)
        places = [(zxid, i) for zxid, bodies in enumerate(self.batches, 1) for i in range(len(bodies))]
        wanted = [place for place in places if (request.zxid, request.index) <= place < end]
        runs, tails = [], []
        for zxid, index in wanted[: self.page_messages]:
            tails.append(encode_batch([self.batches[zxid - 1][index]]))
            runs += [zxid, index, 1, len(tails[-1]), MS, 7, zxid, 0, 0]
        taken = wanted[: self.page_messages]
        following = (taken[-1][0], taken[-1][1] + 1) if taken else (request.zxid, request.index)
        last = (len(self.batches), len(self.batches[-1])) if self.batches else (0, 0)
        more = len(wanted) > len(taken)
        return m.Replayed(runs, following[0], following[1], more, last[0], last[1], not more and last >= end), b"".join(
            tails
        )


async def bodies_of(replay, count_max=1 << 30):
    found = []
    if count_max:
        async for message in replay:
            found.append(message.body)
            if len(found) == count_max:
                break
    return found


async def test_everything_retained_comes_in_order_and_the_replay_ends(broker):
    retaining = Retaining(broker, [[b"a", b"b", b"c"], [b"d"], [b"e", b"f"]])
    async with connect(broker.url) as client:
        replay = client.replay("orders")
        assert replay.position is None
        assert await bodies_of(replay) == [b"a", b"b", b"c", b"d", b"e", b"f"]
        assert replay.position == "0-3-2"
        assert await bodies_of(replay) == [], "it has ended"
    assert retaining.asked[0] == m.Replay("orders")


async def test_what_is_published_meanwhile_is_not_part_of_a_replay_that_does_not_follow(broker):
    retaining = Retaining(broker, [[b"a", b"b", b"c"]])
    async with connect(broker.url) as client:
        replay = client.replay("orders")
        first = await bodies_of(replay, 1)
        retaining.publish(b"later")
        assert first + await bodies_of(replay) == [b"a", b"b", b"c"]

        begun = client.replay("orders", to=datetime(2100, 1, 1, tzinfo=UTC))
        first = await bodies_of(begun, 1)
        retaining.publish(b"later still")
        assert first + await bodies_of(begun) == [b"a", b"b", b"c", b"later"]


async def test_it_begins_and_ends_where_it_is_told_to(broker):
    retaining = Retaining(broker, [[b"a", b"b", b"c"], [b"d", b"e"]])
    async with connect(broker.url) as client:
        assert await bodies_of(client.replay("orders", "0-1-1", "0-2-1")) == [b"b", b"c", b"d"]
        begin = datetime(2026, 11, 21, 8, 0, 0, 500, tzinfo=timezone(timedelta(hours=2)))
        await bodies_of(client.replay("orders", begin, to=datetime(2027, 1, 1, tzinfo=UTC)))
    (asked,) = (request for request in retaining.asked if request.from_ms is not None)
    assert asked.from_ms == 1_795_240_800_001, "half a millisecond later is the next one"
    assert asked.end_ms == 1_798_761_600_000


async def test_the_messages_are_plain_values_that_know_their_place(broker):
    Retaining(broker, [[b"a", b"b"]])
    async with connect(broker.url) as client:
        messages = [message async for message in client.replay("orders")]
    assert [message.position for message in messages] == ["0-1-0", "0-1-1"]
    assert messages[1].message_id == "0000000000000002"
    assert messages[1].published_at == datetime.fromtimestamp(MS / 1000, UTC)
    assert (messages[1].deliveries, messages[1].attempts) == (0, 0)


async def test_what_is_at_hand_comes_as_a_list_until_the_end(broker):
    Retaining(broker, [[b"%d" % number for number in range(7)]], page_messages=5)
    async with connect(broker.url) as client:
        replay = client.replay("orders")
        received = [len(messages) for messages in [await replay.receive(2) for _ in range(5)]]
        assert received == [2, 2, 1, 2, 0]
        assert replay.position == "0-1-7"


async def test_the_next_page_is_under_way_while_one_is_read_and_no_further_one(broker):
    retaining = Retaining(broker, [[b"%d" % number for number in range(20)]], page_messages=5)
    async with connect(broker.url) as client:
        replay = client.replay("orders")
        await bodies_of(replay, 1)
        await broker.until(lambda: len(retaining.asked) == 2)
        await bodies_of(replay, 4)
        await client.queues()
        assert len(retaining.asked) == 2
        await bodies_of(replay, 1)
        await broker.until(lambda: len(retaining.asked) == 3)


async def test_it_goes_on_after_a_reconnect_where_it_was(broker):
    retaining = Retaining(broker, [[b"%d" % number for number in range(30)]], page_messages=4)
    whole, asked = retaining.answer, count(1)

    async def cutting(peer, request, tail):
        return CUT if next(asked) in (1, 3, 4, 7) else await whole(peer, request, tail)

    broker.on[m.Replay] = cutting
    async with connect(broker.url) as client:
        assert await bodies_of(client.replay("orders")) == [b"%d" % number for number in range(30)]
    assert len(broker.peers) == 5


async def test_following_waits_for_what_is_published_next(broker):
    retaining = Retaining(broker, [[b"a"]])
    async with connect(broker.url) as client:
        replay = client.replay("orders", follow=True)
        assert await bodies_of(replay, 1) == [b"a"]
        await broker.until(lambda: len(retaining.asked) == 2)
        assert retaining.asked[1] == m.Replay("orders", 1, 1, messages_max=1000, wait_seconds=WAIT_SECONDS)
        retaining.publish(b"b")
        assert await bodies_of(replay, 1) == [b"b"]


async def test_following_ends_at_the_end_that_was_asked_for(broker):
    retaining = Retaining(broker, [[b"a"]])
    async with connect(broker.url) as client:
        replay = client.replay("orders", to="0-2-1", follow=True)
        assert await bodies_of(replay, 1) == [b"a"]
        retaining.publish(b"b", b"c")
        assert await bodies_of(replay) == [b"b"]


async def test_a_task_that_was_cancelled_while_it_waited_misses_nothing(broker):
    retaining = Retaining(broker, [[b"a"]])
    async with connect(broker.url) as client:
        replay = client.replay("orders", follow=True)
        assert await bodies_of(replay, 1) == [b"a"]
        with anyio.move_on_after(0.01):
            await bodies_of(replay, 1)
        retaining.publish(b"b")
        assert await bodies_of(replay, 1) == [b"b"]
        assert len(retaining.asked) <= 3


async def test_a_broker_that_stops_is_waited_for(broker):
    retaining = Retaining(broker, [[b"a"]])
    whole, asked = retaining.answer, count(1)

    async def stopping(peer, request, tail):
        if next(asked) == 1:
            return BrokerStopping("the broker is shutting down", retry_after=0.001)
        return await whole(peer, request, tail)

    broker.on[m.Replay] = stopping
    async with connect(broker.url) as client:
        assert await bodies_of(client.replay("orders")) == [b"a"]


async def test_what_is_wrong_is_raised_where_it_is_iterated(broker):
    broker.on[m.Replay] = lambda *_: PositionExpired("gone", queue="orders", oldest_position="0-9-0")
    async with connect(broker.url) as client:
        with pytest.raises(PositionExpired) as caught:
            await bodies_of(client.replay("orders", "0-1-0"))
        assert caught.value.oldest_position == "0-9-0"
        broker.on[m.Replay] = lambda *_: RetentionOff("off", setting="retention")
        with pytest.raises(RetentionOff):
            await bodies_of(client.replay("orders"))
        elsewhere = client.replay("orders", "5-1-0")
        for _ in range(2):
            with pytest.raises(InvalidRequest, match="of another log"):
                await bodies_of(elsewhere)


@virtual_time
async def test_no_page_in_time_is_a_timeout_and_no_broker_a_failed_connection(broker):
    broker.on[m.Replay] = lambda *_: SILENCE
    async with connect(broker.url, request_timeout=5) as client:
        with pytest.raises(RequestTimeout, match=r"'orders' came within 5"):
            await bodies_of(client.replay("orders"))
        broker.open = False
        await broker.peer.cut()
        with pytest.raises(ConnectionFailed):
            await bodies_of(client.replay("orders"))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("orders", 5), TypeError, "from_ must be a position, a datetime or 'start', not int"),
        (("orders", "yesterday"), InvalidRequest, "no position"),
        (("orders", datetime(2026, 1, 1)), InvalidRequest, "without a time zone"),  # noqa: DTZ001
        (("orders", datetime(1969, 1, 1, tzinfo=UTC)), InvalidRequest, "before 1970"),
        (("", "start"), InvalidRequest, "0 bytes"),
        (("orders", "start", 5.0), TypeError, "to must be"),
    ],
)
async def test_a_wrong_argument_is_named_at_once(broker, arguments, error, words):
    async with connect(broker.url) as client:
        with pytest.raises(error, match=words):
            client.replay(*arguments)


async def test_two_tasks_cannot_iterate_one_replay(broker):
    Retaining(broker, [])
    async with connect(broker.url) as client:
        replay = client.replay("orders", follow=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bodies_of, replay)
            await broker.until(lambda: broker.count(m.Replay))
            with pytest.raises(RuntimeError, match="one task"):
                await bodies_of(replay)
            tasks.cancel_scope.cancel()
