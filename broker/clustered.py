"""One broker process of a cluster: opens its directory, connects to the others, and serves while it leads.

The life of `sluicemq serve --peers`, beside `node`, which is a broker on its own. Clients are accepted as long as the
process lives; whoever asks while another broker leads is told which.
"""

from __future__ import annotations

import gc
import logging
import signal
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.pipeline.ensemble.administration import Administration
from sluicemq.broker.pipeline.ensemble.ensemble import Ensemble
from sluicemq.broker.pipeline.ensemble.leaderless import Leaderless
from sluicemq.broker.pipeline.ensemble.premises import Premises
from sluicemq.broker.pipeline.ensemble.records import RecordBodies
from sluicemq.broker.pipeline.keeping.disk_space import mark_of
from sluicemq.broker.server.listener import Server
from sluicemq.broker.server.peers.mesh import PeerMesh
from sluicemq.storage import LogOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.config import BrokerConfig
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.storage.files import Directory
    from sluicemq.wire.errors import NotLeader

logger = logging.getLogger("sluicemq.node")

LOOK_SECONDS = 5.0
"""So often somebody looks whether there is a leader, to say so where there is none for long."""
MESSAGE_ROOM_BYTES = 2 * 1024 * 1024
"""What a message between brokers may have beside its largest entry."""


async def serve_clustered(
    directory: Directory,
    config: BrokerConfig,
    listen: Callable[[], list[trio.SocketListener]],
    *,
    announce: Callable[[int, str, int], None],
    version: str,
    connections_max: int,
    disk_bytes: int | None = None,
) -> int:
    """Take part in a cluster until a signal comes, the scope is cancelled, or the broker cannot go on.

    Args:
        directory: The data directory.
        config: Settings.
        listen: Lets the bound sockets take connections.
        announce: Told number, host and port once clients can connect.
        version: Version of this broker.
        connections_max: Most connections of clients.
        disk_bytes: Size of the file system; None: large enough.

    Returns:
        The exit code of the process.

    Raises:
        StorageError: The directory cannot be opened.

    """
    failures: list[BaseException] = []
    failed = trio.Event()

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        failed.set()

    options = LogOptions(segment_bytes=config.segment_bytes, spares_max=config.spares_max)
    premises = Premises(
        directory,
        options,
        node_id=config.node_id,
        cache_bytes_max=config.cache_bytes_max,
        index_memory_bytes_max=config.index_memory_bytes_max,
        disk_free_bytes_min=mark_of(config.disk_free_bytes_min, config.segment_bytes, disk_bytes),
        disk_bytes=disk_bytes,
        snapshot_every_bytes=config.snapshot_every_bytes,
        snapshot_every_entries=config.snapshot_every_entries,
        history_retention_seconds=config.history_retention_seconds,
        history_bytes_max=config.history_bytes_max,
        reclaim_bytes_per_second_max=config.reclaim_bytes_per_second_max,
        scrub_bytes_per_second=config.scrub_bytes_per_second,
        session_grace_seconds=config.session_grace_seconds,
    )
    ensemble = Ensemble(
        premises, node=config.node_id, address=config.address, seeds=config.peers, on_failure=on_failure
    )
    administration = Administration(ensemble, version)
    frame_bytes_max = config.segment_bytes // 2 + MESSAGE_ROOM_BYTES
    mesh = PeerMesh(
        ensemble,
        RecordBodies(),
        frame_bytes_max=frame_bytes_max,
        server_version=version,
        own_figures=lambda: administration.figures,
    )
    administration.neighbours = mesh
    assert ensemble.ground is not None, "it was just opened"
    server = Server(None, config, version, connections_max=connections_max, ground=ensemble.ground)
    server.peers = mesh
    server.cluster = administration
    # What a turn brings forth leaves with its end, whether for clients or for other brokers.
    server.hub.lead(mesh.hub)
    mesh.hub.lead(ensemble.disk)
    server.not_leader = ensemble.not_leader
    server.undecided_until = lambda: ensemble.undecided_until
    ensemble.on_leader = server.leader_changed
    server.brokers = lambda: dict(sorted(ensemble.addresses.items())).values()
    ensemble.on_addresses = server.tell_brokers
    ensemble.on_ground = server.use
    ensemble.on_road = lambda road, reason: _road_changed(server, road, reason)
    try:
        await _serve(ensemble, mesh, server, config, listen, failed, announce)
    finally:
        # On every way out: nobody but the log's thread may touch the log while it writes.
        with trio.CancelScope(shield=True):
            await ensemble.stop()
    if failures:
        logger.critical("the broker stops, because it cannot go on safely: %s", failures[0])
        return 1
    return 0


def _road_changed(server: Server, road: Road | None, reason: NotLeader | None) -> None:
    if road is not None:
        server.lead(road)
    else:
        assert reason is not None, "a road ends for a reason"
        server.stop_leading(reason)


async def _serve(
    ensemble: Ensemble,
    mesh: PeerMesh,
    server: Server,
    config: BrokerConfig,
    listen: Callable[[], list[trio.SocketListener]],
    failed: trio.Event,
    announce: Callable[[int, str, int], None],
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_when_failed, failed, nursery.cancel_scope)
            await nursery.start(ensemble.run, mesh)
            nursery.start_soon(mesh.run)
            nursery.start_soon(_tell_while_nobody_leads, ensemble, mesh)
            listeners = listen()
            nursery.start_soon(server.run, listeners)
            gc.freeze()
            host, port = listeners[0].socket.getsockname()[:2]
            announce(config.node_id, host, port)
            async for number in signals:
                logger.info("%s: stopping", signal.Signals(number).name)
                break
            with trio.move_on_after(config.drain_seconds):
                await ensemble.hand_over()
            for listener in listeners:
                await listener.aclose()
            await server.stop(config.drain_seconds)
            await ensemble.write_down()
            nursery.cancel_scope.cancel()


async def _end_when_failed(failed: trio.Event, scope: trio.CancelScope) -> None:
    await failed.wait()
    scope.cancel()


async def _tell_while_nobody_leads(ensemble: Ensemble, mesh: PeerMesh) -> None:
    """Say in the log what is missing while nobody leads for long, until cancelled."""
    leaderless = Leaderless()
    while True:
        await trio.sleep(LOOK_SECONDS)
        there = {ensemble.node, *mesh.reachable()}
        said = leaderless.look(trio.current_time(), ensemble.leader, ensemble.replica.configuration, there)
        if said is not None:
            logger.warning("%s", said)
