"""What whoever declares a queue may not have meant, told beside the answer: nothing is refused because of it.

Declarations come in any order, and a dead letter is never lost, so a dead-letter queue need not exist yet. But a name
that was mistyped would show only when somebody looks for dead letters. And a policy may give subscriptions a window of
ids, which judges nothing: a message is judged once, for all subscriptions of its topic. Must not know who asks.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues.policies import matches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sluicemq.broker.queues.machine import Machine

SUBSCRIPTIONS_LOOKED_AT_MAX = 1_000
"""So many subscriptions are looked at for one that a policy is in vain for, so that nobody waits for a caution."""


def cautions_of(machine: Machine, vhost: str, name: str, settings: Mapping[str, Any]) -> list[str]:
    """Return what to say to whoever gave the queue *name* these *settings*; mostly nothing."""
    queue = machine.find_queue(vhost, name)
    target = settings.get("dead_letter", None if queue is None else queue.settings["dead_letter"])
    cautions: list[str] = []
    if target is not None and machine.find_queue(vhost, target) is None:
        missing = f"there is no queue {target!r:.300}, which dead_letter names"
        cautions.append(f"{missing}: until it is declared, dead letters are kept aside in {name!r:.300}")
    if queue is not None and queue.settings["dedup_window"]:
        topic = machine.sources.topic_of(queue.id)
        if topic is not None:
            cautions.append(_in_vain(name, topic.name))
    return cautions


def cautions_of_policy(machine: Machine, vhost: str, pattern: str, settings: Mapping[str, Any]) -> list[str]:
    """Return what to say to whoever gave these *settings* to all queues that match *pattern*."""
    if not settings.get("dedup_window"):
        return []
    bindings = ((topic, each) for topic in machine.sources if topic.vhost == vhost for each in topic.bindings)
    for topic, number in islice(bindings, SUBSCRIPTIONS_LOOKED_AT_MAX):
        name = machine.existing_queue(number).name
        if matches(pattern, name):
            return [_in_vain(name, topic.name)]
    return []


def _in_vain(subscription: str, topic: str) -> str:
    return (
        f"the policy's dedup_window does nothing for the subscription {subscription!r:.300}: a message is judged once, "
        f"for all subscriptions, so declare the topic {topic!r:.300} with it"
    )
