"""The web front, twice: `/at-once` does everything in the request, `/orders` stores the order and answers.

python -m sluicemq.examples.async_order.front BROKER-URL DATABASE FOLDER PORT DEADLINE-SECONDS
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from sluicemq.client import Client, Decision, Outbox, Undecided, connect
from sluicemq.examples.async_order import books
from sluicemq.examples.async_order.books import FRONT, Order, open_books
from sluicemq.examples.async_order.services import (
    AFTER_PAYMENT,
    DEADLINE,
    PAYMENT_SECONDS,
    STOCK,
    NoSuchAddress,
    Service,
    TryAgain,
    do_work,
)
from sluicemq.examples.common.serving import serve_until_told


class Front:
    """What both shops share: the books of the front, and those of the services for the shop that does it all itself."""

    def __init__(self, url: str, database: str, folder: Path, deadline_seconds: float) -> None:
        self.url = url
        self.folder = folder
        self.deadline_seconds = deadline_seconds
        self.engine = open_books(database, folder, FRONT)
        self.engines = {each.name: open_books(database, folder, each.name) for each in (STOCK, *AFTER_PAYMENT)}
        self.room = {each.name: trio.CapacityLimiter(each.capacity) for each in (STOCK, *AFTER_PAYMENT)}
        self.writing = {each.name: trio.Lock() for each in (STOCK, *AFTER_PAYMENT)}
        self.outbox = Outbox(self.engine)
        # SQLite takes one writer at a time, and who finds it taken looks again after a while: better to stand in line.
        self.writers = trio.CapacityLimiter(1 if database == "sqlite" else 10)
        self.client: Client

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Connect, relay the outbox, and answer what became of prepared messages."""
        async with connect(self.url, name=FRONT) as client:
            client.transaction_checker(FRONT, self.what_became_of)
            self.client = client
            async with self.outbox.relay(client):
                yield

    # --- everything in the request ---

    async def place_at_once(self, request: Request) -> JSONResponse:
        """Take from stock, pay, give points, send the mail, pack, write the invoice; then answer."""
        order = Order.unpack(await request.body())
        await trio.to_thread.run_sync(self._store, order, limiter=self.writers)
        try:
            await self._do(STOCK, order)
            await trio.sleep(PAYMENT_SECONDS)
            for service in AFTER_PAYMENT:
                await self._do(service, order)
        except (TryAgain, NoSuchAddress) as error:  # and what was done before stays done
            return JSONResponse({"error": str(error)}, status_code=500)
        return JSONResponse({"order": order.number})

    def _store(self, order: Order) -> None:
        with self.engine.begin() as connection:
            books.place(connection, order, books.PAID)

    async def _do(self, service: Service, order: Order) -> None:
        async with self.room[service.name]:
            await do_work(service, order, 1, self.folder)
        async with self.writing[service.name]:
            await trio.to_thread.run_sync(self._write_down, service, order)

    def _write_down(self, service: Service, order: Order) -> None:
        with self.engines[service.name].begin() as connection:
            books.write_down(connection, service.name, order, service.effect)

    # --- answered as soon as the order is safe ---

    async def place(self, request: Request) -> JSONResponse:
        """One SQL transaction: the order, the message about it, and the one that cancels it unless it is paid."""
        order = Order.unpack(await request.body())
        await trio.to_thread.run_sync(self._place, order, limiter=self.writers)
        return JSONResponse({"order": order.number}, status_code=202)

    def _place(self, order: Order) -> None:
        with self.engine.begin() as connection:
            books.place(connection, order)
            add = functools.partial(self.outbox.add, connection, body=order.pack(), key=order.customer)
            add("shop.placed", message_id=f"placed {order.number}")
            add(DEADLINE, message_id=f"deadline {order.number}", delay=self.deadline_seconds)

    async def pay(self, request: Request) -> JSONResponse:
        """The message that the order is paid is prepared before the payment is booked, and counts if it was."""
        order = Order.unpack(await request.body())
        said = {"key": order.customer, "message_id": f"paid {order.number}"}
        async with self.client.prepare("shop.paid", order.pack(), **said, check=FRONT) as half:  # type: ignore[arg-type]
            await trio.sleep(PAYMENT_SECONDS)
            in_time = await trio.to_thread.run_sync(self._book_payment, order, limiter=self.writers)
            if not in_time:
                await half.rollback()
        return JSONResponse({"paid": in_time}, status_code=200 if in_time else 409)

    def _book_payment(self, order: Order) -> bool:
        with self.engine.begin() as connection:
            return books.change_state(connection, order.number, books.PAID)

    def what_became_of(self, undecided: Undecided) -> Decision | None:
        """Answer the broker, if whoever prepared a message fell silent: the books know."""
        with self.engine.begin() as connection:
            state = books.state_of(connection, Order.unpack(undecided.body).number)
        return Decision.COMMIT if state == books.PAID else Decision.ROLLBACK

    def application(self) -> Starlette:
        """Return the web application."""
        routes = [
            Route("/at-once", self.place_at_once, methods=["POST"]),
            Route("/orders", self.place, methods=["POST"]),
            Route("/payments", self.pay, methods=["POST"]),
            Route("/health", lambda _request: PlainTextResponse("well")),
        ]
        return Starlette(routes=routes, lifespan=self.lifespan)


async def main(url: str, database: str, folder: Path, port: int, deadline_seconds: float) -> None:
    """Serve until SIGTERM."""
    await serve_until_told(Front(url, database, folder, deadline_seconds).application(), port)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
