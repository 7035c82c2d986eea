"""A broker of an ensemble, put together: ground, driver, links, and the road while it leads.

What lives as long as the process: the core and its driver. What may be another object after a snapshot was installed,
or a cluster joined: the ground, with log and machine. What lives for one leadership: the road.

The rules for leaderships: a road begins when its epoch's own entry is applied, hence everything confirmed before; it
ends in the moment in which the core says so, before anything else happens. This module must not know
clients or sockets.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.pipeline.ensemble.backlog import Backlog
from sluicemq.broker.pipeline.ensemble.configurations import check_own_disk, configuration_of
from sluicemq.broker.pipeline.ensemble.disk_queue import DiskQueue
from sluicemq.broker.pipeline.ensemble.driver import Driver, EnsembleOrder
from sluicemq.broker.pipeline.ensemble.hearing import Hearing
from sluicemq.broker.pipeline.ensemble.links import Identity
from sluicemq.broker.pipeline.ensemble.reading_on import ReadingOn
from sluicemq.broker.pipeline.ensemble.records import log_time_of
from sluicemq.broker.pipeline.ensemble.state_hashes import dump_of, state_hash
from sluicemq.broker.pipeline.ensemble.stores import EnsembleStores
from sluicemq.broker.pipeline.ensemble.view import View
from sluicemq.broker.pipeline.road import Road
from sluicemq.broker.queues.entries_of_cluster import NodeAddress
from sluicemq.broker.replication import effects as fx
from sluicemq.broker.replication import events as ev
from sluicemq.broker.replication.history import Position, zxid_of
from sluicemq.broker.replication.membership import Member
from sluicemq.broker.replication.messages import Phase, Propose, Role
from sluicemq.broker.replication.replica import Replica
from sluicemq.storage.errors import StorageError
from sluicemq.wire.errors import InternalError, NotLeader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sluicemq.broker.pipeline.ensemble.links import Links, ReceivedSnapshot
    from sluicemq.broker.pipeline.ensemble.premises import Premises
    from sluicemq.broker.pipeline.ground import Ground
    from sluicemq.broker.replication.history import Entry
    from sluicemq.broker.replication.messages import Message
    from sluicemq.broker.replication.options import Options
    from sluicemq.storage.log import SegmentLog

logger = logging.getLogger("sluicemq.ensemble")

READ_BACK_BYTES = 4 * 1024 * 1024
"""Bytes of committed entries that are read from the log at once."""
TRANSFER_SECONDS = 2.0
"""How long a leader that stops tries to hand over the lead."""
UNDECIDED_SECONDS = 0.5
"""An election is likely to be over by then: who asks for the leader meanwhile is let wait instead of sent away."""


class Ensemble:
    """See the module. It is what the links tell (`LinkEvents`), and the driver's host.

    Args:
        premises: The data directory; not open yet.
        node: Number of this broker.
        address: `host:port` under which the others reach it.
        seeds: `host:port` of the brokers that were named at the start, by number, this one among them; empty for a
            broker that joins a cluster which knows it.
        on_failure: Called in the event loop when the broker cannot go on; the process must end.
        options: Limits and times of the core.

    Attributes:
        ground: Log and machine at the moment; None while they are exchanged.
        disk: The disk's queue.
        road: The present leadership, once it serves.
        on_addresses: Called when a broker became known, or is reached elsewhere.
        on_road: Called with each road when it begins to serve, and with None and the reason when it has ended.
        on_leader: Called when another broker leads, or none, or the lead became known.
        on_ground: Called with each new ground, the first one too.

    Raises:
        StorageError: The directory cannot be opened.
        NodeMismatch: It is that of another node.

    """

    def __init__(
        self,
        premises: Premises,
        *,
        node: int,
        address: str,
        seeds: Mapping[int, str],
        on_failure: Callable[[BaseException], None],
        options: Options | None = None,
    ) -> None:
        self.node = node
        self.address = address
        self._seeds = dict(seeds)
        self._premises = premises
        self.stores = EnsembleStores(self, premises)
        self._on_failure = on_failure
        self._options = options
        self.road: Road | None = None
        self.on_addresses: Callable[[], None] = lambda: None
        self.on_road: Callable[[Road | None, NotLeader | None], None] = lambda road, reason: None
        self.on_leader: Callable[[], None] = lambda: None
        self._looking_since = -inf
        self._reading_on = ReadingOn()
        self.on_ground: Callable[[Ground], None] = lambda ground: None
        self.ground: Ground | None = None
        self.peers: dict[int, Identity] = {}
        self.reason = "started"
        self._links: Links
        self._received: ReceivedSnapshot | None = None
        self.exchanging = False
        self._leading: trio.CancelScope | None = None
        self._keeping: trio.CancelScope | None = None
        self._kept = trio.Event()
        self._told_addresses: dict[int, str] | None = None
        self._founded = self._forgetting_damaged = False
        self.hearing = Hearing()
        self._missing = trio.Event()
        self._reading = trio.CancelScope()
        self._nursery: trio.Nursery
        self._over = False

        ground = premises.open_first(self.fail)
        self._incarnation = ground.log.incarnation
        self._cluster_id = ground.log.superblock.current.known_as
        self._damaged = bool(ground.log.superblock.current.damaged_from)
        view = self.view = View(ground.log, configuration_of(ground.machine.cluster), ground.machine.applied_zxid)
        try:
            latest = view.configuration_at(view.last.zxid)
            check_own_disk(latest[1] if latest is not None else None, Member(node, self._incarnation))
        except BaseException:
            premises.close()
            raise
        found = {node: where for node, where in view.addresses.items() if where}
        self._hints = {**found, **self._seeds}
        self._backlog = Backlog(ground.machine.applied_zxid)
        self.disk = DiskQueue(ground.append, ground.log, lambda token: self.driver.persisted(token))
        ground.restart.replayed_entries, ground.restart.replayed_bytes = view.behind_entries, view.behind_bytes
        if ground.snapshots is not None:
            ground.snapshots.began_behind(view.behind_entries, view.behind_bytes, view.last.zxid)
        self._settle_in(ground)
        self.replica = Replica(
            Member(node, self._incarnation),
            sorted(self._seeds),
            ground.log.promised_epoch,
            self.view,
            options,
            damaged_from=ground.log.superblock.current.damaged_from or None,
        )
        self._founded = self._is_founded()

    # --- life ---------------------------------------------------------------------------------------------------------

    async def run(self, links: Links, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part, until cancelled. Call `stop` afterwards."""
        self._links = links
        self.driver = Driver(self.replica, self.view, self._backlog, self.disk, links, self)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._note_end)
            ground = self._ground
            ground.start()
            nursery.start_soon(self._keep)
            nursery.start_soon(self.driver.run)
            nursery.start_soon(self._read_back)
            self._tell_addresses()
            self.driver.start()
            task_status.started()

    async def _note_end(self) -> None:
        """Note that nothing may begin any more, before the nursery is closed."""
        try:
            await trio.sleep_forever()
        finally:
            self._over = True

    async def hand_over(self) -> None:
        """Give the lead to another broker, if this one leads and another could: for an orderly stop."""
        if self.replica.role is not Role.LEADING:
            return
        learners = self.replica.learners
        best = sorted(learners, key=lambda peer: (learners[peer].acknowledged_zxid, peer), reverse=True)
        with trio.move_on_after(TRANSFER_SECONDS):
            for peer in best:
                asked = self.driver.ask(lambda asked, peer=peer: ev.TransferLeadership(asked, peer))  # type: ignore[misc]
                await asked.done.wait()
                if asked.error is None:
                    await self.driver.until(lambda: self.replica.role is not Role.LEADING)
                    return
                logger.info("node %d does not take over: %s", peer, asked.error)

    async def write_down(self) -> None:
        """Take a snapshot, so that the next start has little to apply."""
        ground = self.ground
        if ground is not None and ground.snapshots is not None and not ground.failed:
            try:
                await ground.snapshots.take()
            except Exception as error:  # noqa: BLE001 - a failing disk must show in the exit code
                self.fail(error)

    async def stop(self) -> None:
        """End the log's thread and close the directory."""
        if self.ground is not None:
            await self.ground.stop()
        await trio.to_thread.run_sync(self._premises.close)

    def fail(self, error: BaseException) -> None:
        """This broker cannot go on: nothing is applied or confirmed from here on."""
        if self.ground is not None:
            self.ground.failed = True
        self._on_failure(error)

    @property
    def _ground(self) -> Ground:
        assert self.ground is not None, "there is a ground but while it is exchanged"
        return self.ground

    def _settle_in(self, ground: Ground) -> None:
        """This is the ground from now on."""
        self.ground = ground
        ground.commit = self._backlog
        ground.on_durable = lambda _zxid: self.disk.durable()
        ground.on_log_begins = self._log_begins
        ground.needed_by_others = lambda: self._reading_on.needed_after(self.replica, self.view.start.zxid)
        ground.on_hash_due = self._hash
        ground.is_blocked = lambda: self.driver.held > 0
        self.on_ground(ground)

    async def _keep(self) -> None:
        """Keep the ground in order until it is exchanged or this is cancelled."""
        self._kept = trio.Event()
        try:
            with trio.CancelScope() as self._keeping:
                await self._ground.run()
        finally:
            self._kept.set()

    # --- what the driver leaves to us ---------------------------------------------------------------------------------

    def advance(self) -> None:
        """Apply what is committed."""
        if self.exchanging:
            return
        self._ground.advance()
        self._after_applying()

    def again(self) -> None:
        """Apply what is committed soon."""
        if not self.exchanging:
            self._ground.again()

    def _after_applying(self) -> None:
        if self._backlog.missing() is not None:
            self._missing.set()
        if self._ground.machine.cluster.addresses != self._told_addresses:
            self._tell_addresses()

    async def _read_back(self) -> None:
        """Read committed entries that are not in memory, and apply them, until cancelled."""
        while True:
            wanted = None if self.exchanging else self._backlog.missing()
            if wanted is None:
                self._missing = trio.Event()
                await self._missing.wait()
                continue
            with trio.CancelScope() as self._reading:
                await self._read_back_some(*wanted)

    async def _read_back_some(self, after: int, upto: int) -> None:
        ground = self._ground
        try:
            records = await trio.to_thread.run_sync(ground.log.read_after, after, READ_BACK_BYTES)
        except StorageError as error:
            if ground is self.ground and not self.exchanging:
                self.fail(error)
                await trio.sleep_forever()
            return
        if ground is not self.ground or self.exchanging or not records:
            return
        self._backlog.fill(after, [record for record in records if record.zxid <= upto])
        ground.advance()
        await ground.wait_applied(min(records[-1].zxid, upto))
        self._after_applying()

    def repaired(self) -> None:
        """The log holds again all that it ever acknowledged: once that is noted, what was set aside has served."""
        if not self._forgetting_damaged:  # noted once more, where a new epoch came between
            self._forgetting_damaged = True
            self._nursery.start_soon(self._forget_damaged)

    async def _forget_damaged(self) -> None:
        await self.driver.until(lambda: self.replica.damaged_from is None)
        self._damaged = False
        try:
            await trio.to_thread.run_sync(self._premises.forget_damaged)
        except OSError as error:
            logger.warning("what was set aside of a damaged log stays: %s", error)

    def role_changed(self, effect: fx.RoleChanged) -> None:
        """This broker is something else now: a leadership ends at once, and begins when it can."""
        leader = "nobody" if effect.leader is None else f"node {effect.leader}"
        what = f"{effect.role.value}, {effect.phase.value} in epoch {effect.epoch} of {leader}"
        logger.info("%s: %s", what, effect.reason)
        self.reason = effect.reason
        if effect.role is Role.LOOKING:
            self._looking_since = trio.current_time()
        if self._leading is not None:
            self._end_leading(effect)
        if effect.role is Role.LEADING and effect.phase is Phase.BROADCAST:
            self._leading = trio.CancelScope()
            self._nursery.start_soon(self._lead, effect.epoch, self._leading)
        if effect.phase is Phase.BROADCAST:
            self._links.forget_snapshots()
        joins = effect.phase in (Phase.SYNCHRONIZATION, Phase.BROADCAST) and effect.leader not in (None, self.node)
        if joins and not self._founded:
            assert effect.leader is not None
            self._join_cluster_of(effect.leader)
        self.on_leader()

    def _end_leading(self, effect: fx.RoleChanged) -> None:
        assert self._leading is not None
        self.hearing.leader_at = trio.current_time()  # until now it was this broker itself
        self._leading.cancel()
        self._leading = None
        ground = self._ground
        if ground.road is not None:
            self.hearing.said(ground.road.epoch, ground.road.clock.now_ms(), ground.monotonic())
            ground.road.end()
        self._backlog.forget_waiters()
        if self.road is not None:
            self.road = None
            self._links.flush()  # the others hear of it before clients knock at their doors
            leader, address = self.leader, self.addresses.get(self.leader or 0, "")
            reason = f"this broker no longer leads: {effect.reason}"
            self.on_road(None, NotLeader(reason, leader=leader, address=address))

    async def _lead(self, epoch: int, scope: trio.CancelScope) -> None:
        with scope:
            ground = self._ground
            await ground.wait_applied(zxid_of(epoch, 0))
            if scope.cancel_called:
                return
            ground.heard = self.hearing.log_time
            road = Road(ground, EnsembleOrder(self.driver, epoch))
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(road.run)
                    await road.begin()
                    # Whoever was already to be woken is, though the leadership ended and this is cancelled meanwhile.
                    if not road.over:
                        self._serve_on(road)
            except* NotLeader:
                if not road.over:
                    raise

    def _serve_on(self, road: Road) -> None:
        self.road = road
        self._note_address(self.node, self.address)
        for peer in self.peers.values():
            self._note_address(peer.node, peer.address)
        self.on_road(road, None)

    def first_entry(self) -> None:
        """The log is not empty any more: this broker belongs to its cluster for good."""
        self._founded = True
        self._nursery.start_soon(self._tell_identity)

    async def _tell_identity(self) -> None:
        await trio.lowlevel.checkpoint()  # the driver is in the middle of a step
        self._links.identity_changed()

    def alarm(self, reason: str) -> None:
        """Tell an operator."""
        logger.error("%s", reason)

    def fatal(self, effect: fx.Fatal) -> None:
        """End the process, with a dump of the state if that is what is wrong."""
        text = f"{effect.reason} ({effect.cause.value})"
        if effect.cause is fx.Cause.STATE:
            text += f"; the state is in {dump_of(self._ground.machine, self._premises.directory)}"
        self.fail(InternalError(text))

    def _hash(self, zxid: int) -> None:
        self.driver.event(ev.StateHashed(state_hash(self._ground.machine, zxid)))

    def _log_begins(self) -> None:
        log = self._ground.log
        self.view.begin_at(Position(log.start_zxid, log.chain_at(log.start_zxid)))

    def _is_founded(self) -> bool:
        return self.view.last.zxid > 0 or self._damaged

    # --- another ground -----------------------------------------------------------------------------------------------

    def install(self, effect: fx.InstallSnapshot) -> None:
        """Put the received snapshot in the place of log and state."""
        received = self._received
        assert received is not None, "a snapshot is installed that was never received"
        assert received.position == effect.position, "another snapshot than the last is installed"
        self._founded = True
        self.view.install(effect.position, (received.configuration_zxid, received.configuration))
        self._backlog.install(effect.position.zxid)

        def switch() -> None:
            received.installation.switch()

        def done() -> None:
            self._received = None
            self.driver.persisted(effect.token)
            self._links.identity_changed()

        self._exchange(switch, done)

    def _join_cluster_of(self, leader: int) -> None:
        """Belong to the cluster of the leader, before the first entry."""
        peer = self.peers.get(leader)
        if peer is None or peer.cluster_id == self._cluster_id or self.view.last.zxid:
            return
        cluster_id = peer.cluster_id
        logger.info("joining cluster %s of node %d", cluster_id.hex(), leader)
        self._cluster_id = cluster_id
        self._exchange(lambda: self._premises.join(cluster_id), lambda: self._links.identity_changed())

    def _exchange(self, change: Callable[[], None], done: Callable[[], None]) -> None:
        """Close everything in the directory, change it, open it again; behind what the disk has to do before."""

        def begin() -> None:
            if not self._over:  # else the disk came to rest behind the end of this broker, and all stays as it is
                self._nursery.start_soon(self._exchange_now, change, done)

        self.disk.suspend(begin)

    async def _exchange_now(self, change: Callable[[], None], done: Callable[[], None]) -> None:
        ground = self._ground
        assert ground.road is None, "who leads follows nobody, and is sent no snapshot"
        self.exchanging = True
        try:
            assert self._keeping is not None
            self._reading.cancel()
            self._keeping.cancel()
            await self._kept.wait()
            with trio.CancelScope(shield=True):
                await ground.stop()
                if ground.failed:
                    return
                self.ground = None
                new = await trio.to_thread.run_sync(self._change_and_open, change)
        except Exception as error:  # noqa: BLE001 - without its directory a broker cannot go on
            self.fail(error)
            return
        finally:
            self.exchanging = False
        self.view.use(new.log)
        new.after_advance = ground.after_advance
        self._settle_in(new)
        new.start()
        self._nursery.start_soon(self._keep)
        self._backlog.restart(new.machine.applied_zxid)
        done()
        self.disk.resume(new.append, new.log)
        self.advance()

    def _change_and_open(self, change: Callable[[], None]) -> Ground:
        self._premises.close()
        change()
        return self._premises.open(self.fail)

    # --- snapshots ----------------------------------------------------------------------------------------------------

    @property
    def log(self) -> SegmentLog:
        """The log."""
        return self._premises.log

    @property
    def installing(self) -> bool:
        """A received snapshot is just taking the log's place, or the directory changes otherwise."""
        return self.exchanging or (self._received is not None and self._received.position == self.view.start)

    # --- LinkEvents ---------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> Identity:
        """Who this broker is at the moment."""
        return Identity(self.node, self._incarnation, self._cluster_id, self._founded, self.address)

    def peer_up(self, peer: Identity, connection: int) -> None:
        """A connection is open."""
        self.peers[peer.node] = peer
        self.driver.event(ev.PeerUp(peer.node, connection))
        self._note_address(peer.node, peer.address)

    def peer_named(self, peer: Identity) -> None:
        """A peer has joined or founded a cluster."""
        self.peers[peer.node] = peer

    def peer_down(self, peer: int, connection: int) -> None:
        """A connection has ended."""
        self._reading_on.note(self.replica, self.view.start.zxid)
        self.driver.event(ev.PeerDown(peer, connection))

    def peer_refused(self, peer: int) -> None:
        """Nobody listens there."""
        self.driver.event(ev.PeerRefused(peer))

    def received(self, peer: int, message: Message) -> None:
        """A message came in."""
        if peer == self.replica.leader:
            self.hearing.leader_at = trio.current_time()
            if isinstance(message, Propose):
                self._hear_time(message.entries)
        self.driver.event(ev.Received(peer, message))

    def _hear_time(self, entries: Sequence[Entry]) -> None:
        """Note the time that the leader's newest entry says: as it comes, since it is applied later."""
        if not entries or self.ground is None or not self.hearing.listens(now := self.ground.monotonic()):
            return
        newest, epoch = entries[-1], self.replica.epoch
        # What the leader had in its log when this broker began to follow it may be as old as it likes.
        if newest.zxid > self.replica.taught_zxid > 0 and (log_time_ms := log_time_of(newest.body)):
            self.hearing.said(epoch, log_time_ms, now)

    def snapshot_failed(self, peer: int, session: int, reason: str) -> None:
        """A stream has ended, and the other side may not have all of it."""
        logger.warning("node %d was not sent a snapshot: %s", peer, reason)
        self.driver.event(ev.SnapshotFailed(peer, session, reason))

    def snapshot_received(self, received: ReceivedSnapshot) -> None:
        """A whole snapshot came in."""
        if self.installing:
            return
        self._received = received
        self.driver.event(
            ev.SnapshotReceived(
                received.peer,
                received.epoch,
                received.session,
                received.position,
                received.configuration,
                received.configuration_zxid,
            )
        )

    # --- addresses ----------------------------------------------------------------------------------------------------

    @property
    def addresses(self) -> dict[int, str]:
        """Where every broker that is known is reached, by its number; this one too."""
        if self.ground is None:
            return {**self._hints, self.node: self.address}
        cluster = self.ground.machine.cluster
        hints = {node: address for node, address in self._hints.items() if node not in cluster.removed}
        return {**hints, **cluster.addresses, self.node: self.address}

    @property
    def leader(self) -> int | None:
        """Who leads, or is about to, as far as this broker knows."""
        return self.replica.leader or self.replica.turning_to

    @property
    def undecided_until(self) -> float:
        """Until when, by trio's clock, it is worth while to wait for who leads; in the past where that is known.

        A broker that is elected and does not serve yet knows no better.
        """
        undecided = self.road is None and self.leader in (None, self.node)
        return self._looking_since + UNDECIDED_SECONDS if undecided else -inf

    def not_leader(self) -> NotLeader:
        """What a client is told that asks this broker while it does not lead."""
        leader = self.leader
        if leader is None or leader == self.node:
            return NotLeader("this broker does not lead, and knows no leader at the moment; try again", leader=None)
        address = self.addresses.get(leader, "")
        return NotLeader(f"this broker does not lead; node {leader} does, at {address}", leader=leader, address=address)

    def _note_address(self, node: int, address: str) -> None:
        """Let everybody know where a broker is reached, if this one leads and it is news.

        Who was removed, and runs on, is not noted again by itself; unless it votes after all.
        """
        road, configuration = self.road, self.replica.configuration
        if road is None or road.over or road.machine.cluster.addresses.get(node) == address:
            return
        votes = configuration is not None and any(member.node == node for member in configuration.everybody)
        if votes or node not in road.machine.cluster.removed:
            road.propose(NodeAddress(road.clock.now_ms(), node, address))

    def _tell_addresses(self) -> None:
        known = self._ground.machine.cluster.addresses
        self._told_addresses = dict(known)
        self.on_addresses()
        self._links.connect_to({node: address for node, address in self.addresses.items() if node != self.node})
