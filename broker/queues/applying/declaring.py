"""DECLARE, DELETE and PURGE: queues come, change, are emptied and go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.dropping import drop_queue
from sluicemq.broker.queues.applying.refusals import check_object_kind, limit_reached, queue_not_found
from sluicemq.broker.queues.applying.topics import declare_topic, delete_topic
from sluicemq.broker.queues.applying.unused import used
from sluicemq.broker.queues.outcomes import Declared, Deleted, Effect, Outcome, Purged, QueuePurged, Ready
from sluicemq.broker.queues.queue import Queue
from sluicemq.wire.errors import Conflict, InvalidRequest, QueueNotFound, UnknownOption
from sluicemq.wire.settings import TOPIC, check_name, check_own_dead_letter, check_queue_settings, compare_settings

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries as e
    from sluicemq.broker.queues.machine import Machine


def declare(machine: Machine, zxid: int, entry: e.Declare) -> Outcome:
    """Make a queue, or let the existing one converge to the settings."""
    if entry.object_kind == TOPIC:
        return declare_topic(machine, zxid, entry)
    try:
        check_object_kind(entry.object_kind)
        check_name(entry.name)
        settings = check_queue_settings(entry.settings)
        check_own_dead_letter(entry.name, settings)
    except UnknownOption:
        # No leader proposes what it does not know: a newer version wrote this, and judged it otherwise.
        raise
    except InvalidRequest as error:
        return Outcome(None, error.with_traceback(None))
    queue = machine.find_queue(entry.vhost, entry.name)
    if queue is None:
        plan = compare_settings(None, settings)
        refusal = machine.sources.refuse_queue(entry.vhost, entry.name)
        if refusal is not None:
            return Outcome(None, refusal)
        if machine.queues_count >= machine.limits.queues_max:
            return limit_reached("queues", machine.limits.queues_max)
        queue = Queue(zxid, entry.vhost, entry.name, {}, machine.log_time_ms, machine.pool)
        machine.add_queue(queue)
    else:
        messages = queue.messages + machine.sources.held_for(queue.id)
        plan = compare_settings(queue.settings, settings, name=queue.name, messages=messages)
        if plan.refusal is not None:
            return Outcome(None, plan.refusal)
    if settings:
        queue.declared |= settings.keys()
        queue.change_settings(settings, zxid, machine.log_time_ms)
        machine.sources.settings_changed(queue.id, queue.settings["ordering"] == "key")
        machine.due_changed(queue)
    # Who may have what, and how much of it, may be another matter now.
    effects: tuple[Effect, ...] = (Ready(queue.id),) if plan.outcome == "changed" else ()
    return Outcome(Declared(queue.id, plan.outcome, plan.changes), None, (*effects, *used(machine, queue)))


def delete(machine: Machine, zxid: int, entry: e.Delete) -> Outcome:
    """Drop a queue with everything in it; its consumers end. A subscription gets nothing more."""
    if entry.object_kind == TOPIC:
        return delete_topic(machine, zxid, entry)
    del zxid
    try:
        check_object_kind(entry.object_kind)
    except InvalidRequest as error:
        return Outcome(None, error.with_traceback(None))
    queue = machine.find_queue(entry.vhost, entry.name)
    if queue is None:
        return Outcome(
            None, QueueNotFound(f"no queue is named {entry.name!r:.300}", queue=entry.name, vhost=entry.vhost)
        )
    count = queue.messages + queue.dead.messages
    if entry.if_empty and count:
        return Outcome(
            None,
            Conflict(
                f"queue {queue.name!r} holds {count} messages (ready, leased, delayed and dead); "
                "purge it first, or delete it without if_empty",
                queue=queue.name,
                messages=count,
            ),
        )
    return Outcome(Deleted(count), None, tuple(drop_queue(machine, queue)))


def purge(machine: Machine, zxid: int, entry: e.Purge) -> Outcome:
    """Drop what is ready or delayed."""
    del zxid
    queue = machine.queue(entry.queue)
    if queue is None:
        return Outcome(None, queue_not_found(entry.queue))
    count = queue.purge()
    topic = machine.sources.topic_of(queue.id)
    if topic is not None:
        # What it was to catch up with was there before, too.
        count += topic.end_filling(queue.id)
        machine.due_changed(topic)
    machine.due_changed(queue)
    return Outcome(Purged(count), None, (QueuePurged(queue.id),))
