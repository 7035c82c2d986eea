"""Dead letters of one queue: looked at, found by their places, taken out.

They lie aside in `queue.dead`, in the order of dying; or, with a note that says whence they came, among the ready
messages of a queue that others name as theirs. A place is `ready, zxid, first`, and flat lists hold those with a size:
neighbours within one run each. This module must not know entries, nor what becomes of what is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.looking import look_into
from sluicemq.broker.queues.runs import bytes_in, messages_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run


def placed(flat: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield (ready, zxid, first, size) of each."""
    return zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)


def peek_dead(queue: Queue, skip: int, count_max: int) -> list[Run]:
    """Return what lies aside, in order: at most *count_max* messages after the first *skip*; raises as `peek`."""
    found: list[Run] = []
    if skip < queue.dead.messages:
        look_into(queue.dead, found, skip, count_max)
    return found


def find_dead(queue: Queue, flat: list[int]) -> list[Run]:
    """Return those of *flat* that lie aside."""
    found: list[Run] = []
    for ready, zxid, first, size in placed(flat):
        ordinal = queue.dead.find_place((ready, zxid, first))
        if ordinal is not None:
            run = queue.dead.run_at(ordinal)
            if run.first <= first and 0 < size <= run.first + run.size - first:
                found.append(run._replace(first=first, size=size))
    return found


def find_ready(queue: Queue, ready: int, zxid: int, first: int) -> Run | None:
    """Return the ready run that holds this message, wherever it is."""
    return queue.returned.find(ready, zxid, first) or queue.lanes.find(ready, zxid, first)


def find_strangers(queue: Queue, flat: list[int]) -> list[Run]:
    """Return those of *flat* that are ready and died elsewhere."""
    found: list[Run] = []
    if not queue.notes:
        return found
    for ready, zxid, first, size in placed(flat):
        whole = find_ready(queue, ready, zxid, first)
        if whole is None or not 0 < size <= whole.first + whole.size - first:
            continue
        note = queue.notes.get(whole.note)
        if note is not None and note.origin:
            found.append(whole._replace(first=first, size=size))
    return found


def missing_dead(queue: Queue, flat: list[int]) -> list[Chunk]:
    """Return the chunks that finding and taking needs and that are not in memory."""
    missing: dict[Chunk, None] = {}
    for place in zip(flat[::4], flat[1::4], flat[2::4], strict=True):
        missing.update(dict.fromkeys(queue.dead.missing_place(place)))
        if queue.notes:
            missing.update(dict.fromkeys(queue.lanes.missing_placed(*place)))
    return list(missing)


def take_dead(queue: Queue, runs: list[Run], zxid: int) -> list[Run]:
    """Take *runs*, as `find_dead` returned them, out, because of the entry *zxid*; each once.

    Their notes are read before: they go with the last message. What is left of a run that was cut goes behind all
    others, with this place. Afterwards the caller says what becomes of them: `revive` or `queue.count_gone`.
    """
    taken: list[Run] = []
    for run in runs:
        ordinal = queue.dead.find_place((run.ready, run.zxid, run.first))
        if ordinal is None:
            continue
        whole = queue.dead.run_at(ordinal)
        if run.first < whole.first or run.first + run.size > whole.first + whole.size:
            continue
        rest = queue.dead.remove(ordinal, run.first, run.size)
        queue.dead.extend([part._replace(ready=zxid) for part in rest])
        taken.append(run)
    queue.notes.release_dead(taken)
    return taken


def revive(queue: Queue, runs: list[Run], zxid: int) -> None:
    """Put *runs*, taken out of what lies aside, behind the tail of their queue, as if nobody had tried them."""
    fresh = [run._replace(deliveries=0, attempts=0, note=0) for run in runs]
    queue.redriven_total += messages_in(fresh)
    if queue.bytes is not None:
        queue.bytes += bytes_in(fresh)
    queue.make_ready(fresh, zxid)


def discard(queue: Queue, runs: list[Run], why: str) -> None:
    """Count *runs*, taken out of what lies aside, as `purged` (for good) or `moved` (to be tried elsewhere)."""
    messages = messages_in(runs)
    queue.count_gone(why, messages)
    if why == "moved":
        queue.redriven_total += messages
    else:
        queue.discarded_total += messages
