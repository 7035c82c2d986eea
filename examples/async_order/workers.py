"""A service as a process of its own: takes what its subscription gives it, works, writes it down once.

python -m sluicemq.examples.async_order.workers BROKER-URL DATABASE FOLDER SERVICE
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from sqlalchemy import Engine

from sluicemq.client import Consumer, Inbox, Message, Outbox, connect
from sluicemq.examples.async_order import books
from sluicemq.examples.async_order.books import FRONT, Order, open_books
from sluicemq.examples.async_order.services import DEADLINE, SERVICES, NoSuchAddress, Service, TryAgain, do_work

log = logging.getLogger("shop")
Handler = Callable[[Message], Awaitable[None]]


def handler_of(service: Service, engine: Engine, folder: Path) -> Handler:
    """Return what a service does with a message.

    The work elsewhere comes first, then one transaction with the effect and the message's id. Whoever dies in between
    does the work once more: so what is elsewhere gets the message's id, and can tell.

    The transaction runs in a thread, from begin to commit. In the event loop, one that waits for a row which another
    task's transaction has changed would stop the loop, and with it the other task.
    """
    inbox = Inbox(service.name)

    def write_down(message_id: str, order: Order) -> None:
        with engine.begin() as connection, inbox.once(message_id, connection) as fresh:
            if fresh:
                books.write_down(connection, service.name, order, service.effect)

    async def handle(message: Message) -> None:
        order = Order.unpack(message.body)
        await do_work(service, order, message.attempt, folder)
        await trio.to_thread.run_sync(write_down, message.message_id, order)

    return handle


def canceller(engine: Engine) -> Handler:
    """Return what happens when the time to pay is over: what is not paid is cancelled, and stock hears of it."""
    outbox = Outbox(engine)

    def cancel(order: Order) -> None:
        with engine.begin() as connection:
            if books.change_state(connection, order.number, books.CANCELLED):
                said = {"key": order.customer, "message_id": f"cancelled {order.number}"}
                outbox.add(connection, "shop.cancelled", order.pack(), **said)  # type: ignore[arg-type]

    async def handle(message: Message) -> None:
        await trio.to_thread.run_sync(cancel, Order.unpack(message.body))

    return handle


async def work(consumer: Consumer, handle: Handler) -> None:
    """One of several beside each other; what fails comes again by the queue's policy."""
    async for message in consumer:
        try:
            async with message:
                await handle(message)
        except (TryAgain, NoSuchAddress) as error:
            log.info("attempt %d of %s: %s", message.attempt, message.message_id, error)


async def main(url: str, database: str, folder: Path, name: str) -> None:
    """Work until SIGTERM."""
    if name == DEADLINE:
        beside, handle = 2, canceller(open_books(database, folder, FRONT))
    else:
        service = next(each for each in SERVICES if each.name == name)
        beside, handle = service.capacity, handler_of(service, open_books(database, folder, name), folder)
    async with (
        connect(url, name=name) as client,
        client.consumer(name, credit=4 * beside) as consumer,
        trio.open_nursery() as nursery,
    ):
        for _ in range(beside):
            nursery.start_soon(work, consumer, handle)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                await consumer.drain()
                break


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("sluicemq").setLevel(logging.WARNING)
    trio.run(main, sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
