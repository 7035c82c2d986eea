"""An image: a machine made of sections, and what is alive in it, read without making one.

`load` is the way back from `freeze`: the machine judges every further entry as the frozen one did. `live_runs` is for
whoever must know which messages a snapshot keeps alive (the reclaimer, `log stats`), chunk by chunk, so that a backlog
of ten million is never in memory. The format stands in `sections`; this module must not know where sections are stored,
nor how a page is read: it is told.
"""

from __future__ import annotations

import gc
from array import array
from itertools import groupby, repeat
from operator import itemgetter
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from sluicemq.broker.queues import holes as h
from sluicemq.broker.queues import sections as s
from sluicemq.broker.queues.chunks import (
    CHUNK_RUNS,
    EXPIRES_OFFSET,
    ROW,
    RUN_BYTES,
    Chunk,
    FifoImage,
    Page,
    Summary,
    summary_of,
    zxid_at,
)
from sluicemq.broker.queues.delayed import DelayedRuns
from sluicemq.broker.queues.fifo import RunFifo
from sluicemq.broker.queues.halves import HALVES_ID, Decision, Half
from sluicemq.broker.queues.history import History, RetainedRuns
from sluicemq.broker.queues.keys import KeyStates
from sluicemq.broker.queues.leases import LeaseTable
from sluicemq.broker.queues.machine import Machine, MachineLimits
from sluicemq.broker.queues.notes import Note, NoteTable
from sluicemq.broker.queues.policies import PolicyRow
from sluicemq.broker.queues.queue import Queue
from sluicemq.broker.queues.routing.images import TopicLoader
from sluicemq.broker.queues.runs import PRIORITY_MAX, Run
from sluicemq.broker.queues.schedules import ScheduleRow
from sluicemq.broker.queues.sections import ImageDamaged, ImageUnknown, decode
from sluicemq.broker.queues.sequences import FrozenProducer, Producer
from sluicemq.broker.queues.sessions import Session
from sluicemq.broker.queues.window_images import WindowLoader, put_leased_ids
from sluicemq.wire.settings import QUEUE_SETTINGS_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sluicemq.broker.queues.chunks import ChunkPool

_FRONT = Struct("=II")
_FRONT_OFFSET = 16  # of `first` and `size` within a row


def load(sections: Iterable[tuple[int, bytes]], pool: ChunkPool | None = None) -> Machine:
    """Return the machine of an image.

    Args:
        sections: All sections, as (kind, data), in the order in which they were packed; bytes that are known to be
            good: checksums are the business of whoever stores them.
        pool: Keeps accounts of the chunks, for a pager. Chunks that lie on pages stay there, so it is needed when
            there are any.

    Raises:
        ImageUnknown: A newer version wrote it.
        ImageDamaged: It contradicts itself, or ends too early.

    """
    collecting = gc.isenabled()
    gc.disable()  # it would look through a million new objects again and again, none of which is garbage
    try:
        return _Loader(pool).load(sections)
    except (KeyError, ValueError, TypeError, AssertionError, OverflowError) as error:
        raise ImageDamaged(f"the image contradicts itself: {type(error).__name__}: {error!s:.200}") from error
    finally:
        if collecting:
            gc.enable()


class _Loader:
    """Puts a machine together, section by section."""

    def __init__(self, pool: ChunkPool | None) -> None:
        self._pool = pool
        self._machine = Machine()
        self._head: dict[str, Any] = {}
        self._queues: dict[int, Queue] = {}
        self._topics = TopicLoader(pool)
        self._windows = WindowLoader(pool, self._queues, self._topics.topics)
        self._sessions: dict[int, Session] = {}
        self._producers: list[Producer] = []
        self._settings: dict[bytes, dict[str, Any]] = {}
        # Indexes whose chunks have not all come yet.
        self._awaited: dict[tuple[int, int], tuple[FifoImage, list[Chunk], int]] = {}
        self._sections = 0
        self._end: dict[str, Any] | None = None

    def load(self, sections: Iterable[tuple[int, bytes]]) -> Machine:
        """Read all sections, and check that they add up."""
        readers: dict[int, Callable[[dict[str, Any]], None]] = {
            s.MACHINE: self._read_machine,
            s.QUEUES: self._read_queues,
            s.INDEXES: self._read_indexes,
            s.CHUNKS: self._read_chunks,
            s.RETURNED: self._read_returned,
            s.SESSIONS: self._read_sessions,
            s.SETTLED: self._read_settled,
            s.LEASES: self._read_leases,
            s.PRODUCERS: self._read_producers,
            s.NOTES: self._read_notes,
            s.TOPICS: self._topics.read_topics,
            s.BINDINGS: self._topics.read_bindings,
            s.ROUTES: self._topics.read_routes,
            s.MARKS: self._read_marks,
            s.POLICIES: self._read_policies,
            s.FOLLOWING: self._read_following,
            s.SCHEDULES: self._read_schedules,
            s.HALVES: self._read_halves,
            s.DECISIONS: self._read_decisions,
            s.LEASED_IDS: lambda columns: put_leased_ids(columns, self._sessions),
            s.WINDOWS: self._windows.read_windows,
            s.WINDOW_CHUNKS: self._windows.read_chunks,
            s.WINDOW_INDEXES: self._windows.read_indexes,
            s.CLUSTER: self._read_cluster,
            s.END: self._read_end,
        }
        for kind, data in sections:
            columns = decode(kind, data)
            if self._end is not None or bool(self._sections) == (kind == s.MACHINE):
                raise ImageDamaged("an image has one section `machine`, the first, and one section `end`, the last")
            self._sections += 1
            readers[kind](columns)
        self._check()
        machine = self._machine
        self._windows.place_all()
        machine.restore(self._head["zxid"], self._head["log_time_ms"], self._queues, self._sessions)
        machine.id_moment = self._head["id_moment"]
        machine.producers.restore(self._producers)
        self._topics.finish(machine, self._queues)
        machine.due_changed(machine.policies)
        return machine

    def _check(self) -> None:
        if self._end is None:
            raise ImageDamaged(f"the image ends after {self._sections} sections without a section `end`")
        if self._awaited:
            raise ImageDamaged(f"chunks of {len(self._awaited)} indexes are missing")
        expected = {name: self._head[name] for name in ("queues", "sessions", "producers", "topics")}
        expected.update(self._end)
        found = {
            "queues": len(self._queues),
            "sessions": len(self._sessions),
            "producers": len(self._producers),
            "topics": len(self._topics.topics),
            "sections": self._sections,
            "messages": sum(queue.messages + queue.dead.messages for queue in self._queues.values())
            + self._topics.messages,
            "leased": sum(queue.leased for queue in self._queues.values()),
        }
        if found != expected:
            raise ImageDamaged(f"the image holds {found}, and says that it holds {expected}")

    def _read_machine(self, columns: dict[str, Any]) -> None:
        self._head = head = _head_of(columns)
        unknown = set(head["limits"]) - set(MachineLimits.__dataclass_fields__)
        if unknown:
            raise ImageUnknown(f"limits {', '.join(sorted(unknown))} are unknown; install the version that wrote them")
        self._machine = Machine(MachineLimits(**head["limits"]), self._pool)

    def _read_queues(self, columns: dict[str, Any]) -> None:
        for id_, vhost, name, settings, created_ms, *totals in zip(*columns.values(), strict=True):
            queue = Queue(id_, vhost, name, {}, created_ms, self._pool)
            # Most queues have the same settings; they are never changed in place, so one map serves them all.
            key = msgpack.packb(settings)
            queue.settings = self._settings.setdefault(key, {**QUEUE_SETTINGS_DEFAULT, **settings})
            queue.published_total, queue.settled_total, queue.purged_total, queue.redelivered_total = totals[:4]
            places, *totals = totals[4:]
            queue.expired_total, queue.dropped_total, queue.dead_total, queue.moved_total, queue.bytes = totals[:5]
            next_note, queue.used_ms, queue.redriven_total, queue.discarded_total, parked, waiting = totals[5:11]
            queue.follow_settings()
            if queue.keys is not None:
                queue.keys = KeyStates(parked, waiting)
            if next_note != queue.notes.next_number:
                queue.notes = NoteTable()
                queue.notes.next_number = next_note
            if places is not None:
                queue.history = History.restored(queue.settings["retention"], places, self._pool)
            self._queues[id_] = queue

    def _read_marks(self, columns: dict[str, Any]) -> None:
        for queue_id, paused, declared in zip(*columns.values(), strict=True):
            queue = self._queues[queue_id]
            queue.paused = paused
            queue.declared = frozenset(declared)
            queue.follow_settings()

    def _read_policies(self, columns: dict[str, Any]) -> None:
        for row in zip(*columns.values(), strict=True):
            self._machine.policies.restore(PolicyRow(*row))

    def _read_following(self, columns: dict[str, Any]) -> None:
        for row in zip(*columns.values(), strict=True):
            self._machine.policies.restore_following(*row)

    def _read_schedules(self, columns: dict[str, Any]) -> None:
        for row in zip(*columns.values(), strict=True):
            self._machine.schedules.put(ScheduleRow(*row))

    def _read_halves(self, columns: dict[str, Any]) -> None:
        columns["groups"], columns["routes"] = map(tuple, columns["groups"]), map(tuple, columns["routes"])
        for row in zip(*columns.values(), strict=True):
            self._machine.halves.put(Half(*row))

    def _read_decisions(self, columns: dict[str, Any]) -> None:
        columns["known"] = map(tuple, columns["known"])
        self._machine.halves.restore_decisions(map(Decision._make, zip(*columns.values(), strict=True)))

    def _read_cluster(self, columns: dict[str, Any]) -> None:
        for row in zip(*columns.values(), strict=True):
            self._machine.cluster.restore(*row)

    def _read_indexes(self, columns: dict[str, Any]) -> None:
        all_rows: bytes = columns.pop("runs")
        start = 0
        for queue_id, place, head, messages, first, size, *at, bits, chunks, count, before in zip(
            *columns.values(), strict=True
        ):
            end = start + count * RUN_BYTES
            rows = bytearray(all_rows[start:end])
            start = end
            front = (first, size) if size else None
            found: list[Chunk] = []
            holes = ((chunks, h.of_bitmap(h.unpacked_bits(bits), rows)),) if bits else ()
            image = FifoImage(head, messages, front, at[0], found, rows, len(rows), at[1], at[2], holes, before)
            if chunks:
                self._awaited[queue_id, place] = (image, found, chunks)
            else:
                self._place(queue_id, place, image)
        assert start == len(all_rows), "rows and counts agree"

    def _read_chunks(self, columns: dict[str, Any]) -> None:
        all_rows: bytes = columns.pop("runs")
        start = 0
        for queue_id, place, rows, base, left, buffered, slot, checksum, *summary in zip(
            *columns.values(), strict=True
        ):
            image, chunks, count = self._awaited[queue_id, place]
            if left is not None:
                holes = len(chunks), h.Holes(h.unpacked_bits(left[0]), *left[1:])
                image = image._replace(holes=(*image.holes, holes))
                self._awaited[queue_id, place] = image, chunks, count
            if slot == s.NO_PAGE:
                end = start + rows * RUN_BYTES
                chunks.append(Chunk(None, base, all_rows[start:end]))
                start = end
            else:
                assert self._pool is not None, "chunks on pages need a pool"
                assert 0 < rows <= CHUNK_RUNS, "a chunk has rows, but no more than a page"
                chunks.append(Chunk.on_page(Page(slot, checksum), Summary(*summary), rows, base))
            if buffered:
                end = start + buffered * RUN_BYTES
                buffer = len(chunks) - 1, bytearray(all_rows[start:end]), end - start
                image = image._replace(buffers=(*image.buffers, buffer))
                self._awaited[queue_id, place] = image, chunks, count
                start = end
            if len(chunks) == count:
                del self._awaited[queue_id, place]
                self._place(queue_id, place, image)
        assert start == len(all_rows), "rows and chunks agree"

    def _place(self, queue_id: int, place: int, image: FifoImage) -> None:
        if self._topics.place(queue_id, place, image):
            return
        queue = self._queues[queue_id]
        if place == s.DELAYED:
            queue.delayed = DelayedRuns.restored(image, self._pool)
        elif place == s.DEAD:
            queue.dead = RunFifo.restored(image, self._pool)
        elif place == s.EXPIRING:
            queue.lanes.put_expiring(DelayedRuns.restored(image, self._pool, EXPIRES_OFFSET))
        elif place == s.RETAINED:
            assert queue.history is not None, "retained runs belong to a queue that retains"
            queue.history.runs = RetainedRuns.restored(image, self._pool)
        else:
            priority = place - s.LANES if place != s.READY else 0
            assert 0 <= priority <= PRIORITY_MAX, "an index is that of runs of a place that is known"
            queue.lanes.put(priority, RunFifo.restored(image, self._pool))

    def _read_notes(self, columns: dict[str, Any]) -> None:
        for queue_id, number, *note in zip(*columns.values(), strict=True):
            self._queues[queue_id].notes.put(number, Note(*note))

    def _read_returned(self, columns: dict[str, Any]) -> None:
        queues = self._queues
        for queue_id, run in zip(columns["queue"], ROW.iter_unpack(columns["runs"]), strict=True):
            queues[queue_id].put_back(Run._make(run))

    def _read_sessions(self, columns: dict[str, Any]) -> None:
        for row in zip(*columns.values(), strict=True):
            self._sessions[row[0]] = Session(*row)

    def _read_settled(self, columns: dict[str, Any]) -> None:
        for number, consumer, tags in zip(*columns.values(), strict=True):
            self._sessions[number].settled[consumer] = tags

    def _read_leases(self, columns: dict[str, Any]) -> None:
        firsts = array("Q", columns.pop("firsts")).tolist()
        handed: bytes = columns.pop("handed")
        runs = list(map(Run._make, ROW.iter_unpack(columns.pop("runs"))))
        start = 0
        for number, consumer, queue_id, last_tag, count in zip(*columns.values(), strict=True):
            session, queue = self._sessions[number], self._queues[queue_id]
            table = session.leases.get(consumer)
            if table is None:
                table = LeaseTable(number, consumer, queue_id)
                session.leases[consumer] = queue.leases[number, consumer] = table
            before = table.messages
            end = start + count
            table.restore(firsts[start:end], runs[start:end], handed[start:end], last_tag)
            queue.leased += table.messages - before
            start = end
        assert start == len(runs) == len(firsts) == len(handed), "leases and counts agree"

    def _read_producers(self, columns: dict[str, Any]) -> None:
        columns["fenced"] = map(tuple, columns["fenced"])
        rows = zip(*columns.values(), strict=True)
        self._producers += map(Producer.thawed, map(FrozenProducer._make, rows))

    def _read_end(self, columns: dict[str, Any]) -> None:
        self._end = _only_row(columns)


def _only_row(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, (value,) in columns.items()}


def _head_of(columns: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the section `machine`, if this version knows the format that it names."""
    head = _only_row(columns)
    if head["format"] != s.FORMAT:
        raise ImageUnknown(
            f"format {head['format']!r:.20} of a snapshot is unknown; this version reads {s.FORMAT}; install the "
            "version that wrote the snapshot"
        )
    return head


class LiveRuns(NamedTuple):
    """Neighbouring runs of one queue that an image keeps alive.

    Attributes:
        queue: Number of the queue; `halves.HALVES_ID` for half messages.
        place: `ready`, `delayed`, `retained`, `dead`, `held`, `returned`, `leased` or `half`.
        summary: Of all rows, also of those in front that are consumed: an upper bound for what is alive.
        page: The page that holds the rows; None when they are in *data*.
        data: The packed rows; empty when they are on a page.
        skip: Rows in front that are consumed.
        front: (first, size) of the run behind those, where its row says more than is left.
        row_count: All rows, also those in front that are consumed. A page may hold zeros behind them.
        within: Rows of other batches, first and last zxid of each range, do not count: their messages are among the
            retained ones.
        holes: Bitmap of rows that left; the one behind those in front is none of them.
        shared: Whether other parts that are `shared` too may hold the same messages: the queue is a subscription or a
            topic, or retains some of these messages while others came from elsewhere.

    """

    queue: int
    place: str
    summary: Summary
    page: Page | None
    data: bytes
    skip: int = 0
    front: tuple[int, int] | None = None
    row_count: int = 0
    within: tuple[tuple[int, int], ...] = ()
    holes: int = 0
    shared: bool = False

    @property
    def partial(self) -> bool:
        """Whether some rows do not count."""
        return self.skip > 0 or self.holes > 0 or bool(self.within)

    def rows(self, read_page: Callable[[Page], bytes] | None = None) -> bytes:
        """Return the packed rows of what is alive (see `chunks.ROW`); *read_page* returns the bytes of a page."""
        if self.page is None:
            rows = self.data
        else:
            assert read_page is not None, "rows on a page need somebody who reads it"
            rows = read_page(self.page)[: self.row_count * RUN_BYTES]
        if self.within:
            return _of_batches(self._replace(page=None, data=rows, within=()).rows(), self.within)
        if not self.skip and self.front is None and not self.holes:
            return rows
        cut = bytearray(h.without_holes(rows, self.holes, self.skip))
        if self.front is not None:
            _FRONT.pack_into(cut, _FRONT_OFFSET, *self.front)
        return bytes(cut)

    def runs(self, read_page: Callable[[Page], bytes] | None = None) -> list[Run]:
        """Return what is alive as runs."""
        return list(map(Run._make, ROW.iter_unpack(self.rows(read_page))))


def live_runs(sections: Iterable[tuple[int, bytes]]) -> Iterator[LiveRuns]:
    """Yield all messages that an image keeps alive, a chunk or so at a time; no page is read.

    What a queue retains is alive as such: what else it has is yielded beside it where it is older than all that is
    retained, and where it may have come from elsewhere. A message that lies in several places of one queue is yielded
    once, or for each of them, and all of those are marked as `shared`. So is what was published to a topic, for each
    subscription that keeps it alive. What died, and lies in another queue now, is yielded for that too.

    Args:
        sections: As for `load`. They need not be kept: one is looked at at a time.

    Raises:
        ImageUnknown: A newer version wrote it. What a section that is unknown keeps alive is unknown too, so nothing
            may be reclaimed by what was yielded so far.
        ImageDamaged: It contradicts itself, or ends too early; likewise.

    """
    heads: dict[tuple[int, int], tuple[int, tuple[int, int] | None]] = {}
    covered: dict[int, tuple[int, int, int]] = {}
    sharing: set[int] = set()
    ended = False
    for kind, data in sections:
        columns = decode(kind, data)
        ended = kind == s.END
        parts: Iterable[LiveRuns] = ()
        if kind in _LIVE_ROWS:
            parts = _LIVE_ROWS[kind](columns)
        elif kind == s.MACHINE:
            _head_of(columns)
        elif kind == s.BINDINGS:
            sharing.update(columns["queue"], columns["topic"])
        elif kind == s.QUEUES:  # what a topic delays is not among what it retains
            places = zip(columns["id"], columns["retained"], strict=True)
            covered.update((queue_id, _covered_by(place)) for queue_id, place in places if place is not None)
        elif kind == s.INDEXES:
            parts = _live_in_indexes(columns, heads)
        elif kind == s.CHUNKS:
            parts = _live_in_chunks(columns, heads)
        parts = _once(parts, covered)
        yield from _marked(parts, sharing) if sharing else parts
    if not ended:
        raise ImageDamaged("the image has no section `end`: what it keeps alive is not known")


def _marked(parts: Iterable[LiveRuns], sharing: set[int]) -> Iterator[LiveRuns]:
    for part in parts:
        yield part._replace(shared=True) if part.queue in sharing else part


def _covered_by(place: Sequence[int]) -> tuple[int, int, int]:
    """Return the last entry that is not retained any more, and the first and last of strangers; (1, 0): none."""
    lost, first, last, done = (place[column] for column in _HISTORY_COLUMNS)
    return (lost, first, last) if first and done >= lost else (lost, 1, 0)


def _once(parts: Iterable[LiveRuns], covered: dict[int, tuple[int, int, int]]) -> Iterator[LiveRuns]:
    """Yield *parts* without what is retained for sure: all that is behind what was lost, but for what may be strange.

    Messages that are held back are a subscription's, and never retained by it.
    """
    for part in parts:
        history = covered.get(part.queue)
        summary = part.summary
        if history is None or part.place == "held":
            yield part
            continue
        lost, first, last = history
        strange = summary.lowest_zxid <= last and first <= summary.highest_zxid
        # Of a transaction several parts may have come into the queue, and the first be not retained any more.
        shared = strange or summary.lowest_zxid <= lost <= summary.highest_zxid
        if part.place == "retained" or summary.highest_zxid <= lost:
            yield part._replace(shared=True) if shared else part
        elif strange or summary.lowest_zxid <= lost:
            within = ((1, lost), (first, last)) if strange else ((1, lost),)
            if part.page is not None:
                yield part._replace(within=within, shared=shared)
            elif rows := _of_batches(part.rows(), within):
                count = len(rows) // RUN_BYTES
                yield LiveRuns(part.queue, part.place, summary_of(rows), None, rows, row_count=count, shared=shared)


def _of_batches(rows: bytes, within: tuple[tuple[int, int], ...]) -> bytes:
    """Return those of the packed *rows* whose batches lie in these ranges."""
    count = len(rows) // RUN_BYTES
    return b"".join(
        [
            rows[row * RUN_BYTES : (row + 1) * RUN_BYTES]
            for row in range(count)
            if any(first <= zxid_at(rows, row) <= last for first, last in within)
        ]
    )


def pages_named(sections: Iterable[tuple[int, bytes]]) -> Iterator[Page]:
    """Yield every page that an image refers to; whoever keeps the image must keep them.

    Args:
        sections: As for `load`.

    Raises:
        ImageUnknown: A newer version wrote it, and what a section that is unknown refers to is unknown too.
        ImageDamaged: It contradicts its format.

    """
    for kind, data in sections:
        if kind in (s.CHUNKS, s.WINDOW_CHUNKS) or kind not in s.LAYOUTS:
            columns = decode(kind, data)
            pages = map(Page, columns["slot"], columns["checksum"])
            yield from (page for page in pages if page.slot != s.NO_PAGE)


def _live_in_indexes(
    columns: dict[str, Any], heads: dict[tuple[int, int], tuple[int, tuple[int, int] | None]]
) -> Iterator[LiveRuns]:
    """Yield the open rows; note in *heads* what is missing of the first chunk of each index that has chunks."""
    all_rows: bytes = columns.pop("runs")
    start = 0
    for queue_id, place, head, _, first, size, _, _, _, bits, chunks, count, _ in zip(*columns.values(), strict=True):
        rows = all_rows[start : start + count * RUN_BYTES]
        start += len(rows)
        if place == s.EXPIRING:
            continue
        if bits:
            rows = h.without_holes(rows, h.unpacked_bits(bits))
            count = len(rows) // RUN_BYTES
        front = (first, size) if size else None
        if chunks:
            heads[queue_id, place] = (head, front)
            front = None
        if rows:
            yield LiveRuns(queue_id, _place_of(place), summary_of(rows), None, rows, 0, front, count)


def _live_in_chunks(
    columns: dict[str, Any], heads: dict[tuple[int, int], tuple[int, tuple[int, int] | None]]
) -> Iterator[LiveRuns]:
    all_rows: bytes = columns.pop("runs")
    start = 0
    for queue_id, place, count, _, left, buffered, slot, checksum, *fields in zip(*columns.values(), strict=True):
        page: Page | None = Page(slot, checksum)
        rows, summary = b"", Summary(*fields)
        if slot == s.NO_PAGE:
            rows = all_rows[start : start + count * RUN_BYTES]
            start += len(rows)
            page, summary = None, summary_of(rows)
        buffer = all_rows[start : start + buffered * RUN_BYTES]
        start += len(buffer)
        if place == s.EXPIRING:
            continue
        if buffer:
            yield LiveRuns(queue_id, _place_of(place), summary_of(buffer), None, buffer, row_count=buffered)
        skip, front = heads.pop((queue_id, place), (0, None))
        bits = 0 if left is None else h.unpacked_bits(left[0])
        if h.count_left(bits, skip, count):
            yield LiveRuns(queue_id, _place_of(place), summary, page, rows, skip, front, count, holes=bits)


def _live_rows(queues: list[int], counts: Iterable[int], all_rows: bytes, place: str) -> Iterator[LiveRuns]:
    """Yield rows of which each queue has so many, one after the other; neighbours of one queue together."""
    start = end = 0
    for queue_id, group in groupby(zip(queues, counts, strict=False), key=_queue_of):
        end += sum(count for _, count in group) * RUN_BYTES
        rows = all_rows[start:end]
        start = end
        yield LiveRuns(queue_id, place, summary_of(rows), None, rows, row_count=len(rows) // RUN_BYTES)


def _live_halves(columns: dict[str, Any]) -> Iterator[LiveRuns]:
    rows = [ROW.pack(*Half(*row).run) for row in zip(*columns.values(), strict=True)]
    yield LiveRuns(HALVES_ID, "half", summary_of(b"".join(rows)), None, b"".join(rows), row_count=len(rows))


_LIVE_ROWS: dict[int, Callable[[dict[str, Any]], Iterator[LiveRuns]]] = {
    s.RETURNED: lambda columns: _live_rows(columns["queue"], repeat(1), columns["runs"], "returned"),
    s.LEASES: lambda columns: _live_rows(columns["queue"], columns["pieces"], columns["runs"], "leased"),
    s.HALVES: _live_halves,
}
"""What holds rows beside the indexes."""


def _place_of(place: int) -> str:
    return "ready" if place >= s.LANES else _PLACES[place]


_PLACES = ("ready", "delayed", "retained", "dead", "expiring", "held")
_HISTORY_COLUMNS = 1, 6, 7, 8  # within the column `retained`: see `History.places`
_queue_of = itemgetter(0)
