"""A shop for tests of the reclaimer: one queue whose messages are nearly all handled at once, on the simulated disk.

Log, machine, snapshots and reclaimer are the product's own; the stages between are left out, so that a power cut can
come between any two operations of the disk and a whole day takes milliseconds. The shop knows which messages must be
alive and what was in them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from sluicemq.broker.pipeline.bodies import Bodies
from sluicemq.broker.pipeline.keeping.disk_space import DiskSpace
from sluicemq.broker.pipeline.keeping.history import History
from sluicemq.broker.pipeline.keeping.pace import Pace
from sluicemq.broker.pipeline.keeping.reclaim import Reclaimer
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.image import live_runs, load
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.runs import flat_runs
from sluicemq.storage.log import SegmentLog
from sluicemq.storage.options import LogOptions
from sluicemq.storage.record import Record
from sluicemq.storage.snapshots import SnapshotStore
from sluicemq.wire.batch import Batch, encode_batch
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK
from tests.disk import SimulatedDisk

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.queues.runs import Run

SEGMENT_BYTES = 64 * 1024
OPTIONS = LogOptions(
    segment_bytes=SEGMENT_BYTES, initial_bytes=16384, growth_bytes=16384, spares_max=1, zero_piece_bytes=16384
)
HOUR_MS = 3_600_000
Address = tuple[int, int]


@dataclass
class Known:
    """What the shop's people know: bodies of all messages, and which of them nobody has dealt with."""

    bodies: dict[Address, bytes] = field(default_factory=dict)
    alive: set[Address] = field(default_factory=set)
    proposed_dead: set[Address] = field(default_factory=set)


def unhurried() -> Pace:
    """Return a pace without pauses, for a thread that is none of trio's."""
    return Pace(1 << 40, check=lambda: None, sleep=lambda _seconds: None)


class Shop:
    """One broker's storage and machine, and what its users know."""

    def __init__(
        self,
        disk: SimulatedDisk | None = None,
        *,
        seed: int = 1,
        known: Known | None = None,
        pace: Pace | None = None,
        history_seconds: float = 0.0,
        history_bytes: int = 0,
    ) -> None:
        self.rng = random.Random(seed)
        self.disk = disk or SimulatedDisk(self.rng)
        self.known = known or Known()
        self.log = SegmentLog.open(self.disk, options=OPTIONS)
        self.snapshots = SnapshotStore(self.disk, self.log.cluster_id)
        self.space = DiskSpace(self.log)
        self.history = History(
            self.log, self.space, seconds=history_seconds, bytes_max=history_bytes, now_ms=lambda: self.now_ms
        )
        self.failures: list[BaseException] = []
        self.reclaimer = Reclaimer(
            self.log,
            pages=None,
            on_failure=self.failures.append,
            wait_for_readers=_nobody_reads,
            pace=pace or unhurried(),
            kept_behind=self.history.kept_behind,
        )
        self.machine = self._recover()
        self.epoch = (self.log.last_zxid >> 32) + 1
        self.next_zxid = self.epoch << 32
        self.now_ms = self.machine.log_time_ms or 1_000
        self.queue = self.apply(e.Declare(self.now_ms, "/", "queue", "orders", {})).queue_id
        self.producer = self.apply(e.ProducerOpen(self.now_ms, "/", "", "somebody")).producer
        self.session = self.apply(e.SessionOpen(self.now_ms, "/", "somebody", "shop", b"")).session
        self.sequence = 0
        self.tag = 1

    def _recover(self) -> Machine:
        snapshot = self.snapshots.newest_good()
        machine, zxid = Machine(), self.log.start_zxid
        if snapshot is not None:
            with snapshot:
                machine, zxid = load(snapshot.sections()), snapshot.zxid
        while records := self.log.read_after(zxid, 1 << 20):
            for record in records:
                entry = e.decode_entry(record.kind, record.kind_version, record.header, record.payload)
                machine.apply(record.zxid, entry)
            zxid = records[-1].zxid
        return machine

    def apply(self, entry: e.Entry) -> Any:
        """Write, sync and apply an entry; return the machine's value."""
        zxid = self.next_zxid
        self.next_zxid += 1
        self.log.append([Record(zxid, entry.KIND, entry.VERSION, 0, entry.header(), bytes(entry.payload))])
        self.log.sync()
        outcome = self.machine.apply(zxid, entry)
        assert outcome.error is None, outcome.error
        return outcome.value

    # --- trade -----------------------------------------------------------------------------------------------------

    def publish(self, bodies: list[bytes]) -> int:
        """Publish a batch and return its zxid."""
        self.sequence += 1
        batch = encode_batch(bodies)
        zxid = self.next_zxid
        for index, body in enumerate(bodies):
            self.known.bodies[zxid, index] = body
        count, size = len(bodies), sum(map(len, bodies))
        self.apply(e.Publish(self.now_ms, self.queue, self.producer, self.sequence, count, size, payload=batch))
        self.known.alive.update((zxid, index) for index in range(count))
        return zxid

    def trade(self, batches: int, *, given_back: float = 0.01, batch_max: int = 40, body_max: int = 60) -> None:
        """Publish batches; all messages are handled but a few, which are given back for an hour."""
        rng = self.rng
        for _ in range(batches):
            self.now_ms += 10
            self.publish([rng.randbytes(rng.randint(0, body_max)) for _ in range(rng.randint(1, batch_max))])
            self.consume(given_back)

    def consume(self, given_back: float) -> None:
        """Take everything that is ready; acknowledge it, but for a share that is nacked with an hour's delay."""
        self._settle(lambda _place: self.rng.random() < given_back)

    def consume_all_but(self, first: int) -> None:
        """Take everything that is ready; acknowledge it, but for the first so many, which are nacked likewise."""
        self._settle(lambda place: place < first)

    def _settle(self, is_given_back: Callable[[int], bool]) -> None:
        runs = self.machine.peek(self.queue, 0, 10_000)
        if not runs:
            return
        count, first_tag = sum(run.size for run in runs), self.tag
        self.tag += count
        self.apply(e.Grant(self.now_ms, self.queue, self.session, 1, first_tag, flat_runs(runs)))
        addresses = [(run.zxid, run.first + place) for run in runs for place in range(run.size)]
        back = [place for place in range(count) if is_given_back(place)]
        done = sorted(set(range(count)) - set(back))
        dead = {addresses[place] for place in done}
        self.known.proposed_dead |= dead
        for verdict, places, due in ((VERDICT_ACK, done, 0), (VERDICT_NACK, back, self.now_ms + HOUR_MS)):
            if places:
                tags = _ranges([first_tag + place for place in places])
                self.apply(e.Settle(self.now_ms, self.session, 1, verdict, tags, due_time_ms=due))
        self.known.alive -= dead

    def an_hour_passes(self) -> None:
        """Let everything that was given back become ready."""
        self.now_ms += HOUR_MS + 1
        while any(queue.delayed.messages for queue in self.machine.queues()):
            self.apply(e.Clock(self.now_ms, 1_000))

    # --- storage ---------------------------------------------------------------------------------------------------

    def snapshot(self) -> None:
        """Take a durable snapshot and let the log begin behind the older one that is kept."""
        freeze = self.machine.freeze()
        writer = self.snapshots.begin(freeze.zxid, self.log.last_chain, 0)
        while not freeze.done:
            for section in freeze.pack(lambda: True):
                writer.add(section.kind, section.data)
        writer.finish()
        self.kept = self.snapshots.keep(2)
        self.log.begin_at(self.kept[-1].zxid)

    def reclaim(self) -> None:
        """Work through the newest snapshot."""
        with self.snapshots.newest_good() as snapshot:
            self.reclaimer.work_through(snapshot, self.kept[-1].zxid)

    def restart(self, **settings: Any) -> Shop:
        """Return the shop as it comes up after a power cut of the disk."""
        return Shop(self.disk.crash(), seed=self.rng.randrange(1 << 30), known=self.known, **settings)

    # --- looking ---------------------------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """Return every run that the machine holds, wherever in it."""
        freeze = self.machine.freeze()
        sections = []
        while not freeze.done:
            sections += freeze.pack(lambda: True)
        return [run for part in live_runs(sections) for run in part.runs()]

    async def bodies(self) -> dict[Address, bytes]:
        """Read every message that is alive from the disk, as dispatch does."""
        bodies = Bodies(self.log, cache_bytes_max=0)
        found: dict[Address, bytes] = {}
        for run in self.runs():
            assert not found.keys() & {(run.zxid, run.first + place) for place in range(run.size)}, "twice"
            stored = (await bodies.load([run.zxid]))[run.zxid]
            part = Batch(b"".join(stored.part_pieces(run.first, run.size)))
            found.update({(run.zxid, run.first + place): body for place, body in enumerate(part.bodies)})
        return found

    def check(self) -> None:
        """Check that nothing is lost, and nothing there that must not be."""
        found = trio.run(self.bodies)
        lost = self.known.alive - found.keys() - self.known.proposed_dead
        assert not lost, f"lost {sorted(lost)[:5]}"
        for address, body in found.items():
            assert self.known.bodies[address] == body, address

    @property
    def live_bytes(self) -> int:
        """Bytes of all messages that are alive, each with a little for its place in a record."""
        return sum(len(self.known.bodies[address]) + 2 for address in self.known.alive)


async def _nobody_reads() -> None:
    await trio.lowlevel.checkpoint()


def _ranges(tags: list[int]) -> list[int]:
    """Return `[first, last, ...]` of ascending tags, neighbours made one."""
    ranges: list[int] = []
    for tag in tags:
        if ranges and ranges[-1] == tag - 1:
            ranges[-1] = tag
        else:
            ranges += (tag, tag)
    return ranges
