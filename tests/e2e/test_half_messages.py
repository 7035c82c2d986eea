"""Prepared ("half") messages against real brokers, on trio and on asyncio: seen when committed, never before, once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import anyio
import pytest

from sluicemq.client import Decision, Undecided, connect
from sluicemq.wire.errors import QueueFull, QueueNotFound, TransactionDecided, TransactionNotFound
from tests.e2e.broker_process import unused_port
from tests.e2e.test_client import eventually, wait_counts
from tests.e2e.test_transactions import bodies

if TYPE_CHECKING:
    from sluicemq.client import Client
    from tests.e2e.broker_process import BrokerProcess
    from tests.e2e.conftest import StartBroker

pytestmark = pytest.mark.anyio

TEST_SECONDS_MAX = 180.0


async def undecided(client: Client, group: str) -> list[str]:
    return [row["transaction"] async for row in client.transactions(group)]


async def test_it_is_seen_once_its_block_has_ended(broker: BrokerProcess, queue: str) -> None:
    async with connect(broker.url) as client:
        await client.declare_queue(queue)
        async with client.prepare(queue, b"paid", key="42", message_id="o-42", check=queue) as half:
            state = await client.queue_info(queue)
            assert (state["ready"], state["leased"], state["delayed"], state["published_total"]) == (0, 0, 0, 0)
            assert await bodies(client, queue) == []
            assert await undecided(client, queue) == [half.id]
            assert (await client.statistics())["transactions_prepared"] == 1
        async with client.consumer(queue) as consumer:
            message = await anext(consumer)
            assert (message.body, message.key, message.message_id) == (b"paid", "42", "o-42")
            assert message.position == half.receipt.position
            await message.ack(confirm=True)
        await half.commit()  # the same again
        with pytest.raises(TransactionDecided):
            await half.rollback()
        assert await undecided(client, queue) == []


async def test_an_exception_rolls_back_and_cancellation_leaves_it_to_the_check(
    broker: BrokerProcess, queue: str
) -> None:
    async with connect(broker.url) as client:
        await client.declare_queue(queue)
        with pytest.raises(ZeroDivisionError):
            async with client.prepare(queue, b"never", check=queue) as half:
                raise ZeroDivisionError
        with pytest.raises(TransactionDecided):
            await half.commit()
        with anyio.CancelScope() as scope:
            async with client.prepare(queue, b"cancelled", check=queue) as half:
                scope.cancel()
                await anyio.sleep_forever()
        async with client.prepare(queue, b"who knows", check=queue) as other:
            other.leave_undecided()
        assert await undecided(client, queue) == [half.id, other.id]
        assert await bodies(client, queue) == []
        await half.rollback()
        await other.commit()
        assert await bodies(client, queue) == [b"who knows"]


async def test_it_goes_where_its_topic_leads_when_it_is_committed(broker: BrokerProcess, queue: str) -> None:
    async with connect(broker.url) as client:
        await client.declare_topic(queue)
        async with client.prepare(f"{queue}.eu.paid", b"paid", check="shop"):
            await client.subscribe(f"{queue}.#", f"{queue}-all")
        async with client.consumer(f"{queue}-all") as consumer:
            message = await anext(consumer)
            assert (message.destination, message.body) == (f"{queue}.eu.paid", b"paid")
            await message.ack(confirm=True)


async def test_replay_has_it_where_it_was_committed_also_after_a_restart(start_broker: StartBroker, queue: str) -> None:
    broker = await anyio.to_thread.run_sync(lambda: start_broker(port=unused_port()))
    everything = [b"before", b"meanwhile", b"half", b"after"]
    async with connect(broker.url) as client:
        await client.declare_queue(queue, retention={"seconds": 600})
        await client.send(queue, b"before")
        async with client.prepare(queue, b"never", check=queue) as never:
            never.leave_undecided()
        follower = client.replay(queue, follow=True)
        assert (await anext(follower)).body == b"before"
        async with client.prepare(queue, b"half", check=queue) as half:
            await client.send(queue, b"meanwhile")
            assert (await anext(follower)).body == b"meanwhile", "what is undecided is passed over"
        message = await anext(follower)
        assert (message.body, message.position) == (b"half", half.receipt.position)
        after = await client.send(queue, b"after")
        assert [each.body async for each in client.replay(queue)] == everything
        assert [each.body async for each in client.replay(queue, str(follower.position))] == [b"after"]
        assert [each.body async for each in client.replay(queue, half.receipt.position)] == everything[1:]
        assert [each.body async for each in client.replay(queue, to=after.position)] == everything[:3]
        await never.rollback()
    await anyio.to_thread.run_sync(broker.kill)
    await anyio.to_thread.run_sync(broker.start)
    async with connect(broker.url) as client:
        assert [each.body async for each in client.replay(queue)] == everything
        assert await bodies(client, queue) == everything
        assert [each.body async for each in client.replay(queue)] == everything, "settled or not"


async def test_whoever_begins_in_the_past_gets_it_once_in_its_place(broker: BrokerProcess, queue: str) -> None:
    async with connect(broker.url) as client:
        await client.declare_topic(queue, retention={"seconds": 600})
        half = client.prepare(f"{queue}.eu", b"half", check=queue)
        late = client.prepare(f"{queue}.eu", b"late", check=queue)
        async with half, late:
            await client.send(f"{queue}.eu", b"first")
            await client.send(f"{queue}.us", b"elsewhere")
            await half.commit()
            second = await client.send(f"{queue}.eu", b"second")
            await client.subscribe(f"{queue}.eu", f"{queue}-all", start="beginning")
            await client.subscribe(f"{queue}.eu", f"{queue}-second", start=second.position)
        await client.subscribe(f"{queue}.eu", f"{queue}-late", start=half.receipt.position)
        for name, expected in (
            ("all", [b"first", b"half", b"second", b"late"]),
            ("second", [b"second", b"late"]),
            ("late", [b"first", b"half", b"second", b"late"]),
        ):
            async with client.consumer(f"{queue}-{name}") as consumer:
                assert [(await anext(consumer)).body for _ in expected] == expected
        found = [message async for message in client.replay(queue)]
        assert [message.body for message in found] == [b"first", b"elsewhere", b"half", b"second", b"late"]
        assert found[2].destination == f"{queue}.eu"


async def test_delays_count_from_when_it_was_prepared(broker: BrokerProcess, queue: str) -> None:
    async with connect(broker.url) as client:
        await client.declare_queue(queue)
        async with (
            client.prepare(queue, b"late", check=queue, delay=60.0),
            client.prepare(queue, b"due", check=queue, delay=0.01),
        ):
            await anyio.sleep(0.05)
        await wait_counts(client, queue, (1, 0, 1))


async def test_who_is_full_says_so_before_the_database_decides(broker: BrokerProcess, queue: str) -> None:
    async with connect(broker.url) as client:
        await client.declare_queue(queue, max_length=1, overflow="reject")
        async with client.prepare(queue, b"first", check=queue), client.prepare(queue, b"second", check=queue):
            pass
        assert await bodies(client, queue) == [b"second", b"first"], "a commit is never refused"
        with pytest.raises(QueueFull):
            async with client.prepare(queue, b"third", check=queue):
                pass
        with pytest.raises(QueueNotFound):
            async with client.prepare(f"{queue}-nowhere", b"never", check=queue):
                pass


async def test_a_silent_sender_is_asked_and_one_that_throws_stalls_no_other(broker: BrokerProcess, queue: str) -> None:
    answers = {b"paid": Decision.COMMIT, b"cancelled": Decision.ROLLBACK, b"later": None}
    asked: Counter[bytes] = Counter()

    async def check(message: Undecided) -> Decision | None:
        asked[message.body] += 1
        if message.body == b"broken":
            raise RuntimeError("no such order")
        if message.body == b"later" and message.checks == 2:
            return Decision.COMMIT
        return answers[message.body]

    async with connect(broker.url) as client:
        await client.declare_queue(queue)
        async with connect(broker.url) as silent:
            # Who does not answer in twice that time is asked again: for an answer that must be more than a stall.
            for body, seconds in ((b"broken", 0.1), (b"paid", 0.8), (b"cancelled", 0.8), (b"later", 0.4)):
                half = silent.prepare(queue, body, check=queue, check_after=seconds)
                await half.__aenter__()  # and the process dies
        checker = client.transaction_checker(queue, check)

        async def all_are_in() -> bool:
            decided = (checker.committed, checker.rolled_back) == (2, 1)
            return decided and sorted(await bodies(client, queue)) == [b"later", b"paid"] and asked[b"broken"] >= 2

        assert await eventually(all_are_in)
        assert asked[b"paid"] == asked[b"cancelled"] == 1, "who answered is not asked again"
        assert checker.failed >= 2
        (left,) = await undecided(client, queue)
        row, messages = await client.show_transaction(left)
        assert (row["state"], row["group"], [message.body for message in messages]) == ("prepared", queue, [b"broken"])
        assert await client.resolve_transaction(left, commit=False) is False
        assert await client.resolve_transaction(left, commit=False) is True, "it was so before"
        row, messages = await client.show_transaction(left)
        assert (row["state"], messages) == ("rolled_back", [])
        with pytest.raises(TransactionNotFound):
            await client.resolve_transaction("0-7-0", commit=True)


async def test_a_plain_function_may_block_and_is_asked_in_a_thread(broker: BrokerProcess, queue: str) -> None:
    async with connect(broker.url) as client:
        await client.declare_queue(queue)
        client.transaction_checker(queue, lambda _message: Decision.COMMIT)
        half = client.prepare(queue, b"paid", check=queue, check_after=0.1)
        await half.__aenter__()
        await wait_counts(client, queue, (1, 0, 0))


async def test_decisions_and_questions_survive_a_kill(start_broker: StartBroker) -> None:
    port = unused_port()
    broker = start_broker(port=port)
    async with connect(broker.url, connect_timeout=60.0) as client:
        await client.declare_queue("orders")
        halves = []
        for number in range(4):
            half = client.prepare("orders", b"%d" % number, check="shop", check_after=0.1)
            halves.append(await half.__aenter__())
        await halves[0].commit()
        await halves[1].rollback()
        broker.kill()
        broker.start()
        await halves[0].commit()
        with pytest.raises(TransactionDecided):
            await halves[1].commit()
        assert await undecided(client, "shop") == [halves[2].id, halves[3].id]
        seen: list[int] = []
        killed = False

        def check(message: Undecided) -> Decision:
            if message.body == b"2":
                return Decision.COMMIT
            seen.append(message.checks)
            return Decision.COMMIT if killed else Decision.UNKNOWN

        client.transaction_checker("shop", check)

        async def both_are_in() -> bool:
            return sorted(await bodies(client, "orders")) == [b"0", b"2", b"3"]

        with anyio.fail_after(TEST_SECONDS_MAX):
            while len(seen) < 2:  # noqa: ASYNC110 - no event tells that the broker has asked
                await anyio.sleep(0.01)
            broker.kill()
            killed = True
            broker.start()
            assert await eventually(both_are_in)
        assert len(seen) >= 3
        assert len(set(seen)) == len(seen), "what was asked before the kill counts"
    broker.stop()
