"""Messages of a queue as an operator looks for them: page by page, in any state, as far as a filter lets them through.

A page looks at a bounded number of messages and reads a bounded number of bytes, whatever it finds; the cursor that it
gives says where the next one goes on. Nothing is held between two pages: messages that come or go meanwhile are seen or
not, none is seen twice. Bodies are read only where the filter asks for what stands beside them. Looks only. Must not
know sockets.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from sluicemq.broker.queues.browsing import ordinal_from, read_leases, read_rows
from sluicemq.broker.queues.delayed_looking import look_delayed
from sluicemq.broker.queues.runs import PRIORITY_MAX, Run
from sluicemq.wire.errors import InvalidRequest
from sluicemq.wire.message_ids import default_message_id
from sluicemq.wire.messages import FOUND_DEAD, FOUND_DELAYED, FOUND_LEASED, FOUND_READY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sluicemq.broker.pipeline.bodies import Stored
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.fifo import RunFifo
    from sluicemq.broker.queues.queue import Queue

LOOKED_MESSAGES_MAX = 20_000
"""Most messages whose batches are read for one page,"""
LOOKED_RUNS_MAX = 5_000
"""most runs that are looked at for it,"""
LOOKED_BYTES_MAX = 16 * 1024 * 1024
"""and most bytes of batches that are read."""
LOAD_RUNS = 64
"""Most runs whose batches are read together,"""
LOAD_MESSAGES_MAX = 4_000
"""most messages of them, some milliseconds' worth,"""
LOAD_BYTES_MAX = 1024 * 1024
"""and most bytes of those batches; but one run at least."""
STEP_RUNS = 500
TURN_SECONDS = 0.002
_RETURNED, _LANE = 0, 1


class Filter(NamedTuple):
    """What messages are looked for; None, or nothing: whatever it is.

    Attributes:
        message_id: The id.
        key: The key.
        subject: The subject.
        headers: Names and values of headers, all of which must be there.
        from_ms: Published then or later.
        to_ms: Published before that.
        until_zxid: Published, and made ready, by this entry at the latest; 0: whenever.

    """

    message_id: str | None = None
    key: str | None = None
    subject: str | None = None
    headers: dict[str, object] | None = None
    from_ms: int = 0
    to_ms: int | None = None
    until_zxid: int = 0

    @property
    def needs_batches(self) -> bool:
        """Whether what stands beside the bodies must be read."""
        return not (self.message_id is None and self.key is None and self.subject is None and not self.headers)

    def takes_run(self, run: Run, state: str) -> bool:
        """Whether messages of *run* may be taken, by what the index knows."""
        if run.published_ms < self.from_ms or (self.to_ms is not None and run.published_ms >= self.to_ms):
            return False
        if not self.until_zxid:
            return True
        # What is delayed has its time there, and what is left of a dead run that was cut a new place.
        return run.zxid <= self.until_zxid and (state in (FOUND_DELAYED, FOUND_DEAD) or run.ready <= self.until_zxid)

    def parts(self, run: Run, stored: Stored) -> Iterator[Run]:
        """Yield the parts of *run* that are taken, as few as can be."""
        batch = stored.batch
        base = stored.kept.position(run.first, run.size) if stored.kept is not None else run.first
        columns: list[tuple[object, list[object | None]]] = []
        for wanted, values in ((self.key, batch.keys), (self.subject, batch.subjects)):
            if wanted is not None:
                columns.append((wanted, list(values or [None] * batch.count)))
        ids = batch.message_ids if self.message_id is not None else None
        headers = batch.headers if self.headers else None
        first = size = 0
        for offset in range(run.size):
            place = base + offset
            taken = all(values[place] == wanted for wanted, values in columns)
            if taken and self.message_id is not None:
                given = None if ids is None else ids[place]
                own = default_message_id(stored.id_base, run.first + offset) if given is None else given
                taken = own == self.message_id
            if taken and self.headers:
                there = (headers[place] if headers is not None else None) or {}
                taken = all(name in there and there[name] == value for name, value in self.headers.items())
            if taken and size and first + size == run.first + offset:
                size += 1
            elif taken:
                if size:
                    yield run._replace(first=first, size=size)
                first, size = run.first + offset, 1
        if size:
            yield run._replace(first=first, size=size)


class Page(NamedTuple):
    """What was found.

    Attributes:
        runs: The messages.
        holders: Of leased ones: session, consumer and first tag of each run.
        cursor: Where the next page goes on; nothing: there is none.
        looked_at: How many messages were looked at.
        origins: Of each run the piece that it is a part of.

    """

    runs: list[Run]
    holders: list[tuple[int, int, int]]
    cursor: list[int]
    looked_at: int
    origins: list[_Piece]

    def cursor_after(self, number: int, count: int) -> list[int]:
        """Return where a page goes on that takes only *count* messages of run *number*, and none behind it."""
        piece, run = self.origins[number], self.runs[number]
        return piece.cursor(run.first + count - piece.run.first)


class _Piece(NamedTuple):
    """A run, the cursor behind its first *n* messages, and who holds it."""

    run: Run
    cursor: Callable[[int], list[int]]
    holder: tuple[int, int, int] | None = None


class _Pieces(NamedTuple):
    pieces: list[_Piece]
    cursor: list[int]


async def browse(road: Road, queue: Queue, state: str, wanted: Filter, cursor: list[int], count_max: int) -> Page:
    """Return at most *count_max* messages of *queue* that are in this state, from *cursor* on (nothing: the front).

    Raises:
        InvalidRequest: There is no such state, or the cursor is none of ours.

    """
    reading = _READING.get(state)
    if reading is None:
        raise InvalidRequest(f"state is {state!r:.40}; it must be {', '.join(_READING)}")
    page = _Browsing(road, state, wanted, count_max, cursor)
    while True:
        read = await road.look(partial(_checked, reading, road, queue, page.cursor))
        for group in _groups(read.pieces) if wanted.needs_batches else [read.pieces]:
            if await page.take(group):
                return page.page()
        page.cursor = read.cursor
        if not page.cursor:
            return page.page()


class _Browsing:
    """A page under way."""

    def __init__(self, road: Road, state: str, wanted: Filter, count_max: int, cursor: list[int]) -> None:
        self.cursor = cursor
        self._road = road
        self._state = state
        self._wanted = wanted
        self._left = count_max
        self._found: list[Run] = []
        self._origins: list[_Piece] = []
        self._holders: list[tuple[int, int, int]] = []
        self._looked_at = self._runs = self._bytes = 0
        self._began = time.perf_counter()

    def page(self) -> Page:
        return Page(self._found, self._holders, self.cursor, self._looked_at, self._origins)

    async def take(self, group: list[_Piece]) -> bool:
        """Look at the next pieces; return whether the page ends with them."""
        wanted = self._wanted
        candidates = [piece.run for piece in group if wanted.takes_run(piece.run, self._state)]
        stored: dict[int, Stored] = {}
        if wanted.needs_batches and candidates:
            stored = await self._road.bodies.load_to_show(dict.fromkeys(run.zxid for run in candidates))
            self._bytes += sum(run.batch_bytes for run in candidates)
        for piece in group:
            run = piece.run
            self._runs += 1
            self._looked_at += run.size
            if wanted.takes_run(run, self._state):
                parts = wanted.parts(run, stored[run.zxid]) if wanted.needs_batches else iter((run,))
                if self._take_parts(piece, parts):
                    return True
            self.cursor = piece.cursor(run.size)
        if time.perf_counter() - self._began > TURN_SECONDS:
            await trio.lowlevel.checkpoint()
            self._began = time.perf_counter()
        # Messages of which only the index is looked at cost by runs.
        is_much = self._runs >= LOOKED_RUNS_MAX or self._bytes >= LOOKED_BYTES_MAX
        return is_much or (wanted.needs_batches and self._looked_at >= LOOKED_MESSAGES_MAX)

    def _take_parts(self, piece: _Piece, parts: Iterator[Run]) -> bool:
        """Take parts of a piece; return whether no more can be taken."""
        for part in parts:
            taken = part if part.size <= self._left else part._replace(size=self._left)
            self._found.append(taken)
            self._origins.append(piece)
            self._left -= taken.size
            skipped = taken.first - piece.run.first
            if piece.holder is not None:
                session, consumer, tag = piece.holder
                self._holders.append((session, consumer, tag + skipped))
            if not self._left:
                self.cursor = piece.cursor(skipped + taken.size)
                return True
        return False


def _checked(
    reading: Callable[[Road, Queue, list[int]], _Pieces], road: Road, queue: Queue, cursor: list[int]
) -> _Pieces:
    try:
        return reading(road, queue, cursor)
    except (IndexError, ValueError) as error:
        raise InvalidRequest("the cursor is none of this search; begin it again") from error


def _groups(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    """Yield the pieces in groups whose batches may be in memory, and looked at, at once."""
    group: list[_Piece] = []
    messages = bytes_ = 0
    for piece in pieces:
        messages += piece.run.size
        bytes_ += piece.run.batch_bytes
        if group and (len(group) == LOAD_RUNS or messages > LOAD_MESSAGES_MAX or bytes_ > LOAD_BYTES_MAX):
            yield group
            group, messages, bytes_ = [], piece.run.size, piece.run.batch_bytes
        group.append(piece)
    if group:
        yield group


# --- in each state ----------------------------------------------------------------------------------------------------
#
# Each returns some pieces from a cursor on, and the cursor behind them; no cursor, when there is nothing more.


def _ready(road: Road, queue: Queue, cursor: list[int]) -> _Pieces:
    """Cursor: how far the priority is from the highest, part (came back, or in its lane), then the place there."""
    rank, part, *place = cursor or (0, _RETURNED)
    priority = PRIORITY_MAX - rank
    if not 0 <= priority <= PRIORITY_MAX:
        raise ValueError("no priority")
    following = [rank, _LANE] if part == _RETURNED else [rank + 1, _RETURNED] if priority else []
    if part == _RETURNED:
        ready, zxid, first = place or (0, 0, 0)
        runs = queue.returned.some_of(priority, ready, zxid, first, STEP_RUNS + 1)
        pieces = [
            _Piece(run, lambda count, run=run: [rank, _RETURNED, run.ready, run.zxid, run.first + count])  # type: ignore[misc]
            for run in runs[:STEP_RUNS]
        ]
        if len(runs) > STEP_RUNS:
            last = runs[STEP_RUNS - 1]
            following = [rank, _RETURNED, last.ready, last.zxid, last.first + last.size]
        return _Pieces(pieces, following)
    lane = next((lane for each, lane in queue.lanes.items() if each == priority), None)
    return _in_fifo(road, lane, place, [rank, _LANE], following)


def _dead(road: Road, queue: Queue, cursor: list[int]) -> _Pieces:
    return _in_fifo(road, queue.dead, cursor[2:], [0, 0], [])


def _in_fifo(road: Road, fifo: RunFifo | None, place: list[int], head: list[int], following: list[int]) -> _Pieces:
    """Place: epoch, ordinal, and the message there. Ordinals are those of one leader; another one goes on by place."""
    if fifo is None or not fifo.messages:
        return _Pieces([], following)
    epoch, ordinal, ready, zxid, first = place or (road.epoch, fifo.head, 0, 0, 0)
    if epoch != road.epoch:
        ordinal = ordinal_from(fifo, ready)
    runs, behind, ordinals = read_rows(fifo, ordinal, STEP_RUNS)
    pieces = []
    for run, number in zip(runs, ordinals, strict=True):
        if (run.ready, run.zxid) == (ready, zxid) and run.first < first:
            if run.first + run.size <= first:
                continue
            run = run.split(first - run.first)[1]

        def behind_of(count: int, run: Run = run, number: int = number) -> list[int]:
            at = number if count < run.size else number + 1
            return [*head, road.epoch, at, run.ready, run.zxid, run.first + count]

        pieces.append(_Piece(run, behind_of))
    more = [*head, road.epoch, behind, ready, zxid, first] if behind > ordinal else following
    if pieces and behind > ordinal:
        more = pieces[-1].cursor(pieces[-1].run.size)
        more[len(head) + 1] = behind
    return _Pieces(pieces, more)


def _delayed(road: Road, queue: Queue, cursor: list[int]) -> _Pieces:
    """Cursor: when it is due, and how many messages that are due then were passed."""
    del road
    due_ms, skip = cursor or (0, 0)
    runs = look_delayed(queue.delayed, due_ms, None, skip, STEP_RUNS)
    pieces: list[_Piece] = []
    for run in runs:
        skip = skip if run.ready == due_ms else 0
        due_ms = run.ready
        pieces.append(_Piece(run, lambda count, due=due_ms, passed=skip: [due, passed + count]))  # type: ignore[misc]
        skip += run.size
    return _Pieces(pieces, [due_ms, skip] if runs else [])


def _leased(road: Road, queue: Queue, cursor: list[int]) -> _Pieces:
    """Cursor: session, consumer and tag."""
    del road
    session, consumer, tag = cursor or (0, 0, 0)
    leased, following = read_leases(queue, (session, consumer, tag), STEP_RUNS)
    pieces = [
        _Piece(run, lambda count, at=place: [at[0], at[1], at[2] + count], place)  # type: ignore[misc]
        for place, run in leased
    ]
    return _Pieces(pieces, [] if following is None else list(following))


_READING: dict[str, Callable[[Road, Queue, list[int]], _Pieces]] = {
    FOUND_READY: _ready,
    FOUND_LEASED: _leased,
    FOUND_DELAYED: _delayed,
    FOUND_DEAD: _dead,
}
"""How the messages of each state are read."""
