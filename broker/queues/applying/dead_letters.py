"""REDRIVE and DISCARD: dead letters are tried again, or dropped for good.

They lie aside in their own queue, or among the ready messages of a queue that others name as theirs (see
`queues.dead_letters`). This module must not know who wants that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues import dead_letters as letters
from sluicemq.broker.queues.applying.dying import without_expiry
from sluicemq.broker.queues.applying.limiting import make_room, missing_of_room, refuse_overflow
from sluicemq.broker.queues.applying.refusals import queue_not_found
from sluicemq.broker.queues.applying.taking import take_ready
from sluicemq.broker.queues.outcomes import Discarded, Effect, Outcome, Ready, Redriven
from sluicemq.broker.queues.runs import Run, bytes_in, messages_in
from sluicemq.wire.errors import Conflict

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries_of_queues as q
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.wire.errors import SluiceError


class _Chosen:
    """What goes to one queue: dead letters that lie aside, and ready messages that died elsewhere."""

    def __init__(self) -> None:
        self.aside: list[Run] = []
        self.strangers: list[Run] = []

    @property
    def runs(self) -> list[Run]:
        return [*self.aside, *self.strangers]


def redrive(machine: Machine, zxid: int, entry: q.Redrive) -> Outcome:
    """Put dead letters behind the tail of the queue they came from, or another, as if nobody had tried them."""
    queue = machine.queue(entry.queue)
    if queue is None:
        return Outcome(None, queue_not_found(entry.queue))
    if entry.to and machine.queue(entry.to) is None:
        return Outcome(None, queue_not_found(entry.to))
    chosen = _choose(machine, queue, entry)
    refusal = _refusal(machine, queue, chosen)
    if refusal is not None:
        return Outcome(None, refusal)
    messages = 0
    effects: list[Effect] = []
    for target_id, group in chosen.items():
        target = machine.existing_queue(target_id)
        runs = letters.take_dead(queue, group.aside, zxid)
        if target is queue:
            messages += messages_in(runs)
            letters.revive(queue, without_expiry(machine, queue, runs), zxid)
        else:
            letters.discard(queue, runs, "moved")
            moved, removed = take_ready(queue, group.strangers)
            queue.gone(moved, "moved")
            effects += removed
            runs += moved
            messages += messages_in(runs)
            fresh = [run._replace(deliveries=0, attempts=0, note=0) for run in runs]
            fresh = without_expiry(machine, target, fresh)
            target.arrive_from_elsewhere(fresh)
            target.make_ready(fresh, zxid)
        effects.append(Ready(target.id))
        if target.is_limited:
            effects += make_room(machine, zxid, target, messages_in(runs))
        machine.due_changed(target)
    machine.due_changed(queue)
    return Outcome(Redriven(messages), None, tuple(effects))


def redrive_targets(machine: Machine, entry: q.Redrive) -> list[int]:
    """Return the numbers of the queues that the dead letters go to; for a freeze, and what needs to be in memory."""
    queue = machine.queue(entry.queue)
    if queue is None:
        return []
    return [entry.to] if entry.to else list(_choose(machine, queue, entry))


def missing_of_redrive(machine: Machine, entry: q.Redrive) -> list[Chunk]:
    """Return the chunks that are not in memory and that finding the dead letters needs, or making room for them."""
    queue = machine.queue(entry.queue)
    if queue is None:
        return []
    missing = letters.missing_dead(queue, entry.runs)
    if missing:
        return missing  # where they go shows when they are there
    for number in redrive_targets(machine, entry):
        target = machine.queue(number)
        if target is not None and target.is_limited:
            missing += missing_of_room(target, sum(entry.runs[3::4]))
    return list(dict.fromkeys(missing))


def _choose(machine: Machine, queue: Queue, entry: q.Redrive) -> dict[int, _Chosen]:
    """Return what goes where; what came from a queue that is gone stays, unless the entry says where it shall go."""
    chosen: dict[int, _Chosen] = {}
    for run in letters.find_dead(queue, entry.runs):
        chosen.setdefault(entry.to or queue.id, _Chosen()).aside.append(run)
    for run in letters.find_strangers(queue, entry.runs):
        note = queue.notes.get(run.note)
        assert note is not None, "a stranger has a note"
        origin = machine.find_queue(queue.vhost, note.origin)
        target_id = entry.to or (0 if origin is None else origin.id)
        if target_id and target_id != queue.id:
            chosen.setdefault(target_id, _Chosen()).strangers.append(run)
    return chosen


def _refusal(machine: Machine, queue: Queue, chosen: dict[int, _Chosen]) -> SluiceError | None:
    """Return why the messages cannot all go where they should, if nothing is there or one of those queues is full."""
    if not chosen:
        return Conflict(
            f"queue {queue.name!r:.300} has none of these dead letters any more, or the queues that they came from are "
            "gone: list them again, or name the queue that they shall go to",
            queue=queue.name,
        )
    for target_id, group in chosen.items():
        target = machine.existing_queue(target_id)
        if target.is_limited:
            refusal = refuse_overflow(target, messages_in(group.runs), bytes_in(group.runs))
            if refusal is not None:
                return refusal
    return None


def discard(machine: Machine, zxid: int, entry: q.Discard) -> Outcome:
    """Drop dead letters."""
    queue = machine.queue(entry.queue)
    if queue is None:
        return Outcome(None, queue_not_found(entry.queue))
    runs = letters.take_dead(queue, letters.find_dead(queue, entry.runs), zxid)
    letters.discard(queue, runs, "purged")
    dropped, effects = take_ready(queue, letters.find_strangers(queue, entry.runs))
    queue.gone(dropped, "purged")
    machine.due_changed(queue)
    return Outcome(Discarded(messages_in(runs) + messages_in(dropped)), None, tuple(effects))
