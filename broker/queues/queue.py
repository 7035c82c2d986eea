"""A queue: where its messages are, and how many.

Every published message is exactly one of ready (in `main` or `returned`), leased, delayed, settled or purged; what a
repair gave up counts as purged. This module owns these sets and the counts; it must not know sessions' lives, entries
or the log.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from sluicemq.broker.queues.chunks import ChunksMissing
from sluicemq.broker.queues.delayed import DelayedRuns
from sluicemq.broker.queues.history import START, History, Place
from sluicemq.broker.queues.returned import ReturnedRuns
from sluicemq.broker.queues.runs import Run, RunFifo, joined, messages_in, place_of, size_of
from sluicemq.wire.settings import QUEUE_SETTINGS_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sluicemq.broker.queues.chunks import Chunk, ChunkPool
    from sluicemq.broker.queues.leases import LeaseTable
    from sluicemq.broker.queues.runs import FifoImage

PEEK_RUNS = 64
"""Runs that a look into the queue reads at a time."""

_zxid_of = itemgetter(0)
_first_of = itemgetter(2)
_deliveries_of = itemgetter(7)


def compare_settings(existing: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return what declaring *settings* (checked) would do to a queue with the settings *existing* (None: no queue).

    Returns:
        The outcome, `created`, `changed` or `unchanged`, and each change as name -> [before, after]. A setting that
        the declaration does not name keeps its value. A queue that is created differs from the defaults.

    """
    before = QUEUE_SETTINGS_DEFAULT if existing is None else existing
    changes = {name: [before[name], value] for name, value in settings.items() if before[name] != value}
    if existing is None:
        return "created", changes
    return ("changed" if changes else "unchanged"), changes


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
    main: FifoImage
    returned: list[Run]
    delayed: FifoImage | None
    history: FifoImage | None


class Queue:
    """One queue.

    Args:
        pool: Keeps accounts of the chunks of `main` and `delayed`, for a pager; None: all of them stay in memory.

    Attributes:
        id: Its number: the zxid of the entry that created it.
        vhost: Its vhost.
        name: Its name.
        settings: All its settings, defaults filled in; replaced, never changed in place.
        created_ms: Log time of its creation.
        main: What became ready and was never taken, in order.
        returned: What was taken and given back; comes before `main`.
        delayed: What waits for its time.
        history: What is retained for replay; None where nothing is.
        leases: The tables of the consumers that hold messages, by (session, consumer).
        leased: Messages under lease.
        published_total: Messages ever published here.
        settled_total: Messages ever acknowledged.
        purged_total: Messages ever purged, or given up by a repair.
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
        "leased",
        "leases",
        "main",
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
        self.main = RunFifo(pool)
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
    def ready(self) -> int:
        """Messages that could be delivered now."""
        return self.main.messages + self.returned.messages

    @property
    def messages(self) -> int:
        """All messages: ready, leased and delayed."""
        return self.main.messages + self.returned.messages + self.leased + self.delayed.messages

    @property
    def retry_delay_ms(self) -> int:
        """Milliseconds that a message waits after a nack that names no delay."""
        return round(float(self.settings["retry_delay"]) * 1000)

    @property
    def oldest_published_ms(self) -> int | None:
        """Log time at which the message in front was published; None when nothing is ready."""
        run = self.returned.first()
        return self.main.front_published_ms() if run is None else run.published_ms

    @property
    def next_due_ms(self) -> int | None:
        """When CLOCK has something to do here, in log time: the first delayed run, or the oldest retained batch."""
        due_ms = self.delayed.next_due_ms
        if self.history is None:
            return due_ms
        expiry_ms = self.history.next_due_ms
        if due_ms is None or expiry_ms is None:
            return expiry_ms if due_ms is None else due_ms
        return min(due_ms, expiry_ms)

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
            self.main.image(),
            self.returned.frozen(),
            self.delayed.image(),
            None if history is None else history.runs.image(),
        )

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
        """Put a new batch behind the tail."""
        self.main.append(Run(zxid, zxid, 0, count, count, batch_bytes, published_ms))
        self.published_total += count

    def make_ready(self, runs: list[Run], zxid: int) -> None:
        """Put *runs* behind the tail, in this order, because of the entry *zxid*."""
        self.main.extend(joined([Run(run[0], zxid, *run[2:]) for run in runs]))

    def give_back(self, runs: list[Run]) -> list[Run]:
        """Put *runs* back to their former places; return them as they lie there, by place."""
        placed = joined(sorted(runs, key=place_of))
        for run in placed:
            self.returned.add(run)
        return placed

    def missing(self, flat: list[int]) -> list[Chunk]:
        """Return the chunks that `take` needs for this GRANT and that are not in memory."""
        return self.main.missing(self.main.head, len(flat) // 3)

    def take(self, flat: list[int]) -> list[Run | int]:
        """Take the ready runs that a GRANT names out of the queue; what `missing` names was filled before.

        Args:
            flat: `[zxid, first, count, ...]`. Each must be the front of `main` at its turn, or of a returned run;
                in both cases the whole run or its front part.

        Returns:
            For each one the run, or the count of messages that were asked for where they are not to be had.

        """
        runs = self._take_front(flat)
        taken: list[Run | int] = list(runs)
        bulk = not runs
        start = len(runs)
        total = len(flat) // 3
        while start < total:
            zxid, first, count = flat[3 * start : 3 * start + 3]
            run = self.returned.take(zxid, first, count) if self.returned else None
            if run is None and bulk:
                # What was returned comes first in a grant; the rest is the front of main, mostly.
                bulk = False
                rest = self._take_front(flat[3 * start :])
                if rest:
                    taken += rest
                    start += len(rest)
                    continue
            if run is None:
                run = self._take_first(zxid, first, count)
            taken.append(count if run is None else run)
            start += 1
        self._count_redelivered([run for run in taken if isinstance(run, Run)])
        return taken

    def purge(self) -> int:
        """Drop what is ready or delayed; return how many messages that were."""
        count = self.ready + self.delayed.messages
        self.main.clear()
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
        if skip < self.returned.messages:
            for run in self.returned:
                if count_max <= 0:
                    return found
                if skip >= run.size:
                    skip -= run.size
                    continue
                count_max -= _append_part(found, run, skip, count_max)
                skip = 0
        else:
            skip -= self.returned.messages
        ordinal, inside = self.main.find(skip)
        while count_max > 0:
            runs = self.main.read(ordinal, min(count_max, PEEK_RUNS))
            if not runs:
                missing = self.main.missing(ordinal, 1)
                if missing:
                    raise ChunksMissing(missing)
                break
            ordinal = self.main.read_ordinal
            for run in runs:
                count_max -= _append_part(found, run, inside, count_max)
                inside = 0
                if count_max <= 0:
                    break
        return found

    def _take_front(self, flat: list[int]) -> list[Run]:
        """Take runs out of the front of `main` as long as they are those of *flat*; all at once if possible."""
        main = self.main
        wanted = len(flat) // 3
        runs = main.read(main.head, wanted)
        assert len(runs) == wanted or not main.missing(main.head, wanted), "the chunks of a grant are in memory"
        if not runs or runs[0][0] != flat[0]:
            return []
        zxids, firsts, counts = flat[::3], flat[1::3], flat[2::3]
        if len(runs) < wanted or list(map(_zxid_of, runs)) != zxids or list(map(_first_of, runs)) != firsts:
            return []
        if list(map(size_of, runs)) == counts:
            main.consume(wanted, sum(counts))
            return runs
        last = runs[-1]
        if list(map(size_of, runs[:-1])) != counts[:-1] or not 0 < counts[-1] < last.size:
            return []
        main.consume(wanted - 1, sum(counts) - counts[-1])
        main.trim(counts[-1])
        runs[-1], _ = last.split(counts[-1])
        return runs

    def _take_first(self, zxid: int, first: int, count: int) -> Run | None:
        """Take the front of `main` out if it is this; else None."""
        run = self.main.first()
        if run is None or run.zxid != zxid or run.first != first or not 0 < count <= run.size:
            return None
        if count == run.size:
            self.main.consume(1, count)
            return run
        self.main.trim(count)
        return run.split(count)[0]

    def _count_redelivered(self, runs: list[Run]) -> None:
        if any(map(_deliveries_of, runs)):
            self.redelivered_total += messages_in(run for run in runs if run.deliveries)


def _append_part(found: list[Run], run: Run, skip: int, count_max: int) -> int:
    """Append at most *count_max* messages of *run* after its first *skip* to *found*; return how many."""
    if skip:
        run = run.split(skip)[1]
    if run.size > count_max:
        run = run.split(count_max)[0]
    found.append(run)
    return run.size
