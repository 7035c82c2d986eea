"""One node: a machine with a disk and clocks, on which a process lives, dies and is started again.

Clocks: the monotonic one runs a little too fast or too slow, the wall clock jumps. A process can be paused:
everything that happens meanwhile reaches it in a burst.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from sluicemq.broker.replication import events as ev
from sluicemq.broker.replication.options import Options
from sluicemq.storage import LogOptions, SnapshotStore, StorageError
from sluicemq.storage.superblock import SuperblockStore
from tests.disk import PowerCut, SimulatedDisk
from tests.sim import damage, snapshots
from tests.sim.driver import Process
from tests.sim.log_thread import DiskSpeed, Ledger

if TYPE_CHECKING:
    from sluicemq.broker.replication.membership import Configuration
    from sluicemq.broker.replication.messages import Message
    from tests.sim.network import Network
    from tests.sim.snapshots import Image
    from tests.sim.truth import Truth
    from tests.sim.world import World

CLUSTER_ID = b"simulatedcluster"
WALL_SECONDS = 1_800_000_000.0


@dataclasses.dataclass
class Settings:
    """What the nodes of a run have in common."""

    log: LogOptions
    replica: Options
    snapshot_entries: int = 100
    lease_seconds: float = 2.0
    stream_seconds: float = 0.2
    join_drops: bool = True
    restart_seconds: tuple[float, float] = (0.1, 2.0)
    cluster_id: bytes = CLUSTER_ID


class Clock:
    """The clocks of one machine.

    Args:
        world: True time.
        rate: Seconds of the monotonic clock in one true second.

    """

    def __init__(self, world: World, rate: float, wall_offset: float) -> None:
        self._world = world
        self._usual_rate = self._rate = rate
        self._offset = 100.0
        self.wall_offset = wall_offset

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return self._offset + self._rate * self._world.now

    def run_at(self, rate: float | None) -> None:
        """Let the monotonic clock run at another rate from now on; None: at its usual one."""
        now = self.monotonic()
        self._rate = self._usual_rate if rate is None else rate
        self._offset = now - self._rate * self._world.now

    def until(self, when: float) -> float:
        """True seconds until the monotonic clock says *when*; at least 0."""
        return max(0.0, (when - self.monotonic()) / self._rate) + 1e-9

    def wall(self) -> float:
        """Seconds since 1970, as this machine believes."""
        return WALL_SECONDS + self._world.now + self.wall_offset


class Node:
    """One node, whatever becomes of its processes.

    Attributes:
        process: The running process; None while there is none.
        host_up: The machine is on.
        refuses_to_start: Why the data was refused; an operator has to look after it.

    """

    def __init__(
        self,
        number: int,
        listed: tuple[int, ...],
        world: World,
        network: Network,
        truth: Truth,
        settings: Settings,
        speed: DiskSpeed,
        clock: Clock,
    ) -> None:
        self.number = number
        self.listed = listed
        self.world = world
        self.network = network
        self.truth = truth
        self.settings = settings
        self.speed = speed
        self.clock = clock
        self.disk = SimulatedDisk(world.random)
        self.ledger = Ledger()
        self.process: Process | None = None
        self.peers: dict[int, Node] = {}
        self.host_up = True
        self.paused = False
        self.stopped = False
        """Nobody starts it again until `start` is called."""
        self.refuses_to_start: str | None = None
        self.starts = 0
        self.damaged_from: int | None = None
        """What the log may have lost from here on, as noted on the disk."""
        self.cut_install_after = 0
        """The power goes off after so many operations of the disk, when the next snapshot is installed."""
        self.loses_writes = False
        """The disk has not done some of what it said it did."""
        self.voters_left: tuple[int, Configuration] | None = None
        """Who votes by the end of the last process's log, and the entry that says so."""

    @property
    def listening(self) -> bool:
        """Whether the process accepts connections."""
        return self.process is not None

    # --- life and death -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process, if none runs and its data is not refused."""
        self.stopped = False
        if self.process is not None or self.refuses_to_start is not None:
            return
        self.host_up = True
        self.paused = False
        self.starts += 1
        try:
            self.process = Process(self)
        except PowerCut:
            self.lose_power()
            self._start_later()
        except (StorageError, OSError) as error:
            self.world.say(self.number, f"does not start: {error}")
            if self.ledger.damaged:
                self.refuses_to_start = f"{error}"
                self.truth.refusals += 1
            elif isinstance(error, OSError) or "space" in f"{error}":
                self.disk = self.disk.restart()
                self._start_later()
            else:
                self.truth.refuses_good_data(self, error)
        else:
            self.world.say(self.number, f"started, with a log up to {self.process.memory.last}")

    def crash(self, *, power: bool) -> None:
        """End the process, as kill -9 does, or with the power of the machine."""
        process = self.process
        if process is None:
            return
        self.world.say(self.number, "loses power" if power else "is killed")
        process.end()
        self.voters_left = process.memory.configuration_at(process.memory.last.zxid)
        self.process = None
        self.paused = False
        self.host_up = not power
        if power:
            self.lose_power()
        else:
            self.disk = self.disk.restart()
        self.network.stopped(self.number, silently=power)
        self._start_later()

    def lose_power(self) -> None:
        """The disk forgets what it forgets; unless nobody could ever know of it (see `damage`)."""
        whole = damage.contents(self.disk) if self.loses_writes else None
        self.disk = self.disk.crash()
        if whole is not None:
            self.loses_writes = False
            if not damage.is_seen(self):
                self.truth.unseen_damages += 1
                damage.put_back(self.disk, whole)

    def shut_down(self) -> None:
        """End the process in good order."""
        process = self.process
        if process is None:
            return
        self.world.say(self.number, "is stopped in good order")
        process.end()
        self.voters_left = process.memory.configuration_at(process.memory.last.zxid)
        with contextlib.suppress(StorageError, OSError, PowerCut):
            process.log.close()
        self.process = None
        self.paused = False
        self.disk = self.disk.restart() if self.disk.powered else self.disk.crash()
        self.network.stopped(self.number, silently=False)
        self._start_later()

    def crash_with_power(self) -> None:
        """The power of the machine goes off."""
        self.crash(power=True)

    def died(self, reason: str) -> None:
        """The process has ended itself."""
        self.truth.died(self, reason)
        self.crash(power=False)

    def wipe(self) -> None:
        """An operator gives the node an empty disk: a new incarnation, which lists nobody to form a cluster with."""
        assert self.process is None, "a disk is changed while nothing runs"
        self.truth.wiped(self)
        self.disk = SimulatedDisk(self.world.random)
        self.ledger = Ledger()
        self.loses_writes = False
        self.damaged_from = None
        self.voters_left = None
        self.listed = ()
        self.refuses_to_start = None

    def salvage(self) -> bool:
        """Begin with what is left of a damaged log: the newest good snapshot, or nothing. Needs the superblock."""
        try:
            return self._salvage()
        except PowerCut:
            self.world.say(self.number, "loses power while its log is salvaged")
            self.lose_power()
            return self._salvage()

    def _salvage(self) -> bool:
        cluster_id, incarnation = self.settings.cluster_id, self.truth.incarnation_of(self.number)
        with contextlib.suppress(StorageError, OSError):
            store = SuperblockStore.load(damage.copy_of(self.disk), cluster_id, 0)
            promised_epoch = store.current.promised_epoch
            if store.current.incarnation == incarnation and promised_epoch >= self.ledger.promised_epoch:
                image = snapshots.read_newest(SnapshotStore(self.disk, cluster_id))
                known = (cluster_id, incarnation, promised_epoch)
                self.disk = snapshots.disk_with(self.disk, known, image, self.settings.log)
                self.ledger = Ledger(promised_epoch=promised_epoch, damaged=True)
                if image is not None:
                    self.ledger.restart(image.position)
                self.damaged_from = self.ledger.last_zxid + 1
                self.loses_writes = False
                self.refuses_to_start = None
                self.truth.salvaged += 1
                return True
        return False

    def note_repaired(self) -> None:
        """The log holds again all that it ever acknowledged."""
        self.damaged_from = None
        self.ledger.damaged = self.loses_writes
        self.truth.repaired += 1

    def pause(self, seconds: float) -> None:
        """Stop the process for a while; what happens meanwhile waits."""
        if self.process is not None and not self.paused:
            self.paused = True
            self.world.say(self.number, f"is paused for {seconds:.2f} s")
            self.world.after(seconds, self.resume)

    def resume(self) -> None:
        """Let a paused process go on."""
        if self.paused:
            self.paused = False
            if self.process is not None:
                self.world.say(self.number, "goes on")
                self.process.go_on()

    def _start_later(self) -> None:
        self.world.after(self.world.random.uniform(*self.settings.restart_seconds), self._start_again)

    def _start_again(self) -> None:
        self.host_up = True
        if not self.stopped:
            self.start()

    # --- what the network says ----------------------------------------------------------------------------------------

    def peer_up(self, peer: int, connection: int) -> None:
        """A connection is open."""
        if self.process is not None:
            self.process.event(ev.PeerUp(peer, connection))

    def peer_down(self, peer: int, connection: int) -> None:
        """A connection has ended."""
        if self.process is not None:
            self.process.event(ev.PeerDown(peer, connection))

    def peer_refused(self, peer: int) -> None:
        """Nobody listens there."""
        if self.process is not None:
            self.process.event(ev.PeerRefused(peer))

    def received(self, peer: int, message: Message) -> None:
        """A message came in."""
        if self.process is not None:
            self.process.event(ev.Received(peer, message))

    def snapshot_received(self, peer: int, epoch: int, session: int, image: Image) -> None:
        """A snapshot came in."""
        if self.process is not None:
            self.process.snapshot_received(peer, epoch, session, image)
