"""MOVE: chosen messages go to another queue by reference, are copied there likewise, or are dropped.

No body is read or written: a queue holds runs, and the bodies stay where they are as long as any queue holds one. What
is not where it was chosen any more is left alone. The count is kept in the place of an id with the producer's receipt,
so that whoever asks again hears the same. This module must not know who chose, nor why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues import dead_letters as letters
from sluicemq.broker.queues.applying.dying import without_expiry
from sluicemq.broker.queues.applying.fitting import fitted
from sluicemq.broker.queues.applying.limiting import make_room, missing_of_room, refuse_overflow
from sluicemq.broker.queues.applying.refusals import queue_not_found
from sluicemq.broker.queues.applying.taking import take_ready
from sluicemq.broker.queues.entries_of_moving import DEAD, READY
from sluicemq.broker.queues.outcomes import Effect, Moved, Outcome, Ready
from sluicemq.broker.queues.runs import bytes_in, messages_in
from sluicemq.broker.queues.sequences import Producer
from sluicemq.wire.errors import Conflict, InvalidRequest, SluiceError

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.entries_of_moving import Move
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run


def move(machine: Machine, zxid: int, entry: Move) -> Outcome:
    """Judge the number of the request, then do with the messages what it says."""
    verdict = machine.producers.judge(entry.producer, entry.sequence, machine.log_time_ms)
    if isinstance(verdict, SluiceError):
        return Outcome(None, verdict)
    if not isinstance(verdict, Producer):
        return Outcome(Moved(machine.producers.id_base(entry), duplicate=True))
    queue, target = machine.queue(entry.queue), machine.queue(entry.to) if entry.to else None
    if queue is None or (entry.to and target is None):
        return Outcome(None, queue_not_found(entry.to if queue is not None else entry.queue))
    refusal = refuse_move(queue, target, keep=entry.keep, state=entry.state)
    if refusal is not None:
        return Outcome(None, refusal)
    chosen = find_ready_parts(queue, entry.runs) if entry.state == READY else letters.find_dead(queue, entry.runs)
    if target is not None and target.is_limited and chosen:
        full = refuse_overflow(target, messages_in(chosen), bytes_in(chosen))
        if full is not None:
            return Outcome(None, full)
    effects: list[Effect] = []
    if not entry.keep:
        chosen, effects = _leave(machine, zxid, queue, entry, chosen)
    messages = messages_in(chosen)
    machine.producers.record(verdict, zxid, messages)
    if target is not None and chosen:
        effects += _arrive(machine, zxid, target, chosen, dead=entry.state == DEAD)
    return Outcome(Moved(messages), None, tuple(effects))


def _leave(machine: Machine, zxid: int, queue: Queue, entry: Move, chosen: list[Run]) -> tuple[list[Run], list[Effect]]:
    """Take *chosen* out of *queue*; return what was taken, and what the leader hears of it."""
    why = "moved" if entry.to else "purged"
    effects: list[Effect] = []
    if entry.state == READY:
        taken, effects = take_ready(queue, chosen)
        queue.gone(taken, why)
    else:
        taken = letters.take_dead(queue, chosen, zxid)
        letters.discard(queue, taken, why)
    machine.due_changed(queue)
    return taken, effects


def refuse_move(queue: Queue, target: Queue | None, *, keep: bool, state: int) -> SluiceError | None:
    """Return why messages of *queue* cannot go to *target* (None: nowhere), whichever they are."""
    if state not in (READY, DEAD):
        return InvalidRequest(f"messages in state {state} cannot be moved")
    if target is None:
        return InvalidRequest("a copy needs a queue to go to") if keep else None
    if target is queue:
        return InvalidRequest(f"messages of queue {queue.name!r:.300} cannot be moved to where they are")
    if target.settings["ordering"] == "key" and queue.settings["ordering"] != "key":
        return Conflict(
            f"queue {target.name!r:.300} keeps an order by key and queue {queue.name!r:.300} does not, so nobody knows "
            "the keys of its messages: publish them anew, or move them to a queue with ordering='fifo'",
            queue=target.name,
        )
    return None


def find_ready_parts(queue: Queue, flat: list[int]) -> list[Run]:
    """Return those of *flat* that are ready, each message once."""
    found: list[Run] = []
    seen: dict[tuple[int, int], list[range]] = {}
    for ready, zxid, first, size in letters.placed(flat):
        whole = letters.find_ready(queue, ready, zxid, first)
        if whole is None or not 0 < size <= whole.first + whole.size - first:
            continue
        named = seen.setdefault((ready, zxid), [])
        if all(first >= other.stop or first + size <= other.start for other in named):
            named.append(range(first, first + size))
            found.append(whole._replace(first=first, size=size))
    return found


def _arrive(machine: Machine, zxid: int, target: Queue, runs: list[Run], *, dead: bool) -> list[Effect]:
    """Put *runs* behind the tail of *target*, as if nobody had tried them; dead letters begin a new life."""
    fresh = [run._replace(deliveries=0, attempts=0, note=0) for run in runs]
    fresh = without_expiry(machine, target, fresh) if dead else fitted(target, fresh, machine.log_time_ms)
    target.arrive_from_elsewhere(fresh)
    target.make_ready(fresh, zxid)
    effects: list[Effect] = [Ready(target.id)]
    if target.is_limited:
        effects += make_room(machine, zxid, target, messages_in(fresh))
    machine.due_changed(target)
    return effects


def missing_of_move(machine: Machine, entry: Move) -> list[Chunk]:
    """Return the chunks that are not in memory and that finding the messages needs, or making room for them."""
    queue = machine.queue(entry.queue)
    if queue is None:
        return []
    missing: dict[Chunk, None] = {}
    for ready, zxid, first in zip(entry.runs[::4], entry.runs[1::4], entry.runs[2::4], strict=True):
        if entry.state == READY:
            missing.update(dict.fromkeys(queue.lanes.missing_placed(ready, zxid, first)))
        else:
            missing.update(dict.fromkeys(queue.dead.missing_place((ready, zxid, first))))
    target = machine.queue(entry.to) if entry.to else None
    if target is not None and target.is_limited:
        missing.update(dict.fromkeys(missing_of_room(target, sum(entry.runs[3::4]))))
    return list(missing)
