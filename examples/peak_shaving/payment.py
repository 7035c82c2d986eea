"""The payment service: does so many charges a second, and collapses beyond.

    python -m sluicemq.examples.peak_shaving.payment PORT

It has SLOTS workers of SECONDS each. Requests beyond wait, and each that waits slows all of them down, as a machine
that runs out of memory does; when too many wait it refuses. What it has begun it finishes, also when the caller has
given up: the card is charged then, and the caller does not know. A charge that has a key is made once, however often it
is asked for.
"""

from __future__ import annotations

import sys
from collections import Counter

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sluicemq.examples.common.serving import serve_until_told

SLOTS = 5
SECONDS = 0.2
CAPACITY_PER_SECOND = SLOTS / SECONDS
"""What it does when nobody asks for more."""
WAITING_SLOWER = 10
"""So many may wait before it gets slower."""
SLOWER_MAX = 5.0
WAITING_MAX = 150


class Payment:
    """The service's state: who waits, and what was charged to whom."""

    def __init__(self) -> None:
        self.slots = trio.CapacityLimiter(SLOTS)
        self.waiting = 0
        self.charges: Counter[str] = Counter()
        self.by_key: set[str] = set()
        self.done = 0

    async def charge(self, request: Request) -> JSONResponse:
        """Charge an order; with a key, once."""
        order, key = request.query_params["order"], request.query_params.get("key")
        if self.waiting >= WAITING_MAX:
            return JSONResponse({"error": "overloaded"}, status_code=503)
        self.waiting += 1
        try:
            with trio.CancelScope(shield=True):  # what was asked for is done, whether the caller waits or not
                async with self.slots:
                    slower = 1 + max(0, self.waiting - SLOTS - WAITING_SLOWER) / 10
                    await trio.sleep(SECONDS * min(slower, SLOWER_MAX))
                    if key is None or key not in self.by_key:
                        self.charges[order] += 1
                        self.by_key.add(key or order)
                    self.done += 1
        finally:
            self.waiting -= 1
        return JSONResponse({"charged": order})

    async def report(self, _request: Request) -> JSONResponse:
        """Say what was charged, for the audit."""
        return JSONResponse({"charges": self.charges, "done": self.done, "waiting": self.waiting})


async def main(port: int) -> None:
    """Serve until SIGTERM."""
    payment = Payment()
    routes = [Route("/charges", payment.charge, methods=["POST"]), Route("/report", payment.report)]
    await serve_until_told(Starlette(routes=routes), port)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
