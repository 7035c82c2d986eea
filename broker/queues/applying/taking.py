"""Ready messages are taken out from anywhere in their queue, for nobody: to drop them, or to put them elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues import dead_letters as letters
from sluicemq.broker.queues.outcomes import Effect, Removed, Returned

if TYPE_CHECKING:
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run


def take_ready(queue: Queue, parts: list[Run]) -> tuple[list[Run], list[Effect]]:
    """Take *parts* of ready runs out; also return what the leader hears of them and of what is left of their runs."""
    taken: list[Run] = []
    effects: list[Effect] = []
    for part in parts:
        whole = letters.find_ready(queue, part.ready, part.zxid, part.first)
        if whole is None or queue.take_part(part) is None:
            continue  # named twice
        taken.append(part)
        end, whole_end = part.first + part.size, whole.first + whole.size
        rest = [run for first, size in ((whole.first, part.first - whole.first), (end, whole_end - end)) if size > 0
                for run in [whole._replace(first=first, size=size)] if queue.returned.holds(run)]  # fmt: skip
        effects.append(Removed(queue.id, [whole]))
        if rest:
            effects.append(Returned(queue.id, rest))
    return taken, effects
