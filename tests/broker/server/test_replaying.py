"""REPLAY at the port: what a queue retains is read again, whatever became of it, and nothing changes."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
import trio
import trio.testing

from sluicemq.broker.queues.chunks import CHUNK_RUNS
from sluicemq.broker.server import replaying
from sluicemq.broker.server.showing import show
from sluicemq.storage.errors import LogCorrupt, ZxidNotFound
from sluicemq.storage.record import Record
from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import (
    InternalError,
    LimitReached,
    MessageNotFound,
    MessageTooLarge,
    PositionExpired,
    QueueNotFound,
    RetentionOff,
)
from sluicemq.wire.positions import parse_position
from tests.broker.server.talk import Peer, open_port, unpack
from tests.patience import WAIT_SECONDS

FOREVER = {"seconds": 86_400}


async def ask(peer: Peer, **request: Any) -> tuple[m.Replayed, list[bytes]]:
    """Ask for a page of the queue."""
    replayed, tail = await peer.ask(m.Replay(**{"name": "orders", **request}))
    return replayed, unpack(replayed.runs, tail)


@pytest.mark.trio
async def test_settled_leased_and_ready_messages_are_read_in_the_order_of_publishing():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare(retention=FOREVER)
        producer = await peer.open_producer()
        places = [await peer.publish(producer, number, [b"%d-%d" % (number, n) for n in range(2)]) for number in (1, 2)]
        consumer = await peer.consume(credit=3)
        await peer.take(3)
        await peer.ask(m.CancelConsumer(consumer))
        await peer.ask(m.Settle(consumer, m.VERDICT_ACK, [1, 2]))
        before = port.road.machine.state_hash()
        entries = port.road.entries_total

        replayed, bodies = await ask(peer)
        assert bodies == [b"1-0", b"1-1", b"2-0", b"2-1"]
        assert [replayed.runs[0], replayed.runs[9]] == [place.zxid for place in places]
        assert (replayed.next_zxid, replayed.next_index, replayed.more) == (places[1].zxid, 2, False)
        assert (replayed.last_zxid, replayed.last_index) == (places[1].zxid, 2)
        assert (port.road.machine.state_hash(), port.road.entries_total) == (before, entries), "nothing changed"

        info = (await peer.ask(m.QueueInfo("orders"))).queues[0]
        assert (info["ready"], info["leased"], info["retained"]) == (1, 1, 4)
        assert info["retained_bytes"] == sum(len(place) for place in (encoded(1), encoded(2)))
        assert info["retained_age_seconds"] >= 0


def encoded(number: int) -> bytes:
    return encode_batch([b"%d-%d" % (number, n) for n in range(2)])


@pytest.mark.trio
async def test_pages_follow_each_other_by_messages_and_by_bytes():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare(retention=FOREVER)
        producer = await peer.open_producer()
        bodies = [b"%03d" % number + b"x" * (number * 10) for number in range(60)]
        for number in range(6):
            await peer.publish(producer, number + 1, bodies[number * 10 : number * 10 + 10])
        for bounds in ({"messages_max": 7}, {"bytes_max": 700}, {"messages_max": 1}, {"bytes_max": 1}):
            read: list[bytes] = []
            place = (0, 0)
            more = True
            while more:
                page, found = await ask(peer, zxid=place[0], index=place[1], **bounds)
                assert len(found) <= bounds.get("messages_max", 60)
                assert len(found) <= 1 or sum(map(len, found)) <= bounds.get("bytes_max", 1 << 30)
                read += found
                place, more = (page.next_zxid, page.next_index), page.more
            assert read == bodies, f"with {bounds}"


@pytest.mark.trio
async def test_a_range_begins_and_ends_where_it_was_asked_to(monkeypatch):
    async with open_port() as port:
        log_times = count(port.road.clock.now_ms(), 10)
        monkeypatch.setattr(port.road.clock, "now_ms", lambda: next(log_times))
        peer = await port.connect()
        await peer.declare(retention=FOREVER)
        producer = await peer.open_producer()
        first = (await peer.publish(producer, 1, [b"a", b"b", b"c"])).zxid
        second = (await peer.publish(producer, 2, [b"d", b"e"])).zxid
        whole, _ = await ask(peer)
        second_ms = whole.runs[m.RUN_NUMBERS + 4]
        assert second_ms > whole.runs[4]

        assert (await ask(peer, zxid=first, index=1))[1] == [b"b", b"c", b"d", b"e"]
        assert (await ask(peer, zxid=first, index=1, end_zxid=second, end_index=1))[1] == [b"b", b"c", b"d"]
        assert (await ask(peer, zxid=first, index=3))[1] == [b"d", b"e"]
        assert (await ask(peer, end_ms=second_ms))[1] == [b"a", b"b", b"c"]
        assert (await ask(peer, from_ms=second_ms))[1] == [b"d", b"e"]
        assert (await ask(peer, from_ms=second_ms + 1))[1] == []
        assert (await ask(peer, from_ms=0))[1] == [b"a", b"b", b"c", b"d", b"e"], "nothing was ever lost"
        late, none = await ask(peer, zxid=second + 5)
        assert (none, late.more) == ([], False)


@pytest.mark.trio
async def test_what_is_not_retained_any_more_is_never_skipped_in_silence():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        producer = await peer.open_producer()
        early = (await peer.publish(producer, 1, [b"before retention"])).zxid
        await peer.declare(retention={"bytes": 250})
        places = [(await peer.publish(producer, number, [b"%03d" % number + b"x" * 90])).zxid for number in range(2, 8)]
        kept, bodies = await ask(peer)
        assert [body[:3] for body in bodies] == [b"006", b"007"]

        for lost in ({"zxid": early}, {"zxid": places[0]}, {"zxid": places[-3]}, {"from_ms": 5}):
            with pytest.raises(PositionExpired) as caught:
                await ask(peer, **lost)
            group, *oldest = parse_position(caught.value.oldest_position)
            assert (group, oldest) == (0, [places[-2], 0])
            assert caught.value.oldest_published_at == kept.runs[4]
            assert caught.value.queue == "orders"
        assert len((await ask(peer, zxid=places[-2]))[1]) == 2
        assert len((await ask(peer, zxid=places[-3], index=1))[1]) == 2, "behind what was lost nothing is missing"


@pytest.mark.trio
async def test_a_queue_that_retains_nothing_says_which_setting_would():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        with pytest.raises(RetentionOff, match="setting retention") as caught:
            await ask(peer)
        assert (caught.value.queue, caught.value.setting) == ("orders", "retention")
        with pytest.raises(QueueNotFound):
            await ask(peer, name="nobody")


@pytest.mark.trio
async def test_a_reader_waits_for_what_is_published_while_other_requests_are_served():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare(retention=FOREVER)
        producer = await peer.open_producer()
        waiting = await peer.send(m.Replay("orders", wait_seconds=30.0))
        await peer.publish(producer, 1, [b"news"])
        replayed, tail = await peer.reply_to(waiting)
        assert unpack(replayed.runs, tail) == [b"news"]

        waiting = await peer.send(
            m.Replay("orders", replayed.next_zxid, replayed.next_index, wait_seconds=30.0, end_zxid=replayed.next_zxid)
        )
        assert (await peer.reply_to(waiting))[0].runs == [], "nothing can come before the end: no wait"


@pytest.mark.trio
async def test_a_reader_hears_that_its_queue_was_deleted_or_stopped_retaining():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare(retention=FOREVER)
        waiting = await peer.send(m.Replay("orders", wait_seconds=30.0))
        await peer.ask(m.DeleteQueue("orders"))
        with pytest.raises(QueueNotFound):
            await peer.reply_to(waiting)


@pytest.mark.trio
async def test_the_wait_ends_with_an_empty_page():
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare(retention=FOREVER)
        with trio.fail_after(WAIT_SECONDS):
            replayed, bodies = await ask(peer, wait_seconds=0.05)
        assert (bodies, replayed.more) == ([], False)


@pytest.mark.trio
async def test_one_connection_keeps_a_bounded_number_of_readers_waiting(monkeypatch):
    monkeypatch.setattr(replaying, "REPLAYS_MAX", 2)
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare(retention=FOREVER)
        waiting = [await peer.send(m.Replay("orders", wait_seconds=30.0)) for _ in range(3)]
        with pytest.raises(LimitReached, match="2 REPLAYs"):
            await peer.reply_to(waiting[2])
        producer = await peer.open_producer()
        await peer.publish(producer, 1, [b"news"])
        for correlation in waiting[:2]:
            replayed, tail = await peer.reply_to(correlation)
            assert unpack(replayed.runs, tail) == [b"news"]


@pytest.mark.trio
async def test_one_connection_is_shown_one_page_at_a_time(monkeypatch):
    under_way: list[object] = []
    beside: list[int] = []

    async def counted(*args: Any) -> Any:
        under_way.append(args)
        beside.append(len(under_way))
        await trio.testing.wait_all_tasks_blocked()
        shown = await show(*args)
        under_way.remove(args)
        return shown

    monkeypatch.setattr(replaying, "show", counted)
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare(retention=FOREVER)
        producer = await peer.open_producer()
        await peer.publish(producer, 1, [b"x"])
        asked = [await peer.send(m.Replay("orders")) for _ in range(5)]
        for correlation in asked:
            replayed, tail = await peer.reply_to(correlation)
            assert unpack(replayed.runs, tail) == [b"x"]
    assert beside == [1] * 5


@pytest.mark.trio
async def test_pages_fit_the_frames_of_the_connection():
    async with open_port() as port:
        peer, small = await port.connect(), await port.connect(frame_bytes_max=4096)
        await peer.declare(retention=FOREVER)
        producer = await peer.open_producer()
        bodies = [b"%d" % number * 1500 for number in range(8)]
        await peer.publish(producer, 1, bodies)
        read: list[bytes] = []
        place, more = (0, 0), True
        while more:
            page, found = await ask(small, zxid=place[0], index=place[1])
            read += found
            place, more = (page.next_zxid, page.next_index), page.more
        assert read == bodies

        await peer.publish(producer, 2, [b"x" * 5000])
        with pytest.raises(MessageTooLarge, match="larger frame_bytes_max"):
            await ask(small, zxid=place[0], index=place[1])


@pytest.mark.trio
async def test_what_a_repair_gave_up_is_told_and_what_lies_around_it_is_read(monkeypatch):
    async with open_port(cache_bytes_max=1) as port:
        peer = await port.connect()
        await peer.declare(retention=FOREVER)
        producer = await peer.open_producer()
        batches = [[b"a", b"b"], [b"c"], [b"given", b"up"], [b"d"]]
        zxids = [(await peer.publish(producer, number, bodies)).zxid for number, bodies in enumerate(batches, 1)]
        log = port.road.log
        read_along = log.read_along

        def read_what_is_left(zxid: int, bytes_max: int = 0) -> list[Record]:
            if zxid == zxids[2]:
                raise ZxidNotFound(zxid, 0, log.last_zxid)
            return [record for record in read_along(zxid, bytes_max) if record.zxid != zxids[2]]

        monkeypatch.setattr(log, "read_along", read_what_is_left)
        monkeypatch.setattr(log, "read", lambda zxid: read_what_is_left(zxid)[0])
        page, bodies = await ask(peer)
        assert (bodies, page.more) == ([b"a", b"b", b"c"], True)
        with pytest.raises(MessageNotFound) as caught:
            await ask(peer, zxid=page.next_zxid, index=page.next_index)
        assert parse_position(caught.value.position) == (0, zxids[2], 0)
        _, zxid, index = parse_position(caught.value.next_position)
        assert (await ask(peer, zxid=zxid, index=index))[1] == [b"d"]


@pytest.mark.trio
async def test_of_a_prepared_message_that_was_given_up_it_is_told_where_it_was_committed(monkeypatch):
    async with open_port(cache_bytes_max=1) as port:
        peer = await port.connect()
        await peer.declare(retention=FOREVER)
        producer = await peer.open_producer()
        half = (await peer.ask(m.Prepare("orders", producer, 1, "shop"), encode_batch([b"given", b"up"]))).transaction
        await peer.publish(producer, 2, [b"before"])
        await peer.ask(m.Resolve(half, True))
        await peer.publish(producer, 3, [b"after"])
        page, bodies = await ask(peer)
        assert bodies == [b"before", b"given", b"up", b"after"]
        committed, index = page.places[2:4]
        assert committed > half
        assert index == 0
        log = port.road.log
        read_along = log.read_along

        def read_what_is_left(zxid: int, bytes_max: int = 0) -> list[Record]:
            if zxid == half:
                raise ZxidNotFound(zxid, 0, log.last_zxid)
            return [record for record in read_along(zxid, bytes_max) if record.zxid != half]

        monkeypatch.setattr(log, "read_along", read_what_is_left)
        monkeypatch.setattr(log, "read", lambda zxid: read_what_is_left(zxid)[0])
        with pytest.raises(MessageNotFound) as caught:
            await ask(peer, zxid=committed)
        assert parse_position(caught.value.position) == (0, half, 0)
        assert parse_position(caught.value.next_position) == (0, committed, 2), "not a place that was passed already"
        assert (await ask(peer, zxid=committed, index=2))[1] == [b"after"]


@pytest.mark.trio
async def test_what_left_the_memory_is_read_from_pages_and_from_the_disk():
    messages = 3 * CHUNK_RUNS + 10
    async with open_port(cache_bytes_max=1, index_memory_bytes_max=1) as port:
        peer = await port.connect()
        await peer.declare(retention=FOREVER)
        producer = await peer.open_producer()
        for number in range(1, messages + 1):
            last = await peer.send(m.Publish("orders", producer, number), encode_batch([b"%d" % number]))
        await peer.reply_to(last)
        pool, pager = port.road.machine.pool, port.road.pager
        assert pool is not None
        assert pager is not None
        zxid_of_first = 0
        for start in (0, messages // 2, messages - 20):
            await pager.write_out()
            for chunk in list(pool.resident):
                pool.drop(chunk)
            assert pool.absent == 6, "three chunks of what is ready, three of what is retained"
            page, bodies = await ask(peer, zxid=zxid_of_first + start if start else 0, messages_max=5)
            if not start:
                zxid_of_first = page.runs[0]
            assert bodies == [b"%d" % (start + n) for n in range(1, 6)]


@pytest.mark.trio
async def test_what_is_damaged_is_told_with_its_file_and_the_connection_stays(monkeypatch, caplog):
    async with open_port(cache_bytes_max=1) as port:
        peer = await port.connect()
        await peer.declare(retention=FOREVER)
        producer = await peer.open_producer()
        bodies = (b"a", b"b", b"c")
        zxids = [(await peer.publish(producer, number, [body])).zxid for number, body in enumerate(bodies, 1)]
        log = port.road.log
        read_along = log.read_along

        def read_what_is_whole(zxid: int, bytes_max: int = 0) -> list[Record]:
            if zxid == zxids[1] or bytes_max:
                raise LogCorrupt("segment-0000000000000001", 4711, "header or payload do not match their digest", 0)
            return [record for record in read_along(zxid, 0) if record.zxid == zxid]

        monkeypatch.setattr(log, "read_along", read_what_is_whole)
        monkeypatch.setattr(log, "read", lambda zxid: read_what_is_whole(zxid)[0])
        for _ in range(2):
            with pytest.raises(InternalError, match="segment-0000000000000001 at offset 4711"):
                await ask(peer, zxid=zxids[1])
        assert "Traceback" not in caplog.text
