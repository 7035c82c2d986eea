"""One life of a node's process: the driver loop, as the essay of `sluicemq.broker.replication` demands it of a shell.

This is the loop that a broker runs too; the two should be read side by side. Whatever happens becomes an event; the
core answers with effects; they are carried out in their order. What `truth` is told here is only looked at, never
acted upon.

This module must not know clients or queues (that is `service`) nor what the disk does (`log_thread`).
"""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from sluicemq.broker.replication import effects as fx
from sluicemq.broker.replication import events as ev
from sluicemq.broker.replication.membership import Member
from sluicemq.broker.replication.replica import Replica
from sluicemq.storage import SegmentLog, SnapshotStore, StorageError
from sluicemq.storage.installing import discard_incoming
from tests.disk import PowerCut
from tests.sim import snapshots
from tests.sim.entries import LogMemory
from tests.sim.log_thread import LogThread
from tests.sim.service import Service
from tests.sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.replication.history import Position
    from tests.sim.node import Node
    from tests.sim.snapshots import Image
    from tests.sim.world import Timer

SNAPSHOT_BYTES_PER_SECOND = 2_000_000
Answer = TypeVar("Answer")


@dataclasses.dataclass
class Received:
    """A snapshot that lies beside the log, not in use yet."""

    image: Image
    epoch: int
    session: int


class Process:
    """Everything that a crash takes away.

    Raises what opening a log raises: then there is no process.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.world = node.world
        self.truth = node.truth
        self.alive = True
        settings = node.settings
        self.log = SegmentLog.open(node.disk, options=settings.log, cluster_id=settings.cluster_id)
        discard_incoming(node.disk)
        self.store = SnapshotStore(node.disk, self.log.cluster_id)
        machine, image = snapshots.restart(self.log, self.store)
        base = None if image is None else (image.configuration_zxid, image.configuration)
        self.memory = LogMemory(self.log, base)
        self.truth.opened(node, self)
        self.thread = self._new_thread()
        member = Member(node.number, self.log.incarnation)
        self.replica = Replica(
            member,
            node.listed,
            self.log.promised_epoch,
            self.memory,
            settings.replica,
            damaged_from=node.damaged_from,
        )
        self.service = Service(self, machine)
        self._inbox: deque[ev.Event | Callable[[], None]] = deque()
        self._running = False
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._streams: dict[tuple[int, int], int] = {}
        self._received: Received | None = None
        self._snapshot_zxid = machine.applied_zxid
        self._perform: dict[type, Callable[[Any], None]] = {
            fx.Send: self._send,
            fx.Join: self._to_disk,
            fx.SavePromise: self._to_disk,
            fx.NoteRepaired: self._to_disk,
            fx.Append: self._append,
            fx.Truncate: self._truncate,
            fx.InstallSnapshot: self._install_snapshot,
            fx.ReadEntries: self._read_entries,
            fx.SendSnapshot: self._send_snapshot,
            fx.Committed: self._committed,
            fx.RoleChanged: self._role_changed,
            fx.Proposed: lambda effect: self.service.proposed(effect.reference, effect.zxid),
            fx.Refused: lambda effect: self.service.refused(effect.reference, effect.error),
            fx.ReadReady: lambda effect: self.service.read_ready(effect.reference, effect.zxid),
            fx.Done: lambda effect: self.service.done(effect.reference),
            fx.Alarm: lambda effect: self.truth.alarmed(self.node, effect.reason),
            fx.Fatal: self._fatal,
        }
        self.begin()

    def begin(self) -> None:
        """Let the core begin."""
        self.event(ev.Start())

    # --- the loop -----------------------------------------------------------------------------------------------------

    def event(self, event: ev.Event | Callable[[], None]) -> None:
        """Something happened. A process that is paused hears of it when it goes on."""
        if not self.alive:
            return
        self._inbox.append(event)
        if not self._running and not self.node.paused:
            self.go_on()

    def go_on(self) -> None:
        """Deal with everything that has happened."""
        inbox, node, world = self._inbox, self.node, self.world
        self._running = True
        try:
            while inbox and self.alive:
                event = inbox.popleft()
                if callable(event):
                    event()
                    continue
                effects = self._step(event)
                if world.tracing:
                    world.say(node.number, f"{event} ->{''.join(f'{chr(10)}    {effect}' for effect in effects)}")
                for effect in effects:
                    if not self.alive:
                        return
                    self._perform[type(effect)](effect)
        finally:
            self._running = False
        if self.alive:
            self._set_alarm()

    def _step(self, event: ev.Event) -> list[fx.Effect]:
        try:
            return self.replica.step(event, self.node.clock.monotonic())
        except AssertionError as error:
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            where = "" if place is None else f"{place.tb_frame.f_code.co_qualname}, line {place.tb_lineno}"
            raise Violation(f"assertion of the core on node {self.node.number}: {error} ({where})") from error

    def _set_alarm(self) -> None:
        wake_at = self.replica.wake_at
        if wake_at is None:
            return
        timer = self._timer
        if timer is not None:
            if timer.action is not None and self._timer_at <= wake_at:
                return  # it comes earlier and looks again
            timer.cancel()
        self._timer_at = wake_at
        self._timer = self.world.after(self.node.clock.until(wake_at), self._alarm)

    def _alarm(self) -> None:
        self._timer = None
        if not self.alive:
            return
        wake_at = self.replica.wake_at
        if wake_at is not None and self.node.clock.monotonic() >= wake_at - 1e-9:
            self.event(ev.Wake())
        elif not self.node.paused:
            self._set_alarm()
        else:
            self.event(ev.Wake())

    # --- effects ------------------------------------------------------------------------------------------------------

    def _send(self, effect: fx.Send) -> None:
        self.truth.sends(self.node, self, effect.message, effect.peer)
        self.node.network.send(self.node.number, effect.peer, effect.message)

    def _to_disk(self, effect: fx.Join | fx.SavePromise | fx.NoteRepaired) -> None:
        self.thread.submit(effect)

    def _append(self, effect: fx.Append) -> None:
        self.truth.appends(self.node, self, effect)
        self.thread.submit(effect)

    def _truncate(self, effect: fx.Truncate) -> None:
        self.truth.truncates(self.node, effect.position)
        self.thread.submit(effect)

    def _install_snapshot(self, effect: fx.InstallSnapshot) -> None:
        received = self._received
        assert received is not None, "a snapshot is installed that was never received"
        assert received.image.position == effect.position, "another snapshot than the last is installed"
        self.memory.install(effect.position, (received.image.configuration_zxid, received.image.configuration))
        self.thread.submit(effect)

    def _install(self, position: Position) -> SegmentLog:
        """Put the snapshot in the place of log and state: the log thread's part."""
        received, node = self._received, self.node
        assert received is not None
        assert received.image.position == position
        image = received.image
        node.ledger.installing = position
        if node.cut_install_after:
            node.disk.cut_power_after(node.cut_install_after)
            node.cut_install_after = 0
        installation = self.log.begin_installation(position.zxid, position.chain, bytes(16))
        installation.add_snapshot(0, snapshots.file_of(image, node.settings.cluster_id))
        installation.finish()
        self.log.close()
        installation.switch()
        self.log = SegmentLog.open(node.disk, options=node.settings.log, cluster_id=node.settings.cluster_id)
        self.store = SnapshotStore(node.disk, self.log.cluster_id)
        machine, again = snapshots.restart(self.log, self.store)
        assert again == image, "a snapshot reads back as it was sent"
        later = self.memory.between(position.zxid, self.memory.last.zxid)
        self.memory.restart(self.log, (image.configuration_zxid, image.configuration))
        self.memory.append(later)
        self._snapshot_zxid = position.zxid
        self.service.restart(machine)
        self.truth.installed(node, image)
        return self.log

    def _read_entries(self, effect: fx.ReadEntries) -> None:
        self.world.after(self.world.random.uniform(0.0, 0.003), self._entries_read, effect)

    def _entries_read(self, effect: fx.ReadEntries) -> None:
        if self.alive:
            entries = self.memory.read_after(effect.after, effect.bytes_max)
            self.event(ev.EntriesRead(effect.peer, effect.session, effect.after, entries))

    def _committed(self, effect: fx.Committed) -> None:
        self.truth.commits(self.node, self, effect.zxid)
        self.service.committed(effect.zxid)
        self._look_after_snapshots()

    def _role_changed(self, effect: fx.RoleChanged) -> None:
        self.truth.role_changed(self.node, self, effect)
        self.service.role_changed(effect)

    def _fatal(self, effect: fx.Fatal) -> None:
        self.node.died(effect.reason)

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def _look_after_snapshots(self) -> None:
        applied = self.service.machine.applied_zxid
        epoch_changed = applied >> 32 != self._snapshot_zxid >> 32
        far = applied - self._snapshot_zxid if not epoch_changed else (applied & 0xFFFFFFFF) + 1
        if far >= self.node.settings.snapshot_entries:
            self._take_snapshot(applied)

    def _take_snapshot(self, applied: int) -> None:
        if self.memory.chain_at(applied) is None:
            return
        if self.memory.last.zxid != self.log.last_zxid and not self.log.synced_zxid >= applied:
            return
        self._snapshot_zxid = applied
        configuration = self.memory.configuration_at(applied)
        assert configuration is not None, "who has applied anything knows who votes"
        keep = self._on_disk(lambda: snapshots.take(self.service.machine, self.log, self.store, configuration))
        if keep:
            self.thread.run(lambda: self._begin_at(keep))

    def _on_disk(self, work: Callable[[], Answer]) -> Answer | None:
        """Do something with snapshots; None if the process has ended with it."""
        try:
            return work()
        except PowerCut:
            self.node.crash(power=True)
        except (StorageError, OSError) as error:
            self.node.died(f"a snapshot could not be written or read: {error}")
        return None

    def _begin_at(self, zxid: int) -> None:
        if self._streams:
            return  # somebody is sent a snapshot: the log must not begin later than it
        if zxid > self.log.start_zxid and self.memory.last.zxid >= zxid:
            self.log.begin_at(zxid)
            self.memory.begin_at_start_of_log()

    def _send_snapshot(self, effect: fx.SendSnapshot) -> None:
        image = self._on_disk(lambda: snapshots.read_newest(self.store))
        if not self.alive:
            return
        if image is None or image.position.zxid < effect.start_zxid:
            # The kept ones may have rotted. The next attempt finds a new one.
            self._take_snapshot(self.service.machine.applied_zxid)
            self.event(ev.SnapshotFailed(effect.peer, effect.session, "there is no snapshot that is new enough"))
            return
        key = effect.peer, effect.session
        self._streams[key] = self._streams.get(key, 0) + 1
        size = sum(len(data) for _, data in image.sections)
        seconds = (
            0.01 + size / SNAPSHOT_BYTES_PER_SECOND + self.world.random.random() * self.node.settings.stream_seconds
        )
        self.world.after(seconds, self._sent, effect, image)

    def _sent(self, effect: fx.SendSnapshot, image: Image) -> None:
        if not self.alive:
            return
        key = effect.peer, effect.session
        self._streams[key] -= 1
        if not self._streams[key]:
            del self._streams[key]
        peer = self.node.peers[effect.peer]
        random = self.world.random
        blocked = self.node.network.blocked(self.node.number, effect.peer)
        if blocked or peer.process is None or (random.random() < 0.1 and not self.node.network.calm):
            self.event(ev.SnapshotFailed(effect.peer, effect.session, "the stream broke"))
        else:
            peer.process.event(lambda: peer.snapshot_received(self.node.number, effect.epoch, effect.session, image))

    def snapshot_received(self, peer: int, epoch: int, session: int, image: Image) -> None:
        """A whole snapshot came in; it lies beside the log, durable. Unless one is being installed right now."""
        if any(isinstance(effect, fx.InstallSnapshot) for effect in self.thread.waiting()):
            return
        self._received = Received(image, epoch, session)
        self.event(
            ev.SnapshotReceived(peer, epoch, session, image.position, image.configuration, image.configuration_zxid)
        )

    # --- the disk -----------------------------------------------------------------------------------------------------

    def _new_thread(self) -> LogThread:
        node = self.node
        return LogThread(
            self.world,
            self.log,
            self.memory,
            node.ledger,
            node.speed,
            persisted=lambda token: self.event(ev.Persisted(token)),
            failed=lambda reason: self.event(ev.DiskFailed(reason)),
            power_cut=lambda: node.crash(power=True),
            install=self._install,
            note_repaired=node.note_repaired,
            drops=node.settings.join_drops,
        )

    def end(self) -> None:
        """The process is gone."""
        self.alive = False
        self.thread.stop()
        self.service.end()
        self._inbox.clear()
        if self._timer is not None:
            self._timer.cancel()
