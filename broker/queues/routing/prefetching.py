"""What entries about topics need in memory, see `prefetch`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_topics as t

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.routing.topic import Topic


def missing_of_published(topic: Topic, entry: e.Publish) -> list[Chunk]:
    """What is delayed goes between others that are, and what is retained may push out older ones."""
    missing: list[Chunk] = []
    if topic.history is not None:
        missing += topic.history.missing_of_publish(len(entry.payload))
    if isinstance(entry, e.PublishGrouped):
        runs_max = len(entry.groups) // e.GROUP_NUMBERS
        for due_ms in set(entry.groups[1 :: e.GROUP_NUMBERS]):
            if due_ms > entry.log_time_ms:
                missing += topic.delayed.missing(due_ms, runs_max)
    return list(dict.fromkeys(missing))


def missing_of_clock(topic: Topic, log_time_ms: int, items_max: int) -> list[Chunk]:
    """What is due, and what was retained long enough."""
    missing = topic.delayed.missing_due(log_time_ms, items_max)
    if topic.history is not None:
        missing += topic.history.missing_due(log_time_ms, items_max)
    return missing


def missing_of_subscribe(machine: Machine, entry: t.Subscribe) -> list[Chunk]:
    """A subscription that begins in the past notes the first message that waits for its time."""
    topic = machine.sources.find(entry.vhost, entry.topic)
    return [] if topic is None or entry.start == t.START_NOW else topic.delayed.missing_due((1 << 64) - 1, 1)


def missing_of_fill(machine: Machine, entry: t.Fill) -> list[Chunk]:
    """What was held back follows with the last piece."""
    filling = machine.sources.filling_of(entry.subscription)
    return [] if filling is None or not (entry.done or filling.done) else filling.missing_held()
