"""What operators do with messages of a queue, against a real broker: search, move, copy, purge."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from sluicemq.client import NewMessage, Reject, connect
from sluicemq.client.errors import Conflict, InvalidRequest, QueueFull, QueueNotFound
from sluicemq.wire import messages as m
from tests.e2e.command_line import on_one_loop, sluicemq
from tests.e2e.wire_client import WireClient

if TYPE_CHECKING:
    from sluicemq.client import Client
    from tests.e2e.broker_process import BrokerProcess

pytestmark = pytest.mark.anyio

TEST_SECONDS_MAX = 180.0


async def fill(client: Client, queue: str, count: int, batch: int = 100) -> None:
    """Messages with their number as body, three keys, and every tenth with a header."""
    await client.declare_queue(queue)
    async with client.producer(queue) as producer:
        for first in range(0, count, batch):
            await producer.send_many(
                [
                    NewMessage(b"%d" % n, key=f"k{n % 3}", headers={"big": True} if n % 10 == 0 else None)
                    for n in range(first, first + batch)
                ]
            )


async def bodies(client: Client, queue: str) -> list[int]:
    return [int(message.body) for message in await client.peek(queue, 10_000)]


async def test_a_search_finds_messages_in_each_state_and_changes_nothing(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await fill(client, queue, 300)
            begun = datetime.now(UTC)
            late = await client.send(queue, b"300", key="k9", message_id="late", subject="s", delay=3600)
            found = await client.search(queue, headers={"big": True}, count=1000)
            assert [int(each.message.body) for each in found] == list(range(0, 300, 10))
            found = await client.search(queue, key="k1", count=7)
            assert [int(each.message.body) for each in found] == [1, 4, 7, 10, 13, 16, 19]
            assert len(await client.search(queue, count=1000)) == 300
            target = found[3].message
            for key in (None, "k1"):
                found = await client.search(queue, message_id=target.message_id, key=key)
                assert [each.message for each in found] == [target]
            assert await client.search(queue, message_id=target.message_id, key="k2") == []
            assert await client.search(queue, after=begun + timedelta(hours=1)) == []
            assert len(await client.search(queue, before=begun + timedelta(hours=1), count=1000)) == 300
            (delayed,) = await client.search(queue, state="delayed", message_id="late")
            assert (delayed.message.position, delayed.message.subject) == (late.position, "s")
            assert delayed.due_at is not None
            assert delayed.due_at > begun + timedelta(minutes=59)

            async with client.consumer(queue, credit=10) as consumer:
                async with await anext(consumer):
                    raise Reject("no")
                await consumer.flush()
                leased = await client.search(queue, state="leased", key="k1")
                assert [int(each.message.body) for each in leased] == [1, 4, 7, 10]
                assert [each.holder and each.holder[2] for each in leased] == [2, 5, 8, 11]
            (dead,) = await client.search(queue, state="dead")
            assert (dead.message.body, dead.state) == (b"0", "dead")
            assert await bodies(client, queue) == list(range(1, 300))
            with pytest.raises(InvalidRequest, match="state"):
                await client.search(queue, state="gone")
            with pytest.raises(QueueNotFound):
                await client.search(f"{queue}-x")


async def test_messages_move_in_order_and_by_filter(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await fill(client, queue, 300)
            await client.declare_queue(other := f"{queue}-other")
            first = (await client.peek(queue, 1))[0]
            assert await client.move(queue, other, count=150) == 150
            assert await bodies(client, other) == list(range(150))
            assert (await client.peek(other, 1))[0].position == first.position
            assert await client.move(queue, other, key="k1") == 50
            assert await bodies(client, other) == [*range(150), *range(151, 300, 3)]
            assert sorted(await bodies(client, queue)) == [n for n in range(150, 300) if n % 3 != 1]
            assert await client.move(queue, other, key="k1") == 0
            life = await client.explain(first)
            assert ([event.what for event in life.events], life.status) == (["accepted", "moved"], f"ready in {other}")
            state, there = await client.queue_info(queue), await client.queue_info(other)
            assert (state["ready"], state["moved_total"]) == (100, 200)
            assert (there["ready"], there["published_total"]) == (200, 200)
            async with client.consumer(other) as consumer:
                for expected in [*range(150), *range(151, 300, 3)]:
                    message = await anext(consumer)
                    assert int(message.body) == expected
                    await message.ack()


async def test_a_copy_is_a_message_of_its_own_with_the_same_body(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await fill(client, queue, 100)
            await client.declare_queue(other := f"{queue}-other")
            assert await client.copy(queue, other, headers={"big": True}) == 10
            assert await bodies(client, other) == list(range(0, 100, 10))
            assert await bodies(client, queue) == list(range(100))
            await client.purge_queue(queue)
            async with client.consumer(other) as consumer:
                for expected in range(0, 100, 10):
                    async with await anext(consumer) as message:
                        assert int(message.body) == expected


async def test_a_purge_with_a_filter_drops_no_more_than_a_dry_run_counts(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await fill(client, queue, 300)
            for delay in (1000, 2000, 3000):
                await client.send(queue, b"9", key="k0", delay=delay)
            assert await client.purge(queue, key="k0", dry_run=True) == 100
            assert await client.purge(queue, key="k0", count=30, dry_run=True) == 30
            assert (await client.queue_info(queue))["ready"] == 300
            assert await client.purge(queue, key="k0") == 100
            assert sorted(await bodies(client, queue)) == [n for n in range(300) if n % 3]
            assert await client.purge(queue, state="delayed", key="k0", count=2) == 2
            assert await client.purge(queue) == 200
            state = await client.queue_info(queue)
            assert (state["ready"], state["delayed"], state["purged_total"]) == (0, 1, 302)


async def test_dead_letters_are_searched_copied_and_moved_too(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await fill(client, queue, 100)
            await client.declare_queue(other := f"{queue}-other")
            async with client.consumer(queue) as consumer:
                for _ in range(30):
                    await (await anext(consumer)).reject("no")
                await consumer.flush()
            assert await client.copy(queue, other, state="dead", count=5) == 5
            assert await client.purge(queue, state="dead", key="k0") == 10
            assert await client.move(queue, other, state="dead", key="k1") == 10
            state = await client.queue_info(queue)
            assert (state["dead"], state["redriven_total"], state["discarded_total"]) == (10, 10, 10)
            assert await bodies(client, other) == [*range(5), *range(1, 30, 3)]


async def test_what_does_not_fit_is_refused_with_its_reason(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await fill(client, queue, 100)
            await client.declare_queue(f"{queue}-small", max_length=50, overflow="reject")
            await client.declare_queue(f"{queue}-keyed", ordering="key")
            with pytest.raises(QueueFull):
                await client.move(queue, f"{queue}-small")
            assert await client.move(queue, f"{queue}-small", count=50) == 50
            with pytest.raises(Conflict, match="order by key"):
                await client.move(queue, f"{queue}-keyed")
            with pytest.raises(InvalidRequest, match="where they are"):
                await client.copy(queue, queue)
            with pytest.raises(InvalidRequest, match="leased"):
                await client.move(queue, f"{queue}-small", state="leased")
            with pytest.raises(TypeError, match="colour"):
                await client.search(queue, colour="red")  # type: ignore[call-arg]


async def test_places_of_many_messages_fit_small_frames_page_by_page(broker: BrokerProcess, queue: str) -> None:
    async with connect(broker.url) as client:
        await fill(client, queue, 300, batch=1)

    def look() -> tuple[int, int]:
        cursor: list[int] = []
        found = pages = 0
        with WireClient(broker.url, frame_bytes_max=8 * 1024) as small:
            while pages == 0 or cursor:
                search = m.Search(queue, "ready", cursor=cursor, count_max=10_000, bodies=pages % 2 == 0)
                reply = small.request(search, m.Found)
                cursor = reply.cursor
                found += sum(reply.places[3 :: m.FOUND_NUMBERS])
                pages += 1
        return found, pages

    found, pages = await anyio.to_thread.run_sync(look)
    assert found == 300
    assert pages > 5


async def test_a_look_at_large_messages_shows_all_that_were_asked_for(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            for n in range(4):
                await client.send(queue, bytes([n]) * 2_500_000)
            assert [message.body[0] for message in await client.peek(queue, 4)] == [0, 1, 2, 3]
            assert [message.body[0] for message in await client.peek(queue, 2, skip=1)] == [1, 2]
            assert len(await client.peek(queue, 100)) == 4
            await client.purge_queue(queue)


@pytest.mark.parametrize(
    "wanted", [{"key": 5}, {"message_id": b"x"}, {"headers": 5}, {"headers": {1: "x"}}, {"after": 5}]
)
async def test_a_wrong_choice_is_refused_with_its_value(broker: BrokerProcess, wanted: dict[str, Any]) -> None:
    (value,) = wanted.values()
    async with connect(broker.url) as client:
        with pytest.raises(InvalidRequest) as refused:
            await client.search("orders", **wanted)
    assert repr(value) in refused.value.text


@on_one_loop
async def test_the_command_line_does_the_same(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await fill(client, queue, 100)
            await client.declare_queue(f"{queue}-other")

        async def run(*arguments: str) -> list[dict[str, object]]:
            done = await anyio.to_thread.run_sync(partial(sluicemq, broker, *arguments, "--json"))
            assert done.returncode == 0, done.stderr
            return [json.loads(line) for line in done.stdout.splitlines()]

        found = await run("queue", "search", queue, "--key", "k1", "--header", "big=true", "-n", "2")
        assert [row["body"] for row in found] == ["10", "40"]
        assert (await run("queue", "copy", queue, f"{queue}-other", "-n", "3"))[0]["messages"] == 3
        assert (await run("queue", "move", queue, f"{queue}-other", "--key", "k0"))[0]["messages"] == 34
        dry = await run("queue", "purge", queue, "--key", "k1", "--dry-run")
        assert (dry[0]["messages"], dry[0]["dry_run"]) == (33, True)
        assert (await run("queue", "purge", queue, "--key", "k1"))[0]["messages"] == 33
        assert (await run("queue", "purge", queue))[0]["messages"] == 33
        failed = await anyio.to_thread.run_sync(sluicemq, broker, "queue", "move", queue, "nobody")
        assert failed.returncode == 4
