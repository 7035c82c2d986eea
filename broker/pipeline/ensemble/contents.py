"""What a digest takes in of the content of a machine: a share of it, and another one the next time. Pure.

Counts show that something was judged differently, but not where a message lies, how often it was tried, who has it and
what a window holds. All of that would cost as much as the state is large. So each digest looks at some queues and some
sessions, a bounded number of rows in all; which ones follows from its place in the log, so all brokers look at the
same, and after enough digests everything had its turn.

Nothing depends on what lies in memory and what on pages, nor on where chunks begin: rows count by what all of them come
to that came since their index was last empty (`queues/checksums`). A few sealed chunks are looked at anew each time,
whichever: where nothing changed them, that changes nothing.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues.checksums import look_anew, of_fifo
from sluicemq.broker.queues.windows import windows_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sluicemq.broker.queues.fifo import RunFifo
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.window import IdWindow

QUEUES_MAX = 50
"""Most queues, and most sessions, that one digest looks into."""
ROWS_MAX = 1_000
"""After so many rows (given back, or under lease) a digest looks into no further queue, and no further session."""
ROWS_OF_ONE_MAX = 250
"""Most rows of one consumer's leases, or of what was given back to one queue."""
CHUNKS_ANEW_MAX = 16
"""Most sealed chunks that one digest looks at anew: 16 µs each."""
HOLES_ROWS_MAX = 65_536
"""Most rows among which one digest looks for those that left from the middle: 10 µs for each 1,024."""


@dataclass(slots=True)
class _Look:
    """One digest: its turn, how many more chunks it may look at anew, and among how many more rows for holes."""

    turn: int
    chunks_left: int = CHUNKS_ANEW_MAX
    rows_left: int = HOLES_ROWS_MAX


def contents(machine: Machine, turn: int) -> dict[str, list[Any]]:
    """Return what the digest number *turn* takes in, by part, as values that can be packed."""
    look = _Look(turn)
    rows, looked_into = 0, []
    for queue in _share(machine.queues(), turn):
        content, more = _of_queue(queue, look)
        looked_into.append(content)
        rows += more
        if rows > ROWS_MAX:
            break
    rows, sessions = 0, []
    for number in _share(sorted(machine.sessions), turn):
        holder = machine.sessions[number]
        sessions.append(holder)
        rows += sum(min(ROWS_OF_ONE_MAX, table.messages) for table in holder.leases.values())
        if rows > ROWS_MAX:
            break
    return {
        "contents": looked_into,
        "leases": [
            [holder.number, [_of_table(table) for _, table in sorted(holder.leases.items())]] for holder in sessions
        ],
        "clients": [
            [each.vhost, each.identity, each.client_name, each.opened_ms, _checksum(sorted(each.settled.items()))]
            for each in sessions
        ],
        "prepared": [len(machine.halves), machine.halves.parked],
    }


def _share(all_of_them: Sequence[Any], turn: int) -> Iterator[Any]:
    """Yield those whose turn it is."""
    count = len(all_of_them)
    start = turn * QUEUES_MAX % count if count else 0
    for place in range(start, start + min(count, QUEUES_MAX)):
        yield all_of_them[place % count]


def _of_queue(queue: Queue, look: _Look) -> tuple[list[Any], int]:
    """Return what is in a queue, and how many rows were looked at."""
    lanes = [(priority, *_of_fifo(lane, look)) for priority, lane in queue.lanes.items() if lane.messages]
    returned = list(islice(queue.returned, ROWS_OF_ONE_MAX))
    history = queue.history
    content = [
        [queue.id, queue.created_ms, queue.used_ms, queue.paused, queue.next_due_ms],
        _checksum(sorted(map(repr, queue.settings.items()))),
        sorted(map(str, queue.declared)),
        lanes,
        _checksum(returned),
        [[kind, *_of_window(window, look)] for kind, window in windows_of(queue)],
        [queue.delayed.messages, *_of_fifo(queue.dead, look)],
        [] if history is None else [str(history.places()), *_of_fifo(history.runs, look)],
        [] if queue.keys is None else [len(queue.keys.parked), len(queue.keys.waiting), len(queue.keys.places)],
    ]
    return content, len(returned)


def _of_fifo(fifo: RunFifo, look: _Look) -> tuple[Any, ...]:
    look.chunks_left -= look_anew(fifo, look.turn, look.chunks_left)
    rows_max = look.rows_left
    rows = fifo.tail - fifo.head
    if rows > len(fifo):
        look.rows_left -= min(rows, rows_max)
    return of_fifo(fifo, look.turn, rows_max)


def _of_window(window: IdWindow, look: _Look) -> list[int]:
    """Return what every broker knows of a window of ids: all counts, and all rows."""
    look.chunks_left -= window.look_anew(look.turn, look.chunks_left)
    return [*window.numbers(), window.ids, *window.checksums()]


def _of_table(table: Any) -> list[int]:
    pieces = list(islice(table.pieces(), ROWS_OF_ONE_MAX))
    return [table.consumer, table.queue_id, table.last_tag, table.messages, _checksum(pieces)]


def _checksum(value: Any) -> int:
    """Return a checksum of plain values: `repr` of numbers and text is the same everywhere."""
    return zlib.crc32(repr(value).encode())
