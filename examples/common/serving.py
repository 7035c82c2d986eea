"""A web application served by hypercorn on trio until the process is told to end."""

from __future__ import annotations

import signal

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette

KEEP_ALIVE_SECONDS = 60
"""Longer than a busy machine keeps anybody waiting: a connection must not end between two requests."""


async def serve_until_told(app: Starlette, port: int) -> None:
    """Serve *app* on this port of the loopback until SIGTERM."""
    stop = trio.Event()

    async def watch() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                stop.set()

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.accesslog = None
    config.graceful_timeout = 0.5
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await serve(app, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]
        nursery.cancel_scope.cancel()
