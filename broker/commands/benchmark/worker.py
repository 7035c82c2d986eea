"""The timed loops, each in a process of its own, so that clients and broker do not share an interpreter.

A worker connects, warms up, prints `ready`, waits for a line on standard input, works, and prints its result as one
line of JSON. A timed loop does nothing but the client's calls and noting the time; all arithmetic comes after it. This
module must not know how the figures are put together (`figures`) or shown (`report`).
"""

from __future__ import annotations

import gc
import itertools
import json
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from sluicemq.broker.commands.benchmark.figures import Histogram, WorkerResult
from sluicemq.broker.commands.benchmark.plan import Plan
from sluicemq.client import connect

if TYPE_CHECKING:
    from sluicemq.client import Consumer, Producer

clock = time.monotonic
"""The same in all processes of a machine, so that a duration may begin in one and end in another."""

_STAMP = struct.Struct(">6sd")
_STAMP_MAGIC = b"\xffstamp"
IDLE_SECONDS = 0.5
"""A consumer that got nothing for so long has emptied the queue."""


class _Samples:
    """What a timed loop notes."""

    def __init__(self) -> None:
        self.messages = 0
        self.ended = 0.0
        self.durations: list[float] = []


def _tickets(messages: int, each: int) -> Iterator[int]:
    """Return an iterator that all tasks of a process share: one step for each call that may still be made."""
    return iter(range(-(-messages // each))) if messages else itertools.count()


# --- producers -----------------------------------------------------------------------------------------------------


async def _send_batches(
    producer: Producer, plan: Plan, tickets: Iterator[int], until: float, samples: _Samples
) -> None:
    bodies = [b"x" * plan.size] * plan.batch
    stamped = plan.mode == "through" and plan.size >= _STAMP.size
    rest = bytes(max(0, plan.size - _STAMP.size))
    durations = samples.durations
    for _ in tickets:
        start = clock()
        if start >= until:
            break
        if stamped:
            bodies[0] = _STAMP.pack(_STAMP_MAGIC, start) + rest
        await producer.send_many(bodies)
        samples.ended = end = clock()
        samples.messages += plan.batch
        durations.append(end - start)


async def _send_singly(producer: Producer, plan: Plan, tickets: Iterator[int], until: float, samples: _Samples) -> None:
    body = b"x" * plan.size
    durations = samples.durations
    for _ in tickets:
        start = clock()
        if start >= until:
            break
        await producer.send(body)
        samples.ended = end = clock()
        samples.messages += 1
        durations.append(end - start)


async def _produce(producer: Producer, plan: Plan, messages: int, seconds: float) -> _Samples:
    samples = _Samples()
    singly = plan.mode in ("send", "latency")
    tickets = _tickets(messages, 1 if singly else plan.batch)
    until = clock() + (3600.0 if messages else seconds)
    async with anyio.create_task_group() as tasks:
        for _ in range(plan.in_flight):
            tasks.start_soon(_send_singly if singly else _send_batches, producer, plan, tickets, until, samples)
    return samples


# --- consumers -----------------------------------------------------------------------------------------------------


async def _receive_batches(consumer: Consumer, plan: Plan, messages: int, until: float, samples: _Samples) -> None:
    durations = samples.durations
    stamped = plan.mode == "through"
    while not messages or samples.messages < messages:
        batch = await consumer.receive(max_messages=plan.batch, max_wait=IDLE_SECONDS)
        if not len(batch):
            break
        if stamped:
            body = batch.bodies[0]
            if body[:6] == _STAMP_MAGIC:
                durations.append(clock() - _STAMP.unpack_from(body)[1])
        await batch.ack()
        samples.messages += len(batch)
        samples.ended = clock()
        if samples.ended >= until:
            break


async def _receive_each(consumer: Consumer, messages: int, until: float, samples: _Samples) -> None:
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            seen = -1
            while seen != samples.messages:
                seen = samples.messages
                await anyio.sleep(IDLE_SECONDS)
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        async for message in consumer:
            await message.ack()
            samples.messages += 1
            samples.ended = clock()
            if samples.ended >= until or samples.messages == messages:
                break
        tasks.cancel_scope.cancel()


async def _consume(consumer: Consumer, plan: Plan, messages: int, seconds: float) -> _Samples:
    samples = _Samples()
    until = clock() + (3600.0 if messages else seconds)
    if plan.mode == "each":
        await _receive_each(consumer, messages, until, samples)
    else:
        await _receive_batches(consumer, plan, messages, until, samples)
    # What the last verdicts take to be committed counts; what an empty queue was watched for does not.
    flushing = clock()
    await consumer.flush()
    samples.ended += clock() - flushing
    return samples


# --- a process -----------------------------------------------------------------------------------------------------


async def _wait_for_go() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if not await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        raise SystemExit(1)  # whoever started us is gone


async def _run(plan: Plan, role: str) -> WorkerResult:
    async with connect(plan.url) as client:
        if role == "producer":
            async with client.producer(plan.queue) as producer:
                await _produce(producer, plan, 0, plan.warm_up_seconds)
                return await _measure(role, lambda: _produce(producer, plan, plan.share(plan.producers), plan.seconds))
        credit = max(1000, 4 * plan.batch)
        async with client.consumer(plan.queue, credit=credit) as consumer:
            # Through: until the queue is empty, so that only what is sent from now on is counted.
            await _consume(consumer, plan, 0, 3600.0 if plan.mode == "through" else plan.warm_up_seconds)
            return await _measure(role, lambda: _consume(consumer, plan, plan.share(plan.consumers), plan.seconds))


async def _measure(role: str, work: Callable[[], Awaitable[_Samples]]) -> WorkerResult:
    gc.collect()
    await _wait_for_go()
    cpu_before = time.process_time()
    started = clock()
    samples = await work()
    cpu_seconds = time.process_time() - cpu_before
    latency = Histogram()
    latency.add_all(samples.durations)
    return WorkerResult(role, samples.messages, started, samples.ended or started, cpu_seconds, latency)


def work(plan: Plan, role: str) -> None:
    """Be a worker: the whole life of the process."""
    result = anyio.run(_run, plan, role, backend=plan.backend)
    sys.stdout.write(json.dumps(result.to_plain()) + "\n")
    sys.stdout.flush()
