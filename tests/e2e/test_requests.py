"""Requests and their replies against a real broker, on both event loops."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from sluicemq.client import Reject, connect
from sluicemq.client.errors import LimitReached, QueueNotFound, RequestDied, RequestFailed, RequestTimeout
from sluicemq.client.replying import CORRELATION_HEADER, REPLY_TO_HEADER
from tests.e2e.broker_process import unused_port

if TYPE_CHECKING:
    from sluicemq.client import Client, Message, ReplyMessage
    from sluicemq.client.errors import SluiceError
    from tests.e2e.broker_process import BrokerProcess
    from tests.e2e.conftest import StartBroker

pytestmark = pytest.mark.anyio

TEST_SECONDS_MAX = 180.0


async def serve(client: Client, queue: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    """Answer with the price of what is asked for; what has none is refused."""
    async with client.consumer(queue) as consumer:
        task_status.started()
        async for message in consumer:
            async with message:
                if message.body == b"unknown":
                    raise Reject("no such product")
                assert message.wants_reply
                assert await message.reply(b"price of " + message.body, headers={"currency": "EUR"})


async def test_a_request_is_answered_past_the_log(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as service, connect(broker.url) as client, anyio.create_task_group() as tasks:
            await service.declare_queue(queue)
            await tasks.start(serve, service, queue)
            replies: list[bytes] = []

            async def ask(product: int) -> None:
                reply = await client.request(queue, b"%d" % product)
                assert reply.headers == {"currency": "EUR"}
                replies.append(reply.body)

            async with anyio.create_task_group() as askers:
                for product in range(100):
                    askers.start_soon(ask, product)
            assert sorted(replies) == sorted(b"price of %d" % product for product in range(100))
            figures = client.request_statistics()
            assert (figures.sent, figures.replied, figures.pending, figures.late) == (100, 100, 0, 0)
            state = await client.queue_info(queue)
            assert state["published_total"] == 100, "replies are no messages of any queue"
            tasks.cancel_scope.cancel()


async def test_a_refusal_reaches_whoever_asked_with_its_reason(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, anyio.create_task_group() as tasks:
            await client.declare_queue(queue)
            await tasks.start(serve, client, queue)
            with pytest.raises(RequestFailed, match="no such product"):
                await client.request(queue, b"unknown")
            assert (await client.request(queue, b"known")).body == b"price of known"
            tasks.cancel_scope.cancel()


async def test_whoever_asked_hears_at_once_that_the_last_attempt_failed(broker: BrokerProcess, queue: str) -> None:
    async def fail(client: Client, queue: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with client.consumer(queue) as consumer:
            task_status.started()
            async for message in consumer:
                with suppress(ZeroDivisionError):
                    async with message:
                        raise ZeroDivisionError("nobody can do that")

    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, connect(broker.url) as service, anyio.create_task_group() as tasks:
            await client.declare_queue(queue, max_deliveries=3, retry_delay=0)
            await tasks.start(fail, service, queue)
            with pytest.raises(RequestDied, match=r"after 3 attempts; .*ZeroDivisionError: nobody can do") as raised:
                await client.request(queue, b"1/0", timeout=2 * TEST_SECONDS_MAX)
            assert raised.value.fields["queue"] == queue
            assert isinstance(raised.value, RequestFailed), "who expects a refusal need not know of this one"
            tasks.cancel_scope.cancel()


async def test_replies_may_be_taken_by_a_callback_or_when_it_suits(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, anyio.create_task_group() as tasks:
            await client.declare_queue(queue)
            await tasks.start(serve, client, queue)
            called: list[ReplyMessage | SluiceError | None] = []
            heard = anyio.Event()

            def on_reply(reply: ReplyMessage | None, error: SluiceError | None) -> None:
                called.append(reply or error)
                heard.set()

            await client.submit_request(queue, b"a", on_reply=on_reply)
            later = await client.submit_request(queue, b"b")
            await heard.wait()
            assert [reply.body for reply in called if reply is not None and hasattr(reply, "body")] == [b"price of a"]
            assert (await later).body == b"price of b"
            assert later.done
            assert (await later).body == b"price of b", "as often as one likes"
            tasks.cancel_scope.cancel()


async def test_nobody_works_for_who_has_left_and_a_late_reply_is_dropped_and_counted(
    broker: BrokerProcess, queue: str
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, connect(broker.url) as service:
            await client.declare_queue(queue)
            before = await client.statistics()
            with pytest.raises(RequestTimeout, match=r"no reply from .* within 1 seconds"):
                await client.request(queue, b"is anybody there?", timeout=1.0)
            while not (await client.queue_info(queue))["expired_total"]:  # noqa: ASYNC110 - no event tells
                await anyio.sleep(0.01)  # its time is over here a moment before the broker says so
            assert (await client.queue_info(queue))["ready"] == 0

            async with service.consumer(queue) as consumer:
                pending = await client.submit_request(queue, b"slow", timeout=2.0)
                message = await anext(consumer)
                with pytest.raises(RequestTimeout):
                    await pending
                assert await message.reply(b"too late") is False
                await message.ack()
                pending = await client.submit_request(queue, b"cancelled")
                message = await anext(consumer)
                pending.cancel()
                assert await message.reply(b"the broker does not know that yet") is True
                await message.ack()
                pending = await client.submit_request(queue, b"wanted")
                message = await anext(consumer)
                await message.reply(b"first")
                await message.reply(b"second")
                await message.ack()
                assert (await pending).body == b"first"
            after = await client.statistics()
            figures = client.request_statistics()
            assert (figures.replied, figures.timed_out, figures.pending, figures.late) == (1, 3, 0, 2)
            assert after["replies_late_total"] - before["replies_late_total"] == 1
            assert after["replies_total"] - before["replies_total"] == 3


async def test_what_cannot_be_sent_fails_at_once(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            with pytest.raises(QueueNotFound):
                await client.request(queue, b"x")
            assert client.request_statistics().failed == 1


async def test_requests_under_way_are_bounded(
    broker: BrokerProcess, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluicemq.client.requesting.REQUESTS_PENDING_MAX", 2)
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            pending = [await client.submit_request(queue, b"x") for _ in range(2)]
            with pytest.raises(LimitReached, match="2 requests"):
                await client.request(queue, b"y")
            pending[0].cancel()
            await client.submit_request(queue, b"z")


async def test_one_way_requests_and_those_that_want_their_reply_in_a_queue(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            await client.declare_queue(answers := f"{queue}-answers")
            receipt = await (await client.tell(queue, b"one way"))
            asked = await client.send(queue, b"durable", headers={REPLY_TO_HEADER: answers})
            async with client.consumer(queue) as consumer:
                served: list[Message] = [await anext(consumer), await anext(consumer)]
                assert [message.wants_reply for message in served] == [False, True]
                assert [await message.reply(b"done") for message in served] == [False, True]
                for message in served:
                    await message.ack()
            (reply,) = await client.peek(answers)
            assert (reply.body, reply.headers[CORRELATION_HEADER]) == (b"done", asked.message_id)
            assert receipt.message_id


async def test_a_reply_finds_its_requester_after_the_broker_was_killed(start_broker: StartBroker) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        broker = await anyio.to_thread.run_sync(partial(start_broker, port=unused_port()))
        async with connect(broker.url) as client, connect(broker.url) as service:
            await client.declare_queue("prices")
            async with service.consumer("prices") as consumer:
                pending = await client.submit_request("prices", b"x", timeout=TEST_SECONDS_MAX)
                message = await anext(consumer)
                await anyio.to_thread.run_sync(broker.kill)
                await anyio.to_thread.run_sync(broker.start)
                assert await message.reply(b"after all") is True
                assert (await pending).body == b"after all"
