"""One broker process: opens the log, takes the road, serves the port, and ends cleanly.

This module owns start, stop and what is fatal. `serve` is the whole life of `sluicemq serve`; a broker within a test
(`testing`) has other `Surroundings`, and the same life.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from sluicemq.broker import place
from sluicemq.broker.pipeline.ensemble.alone import Alone
from sluicemq.broker.pipeline.keeping.disk_space import mark_of
from sluicemq.broker.pipeline.order import NotAlone
from sluicemq.broker.pipeline.road import LoneRoad
from sluicemq.broker.server.listener import BACKLOG, Server
from sluicemq.storage import LogOptions, RealDirectory, SegmentLog
from sluicemq.storage.pagefile import PageFile
from sluicemq.storage.snapshots import SnapshotStore
from sluicemq.wire.version import VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractContextManager

    from sluicemq.broker.config import BrokerConfig
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.storage.files import Directory

logger = logging.getLogger("sluicemq.node")

GARBAGE_COLLECTION_THRESHOLDS = (2_000, 4, 5_000)
"""Small steps, because one collection stops the loop for about half a microsecond for each object that is alive in the
generations it looks at: 50,000 requests in hand took it 33 ms. Full collections stay as rare as they can be."""

FILES_MAX = 65_536
"""Most files that the broker asks the system to let it open."""
FILES_RESERVED = 48
"""Files kept beside connections, segments and old files: standard streams, sockets, snapshots, pages, index files."""

EXIT_OK = 0
EXIT_FAILED = 1


def _print_ready(node_id: int, host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    print(f"sluicemq {node_id} ready on sluicemq://{shown}:{port}", flush=True)  # noqa: T201 - the contract


def _signals_of_process() -> AbstractContextManager[AsyncIterator[int]]:
    return trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT)


def _freeze_garbage(_road: Road, _server: Server) -> None:
    """Let the collector never look again at what is there from the start."""
    gc.freeze()


@dataclass(frozen=True)
class Surroundings:
    """What of the world around it a broker relies on, beside its directory and its port; by default its process.

    Attributes:
        signals: Opens the signals upon which the broker stops.
        wall: Seconds since 1970.
        monotonic: Seconds that never jump.
        made: Called with road and server before the first client is served.
        ready: Told number, host and port once clients can connect.

    """

    signals: Callable[[], AbstractContextManager[AsyncIterator[int]]] = _signals_of_process
    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    made: Callable[[Road, Server], None] = _freeze_garbage
    ready: Callable[[int, str, int], None] = _print_ready


def serve(config: BrokerConfig) -> int:
    """Run a broker until SIGTERM or SIGINT and return the exit code of the process.

    Prints `sluicemq N ready on sluicemq://HOST:PORT` to standard output once it serves.

    Raises:
        InvalidRequest: The data directory is none, or holds files of somebody else. Nothing was changed.
        StorageError: The data directory cannot be opened: locked, foreign, newer or corrupt. Nothing was changed.
        OSError: The address cannot be listened on. Nothing was changed.

    """
    if not __debug__:
        raise RuntimeError("run the broker without python -O: its assertions guard what was confirmed")
    place.check_data_directory(config.data)
    sockets = place.bind(config.host, config.port)
    try:
        sys.setswitchinterval(config.switch_interval_seconds)
        gc.set_threshold(*GARBAGE_COLLECTION_THRESHOLDS)
        _raise_file_limit()
        return trio.run(_serve, config, sockets)
    finally:
        place.close(sockets)


async def _serve(config: BrokerConfig, sockets: list[socket.socket]) -> int:
    directory = RealDirectory(config.data)
    if not config.peers:
        try:
            return await serve_alone(directory, config, sockets, disk_bytes=_disk_bytes(config))
        except NotAlone as error:
            logger.info("%s; their addresses are in the log", error)
    # A seventh of the program, which a broker on its own neither waits for at its start nor keeps in memory.
    from sluicemq.broker.clustered import serve_clustered

    return await serve_clustered(
        directory,
        config,
        lambda: _listen(sockets, config),
        announce=_print_ready,
        version=VERSION,
        connections_max=_connections_max(config),
        disk_bytes=_disk_bytes(config),
    )


async def serve_alone(
    directory: Directory,
    config: BrokerConfig,
    sockets: list[socket.socket],
    *,
    disk_bytes: int | None = None,
    surroundings: Surroundings | None = None,
) -> int:
    """Open the log in *directory* and serve it until a signal comes, the scope is cancelled, or the log fails.

    Args:
        directory: Where all data are.
        config: Settings; `data` does not count.
        sockets: Bound, not listening.
        disk_bytes: Size of the file system; None where it is large enough not to matter.
        surroundings: By default this process.

    Returns:
        The exit code for a process.

    Raises:
        NotAlone: By its log, this broker belongs to a cluster; nothing was changed.
        StorageError: The directory cannot be opened; nothing was changed.
        OSError: Somebody else listens there.

    """
    options = LogOptions(segment_bytes=config.segment_bytes, spares_max=config.spares_max)
    log = SegmentLog.open(directory, options=options)
    try:
        # Beside the log, whose lock guards them too.
        pages = PageFile.open(directory, cluster_id=log.cluster_id)
        snapshots = SnapshotStore(directory, log.cluster_id)
        try:
            return await _serve_log(
                log,
                config,
                sockets,
                surroundings or Surroundings(),
                pages=pages,
                snapshots=snapshots,
                disk_bytes=disk_bytes,
            )
        finally:
            pages.close()
    finally:
        log.close()


def _disk_bytes(config: BrokerConfig) -> int:
    figures = os.statvfs(config.data)
    return figures.f_blocks * figures.f_frsize


async def _serve_log(
    log: SegmentLog,
    config: BrokerConfig,
    sockets: list[socket.socket],
    surroundings: Surroundings,
    *,
    pages: PageFile,
    snapshots: SnapshotStore,
    disk_bytes: int | None,
) -> int:
    failures: list[BaseException] = []
    failed = trio.Event()

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        failed.set()

    report = log.recovery
    if report.cut is not None:
        logger.warning(
            "recovery cut a torn tail of %d bytes from %s at offset %d: nothing proves that it was synced",
            report.cut.lost_bytes,
            report.cut.file,
            report.cut.offset,
        )
    road = LoneRoad(
        log,
        only_if_alone=True,
        node_id=config.node_id,
        cache_bytes_max=config.cache_bytes_max,
        on_failure=on_failure,
        pages=pages,
        index_memory_bytes_max=config.index_memory_bytes_max,
        disk_free_bytes_min=mark_of(config.disk_free_bytes_min, config.segment_bytes, disk_bytes),
        disk_bytes=disk_bytes,
        snapshots=snapshots,
        snapshot_every_bytes=config.snapshot_every_bytes,
        snapshot_every_entries=config.snapshot_every_entries,
        history_retention_seconds=config.history_retention_seconds,
        history_bytes_max=config.history_bytes_max,
        reclaim_bytes_per_second_max=config.reclaim_bytes_per_second_max,
        scrub_bytes_per_second=config.scrub_bytes_per_second,
        session_grace_seconds=config.session_grace_seconds,
        wall=surroundings.wall,
        monotonic=surroundings.monotonic,
    )
    logger.info("%s", road.restart)
    try:
        await _serve_road(road, config, sockets, failed, surroundings)
    finally:
        # On every way out: nobody but the log's thread may touch the log while it writes.
        with trio.CancelScope(shield=True):
            await road.stop()
    if failures:
        logger.critical("the broker stops, because it cannot go on safely: %s", failures[0])
        return EXIT_FAILED
    return EXIT_OK


async def _serve_road(
    road: LoneRoad,
    config: BrokerConfig,
    sockets: list[socket.socket],
    failed: trio.Event,
    surroundings: Surroundings,
) -> None:
    with surroundings.signals() as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_when_failed, failed, nursery.cancel_scope)
            await road.begin()
            nursery.start_soon(road.run)
            road.produce.message_bytes_max = config.message_bytes_max
            road.produce.batch_bytes_max = config.batch_bytes_max
            road.produce.batch_messages_max = config.batch_messages_max
            server = Server(road, config, VERSION, connections_max=_connections_max(config))
            listeners = _listen(sockets, config)
            host, port = listeners[0].socket.getsockname()[:2]
            server.cluster = Alone(road, config.node_id, config.advertise or f"{host}:{port}", VERSION)
            nursery.start_soon(server.run, listeners)
            surroundings.made(road, server)
            surroundings.ready(config.node_id, host, port)
            async for number in signals:
                logger.info("%s: stopping", signal.Signals(number).name)
                break
            nursery.start_soon(_pass_over, signals)
            for listener in listeners:
                await listener.aclose()
            await server.stop(config.drain_seconds)
            await road.write_down()
            nursery.cancel_scope.cancel()


def _raise_file_limit() -> None:
    """Let this process open as many files as the system allows it: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _connections_max(config: BrokerConfig) -> int:
    """Return how many connections leave enough files for the log: without those the broker would have to stop.

    Open are all segments behind the older of two snapshots, and of one interval more while the next is written; the
    spares; and as many old files as the log keeps open. Where snapshots are so rare that segments would take more than
    a quarter, connections get what is left.
    """
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return config.connections_max
    segments = 3 * -(-config.snapshot_every_bytes // config.segment_bytes) + config.spares_max
    possible = max(1, soft - FILES_RESERVED - LogOptions().live_open_max - min(segments, soft // 4))
    if possible < config.connections_max:
        logger.warning(
            "the limit of %d open files leaves room for %d connections instead of %d; raise it with ulimit -n",
            soft,
            possible,
            config.connections_max,
        )
    return min(config.connections_max, possible)


def _listen(sockets: list[socket.socket], config: BrokerConfig) -> list[trio.SocketListener]:
    """Let the bound *sockets* take connections."""
    try:
        for bound in sockets:
            bound.listen(BACKLOG)
    except OSError as error:
        # Bound is not taken: another process may have been first to listen, while the log was read.
        raise place.cannot_listen(config.host, config.port, error) from error
    return [trio.SocketListener(trio.socket.from_stdlib_socket(bound)) for bound in sockets]


async def _pass_over(signals: AsyncIterator[int]) -> None:
    """Take further signals and do nothing: one that nobody took would end the process before its log is closed."""
    async for number in signals:
        logger.info("%s: stopping already", signal.Signals(number).name)


async def _end_when_failed(failed: trio.Event, scope: trio.CancelScope) -> None:
    await failed.wait()
    scope.cancel()
