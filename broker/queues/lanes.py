"""Lanes: what became ready in a queue and was never taken, one index for each priority.

Most queues know one priority, 0, and so one lane. Messages of a higher priority go first, those of one priority in the
order in which they became ready. Most leave in front; some from the middle, by their place.

Messages may expire. Those in front are looked at as they are; a run that expires before one in front of it stands in
the index `expiring` as well, in the order of time. What left by another way still stands there until its time comes:
then it is not found. This module must not know leases, entries or clocks: what time it is, it is told.
"""

from __future__ import annotations

from itertools import starmap
from operator import itemgetter
from typing import TYPE_CHECKING

from sluicemq.broker.queues.chunks import EXPIRES_OFFSET, ROW, RUN_BYTES
from sluicemq.broker.queues.delayed import DelayedRuns
from sluicemq.broker.queues.fifo import RunFifo
from sluicemq.broker.queues.runs import expires_ms_of, first_of, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sluicemq.broker.queues.chunks import Chunk, ChunkPool
    from sluicemq.broker.queues.runs import Run

NEVER = (1 << 64) - 1
"""`RunFifo.expiry_ms` of a lane with a run that never expires."""
EXPIRING_MESSAGES_MAX = 10_000_000  # frozen by the log's format, see `MachineLimits`: it shows in the state
"""Most messages of one queue that are known to expire before one in front of them: 640 MB at most, mostly on pages."""
_READ_RUNS_MIN = 4

_zxid_of = itemgetter(0)

# What every queue with one priority refers to, never changed.
_NO_LANES: dict[int, RunFifo] = {}


class Lanes:
    """The lanes of one queue.

    Args:
        pool: Keeps accounts of sealed chunks, for a pager; None: all of them stay in memory.

    Attributes:
        main: The lane of priority 0.
        expiring: The runs that expire before one in front of them, in the order of time; None before the first. Any
            entry may put some into its middle and must not wait for a page: then they wait beside their chunk, however
            many they are, until an entry that can wait comes (`missing_watched`).
        has_expiry: Whether anything ever expired or may.

    """

    __slots__ = ("_others", "_pool", "expiring", "has_expiry", "main")

    def __init__(self, pool: ChunkPool | None = None) -> None:
        self.main = RunFifo(pool)
        self.expiring: DelayedRuns | None = None
        self.has_expiry = False
        self._others = _NO_LANES  # by priority, highest first
        self._pool = pool

    def __iter__(self) -> Iterator[RunFifo]:
        """Yield the lanes that were made, highest priority first."""
        if self._others:
            yield from self._others.values()
        yield self.main

    def items(self) -> Iterator[tuple[int, RunFifo]]:
        """Yield (priority, lane), highest first."""
        yield from self._others.items()
        yield 0, self.main

    @property
    def messages(self) -> int:
        """Messages in all lanes."""
        if not self._others:
            return self.main.messages
        return sum(lane.messages for lane in self)

    @property
    def only_main(self) -> bool:
        """Whether no priority but 0 was ever seen."""
        return not self._others

    def lane(self, priority: int) -> RunFifo:
        """Return the lane of *priority*, made if it was not there."""
        if not priority:
            return self.main
        lane = self._others.get(priority)
        if lane is None:
            lane = RunFifo(self._pool)
            self.put(priority, lane)
        return lane

    def put(self, priority: int, lane: RunFifo) -> None:
        """Let *lane*, which an image held, be that of *priority*."""
        if lane.front_expires_ms() is not None:
            self.has_expiry = True
        if not priority:
            self.main = lane
        else:
            self._others = dict(sorted({**self._others, priority: lane}.items(), reverse=True))

    def put_expiring(self, expiring: DelayedRuns) -> None:
        """Take over what an image held."""
        self.expiring = expiring
        self.has_expiry = True

    # --- adding ----------------------------------------------------------------------------------------------------

    def extend(self, runs: Iterable[Run]) -> None:
        """Put *runs*, in this order, behind all others of their priorities."""
        unseen: list[Run] = []
        for run in runs:
            lane = self.lane(run.priority)
            if not run.expires_ms:
                lane.expiry_ms = NEVER
            else:
                self.has_expiry = True
                if lane.head == lane.tail:
                    lane.expiry_ms = 0
                if run.expires_ms < lane.expiry_ms:
                    unseen.append(run)
                else:
                    lane.expiry_ms = run.expires_ms
            lane.append(run)
        if unseen:
            self.watch(unseen)

    def watch(self, runs: Iterable[Run]) -> None:
        """Note when *runs* expire that are not, or will not be, seen in front of a lane when they do.

        As far as there is room for that; the others go when they are in front, and not before.
        """
        expiring = self.expiring or DelayedRuns(self._pool, EXPIRES_OFFSET)
        expiring.merge_late()
        watched: list[Run] = []
        messages = 0
        for run in runs:
            if run.expires_ms:
                self.put_expiring(expiring)
                if expiring.messages + messages < EXPIRING_MESSAGES_MAX:
                    watched.append(run)
                    messages += run.size
        if watched:
            # All at once: one by one each costs as much as some dozens of them do together.
            watched.sort(key=expires_ms_of)
            rows = b"".join(starmap(ROW.pack, watched))
            expiring.add_rows(rows, list(map(expires_ms_of, watched)), messages)

    # --- expiring --------------------------------------------------------------------------------------------------

    def next_expiry_ms(self) -> int | None:
        """Return when the first run expires, as far as `expire` has to look then; None: never."""
        if not self.has_expiry:
            return None
        times = [time for lane in self if (time := lane.front_expires_ms()) is not None]
        if self.expiring is not None and self.expiring.next_due_ms is not None:
            times.append(self.expiring.next_due_ms)
        return min(times, default=None)

    def expire_front(self, log_time_ms: int, runs_max: int) -> list[Run]:
        """Take at most *runs_max* runs out of the fronts of the lanes that expire by *log_time_ms*."""
        taken: list[Run] = []
        for lane in self:
            while len(taken) < runs_max and (lane.front_expires_ms() or NEVER) <= log_time_ms:
                run = lane.first()
                assert run is not None, "the run in front is there"
                lane.consume(1, run.size)
                taken.append(run)
        return taken

    def due_to_expire(self, log_time_ms: int, runs_max: int) -> list[Run]:
        """Take what `expiring` holds by *log_time_ms*: runs as they were, which may have left or lost a part."""
        return [] if self.expiring is None else self.expiring.take_due(log_time_ms, runs_max)

    def missing_expired(self, log_time_ms: int, runs_max: int) -> list[Chunk]:
        """Return the chunks that are not in memory among those that expiring needs."""
        if not self.has_expiry:
            return []
        missing: list[Chunk] = []
        for lane in self:
            if (lane.front_expires_ms() or NEVER) <= log_time_ms:
                missing += lane.missing(lane.head, runs_max)
        if self.expiring is not None:
            missing += self.expiring.missing_due(log_time_ms, runs_max)
            for run in self.expiring.look_due(log_time_ms, runs_max):
                missing += self.lane(run.priority).missing_place((run.ready, run.zxid, run.first))
        return list(dict.fromkeys(missing))

    def missing_watched(self) -> list[Chunk]:
        """Return chunks that are not in memory and that are to take what gathered beside them."""
        return [] if self.expiring is None else self.expiring.missing_late()

    # --- taking ----------------------------------------------------------------------------------------------------

    def take_front(self, flat: list[int], position: int) -> list[Run]:
        """Take runs out of the front of one lane as long as they are those of *flat* from *position* on."""
        if not self._others:
            return _take_front(self.main, flat[position:] if position else flat)
        for lane in self:
            run = lane.first()
            if run is not None and run.zxid == flat[position] and run.first == flat[position + 1]:
                return _take_some(lane, flat, position)
        return []

    def take_first(self, zxid: int, first: int, count: int) -> Run | None:
        """Take the front of a lane out if it is this; else None."""
        for lane in self:
            run = lane.first()
            if run is not None and run.zxid == zxid and run.first == first and 0 < count <= run.size:
                if count == run.size:
                    lane.consume(1, count)
                    return run
                lane.trim(count)
                return run.split(count)[0]
        return None

    def find(self, ready: int, zxid: int, first: int) -> Run | None:
        """Return the run that holds the message *first* of the batch *zxid* and became ready with *ready*."""
        for lane in self:
            ordinal = lane.find_place((ready, zxid, first))
            if ordinal is not None:
                run = lane.run_at(ordinal)
                return run if run.first <= first < run.first + run.size else None
        return None

    def fronts_within(self, ready: int, zxid: int, first: int, end: int) -> list[Run]:
        """Return the runs in front of a lane with messages *first* to *end* of a batch, as `ReturnedRuns.within` does.

        Nowhere else a run stays in its lane when a part of it leaves.
        """
        runs: list[Run] = []
        for lane in self:
            for base, rows, _ in lane.parts_of(ready):
                assert rows is not None, "the chunks of a run that is wanted are in memory"
                if base <= lane.head < base + len(rows) // RUN_BYTES:
                    run = lane.first()
                    if run is not None and (run.ready, run.zxid) == (ready, zxid):
                        runs += [run] if run.first < end and first < run.first + run.size else []
        return runs

    def take_placed(self, ready: int, zxid: int, first: int, count: int) -> tuple[Run, list[Run]] | None:
        """Take *count* messages out of one run, wherever it is; also return what is left of it and left the lane."""
        for lane in self:
            ordinal = lane.find_place((ready, zxid, first))
            if ordinal is not None:
                run = lane.run_at(ordinal)
                if run.first > first or first + count > run.first + run.size or count <= 0:
                    return None
                return run._replace(first=first, size=count), lane.remove(ordinal, first, count)
        return None

    def take_whole(self, run: Run) -> Run | None:
        """Take what is left of *run* in its lane out, if anything is."""
        lane = self.lane(run.priority)
        ordinal = lane.find_place((run.ready, run.zxid, run.first))
        if ordinal is None:
            return None
        left = lane.run_at(ordinal)
        lane.remove(ordinal, left.first, left.size)
        return left

    def missing_placed(self, ready: int, zxid: int, first: int) -> list[Chunk]:
        """Return the chunks that are not in memory among those that `take_placed` needs."""
        return [chunk for lane in self for chunk in lane.missing_place((ready, zxid, first))]

    def clear(self) -> None:
        """Drop everything, at the same cost however much it is."""
        for lane in self:
            lane.clear()
        if self.expiring is not None:
            self.expiring.empty()
            self.expiring = None


def _take_front(lane: RunFifo, flat: list[int]) -> list[Run]:
    """Take all of *flat* out of the front of *lane* if that is what stands there, at the cost of a few calls in C."""
    wanted = len(flat) // 3
    runs = lane.read(lane.head, wanted)
    assert len(runs) == wanted or not lane.missing(lane.head, wanted), "the chunks of a grant are in memory"
    if not runs or runs[0][0] != flat[0]:
        return []
    zxids, firsts, counts = flat[::3], flat[1::3], flat[2::3]
    if len(runs) < wanted or list(map(_zxid_of, runs)) != zxids or list(map(first_of, runs)) != firsts:
        return []
    if list(map(size_of, runs)) == counts:
        lane.consume(wanted, sum(counts))
        return runs
    last = runs[-1]
    if list(map(size_of, runs[:-1])) != counts[:-1] or not 0 < counts[-1] < last.size:
        return []
    lane.consume(wanted - 1, sum(counts) - counts[-1])
    lane.trim(counts[-1])
    runs[-1], _ = last.split(counts[-1])
    return runs


def _take_some(lane: RunFifo, flat: list[int], position: int) -> list[Run]:
    """Take as many runs of *flat*, from *position* on, out of the front of *lane* as stand there in a row."""
    taken: list[Run] = []
    read_max = _READ_RUNS_MIN
    while position < len(flat):
        runs = lane.read(lane.head, read_max)
        fitting = 0
        for run in runs:
            if position >= len(flat) or flat[position : position + 3] != [run.zxid, run.first, run.size]:
                break
            fitting += 1
            position += 3
        lane.consume(fitting, sum(map(size_of, runs[:fitting])))
        taken += runs[:fitting]
        if fitting < len(runs) or not runs:
            break
        read_max *= 2
    if position < len(flat):
        front = lane.first()
        zxid, first, count = flat[position : position + 3]
        if front is not None and front.zxid == zxid and front.first == first and 0 < count < front.size:
            lane.trim(count)
            taken.append(front.split(count)[0])
    return taken
