"""Queues and topics come, change and go: declarations, policies, pauses. What is declared is before any policy."""

from __future__ import annotations

from typing import Any

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.wire.errors import Conflict, NameConflict, QueueConflict, QueueNotFound, TopicInUse, TopicNotFound
from tests.broker.queues.naive.patterns import drop, matches, subscriptions
from tests.broker.queues.naive.windows import follow_windows
from tests.broker.queues.naive.world import (
    ALIVE,
    DEFAULTS,
    TOPIC_DEFAULTS,
    Queue,
    Topic,
    World,
    is_keyed,
    milliseconds,
    new_queue,
    within,
)

Changes = dict[str, list[Any]]


def differences(before: dict[str, Any], after: dict[str, Any]) -> Changes:
    return {name: [before[name], value] for name, value in after.items() if before[name] != value}


def is_below(name: str, owner: str) -> bool:
    return name == owner or name.startswith(owner + ".")


def topic_above(world: World, name: str) -> Topic | None:
    return next((topic for topic in world.topics.values() if is_below(name, topic["name"])), None)


def policy_for(world: World, name: str) -> dict[str, Any]:
    """The settings of the policy that holds for a queue of this name."""
    matching = [row for row in world.policies.values() if matches(row["pattern"].split("."), name.split("."))]
    best: dict[str, Any] = min(matching, key=lambda row: (-row["order"], row["name"]), default={"settings": {}})
    given = dict(best["settings"])
    if given.get("dead_letter") == name:
        given["dead_letter"] = None
    return given


def set_all(world: World, queue: Queue, wanted: dict[str, Any]) -> None:
    keyed = is_keyed(queue)
    if queue["settings"]["expires"] != wanted["expires"]:
        queue["used"] = world.time
    queue["settings"] = wanted
    follow_windows(world, queue)
    if keyed and not is_keyed(queue):
        queue["parked"] = set()


def make_queue(world: World, zxid: int, name: str, declared: dict[str, Any]) -> Queue:
    queue = world.queues[zxid] = new_queue(zxid, name, world.time)
    queue["declared"] = dict(declared)
    set_all(world, queue, {**DEFAULTS, **policy_for(world, name), **declared})
    return queue


def refuse(queue: Queue, wanted: dict[str, Any]) -> type[Exception] | None:
    """The order of messages cannot change under them."""
    held = len(queue["filling"]["held"]) if queue["filling"] else 0
    differs = wanted.get("ordering", queue["settings"]["ordering"]) != queue["settings"]["ordering"]
    return QueueConflict if differs and (within(queue, *ALIVE) or held) else None


def declare_again(world: World, queue: Queue, declared: dict[str, Any]) -> type[Exception] | None:
    refusal = refuse(queue, declared)
    if refusal is None:
        queue["declared"].update(declared)
        set_all(world, queue, {**queue["settings"], **declared})
        queue["used"] = world.time
    return refusal


def declare(world: World, zxid: int, entry: e.Declare) -> Any:
    if entry.object_kind == "topic":
        return declare_topic(world, zxid, entry)
    queue = world.queue_named(entry.name)
    if queue is None:
        if topic_above(world, entry.name) is not None:
            return NameConflict
        make_queue(world, zxid, entry.name, entry.settings)
        return zxid, "created", differences(DEFAULTS, entry.settings)
    changes = differences(queue["settings"], entry.settings)
    refusal = declare_again(world, queue, entry.settings)
    return refusal or (queue["id"], "changed" if changes else "unchanged", changes)


def delete(world: World, zxid: int, entry: e.Delete) -> Any:
    if entry.object_kind == "topic":
        return delete_topic(world, entry)
    queue = world.queue_named(entry.name)
    if queue is None:
        return QueueNotFound
    count = len(queue["messages"])
    if count and entry.if_empty:
        return Conflict
    drop(world, queue)
    return count


def purge(world: World, zxid: int, entry: e.Purge) -> Any:
    queue = world.queues.get(entry.queue)
    if queue is None:
        return QueueNotFound
    messages = within(queue, "ready", "delayed")
    held = len(queue["filling"]["held"]) if queue["filling"] else 0
    for message in messages:
        world.gone(queue, message, "purged")
    queue["filling"] = None
    return len(messages) + held


def mark_used(world: World, zxid: int, entry: q.MarkUsed) -> Any:
    for number in entry.queues:
        if number in world.queues:
            world.queues[number]["used"] = world.time


def expire_queue(world: World, zxid: int, entry: q.ExpireQueue) -> Any:
    queue = world.queues.get(entry.queue)
    if queue is None:
        return QueueNotFound
    lifetime = queue["settings"]["expires"]
    idle = world.time - max(entry.unused_since_ms, queue["used"])
    if lifetime is None or within(queue, "leased") or idle < milliseconds(lifetime):
        return Conflict
    count = len(queue["messages"])
    drop(world, queue)
    return count


# --- topics ---------------------------------------------------------------------------------------------------------


def declare_topic(world: World, zxid: int, entry: e.Declare) -> Any:
    topic = world.topic_named(entry.name)
    outcome, changes = "created", differences(TOPIC_DEFAULTS, entry.settings)
    if topic is None:
        if any(is_below(queue["name"], entry.name) for queue in world.queues.values()):
            return NameConflict
        topic = world.topics[zxid] = {
            "id": zxid,
            "name": entry.name,
            "settings": dict(TOPIC_DEFAULTS),
            "messages": [],
            "history": None,
            "window": None,
            "lost": (0, 0),
            "paused": set(),
            "published": 0,
            "unrouted": 0,
            "expired": 0,
        }
    else:
        changes = differences(topic["settings"], entry.settings)
        outcome = "changed" if changes else "unchanged"
    topic["settings"].update(entry.settings)
    follow_windows(world, topic)
    if topic["settings"]["retention"] is None:
        topic["history"] = None
        for subscription in subscriptions(world, topic):
            if subscription["filling"] is not None:
                subscription["filling"]["done"] = True
    elif topic["history"] is None:
        topic["history"] = []
        topic["lost"] = (zxid, 0) if topic["published"] else (0, 0)
    return topic["id"], outcome, changes


def delete_topic(world: World, entry: e.Delete) -> Any:
    topic = world.topic_named(entry.name)
    if topic is None:
        return TopicNotFound
    bound = subscriptions(world, topic)
    if bound and entry.if_empty:
        return TopicInUse
    count = len(within(topic, "delayed")) + sum(len(queue["messages"]) for queue in bound)
    for queue in bound:
        drop(world, queue)
    del world.topics[topic["id"]]
    return count


# --- operators ------------------------------------------------------------------------------------------------------


def alter(world: World, zxid: int, entry: q.Alter) -> Any:
    if entry.object_kind == "topic":
        topic = world.topic_named(entry.name)
        return TopicNotFound if topic is None else pause(topic, entry.changes)
    queue = world.queue_named(entry.name)
    if queue is None:
        return QueueNotFound
    changes = pause(queue, entry.changes)
    free = queue["parked"] & set(entry.changes.get("unpark", ()))
    if free:
        changes["parked"] = [len(queue["parked"]), len(queue["parked"]) - len(free)]
        queue["parked"] -= free
    return changes


def pause(target: Queue | Topic, wanted: dict[str, Any]) -> Changes:
    changes: Changes = {}
    for what in ("publish", "deliver"):
        on, before = wanted.get(f"pause_{what}"), what in target["paused"]
        if on is not None and on != before:
            changes[f"pause_{what}"] = [before, on]
            target["paused"] ^= {what}
    return changes


def put_policy(world: World, zxid: int, entry: q.Policy) -> Any:
    known = world.policies.get(entry.name)
    row = {"name": entry.name, "pattern": entry.pattern, "order": entry.order, "settings": entry.settings}
    if known == row or (known is None and not entry.settings):
        return "unchanged"
    if entry.settings:
        world.policies[entry.name] = row
    else:
        del world.policies[entry.name]
    if world.following is None:
        world.following = world.time
    return "created" if known is None else "changed" if entry.settings else "dropped"


def follow_policies(world: World) -> None:
    """Every queue takes over what its policy says, as far as it was not declared and can be changed."""
    world.following = None
    for queue in world.queues.values():
        wanted = {**DEFAULTS, **policy_for(world, queue["name"]), **queue["declared"]}
        if refuse(queue, wanted) is not None:
            wanted["ordering"] = queue["settings"]["ordering"]
        set_all(world, queue, wanted)
