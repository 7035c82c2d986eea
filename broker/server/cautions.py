"""What whoever declares a queue may not have meant, told beside the answer: nothing is refused because of it.

Declarations come in any order, and a dead letter is never lost, so a dead-letter queue need not exist yet. But a name
that was mistyped would show only when somebody looks for dead letters. Must not know who asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sluicemq.broker.queues.machine import Machine


def cautions_of(machine: Machine, vhost: str, name: str, settings: Mapping[str, Any]) -> list[str]:
    """Return what to say to whoever gave the queue *name* these *settings*; mostly nothing."""
    queue = machine.find_queue(vhost, name)
    target = settings.get("dead_letter", None if queue is None else queue.settings["dead_letter"])
    if target is None or machine.find_queue(vhost, target) is not None:
        return []
    missing = f"there is no queue {target!r:.300}, which dead_letter names"
    return [f"{missing}: until it is declared, dead letters are kept aside in {name!r:.300}"]
