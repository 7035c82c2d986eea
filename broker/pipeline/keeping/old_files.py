"""Whether the old files still hold what is alive: asked once, at a start, before the broker serves.

Why: gaps between old files are what died, so a file that was deleted by mistake shows in nothing but the messages that
it held; unasked, the first consumer that came upon one of them would end the broker. Asked is the machine after the
replay: what a newer snapshot dropped files by, or a repair gave up, is settled there.

Chunks are compared by their summaries; rows are looked at only where a chunk reaches over a gap. What cannot be read
(a page, the index of a file) is not judged here: whoever needs it says so. This module must not know the stages.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.pipeline.keeping.liveness import Span
from sluicemq.broker.queues.chunks import CHUNK_BYTES, ROW, RUN_BYTES, zxid_span
from sluicemq.broker.queues.coverage import SEEN_BATCHES_MAX, Coverage
from sluicemq.broker.queues.halves import HALVES_ID, PREPARED
from sluicemq.broker.queues.holes import NONE
from sluicemq.storage.decisions import Decision
from sluicemq.storage.decisions_files import HELD, Holding
from sluicemq.storage.errors import FileGap, LogCorrupt, LogReadFailed, OldFileMissing, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sluicemq.broker.queues.chunks import Chunk, FifoImage, Page
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.broker.queues.runs import Run
    from sluicemq.storage.log import SegmentLog
    from sluicemq.storage.pagefile import PageFile

__all__ = ["GAPS_NAMED_MAX", "QUEUES_NAMED_MAX", "Missing", "check_old_files", "find_missing"]

logger = logging.getLogger("sluicemq.restart")

GAPS_NAMED_MAX = 5
"""So many gaps are named by an error."""
QUEUES_NAMED_MAX = 10
"""So many queues are named of each gap."""
_ZXID_MAX = (1 << 64) - 1
_NOBODY = (1, 0)
_FEW_ROWS = 4
"""So many rows are sooner looked at than summed up."""


def check_old_files(log: SegmentLog, machine: Machine, pages: PageFile | None) -> None:
    """Return if every message that is alive in *machine*, with the whole log applied, lies in a file; blocks.

    Takes about 3 µs a queue and 1 µs a chunk; 0.1 ms for each chunk that reaches over a gap.

    Raises:
        OldFileMissing: Some lie in none.

    """
    if not log.start_zxid:
        return
    try:
        files = log.live_files()
    except (LogCorrupt, LogReadFailed) as error:
        logger.warning("whether old files are missing cannot be told: %s", error)
        return

    def read_page(page: Page) -> bytes:
        assert pages is not None, "only a page file lets chunks leave the memory"
        return pages.read(page.slot, CHUNK_BYTES, page.checksum)

    spans = [Span(each.first_zxid, each.last_zxid) for each in files]
    missing = find_missing(machine, spans, log.start_zxid, read_page)
    row = HELD.decide(Holding.SOME if missing else Holding.ALL)
    if row.decision is not Decision.REFUSE:
        return
    names = [*(each.name for each in files), log.first_segment_name]
    gaps = []
    for each in missing[:GAPS_NAMED_MAX]:
        number = bisect_left(spans, each.first_zxid, key=_last_zxid)
        named = tuple(each.messages.most_common(QUEUES_NAMED_MAX))
        gaps.append(
            FileGap(
                names[number - 1] if number else "",
                log.path_of(names[number]),
                each.first_zxid,
                each.last_zxid,
                each.messages.total(),
                tuple((_name_of(machine, queue), count) for queue, count in named),
                len(each.messages),
            )
        )
    raise OldFileMissing(tuple(gaps), len(missing))


class Missing(NamedTuple):
    """Messages that are alive in one gap between files.

    Attributes:
        first_zxid: The first entry of them.
        last_zxid: The last one.
        messages: How many, by number of the queue.

    """

    first_zxid: int
    last_zxid: int
    messages: Counter[int]


def find_missing(
    machine: Machine, files: Sequence[Span], start_zxid: int, read_page: Callable[[Page], bytes]
) -> list[Missing]:
    """Return what is alive in *machine* and lies in none of the *files* (ascending), gap by gap.

    Args:
        machine: With the whole log applied.
        files: Spans of the old files, ascending.
        start_zxid: Everything behind it lies in the log proper.
        read_page: Returns the rows of a page; where it raises StorageError, the chunk is passed over.

    """
    search = _Search(files, start_zxid, read_page)
    for queue in machine.queues():
        search.look_at(queue)
    for topic in machine.sources:
        search.look_at_topic(topic)
    search.look_at_halves(machine)
    return [Missing(first, last, messages) for _, (first, last, messages) in sorted(search.found.items())]


class _Search:
    """Goes through the queues; `found` holds the first and last entry and the messages by queue of each gap."""

    def __init__(self, files: Sequence[Span], start_zxid: int, read_page: Callable[[Page], bytes]) -> None:
        # Stretches of entries without a gap; the last one never ends.
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in (*files, Span(start_zxid + 1, _ZXID_MAX)):
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], last)
            elif first <= last:
                self._firsts.append(first)
                self._lasts.append(last)
        self._read_page = read_page
        self._strangers = _NOBODY
        self._seen = Coverage(SEEN_BATCHES_MAX)
        self.found: dict[int, tuple[int, int, Counter[int]]] = {}

    def look_at(self, queue: Queue) -> None:
        """Find what is missing of one queue: each message once, the retained ones among those that are retained.

        What came from elsewhere is not retained, and what was prepared may be though it is older than all that is: so
        what lies between the first and last of such messages is compared.
        """
        through = _ZXID_MAX
        if queue.history is not None:
            through = queue.history.lost.zxid
            low, high, done_zxid = queue.history.strangers
            self._strangers = (low, high) if low and done_zxid >= through else _NOBODY
            self._seen = Coverage(SEEN_BATCHES_MAX)
            self._add_index(queue.id, queue.history.runs.image(), _ZXID_MAX)
        for lane in (*queue.lanes, queue.dead):
            if lane.messages:
                self._add_index(queue.id, lane.image(), through)
        if queue.delayed.messages and (delayed := queue.delayed.image()) is not None:
            self._add_index(queue.id, delayed, through)
        if queue.returned.messages:
            self._add_runs(queue.id, queue.returned, through)
        for table in queue.leases.values():
            self._add_runs(queue.id, (run for _, run, _ in table.pieces()), through)
        self._strangers = _NOBODY

    def look_at_topic(self, topic: Topic) -> None:
        """Find what is missing of what a topic itself holds: what it retains is delayed no more."""
        if topic.history is not None:
            self._add_index(topic.id, topic.history.runs.image(), _ZXID_MAX)
        if topic.delayed.messages and (delayed := topic.delayed.image()) is not None:
            self._add_index(topic.id, delayed, _ZXID_MAX)
        for filling in topic.fillings.values():
            if filling.held.messages:
                self._add_index(filling.queue, filling.held.image(), _ZXID_MAX)

    def look_at_halves(self, machine: Machine) -> None:
        """Find which half messages are missing."""
        self._add_runs(HALVES_ID, (half.run for half in machine.halves), _ZXID_MAX)

    def _add_index(self, queue: int, image: FifoImage, through: int) -> None:
        head, front = image.head, image.front
        holes = dict(image.holes)
        for number, chunk in enumerate(image.chunks):
            if not self._holds(*_span_of(chunk)) and (rows := self._rows_of(chunk)) is not None:
                self._add_rows(queue, rows, head, front, holes.get(number, NONE).bits, through)
            head, front = 0, None
        if image.open_bytes:
            open_rows = image.open_rows
            if image.open_bytes <= _FEW_ROWS * RUN_BYTES or not self._holds(*zxid_span(open_rows)):
                bits = holes.get(len(image.chunks), NONE).bits
                self._add_rows(queue, open_rows, head, front, bits, through)

    def _holds(self, lowest_zxid: int, highest_zxid: int) -> bool:
        number = bisect_left(self._lasts, lowest_zxid)
        return self._firsts[number] <= lowest_zxid and highest_zxid <= self._lasts[number]

    def _rows_of(self, chunk: Chunk) -> bytes | None:
        if chunk.data is not None:
            return chunk.data
        assert chunk.page is not None, "what is not in memory is on a page"
        try:
            return self._read_page(chunk.page)[: chunk.rows * RUN_BYTES]
        except StorageError as error:
            logger.warning("whether a part of an index lies in the old files cannot be told: %s", error)
            return None

    def _add_rows(
        self, queue: int, rows: bytes | bytearray, head: int, front: tuple[int, int] | None, holes: int, through: int
    ) -> None:
        first, last = 1, 0
        low, high = self._strangers
        for number, (zxid, _, run_first, size, *_) in enumerate(ROW.iter_unpack(rows)):
            if first <= zxid <= last or number < head or holes >> number & 1:
                continue
            place = bisect_left(self._lasts, zxid)
            if self._firsts[place] <= zxid:
                first, last = self._firsts[place], self._lasts[place]
            elif zxid <= through or low <= zxid <= high:
                if front is not None and number == head:
                    run_first, size = front
                self._note(place, queue, zxid, run_first, size)

    def _add_runs(self, queue: int, runs: Iterable[Run], through: int) -> None:
        first, last = 1, 0
        low, high = self._strangers
        for run in runs:
            zxid = run.zxid
            if first <= zxid <= last:
                continue
            place = bisect_left(self._lasts, zxid)
            if self._firsts[place] <= zxid:
                first, last = self._firsts[place], self._lasts[place]
            elif zxid <= through or low <= zxid <= high:
                self._note(place, queue, zxid, run.first, run.size)

    def _note(self, place: int, queue: int, zxid: int, run_first: int, messages: int) -> None:
        if self._strangers[0] <= zxid <= self._strangers[1]:
            messages = self._seen.add(zxid, run_first, messages)
        first, last, counts = self.found.get(place) or (zxid, zxid, Counter())
        counts[queue] += messages
        self.found[place] = (min(first, zxid), max(last, zxid), counts)


def _span_of(chunk: Chunk) -> tuple[int, int]:
    """Return the lowest and highest zxid; without its summary where that must be worked out, which takes longer."""
    if chunk.page is None and chunk.data is not None:
        return zxid_span(chunk.data)
    return chunk.summary.lowest_zxid, chunk.summary.highest_zxid


def _last_zxid(span: Span) -> int:
    return span.last_zxid


def _name_of(machine: Machine, queue_id: int) -> str:
    if queue_id == HALVES_ID:
        return PREPARED
    found = machine.queue(queue_id) or machine.sources.get(queue_id)
    return str(queue_id) if found is None else found.name
