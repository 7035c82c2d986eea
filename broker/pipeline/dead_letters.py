"""Dead letters on the leader: looked at without any change, and sent on the road to be redriven or dropped.

A queue's dead letters are those that lie aside in it, and behind them the ready messages that died in another queue and
came here. `skip` counts all of both, also ready messages that never died: they are passed over. Must not know sockets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.pipeline.telling import described
from sluicemq.broker.queues.dead_letters import peek_dead
from sluicemq.broker.queues.entries_of_queues import Discard, Redrive
from sluicemq.broker.queues.runs import messages_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run


class DeadLetters(NamedTuple):
    """A page of dead letters.

    Attributes:
        runs: What lies there.
        notes: The notes of the runs, each once, as they travel.
        numbers: For each run the number of its note in *notes*, from 1; 0: none.
        next_skip: Where the next page begins.
        more: Whether there is one.

    """

    runs: list[Run]
    notes: list[dict[str, Any]]
    numbers: list[int]
    next_skip: int
    more: bool


async def look(road: Road, queue: Queue, skip: int, count_max: int) -> DeadLetters:
    """Return at most *count_max* dead letters after the first *skip* messages."""
    aside = await road.look(lambda: peek_dead(queue, skip, count_max))
    seen = messages_in(aside)
    runs = list(aside)
    if seen < count_max and queue.notes:
        # Behind those that lie aside; what a page passes over counts, so that a page never walks through a backlog.
        ready_skip = max(skip + seen - queue.dead.messages, 0)
        ready = await road.peek(queue.id, ready_skip, count_max - seen)
        seen += messages_in(ready)
        runs += [run for run in ready if (note := queue.notes.get(run.note)) is not None and note.origin]
    notes: list[dict[str, Any]] = []
    numbers: list[int] = []
    known: dict[int, int] = {}
    for run in runs:
        note = queue.notes.get(run.note)
        if note is not None and run.note not in known:
            notes.append(described(note))
            known[run.note] = len(notes)
        numbers.append(known.get(run.note, 0))
    there = queue.dead.messages + (queue.ready if queue.notes else 0)
    return DeadLetters(runs, notes, numbers, skip + seen, bool(seen) and skip + seen < there)


def redrive(road: Road, queue: Queue, runs: list[int], to: Queue | None, on_outcome: Callable[[Any], None]) -> None:
    """Put dead letters on the road to where they came from, or to another queue."""
    entry = Redrive(road.clock.now_ms(), queue.id, runs, 0 if to is None else to.id)
    road.propose(entry, on_applied=on_outcome)


def discard(road: Road, queue: Queue, runs: list[int], on_outcome: Callable[[Any], None]) -> None:
    """Drop dead letters."""
    road.propose(Discard(road.clock.now_ms(), queue.id, runs), on_applied=on_outcome)
