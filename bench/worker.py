"""The timed loops, in a process of their own for each system and role, so that no interpreter is shared.

A worker takes tasks, one line of JSON each, from standard input, and answers each with two lines: `started` when the
measured part begins, then the result. The loops do nothing but the client's calls and noting the time. It must not know
how figures are put together.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import signal
import sys
import time
from collections import Counter
from typing import Any

import anyio

from bench.adapters.base import Client
from bench.bodies import make_batches, stamp_of, stamped
from bench.cluster_systems import find
from bench.clusters import signal_all
from bench.gaps import has_recovered, longest_gap
from bench.statistics import thinned

clock = time.monotonic
"""The same in all processes of a machine."""

STAMPED_SEARCH = 50
"""So many bodies of a batch are searched for a stamp."""
WARMING_SENDS = 50
"""So many messages are sent one by one before anything is timed."""
PACED_PENDING_MAX = 20_000
ANSWER_SECONDS = 1.0
"""So long what is under way may take when watching has ended; what has no answer then is counted."""


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class _Run:
    """What a timed loop notes, and when it began in the eyes of wall clock and CPU clock."""

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.durations: list[float] = []
        self.started = self.ended = 0.0
        self._cpu = 0.0

    def start(self) -> None:
        gc.collect()
        _say(started=True)
        self._cpu = time.process_time()
        self.started = self.ended = clock()

    def result(self, warmed: int = 0) -> dict[str, Any]:
        return {
            "messages": self.messages,
            "bytes": self.bytes,
            "seconds": self.ended - self.started,
            "cpu_seconds": time.process_time() - self._cpu,
            "samples": thinned(self.durations),
            "warmed": warmed,
        }


async def _publish(client: Client, task: dict[str, Any]) -> dict[str, Any]:
    batches = make_batches(task["size"], task["batch"], vary=task["vary"])
    sizes = [sum(map(len, batch)) for batch in batches]
    await client.open_producer()
    messages_max = task["messages"] or math.inf

    async def work(run: _Run, until: float) -> None:
        for number in numbers:
            start = clock()
            if start >= until or (run.messages and run.messages >= messages_max):
                return
            batch = batches[number % len(batches)]
            if task["stamp"]:
                batch = list(batch)
                for place in range(0, len(batch), STAMPED_SEARCH):
                    batch[place] = stamped(batch[place], start)
            await client.publish(batch)
            run.ended = clock()
            run.messages += len(batch)
            run.bytes += sizes[number % len(batches)]
            run.durations.append(run.ended - start)

    async def all_tasks(run: _Run, seconds: float) -> None:
        until = clock() + seconds
        async with anyio.create_task_group() as tasks:
            for _ in range(task["in_flight"]):
                tasks.start_soon(work, run, until)

    numbers = itertools.count()
    warm = _Run()
    if task["warm_up_seconds"]:
        await all_tasks(warm, task["warm_up_seconds"])
    run = _Run()
    run.start()
    await all_tasks(run, task["seconds"])
    return run.result(warm.messages)


def _note_stamps(run: _Run, bodies: list[bytes], now: float, *, every: bool) -> None:
    for body in bodies if every else bodies[:STAMPED_SEARCH]:
        moment = stamp_of(body)
        if moment is not None:
            run.durations.append(now - moment)
            if not every:
                return


async def _consume(client: Client, task: dict[str, Any]) -> dict[str, Any]:
    run = _Run()
    if not task["stamp"]:
        run.start()
    await client.open_consumer(task["batch"])
    if task["stamp"]:
        run.start()
    until = clock() + task["seconds"]
    messages_max = task["messages"] or math.inf
    first = 0.0
    while run.messages < messages_max:
        bodies = await client.receive(task["batch"])
        now = clock()
        if not bodies:
            # With an end to end measurement, the first messages may take a while to come.
            if now >= until or (run.messages and not task["patient"]):
                break
            continue
        first = first or now
        if task["stamp"]:
            _note_stamps(run, bodies, now, every=task["every"])
        await client.ack()
        run.messages += len(bodies)
        run.ended = now = clock()
        if now >= until:
            break
    flushing = clock()
    await client.flush()
    run.ended += clock() - flushing
    return {**run.result(), "first_seconds": first - run.started, "first_at": first}


async def _warmed_single(client: Client, task: dict[str, Any]) -> tuple[list[bytes], _Run]:
    """Open a producer and send a few untimed; return bodies to send one by one, and a run that begins now."""
    bodies = make_batches(task["size"], 100, vary=True)[0]
    await client.open_producer()
    for body in bodies[:WARMING_SENDS]:
        await client.send(body)
    run = _Run()
    run.start()
    return bodies, run


async def _send_one_by_one(client: Client, task: dict[str, Any]) -> dict[str, Any]:
    bodies, run = await _warmed_single(client, task)
    until = clock() + task["seconds"]
    for body in itertools.cycle(bodies):
        start = clock()
        if start >= until or len(run.durations) >= task["messages"]:
            break
        await client.send(body)
        run.durations.append(clock() - start)
    run.ended = clock()
    run.messages = len(run.durations)
    return run.result(WARMING_SENDS)


async def _send_paced(client: Client, task: dict[str, Any]) -> dict[str, Any]:
    """Send at a fixed rate. The stamp is when a message was due, so that a stalled sender does not hide its stall."""
    bodies = make_batches(task["size"], 100, vary=True)[0]
    await client.open_producer()
    run = _Run()
    run.start()
    gap = 1 / task["rate"]
    limit = anyio.Semaphore(PACED_PENDING_MAX)

    async def one(due: float, body: bytes) -> None:
        await client.send(stamped(body, due))
        run.durations.append((ended := clock()) - due)
        run.ended = ended
        limit.release()

    async with anyio.create_task_group() as tasks:
        for number in range(int(task["rate"] * task["seconds"])):
            due = run.started + number * gap
            wait = due - clock()
            if wait > 0:
                await anyio.sleep(wait)
            elif -wait > task["seconds"]:
                break  # hopelessly behind: what it managed is the answer
            await limit.acquire()
            tasks.start_soon(one, due, bodies[number % len(bodies)])
    run.messages = len(run.durations)
    return run.result()


async def _send_through_fault(client: Client, task: dict[str, Any]) -> dict[str, Any]:
    """Send at a fixed rate, kill or freeze processes in the midst of it, and go on until confirms come steadily again.

    Whatever a call raises is counted and the message given up, so that the figures are about the client alone. Frozen
    processes are let go in the end.
    """
    bodies, run = await _warmed_single(client, task)
    confirms: list[float] = []
    errors: Counter[str] = Counter()
    sent, fault, gap = 0, math.inf, 1 / task["rate"]

    async def one(body: bytes) -> None:
        try:
            await client.send(body)
        except Exception as error:  # noqa: BLE001 - each system has its own; their names are the result
            errors[type(error).__name__] += 1
        else:
            confirms.append(clock())

    async with anyio.create_task_group() as tasks:
        while not has_recovered(confirms, fault, now := clock()) and now < fault + task["seconds"]:
            if fault == math.inf and now >= run.started + task["settle_seconds"]:
                signal_all(task["pids"], task["signal"])
                fault = clock()
            tasks.start_soon(one, bodies[sent % len(bodies)])
            sent += 1
            await anyio.sleep(max(0.0, run.started + sent * gap - clock()))
        ended = clock()
        recovered = has_recovered(confirms, fault, ended)
        with anyio.move_on_after(ANSWER_SECONDS):
            while len(confirms) + errors.total() < sent:  # noqa: ASYNC110 - each answer would have to set an event
                await anyio.sleep(gap)
        if task["signal"] == signal.SIGSTOP:
            signal_all(task["pids"], signal.SIGCONT)
        # What waits for an answer that was lost would wait for long.
        tasks.cancel_scope.cancel()
    return {
        "sent": sent,
        "confirmed": len(confirms),
        "errors": dict(errors),
        "unanswered": sent - len(confirms) - errors.total(),
        "gap_seconds": longest_gap(confirms, fault, ended),
        "recovered": recovered,
        "watched_seconds": ended - fault,
    }


async def _declare(client: Client, _task: dict[str, Any]) -> dict[str, Any]:
    _say(started=True)
    await client.declare()
    return {}


async def _delete(client: Client, _task: dict[str, Any]) -> dict[str, Any]:
    _say(started=True)
    await client.delete()
    return {}


_TASKS = {
    "declare": _declare,
    "delete": _delete,
    "publish": _publish,
    "consume": _consume,
    "one": _send_one_by_one,
    "paced": _send_paced,
    "fault": _send_through_fault,
}


def work(system_name: str) -> None:
    """Be a worker: the whole life of the process."""
    system = find(system_name)
    client_class = system.client_class()

    async def one(task: dict[str, Any]) -> dict[str, Any]:
        async with client_class(task["ports"], task["queue"], system.kind) as client:
            result: dict[str, Any] = await _TASKS[task["do"]](client, task)
        return result

    for line in sys.stdin:
        task = json.loads(line)
        _say(**anyio.run(one, task, backend=client_class.backend))
