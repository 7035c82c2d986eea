"""The blocking client from 8 threads, and the trio and the asyncio client from 64 tasks, do the same things."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from sluicemq.client.errors import LeaseLost
from tests.client.conformance.faces import FACES, TASKS, THREADS, run
from tests.client.conformance.stories import STORIES
from tests.e2e.broker_process import BrokerProcess

LEASE_SECONDS = 3.0
"""A thread of its own renews it every second: broker and client may both stand still for nearly two."""


@pytest.fixture(scope="module", params=FACES)
def face(request):
    return request.param


@pytest.fixture(scope="module")
def broker(tmp_path_factory, face):
    """A broker for each face, so that all find it as empty."""
    with BrokerProcess(tmp_path_factory.mktemp("broker") / "data") as process:
        yield process
        process.stop()


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_story_is_true_on_every_face(broker, face, story):
    run(face, broker.url, story)


def test_many_share_one_consumer_and_each_message_goes_to_one_of_them(broker, face):
    messages = 1_000
    handled: Counter[bytes] = Counter()
    shared = []

    async def before(client):
        await client.declare_queue("shared")
        async with client.producer("shared") as producer:
            await producer.send_many([b"%d" % each for each in range(messages)])
        consumer = client.consumer("shared")
        await consumer.__aenter__()
        shared.append(consumer)

    async def story(_client, _number):
        async for message in shared[0]:
            async with message:
                handled[message.body] += 1
            if handled.total() == messages:
                await shared[0].drain()

    async def after(client):
        await shared[0].flush()
        await shared[0].__aexit__(None, None, None)
        info = await client.queue_info("shared")
        assert (info["settled_total"], info["leased"], info["ready"]) == (messages, 0, 0)

    run(face, broker.url, story, before=before, after=after)
    assert handled == Counter(b"%d" % each for each in range(messages))


def test_one_producer_sends_for_many(broker, face):
    shared = []

    async def before(client):
        await client.declare_queue("from_many")
        producer = client.producer("from_many")
        await producer.__aenter__()
        shared.append(producer)

    async def story(_client, number):
        for each in range(10):
            await shared[0].send(b"%d/%d" % (number, each))

    async def after(client):
        await shared[0].__aexit__(None, None, None)
        peeked = await client.peek("from_many", count=1000)
        by_sender: dict[bytes, list[bytes]] = {}
        for message in peeked:
            sender, _, each = message.body.partition(b"/")
            by_sender.setdefault(sender, []).append(each)
        assert list(by_sender.values()) == [[b"%d" % each for each in range(10)]] * len(by_sender)
        assert len(by_sender) == (THREADS if face == "blocking" else TASKS)

    run(face, broker.url, story, before=before, after=after)


def test_a_handler_that_blocks_for_longer_than_its_lease_loses_no_lease_silently(broker, face, caplog):
    """On an event loop it loses the lease, and everybody is told; a thread of its own loses nothing."""
    queue = "blocked"
    told: list[LeaseLost] = []
    outcome: dict[str, object] = {}

    async def before(client):
        await client.declare_queue(queue, retry=[0.001])
        await client.send(queue, b"long")

    async def story(client, number):
        if number:
            return
        async with client.consumer(queue, lease=LEASE_SECONDS, on_lease_lost=told.append) as consumer:
            message = await anext(consumer)
            time.sleep(1.5 * LEASE_SECONDS)  # noqa: ASYNC251 - that is the mistake
            try:
                await message.ack(confirm=True)
            except LeaseLost as error:
                outcome["lost"] = error
                again = await anext(consumer)
                outcome["again"] = again.redelivery_reason
                await again.ack(confirm=True)

    async def after(client):
        outcome["settled"] = (await client.queue_info(queue))["settled_total"]

    run(face, broker.url, story, before=before, after=after)
    assert outcome.pop("settled") == 1
    if face == "blocking":
        assert (told, outcome) == ([], {})
    else:
        assert outcome["again"] == "expired"
        assert [error.queue for error in told] == [queue]
        assert "the event loop was blocked for" in caplog.text
