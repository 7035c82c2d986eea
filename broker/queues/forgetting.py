"""FORGET: messages whose bytes are gone are given up wherever a queue has them.

A message that cannot be read is alive all the same, until the log says otherwise: a consumer that came to it would end
the broker. So a repair says it, for every index that may hold the message, and each broker that reads the log agrees.
They count as purged. This module must not know files, nor who decided that something is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.lost import LostEntries, problem_of
from sluicemq.broker.queues.outcomes import Effect, Forgotten, LeasesGone, Outcome, QueueCut
from sluicemq.broker.queues.runs import messages_in
from sluicemq.wire.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sluicemq.broker.queues import entries as e
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.sessions import Session


def forget(queue: Queue, sessions: Mapping[int, Session], entry: e.Forget) -> Outcome:
    """Give up every message of *queue* that the entry names; its first due time may change.

    Args:
        queue: The queue of the entry; what `missing_of_forget` names was filled before.
        sessions: All sessions; those that hold such messages lose the leases.
        entry: The entry.

    """
    problem = problem_of(entry.entries)
    if problem is not None:
        return Outcome(None, InvalidRequest(problem))
    lost = LostEntries(entry.entries)
    batches = 0 if queue.history is None else queue.history.forget(lost)
    messages = messages_in(queue.main.forget(lost)) + queue.returned.forget(lost) + queue.delayed.forget(lost)
    effects: list[Effect] = []
    for (session, consumer), table in sorted(queue.leases.items()):  # whatever order they came in
        tags = table.tags_of(lost)
        if not tags:
            continue
        taken = table.take(tags).messages
        messages += taken
        queue.leased -= taken
        effects.append(LeasesGone(session, consumer, tags, "purged"))
        if not table.messages:
            del sessions[session].leases[consumer]
            del queue.leases[session, consumer]
    queue.purged_total += messages
    return Outcome(Forgotten(messages, batches), None, (*effects, QueueCut(queue.id)))


def missing_of_forget(queue: Queue, entry: e.Forget) -> list[Chunk]:
    """Return the chunks that `forget` needs and that are not in memory."""
    if problem_of(entry.entries) is not None:
        return []
    lost = LostEntries(entry.entries)
    missing = queue.main.missing_of(lost) + queue.delayed.missing_of(lost)
    return missing if queue.history is None else missing + queue.history.missing_of(lost)
