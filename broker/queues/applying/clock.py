"""CLOCK: log time goes on, and what has come due becomes ready; what was retained long enough goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.dying import grow_old, without_old
from sluicemq.broker.queues.applying.operating import follow_policies
from sluicemq.broker.queues.applying.routing import release
from sluicemq.broker.queues.keeping_order import line_up
from sluicemq.broker.queues.outcomes import Clocked, LeasesOver, Outcome, Ready, Removed
from sluicemq.broker.queues.policies import POLICIES_ID
from sluicemq.broker.queues.runs import messages_in
from sluicemq.broker.queues.windows import expire_ids_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.queues import entries as e
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.outcomes import Effect


def clock(machine: Machine, zxid: int, entry: e.Clock) -> Outcome:
    """Make ready what is due, queue by queue in due order, at most so many runs."""
    left = entry.items_max
    messages = 0
    ready: dict[int, None] = {}
    effects: list[Effect] = []
    while left > 0:
        first = machine.first_due()
        if first is None or first[0] > machine.log_time_ms:
            break
        queue_id = first[1]
        other = _of_no_queue(machine, zxid, queue_id, left)
        if other is not None:
            taken, released, others = other
            left -= taken
            messages += released
            effects += others
            continue
        queue = machine.existing_queue(queue_id)
        if queue.history is not None:
            left -= queue.history.expire(machine.log_time_ms, left)
        left -= expire_ids_of(queue, machine.log_time_ms)
        if queue.lanes.has_expiry:
            expired, looked_at = queue.expire(machine.log_time_ms, left)
            left -= looked_at
            if expired:
                effects.append(Removed(queue_id, expired))
                effects += grow_old(machine, zxid, queue, expired)
        before = queue.delayed.messages
        runs = queue.delayed.take_due(machine.turn_until_ms(queue_id), left)
        if runs:
            left -= len(runs)
            messages += before - queue.delayed.messages
            if queue.keys is not None:
                freed, runs = queue.keys.go_on(runs)
                effects.append(LeasesOver(queue_id, freed))
            # What expired while it waited never becomes ready.
            due = messages_in(runs)
            runs, old = without_old(machine, zxid, queue, runs)
            messages -= due - messages_in(runs)
            effects += old
            if queue.keys is not None:
                effects += line_up(queue, runs, zxid)
            else:
                queue.make_ready(runs, zxid)
                ready[queue_id] = None
        machine.due_changed(queue)
    return Outcome(Clocked(messages), None, (*map(Ready, ready), *effects))


def _of_no_queue(machine: Machine, zxid: int, number: int, left: int) -> tuple[int, int, Sequence[Effect]] | None:
    """Do what is due of policies or of a topic; return the items, the messages and the effects. None: it is a queue."""
    if number == POLICIES_ID:
        followed, changed = follow_policies(machine, zxid, left)
        return followed, 0, changed
    topic = machine.sources.get(number)
    return None if topic is None else release(machine, zxid, topic, left)
