"""A queue goes, with everything in it: because somebody deleted it, or its topic, or because its session has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.refusals import add_tags
from sluicemq.broker.queues.outcomes import Effect, LeasesGone, QueueGone

if TYPE_CHECKING:
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue


def drop_queue(machine: Machine, queue: Queue) -> list[Effect]:
    """Forget *queue*; return what those have to hear who hold its messages or consume it."""
    effects: list[Effect] = []
    for (session, consumer), table in sorted(queue.leases.items()):  # whatever order they came in
        tags: list[int] = []
        for first_tag, run, _ in table.pieces():
            add_tags(tags, first_tag, run.size)
        effects.append(LeasesGone(session, consumer, tags, "queue_deleted"))
        del machine.sessions[session].leases[consumer]
    effects.append(QueueGone(queue.id, queue.name))
    topic = machine.sources.topic_of(queue.id)
    if topic is not None:
        machine.sources.unbind(queue.id)
        machine.due_changed(topic)
    queue.drop_all()
    machine.due_changed(queue)
    machine.remove_queue(queue)
    return effects
