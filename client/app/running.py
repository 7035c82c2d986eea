"""An app's life: connect, declare, start, work until it shall end, drain, stop. And which signals end it."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import anyio

from sluicemq.client.client import Client, connect
from sluicemq.client.consumer import Consumer
from sluicemq.client.errors import SluiceError
from sluicemq.client.runtime import current_runtime

if TYPE_CHECKING:
    from sluicemq.client.app.app import App
    from sluicemq.client.app.working import Station

log = logging.getLogger("sluicemq.app")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def serve(
    app: App, stop: anyio.Event, on_connected: Callable[[Client], None], on_ready: Callable[[], None]
) -> None:
    """Run *app* until *stop* is set, or something ends that it cannot be without."""
    async with connect(app.url, name=app.name, connect_timeout=app.connect_seconds) as client:
        on_connected(client)
        await app.declare(client)
        async with AsyncExitStack() as stack:
            if app.lifespan is not None:
                await stack.enter_async_context(app.lifespan(app))
            for hook in app.startup_hooks:
                await _called(hook)
            failures = await _work(app, client, stop, on_ready)
            if not failures:
                for hook in app.shutdown_hooks:
                    await _called(hook)
                return
            raise failures[0]


async def _work(app: App, client: Client, stop: anyio.Event, on_ready: Callable[[], None]) -> list[Exception]:
    """Let all stations work until the end; return what ended them, if that was no stop."""
    failures: list[Exception] = []
    stations = app.stations()
    async with AsyncExitStack() as stack:
        consumers = []
        for station in stations:
            consumer = station.make_consumer(client, await station.declare(client))
            consumers.append(await stack.enter_async_context(consumer))
        log.info("%d consumers are ready", len(stations))
        on_ready()

        async def work(station: Station) -> None:
            try:
                await station.work(client, stop)
            except Exception as error:  # noqa: BLE001 - it ends the app, bare and in no group
                failures.append(error)
                stop.set()

        async with anyio.create_task_group() as workers:
            for station in stations:
                for _ in range(station.plan.concurrency):
                    workers.start_soon(work, station)
            await stop.wait()
            async with anyio.create_task_group() as draining:
                for consumer in consumers:
                    draining.start_soon(consumer.drain)
            # From here on workers end by themselves, each with the message that it has.
            workers.cancel_scope.deadline = anyio.current_time() + app.shutdown_seconds
        if workers.cancel_scope.cancelled_caught:
            log.warning("handlers that went on for %g seconds were cancelled", app.shutdown_seconds)
        if not failures:
            await _flush(consumers)
    return failures


async def _flush(consumers: list[Consumer]) -> None:
    for consumer in consumers:
        try:
            await consumer.flush()
        except SluiceError as error:
            log.warning("the last verdicts on messages of %r: %s", consumer.queue, error)


async def _called(hook: Callable[[], Any]) -> None:
    result = hook()
    if inspect.isawaitable(result):
        await result


def run_with_signals(app: App, backend: str) -> None:
    """Run *app* on an event loop of its own; a first signal lets it drain, a second one ends the process."""

    async def main() -> None:
        with _signals(app):
            await app.serve()

    anyio.run(main, backend=backend)


@contextmanager
def _signals(app: App) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may; whoever runs an app elsewhere stops it by `stop`
        return
    runtime = current_runtime()
    came = 0

    def on_signal(number: int, _frame: object) -> None:
        nonlocal came
        came += 1
        if came > 1:
            # Also where a handler blocks the event loop: Python runs this between any two of its steps.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        runtime.from_anywhere(app.stop)
        log.info("draining because of %s; once more ends at once", signal.Signals(number).name)

    before = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
