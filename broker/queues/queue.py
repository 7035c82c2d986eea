"""A queue: where its messages are, and how many.

Every published message is exactly one of ready (in `lanes` or `returned`), leased, delayed, dead, or gone: settled,
purged, expired, dropped or moved to another queue. This module owns these sets and the counts; it must not know
sessions' lives, entries or the log.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues.chunks import ROW
from sluicemq.broker.queues.delayed import DelayedRuns
from sluicemq.broker.queues.fifo import RunFifo
from sluicemq.broker.queues.frozen_queue import FrozenQueue, frozen_queue
from sluicemq.broker.queues.history import START, History, Place
from sluicemq.broker.queues.keys import KeyStates
from sluicemq.broker.queues.lanes import NEVER, Lanes
from sluicemq.broker.queues.looking import look_through
from sluicemq.broker.queues.notes import NoteTable
from sluicemq.broker.queues.pauses import PAUSED_PUBLISH
from sluicemq.broker.queues.returned import ReturnedRuns
from sluicemq.broker.queues.runs import Run, by_place, bytes_in, expires_ms_of, joined, messages_in
from sluicemq.broker.queues.taking import take_left, take_rows
from sluicemq.broker.queues.windows import follow_windows, windows_of
from sluicemq.wire.settings import QUEUE_SETTINGS_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sluicemq.broker.queues.chunks import Chunk, ChunkPool, FifoImage
    from sluicemq.broker.queues.leases import LeaseTable
    from sluicemq.broker.queues.window import IdWindow

NOTHING_DEAD = RunFifo()
"""What every queue without dead letters refers to, never changed."""
NO_NOTES = NoteTable()
"""What every queue without notes refers to, never changed."""
NOTHING_DECLARED: frozenset[str] = frozenset()
_deliveries_of = itemgetter(7)


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
        window: The ids of what was published, where duplicates are looked out for.
        settled_window: The ids of what was acknowledged, likewise.
        leases: The tables of the consumers that hold messages, by (session, consumer).
        leased: Messages under lease.
        published_total: Messages ever published here.
        settled_total: Messages ever acknowledged.
        dead: Dead letters in the order in which they died. What all queues without any refer to is never changed.
        notes: Why messages were given back or died. Likewise.
        bytes: What is ready, leased and delayed takes, about; None where nobody asks.
        purged_total: Messages ever purged: those of the queue, and dead letters; also what a repair gave up.
        expired_total: Messages ever gone because of their age; not those that became dead letters.
        dropped_total: Messages ever gone because there were too many; likewise.
        dead_total: Messages that ever became dead letters here, as often as they did; each is one of `dead`, of those
            in `redriven_total`, or of those in `discarded_total`.
        redriven_total: Dead letters that lay aside and were ever tried again, here or in another queue.
        discarded_total: Dead letters that lay aside and were ever dropped, also by a repair.
        moved_total: Messages that ever went on to another queue.
        redelivered_total: Messages ever granted that had been granted before.
        used_ms: Log time of the last declaration, of what MARK_USED said, and of the last message where it may expire.
        keys: Which keys must wait, where the queue is ordered by key; else None.
        tells_leases: Whether the leader wants to hear of all leases that end.
        is_limited: Whether it has a largest length or size.
        is_plain: Whether a batch that says nothing about delivery just goes behind the tail: no limit, lifetime or end.
        paused: `PAUSED_PUBLISH` and `PAUSED_DELIVER`, or neither.
        declared: Names of the settings that were declared, so that no policy changes them; replaced, never changed.
        frozen_for: Number of the last freeze that has what it needs of this queue.

    """

    KIND = "queue"

    __slots__ = (
        "_pool",
        "bytes",
        "created_ms",
        "dead",
        "dead_total",
        "declared",
        "delayed",
        "discarded_total",
        "dropped_total",
        "expired_total",
        "frozen_for",
        "history",
        "id",
        "is_limited",
        "is_plain",
        "keys",
        "lanes",
        "leased",
        "leases",
        "moved_total",
        "name",
        "notes",
        "paused",
        "published_total",
        "purged_total",
        "redelivered_total",
        "redriven_total",
        "returned",
        "settings",
        "settled_total",
        "settled_window",
        "tells_leases",
        "used_ms",
        "vhost",
        "window",
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
        self.paused = 0
        self.declared = NOTHING_DECLARED
        self.keys: KeyStates | None = None
        self.tells_leases = self.is_limited = False
        self.is_plain = True
        self.lanes = Lanes(pool)
        self.returned = ReturnedRuns()
        self.delayed = DelayedRuns(pool)
        self.history: History | None = None
        self.window: IdWindow | None = None
        self.settled_window: IdWindow | None = None
        self._pool = pool
        self.leases: dict[tuple[int, int], LeaseTable] = {}
        self.leased = 0
        self.published_total = 0
        self.settled_total = 0
        self.dead = NOTHING_DEAD
        self.notes = NO_NOTES
        self.bytes: int | None = None
        self.purged_total = 0
        self.expired_total = 0
        self.dropped_total = 0
        self.dead_total = 0
        self.redriven_total = 0
        self.discarded_total = 0
        self.moved_total = 0
        self.redelivered_total = 0
        self.used_ms = created_ms
        self.frozen_for = 0
        self.follow_settings()

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
    def held_bytes(self) -> int:
        """Bytes of all messages; 0 where nobody asks."""
        return self.bytes or 0

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
        """When CLOCK has something to do here, in log time: for a delayed, retained or expiring run, or for old ids."""
        due_ms = self.delayed.next_due_ms
        if self.history is None and not self.lanes.has_expiry and self.window is None and self.settled_window is None:
            return due_ms
        times = [due_ms, None if self.history is None else self.history.next_due_ms, self.lanes.next_expiry_ms()]
        times += [window.look_ms or None for _, window in windows_of(self)]
        return min((time for time in times if time is not None), default=None)

    def frozen(self) -> FrozenQueue:
        """Return a copy that nothing changes any more; chunks are not copied, so it takes microseconds."""
        return frozen_queue(self)

    def images(self) -> Iterator[FifoImage]:
        """Yield what each index with pages is at this moment, but for that of retained batches."""
        for fifo in (*self.lanes, self.dead):
            yield fifo.image()
        delayed = self.delayed.image()
        if delayed is not None:
            yield delayed

    def follow_settings(self) -> None:
        """Be what the settings say; to be called whenever they were replaced. Empty queues only change their order."""
        by_key = self.settings["ordering"] == "key"
        if by_key != (self.keys is not None):
            self.keys = KeyStates() if by_key else None
        capped = self.settings["max_concurrency"] is not None
        self.tells_leases = by_key or capped or self.settings["mode"] != "shared"
        self.is_limited = self.settings["max_length"] is not None or self.settings["max_bytes"] is not None
        self.is_plain = not self.is_limited and self.settings["ttl"] is None and self.settings["expires"] is None
        self.is_plain = self.is_plain and not self.paused & PAUSED_PUBLISH

    def change_settings(self, settings: Mapping[str, Any], zxid: int, log_time_ms: int) -> None:
        """Take *settings* (checked) over, because of the entry *zxid*.

        Retention begins with the next message, and lets go of everything when it is turned off.
        """
        self.settings = {**self.settings, **settings}
        self.follow_settings()
        self.count_bytes(self.settings["max_bytes"] is not None)
        follow_windows(self, log_time_ms, self._pool)
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
        main.append_row(ROW.pack(zxid, zxid, 0, count, count, batch_bytes, published_ms, 0, 0, 0, 0, 0, 0), count)
        self.published_total += count
        if self.bytes is not None:
            self.bytes += batch_bytes

    def arrive(self, runs: list[Run]) -> None:
        """Count *runs*, which come from a PUBLISH; the caller puts them where they wait."""
        self.published_total += messages_in(runs)
        if self.bytes is not None:
            self.bytes += bytes_in(runs)

    def arrive_from_elsewhere(self, runs: list[Run]) -> None:
        """Count *runs*, which were published to another queue or a topic, likewise: they are not retained here."""
        self.arrive(runs)
        if self.history is not None:
            self.history.note_strangers(runs)

    def acknowledge(self, runs: list[Run], messages: int) -> None:
        """Count *runs*, which were leased, as settled."""
        self.settled_total += messages
        if self.notes or self.bytes is not None:
            self._left(runs)

    def _left(self, runs: list[Run]) -> None:
        """Note that *runs* are neither ready nor leased nor delayed any more."""
        if self.notes:
            self.notes.release(runs)
        if self.bytes is not None:
            self.bytes -= bytes_in(runs)

    def make_ready(self, runs: list[Run], zxid: int) -> None:
        """Put *runs* behind the tails of their lanes, in this order, because of the entry *zxid*."""
        self.lanes.extend(joined([Run(run[0], zxid, *run[2:]) for run in runs]))

    def give_back(self, runs: list[Run]) -> list[Run]:
        """Put *runs* back to their former places; return them as they lie there, by place."""
        placed = joined(by_place(runs))
        for run in placed:
            self.put_back(run)
        if any(map(expires_ms_of, placed)):
            self.lanes.watch(placed)
        return placed

    def put_back(self, run: Run) -> None:
        """Put *run* to its place; its priority has a lane, also where an image did not keep that, which was empty."""
        if run.priority:
            self.lanes.lane(run.priority)
        self.returned.add(run)

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
            flat: `[ready, zxid, first, count, ...]`: neighbouring messages within one run.

        Returns:
            As `take` does; where only parts of a run are left, those, and how many messages are not there between them.

        """
        taken: list[Run | int] = []
        position = 0
        while position < len(flat):
            runs = take_rows(self.lanes.main, flat, position, self.returned) if self.lanes.only_main else []
            if not runs:
                place = flat[position : position + 4]
                run = self._take_within(*place)
                taken += [run] if run else take_left(self.lanes, self.returned, place, self._take_within)
                position += 4
            taken += runs
            position += 4 * len(runs)
        self._count_redelivered([run for run in taken if isinstance(run, Run)])
        return taken

    def _take_within(self, ready: int, zxid: int, first: int, count: int) -> Run | None:
        run = self.returned.take_within(ready, zxid, first, count) if self.returned else None
        if run is None:
            found = self.lanes.take_placed(ready, zxid, first, count)
            if found is not None:
                run, rest = found
                for part in rest:
                    self.returned.add(part)
                self.lanes.watch(rest)
        return run

    def take_part(self, part: Run) -> Run | None:
        """Take *part* of a ready run out, wherever it is, and for nobody; None where it is not there any more."""
        return self._take_within(part.ready, part.zxid, part.first, part.size)

    def purge(self) -> int:
        """Drop what is ready or delayed; return how many messages that were."""
        count = self.ready + self.delayed.messages
        self.lanes.clear()
        self.returned.clear()
        self.delayed.empty()
        self.delayed = DelayedRuns(self._pool)
        if self.keys is not None:
            self.keys.purged()
        self.purged_total += count
        if self.notes:
            self.notes.keep_only(self.leased_runs())
        if self.bytes is not None:
            self.bytes = bytes_in(self.leased_runs())
        return count

    def leased_runs(self) -> Iterator[Run]:
        """Yield what is leased."""
        for table in self.leases.values():
            for _, run, _ in table.pieces():
                yield run

    def drop_all(self) -> None:
        """Let go of everything that lies in chunks, because the queue is deleted."""
        self.lanes.clear()
        self.delayed.empty()
        self.dead.clear()
        self.forget_history()
        for _, window in windows_of(self):
            window.clear()

    # --- what gets too old or too much ---------------------------------------------------------------------------
    #
    # Each of these takes messages out; the caller says next what became of them: `gone`, `bury`, or `gone` here and
    # `arrive` elsewhere.

    def expire(self, log_time_ms: int, runs_max: int) -> tuple[list[Run], int]:
        """Take out what expires by *log_time_ms*; `lanes.missing_expired` was filled before.

        Returns:
            The runs, and how many were looked at, at most *runs_max*: some may have left before.

        """
        taken = self.lanes.expire_front(log_time_ms, runs_max)
        looked_at = len(taken)
        if looked_at < runs_max:
            due = self.lanes.due_to_expire(log_time_ms, runs_max - looked_at)
            looked_at += len(due)
            for run in due:
                taken += self.returned.take_parts(run)
                part = self.lanes.take_whole(run)
                if part is not None:
                    taken.append(part)
        return taken, looked_at

    def drop_head(self, messages: int, bytes_: int, messages_max: int) -> list[Run]:
        """Take the front of the lowest priority out until so many messages, and about so many bytes, are gone.

        Ends earlier where only leased and delayed ones are left, or *messages_max* are gone. What `missing_head` names
        was filled before.
        """
        taken: list[Run] = []
        while (messages > 0 or bytes_ > 0) and messages_max > 0:
            run, came_back = self._lowest()
            if run is None:
                break
            fewest = run.size
            if bytes_ <= 0:
                fewest = messages
            elif bytes_ < run.bytes_of(run.size):
                # The smallest part that is enough.
                fewest = max(messages, -(-bytes_ * run.batch_count // run.batch_bytes), 1)
            count = min(fewest, run.size, messages_max)
            part = run if count == run.size else run.split(count)[0]
            (self.returned.take if came_back else self.lanes.take_first)(part.zxid, part.first, part.size)
            taken.append(part)
            messages -= part.size
            messages_max -= part.size
            bytes_ -= bytes_in([part])
        return taken

    def missing_head(self, messages: int) -> list[Chunk]:
        """Return the chunks that are not in memory among those that `drop_head` of so many messages needs, at most."""
        return [chunk for lane in self.lanes for chunk in lane.missing(lane.head, messages)]

    def _lowest(self) -> tuple[Run | None, bool]:
        """Return the run in front of the lowest priority that has any, and whether it came back to its place."""
        for priority, lane in reversed(list(self.lanes.items())):
            returned, first = self.returned.first_of(priority), lane.first()
            if returned is not None:
                # Where there are keys, a rest that lost its front lies there too, and may be younger.
                if self.keys is not None and first is not None and _is_older(first, returned):
                    return first, False
                return returned, True
            if first is not None:
                return first, False
        return None, False

    def gone(self, runs: list[Run], why: str) -> None:
        """Count *runs*, which were taken out, as gone.

        Args:
            runs: What was ready, leased or delayed.
            why: `expired`, `dropped`, `purged` or `moved` (to another queue).

        """
        self.count_gone(why, messages_in(runs))
        self._left(runs)

    def count_gone(self, why: str, messages: int) -> None:
        """Count *messages* as gone likewise."""
        name = f"{why}_total"
        setattr(self, name, getattr(self, name) + messages)

    # --- notes and dead letters ----------------------------------------------------------------------------------

    def annotated(self, runs: list[Run], kind: int, origin: str, text: str, at_ms: int, attempts: int = 0) -> list[Run]:
        """Return *runs*, which are ready, leased or delayed, with a note that says this instead of theirs."""
        number = self.note_again(runs, kind, origin, text, at_ms, attempts)
        return [run._replace(note=number) for run in runs]

    def note_again(self, runs: Sequence[Run], kind: int, origin: str, text: str, at_ms: int, attempts: int = 0) -> int:
        """Return the number of the note that says this, which *runs* have from now on instead of theirs.

        The caller writes it into them. 0 where there are no runs.
        """
        if not runs:
            return 0
        self.notes.release(runs)
        number = self._note(kind, origin, text, at_ms, attempts)
        self.notes.hold(number, messages_in(runs))
        return number

    def _note(self, kind: int, origin: str, text: str, at_ms: int, attempts: int = 0) -> int:
        if self.notes is NO_NOTES:
            self.notes = NoteTable()
        return self.notes.intern(kind, origin, text, at_ms, attempts)

    def bury(self, runs: list[Run], zxid: int, kind: int, text: str, at_ms: int) -> list[Run]:
        """Make dead letters of *runs*, which were taken out of what lives, because of the entry *zxid*.

        Returns:
            The runs as they lie in `dead`.

        """
        if not runs:
            return runs
        self._left(runs)
        number = self._note(kind, "", text, at_ms)
        messages = messages_in(runs)
        self.notes.hold(number, 0, messages)
        self.dead_total += messages
        if self.dead is NOTHING_DEAD:
            self.dead = RunFifo(self._pool)
        buried = joined([run._replace(ready=zxid, note=number) for run in runs])
        self.dead.extend(buried)
        return buried

    # --- bytes ---------------------------------------------------------------------------------------------------

    def count_bytes(self, wanted: bool) -> None:
        """Begin to count the bytes of what is ready, leased and delayed, or end it; `missing_bytes` was filled."""
        if not wanted:
            self.bytes = None
        elif self.bytes is None:
            self.bytes = sum(lane.count_bytes() for lane in self.lanes) + self.delayed.count_bytes()
            self.bytes += bytes_in(self.returned) + bytes_in(self.leased_runs())

    def missing_bytes(self) -> list[Chunk]:
        """Return the chunks that `count_bytes` must look into and that are not in memory: those that lost runs."""
        return [chunk for lane in self.lanes for chunk in lane.missing_bytes()] + self.delayed.missing_bytes()

    # --- looking -------------------------------------------------------------------------------------------------

    def peek(self, skip: int, count_max: int) -> list[Run]:
        """Return ready runs in order: at most *count_max* messages after the first *skip*.

        Raises:
            ChunksMissing: Some of them lie in a chunk that is not in memory.

        """
        return look_through(self.lanes, self.returned, skip, count_max)

    def _count_redelivered(self, runs: list[Run]) -> None:
        if any(map(_deliveries_of, runs)):
            self.redelivered_total += messages_in(run for run in runs if run.deliveries)


def _is_older(run: Run, other: Run) -> bool:
    """Whether *run* became ready before *other*; of one batch, that did at one time, the first message is older."""
    if run.ready != other.ready:
        return run.ready < other.ready
    return run.zxid == other.zxid and run.first < other.first
