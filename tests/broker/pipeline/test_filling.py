"""A subscription that catches up with a topic of whose messages a repair gave some up: on the simulated disk."""

from __future__ import annotations

import pytest
import trio

from sluicemq.broker.pipeline import filling
from sluicemq.broker.pipeline.topics import Start
from sluicemq.broker.queues.entries import Forget
from sluicemq.broker.queues.entries_of_topics import START_BEGINNING
from tests.broker.pipeline.roads import ask, open_producer, open_road, publish
from tests.patience import WAIT_SECONDS

MESSAGES = 60


async def topic_with_messages(road):
    """Publish single messages to a topic that retains; return it and their batches."""
    outcome = await ask(road.topics.declare, "/", "events", {"retention": {"seconds": 3600}})
    assert outcome.error is None
    producer = await open_producer(road)
    zxids = [(await publish(road, producer, n, [b"%d" % n], "events.eu")).value.zxid for n in range(1, MESSAGES + 1)]
    return road.topics.find_topic("/", "events"), zxids


async def forget(road, topic, first, last):
    applied = trio.Event()
    entry = Forget(road.clock.now_ms(), topic.id, [first, last])
    road.propose(entry, on_applied=lambda _outcome: applied.set())
    with trio.fail_after(WAIT_SECONDS):
        await applied.wait()


async def caught_up(road, topic):
    """Subscribe from the beginning; return the batches that came, in order."""
    start = Start(START_BEGINNING)
    outcome = await ask(road.topics.subscribe, "/", topic, "events.eu", "audit", {}, 0, start)
    assert outcome.error is None
    queue = road.produce.find_queue("/", "audit")
    with trio.fail_after(WAIT_SECONDS):
        while topic.fillings:
            await trio.lowlevel.checkpoint()
    return [run.zxid for run in road.machine.peek(queue.id, 0, 10_000)]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("first", "last", "told"),
    [(10, 19, 1), (50, 59, 1), (0, 4, 0), (0, 59, 0)],
    ids=["between", "at the end", "in front: it begins behind", "all"],
)
async def test_what_a_repair_gave_up_is_passed_over_and_told_and_everything_else_comes(
    first, last, told, monkeypatch, caplog
):
    monkeypatch.setattr(filling, "PIECE_MESSAGES_MAX", 7)
    async with open_road() as road:
        topic, zxids = await topic_with_messages(road)
        await forget(road, topic, zxids[first], zxids[last])
        assert await caught_up(road, topic) == zxids[:first] + zxids[last + 1 :]
    messages = [record.getMessage() for record in caplog.records]
    assert len([said for said in messages if "cannot catch up" in said]) == told
