"""A cluster in one process: whole brokers without sockets, on simulated disks, with links that only hand messages over.

Messages become bytes and messages again on their way, as between processes.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.pipeline import peer_messages
from sluicemq.broker.pipeline.ensemble.ensemble import Ensemble
from sluicemq.broker.pipeline.ensemble.links import ReceivedSnapshot
from sluicemq.broker.pipeline.ensemble.premises import Premises
from sluicemq.broker.pipeline.ensemble.records import RecordBodies
from sluicemq.broker.replication.history import Position, show_zxid
from sluicemq.broker.replication.options import Options
from sluicemq.storage.options import LogOptions
from sluicemq.wire.frames import FrameReader
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.replication.effects import SendSnapshot
    from sluicemq.broker.replication.messages import Message
    from sluicemq.storage.log import SegmentLog
    from sluicemq.storage.record import Record
    from sluicemq.wire.errors import NotLeader

LOG_OPTIONS = LogOptions(segment_bytes=1 << 20, initial_bytes=1 << 16, spares_max=1)
OPTIONS = Options(
    finalize_seconds=0.05,
    notify_seconds_min=0.05,
    notify_seconds_max=0.2,
    ping_seconds=0.05,
    leader_seconds=WAIT_SECONDS,
    follower_seconds=1.5 * WAIT_SECONDS,
    own_disk_seconds=WAIT_SECONDS,
    snapshot_retry_seconds=0.1,
    transfer_seconds=WAIT_SECONDS,
)
"""All brokers are one process, which stands still for seconds where others take the processor: no leader may step down
for that, because nobody tells who waits for an answer of a leadership that has ended."""


class Network:
    """Who can hear whom. Connections come and go at once."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.nodes: dict[int, Node] = {}
        self.connections: dict[frozenset[int], int] = {}
        self._number = 0

    def started(self, node: Node) -> None:
        """A node is up: everybody connects to it."""
        for other in list(self.nodes.values()):
            self.connect(node, other)
        self.nodes[node.number] = node

    def connect(self, one: Node, other: Node) -> None:
        """Open a connection between the two."""
        self._number += 1
        number = self.connections[frozenset((one.number, other.number))] = self._number
        for here, there in ((one, other), (other, one)):
            here.soon(lambda here=here, there=there: here.ensemble.peer_up(there.ensemble.identity, number))  # type: ignore[misc]

    def ended(self, node: Node) -> None:
        """A node is gone: its connections are reset, and nobody listens there."""
        del self.nodes[node.number]
        for other in self.nodes.values():
            number = self.connections.pop(frozenset((node.number, other.number)), None)
            if number is not None:
                other.soon(lambda other=other, number=number: other.ensemble.peer_down(node.number, number))  # type: ignore[misc]
            other.soon(lambda other=other: other.ensemble.peer_refused(node.number))  # type: ignore[misc]


class Node:
    """One broker. It is its own `Links`."""

    def __init__(self, network: Network, number: int, disk: SimulatedDisk, seeds: Mapping[int, str]) -> None:
        self.network = network
        self.number = number
        self.disk = disk
        self.failures: list[BaseException] = []
        self.roads: list[Road | None] = []
        self.reasons: list[NotLeader] = []
        self.changed = trio.Event()
        premises = Premises(
            disk,
            LOG_OPTIONS,
            node_id=number,
            cache_bytes_max=1 << 20,
            snapshot_every_bytes=64 * 1024,
            snapshot_every_entries=200,
        )
        self.ensemble = Ensemble(
            premises,
            node=number,
            address=seeds.get(number, f"node-{number}:7650"),
            seeds=seeds,
            on_failure=self.failures.append,
            options=network.options,
        )
        self.ensemble.on_road = self._road
        self.ensemble.on_leader = self._change
        self._token = trio.lowlevel.current_trio_token()
        self._up = False
        self._scope = trio.CancelScope()
        self._gone = trio.Event()
        self.known_addresses: Mapping[int, str] = {}
        self.snapshots_forgotten = 0

    @property
    def road(self) -> Road | None:
        return self.ensemble.road

    @property
    def led(self) -> Road:
        """The road of the leader that it is."""
        assert self.ensemble.road is not None, f"broker {self.number} does not lead"
        return self.ensemble.road

    def _road(self, road: Road | None, reason: NotLeader | None) -> None:
        self.roads.append(road)
        if reason is not None:
            self.reasons.append(reason)
        self._change()

    def _change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds."""
        with trio.fail_after(WAIT_SECONDS):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in threads too
                await trio.sleep(0.01)

    def story(self) -> str:
        """Return how it is, for who wonders why something does not come."""
        replica, ground, reasons = self.ensemble.replica, self.ensemble.ground, [str(reason) for reason in self.reasons]
        text = f"node {self.number}: {replica.role.value}, {replica.phase.value}, leader {replica.leader}, log to "
        text += f"{show_zxid(replica.last.zxid)}, durable {show_zxid(replica.durable_zxid)}, "
        text += f"committed {show_zxid(replica.committed_zxid)}, led {len(self.roads)} times, it ended for {reasons}"
        if ground is not None:
            text += f", applied {show_zxid(ground.machine.applied_zxid)}, {len(ground.commit)} entries wait"
        return f"{text}, failures {self.failures}"

    def soon(self, action: Callable[[], None]) -> None:
        """Let something happen, unless the node is gone by then."""
        self._token.run_sync_soon(lambda: action() if self._up else None)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.ensemble.run, self)
                    self._up = True
                    self.network.started(self)
                    task_status.started()
        finally:
            self._up = False
            if self.network.nodes.get(self.number) is self:
                self.network.ended(self)
            with trio.CancelScope(shield=True):
                await self.ensemble.stop()
            self._gone.set()

    async def stop(self) -> None:
        """End in good order."""
        self._scope.cancel()
        await self._gone.wait()

    # --- Links --------------------------------------------------------------------------------------------------------

    def send(self, peer: int, message: Message) -> None:
        number = self.network.connections.get(frozenset((self.number, peer)))
        if number != message.connection:
            return
        packed = peer_messages.pack_peer_message(message, RecordBodies())
        data = b"".join([packed.head, *packed.tail])
        other = self.network.nodes[peer]
        other.soon(lambda: other.hear(self.number, number, data))

    def hear(self, peer: int, number: int, data: bytes) -> None:
        if self.network.connections.get(frozenset((self.number, peer))) == number:
            self.ensemble.received(peer, unpacked(data))

    def flush(self) -> None:
        pass

    def identity_changed(self) -> None:
        for other in self.network.nodes.values():
            if other is not self:
                other.soon(lambda other=other: other.ensemble.peer_named(self.ensemble.identity))  # type: ignore[misc]

    def forget_snapshots(self) -> None:
        self.snapshots_forgotten += 1

    def connect_to(self, addresses: Mapping[int, str]) -> None:
        self.known_addresses = dict(addresses)

    def send_snapshot(self, effect: SendSnapshot) -> None:
        other = self.network.nodes.get(effect.peer)
        stores = self.ensemble.stores
        snapshot = stores.snapshots.newest_good()
        if other is None or snapshot is None or snapshot.zxid < effect.start_zxid:
            stores.want_snapshot()
            self.soon(lambda: self.ensemble.snapshot_failed(effect.peer, effect.session, "there is none"))
            return
        with snapshot:
            position = Position(snapshot.zxid, snapshot.chain)
            data = self.disk.content_of(f"snapshot-{snapshot.zxid:016x}")
        records = records_up_to(stores.log, position.zxid)
        known = stores.configuration_at(position.zxid)
        assert known is not None

        def take() -> None:
            assert other is not None
            installation = other.ensemble.log.begin_installation(position.zxid, position.chain, bytes(16))
            installation.add_entries(records)
            installation.add_snapshot(0, data)
            installation.finish()
            other.ensemble.snapshot_received(
                ReceivedSnapshot(self.number, effect.epoch, effect.session, position, known[1], known[0], installation)
            )

        other.soon(take)


def records_up_to(log: SegmentLog, zxid: int) -> list[Record]:
    """Return every entry that is left on the disk up to *zxid*: what is alive, and more."""
    found = [record for file in log.live_files() for record in log.walk_live(file)]
    place = log.start_zxid
    while records := log.read_after(place):
        found += records
        place = records[-1].zxid
    return [record for record in found if record.zxid <= zxid]


def unpacked(data: bytes) -> Message:
    """Return the message that a frame holds."""
    (frame,) = FrameReader(1 << 26).feed(data)
    return peer_messages.unpack_peer_message(frame.type, frame.head, frame.tail, RecordBodies())


class Cluster:
    """Several brokers."""

    def __init__(self, count: int, nursery: trio.Nursery, options: Options) -> None:
        self.seeds = {number: f"node-{number}:7650" for number in range(1, count + 1)}
        self.network = Network(options)
        self.nodes: dict[int, Node] = {}
        self.disks: dict[int, SimulatedDisk] = {}
        self.disks_made = 0
        self._nursery = nursery

    async def start(self, number: int, *, listed: bool = True) -> Node:
        """Start a broker on its disk, or on an empty one."""
        disk = self.disks.get(number)
        self.disks_made += disk is None
        disk = self.disks[number] = SimulatedDisk(self.disks_made) if disk is None else disk.restart()
        node = self.nodes[number] = Node(self.network, number, disk, self.seeds if listed else {})
        await self._nursery.start(node.run)
        return node

    async def stop(self, number: int) -> None:
        """End a broker."""
        await self.nodes.pop(number).stop()

    async def leader(self) -> Node:
        """Return who leads and serves, once somebody does."""
        with trio.fail_after(WAIT_SECONDS):
            while True:
                for node in self.nodes.values():
                    assert not node.failures, node.failures
                    if node.road is not None:
                        return node
                await trio.sleep(0.01)

    async def agree(self) -> None:
        """Wait until all that run have applied the same."""
        with trio.fail_after(WAIT_SECONDS):
            while True:
                for node in self.nodes.values():
                    assert not node.failures, node.failures
                grounds = [node.ensemble.ground for node in self.nodes.values()]
                applied = {ground and ground.machine.applied_zxid for ground in grounds}
                if (
                    len(applied) == 1
                    and None not in applied
                    and applied == {node.ensemble.replica.last.zxid for node in self.nodes.values()}
                ):
                    break
                await trio.sleep(0.01)
        hashes = {ground.machine.state_hash() for ground in grounds if ground is not None}
        assert len(hashes) == 1, "equal logs make equal states"


@asynccontextmanager
async def open_cluster(count: int = 3, options: Options = OPTIONS) -> AsyncIterator[Cluster]:
    """Run a cluster of so many brokers, all started on empty disks."""
    async with trio.open_nursery() as nursery:
        cluster = Cluster(count, nursery, options)
        try:
            for number in cluster.seeds:
                await cluster.start(number)
            yield cluster
        except BaseException as error:
            for node in cluster.nodes.values():
                error.add_note(node.story())
            raise
        finally:
            for number in list(cluster.nodes):
                with trio.CancelScope(shield=True):
                    await cluster.stop(number)
