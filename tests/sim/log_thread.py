"""The thread that owns a node's log, in virtual time: one queue, one effect of the disk after another, group commit.

The real storage code does the work, on the simulated disk. Time passes between a write and its sync, so that the
power can go off between them; and any operation of the disk can be the last one.

`Ledger` is what the simulator itself knows to be durable, from the moments at which syncs returned. It outlives the
process: whatever the next start finds must hold all of it.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from sluicemq.broker.replication.effects import (
    Append,
    InstallSnapshot,
    Join,
    NoteRepaired,
    SavePromise,
    Token,
    Truncate,
)
from sluicemq.storage import StorageError
from tests.disk import PowerCut
from tests.sim.entries import record_of
from tests.sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.replication.history import Entry, Position
    from sluicemq.storage import SegmentLog
    from tests.sim.entries import LogMemory
    from tests.sim.world import World

DiskEffect = Join | SavePromise | Append | Truncate | InstallSnapshot | NoteRepaired
GROUP_ENTRIES_MAX = 256
HANGS_SECONDS_MAX = 5.0
"""No operation of a disk takes longer."""


@dataclasses.dataclass
class Ledger:
    """What is durable on a disk, as the simulator saw it happen."""

    start_zxid: int = 0
    last_zxid: int = 0
    chains: dict[int, bytes] = dataclasses.field(default_factory=dict)
    promised_epoch: int = 0
    damaged: bool = False
    """Bits were flipped: what it held may be gone."""
    installing: Position | None = None
    """A snapshot that a start may find instead of all this."""

    def holds(self, zxid: int, chain: bytes) -> bool:
        """Whether the entry is durable here, as part of a snapshot or in the log."""
        return zxid <= self.start_zxid or self.chains.get(zxid) == chain

    def truncate(self, zxid: int) -> None:
        """Nothing behind *zxid* is there any more."""
        for later in [known for known in self.chains if known > zxid]:
            del self.chains[later]
        self.last_zxid = zxid

    def restart(self, position: Position) -> None:
        """A snapshot is there instead."""
        self.start_zxid = self.last_zxid = position.zxid
        self.chains = {position.zxid: position.chain}
        self.installing = None

    def add(self, entries: list[Entry]) -> None:
        """These are durable now."""
        for entry in entries:
            self.chains[entry.zxid] = entry.chain
        self.last_zxid = entries[-1].zxid


@dataclasses.dataclass
class DiskSpeed:
    """Seconds that things take."""

    sync_seconds: float = 0.001
    jitter_seconds: float = 0.001
    stall_probability: float = 0.0
    stall_seconds: float = 0.5
    factor: float = 1.0


class LogThread:
    """Carries out effects of the disk.

    Args:
        world: Time and chance.
        log: The log.
        memory: The log as the core sees it; shows what was submitted at once.
        ledger: Notes what is durable.
        speed: How long things take.
        persisted: Called with the token of the last effect that is done.
        failed: Called with the reason when the disk fails.
        power_cut: Called when the power goes off during an operation.
        install: Carries out `InstallSnapshot`; returns the new log.
        note_repaired: Carries out `NoteRepaired`.
        drops: A `Join` drops what has not begun, except promises; otherwise it waits for all of it.

    """

    SYNC_BEFORE_ANSWER = True
    JOIN_WAITS = True
    SAVE_PROMISE = True

    def __init__(
        self,
        world: World,
        log: SegmentLog,
        memory: LogMemory,
        ledger: Ledger,
        speed: DiskSpeed,
        *,
        persisted: Callable[[Token], None],
        failed: Callable[[str], None],
        power_cut: Callable[[], None],
        install: Callable[[Position], SegmentLog],
        note_repaired: Callable[[], None],
        drops: bool,
    ) -> None:
        self.log = log
        self._world = world
        self._memory = memory
        self._ledger = ledger
        self._speed = speed
        self._persisted = persisted
        self._failed = failed
        self._power_cut = power_cut
        self._install = install
        self._note_repaired = note_repaired
        self._drops = drops
        self._queue: deque[DiskEffect | Callable[[], None]] = deque()
        self._busy = False
        self._current: DiskEffect | None = None
        self.stopped = False
        self.queue_most = 0

    def submit(self, effect: DiskEffect) -> None:
        """Take an effect: the memory shows it at once, the disk follows."""
        if isinstance(effect, Append):
            self._memory.append(effect.entries)
        elif isinstance(effect, Truncate):
            self._memory.truncate(effect.position.zxid)
        elif isinstance(effect, Join):
            if not self.JOIN_WAITS:
                self._persisted(effect.token)
                return
            if self._drops:
                kept = [each for each in self._queue if callable(each) or isinstance(each, SavePromise)]
                self._queue.clear()
                self._queue.extend(kept)
        self._queue.append(effect)
        self.queue_most = max(self.queue_most, len(self._queue))
        self._begin()

    def run(self, task: Callable[[], None]) -> None:
        """Let *task* happen in this thread."""
        self._queue.append(task)
        self._begin()

    def stop(self) -> None:
        """The process has ended."""
        self.stopped = True
        self._queue.clear()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._busy or self.stopped or not self._queue:
            return
        self._busy = True
        effect = self._queue.popleft()
        self._current = None if callable(effect) else effect
        if isinstance(effect, Append):
            entries = list(effect.entries)
            token = effect.token
            while self._queue and len(entries) < GROUP_ENTRIES_MAX:
                following = self._queue[0]
                if not isinstance(following, Append):
                    break
                self._queue.popleft()
                entries += following.entries
                token = following.token
            if not self._guard(lambda: self._write(entries)):
                return
            if not self.SYNC_BEFORE_ANSWER:
                self._persisted(token)
            self._world.after(self._seconds(), self._finish, lambda: self._sync(entries), token)
        elif callable(effect):
            self._world.after(self._seconds(), self._finish, effect, None)
        else:
            self._world.after(self._seconds(), self._finish, partial(self._carry_out, effect), effect.token)

    def _seconds(self) -> float:
        speed, random = self._speed, self._world.random.random
        seconds = speed.sync_seconds + speed.jitter_seconds * random()
        if speed.stall_probability and random() < speed.stall_probability:
            seconds += speed.stall_seconds
        return min(seconds * speed.factor, HANGS_SECONDS_MAX)

    def _finish(self, work: Callable[[], None], token: Token | None) -> None:
        if self.stopped or not self._guard(work):
            return
        self._busy = False
        self._current = None
        if token is not None:
            self._persisted(token)
        self._begin()

    def _guard(self, work: Callable[[], None]) -> bool:
        """Do *work*; return whether the process is still there."""
        try:
            work()
        except PowerCut:
            self._power_cut()
            return False
        except (StorageError, OSError) as error:
            self.stop()  # nothing is tried any more
            self._failed(f"{error}")
            return False
        return not self.stopped

    def _write(self, entries: list[Entry]) -> None:
        self.log.append([record_of(entry.zxid, entry.body) for entry in entries])
        if self.log.last_chain != entries[-1].chain:
            raise Violation(f"I3 log matching: entry {entries[-1]} has another chain in the log than in the core")

    def _sync(self, entries: list[Entry]) -> None:
        self.log.sync()
        self._ledger.add(entries)

    def _carry_out(self, effect: DiskEffect) -> None:
        if isinstance(effect, Join):
            self.log.sync()
            self._memory.reload()
        elif isinstance(effect, SavePromise):
            if self.SAVE_PROMISE:
                self.log.save_promised_epoch(effect.epoch)
            self._ledger.promised_epoch = effect.epoch
        elif isinstance(effect, Truncate):
            if self.log.chain_at(effect.position.zxid) != effect.position.chain:
                raise Violation(f"I3 log matching: {effect.position} is not in the log that is cut there")
            # Before, because a power cut in the middle may leave either.
            self._ledger.truncate(effect.position.zxid)
            self.log.truncate_after(effect.position.zxid)
        elif isinstance(effect, InstallSnapshot):
            self.log = self._install(effect.position)
            self._ledger.restart(effect.position)
        else:
            self._note_repaired()

    def waiting(self) -> list[DiskEffect]:
        """Effects that are not done."""
        queued: list[DiskEffect] = [each for each in self._queue if not callable(each)]
        return queued if self._current is None else [self._current, *queued]
