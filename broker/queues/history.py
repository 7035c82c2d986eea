"""What a queue or topic retains for replay: all that became visible there, in that order, whatever became of it.

A queue has a history where the setting `retention` says so. It begins with the entry that turned it on and loses its
front by age (log time) and by bytes; what was acknowledged or purged stays in it. Batches are whole here, but for those
of which only a part came, as of a transaction. The history is an index of its own, in the same chunks as the others, so
it pages out like them.

Where a message stands is its **place**: the entry that made it visible, and its number among what that did. Mostly this
is the entry that published it, and the place is the message's address. What was prepared has a place by the entry that
committed it, what a topic delayed one by the CLOCK that released it. So a row says both: `zxid` and `first` where its
messages lie, `ready` and `note` the place of the first of them; `published_ms` is when they became visible.

What is retained keeps its bytes on disk like a message that waits. What was lost is known as a place: whoever wants to
read from before it is told. What a repair gave up further behind is a hole, and whoever comes to one is told too:
nothing is skipped in silence. This module must not know queues, clocks or who reads.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import chain, pairwise, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from sluicemq.broker.queues.chunks import RUN_BYTES, ChunksMissing, published_ms_at, ready_at
from sluicemq.broker.queues.fifo import NOBODY_READ, RunFifo
from sluicemq.broker.queues.giving_up import forget_with_ordinals
from sluicemq.broker.queues.runs import Run, bytes_in, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sluicemq.broker.queues.chunks import Chunk, ChunkPool
    from sluicemq.broker.queues.lost import LostEntries

# Frozen by the log's format, see `MachineLimits`: they decide which entry lets go of what.
PUBLISH_DROPS_MAX = 256
"""Most batches that one PUBLISH lets go; what is still too much goes with the CLOCK entries that follow."""
STEP_MS = 1_000
"""Batches go by age in steps of so many milliseconds: else each would need a CLOCK entry of its own."""

READ_RUNS = 256
"""Runs that are looked at together while somebody reads."""


class Place(NamedTuple):
    """A place between messages: before message *offset* of those that the entry *zxid* made visible."""

    zxid: int
    offset: int


START = Place(0, 0)


class Hole(NamedTuple):
    """Places whose messages were given up by a repair: from *first* on, before *end*."""

    first: Place
    end: Place


class GivenUp(Exception):
    """The next messages were given up by a repair: those of *hole*."""

    def __init__(self, hole: Hole) -> None:
        super().__init__(hole)
        self.hole = hole


def place_of(run: Run) -> Place:
    """Return the place of the first message of a retained run."""
    return Place(run.ready, run.note)


def place_behind(run: Run) -> Place:
    """Return the place behind the last message of a retained run."""
    return Place(run.ready, run.note + run.size)


class Page(NamedTuple):
    """What one look at a history found.

    Attributes:
        runs: Batches, or parts of them, in the order of their places, which `place_of` tells.
        next: Where to go on.
        more: Whether there may be more before the end that was asked for.

    """

    runs: list[Run]
    next: Place
    more: bool


class RetainedRuns(RunFifo):
    """Batches in the order in which they became visible, so they are found by place and by time."""

    __slots__ = ()

    def seek_place(self, place: Place) -> int:
        """Return the ordinal of the first run that became visible with the entry of *place* or a later one.

        Raises:
            ChunksMissing: The runs around it lie in a chunk that is not in memory.

        """
        return self._seek(place.zxid, _ready_of, ready_at)

    def seek_published(self, published_ms: int) -> int:
        """Return the ordinal of the first run that became visible then or later, likewise."""
        return self._seek(published_ms, _published_ms_of, published_ms_at)

    def _seek(
        self,
        wanted: int,
        of_first: Callable[[Chunk], int],
        of_row: Callable[[bytes | bytearray, int], int],
    ) -> int:
        rows: bytes | bytearray | None = self._open
        base = self._sealed
        chunks = self._chunks
        if chunks and not (rows and of_row(rows, 0) < wanted):
            number = bisect_left(chunks, wanted, key=of_first)
            chunk = chunks[max(0, number - 1)]
            rows, base = chunk.data, chunk.base
            if rows is None:
                raise ChunksMissing([chunk])
        assert rows is not None, "open rows are in memory"
        found = bisect_left(range(len(rows) // RUN_BYTES), wanted, key=lambda row: of_row(rows, row))
        return max(self.head, base + found)


def _ready_of(chunk: Chunk) -> int:
    return chunk.ready


def _published_ms_of(chunk: Chunk) -> int:
    return chunk.summary.published_ms


class History:
    """The retained batches of one queue.

    Args:
        retention: The setting, checked; `limit` replaces it.
        lost: Nothing before this place is retained, though it may have been published.
        lost_ms: When the last message that is not retained any more became visible; 0 when there never was any.
        pool: Keeps accounts of sealed chunks, for a pager; None: all of them stay in memory.

    Attributes:
        runs: The batches, oldest first.
        bytes: What they take, as they were published.
        lost: As above.
        lost_ms: As above.
        held: Whether nothing may go for the time being, because somebody has to read all of it.
        holes: Those behind `lost`, in order.
        strangers: Whatever else is in the queue, and was published behind `lost`, is retained, and nothing that was
            published before. This is where that does not hold: the first and last entry of messages that came from
            elsewhere, so that they are not retained here, or became visible later than they were stored; and the entry
            with which the last of these is done, once that is lost. All 0 where there are none.

    """

    __slots__ = ("_age_ms", "_bytes_max", "_last", "bytes", "held", "holes", "lost", "lost_ms", "runs", "strangers")

    def __init__(
        self,
        retention: Mapping[str, Any],
        lost: Place = START,
        lost_ms: int = 0,
        pool: ChunkPool | None = None,
    ) -> None:
        self.runs = RetainedRuns(pool)
        self.bytes = 0
        self.lost = lost
        self.lost_ms = lost_ms
        self.held = False
        self.holes: list[Hole] = []
        self.strangers = (0, 0, 0)
        self._last = (lost.zxid, lost.offset)  # the place behind the newest message
        self._age_ms: int | None = None
        self._bytes_max: int | None = None
        self.limit(retention)

    @property
    def messages(self) -> int:
        """Messages that are retained."""
        return self.runs.messages

    @property
    def end(self) -> Place:
        """The place behind the newest message that was ever retained."""
        return Place(*self._last)

    @property
    def oldest_published_ms(self) -> int | None:
        """When the oldest message became visible; None when nothing is retained."""
        return self.runs.front_published_ms()

    @property
    def next_due_ms(self) -> int | None:
        """When the oldest batch has to go, in log time; in the past where all of them take too many bytes."""
        front_ms = self.runs.front_published_ms()
        if front_ms is None or self.held:
            return None
        if self._takes_too_much():
            return front_ms
        return None if self._age_ms is None else -(-(front_ms + self._age_ms) // STEP_MS) * STEP_MS

    # --- what entries do -----------------------------------------------------------------------------------------

    def limit(self, retention: Mapping[str, Any]) -> None:
        """Retain by these limits from now on; what is too much goes with the next CLOCK entries."""
        seconds = retention.get("seconds")
        self._age_ms = None if seconds is None else round(seconds * 1000)
        self._bytes_max = retention.get("bytes")

    def append(self, runs: Sequence[Run]) -> None:
        """Retain a batch that became visible now, or those parts of it that did; let go of the oldest ones where that
        makes too many bytes: what one entry lets go is bounded, though it may come in several parts."""
        zxid, ready, *_ = runs[0]
        others_came = self._last[0] == ready
        if zxid != ready:
            self._note([zxid], ready)
        for run in runs:
            self._append(run._replace(note=run.first) if run.first else run)
        if self._bytes_max is not None and self._takes_too_much() and not others_came:
            self._drop(-1, PUBLISH_DROPS_MAX)

    def append_released(self, runs: Iterable[Run], zxid: int, log_time_ms: int) -> None:
        """Retain what waited for its time and became visible with the entry *zxid*; only when that lives ends is kept.

        What is too much then goes like what is too old.
        """
        offset = self._last[1] if self._last[0] == zxid else 0
        for run in joined(Run(run.zxid, zxid, *run[2:6], log_time_ms, expires_ms=run.expires_ms) for run in runs):
            self._append(run._replace(note=offset))
            offset += run.size

    def _append(self, run: Run) -> None:
        self.runs.append(run)
        self.bytes += run.batch_bytes if run.size == run.batch_count else bytes_in([run])
        self._last = (run.ready, run.note + run.size)

    def note_strangers(self, runs: Iterable[Run]) -> None:
        """Know that *runs* came into the queue and are not retained here: what lies behind `lost` is told by that."""
        lost_zxid = self.lost.zxid
        zxids = [run.zxid for run in runs if run.zxid > lost_zxid]
        if zxids:
            self._note(zxids, max(zxids))

    def _note(self, zxids: list[int], done_zxid: int) -> None:
        low, high, known_zxid = self.strangers
        if known_zxid >= self.lost.zxid and high:
            zxids = [*zxids, low, high]
        self.strangers = min(zxids), max(zxids), max(done_zxid, known_zxid)

    def expire(self, log_time_ms: int, runs_max: int) -> int:
        """Let go of at most *runs_max* batches that have to go by now; return how many. `missing_due` was filled
        before."""
        return self._drop(self._expired_ms(log_time_ms), runs_max)

    def _expired_ms(self, log_time_ms: int) -> int:
        """Return until when what was published then is too old by now; -1: nothing is."""
        return -1 if self._age_ms is None else log_time_ms - self._age_ms

    def _takes_too_much(self, more_bytes: int = 0) -> bool:
        return self._bytes_max is not None and self.bytes + more_bytes > self._bytes_max

    def _drop(self, published_ms: int, runs_max: int) -> int:
        """Drop batches published until then, and those that are too much; return how many."""
        dropped = 0
        while dropped < runs_max and not self.held:
            # Looked at first: it is known without the rows, and only those that go are wanted in memory.
            front_ms = self.runs.front_published_ms()
            if front_ms is None or (front_ms > published_ms and not self._takes_too_much()):
                break
            run = self.runs.first()
            assert run is not None, "there is a batch in front"
            self.runs.consume(1, run.size)
            self.bytes -= bytes_in([run])
            self.lost, self.lost_ms = place_behind(run), run.published_ms
            dropped += 1
            if self.holes:
                self._close_holes()
        return dropped

    def _close_holes(self) -> None:
        """Forget the holes before `lost`."""
        self.holes = [hole for hole in self.holes if hole.end > self.lost]

    def forget(self, lost: LostEntries) -> int:
        """Give up all batches of *lost* entries; return how many. What `missing_runs` names was filled before.

        What was in front is lost like what grew too old; the rest leaves holes.
        """
        gone = forget_with_ordinals(self.runs, lost)
        if not gone:
            return 0
        self.bytes -= bytes_in(run for _, run in gone)
        leading = [run for ordinal, run in gone if ordinal < self.runs.head]
        if leading:
            last = leading[-1]
            self.lost, self.lost_ms = place_behind(last), last.published_ms
        self.holes += self._holes_of(gone[len(leading) :])
        self._join_holes()
        self._close_holes()
        return len(gone)

    def _holes_of(self, gone: list[tuple[int, Run]]) -> list[Hole]:
        """Return the holes that runs leave which stood at these ordinals: neighbours make one."""
        holes = [Hole(place_of(run), place_behind(run)) for _, run in gone[:1]]
        for (before, _), (ordinal, run) in pairwise(gone):
            if self._first_left(before + 1) >= ordinal:
                holes[-1] = holes[-1]._replace(end=place_behind(run))
            else:
                holes.append(Hole(place_of(run), place_behind(run)))
        return holes

    def _first_left(self, ordinal: int) -> int:
        """Return the ordinal of the first run from *ordinal* on, or where a chunk begins that is not in memory."""
        ordinals, _ = self.runs.read_with_ordinals(ordinal, 1)
        found = ordinals[0] if ordinals else self.runs.read_ordinal
        self.runs.read_ordinal = NOBODY_READ
        return found

    def _join_holes(self) -> None:
        """Put the holes in order; what was given up later may reach around what was given up before."""
        joined_holes: list[Hole] = []
        for hole in sorted(self.holes):
            if joined_holes and hole.first <= joined_holes[-1].end:
                joined_holes[-1] = Hole(joined_holes[-1].first, max(joined_holes[-1].end, hole.end))
            else:
                joined_holes.append(hole)
        self.holes = joined_holes

    def missing(self, runs_max: int) -> list[Chunk]:
        """Return the chunks that are not in memory among those of the oldest so many batches."""
        return self.runs.missing(self.runs.head, runs_max)

    def missing_due(self, log_time_ms: int, runs_max: int, more_bytes: int = 0) -> list[Chunk]:
        """Return the chunks that are not in memory among those that `expire` needs, also after so many bytes came."""
        missing = self.missing(runs_max)
        if self._takes_too_much(more_bytes):
            return missing
        expired_ms = self._expired_ms(log_time_ms)
        return [chunk for chunk in missing if chunk.summary.published_ms <= expired_ms]

    def missing_of_publish(self, batch_bytes: int) -> list[Chunk]:
        """Return the chunks that `append` of a batch of so many bytes needs and that are not in memory."""
        return self.missing(PUBLISH_DROPS_MAX) if self._takes_too_much(batch_bytes) else []

    # --- reading -------------------------------------------------------------------------------------------------

    def has_lost(self, place: Place) -> bool:
        """Return whether a message at or behind *place* is not retained any more."""
        return place < self.lost

    def has_lost_since(self, published_ms: int) -> bool:
        """Return whether a message that became visible then or later is not retained any more."""
        return self.lost > START and published_ms <= self.lost_ms

    def oldest(self) -> Place:
        """Return the place of the oldest message; where nothing is retained, the one where the next may come.

        Raises:
            ChunksMissing: It lies in a chunk that is not in memory.

        """
        runs, _ = self._read(self.runs.head, 1)
        return place_of(runs[0]) if runs else self.lost

    def place_at(self, published_ms: int) -> Place:
        """Return the place of the first message that became visible then or later; the end where there is none.

        Raises:
            ChunksMissing: It lies in a chunk that is not in memory.

        """
        ordinal = self._ordinal_from(self.runs.seek_published(published_ms))
        runs, _ = self._read(ordinal, 1)
        place = place_of(runs[0]) if runs else self.end
        # When the messages of a hole became visible is not known: those right before count.
        for hole in reversed(self.holes):
            if not runs or hole.end <= place_of(runs[0]):
                if self._ordinal_behind(hole.first) != ordinal:
                    break
                place = hole.first
        return place

    def read(
        self,
        place: Place,
        *,
        messages_max: int,
        bytes_max: int,
        end: Place | None = None,
        end_ms: int | None = None,
    ) -> Page:
        """Return the messages from *place* on, in order; changes nothing.

        Args:
            place: Not lost.
            messages_max: Most messages.
            bytes_max: Most bytes of them, about; at least one message is returned if there is any.
            end: Where to end, before that message; None: with the last one.
            end_ms: Where to end, before what became visible then or later.

        Raises:
            ChunksMissing: Some of them lie in a chunk that is not in memory.
            GivenUp: The first of them were given up; other pages end before such a hole.

        """
        found: list[Run] = []
        place = max(place, self.lost)
        hole = self._hole_from(place, end)
        if hole is not None:
            end = hole.first
        ordinal = self.runs.seek_place(place)
        while messages_max > 0:
            runs, next_ordinal = self._read(ordinal, min(READ_RUNS, messages_max + 1))
            wanted = list(takewhile(lambda run: _begins_before(run, end, end_ms), runs))
            for run in wanted:
                part = _between(run, place, end)
                if part is None:
                    continue
                taken = _fitting(part, messages_max, bytes_max, bool(found))
                if taken is None:
                    return Page(found, place, True)
                found.append(taken)
                messages_max -= taken.size
                bytes_max -= taken.bytes_of(taken.size)
                place = place_behind(taken)
                if taken.size < part.size:
                    return Page(found, place, True)
            ordinal = next_ordinal - len(runs) + len(wanted)
            if len(wanted) < len(runs) or ordinal >= self.runs.tail:
                if hole is None or (len(wanted) < len(runs) and place_of(runs[len(wanted)]) < hole.first):
                    return Page(found, place, False)
                if not found:
                    raise GivenUp(hole)
                return Page(found, place, True)
        return Page(found, place, True)

    def _hole_from(self, place: Place, end: Place | None) -> Hole | None:
        """Return the first hole at or behind *place*, if it begins before *end*."""
        for hole in self.holes:
            if hole.end > place:
                return hole if end is None or hole.first < end else None
        return None

    def _ordinal_behind(self, place: Place) -> int:
        """Return the ordinal of the first run behind *place* that was not given up."""
        ordinal = self._ordinal_from(self.runs.seek_place(place))
        while ordinal < self.runs.tail and place_behind(self.runs.run_at(ordinal)) <= place:
            ordinal = self._ordinal_from(ordinal + 1)
        return ordinal

    def _ordinal_from(self, ordinal: int) -> int:
        """Return the ordinal of the first batch from *ordinal* on that was not given up."""
        ordinals, _ = self.runs.read_with_ordinals(ordinal, 1)
        self.runs.read_ordinal = NOBODY_READ
        missing = [] if ordinals else self.runs.missing(ordinal, 1)
        if missing:
            raise ChunksMissing(missing)
        return ordinals[0] if ordinals else self.runs.tail

    def _read(self, ordinal: int, runs_max: int) -> tuple[list[Run], int]:
        """Return runs from *ordinal* on, and the ordinal behind the last of them."""
        runs = self.runs.read(ordinal, runs_max)
        next_ordinal = self.runs.read_ordinal
        # Nobody stays where a replay has passed; chunks leave the memory as if nobody had read.
        self.runs.read_ordinal = NOBODY_READ
        if not runs:
            missing = self.runs.missing(ordinal, 1)
            if missing:
                raise ChunksMissing(missing)
        return runs, next_ordinal

    # --- images --------------------------------------------------------------------------------------------------

    def places(self) -> tuple[int, ...]:
        """Return all that it is beside its runs, nine numbers and four a hole: the column `retained` of
        `sections.QUEUES`."""
        holes = chain.from_iterable((*hole.first, *hole.end) for hole in self.holes)
        return (self.bytes, *self.lost, self.lost_ms, *self._last, *self.strangers, *holes)

    @classmethod
    def restored(cls, retention: Mapping[str, Any], places: Sequence[int], pool: ChunkPool | None) -> History:
        """Return the history of an image; `runs` is replaced when its index follows."""
        bytes_, lost_zxid, lost_index, lost_ms, last_zxid, last_index, low, high, done_zxid, *holes = places
        history = cls(retention, Place(lost_zxid, lost_index), lost_ms, pool)
        history.bytes, history._last, history.strangers = bytes_, (last_zxid, last_index), (low, high, done_zxid)
        history.holes = [Hole(Place(*hole[:2]), Place(*hole[2:])) for hole in zip(*(iter(holes),) * 4, strict=True)]
        return history

    def check(self) -> None:
        """Assert what the rest relies on; reads everything.

        Raises:
            AssertionError: It does not hold; the text says what.

        """
        runs = self.runs.runs()
        places = [self.lost, *chain.from_iterable((place_of(run), place_behind(run)) for run in runs), self.end]
        assert places == sorted(places), "what is retained lies between what was lost and the end, in order"
        times = [self.lost_ms if runs else 0, *(run.published_ms for run in runs)]
        assert times == sorted(times), "what is retained is in the order in which it became visible"
        assert not any(run.deliveries for run in runs), "what is retained was delivered to nobody"
        assert all(run.ready >= run.zxid for run in runs), "what is retained became visible when or after it was stored"
        assert self.bytes == bytes_in(runs), "retained bytes are counted"
        assert self.messages == sum(run.size for run in runs), "retained messages are counted"
        borders = [self.lost, *chain.from_iterable(self.holes)]
        assert borders[1:] == sorted(borders[1:]), "holes are in order"
        assert all(hole.end > self.lost for hole in self.holes), "holes are behind what was lost"
        for run in runs:
            apart = (hole.end <= place_of(run) or place_behind(run) <= hole.first for hole in self.holes)
            assert all(apart), "holes are empty"


def _begins_before(run: Run, end: Place | None, end_ms: int | None) -> bool:
    return (end is None or place_of(run) < end) and (end_ms is None or run.published_ms < end_ms)


def _between(run: Run, place: Place, end: Place | None) -> Run | None:
    """Return what of *run* lies from *place* on and before *end*, if anything does."""
    low, high = run.note, run.note + run.size
    if run.ready == place.zxid:
        low = max(low, place.offset)
    if end is not None and run.ready == end.zxid:
        high = min(high, end.offset)
    return run._replace(first=run.first + low - run.note, size=high - low, note=low) if low < high else None


def _fitting(run: Run, messages_max: int, bytes_max: int, has_others: bool) -> Run | None:
    """Return what of *run* there is room for, if anything; one message has room where there are no others."""
    if messages_max <= 0:
        return None
    size = min(run.size, messages_max)
    if run.bytes_of(size) > bytes_max:
        size = min(size, max(0, bytes_max) * run.batch_count // max(1, run.batch_bytes))
        if not size and has_others:
            return None
    return run._replace(size=max(1, size))
