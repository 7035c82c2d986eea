"""ALTER and POLICY: queues pause and go on, parked keys go on, policies come and go; and how queues follow those."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues.applying.refusals import limit_reached
from sluicemq.broker.queues.applying.topics import topic_not_found
from sluicemq.broker.queues.applying.unused import used
from sluicemq.broker.queues.outcomes import Altered, LeasesOver, Outcome, PolicyPut, Ready
from sluicemq.broker.queues.pauses import PAUSE_FLAGS
from sluicemq.broker.queues.policies import POLICIES_MAX, PolicyRow
from sluicemq.wire.errors import InvalidRequest, QueueNotFound, UnknownOption
from sluicemq.wire.routes import check_pattern
from sluicemq.wire.settings import (
    QUEUE,
    QUEUE_SETTINGS_DEFAULT,
    TOPIC,
    check_name,
    check_queue_settings,
    compare_settings,
)

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries_of_queues as q
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.outcomes import Effect
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic

FOLLOW_ITEMS = 10
"""As so many items of a CLOCK entry counts a queue that follows a policy: frozen by the log's format."""


def alter(machine: Machine, zxid: int, entry: q.Alter) -> Outcome:
    """Pause or resume a queue, or let keys go on that are parked."""
    del zxid
    if entry.object_kind == TOPIC:
        return _alter_topic(machine, entry)
    if entry.object_kind != QUEUE:
        return Outcome(
            None, UnknownOption(f"queues and topics are paused, not a {entry.object_kind!r:.40}", option="kind")
        )
    queue = machine.find_queue(entry.vhost, entry.name)
    if queue is None:
        return Outcome(None, QueueNotFound(f"no queue is named {entry.name!r:.300}", queue=entry.name))
    changes = _pause(queue, entry.changes)
    effects: list[Effect] = []
    if changes:
        queue.follow_settings()
        effects.append(Ready(queue.id))
    keys = [key for key in entry.changes.get("unpark", ()) if queue.keys is not None and key in queue.keys.parked]
    if keys:
        assert queue.keys is not None, "it has parked keys"
        changes["parked"] = [len(queue.keys.parked), len(queue.keys.parked) - len(keys)]
        for key in keys:
            del queue.keys.parked[key]
        effects.append(LeasesOver(queue.id, [number for key in keys for number in (key, 0)]))
    return Outcome(Altered(changes), None, tuple(effects))


def _alter_topic(machine: Machine, entry: q.Alter) -> Outcome:
    """Pause or resume a topic: what is published to it, and what its subscriptions deliver."""
    topic = machine.sources.find(entry.vhost, entry.name)
    if topic is None:
        return Outcome(None, topic_not_found(entry.name))
    changes = _pause(topic, entry.changes)
    machine.sources.pause_changed(topic)
    effects = map(Ready, topic.bindings) if "pause_deliver" in changes else ()
    return Outcome(Altered(changes), None, tuple(effects))


def _pause(target: Queue | Topic, wanted: dict[str, Any]) -> dict[str, list[Any]]:
    """Pause and resume what an ALTER says; return what changed, as name -> [before, after]."""
    changes: dict[str, list[Any]] = {}
    for name, flag in PAUSE_FLAGS.items():
        pause = wanted.get(name)
        before = bool(target.paused & flag)
        if pause is not None and bool(pause) != before:
            changes[name] = [before, bool(pause)]
            target.paused ^= flag
    return changes


def policy(machine: Machine, zxid: int, entry: q.Policy) -> Outcome:
    """Set, replace or drop a policy; queues follow in CLOCK entries."""
    del zxid
    try:
        check_name(entry.name, "policy")
        pattern = check_pattern(entry.pattern)
        settings = check_queue_settings(entry.settings)
    except UnknownOption:
        raise
    except InvalidRequest as error:
        return Outcome(None, error.with_traceback(None))
    policies = machine.policies
    known = policies.find(entry.vhost, entry.name)
    row = PolicyRow(entry.vhost, entry.name, pattern, entry.order, settings)
    if known == row or (known is None and not settings):
        return Outcome(PolicyPut("unchanged"))
    if known is None and len(policies.of(entry.vhost)) >= POLICIES_MAX:
        return limit_reached("policies", POLICIES_MAX)
    policies.put(row, machine.log_time_ms)
    machine.due_changed(policies)
    return Outcome(PolicyPut("created" if known is None else "changed" if settings else "dropped"))


def next_to_follow(machine: Machine, count_max: int) -> list[Queue]:
    """Return the queues whose turn it is to follow the policies, at most so many."""
    following = machine.policies.following
    return [] if following is None else machine.queues_of(following[0], following[1], count_max)


def follow_policies(machine: Machine, zxid: int, count_max: int) -> tuple[int, list[Effect]]:
    """Let the next queues follow their policies, for so many items; return how many that took, and the effects."""
    following = machine.policies.following
    assert following is not None, "policies are due while queues have to follow"
    vhost, _ = following
    count_max = max(count_max // FOLLOW_ITEMS, 1)
    queues = next_to_follow(machine, count_max)
    effects: list[Effect] = []
    for queue in queues:
        effects += follow(machine, zxid, queue)
    machine.policies.followed(vhost, queues[-1].name if len(queues) == count_max else None)
    machine.due_changed(machine.policies)
    return max(len(queues), 1) * FOLLOW_ITEMS, effects


def follow(machine: Machine, zxid: int, queue: Queue) -> tuple[Effect, ...]:
    """Let a queue follow its policy; return what the leader has to do. What cannot change while it lives stays."""
    given = machine.policies.settings_for(queue)
    kept = {name: queue.settings[name] for name in queue.declared}
    wanted = {**QUEUE_SETTINGS_DEFAULT, **given, **kept}
    if given.get("dead_letter") == queue.name:
        wanted["dead_letter"] = None
    messages = queue.messages + machine.sources.held_for(queue.id)
    plan = compare_settings(queue.settings, wanted, name=queue.name, messages=messages)
    if plan.refusal is not None:
        wanted["ordering"] = queue.settings["ordering"]
        plan = compare_settings(queue.settings, wanted, name=queue.name, messages=messages)
    if plan.refusal is not None or not plan.changes:
        return ()
    queue.change_settings({name: wanted[name] for name in plan.changes}, zxid, machine.log_time_ms)
    machine.sources.settings_changed(queue.id, queue.settings["ordering"] == "key")
    machine.due_changed(queue)
    # A queue that expires from now on counts from now.
    return (Ready(queue.id), *(used(machine, queue) if "expires" in plan.changes else ()))


def missing_to_follow(machine: Machine, count_max: int) -> list[Chunk]:
    """Return the chunks that are not in memory and that the next queues need to follow."""
    return [chunk for queue in next_to_follow(machine, count_max) for chunk in queue.missing_bytes()]
