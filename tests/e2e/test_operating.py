"""What operators do to queues, against a real broker: delayed messages, pauses, policies and schedules."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import anyio
import pytest

from sluicemq.client import NewMessage, connect
from sluicemq.wire.errors import InvalidRequest, QueueNotFound, QueuePaused, TopicNotFound
from tests.e2e.broker_process import unused_port
from tests.e2e.command_line import on_one_loop, sluicemq

if TYPE_CHECKING:
    from sluicemq.client import Client, Receipt
    from tests.e2e.broker_process import BrokerProcess
    from tests.e2e.conftest import StartBroker

pytestmark = pytest.mark.anyio

TEST_SECONDS_MAX = 180.0


async def waiting(client: Client, queue: str) -> list[str]:
    return [message.position async for message in client.delayed(queue)]


async def cancel_and_hurry(client: Client, name: str, cancelled: Receipt, soon: Receipt) -> None:
    """Take one delayed message away, and let another come at once."""
    assert await client.cancel(name, cancelled) == 1
    assert await client.reschedule(name, soon, delay=0) == 1


async def delivered(client: Client, queue: str, count: int) -> list[bytes]:
    async with client.consumer(queue) as consumer:
        return [(await anext(consumer)).body for _ in range(count)]


async def retained(client: Client, name: str) -> list[bytes]:
    return [message.body async for message in client.replay(name)]


async def test_what_waits_is_listed_by_due_time_and_goes_or_comes_at_once_as_one_says(
    broker: BrokerProcess, queue: str
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            now = datetime.now(UTC)
            receipts = [await client.send(queue, b"%d" % n, at=now + timedelta(hours=9 - n)) for n in range(8)]
            positions = [receipt.position for receipt in receipts]
            assert await waiting(client, queue) == positions[::-1]
            listed = [message async for message in client.delayed(queue, since=now + timedelta(hours=4.5))]
            assert [message.position for message in listed] == positions[4::-1]
            assert abs(listed[0].due_at - now - timedelta(hours=5)) < timedelta(milliseconds=2)
            until = [message async for message in client.delayed(queue, until=now + timedelta(hours=3))]
            assert [message.position for message in until] == positions[:6:-1]

            assert await client.cancel(queue, receipts[0]) == 1
            assert await client.cancel(queue, receipts[0]) == 0
            assert await client.cancel(queue, [listed[0], positions[3]]) == 2
            assert await client.reschedule(queue, receipts[1], at=now + timedelta(minutes=1)) == 1
            assert await waiting(client, queue) == [positions[1], *[positions[n] for n in (7, 6, 5, 2)]]
            # It is not due when its batch says: it has to be looked for.
            assert await client.cancel(queue, positions[1]) == 1

            assert await client.reschedule(queue, [positions[5], positions[7]], delay=0) == 2
            assert await client.reschedule(queue, positions[6], delay=0.05) == 1
            async with client.consumer(queue) as consumer:
                got = []
                for _ in range(3):
                    message = await anext(consumer)
                    got.append(message.position)
                    await message.ack()
            assert got == [positions[7], positions[5], positions[6]]
            state = await client.queue_info(queue)
            assert (state["delayed"], state["ready"]) == (1, 0)
            for nowhere in ("0-1-0", "0-100000001-0", "0-fffffffffffffff0-5"):
                assert await client.cancel(queue, nowhere) == 0
            with pytest.raises(InvalidRequest, match="either at= or delay="):
                await client.reschedule(queue, positions[2])
            with pytest.raises(InvalidRequest, match="is no position"):
                await client.cancel(queue, "somewhere")
            with pytest.raises(QueueNotFound):
                await client.cancel("no-such-queue", positions[2])


async def test_a_list_of_many_that_are_due_together_comes_in_pages_each_once(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, client.producer(queue) as producer:
            await client.declare_queue(queue)
            later = datetime.now(UTC) + timedelta(days=300)
            receipts = await producer.send_many(
                [NewMessage(b"x", at=later + timedelta(seconds=n // 1500)) for n in range(4_000)]
            )
            assert await waiting(client, queue) == [receipt.position for receipt in receipts]
            assert await client.cancel(queue, list(receipts)[:2_500]) == 2_500
            assert await client.cancel(queue, [f"0-{n:x}-0" for n in range(1, 5_001)]) == 0, "none of these exists"
            assert len(await waiting(client, queue)) == 1_500


@on_one_loop
async def test_the_command_line_lists_cancels_and_fires(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            receipts = [await client.send(queue, b"%d" % n, delay=3_600 + n) for n in range(3)]
            positions = [receipt.position for receipt in receipts]

            async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
                return await anyio.to_thread.run_sync(sluicemq, broker, *arguments)

            listed = await run("delayed", "ls", queue, "--json")
            assert [json.loads(line)["position"] for line in listed.stdout.splitlines()] == positions, listed.stderr
            assert (await run("delayed", "cancel", queue, positions[0])).stdout == f"{queue}: 1 messages cancelled\n"
            later = await run("delayed", "reschedule", queue, positions[1], "--delay", "3d")
            assert later.stdout == f"{queue}: 1 messages rescheduled\n", later.stderr
            assert (await run("delayed", "fire", queue, positions[2])).stdout == f"{queue}: 1 messages made ready\n"
            assert positions[1] in (await run("delayed", "ls", queue)).stdout
            assert [message.body for message in await client.peek(queue)] == [b"2"]
            assert (await run("delayed", "reschedule", queue, positions[1])).returncode == 2


# --- pauses -----------------------------------------------------------------------------------------------------------


async def test_a_paused_queue_takes_nothing_and_gives_nothing_until_it_is_resumed_also_after_a_restart(
    start_broker: StartBroker, queue: str
) -> None:
    broker = await anyio.to_thread.run_sync(lambda: start_broker(port=unused_port()))
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            await client.send(queue, b"before")
            await client.pause_queue(queue, deliver=True)
            await client.pause_queue(queue, publish=True)
            assert (await client.queue_info(queue))["paused"] == ["publish", "deliver"]
            assert (await client.queue_info(queue))["publishing"] == "paused"
            entries = (await client.statistics())["entries_total"]
            with pytest.raises(QueuePaused) as refused:
                await client.send(queue, b"refused", timeout=2.0)
            assert refused.value.retryable
            entries_after = (await client.statistics())["entries_total"]
            assert entries_after - entries <= 1, "only the producer: what is refused early is not in the log"
        await anyio.to_thread.run_sync(broker.stop)
        await anyio.to_thread.run_sync(broker.start)
        async with connect(broker.url) as client, client.consumer(queue) as consumer:
            assert (await client.queue_info(queue))["paused"] == ["publish", "deliver"]
            with anyio.move_on_after(0.3):
                raise AssertionError(f"a paused queue delivers {await anext(consumer)}")
            await client.resume_queue(queue, publish=False)
            message = await anext(consumer)
            assert message.body == b"before"
            await message.ack()
            async with anyio.create_task_group() as tasks:
                # It waits with the message until the queue takes it.
                tasks.start_soon(client.send, queue, b"patient")
                await client.resume_queue(queue)
            assert (await anext(consumer)).body == b"patient"
            assert (await client.queue_info(queue))["paused"] == []
            with pytest.raises(QueueNotFound):
                await client.pause_queue("no-such-queue")


@on_one_loop
async def test_the_command_line_pauses_and_resumes(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)

            async def said(*arguments: str) -> str:
                ran = await anyio.to_thread.run_sync(sluicemq, broker, *arguments)
                assert ran.returncode == 0, ran.stderr
                return ran.stdout

            assert await said("queue", "pause", queue, "--deliver") == f"{queue}: deliver is paused\n"
            assert await said("queue", "pause", queue) == f"{queue}: publish and deliver is paused\n"
            assert await said("queue", "resume", queue, "--publish") == f"{queue}: deliver is paused\n"
            assert await said("queue", "resume", queue) == f"{queue}: nothing is paused\n"
            assert await said("queue", "unpark", queue, "ann") == f"{queue}: 0 keys go on\n"
            with pytest.raises(TypeError, match=r"write \['ann'\]"):
                await client.unpark(queue, "ann")
            with pytest.raises(TypeError, match="a key is text, not bytes"):
                await client.unpark(queue, [b"ann"])  # type: ignore[list-item]


async def test_whoever_names_a_dead_letter_queue_that_is_not_there_is_told(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            said = f"there is no queue '{queue}-grave', which dead_letter names"
            declared = await client.declare_queue(queue, dead_letter=f"{queue}-grave")
            assert [warning.startswith(said) for warning in declared.warnings] == [True]
            ran = await anyio.to_thread.run_sync(sluicemq, broker, "queue", "declare", queue)
            assert (ran.stdout, said in ran.stderr) == (f"{queue}: unchanged\n", True)
            ran = await anyio.to_thread.run_sync(sluicemq, broker, "queue", "declare", queue, "--json")
            assert said in json.loads(ran.stdout)["warnings"][0]
            await client.declare_topic(f"{queue}-topic")
            made = await client.subscribe(f"{queue}-topic.#", f"{queue}-all", dead_letter=f"{queue}-grave")
            assert len(made.warnings) == 1
            await client.declare_queue(f"{queue}-grave")
            assert (await client.declare_queue(queue)).warnings == ()


# --- policies ---------------------------------------------------------------------------------------------------------


async def test_queues_follow_the_policy_that_holds_unless_they_were_declared_otherwise(
    broker: BrokerProcess, queue: str
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            free, declared, other = f"{queue}.free", f"{queue}.declared", f"{queue}x.other"
            for name in (free, other):
                await client.declare_queue(name)
            await client.declare_queue(declared, retry_delay=5.0)

            async def delays() -> list[float]:
                return [(await client.queue_info(name))["settings"]["retry_delay"] for name in (free, declared, other)]

            async def become(expected: list[float]) -> None:
                while await delays() != expected:  # noqa: ASYNC110 - no event tells that a queue has followed
                    await anyio.sleep(0.01)

            assert await client.set_policy(f"{queue}-short", f"{queue}.*", retry_delay=2.0) == "created"
            await become([2.0, 5.0, 1.0])
            assert await client.set_policy(f"{queue}-short", f"{queue}.*", retry_delay=2.0) == "unchanged"
            late = f"{queue}.late"
            await client.declare_queue(late)
            assert (await client.queue_info(late))["settings"]["retry_delay"] == 2.0
            assert (await client.queue_info(late))["policy"] == f"{queue}-short"
            await client.set_policy(f"{queue}-first", f"{queue}.free", order=7, retry_delay=9.0)
            await become([9.0, 5.0, 1.0])
            listed = [one for one in await client.policies() if one["name"].startswith(queue)]
            assert [(one["name"], one["order"]) for one in listed] == [(f"{queue}-first", 7), (f"{queue}-short", 0)]
            assert await client.delete_policy(f"{queue}-first") is True
            assert await client.delete_policy(f"{queue}-first") is False
            await become([2.0, 5.0, 1.0])
            assert await client.delete_policy(f"{queue}-short") is True
            await become([1.0, 5.0, 1.0])
            with pytest.raises(InvalidRequest, match="number of settings"):
                await client.set_policy("empty", "#")


@on_one_loop
async def test_the_command_line_sets_lists_and_drops_policies(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):

        async def said(*arguments: str) -> str:
            ran = await anyio.to_thread.run_sync(sluicemq, broker, *arguments)
            assert ran.returncode == 0, ran.stderr
            return ran.stdout

        assert await said("policy", "set", queue, f"{queue}.#", "--set", "retry_delay=3") == f"{queue}: created\n"
        assert f"{queue}.#" in await said("policy", "ls")
        assert await said("policy", "delete", queue) == f"{queue}: dropped\n"


# --- schedules --------------------------------------------------------------------------------------------------------


async def test_a_scheduled_message_is_sent_every_second_until_it_is_not(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            first = await client.schedule(queue, "* * * * * *", queue, b"tick", key="clock", timezone="Europe/Berlin")
            async with client.consumer(queue) as consumer:
                for _ in range(3):
                    message = await anext(consumer)
                    assert (message.body, message.key) == (b"tick", "clock")
                    await message.ack()
            (found,) = [one for one in await client.schedules() if one.name == queue]
            assert found.published >= 2
            assert found.next_at > first
            assert await client.unschedule(queue) is True
            assert await client.unschedule(queue) is False
            assert [one for one in await client.schedules() if one.name == queue] == []
            with pytest.raises(QueueNotFound, match="no-such-place"):
                await client.schedule(queue, "@daily", "no-such-place", b"x")
            with pytest.raises(InvalidRequest, match="no cron expression"):
                await client.schedule(queue, "never", queue, b"x")
            with pytest.raises(InvalidRequest, match="no time zone"):
                await client.schedule(queue, "* * * * *", queue, b"x", timezone="Mars/Olympus")


async def test_times_that_are_refused_for_good_are_counted_and_say_why(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            await client.schedule(queue, "* * * * * *", queue, b"tick")
            await client.delete_queue(queue)
            failed = 0
            while failed < 2:
                await anyio.sleep(0.1)
                (found,) = [one for one in await client.schedules() if one.name == queue]
                failed = found.failed
            assert f"no queue '{queue}'" in found.problem
            await client.declare_queue(queue)
            while found.problem:
                await anyio.sleep(0.1)
                (found,) = [one for one in await client.schedules() if one.name == queue]
            assert found.published >= 1
            assert await client.unschedule(queue) is True


async def test_of_times_while_the_broker_was_down_one_is_sent_or_all_or_none(
    start_broker: StartBroker, queue: str
) -> None:
    broker = await anyio.to_thread.run_sync(lambda: start_broker(port=unused_port()))
    # What begins first and ends last has no fewer times.
    ways: tuple[Literal["one", "all"], ...] = ("all", "one")
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            for way in ways:
                await client.declare_queue(f"{queue}.{way}")
                await client.schedule(way, "* * * * * *", f"{queue}.{way}", b"tick", catch_up=way)
        await anyio.to_thread.run_sync(broker.stop)
        await anyio.sleep(3.0)
        await anyio.to_thread.run_sync(broker.start)
        async with connect(broker.url) as client:

            async def sent() -> list[int]:
                return [(await client.queue_info(f"{queue}.{way}"))["ready"] for way in ways]

            while True:
                every, one = await sent()
                if 1 <= one <= every - 2:
                    break
                await anyio.sleep(0.05)
            for way in reversed(ways):
                await client.unschedule(way)
            every, one = await sent()
            assert 1 <= one <= every - 2


@on_one_loop
async def test_the_command_line_sets_lists_and_drops_schedules(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):

        async def said(*arguments: str) -> str:
            ran = await anyio.to_thread.run_sync(sluicemq, broker, *arguments)
            assert ran.returncode == 0, ran.stderr
            return ran.stdout

        await said("queue", "declare", "reports")
        assert "next at" in await said("schedule", "set", queue, "0 6 1 1 *", "reports", "now")
        assert "0 6 1 1 *" in await said("schedule", "ls")
        assert await said("schedule", "delete", queue) == f"{queue}: dropped\n"


async def test_a_higher_priority_goes_first_and_those_of_one_priority_in_the_order_of_publishing(
    broker: BrokerProcess, queue: str
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            await client.send(queue, b"usual")
            await client.send(queue, b"urgent", priority=9)
            async with client.producer(queue) as producer:
                await producer.send_many(
                    [NewMessage(b"%d" % (number % 10), priority=number % 10) for number in range(20)]
                )
            assert sluicemq(broker, "publish", queue, "from the shell", "--priority", "9").returncode == 0
            async with client.consumer(queue) as consumer:
                got: list[bytes] = []
                while len(got) < 23:
                    batch = await consumer.receive(max_messages=23 - len(got))
                    got += batch.bodies
                    await batch.ack(confirm=True)
            lower = [b"%d" % priority for priority in range(8, 0, -1) for _ in range(2)]
            assert got == [b"urgent", b"9", b"9", b"from the shell", *lower, b"usual", b"0", b"0"]


async def test_a_queue_that_is_ordered_by_key_refuses_priorities(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, ordering="key")
            with pytest.raises(InvalidRequest, match="ordered by key, so its messages have no priority"):
                await client.send(queue, b"urgent", key="lamp", priority=9)
            assert (await client.queue_info(queue))["published_total"] == 0


async def test_what_a_topic_delays_is_listed_and_goes_or_comes_at_once_as_one_says(
    broker: BrokerProcess, queue: str
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_topic(queue)
            await client.subscribe(f"{queue}.eu.#", f"{queue}-eu")
            send = [await client.send(f"{queue}.eu.{n}", b"%d" % n, delay=3_600 + n) for n in range(4)]
            positions = [receipt.position for receipt in send]
            assert await waiting(client, queue) == positions
            listed = [message async for message in client.delayed(queue)]
            assert await client.cancel(queue, listed[0]) == 1
            assert await client.cancel(queue, send[1]) == 1
            assert await client.reschedule(queue, positions[2], delay=7_200) == 1
            assert await waiting(client, queue) == [positions[3], positions[2]]
            assert await client.reschedule(queue, [positions[2], positions[3]], delay=0) == 2
            async with client.consumer(f"{queue}-eu") as consumer:
                got = [await anext(consumer) for _ in range(2)]
                assert sorted(message.destination for message in got) == [f"{queue}.eu.2", f"{queue}.eu.3"]
            (state,) = [topic for topic in await client.topics() if topic["name"] == queue]
            assert (state["delayed"], state["cancelled_total"], state["unrouted_total"]) == (0, 2, 0)


async def test_whoever_comes_later_to_a_topic_gets_what_it_delayed_when_that_became_ready_and_nothing_cancelled(
    broker: BrokerProcess, queue: str
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_topic(queue, retention={"seconds": 600})
            cancelled, soon, later = [await client.send(queue, b"%d" % n, delay=3_600) for n in range(3)]
            usual = await client.send(queue, b"usual")
            assert await retained(client, queue) == [b"usual"]
            follower = client.replay(queue, usual.position, follow=True)
            assert (await anext(follower)).body == b"usual"
            await client.subscribe(queue, f"{queue}-early", start="beginning")
            await cancel_and_hurry(client, queue, cancelled, soon)
            assert (await anext(follower)).body == b"1"
            last = await client.send(queue, b"last")
            assert await client.reschedule(queue, later, delay=0) == 1
            assert [(await anext(follower)).body for _ in range(2)] == [b"last", b"2"]
            await client.subscribe(queue, f"{queue}-late", start="beginning")
            await client.subscribe(queue, f"{queue}-behind", start=last.position)
            everything = [b"usual", b"1", b"last", b"2"]
            for name, expected in (("early", everything), ("late", everything), ("behind", everything[2:])):
                assert await delivered(client, f"{queue}-{name}", len(expected)) == expected
                assert (await client.queue_info(f"{queue}-{name}"))["published_total"] == len(expected)
            replay = client.replay(queue)
            assert [message.body for message in await replay.receive(3)] == everything[:3]
            assert [message.body async for message in client.replay(queue, str(replay.position))] == everything[3:]


async def test_a_queue_retains_what_it_delays_as_it_was_published_also_what_is_cancelled(
    broker: BrokerProcess, queue: str
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, retention={"seconds": 600})
            cancelled, soon = [await client.send(queue, body, delay=3_600) for body in (b"cancelled", b"soon")]
            await client.send(queue, b"usual")
            await cancel_and_hurry(client, queue, cancelled, soon)
            assert await delivered(client, queue, 2) == [b"usual", b"soon"]
            assert await retained(client, queue) == [b"cancelled", b"soon", b"usual"]


async def test_a_paused_topic_takes_nothing_and_its_subscriptions_give_nothing_also_after_a_restart(
    start_broker: StartBroker, queue: str
) -> None:
    broker = await anyio.to_thread.run_sync(lambda: start_broker(port=unused_port()))
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_topic(queue)
            await client.subscribe(f"{queue}.#", f"{queue}-all")
            await client.send(queue, b"before")
            ran = await anyio.to_thread.run_sync(sluicemq, broker, "topic", "pause", queue)
            assert ran.stdout == f"{queue}: publish and deliver is paused\n", ran.stderr
            with pytest.raises(QueuePaused, match="publishing to topic"):
                await client.send(f"{queue}.eu", b"refused", timeout=2.0)
        await anyio.to_thread.run_sync(broker.stop)
        await anyio.to_thread.run_sync(broker.start)
        async with connect(broker.url) as client, client.consumer(f"{queue}-all") as consumer:
            assert (await client.queue_info(f"{queue}-all"))["topic_paused"] == ["publish", "deliver"]
            await client.resume_topic(queue, deliver=False)
            await client.send(queue, b"after")
            with anyio.move_on_after(0.3):
                raise AssertionError(f"a paused topic delivers {await anext(consumer)}")
            await client.resume_topic(queue)
            assert [(await anext(consumer)).body for _ in range(2)] == [b"before", b"after"]
            with pytest.raises(TopicNotFound):
                await client.pause_topic("no-such-topic", publish=True)


async def test_a_topic_is_replayed_and_peek_says_where_messages_were_published_to(
    broker: BrokerProcess, queue: str
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_topic(queue, retention={"seconds": 600})
            await client.subscribe(f"{queue}.#", f"{queue}-all")
            await client.send(queue, b"0")
            await client.send(f"{queue}.eu.paid", b"1")
            await client.send(queue, b"2", subject="us")
            where = [queue, f"{queue}.eu.paid", f"{queue}.us"]
            assert [message.destination for message in await client.peek(f"{queue}-all")] == where
            found = [message async for message in client.replay(queue)]
            assert [(message.body, message.destination) for message in found] == list(
                zip((b"0", b"1", b"2"), where, strict=True)
            )
            ran = await anyio.to_thread.run_sync(sluicemq, broker, "consume", queue, "--from", "start", "--json")
            assert [json.loads(line)["destination"] for line in ran.stdout.splitlines()] == where, ran.stderr
            replay = client.replay(queue, found[-1].position, follow=True)
            assert (await anext(replay)).body == b"2"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.send, f"{queue}.late", b"3")
                assert (await anext(replay)).destination == f"{queue}.late"
            await client.declare_queue(f"{queue}-plain")
            await client.send(f"{queue}-plain", b"x")
            assert [message.destination for message in await client.peek(f"{queue}-plain")] == [f"{queue}-plain"]
