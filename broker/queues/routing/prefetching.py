"""What entries about topics need in memory, see `prefetch`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues.applying.identifying import missing_of_ids
from sluicemq.broker.queues.applying.limiting import missing_of_room
from sluicemq.broker.queues.runs import bytes_in

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.broker.queues.runs import Run


def missing_of_published(machine: Machine, topic: Topic, entry: e.Publish) -> list[Chunk]:
    """What is delayed goes between others that are, and what is retained may push out older ones."""
    missing: list[Chunk] = missing_of_ids(machine, entry, topic)
    if topic.history is not None:
        missing += topic.history.missing_of_publish(len(entry.payload))
    if isinstance(entry, e.PublishGrouped):
        missing += topic.delayed.missing_late()
    routes = {"", *entry.routes} if isinstance(entry, e.PublishGrouped) else {""}
    missing += _missing_of_room(machine, topic, routes, entry.count)
    return list(dict.fromkeys(missing))


def _missing_of_room(machine: Machine, topic: Topic, routes: set[str], count: int) -> list[Chunk]:
    """Those that get something may have to let something go."""
    missing: list[Chunk] = []
    for number in set().union(*map(topic.match, routes)):
        queue = machine.existing_queue(number)
        if queue.is_limited:
            missing += missing_of_room(queue, count)
    return missing


def missing_of_clock(machine: Machine, topic: Topic, log_time_ms: int, items_max: int) -> list[Chunk]:
    """What is due, and what was retained long enough; asked again once what is due is there, because of its routes."""
    missing = topic.delayed.missing_due(log_time_ms, items_max)
    due: list[Run] = []
    if not missing:
        due = topic.delayed.look_due(log_time_ms, items_max)
        messages = sum(run.size for run in due)
        missing += _missing_of_room(machine, topic, {topic.routes.text(run.note) for run in due}, messages)
    if topic.history is not None:
        missing += topic.history.missing_due(log_time_ms, items_max, bytes_in(due))
    return missing


def missing_of_fill(machine: Machine, entry: t.Fill) -> list[Chunk]:
    """What was held back follows with the last piece."""
    filling = machine.sources.filling_of(entry.subscription)
    queue = machine.queue(entry.subscription)
    if filling is None or queue is None:
        return []
    messages = sum(entry.runs[2 :: t.FILL_NUMBERS])
    missing: list[Chunk] = []
    if entry.done or filling.done:
        missing += filling.missing_held()
        messages += filling.held.messages
    return missing + missing_of_room(queue, messages) if queue.is_limited else missing
