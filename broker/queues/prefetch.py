"""What an entry needs in memory: the chunks that whoever applies it must fill before.

Few entries need any. A GRANT takes runs from the front of its queue; a SETTLE with a delay puts some between others
that are delayed, unless they go behind all of them; a CLOCK takes what is due, and lets go of what was retained long
enough, as a PUBLISH does where that takes too many bytes; a FORGET may look anywhere. All others append, count, or drop
without a look. Naming too many costs a read; naming too few is a broken invariant at apply. This module must not change
anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_moving as v
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.broker.queues.applying.dead_letters import missing_of_redrive
from sluicemq.broker.queues.applying.delaying import missing_delayed
from sluicemq.broker.queues.applying.forgetting import missing_of_forget
from sluicemq.broker.queues.applying.halves import target_of, window_of
from sluicemq.broker.queues.applying.identifying import missing_of_ids
from sluicemq.broker.queues.applying.limiting import DROPPED_AT_ONCE_MAX, missing_of_room
from sluicemq.broker.queues.applying.moving import missing_of_move
from sluicemq.broker.queues.applying.operating import missing_to_follow
from sluicemq.broker.queues.applying.settling import missing_known
from sluicemq.broker.queues.applying.transactions import as_publish, as_settle, missing_of_judging
from sluicemq.broker.queues.dead_letters import missing_dead
from sluicemq.broker.queues.policies import POLICIES_ID
from sluicemq.broker.queues.routing import prefetching
from sluicemq.broker.queues.tags import ranges_problem
from sluicemq.wire.messages import VERDICT_ACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue


def missing_chunks(machine: Machine, entry: e.Entry) -> list[Chunk]:
    """Return the chunks that *entry* needs and that are not in memory."""
    missing = _MISSING.get(type(entry))
    return [] if missing is None else missing(machine, entry)


def _missing_of_grant(machine: Machine, entry: e.Grant) -> list[Chunk]:
    queue = machine.queue(entry.queue)
    return [] if queue is None else queue.missing(entry.runs)


def _missing_of_placed(machine: Machine, entry: e.GrantPlaced) -> list[Chunk]:
    queue = machine.queue(entry.queue)
    return [] if queue is None else queue.missing_placed(entry.runs)


def _missing_of_delayed(machine: Machine, entry: q.Cancel | q.Reschedule) -> list[Chunk]:
    queue = machine.queue(entry.queue) or machine.sources.get(entry.queue)
    return [] if queue is None else missing_delayed(queue, entry.runs)


def _missing_of_declare(machine: Machine, entry: e.Declare | t.Subscribe) -> list[Chunk]:
    """Bytes begin to be counted."""
    queue = machine.find_queue(entry.vhost, entry.name)
    if queue is None or queue.bytes is not None or entry.settings.get("max_bytes") is None:
        return []
    return queue.missing_bytes()


def _missing_of_discard(machine: Machine, entry: q.Discard) -> list[Chunk]:
    queue = machine.queue(entry.queue)
    return [] if queue is None else missing_dead(queue, entry.runs)


def _missing_of_publish(machine: Machine, entry: e.Publish) -> list[Chunk]:
    queue = machine.queue(entry.queue)
    if queue is None:
        topic = machine.sources.get(entry.queue)
        return [] if topic is None else prefetching.missing_of_published(machine, topic, entry)
    missing = _missing_of_placed_batch(queue, entry)
    return missing if queue.window is None else missing + missing_of_ids(machine, entry, queue)


def _missing_of_placed_batch(queue: Queue, entry: e.Publish) -> list[Chunk]:
    missing: list[Chunk] = queue.lanes.missing_watched()
    missing += missing_of_room(queue, entry.count) if queue.is_limited else []
    if queue.history is not None:
        missing += queue.history.missing_of_publish(len(entry.payload))
    if isinstance(entry, e.PublishGrouped):
        missing += queue.delayed.missing_late()
    return list(dict.fromkeys(missing))


def _missing_of_settle(machine: Machine, entry: e.Settle) -> list[Chunk]:
    if entry.verdict == e.SETTLED_BEFORE:
        return missing_known(machine, entry)
    session = machine.sessions.get(entry.session)
    table = None if session is None else session.leases.get(entry.consumer)
    queue = None if table is None else machine.queue(table.queue_id)
    if queue is None or ranges_problem(entry.tags) is not None:
        return []
    if not entry.due_time_ms:
        return [] if entry.verdict == VERDICT_ACK else queue.lanes.missing_watched()
    return queue.delayed.missing_late()


def _missing_of_clock(machine: Machine, entry: e.Clock) -> list[Chunk]:
    log_time_ms = max(machine.log_time_ms, entry.log_time_ms)
    missing: list[Chunk] = []
    for queue_id in machine.due_queues(entry.items_max, log_time_ms):
        queue = machine.queue(queue_id)
        topic = machine.sources.get(queue_id)
        if queue_id == POLICIES_ID:
            missing += missing_to_follow(machine, entry.items_max)
        elif topic is not None:
            missing += prefetching.missing_of_clock(machine, topic, log_time_ms, entry.items_max)
        elif queue is not None:
            missing += queue.delayed.missing_due(log_time_ms, entry.items_max)
            missing += queue.lanes.missing_expired(log_time_ms, entry.items_max)
            if queue.history is not None:
                missing += queue.history.missing_due(log_time_ms, entry.items_max)
    return missing


def _missing_of_transaction(machine: Machine, entry: x.Transaction) -> list[Chunk]:
    """All that its parts and its verdicts need; several parts may make room in one queue, one after the other."""
    try:
        parts, settlements = entry.split(), entry.verdicts()
    except ValueError:
        return []
    coming = entry.count + DROPPED_AT_ONCE_MAX * len(parts)
    missing: dict[Chunk, None] = {}
    for part in parts:
        missing.update(dict.fromkeys(_missing_of_publish(machine, as_publish(entry, part, coming))))
    for settlement in settlements:
        missing.update(dict.fromkeys(_missing_of_settle(machine, as_settle(entry, settlement))))
    missing.update(dict.fromkeys(missing_of_judging(machine, entry)))
    return list(missing)


def _missing_of_resolve(machine: Machine, entry: x.Resolve) -> list[Chunk]:
    """What is committed goes where it would have gone when it was published."""
    half = machine.halves.get(entry.half)
    if half is None or not entry.commit:
        return []
    queue, topic = target_of(machine, half)
    target = queue or topic
    if target is None:
        return []
    fields = (entry.log_time_ms, target.id, half.producer, half.sequence, half.messages, 0, None, b"")
    missing = _missing_of_publish(machine, e.PublishGrouped(*fields, list(half.groups), list(half.routes)))
    if target.history is not None:
        missing = missing + target.history.missing_of_publish(half.batch_bytes)
    window = window_of(half, target)
    if window is not None:
        missing = missing + window.missing(half.ids, max(machine.log_time_ms, entry.log_time_ms))
    return list(dict.fromkeys(missing))


_MISSING: dict[type[e.Entry], Callable[[Machine, Any], list[Chunk]]] = {
    e.Grant: _missing_of_grant,
    e.GrantPlaced: _missing_of_placed,
    e.GrantIdentified: _missing_of_placed,
    e.Publish: _missing_of_publish,
    e.PublishGrouped: _missing_of_publish,
    e.PublishIdentified: _missing_of_publish,
    e.Settle: _missing_of_settle,
    e.SettleJudged: _missing_of_settle,
    e.Clock: _missing_of_clock,
    e.Declare: _missing_of_declare,
    e.Forget: missing_of_forget,
    q.Cancel: _missing_of_delayed,
    q.Reschedule: _missing_of_delayed,
    q.Redrive: missing_of_redrive,
    q.Discard: _missing_of_discard,
    v.Move: missing_of_move,
    t.Subscribe: _missing_of_declare,
    t.Fill: prefetching.missing_of_fill,
    x.Transaction: _missing_of_transaction,
    x.Resolve: _missing_of_resolve,
}
"""What needs anything."""
