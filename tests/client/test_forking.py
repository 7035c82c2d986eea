"""A process that forks while a client is open: the child is told at once, the parent notices nothing."""

import os
import signal

import pytest

from sluicemq.client import connect
from sluicemq.client.errors import ClientForked, LeaseLost
from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from tests.client.scripted_broker import SILENCE

BATCH = encode_batch([b"x"])

CHILD_SECONDS_MAX = 60
"""A child that hangs, which is what this is about, ends after so long and has said nothing."""

pytestmark = [
    pytest.mark.anyio,
    # A name look-up leaves an idle thread behind; the child here only calls us and ends.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


def said_by(child, reader):
    """What the child wrote, once it has ended."""
    with os.fdopen(reader, "rb") as result:
        words = result.read().decode().split()
    os.waitpid(child, 0)
    return words


async def in_child(calls):
    """Fork, make *calls* in the child, and return the name of what each of them raised there."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(CHILD_SECONDS_MAX)
        try:
            names = []
            for call in calls:
                try:
                    await call()
                except Exception as error:
                    names.append(type(error).__name__)
                else:
                    names.append("nothing")
            os.write(writer, " ".join(names).encode())
        finally:
            os._exit(0)
    os.close(writer)
    return said_by(child, reader)


async def test_every_call_of_the_child_fails_at_once_and_the_parent_goes_on(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        async with client.consumer("orders") as consumer:
            await broker.peer.deliver(1, [b"one", b"two"])
            message = await anext(consumer)
            raised = await in_child(
                [
                    lambda: client.send("orders", b"x"),
                    client.queues,
                    lambda: producer.send(b"x"),
                    lambda: producer.submit(b"x"),
                    lambda: producer.send_many([b"x"]),
                    lambda: anext(consumer),
                    consumer.receive,
                    message.ack,
                ]
            )
            assert raised == [ClientForked.__name__] * 7 + [LeaseLost.__name__]
            await message.ack(confirm=True)
            assert (await anext(consumer)).body == b"two"
            await producer.send(b"from the parent")
        assert broker.bodies == [b"from the parent"]
        assert len(broker.peers) == 1


async def test_a_replay_that_waits_for_its_next_page_fails_at_once_in_the_child(broker):
    async def nothing_yet(_peer, request, _tail):
        if request.zxid:
            return SILENCE
        return m.Replayed([1, 0, 1, len(BATCH), 0, 7, 1, 0, 0], 1, 1, True, 1, 1), BATCH

    broker.on[m.Replay] = nothing_yet
    async with connect(broker.url) as client:
        replay = client.replay("orders", follow=True)
        assert (await anext(replay)).body == b"x"
        assert await in_child([lambda: anext(replay), replay.receive]) == [ClientForked.__name__] * 2


async def test_the_child_may_leave_the_block(broker):
    async with connect(broker.url) as client:

        async def leave():
            await client.__aexit__(None, None, None)

        assert await in_child([leave]) == ["nothing"]
        assert (await client.queue_info("orders"))["ready"] == 7
        assert len(broker.peers) == 1
