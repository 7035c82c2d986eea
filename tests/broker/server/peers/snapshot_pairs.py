"""Two brokers of which one sends the other its snapshot: a leader with a road, and a learner with an empty log.

The leader's queue is long, part of its index lies on pages, and most of what was published is dealt with. The learner's
side of the driver is done by hand: it switches when the snapshot has come, and starts as a broker does.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import trio

from sluicemq.broker.pipeline.road import LoneRoad
from sluicemq.broker.replication.effects import SendSnapshot
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.storage.installing import discard_incoming
from sluicemq.storage.log import SegmentLog
from sluicemq.storage.options import LogOptions
from sluicemq.storage.pagefile import PageFile
from sluicemq.storage.snapshots import SnapshotStore
from sluicemq.wire.batch import encode_batch
from tests.broker.pipeline.roads import Client, ask, declare, open_producer, publish, running
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.broker.server.peers.pair import Node

OPTIONS = LogOptions(segment_bytes=64 << 10, initial_bytes=64 << 10, spares_max=0)
CLUSTER = b"one cluster of 3"
NEVER = 1 << 40
VOTERS = Configuration(frozenset(Member(node, b"%016d" % node) for node in (1, 2, 3)))
EPOCH, SESSION = 3, 9


class Keep:
    """`Stores` of one broker.

    Attributes:
        held: How often they are held right now.
        wanted: How often somebody wanted a newer snapshot.

    """

    def __init__(self, log: SegmentLog, snapshots: SnapshotStore, pages: PageFile) -> None:
        self.log = log
        self.snapshots = snapshots
        self.pages = pages
        self.held = 0
        self.wanted = 0
        self.installing = False

    @contextmanager
    def hold(self) -> Iterator[None]:
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    def configuration_at(self, zxid: int) -> tuple[int, Configuration] | None:
        return (zxid - 1, VOTERS)

    def want_snapshot(self) -> None:
        self.wanted += 1

    def forget_incoming(self) -> None:
        discard_incoming(self.log._directory)


@asynccontextmanager
async def leading_road(disk: SimulatedDisk) -> AsyncIterator[LoneRoad]:
    """Run the leader's road."""
    log = SegmentLog.open(disk, options=OPTIONS, cluster_id=CLUSTER)
    pages = PageFile.open(disk, cluster_id=log.cluster_id)
    failures: list[BaseException] = []
    road = LoneRoad(
        log,
        node_id=1,
        cache_bytes_max=1 << 20,
        on_failure=failures.append,
        pages=pages,
        snapshots=SnapshotStore(disk, log.cluster_id),
        snapshot_every_bytes=NEVER,
        snapshot_every_entries=NEVER,
        index_memory_bytes_max=1,
    )
    try:
        async with running(road):
            yield road
        assert not failures, failures
    finally:
        log.close()
        pages.close()


def stores_of(road: LoneRoad) -> Keep:
    """Return the leader's stores."""
    ground = road.ground
    assert ground.snapshots is not None
    assert ground.pager is not None
    return Keep(ground.log, ground.snapshots._store, ground.pager._pages)


async def trade(road: LoneRoad, batches: int, keep: int = 10, body_bytes: int = 100) -> dict[bytes, None]:
    """Publish *batches* of ten messages and deal with all but every *keep*-th; return the bodies of those."""
    try:
        queue = road.produce.find_queue("/", "orders")
    except Exception:
        queue = await declare(road)
    producer = await open_producer(road)
    bodies = [b"%d.%d" % (producer, number) + bytes(body_bytes) for number in range(10 * batches)]
    for sequence in range(1, batches + 1):
        await publish(road, producer, sequence, bodies[10 * sequence - 10 : 10 * sequence])
    client = await Client(road).open()
    consumer = client.consume(queue, credit=100_000)
    state = road.machine.queue(queue.id)
    assert state is not None
    mine = set(bodies)
    fresh = [message for message in await client.take(state.messages) if message.body in mine]
    done = [message for place, message in enumerate(fresh) if place % keep]
    for start in range(0, len(done), 1_000):
        await client.settle(consumer, [message.tag for message in done[start : start + 1_000] for _ in range(2)])
    client.leave()
    with trio.fail_after(WAIT_SECONDS):
        await road.wait_idle()
    return dict.fromkeys(message.body for place, message in enumerate(fresh) if place % keep == 0)


async def backlog(road: LoneRoad, messages: int) -> list[bytes]:
    """Publish *messages* one by one, which nobody takes, and return their bodies."""
    producer = await open_producer(road)
    bodies = [b"waiting %d" % number for number in range(messages)]
    for sequence, body in enumerate(bodies, start=1):
        payload = memoryview(encode_batch([body]))
        road.produce.publish("/", "anonymous", "orders", producer, sequence, payload, lambda _outcome: None)
        if sequence % 500 == 0:
            await road.wait_idle()
    return bodies


async def left_in(disk: SimulatedDisk) -> list[bytes]:
    """Return what is delivered of the queue by a broker that starts on *disk*."""
    async with leading_road(disk) as road:
        client = await Client(road).open()
        queue = road.produce.find_queue("/", "orders")
        state = road.machine.queue(queue.id)
        assert state is not None
        client.consume(queue, credit=100_000)
        bodies = [message.body for message in await client.take(state.messages)]
        client.leave()
        return bodies


async def snapshot(road: LoneRoad) -> int:
    """Take a snapshot of everything and return what it covers."""
    assert road.ground.snapshots is not None
    await ask(road.produce.declare_queue, "/", "marker", {})
    with trio.fail_after(WAIT_SECONDS):
        await road.wait_idle()
        info = await road.ground.snapshots.take()
    assert info is not None
    return info.zxid


class Learner:
    """The other side's files."""

    def __init__(self, seed: int = 2) -> None:
        self.disk = SimulatedDisk(seed)
        self.stores = self.open()

    def open(self) -> Keep:
        log = SegmentLog.open(self.disk, options=OPTIONS, cluster_id=CLUSTER)
        pages = PageFile.open(self.disk, cluster_id=CLUSTER)
        return Keep(log, SnapshotStore(self.disk, CLUSTER), pages)

    def close(self) -> None:
        self.stores.log.close()
        self.stores.pages.close()

    def install(self, received: Any) -> None:
        """Put what was received in the place of the log, and start."""
        self.close()
        received.installation.switch()
        self.stores = self.open()


def send(node: Node, peer: int, start_zxid: int = 0) -> None:
    """Ask for what the core asks for."""
    connection = node.mesh.connection_to(peer)
    assert connection is not None
    node.mesh.send_snapshot(SendSnapshot(peer, connection.number, EPOCH, SESSION, start_zxid))
