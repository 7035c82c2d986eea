"""Apps on a real broker: what handlers get, what becomes of their messages, and what goes out."""

from __future__ import annotations

import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import anyio
import pytest

from sluicemq.client import App, Client, Depends, Message, Reject, Retry, codecs
from sluicemq.client.errors import ClientClosed, QueueNotFound, RequestFailed
from tests.client.app.conftest import ended, running
from tests.postgres import library

pytestmark = pytest.mark.anyio


@dataclass
class Order:
    number: int
    item: str = "lamp"


@dataclass
class Bill:
    order: int


class Seen(list):
    """What handlers saw, and an event for the last thing that they shall see."""

    def __init__(self, wanted: int = 1) -> None:
        super().__init__()
        self.wanted = wanted
        self.complete = anyio.Event()

    def add(self, what):
        self.append(what)
        if len(self) >= self.wanted:
            self.complete.set()


async def settled(client, queue, wanted):
    """Wait until so many messages of the queue are settled."""
    while (info := await client.queue_info(queue))["settled_total"] < wanted:
        await anyio.lowlevel.checkpoint()
    return info


async def test_a_handler_gets_what_its_parameters_ask_for(broker, client, queue):
    app, seen, opened = App(broker.url), Seen(), []

    @asynccontextmanager
    async def connection():
        opened.append("opened")
        yield "connection"
        opened.append("closed")

    @contextmanager
    def cursor(message):
        yield f"cursor for {message.value.number}"

    async def user():
        return "user"

    @app.consumer(queue)
    async def handle(
        order: Order,
        message: Message,
        own: Client,
        itself: App,
        database=Depends(connection),  # noqa: B008 - that is how it is said
        rows=Depends(cursor),  # noqa: B008
        name=Depends(user),  # noqa: B008
        plain=Depends(lambda: 7),  # noqa: B008
    ):
        seen.add((order, message.value, message.body, own is app.client, itself is app, database, rows, name, plain))

    async with running(app):
        await client.send(queue, b'{"number": 1}')
        await seen.complete.wait()
        await settled(client, queue, 1)
    order = Order(1)
    assert seen == [
        (order, order, b'{"number": 1}', True, True, "connection", "cursor for 1", "user", 7),
    ]
    assert opened == ["opened", "closed"]


async def test_what_a_handler_raises_decides_from_any_depth(broker, client, queue):
    app, seen = App(broker.url), Seen(4)

    async def deep(attempt):
        if attempt == 1:
            raise ValueError("no luck")
        if attempt == 2:
            raise Retry("not yet", delay=0)
        async with anyio.create_task_group() as group:
            group.start_soon(deeper, attempt)
            group.start_soon(anyio.lowlevel.checkpoint)

    async def deeper(attempt):
        if attempt == 3:
            raise Retry("in a task", delay=0)
        raise Reject("never")

    @app.consumer(queue, retry=[0.001], max_deliveries=10)
    async def handle(_text: str, message: Message):
        seen.add((message.attempt, message.last_error))
        await deep(message.attempt)

    async with running(app):
        await client.send(queue, b"job")
        await seen.complete.wait()
    assert seen == [(1, None), (2, "ValueError: no luck"), (3, "not yet"), (4, "in a task")]
    (letter,) = await client.dead_letters(queue)
    assert (letter.death.reason, letter.death.error) == ("rejected", "never")


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_handler_that_exits_has_failed_like_any_other_and_the_service_goes_on(broker, client, queue, in_thread):
    seen = Seen(2)
    app = App(broker.url, on_error=lambda error, _message: seen.add(str(error)))

    def exits(_body: bytes):
        sys.exit(2)

    async def exits_on_the_loop(_body: bytes):
        sys.exit(2)

    app.consumer(queue, retry=[0.001], max_deliveries=2)(exits if in_thread else exits_on_the_loop)

    async with running(app):
        await client.send(queue, b"poison")
        await seen.complete.wait()
    assert seen == ["the handler left with SystemExit(2)"] * 2
    (letter,) = await client.dead_letters(queue)
    assert (letter.death.reason, letter.death.attempts) == ("max_deliveries", 2)


async def test_what_cannot_be_decoded_dies_at_once_with_the_reason(broker, client, queue):
    app, seen = App(broker.url), Seen()

    @app.consumer(queue, dead_letter=f"{queue}.dead")
    async def handle(order: Order):
        seen.add(order)

    async with running(app):
        await client.send(queue, b'{"number": "one"}')
        await client.send(queue, b'{"number": 2}')
        await seen.complete.wait()
    assert seen == [Order(2)]
    (letter,) = await client.dead_letters(f"{queue}.dead")
    assert letter.death.origin == queue
    assert letter.death.reason == "rejected"
    assert "which is no int" in letter.death.error
    assert letter.death.attempts == 1


async def test_plain_functions_run_on_as_many_threads_as_messages_are_handled_at_a_time(broker, client, queue):
    app = App(broker.url)
    together = threading.Barrier(8, timeout=30)
    threads = set()

    @app.consumer(queue, concurrency=8)
    def handle(number: int):
        threads.add(threading.current_thread())
        together.wait()  # passes only when eight of them are here

    async with running(app):
        async with client.producer(queue) as producer:
            await producer.send_many([b"%d" % each for each in range(16)])
        await settled(client, queue, 16)
    assert len(threads) >= 8
    assert threading.main_thread() not in threads


async def test_results_are_published_in_one_transaction_with_the_verdict(broker, client, queue):
    app = App(broker.url)
    bills, audit = app.queue(f"{queue}.bills"), app.queue(f"{queue}.audit")

    @app.publisher(bills)
    @app.consumer(queue, retry=[0.001])
    @app.publisher(audit, codec=codecs.MSGPACK)
    async def bill(order: Order, message: Message) -> dict | None:
        if order.number == 0:
            return None
        if message.attempt == 1:
            raise Retry(delay=0)
        return {"order": order.number}

    async with running(app):
        await client.send(queue, b'{"number": 0}')
        await client.send(queue, b'{"number": 1}')
        info = await settled(client, queue, 2)
    assert info["leased"] == 0
    assert [message.body for message in await client.peek(bills)] == [b'{"order":1}']
    assert [codecs.MSGPACK.decode(message.body) for message in await client.peek(audit)] == [{"order": 1}]


async def test_a_result_that_cannot_be_published_leaves_the_message_unsettled(broker, client, queue):
    errors = Seen(2)
    app = App(broker.url, on_error=lambda error, message: errors.add((type(error), message.attempt)))

    @app.consumer(queue, retry=[0.001], max_deliveries=2)
    @app.publisher(f"{queue}.nowhere")
    async def answer(body: bytes):
        return body

    async with running(app):
        await client.send(queue, b"x")
        await errors.complete.wait()
    assert errors == [(QueueNotFound, 1), (QueueNotFound, 2)]
    (letter,) = await client.dead_letters(queue)
    assert letter.death.error.startswith("QueueNotFound")


async def test_a_publisher_sends_values_while_the_app_runs(broker, client, queue):
    app = App(broker.url)
    bills = app.publisher(app.queue(queue))
    with pytest.raises(ClientClosed, match="does not run"):
        await bills.send(Bill(1))
    async with running(app):
        receipt = await bills.send(Bill(1), key="a", delay=0)
        assert receipt.position
        await bills.send("text")
    assert [(message.key, message.body) for message in await client.peek(queue)] == [
        ("a", b'{"order":1}'),
        (None, b"text"),
    ]


async def test_a_subscriber_gets_what_matches_its_pattern(broker, client, queue):
    app, seen, all_of_it = App(broker.url), Seen(), Seen(2)
    topic = app.topic(queue)

    @app.subscriber(f"{topic}.*.paid", f"{queue}-audit", concurrency=2)
    async def paid(text: str, message: Message):
        seen.add((text, message.destination))

    @app.subscriber(f"{topic}.#")
    async def everything(text: str):
        all_of_it.add(text)

    async with running(app):
        await client.send(f"{topic}.eu.paid", b"1")
        await client.send(f"{topic}.eu.lost", b"2")
        await seen.complete.wait()
        await all_of_it.complete.wait()
    assert seen == [("1", f"{topic}.eu.paid")]
    assert all_of_it == ["1", "2"]


async def test_what_a_handler_returns_is_the_reply_to_a_request(broker, client, queue):
    app = App(broker.url)

    @app.consumer(queue)
    async def square(number: int) -> int:
        if number < 0:
            raise Reject("only natural numbers")
        return number * number

    async with running(app):
        assert (await client.request(queue, b"7")).body == b"49"
        with pytest.raises(RequestFailed, match="natural"):
            await client.request(queue, b"-1")
        with pytest.raises(RequestFailed, match="cannot be decoded"):
            await client.request(queue, b"seven")
        await client.send(queue, b"3")  # nobody asks, so nobody is told


async def test_a_handler_may_settle_its_message_by_itself(broker, client, queue):
    app, out = App(broker.url), f"{queue}.out"
    app.queue(out)

    @app.consumer(queue)
    @app.publisher(out)
    async def handle(text: str, message: Message):
        await message.reject("seen enough")
        return text

    async with running(app):
        await client.send(queue, b"x")
        while not (found := await client.peek(out)):
            await anyio.lowlevel.checkpoint()
    assert [message.body for message in found] == [b"x"]
    assert len(await client.dead_letters(queue)) == 1


async def test_the_life_of_an_app_has_its_order(broker, client, queue):
    story = []

    @asynccontextmanager
    async def lifespan(app):
        app.state.database = "open"
        story.append("lifespan begins")
        yield
        story.append("lifespan ends")

    app = App(broker.url, lifespan=lifespan)

    @app.on_startup
    async def start():
        story.append(f"startup with the database {app.state.database}")
        await app.client.queues()

    @app.on_shutdown
    def stop():
        story.append("shutdown")

    handled = Seen()

    @app.consumer(queue)
    async def handle(body: bytes):
        story.append("handled")
        handled.add(body)

    async with running(app):
        await client.send(queue, b"x")
        await handled.complete.wait()
    assert story == ["lifespan begins", "startup with the database open", "handled", "shutdown", "lifespan ends"]
    with pytest.raises(ClientClosed):
        _ = app.client


async def test_an_app_that_stops_finishes_what_it_has_and_gives_the_rest_back(broker, client, queue):
    app = App(broker.url)
    begun, may_end = anyio.Event(), anyio.Event()

    @app.consumer(queue)
    async def handle(text: str):
        begun.set()
        await may_end.wait()

    await client.declare_queue(queue)
    async with client.producer(queue) as producer:
        await producer.send_many([b"%d" % each for each in range(10)])
    async with running(app):
        await begun.wait()
        app.stop()
        while (info := await client.queue_info(queue))["ready"] < 9:
            await anyio.lowlevel.checkpoint()
        assert info["leased"] == 1
        may_end.set()
    info = await client.queue_info(queue)
    assert (info["settled_total"], info["ready"], info["leased"]) == (1, 9, 0)
    async with client.consumer(queue) as consumer:
        batch = await consumer.receive(9)
        assert [(message.body, message.attempt) for message in batch] == [(b"%d" % each, 1) for each in range(1, 10)]


async def test_an_app_takes_nothing_more_where_it_stops_as_a_handler_ends(broker, client, queue):
    app = App(broker.url)
    begun, may_end = anyio.Event(), anyio.Event()
    handled = []

    @app.consumer(queue, declare=False)
    async def handle(text: str):
        handled.append(text)
        begun.set()
        await may_end.wait()

    await client.declare_queue(queue)
    async with client.producer(queue) as producer:
        await producer.send_many([b"first", b"second", b"third"])
    async with running(app):
        await begun.wait()
        may_end.set()  # both in one turn of the event loop, in whichever order it runs who wait
        app.stop()
    assert handled == ["first"]
    assert [message.body for message in await client.peek(queue)] == [b"second", b"third"]


async def test_a_handler_that_does_not_end_is_cancelled_and_its_message_given_back(broker, client, queue, caplog):
    app = App(broker.url, shutdown_timeout=0.05)
    begun = anyio.Event()

    @app.consumer(queue)
    async def handle(text: str):
        begun.set()
        await anyio.sleep_forever()

    async with running(app):
        await client.send(queue, b"x")
        await begun.wait()
    assert "were cancelled" in caplog.text
    info = await client.queue_info(queue)
    assert (info["ready"], info["leased"]) == (1, 0)


async def test_an_app_whose_queue_goes_ends_with_the_reason_and_in_no_group(broker, client, queue):
    app = App(broker.url)
    closed = []
    app.on_shutdown(lambda: closed.append("shutdown"))

    @app.consumer(queue)
    async def handle(text: str):
        """Nothing comes."""

    @app.on_startup
    async def delete_soon():
        group.start_soon(delete)

    async def delete():
        while not (await client.queue_info(queue))["consumers"]:
            await anyio.lowlevel.checkpoint()
        await client.delete_queue(queue)

    await client.declare_queue(queue)
    async with anyio.create_task_group() as group:
        with pytest.raises(QueueNotFound):
            await ended(app)
    assert closed == []


async def test_a_queue_that_is_not_declared_must_exist(broker, queue):
    app = App(broker.url)

    @app.consumer(queue, declare=False)
    async def handle(text: str):
        """Nothing comes."""

    with pytest.raises(QueueNotFound):
        await ended(app)


async def test_a_pydantic_model_is_validated(broker, client, queue):
    pydantic = library("pydantic")

    class Paid(pydantic.BaseModel):  # type: ignore[name-defined]
        amount: float = pydantic.Field(gt=0)

    app, seen = App(broker.url), Seen()

    @app.consumer(queue)
    async def handle(paid: Paid):
        seen.add(paid)

    async with running(app):
        await client.send(queue, b'{"amount": -1}')
        await client.send(queue, b'{"amount": 2}')
        await seen.complete.wait()
    assert seen == [Paid(amount=2)]
    assert "amount" in (await client.dead_letters(queue))[0].death.error
