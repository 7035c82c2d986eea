"""One broker process: opens the log, takes the road, serves the port, and ends cleanly.

This module owns start, stop and what is fatal. `serve` is the whole life of `sluicemq serve`.
"""

from __future__ import annotations

import gc
import logging
import math
import signal
import sys
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.pipeline.road import Road
from sluicemq.broker.server.listener import BACKLOG, Server
from sluicemq.storage import LogOptions, RealDirectory, SegmentLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.config import BrokerConfig

logger = logging.getLogger("sluicemq.node")

GARBAGE_COLLECTION_THRESHOLDS = (50_000, 20, 50)
"""Fewer collections than Python's default: bulk state lives in arrays, and a full collection stalls the loop."""

EXIT_OK = 0
EXIT_FAILED = 1


def serve(config: BrokerConfig) -> int:
    """Run a broker until SIGTERM or SIGINT and return the exit code of the process.

    Prints `sluicemq N ready on sluicemq://HOST:PORT` to standard output once it serves.

    Raises:
        StorageError: The data directory cannot be opened: locked, foreign, newer or corrupt. Nothing was changed.
        OSError: The address cannot be listened on.

    """
    sys.setswitchinterval(config.switch_interval_seconds)
    return trio.run(_serve, config)


async def _serve(config: BrokerConfig) -> int:
    options = LogOptions(segment_bytes=config.segment_bytes, spares_max=config.spares_max)
    log = SegmentLog.open(RealDirectory(config.data), options=options)
    try:
        return await serve_log(log, config, announce=_print_ready)
    finally:
        log.close()


def _print_ready(node_id: int, host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    print(f"sluicemq {node_id} ready on sluicemq://{shown}:{port}", flush=True)  # noqa: T201 - the contract


async def serve_log(log: SegmentLog, config: BrokerConfig, *, announce: Callable[[int, str, int], None]) -> int:
    """Serve an opened log until a signal comes, the scope is cancelled, or the log fails."""
    failures: list[BaseException] = []
    failed = trio.Event()

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        failed.set()

    report = log.recovery
    if report.cut is not None:
        logger.warning(
            "recovery cut a torn tail of %d bytes from %s at offset %d; nobody was promised what it held",
            report.cut.lost_bytes,
            report.cut.file,
            report.cut.offset,
        )
    road = Road(log, node_id=config.node_id, cache_bytes_max=config.cache_bytes_max, on_failure=on_failure)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_when_failed, failed, nursery.cancel_scope)
        await road.begin()
        nursery.start_soon(road.run)
        road.produce.message_bytes_max = config.message_bytes_max
        road.produce.batch_bytes_max = config.batch_bytes_max
        road.produce.batch_messages_max = config.batch_messages_max
        server = Server(road, config, _version())
        listeners = await _listen(config.host, config.port)
        nursery.start_soon(server.run, listeners)
        gc.set_threshold(*GARBAGE_COLLECTION_THRESHOLDS)
        gc.freeze()
        host, port = listeners[0].socket.getsockname()[:2]
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            announce(config.node_id, host, port)
            async for number in signals:
                logger.info("%s: stopping", signal.Signals(number).name)
                break
            for listener in listeners:
                await listener.aclose()
            await server.stop(config.drain_seconds if math.isfinite(config.drain_seconds) else 3600.0)
        await road.stop()
        nursery.cancel_scope.cancel()
    if failures:
        logger.critical("the broker stops, because it cannot trust its log any more: %s", failures[0])
        return EXIT_FAILED
    return EXIT_OK


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as error:
        # The system's own words do not say which address it means.
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror or error}") from error


async def _end_when_failed(failed: trio.Event, scope: trio.CancelScope) -> None:
    await failed.wait()
    scope.cancel()


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sluicemq")
    except PackageNotFoundError:
        return "unknown"
