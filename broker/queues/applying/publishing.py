"""PUBLISH: a batch comes into its queue, once, in its producer's order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.refusals import queue_not_found
from sluicemq.broker.queues.outcomes import Outcome, Published, Ready, Retained
from sluicemq.broker.queues.runs import Run
from sluicemq.broker.queues.sequences import Producer
from sluicemq.wire.errors import InvalidRequest, SluiceError

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries as e
    from sluicemq.broker.queues.machine import Machine


def publish(machine: Machine, zxid: int, entry: e.Publish) -> Outcome:
    """Judge the producer and its sequence, then put the batch behind the tail of its queue."""
    verdict = machine.producers.judge(entry.producer, entry.sequence, machine.log_time_ms)
    if not isinstance(verdict, Producer):
        if isinstance(verdict, SluiceError):
            return Outcome(None, verdict)
        return Outcome(Published(verdict, entry.count, True))
    queue = machine.queue(entry.queue)
    if queue is None:
        return Outcome(None, queue_not_found(entry.queue))
    if entry.count < 1:
        return Outcome(None, InvalidRequest("a batch needs at least one message"))
    machine.producers.record(verdict, zxid)
    queue.publish(zxid, entry.count, len(entry.payload), machine.log_time_ms)
    if queue.history is None:
        return Outcome(Published(zxid, entry.count, False), None, (Ready(entry.queue),))
    queue.history.append(Run(zxid, zxid, 0, entry.count, entry.count, len(entry.payload), machine.log_time_ms))
    machine.due_changed(queue)
    return Outcome(Published(zxid, entry.count, False), None, (Ready(entry.queue), Retained(entry.queue)))
