"""Peak shaving between a real broker and real clients on trio and asyncio."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import to_thread

from sluicemq.client import connect
from sluicemq.client.errors import LeaseLost, PublishLimited, RequestTimeout
from sluicemq.wire.errors import InvalidRequest
from tests.e2e.adaptive_rates import Service
from tests.e2e.adaptive_rates import measure as measure_adaptive
from tests.e2e.broker_process import unused_port
from tests.e2e.rates import measure

if TYPE_CHECKING:
    from sluicemq.client import Client, Message
    from tests.e2e.broker_process import BrokerProcess
    from tests.e2e.conftest import StartBroker

pytestmark = pytest.mark.anyio

TEST_SECONDS_MAX = 120.0
TRIES = 5
"""A machine that stands still spoils a measurement now and then; what the broker does wrong shows in each."""


@pytest.mark.alone
@pytest.mark.parametrize(("rate", "burst"), [(20, 1), (20, 50), (20_000, None)])
async def test_the_rate_holds_and_so_does_the_burst(
    broker: BrokerProcess, queue: str, rate: float, burst: int | None
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            for _ in range(TRIES):
                found = await measure(client, queue, rate=rate, burst=burst, seconds=1.0)
                # What is behind may lag by a slice, and a first slice is more than a second's share.
                rate_holds = found.rate == pytest.approx(rate, rel=0.1)
                burst_holds = burst is None or burst <= found.at_once <= burst + 2
                if rate_holds and burst_holds:
                    break
    assert rate_holds, found
    assert burst_holds, found


async def test_the_cap_holds_over_all_consumers_and_can_change(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, connect(broker.url) as other:
            await client.declare_queue(queue, max_concurrency=3)
            async with client.producer(queue) as producer:
                await producer.send_many([b"%d" % number for number in range(10)])
            async with client.consumer(queue) as mine, other.consumer(queue) as theirs:
                held: list[Message] = []

                async def take(count: int) -> None:
                    """Wait until so many are held, and a moment longer for those that must not come."""
                    while len(held) < count:
                        held.extend(await mine.receive(max_messages=10, max_wait=0.1))
                        held.extend(await theirs.receive(max_messages=10, max_wait=0.1))
                    held.extend(await mine.receive(max_messages=10, max_wait=0.2))
                    held.extend(await theirs.receive(max_messages=10, max_wait=0.2))

                await take(3)
                assert len(held) == 3
                await held.pop().ack()
                await take(3)
                assert len(held) == 3
                declared = await client.declare_queue(queue, max_concurrency=None)
                assert declared.changes == {"max_concurrency": (3, None)}
                await take(9)
                assert len(held) == 9
                for message in held:
                    await message.ack()


async def test_limits_are_there_after_a_restart_and_a_policy_can_set_them(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.set_policy("slow", f"{queue}.#", delivery_rate="5/s from 9 to 17; 50/s; in Europe/Berlin")
            await client.declare_queue(f"{queue}.one")
            settings = (await client.queue_info(f"{queue}.one"))["settings"]
            assert settings["delivery_rate"] == "5/s from 9 to 17; 50/s; in Europe/Berlin"
            with pytest.raises(InvalidRequest, match="no time zone that this broker knows"):
                await client.set_policy("slow", f"{queue}.#", delivery_rate="5/s from 9 to 17; in Europe/Atlantis")
            await client.delete_policy("slow")


# --- publishing ---------------------------------------------------------------------------------------------------


async def test_what_is_beyond_the_limit_waits_its_time_and_is_sent(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, client.producer(queue) as producer:
            await client.declare_queue(queue, publish_limit="token_bucket 200/s burst 50")
            began = anyio.current_time()
            for number in range(250):
                await producer.submit(b"%d" % number)
            await producer.flush()
            assert anyio.current_time() - began >= 0.99, "50 at once, and 200 a second"
            await producer.send_many([b"x"] * 50)
            state = await client.queue_info(queue)
            assert state["ready"] == 300
            assert state["publish_refused_total"] > 0
            async with client.consumer(queue, credit=1_000) as consumer:
                got: list[bytes] = []
                while len(got) < 250:
                    got += (await consumer.receive(max_messages=250 - len(got))).bodies
                assert [int(body) for body in got] == list(range(250)), "in the order of sending"


async def test_who_does_not_want_to_wait_hears_at_once_how_long_it_would_take(
    broker: BrokerProcess, queue: str
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, client.producer(queue, when_limited="raise") as producer:
            await client.declare_queue(queue, publish_limit="token_bucket 6/min burst 5")
            refusals: list[PublishLimited] = []

            async def send() -> None:
                try:
                    await producer.send(b"x")
                except PublishLimited as error:
                    refusals.append(error)

            async with anyio.create_task_group() as group:
                for _ in range(8):
                    group.start_soon(send)
            assert len(refusals) == 3
            assert all(refusal.retryable and 0 < (refusal.retry_after or 0) <= 80 for refusal in refusals)
            assert all(refusal.destination == queue and refusal.waiting in range(6) for refusal in refusals)
            with pytest.raises(PublishLimited, match="never more than 5 at once") as refused:
                await producer.send_many([b"x"] * 6)
            assert not refused.value.retryable


async def test_a_limited_queue_holds_up_no_other_one(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, publish_limit="fixed_window 1/d")
            await client.declare_queue(f"{queue}.free")
            await client.send(queue, b"first")
            async with anyio.create_task_group() as group:
                group.start_soon(client.send, queue, b"second")
                while not (await client.queue_info(queue))["publish_refused_total"]:  # noqa: ASYNC110 - no event tells
                    await anyio.sleep(0.01)
                await client.send(f"{queue}.free", b"passes, and the other one waits")
                group.cancel_scope.cancel()
            with pytest.raises(RequestTimeout, match="takes fixed_window 1/d"):
                await client.send(queue, b"third", timeout=1.0)


async def test_topics_and_transactions_and_half_messages_keep_to_the_limit(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            topic, plain = f"{queue}.topic", f"{queue}.plain"
            await client.declare_topic(topic, publish_limit="sliding_window 2/h")
            await client.subscribe(f"{topic}.#", f"{queue}.all")
            await client.declare_queue(plain)
            tx = client.transaction()
            await tx.send(plain, b"nor this")
            for number in range(3):
                await tx.send(f"{topic}.news", b"%d" % number)
            with pytest.raises(PublishLimited, match="of these 3 messages 2 could be published now"):
                await tx.commit()
            assert (await client.queue_info(plain))["ready"] == 0
            async with client.transaction() as tx:
                await tx.send(f"{topic}.news", b"one")
            async with client.producer(f"{topic}.news", when_limited="raise") as producer:
                await producer.send(b"two")
                with pytest.raises(PublishLimited):
                    await producer.send(b"three")
            await client.declare_queue(plain, publish_limit="leaky_bucket 1/h")
            await client.send(plain, b"one")
            with pytest.raises(PublishLimited):
                async with client.prepare(plain, b"half", check="nobody"):
                    pass


# --- the adaptive rate --------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_the_adaptive_rate_finds_what_a_service_can_take(broker: BrokerProcess, queue: str) -> None:
    """It takes five seconds; how well it does is measured by `python -m tests.e2e.adaptive_rates`."""
    about, service = pytest.approx(100, rel=0.3), Service("refuses", 100.0, halves=False, saved_seconds=0.5)
    work = partial(measure_adaptive, seconds=TEST_SECONDS_MAX, messages=20_000)
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, anyio.create_task_group() as group:
            group.start_soon(work, client, queue, service, "refuses")
            allowed = delivered = 0.0
            while not allowed == about == delivered:
                await anyio.sleep(0.5)
                last = max(service.delivered, default=0)
                delivered = sum(service.delivered[second] for second in range(last - 3, last)) / 3
                if last > 0:
                    allowed = (await client.queue_info(queue))["delivery_rate_now"]
            group.cancel_scope.cancel()


@pytest.mark.alone
async def test_a_queue_says_how_fast_it_is_and_when_it_will_be_empty(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            for number in range(TRIES):
                name = f"{queue}-{number}"
                await client.declare_queue(name, delivery_rate=100, max_concurrency=1_000)
                async with client.producer(name) as producer:
                    await producer.send_many([b"x"] * 1_000)
                assert (await client.queue_info(name))["drain_seconds"] is None
                async with client.consumer(name, credit=1_000) as consumer:
                    for _ in range(20):
                        await (await consumer.receive(max_messages=1_000, max_wait=0.1)).ack()
                        await anyio.sleep(0.1)
                    state = await client.queue_info(name)
                assert state["delivery_rate_now"] == 100
                rate_fits = state["delivery_rate"] == pytest.approx(100, rel=0.2)
                end_fits = state["drain_seconds"] == pytest.approx(state["ready"] / 100, rel=0.3)
                if rate_fits and end_fits:
                    break
            assert rate_fits, state
            assert end_fits, state


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_limits_are_there_after_a_kill(start_broker: StartBroker) -> None:
    limits = {
        "delivery_rate": "5/s from 9 to 17; 50/s; in Europe/Berlin",
        "delivery_burst": 7,
        "max_concurrency": 3,
        "delivery_adaptive": {"min": 1.0, "max": 100.0, "latency": 0.5, "failures": 0.02},
        "publish_limit": "fixed_window 2/d",
    }
    with anyio.fail_after(TEST_SECONDS_MAX):
        broker = start_broker()
        async with connect(broker.url) as client:
            await client.declare_queue("limited", **limits)  # type: ignore[arg-type]
        broker.kill()
        broker = start_broker()
        async with connect(broker.url) as client, client.producer("limited", when_limited="raise") as producer:
            settings = (await client.queue_info("limited"))["settings"]
            assert {name: settings[name] for name in limits} == limits
            await producer.send_many([b"one", b"two"])
            with pytest.raises(PublishLimited):
                await producer.send(b"three")


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_limits_that_change_under_load_and_a_kill_lose_and_repeat_nothing(start_broker: StartBroker) -> None:
    messages, kill_at = 200, 80
    changes = itertools.cycle(
        [
            {"publish_limit": "token_bucket 400/s burst 20", "delivery_rate": 500, "max_concurrency": 3},
            {"publish_limit": "sliding_window 300/s", "delivery_adaptive": {"min": 100.0, "latency": 0.001}},
            {"publish_limit": "leaky_bucket 400/s", "delivery_rate": None, "max_concurrency": None},
            {"publish_limit": None, "delivery_adaptive": None, "delivery_burst": 5},
        ]
    )
    sent: set[bytes] = set()
    received: Counter[bytes] = Counter()
    changed = 0

    async def send(url: str, who: int) -> None:
        async with connect(url) as client, client.producer("limited") as producer:
            for number in range(who, messages // 2, 2):
                await producer.send(body := b"sent %d" % number, timeout=TEST_SECONDS_MAX)
                sent.add(body)

    async def prepare(url: str, who: int) -> None:
        async with connect(url) as client:
            for number in range(who, messages // 2, 2):
                body = b"prepared %d" % number
                while body not in sent:
                    try:
                        async with client.prepare("limited", body, check="shop", timeout=TEST_SECONDS_MAX):
                            pass
                        sent.add(body)
                    except PublishLimited as error:
                        await anyio.sleep(error.retry_after or 0.01)

    async def change(client: Client) -> None:
        nonlocal changed
        while True:
            await client.declare_queue("limited", **next(changes))  # type: ignore[arg-type]
            changed += 1
            await anyio.sleep(0.03)

    with anyio.fail_after(2 * TEST_SECONDS_MAX):
        broker = await to_thread.run_sync(partial(start_broker, port=unused_port()))
        async with connect(broker.url, request_timeout=TEST_SECONDS_MAX) as client, anyio.create_task_group() as tasks:
            await client.declare_queue("limited")
            tasks.start_soon(change, client)
            for who in range(2):
                tasks.start_soon(send, broker.url, who)
                tasks.start_soon(prepare, broker.url, who)
            async with client.consumer("limited", credit=50) as consumer:
                killed = False
                while min(len(received), len(sent)) < messages:
                    batch = await consumer.receive(max_messages=10, max_wait=0.2)
                    received.update(bytes(body) for body in batch.bodies)
                    await batch.ack()
                    if not killed and len(received) >= kill_at:
                        killed = True
                        await to_thread.run_sync(broker.kill)
                        await to_thread.run_sync(broker.start)
                lost = 0
                try:
                    await consumer.flush()
                except LeaseLost as error:
                    # What went out in the last moment before the kill: nobody waits for a GRANT to be on the disk.
                    lost = error.messages
            tasks.cancel_scope.cancel()
        assert received.keys() == sent
        assert received.total() <= messages + lost, "what came again is what the consumer was told of"
        assert changed > 4
        async with connect(broker.url) as client:
            state = await client.queue_info("limited")
        assert state["published_total"] == messages, "each is stored once, however often it was refused before"
