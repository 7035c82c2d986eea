"""A queue: where its messages are, and how many.

Every published message is exactly one of ready (in `lanes` or `returned`), leased, delayed, dead, or gone: settled,
purged, expired, dropped or moved to another queue. This module owns these sets and the counts; it must not know
sessions' lives, entries or the log.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from sluicemq.broker.queues.chunks import ChunksMissing
from sluicemq.broker.queues.delayed import DelayedRuns
from sluicemq.broker.queues.history import START, History, Place
from sluicemq.broker.queues.lanes import NEVER, Lanes
from sluicemq.broker.queues.returned import ReturnedRuns
from sluicemq.broker.queues.runs import Run, by_place, joined, messages_in
from sluicemq.wire.settings import QUEUE_SETTINGS_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sluicemq.broker.queues.chunks import Chunk, ChunkPool, FifoImage
    from sluicemq.broker.queues.fifo import RunFifo
    from sluicemq.broker.queues.leases import LeaseTable

PEEK_RUNS = 64
"""Runs that a look into the queue reads at a time."""

_deliveries_of = itemgetter(7)


class FrozenQueue(NamedTuple):
    """A queue as it was at one moment; the first fields are the columns of `sections.QUEUES`."""

    id: int
    vhost: str
    name: str
    settings: dict[str, Any]
    created_ms: int
    published_total: int
    settled_total: int
    purged_total: int
    redelivered_total: int
    retained: tuple[int, ...] | None
    lanes: list[tuple[int, FifoImage]]
    returned: list[Run]
    delayed: FifoImage | None
    history: FifoImage | None
    expiring: FifoImage | None


class Queue:
    """One queue.

    Args:
        pool: Keeps accounts of the chunks of all indexes, for a pager; None: all of them stay in memory.

    Attributes:
        id: Its number: the zxid of the entry that created it.
        vhost: Its vhost.
        name: Its name.
        settings: All its settings, defaults filled in; replaced, never changed in place.
        created_ms: Log time of its creation.
        lanes: What became ready and was never taken, in order, by priority.
        returned: What was taken and given back; comes before what is in the lane of its priority.
        delayed: What waits for its time.
        history: What is retained for replay; None where nothing is.
        leases: The tables of the consumers that hold messages, by (session, consumer).
        leased: Messages under lease.
        published_total: Messages ever published here.
        settled_total: Messages ever acknowledged.
        purged_total: Messages ever purged.
        redelivered_total: Messages ever granted that had been granted before.
        frozen_for: Number of the last freeze that has what it needs of this queue.

    """

    __slots__ = (
        "_pool",
        "created_ms",
        "delayed",
        "frozen_for",
        "history",
        "id",
        "lanes",
        "leased",
        "leases",
        "name",
        "published_total",
        "purged_total",
        "redelivered_total",
        "returned",
        "settings",
        "settled_total",
        "vhost",
    )

    def __init__(
        self,
        id_: int,
        vhost: str,
        name: str,
        settings: Mapping[str, Any],
        created_ms: int,
        pool: ChunkPool | None = None,
    ) -> None:
        self.id = id_
        self.vhost = vhost
        self.name = name
        self.settings: dict[str, Any] = {**QUEUE_SETTINGS_DEFAULT, **settings}
        self.created_ms = created_ms
        self.lanes = Lanes(pool)
        self.returned = ReturnedRuns()
        self.delayed = DelayedRuns(pool)
        self.history: History | None = None
        self._pool = pool
        self.leases: dict[tuple[int, int], LeaseTable] = {}
        self.leased = 0
        self.published_total = 0
        self.settled_total = 0
        self.purged_total = 0
        self.redelivered_total = 0
        self.frozen_for = 0

    @property
    def main(self) -> RunFifo:
        """The lane of priority 0."""
        return self.lanes.main

    @property
    def ready(self) -> int:
        """Messages that could be delivered now."""
        return self.lanes.messages + self.returned.messages

    @property
    def messages(self) -> int:
        """All messages: ready, leased and delayed."""
        return self.lanes.messages + self.returned.messages + self.leased + self.delayed.messages

    @property
    def retry_delay_ms(self) -> int:
        """Milliseconds that a message waits after a nack that names no delay."""
        return round(float(self.settings["retry_delay"]) * 1000)

    @property
    def oldest_published_ms(self) -> int | None:
        """Log time at which the message in front was published; None when nothing is ready."""
        first = self.returned.first()
        for priority, lane in self.lanes.items():
            if first is not None and first.priority >= priority:
                return first.published_ms
            if lane.messages:
                return lane.front_published_ms()
        return None

    @property
    def next_due_ms(self) -> int | None:
        """When CLOCK has something to do here, in log time: the first delayed run, the oldest retained batch, or the
        first that expires."""
        due_ms = self.delayed.next_due_ms
        if self.history is None and not self.lanes.has_expiry:
            return due_ms
        times = (due_ms, None if self.history is None else self.history.next_due_ms, self.lanes.next_expiry_ms())
        return min((time for time in times if time is not None), default=None)

    def frozen(self) -> FrozenQueue:
        """Return a copy that nothing changes any more; chunks are not copied, so it takes microseconds."""
        history = self.history
        return FrozenQueue(
            self.id,
            self.vhost,
            self.name,
            self.settings,
            self.created_ms,
            self.published_total,
            self.settled_total,
            self.purged_total,
            self.redelivered_total,
            None if history is None else history.places(),
            [(priority, lane.image()) for priority, lane in self.lanes.items() if lane.messages],
            self.returned.frozen(),
            self.delayed.image(),
            None if history is None else history.runs.image(),
            None if self.lanes.expiring is None else self.lanes.expiring.image(),
        )

    def images(self) -> Iterator[FifoImage]:
        """Yield what each index is at this moment, but for that of retained batches."""
        for lane in self.lanes:
            yield lane.image()
        for index in (self.delayed, self.lanes.expiring):
            image = None if index is None else index.image()
            if image is not None:
                yield image

    def change_settings(self, settings: Mapping[str, Any], zxid: int, log_time_ms: int) -> None:
        """Take *settings* (checked) over, because of the entry *zxid*.

        Retention begins with the next message, and lets go of everything when it is turned off.
        """
        self.settings = {**self.settings, **settings}
        retention = self.settings["retention"]
        if retention is None:
            self.forget_history()
        elif self.history is not None:
            self.history.limit(retention)
        elif self.published_total:
            self.history = History(retention, Place(zxid, 0), log_time_ms, self._pool)
        else:
            self.history = History(retention, START, 0, self._pool)

    def forget_history(self) -> None:
        """Let go of everything that is retained, at the same cost however much it is."""
        if self.history is not None:
            self.history.runs.clear()
            self.history = None

    def publish(self, zxid: int, count: int, batch_bytes: int, published_ms: int) -> None:
        """Put a new batch, whose messages have neither priority nor key nor expire, behind the tail."""
        main = self.lanes.main
        main.expiry_ms = NEVER
        main.append(Run(zxid, zxid, 0, count, count, batch_bytes, published_ms))
        self.published_total += count

    def make_ready(self, runs: list[Run], zxid: int) -> None:
        """Put *runs* behind the tails of their lanes, in this order, because of the entry *zxid*."""
        append = self.lanes.append
        for run in joined([Run(run[0], zxid, *run[2:]) for run in runs]):
            append(run)

    def give_back(self, runs: list[Run]) -> list[Run]:
        """Put *runs* back to their former places; return them as they lie there, by place."""
        placed = joined(by_place(runs))
        for run in placed:
            self.returned.add(run)
        if self.lanes.has_expiry:
            self.lanes.watch(placed)
        return placed

    def missing(self, flat: list[int]) -> list[Chunk]:
        """Return the chunks that `take` needs for this GRANT and that are not in memory."""
        wanted = len(flat) // 3
        return [chunk for lane in self.lanes for chunk in lane.missing(lane.head, wanted)]

    def missing_placed(self, flat: list[int]) -> list[Chunk]:
        """Return the chunks that `take_placed` needs for this GRANT and that are not in memory."""
        chunks: dict[Chunk, None] = {}
        for ready, zxid, first in zip(flat[::4], flat[1::4], flat[2::4], strict=True):
            chunks.update(dict.fromkeys(self.lanes.missing_placed(ready, zxid, first)))
        return list(chunks)

    def take(self, flat: list[int]) -> list[Run | int]:
        """Take the ready runs that a GRANT names out of the queue; what `missing` names was filled before.

        Args:
            flat: `[zxid, first, count, ...]`. Each must be the front of a lane at its turn, or of a returned run;
                in both cases the whole run or its front part.

        Returns:
            For each one the run, or the count of messages that were asked for where they are not to be had.

        """
        lanes = self.lanes
        runs = lanes.take_front(flat, 0)
        taken: list[Run | int] = list(runs)
        # Among the runs of one lane nothing else can be in front once another was not.
        bulk = not runs or not lanes.only_main
        position = 3 * len(runs)
        while position < len(flat):
            zxid, first, count = flat[position : position + 3]
            run = self.returned.take(zxid, first, count) if self.returned else None
            if run is None and bulk:
                # What was returned comes first in a grant; the rest is the front of a lane, mostly.
                bulk = not lanes.only_main
                rest = lanes.take_front(flat, position)
                if rest:
                    taken += rest
                    position += 3 * len(rest)
                    continue
            if run is None:
                run = lanes.take_first(zxid, first, count)
            taken.append(count if run is None else run)
            position += 3
        self._count_redelivered([run for run in taken if isinstance(run, Run)])
        return taken

    def take_placed(self, flat: list[int]) -> list[Run | int]:
        """Take ready runs out of the queue wherever they are; what `missing_placed` names was filled before.

        What is left of a run that lost a part from its middle, its tail, or its front while it was not the first of its
        lane, goes to `returned`.

        Args:
            flat: `[ready, zxid, first, count, ...]`: neighbouring messages within one run of a lane, or the front of a
                returned one.

        Returns:
            As `take` does.

        """
        taken: list[Run | int] = []
        for ready, zxid, first, count in zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True):
            run = self.returned.take(zxid, first, count) if self.returned else None
            if run is None:
                found = self.lanes.take_placed(ready, zxid, first, count)
                if found is not None:
                    run, rest = found
                    for part in rest:
                        self.returned.add(part)
                    self.lanes.watch(rest)
            taken.append(count if run is None else run)
        self._count_redelivered([run for run in taken if isinstance(run, Run)])
        return taken

    def purge(self) -> int:
        """Drop what is ready or delayed; return how many messages that were."""
        count = self.ready + self.delayed.messages
        self.lanes.clear()
        self.returned.clear()
        self.delayed.empty()
        self.delayed = DelayedRuns(self._pool)
        self.purged_total += count
        return count

    def peek(self, skip: int, count_max: int) -> list[Run]:
        """Return ready runs in order: at most *count_max* messages after the first *skip*.

        Raises:
            ChunksMissing: Some of them lie in a chunk that is not in memory.

        """
        found: list[Run] = []
        returned = list(self.returned)
        for priority, lane in self.lanes.items():
            first = [run for run in returned if run.priority == priority] if returned else returned
            skip, count_max = _look_at(first, found, skip, count_max)
            if count_max <= 0:
                break
            if skip >= lane.messages:
                skip -= lane.messages
                continue
            count_max = _look_into(lane, found, skip, count_max)
            skip = 0
        return found

    def _count_redelivered(self, runs: list[Run]) -> None:
        if any(map(_deliveries_of, runs)):
            self.redelivered_total += messages_in(run for run in runs if run.deliveries)


def _look_at(runs: list[Run], found: list[Run], skip: int, count_max: int) -> tuple[int, int]:
    """Append to *found* what *runs* hold behind the first *skip* messages; return what is left of both numbers."""
    for run in runs:
        if count_max <= 0:
            break
        if skip >= run.size:
            skip -= run.size
            continue
        count_max -= _append_part(found, run, skip, count_max)
        skip = 0
    return skip, count_max


def _look_into(lane: RunFifo, found: list[Run], skip: int, count_max: int) -> int:
    """Append to *found* what *lane* holds behind the first *skip* messages; return how many are still wanted."""
    ordinal, inside = lane.find(skip)
    while count_max > 0:
        runs = lane.read(ordinal, min(count_max, PEEK_RUNS))
        if not runs:
            missing = lane.missing(ordinal, 1)
            if missing:
                raise ChunksMissing(missing)
            break
        ordinal = lane.read_ordinal
        inside, count_max = _look_at(runs, found, inside, count_max)
    return count_max


def _append_part(found: list[Run], run: Run, skip: int, count_max: int) -> int:
    """Append at most *count_max* messages of *run* after its first *skip* to *found*; return how many."""
    if skip:
        run = run.split(skip)[1]
    if run.size > count_max:
        run = run.split(count_max)[0]
    found.append(run)
    return run.size
