"""Thousands of power cuts on the whole road: random days of producers and consumers, each ended in mid-operation.

    python -m tests.broker.pipeline.power_cuts --count 10000 --seed 1
    python -m tests.broker.pipeline.power_cuts --mutants          # each known mistake must be caught

Everything from the request to the machine is the product's own; only the disk is simulated, and the log's thread is
stepped by hand (`SteppedAppend`), so that a seed gives the same day again. After each cut the log and the machine are
recovered and compared with what the clients were told:

- every batch that was reported as published is there, byte for byte, where it was reported to be;
- a message whose acknowledgement was reported stays away; one that nobody settled, purged or deleted is still there;
- no message is there that nobody sent, and none is there twice;
- a batch that is sent again is answered with its first position, and one that was lost is accepted now;
- a queue whose declaration was reported exists, one whose deletion was reported does not;
- the newest snapshot and the log behind it give the same state as every entry since the first, and every invariant of
  the machine holds; when the newest snapshot rots, the older one gives it;
- no power cut leaves a snapshot under its name that is not whole.

Snapshots are packed a step at a time between the other deeds.
"""

from __future__ import annotations

import collections
import logging
import random
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from unittest import mock

import trio
import trio.testing

from sluicemq.broker.pipeline import ground as ground_module
from sluicemq.broker.pipeline.append import AppendStage
from sluicemq.broker.pipeline.commit import CommitStage
from sluicemq.broker.pipeline.keeping import snapshots as snapshots_module
from sluicemq.broker.pipeline.keeping.restart import Restart, load_newest, replay
from sluicemq.broker.pipeline.keeping.snapshots import SnapshotStage
from sluicemq.broker.pipeline.log_clock import LogClock
from sluicemq.broker.pipeline.road import LoneRoad
from sluicemq.broker.queues.entries import Publish, decode_entry
from sluicemq.broker.queues.freeze import Freeze
from sluicemq.broker.queues.machine import Machine
from sluicemq.storage.log import SegmentLog
from sluicemq.storage.options import LogOptions
from sluicemq.storage.pagefile import PageFile
from sluicemq.storage.snapshot_file import snapshot_zxid
from sluicemq.storage.snapshots import SnapshotStore, SnapshotWriter
from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import NotFound, SluiceError
from tests.broker.pipeline.roads import Client, SteppedAppend
from tests.disk import PowerCut, SimulatedDisk
from tests.seeds import PowerCuts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.storage.record import Record

LIVES_MAX = 4
DEEDS_MAX = 150
QUEUES = ("orders", "mails", "logs")
DELETED = 1 << 63
"""Higher than any zxid: whatever is published there may go with the queue."""


@dataclass
class Sent:
    """One batch as its producer knows it.

    Attributes:
        proposed: Every zxid at which it was put on the road; a resend after a loss adds one.
        zxid: Where it was reported to be published; None while nothing was reported.

    """

    queue_id: int
    producer: int
    sequence: int
    payload: bytes
    count: int
    proposed: list[int] = field(default_factory=list)
    zxid: int | None = None


@dataclass
class Knowledge:
    """What clients were told, and what they merely asked for."""

    batches: dict[tuple[int, int], Sent] = field(default_factory=dict)
    by_zxid: dict[int, Sent] = field(default_factory=dict)
    acknowledging: set[tuple[int, int]] = field(default_factory=set)
    acknowledged: set[tuple[int, int]] = field(default_factory=set)
    # Queue id -> the last zxid that was proposed when a purge or deletion of it was asked for.
    emptied_up_to: dict[int, int] = field(default_factory=dict)
    queues: dict[str, int] = field(default_factory=dict)
    in_doubt: set[str] = field(default_factory=set)
    # Names of queues -> deletions on the road; they hit whatever has the name when they are applied.
    deleting: collections.Counter[str] = field(default_factory=collections.Counter)
    deleted: set[int] = field(default_factory=set)
    producers: list[int] = field(default_factory=list)


class Day:
    """One seed: some lives of one broker, with a power cut at the end of each."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.disk = SimulatedDisk(rng)
        self.known = Knowledge()
        self.cuts = self.operations = 0
        self.epoch = 0
        self.seconds = 1_700_000_000.0
        self.seen: collections.Counter[str] = collections.Counter()
        segment_bytes = rng.choice((32, 64)) * 1024
        self.options = LogOptions(
            segment_bytes=segment_bytes,
            initial_bytes=rng.choice((8192, segment_bytes)),
            growth_bytes=rng.choice((4096, 10_000)),
            spares_max=rng.choice((0, 1)),
            zero_piece_bytes=16384,
        )
        self.cache_bytes_max = rng.choice((1, 5_000, 1 << 20))
        self.weights = [rng.choice((0, 1, 1, 3)) for _ in self.DEEDS]
        self.weights[: self.FREQUENT] = [rng.choice((2, 5)) for _ in range(self.FREQUENT)]

    async def run(self) -> None:
        """Live until the cuts of this day are over."""
        for _ in range(self.rng.randint(1, LIVES_MAX)):
            self.disk.cut_power_after(int(self.rng.choice((30, 120, 400)) * self.rng.random()) + 1)
            try:
                await self._live()
                self.disk.cut_power()
            except PowerCut:
                pass
            self.cuts += 1
            self.operations += self.disk.operations
            self.disk = self.disk.crash()
            self.known.deleting.clear()
            self._recover_and_check()

    # --- a life -----------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        self.clients: list[Client] = []
        self.road = road = self._open()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(road.begin)
                while len(road.commit) or not road.entries_total:
                    await trio.testing.wait_all_tasks_blocked()
                    self._step()
                nursery.start_soon(road.dispatch.send_cold_picks)
                self.nursery = nursery
                assert road.epoch > self.epoch, "no epoch is begun twice"
                self.epoch = road.epoch
                for _ in range(DEEDS_MAX):
                    self.rng.choices(self.DEEDS, self.weights)[0](self)
                    if self.rng.random() < 0.6:
                        self._step()
                    await trio.lowlevel.cancel_shielded_checkpoint()
                nursery.cancel_scope.cancel()
        except* PowerCut:
            raise PowerCut("in a life") from None

    def _open(self) -> LoneRoad:
        log = SegmentLog.open(self.disk, options=self.options)
        self.failures: list[BaseException] = []
        road = LoneRoad(
            log,
            node_id=1,
            cache_bytes_max=self.cache_bytes_max,
            on_failure=self.failures.append,
            pages=PageFile.open(self.disk, cluster_id=log.cluster_id),
            snapshots=SnapshotStore(self.disk, log.cluster_id),
        )
        road.clock = LogClock(road.machine.log_time_ms, wall=self._time, monotonic=self._time)
        return road

    def _time(self) -> float:
        return self.seconds

    def _step(self) -> None:
        """Let the log's thread do one turn, and the loop what follows from it."""
        append = self.road.append
        assert isinstance(append, SteppedAppend)
        if not append.step() or self.rng.random() < 0.3:
            append.sync_now()
        if self.rng.random() < 0.05 and self.road.log.needs_spare:
            self.road.log.prepare_spare()
        if self.failures:
            raise self.failures[0]

    # --- deeds ------------------------------------------------------------------------------------------------

    def _ask(self, function, *arguments, then) -> bool:
        """Ask as a session does; return whether it went on the road."""

        def on_outcome(outcome: Outcome) -> None:
            then(outcome)

        try:
            function(*arguments, on_outcome)
        except NotFound:
            self.seen["refused early"] += 1
            return False
        return True

    def declare(self) -> None:
        name = self.rng.choice(QUEUES)
        known = self.known

        def told(outcome: Outcome) -> None:
            known.queues[name] = outcome.value.queue_id
            if known.deleting[name]:
                known.emptied_up_to[outcome.value.queue_id] = DELETED
            else:
                known.in_doubt.discard(name)

        known.in_doubt.add(name)
        self._ask(self.road.produce.declare_queue, "/", name, {"retry_delay": 1.0}, then=told)

    def open_producer(self) -> None:
        self._ask(
            self.road.produce.open_producer,
            "/",
            "",
            "anonymous",
            then=lambda outcome: self.known.producers.append(outcome.value.producer),
        )

    def publish(self) -> None:
        """Send the next batch of a producer, or one again."""
        known, rng = self.known, self.rng
        if not known.producers:
            return self.open_producer()
        producer = rng.choice(known.producers[-4:])
        name = rng.choice(QUEUES)
        queue = self.road.machine.find_queue("/", name)
        if queue is None:
            return self.declare()
        sequence = 1 + max((sequence for number, sequence in known.batches if number == producer), default=0)
        if sequence > 1 and (
            rng.random() < 0.1 or not all(known.batches[producer, n].proposed for n in range(1, sequence))
        ):
            return self._resend(producer)
        bodies = [rng.randbytes(rng.choice((3, 40, 600))) for _ in range(rng.choice((1, 1, 4, 20)))]
        sent = Sent(queue.id, producer, sequence, encode_batch(bodies), len(bodies))
        known.batches[producer, sequence] = sent
        self._send(sent, name)
        return None

    def _resend(self, producer: int) -> None:
        """What a client does after it lost its connection: everything unconfirmed again, in order."""
        self.seen["resends"] += 1
        names = {queue.id: queue.name for queue in self.road.machine.queues()}
        for (number, _), sent in sorted(self.known.batches.items()):
            if number == producer and (sent.zxid is None or self.rng.random() < 0.2):
                if sent.queue_id not in names:
                    # Its queue is gone and with it the batch; a client would get QueueNotFound and give up.
                    self.known.producers.remove(producer)
                    return
                self._send(sent, names[sent.queue_id])

    def _send(self, sent: Sent, name: str) -> None:
        known, road = self.known, self.road

        def told(outcome: Outcome) -> None:
            if outcome.error is not None:
                # A gap behind a batch that was refused, or the queue was deleted before: nothing is there.
                assert isinstance(outcome.error, SluiceError)
                if sent.producer in known.producers:
                    known.producers.remove(sent.producer)
                return
            assert sent.zxid in (None, outcome.value.zxid), "a batch keeps its position"
            assert outcome.value.duplicate is (outcome.value.zxid != zxid), "a duplicate has another position"
            sent.zxid = outcome.value.zxid

        zxid = road.order.next_zxid
        sent.proposed.append(zxid)
        known.by_zxid[zxid] = sent
        self._ask(
            road.produce.publish,
            "/",
            "anonymous",
            name,
            sent.producer,
            sent.sequence,
            memoryview(sent.payload),
            then=told,
        )

    def connect(self) -> None:
        if len(self.clients) < 4:
            client = Client(self.road)

            def told(outcome: Outcome) -> None:
                client.opened(outcome.value.session)
                self.clients.append(client)

            self._ask(self.road.produce.open_session, "/", "anonymous", "test", b"", then=told)

    def consume(self) -> None:
        queue = self.road.machine.find_queue("/", self.rng.choice(QUEUES))
        if queue is None or not self.clients:
            return self.connect()
        self.rng.choice(self.clients).consume(queue, credit=self.rng.choice((1, 5, 50)))
        return None

    def settle(self) -> None:
        """Settle a few neighbours of what one client got."""
        holders = [client for client in self.clients if client.received]
        if not holders:
            return self.consume()
        client, rng, known = self.rng.choice(holders), self.rng, self.known
        start = rng.randrange(len(client.received))
        first = client.received[start]
        some = [first]
        for message in client.received[start + 1 : start + rng.choice((1, 3, 30))]:
            if message.consumer != first.consumer or message.tag != some[-1].tag + 1:
                break
            some.append(message)
        del client.received[start : start + len(some)]
        verdict = rng.choice((m.VERDICT_ACK,) * 4 + (m.VERDICT_NACK, m.VERDICT_RELEASE, m.VERDICT_HANDED_OVER))
        tags = [some[0].tag, some[-1].tag]
        addresses = {message.tag: (message.zxid, message.index) for message in some}
        if verdict == m.VERDICT_ACK:
            known.acknowledging.update(addresses.values())

        def told(outcome: Outcome) -> None:
            if verdict == m.VERDICT_ACK:
                lost = outcome.value.lost
                for tag, address in addresses.items():
                    if not any(low <= tag <= high for low, high in zip(lost[::2], lost[1::2], strict=True)):
                        known.acknowledged.add(address)

        delay = rng.choice((None, 0.0, 0.5))
        self._ask(self.road.settle.settle, client.session, first.consumer, verdict, tags, delay, "", then=told)
        return None

    def leave(self) -> None:
        if self.clients:
            self.clients.pop(self.rng.randrange(len(self.clients))).leave()

    def let_time_pass(self) -> None:
        self.seconds += self.rng.choice((0.01, 1.0))
        due_ms = self.road.machine.next_due_ms()
        if due_ms is not None and due_ms <= self.road.clock.now_ms():
            self.road.propose(self.road.settle.clock_entry())

    def expire(self) -> None:
        """Let all leases of the leader run out."""
        settle = self.road.settle
        for session, consumer, tags in settle._outstanding.expired(float("inf")):
            settle._propose(session, consumer, 16, tags, reason="lease expired")

    def purge(self) -> None:
        name = self.rng.choice(QUEUES)
        queue = self.road.machine.find_queue("/", name)
        if queue is not None:
            emptied = self.known.emptied_up_to
            emptied[queue.id] = max(emptied.get(queue.id, 0), self.road.order.next_zxid)
            self._ask(self.road.produce.purge_queue, "/", name, then=lambda _outcome: None)

    def delete(self) -> None:
        name, known = self.rng.choice(QUEUES), self.known
        queue = self.road.machine.find_queue("/", name)
        if queue is not None and self.rng.random() < 0.5:
            queue_id = queue.id

            def told(outcome: Outcome) -> None:
                known.deleting[name] -= 1
                if outcome.error is None:
                    known.deleted.add(queue_id)
                known.queues.pop(name, None)

            # Also what is published before the deletion is applied goes with it.
            known.emptied_up_to[queue_id] = DELETED
            known.in_doubt.add(name)
            if self._ask(self.road.produce.delete_queue, "/", name, False, then=told):
                known.deleting[name] += 1

    def snapshot(self) -> None:
        """Begin one, unless one is under way; it goes on between the next deeds."""
        assert self.road.snapshots is not None
        if not self.road.snapshots._one_at_a_time.locked():
            self.nursery.start_soon(self._take_snapshot, self.road.snapshots)

    async def _take_snapshot(self, snapshots: SnapshotStage) -> None:
        if await snapshots.take() is not None:
            self.seen["snapshots"] += 1

    DEEDS = (
        publish,
        settle,
        consume,
        declare,
        open_producer,
        connect,
        leave,
        let_time_pass,
        expire,
        purge,
        delete,
        snapshot,
    )
    FREQUENT = 3

    # --- afterwards -------------------------------------------------------------------------------------------

    def _restart_and_compare(self, log: SegmentLog, machine: Machine) -> None:
        """Start as the product does, and compare with the machine that replayed everything."""
        rotten = self._let_newest_rot()
        store, pages = SnapshotStore(self.disk, log.cluster_id), PageFile.open(self.disk, cluster_id=log.cluster_id)
        restart = Restart()
        restarted = load_newest(log, store, pages, restart)
        replay(log, restarted, None, restart)
        assert restarted.state_hash() == machine.state_hash(), "a snapshot and the log behind it give one state"
        restarted.check()
        assert len(restart.rejected) == rotten, f"a power cut damages no snapshot: {restart.rejected}"
        if log.start_zxid:
            assert restart.snapshot is not None
            self.seen["starts where the log has lost its beginning"] += 1
        if restart.snapshot is not None:
            self.seen["starts from a snapshot"] += 1
        pages.close()

    def _let_newest_rot(self) -> int:
        """Damage the newest of two snapshots now and then; return how many were damaged."""
        names = sorted(name for name in self.disk.names() if snapshot_zxid(name) is not None)
        if len(names) < 2 or self.rng.random() < 0.8:
            return 0
        self.disk.flip_random_bit(names[-1])
        self.seen["snapshots that rot"] += 1
        return 1

    def _recover_and_check(self) -> None:
        log = SegmentLog.open(self.disk, options=self.options)
        machine, records = _replay(log)
        machine.check()
        self._restart_and_compare(log, machine)
        known = self.known
        present = _messages(machine)

        for zxid, queue_id, count, payload in records:
            sent = known.by_zxid.get(zxid)
            assert sent is not None, "the log holds a batch that nobody sent"
            assert (queue_id, count, bytes(payload)) == (sent.queue_id, sent.count, sent.payload)
        stored = {zxid for zxid, *_ in records}
        for sent in known.batches.values():
            if sent.zxid is None:
                continue
            assert sent.zxid in stored, f"batch {sent.sequence} was reported as published at {sent.zxid:#x} and is lost"
            producer = machine.producers.get(sent.producer)
            assert producer is not None, "the producer of a confirmed batch is known"
            assert producer.last >= sent.sequence, "a confirmed sequence is remembered"
            assert producer.receipt(sent.sequence) == sent.zxid, "a resend gets the first position"
            emptied = known.emptied_up_to.get(sent.queue_id, 0)
            for index in range(sent.count):
                address = (sent.zxid, index)
                if address in known.acknowledged:
                    assert address not in present, f"{address} was acknowledged and came back"
                elif address not in known.acknowledging and sent.zxid > emptied:
                    assert address in present, f"{address} was confirmed, nobody settled it, and it is gone"
        for zxid, index in present:
            assert index < known.by_zxid[zxid].count, "a message that nobody sent"
            assert present[zxid, index] == 1, "a message is there once"
        for queue_id in known.deleted:
            assert machine.queue(queue_id) is None, "a queue that was deleted came back"
        for name, queue_id in known.queues.items():
            queue = machine.find_queue("/", name)
            if name not in known.in_doubt:
                assert queue is not None, f"queue {name} was declared and is gone"
                assert queue.id == queue_id
        for name in QUEUES:
            queue = machine.find_queue("/", name)
            known.in_doubt.discard(name)
            if queue is None:
                known.queues.pop(name, None)
            else:
                known.queues[name] = queue.id
        # What the log never got, its producer must send again: as far as the machine knows it, it is stored.
        for (number, sequence), sent in known.batches.items():
            producer = machine.producers.get(number)
            if producer is not None and sequence <= producer.last and sent.zxid is None:
                self.seen["stored, but never confirmed"] += 1
            elif sent.zxid is None:
                self.seen["lost, as nobody was told"] += 1
                sent.proposed.clear()
        self.seen["recovered messages"] += len(present)
        self.seen["acknowledged messages"] = len(known.acknowledged)
        self.seen["published batches"] = sum(sent.zxid is not None for sent in known.batches.values())
        log.close()


def _replay(log: SegmentLog) -> tuple[Machine, list[tuple[int, int, int, bytes]]]:
    """Return the machine after every entry since the first, and every batch that it accepted."""
    machine = Machine()
    batches = []
    for record in _every_record(log):
        entry = decode_entry(record.kind, record.kind_version, record.header, record.payload)
        outcome = machine.apply(record.zxid, entry)
        if isinstance(entry, Publish) and outcome.error is None and not outcome.value.duplicate:
            batches.append((record.zxid, entry.queue, entry.count, bytes(entry.payload)))
    return machine, batches


def _every_record(log: SegmentLog) -> Iterator[Record]:
    """Yield what is older than the log proper, of which nothing was reclaimed, and the log proper."""
    for file in log.live_files():
        yield from log.walk_live(file)
    zxid = log.start_zxid
    while records := log.read_after(zxid, 1 << 20):
        yield from records
        zxid = records[-1].zxid


def _messages(machine: Machine) -> collections.Counter[tuple[int, int]]:
    """Return every message that the machine holds, whatever its state."""
    found: collections.Counter[tuple[int, int]] = collections.Counter()
    for queue in machine.queues():
        runs = [*queue.main.read(queue.main.head, len(queue.main)), *queue.returned]
        runs += queue.delayed.runs()
        runs += [run for table in queue.leases.values() for _, run, _ in table.pieces()]
        for run in runs:
            found.update((run.zxid, run.first + place) for place in range(run.size))
    return found


async def _run_here(function, *arguments, limiter=None):
    """Do a worker thread's work in the loop: a thread's timing would not be in the seed."""
    del limiter
    return function(*arguments)


# --- known mistakes -------------------------------------------------------------------------------------------------


def _sync_nothing(self: AppendStage) -> None:
    self._unsynced_since = None
    self._durable_bytes = self._written_bytes
    self._durable_zxid = self._log.last_zxid
    self._token.run_sync_soon(self._announce, idempotent=True)


_finish = SnapshotWriter.finish


def _finish_unsynced(self: SnapshotWriter):
    with mock.patch.object(type(self._file), "sync", return_value=None):
        return _finish(self)


def _next_proposed(self: CommitStage):
    return self._waiting.popleft() if self._waiting else None


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """Break the product as *name* says."""
    if name == "confirm on append instead of on sync":
        with mock.patch.object(AppendStage, "_sync", _sync_nothing):
            yield
    elif name == "apply before commit":
        with mock.patch.object(CommitStage, "next_committed", _next_proposed):
            yield
    elif name == "settle without an entry":
        from sluicemq.broker.queues.outcomes import Outcome, Settled

        def tell_only(self, session, consumer, verdict, tags, delay, reason, on_outcome):
            self._outstanding.take(session, consumer, tags)
            on_outcome(Outcome(Settled([], 0)))

        with mock.patch("sluicemq.broker.pipeline.settle.SettleStage.settle", tell_only):
            yield
    elif name == "name a snapshot before it is synced":
        with mock.patch.object(SnapshotWriter, "finish", _finish_unsynced):
            yield
    elif name == "let the log begin at the newest snapshot":
        forget = SnapshotStage._forget_what_is_older

        async def forget_more(self, kept):
            await forget(self, (kept[-1], kept[0]))

        with mock.patch.object(SnapshotStage, "_forget_what_is_older", forget_more):
            yield
    elif name == "pack what was changed meanwhile":
        with mock.patch.object(Freeze, "before", return_value=None):
            yield
    else:
        assert name is None, name
        yield


MUTANTS = {
    name: partial(mutated, name)
    for name in (
        "confirm on append instead of on sync",
        "apply before commit",
        "settle without an entry",
        "name a snapshot before it is synced",
        "let the log begin at the newest snapshot",
        "pack what was changed meanwhile",
    )
}


# --- running --------------------------------------------------------------------------------------------------------


def run_day(seed: int) -> Day:
    """Run one seed; an AssertionError says what was broken."""
    day = Day(seed)
    # The order in which trio runs tasks is random too; this makes it the seed's.
    random_of_trio = trio._core._run._r
    state = random_of_trio.getstate()
    random_of_trio.seed(seed)
    try:
        with (
            mock.patch.object(ground_module, "AppendStage", SteppedAppend),
            mock.patch.object(ground_module, "SLICE_SECONDS", float("inf")),
            mock.patch.object(snapshots_module, "SLICE_SECONDS", float("-inf")),
            mock.patch.object(trio.to_thread, "run_sync", _run_here),
        ):
            trio.run(day.run)
    finally:
        random_of_trio.setstate(state)
    return day


CUTS = PowerCuts("tests.broker.pipeline.power_cuts", run_day, MUTANTS, "nothing lost")

if __name__ == "__main__":
    logging.getLogger("sluicemq").setLevel(logging.ERROR)  # what rots is reported by design
    CUTS.main(__doc__)
