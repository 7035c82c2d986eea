"""The web front of the sale, twice: `/buy-directly` calls the payment service in the request, `/buy` queues the order.

python -m sluicemq.examples.peak_shaving.front BROKER-URL FOLDER PORT PAYMENT-PORT
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from sluicemq.client import Client, Producer, connect
from sluicemq.client.errors import PublishLimited
from sluicemq.examples.common.serving import serve_until_told
from sluicemq.examples.peak_shaving.plan import DIRECT, EXTRAS, PATIENCE_SECONDS, PAYMENTS, QUEUED, open_stock

LOOK_SECONDS = 0.25
"""How often the front looks how long the line is: what it tells customers is as old as that at most."""
UNIMPORTANT_FROM_SECONDS = 4.0
"""While payments wait for longer than this, points and recommendations stand back."""


class Front:
    """The front's connections, and what it knows of the line."""

    def __init__(self, url: str, folder: Path, payment_port: int) -> None:
        self.url = url
        self.database = open_stock(folder)
        self.payment = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{payment_port}",
            timeout=PATIENCE_SECONDS,
            limits=httpx2.Limits(max_connections=None),
            trust_env=False,
        )
        self.line: dict[str, Any] = {}
        self.client: Client
        self.payments: Producer
        self.extras: Producer

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Connect, and look after the line."""
        async with (
            connect(self.url, name="front") as client,
            client.producer(PAYMENTS, when_limited="raise") as self.payments,
            client.producer(EXTRAS) as self.extras,
            trio.open_nursery() as nursery,
        ):
            self.client = client
            nursery.start_soon(self._look_after_the_line)
            yield
            nursery.cancel_scope.cancel()

    async def _look_after_the_line(self) -> None:
        """Know how long it is, and let what is unimportant stand back while it is long."""
        stands_back = False
        while True:
            self.line = await self.client.queue_info(PAYMENTS)
            is_long = self.is_long()
            if is_long and not stands_back:
                await self.client.pause_queue(EXTRAS, deliver=True)
            elif stands_back and not is_long:
                await self.client.resume_queue(EXTRAS)
            stands_back = is_long
            await trio.sleep(LOOK_SECONDS)

    def is_long(self) -> bool:
        """Return whether who comes now waits for so long that the unimportant should stand back."""
        # Not `drain_seconds`, which is unknown while the line grows.
        return self.wait_seconds(self.line["ready"]) > UNIMPORTANT_FROM_SECONDS

    def wait_seconds(self, position: int) -> float:
        """Return how long the one at *position* of the line will wait, by the pace of the last seconds."""
        pace = self.line.get("delivery_rate", 0.0)
        return float(position / pace) if pace else 0.0

    # --- the payment in the request ---

    async def buy_directly(self, request: Request) -> JSONResponse:
        """Look whether there is one left, charge, take it: each of the three may go wrong."""
        order = request.query_params["order"]
        if not self._left(DIRECT):
            return JSONResponse({"sold out": order}, status_code=410)
        try:
            answer = await self.payment.post("/charges", params={"order": order})
        except httpx2.HTTPError:
            return JSONResponse({"error": "the payment service does not answer"}, status_code=504)
        if not answer.is_success:
            return JSONResponse({"error": "the payment service refuses"}, status_code=502)
        self.database.execute("UPDATE stock SET pieces = pieces - 1 WHERE shop = ?", (DIRECT,))
        self._note(DIRECT, order)
        return JSONResponse({"bought": order})

    # --- the payment behind the queue ---

    async def buy(self, request: Request) -> JSONResponse:
        """Take one if there is one left, in one statement; queue the payment; say when it will be done."""
        order = request.query_params["order"]
        taken = self.database.execute(
            "UPDATE stock SET pieces = pieces - 1 WHERE shop = ? AND pieces > 0", (QUEUED,)
        ).rowcount
        if not taken:
            return JSONResponse({"sold out": order}, status_code=410)
        try:
            await self.payments.send(order.encode(), message_id=order)
        except PublishLimited as error:
            self.database.execute("UPDATE stock SET pieces = pieces + 1 WHERE shop = ?", (QUEUED,))
            again = {"Retry-After": str(round(error.retry_after or 1.0))}
            return JSONResponse({"come again": order}, status_code=429, headers=again)
        await self.extras.send(order.encode())
        self._note(QUEUED, order)
        position = self.line.get("ready", 0) + 1
        said = {"queued": order, "position": position, "wait_seconds": round(self.wait_seconds(position), 1)}
        return JSONResponse(said, status_code=202)

    def _left(self, shop: str) -> bool:
        (pieces,) = self.database.execute("SELECT pieces FROM stock WHERE shop = ?", (shop,)).fetchone()
        return bool(pieces > 0)

    def _note(self, shop: str, order: str) -> None:
        self.database.execute("INSERT INTO sales VALUES (?, ?, ?)", (shop, order, time.time()))

    def application(self) -> Starlette:
        """Return the web application."""
        routes = [
            Route("/buy-directly", self.buy_directly, methods=["POST"]),
            Route("/buy", self.buy, methods=["POST"]),
            Route("/health", lambda _request: PlainTextResponse("well")),
        ]
        return Starlette(routes=routes, lifespan=self.lifespan)


async def main(url: str, folder: Path, port: int, payment_port: int) -> None:
    """Serve until SIGTERM."""
    await serve_until_told(Front(url, folder, payment_port).application(), port)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
