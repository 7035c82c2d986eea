"""Who works behind the queues: payments, and the unimportant (points, recommendations).

python -m sluicemq.examples.peak_shaving.workers BROKER-URL PAYMENT-PORT payments|extras
"""

from __future__ import annotations

import contextlib
import signal
import sys

import httpx2
import trio

from sluicemq.client import Consumer, Retry, connect
from sluicemq.examples.peak_shaving.plan import EXTRAS, PAYMENTS

TASKS = 40
"""More than the service bears: what it gets is the queue's business, not ours."""


async def pay(consumer: Consumer, web: httpx2.AsyncClient) -> None:
    """Charge each order under its number, so that a second try charges nothing."""
    async for message in consumer:
        async with message:
            order = message.body.decode()
            try:
                answer = await web.post("/charges", params={"order": order, "key": order})
            except httpx2.HTTPError as error:
                raise Retry from error
            if not answer.is_success:
                raise Retry


async def please(consumer: Consumer) -> None:
    """Give points, think of recommendations."""
    async for message in consumer:
        async with message:
            await trio.sleep(0.02)


async def main(url: str, payment_port: int, queue: str) -> None:
    """Work until SIGTERM."""
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(connect(url, name=queue))
        consumer = await stack.enter_async_context(client.consumer(queue, credit=TASKS))
        nursery = await stack.enter_async_context(trio.open_nursery())
        if queue == PAYMENTS:
            limits = httpx2.Limits(max_connections=None)
            base = f"http://127.0.0.1:{payment_port}"
            web = httpx2.AsyncClient(base_url=base, timeout=30, limits=limits, trust_env=False)
            for _ in range(TASKS):
                nursery.start_soon(pay, consumer, web)
        else:
            assert queue == EXTRAS, queue
            for _ in range(4):
                nursery.start_soon(please, consumer)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                await consumer.drain()
                break


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), sys.argv[3])
