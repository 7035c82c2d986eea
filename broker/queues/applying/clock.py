"""CLOCK: log time goes on, and what has come due becomes ready; what was retained long enough goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.outcomes import Clocked, Outcome, Ready

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries as e
    from sluicemq.broker.queues.machine import Machine


def clock(machine: Machine, zxid: int, entry: e.Clock) -> Outcome:
    """Make ready what is due, queue by queue in due order, at most so many runs."""
    left = entry.items_max
    messages = 0
    ready: dict[int, None] = {}
    while left > 0:
        first = machine.first_due()
        if first is None or first[0] > machine.log_time_ms:
            break
        queue_id = first[1]
        queue = machine.existing_queue(queue_id)
        if queue.history is not None:
            left -= queue.history.expire(machine.log_time_ms, left)
        before = queue.delayed.messages
        runs = queue.delayed.take_due(machine.turn_until_ms(queue_id), left)
        if runs:
            left -= len(runs)
            messages += before - queue.delayed.messages
            queue.make_ready(runs, zxid)
            ready[queue_id] = None
        machine.due_changed(queue)
    return Outcome(Clocked(messages), None, tuple(map(Ready, ready)))
