"""Topics: what is published to one goes to each subscription whose pattern matches, now or when it is due."""

from __future__ import annotations

from typing import Any

from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.wire.errors import (
    Conflict,
    NameConflict,
    PositionExpired,
    QueueFull,
    QueueNotFound,
    QueuePaused,
    RetentionOff,
    SessionNotFound,
    TopicNotFound,
)
from tests.broker.queues.naive import settings
from tests.broker.queues.naive.dying import fitted
from tests.broker.queues.naive.limits import expiry, is_too_much, make_room
from tests.broker.queues.naive.patterns import drop, subscriptions, wants
from tests.broker.queues.naive.world import (
    DEFAULTS,
    Address,
    Message,
    Queue,
    Topic,
    World,
    address,
    milliseconds,
)


def publish_to_topic(world: World, zxid: int, topic: Topic, messages: list[Message]) -> type[Exception] | None:
    if messages and "publish" in topic["paused"]:
        return QueuePaused
    for subscription, part in shares(world, topic, messages):
        if part and is_too_much(subscription, len(part)):
            return QueueFull
    into_topic(world, zxid, topic, messages)
    return None


def shares(world: World, topic: Topic, messages: list[Message]) -> list[tuple[Queue, list[Message]]]:
    """What each subscription that has caught up gets at once."""
    return [
        (each, [m for m in messages if m["due"] <= world.time and wants(each, m["route"])])
        for each in subscriptions(world, topic)
        if each["filling"] is None
    ]


def into_topic(world: World, zxid: int, topic: Topic, messages: list[Message]) -> None:
    """They come in, now that nothing stands against it."""
    ttl = milliseconds(topic["settings"]["ttl"])
    messages = [{**m, "expires": expiry(world, m, ttl)} for m in messages]
    topic["published"] += len(messages)
    hand_out(world, zxid, topic, [m for m in messages if m["due"] <= world.time])
    remember(world, topic, [(m, (zxid, m["index"])) for m in messages if m["due"] <= world.time])
    for message in sorted((m for m in messages if m["due"] > world.time), key=lambda m: m["due"]):
        topic["messages"].append(message)
        world.wait(message, message["due"])


def remember(world: World, topic: Topic, messages: list[tuple[Message, Address]]) -> None:
    """Messages become visible at these places, and are retained."""
    if topic["history"] is not None:
        topic["history"] += [{**m, "place": place, "visible": world.time} for m, place in messages]


def hand_out(world: World, zxid: int, topic: Topic, messages: list[Message]) -> None:
    """Messages of a topic are ready."""
    all_subscriptions = subscriptions(world, topic)
    for message in messages:
        if not any(wants(each, message["route"]) for each in all_subscriptions):
            topic["unrouted"] += 1
    for subscription in all_subscriptions:
        part = [fitted(world, subscription, m) for m in messages if wants(subscription, m["route"])]
        if subscription["filling"] is not None:
            subscription["filling"]["held"] += part
        else:
            put(world, zxid, subscription, part)


def put(world: World, zxid: int, subscription: Queue, messages: list[Message]) -> None:
    for message in messages:
        world.born += 1
        world.line_up(subscription, world.add(subscription, message), zxid)
    if messages:
        make_room(world, zxid, subscription)


# --- subscribing ----------------------------------------------------------------------------------------------------


def subscribe(world: World, zxid: int, entry: t.Subscribe) -> Any:
    name = entry.name or f"temporary-{zxid:x}"
    if entry.session and entry.session not in world.sessions:
        return SessionNotFound
    topic = world.topic_named(entry.topic)
    if topic is None:
        return TopicNotFound
    queue = world.queue_named(name)
    if queue is not None:
        return subscribe_again(world, entry, topic, queue)
    if settings.topic_above(world, name) is not None:
        return NameConflict
    begins = entry.start_zxid, entry.start_index
    if entry.start != t.START_NOW:
        if topic["history"] is None:
            return RetentionOff
        if entry.start == t.START_POSITION and begins < topic["lost"]:
            return PositionExpired
    queue = settings.make_queue(world, zxid, name, entry.settings)
    queue.update(topic=topic["id"], pattern=entry.pattern, session=entry.session)
    if entry.start != t.START_NOW:
        queue["filling"] = {
            "next": topic["lost"] if entry.start == t.START_BEGINNING else begins,
            "end": zxid,
            "done": False,
            "held": [],
        }
    return name, topic["name"], "created", settings.differences(DEFAULTS, entry.settings)


def subscribe_again(world: World, entry: t.Subscribe, topic: Topic, queue: Queue) -> Any:
    if queue["topic"] != topic["id"] or queue["session"] != entry.session:
        return NameConflict
    if entry.pattern != queue["pattern"] and queue["filling"] is not None:
        return Conflict
    changes = settings.differences(queue["settings"], entry.settings)
    refusal = settings.declare_again(world, queue, entry.settings)
    if refusal is not None:
        return refusal
    if entry.pattern != queue["pattern"]:
        before, after = (".".join(filter(None, (topic["name"], each))) for each in (queue["pattern"], entry.pattern))
        changes["pattern"] = [before, after]
        queue["pattern"] = entry.pattern
    return queue["name"], topic["name"], "changed" if changes else "unchanged", changes


def unsubscribe(world: World, zxid: int, entry: t.Unsubscribe) -> Any:
    queue = world.queue_named(entry.name)
    if queue is None or queue["topic"] is None:
        return QueueNotFound
    count = len(queue["messages"]) + (len(queue["filling"]["held"]) if queue["filling"] else 0)
    drop(world, queue)
    return count


# --- catching up ----------------------------------------------------------------------------------------------------


def to_fill(world: World, subscription: Queue) -> list[Message]:
    """What of the past the subscription lacks still, in order."""
    filling = subscription["filling"]
    topic = world.topics[subscription["topic"]]
    return [m for m in topic["history"] or [] if filling["next"] <= m["place"] < (filling["end"], 0)]


def fill(world: World, zxid: int, entry: t.Fill) -> Any:
    subscription = world.queues.get(entry.subscription)
    filling = subscription["filling"] if subscription is not None else None
    if subscription is None or filling is None:
        return QueueNotFound
    if not filling["done"] and filling["next"] != (entry.from_zxid, entry.from_index):
        return Conflict
    messages: list[Message] = []
    if not filling["done"]:
        by_address: dict[Address, Message] = {address(m): m for m in to_fill(world, subscription)}
        for start in range(0, len(entry.runs), t.FILL_NUMBERS):
            batch, first, size, _, _, _, expires, priority, key = entry.runs[start : start + t.FILL_NUMBERS]
            for index in range(first, first + size):
                known = by_address.pop((batch, index))
                messages.append({**known, "expires": expires, "priority": priority, "key": key})
        messages = [fitted(world, subscription, m) for m in messages]
        filling["next"] = entry.next_zxid, entry.next_index
        filling["done"] = entry.done
    if filling["done"]:
        messages += filling["held"]
        subscription["filling"] = None
    put(world, zxid, subscription, messages)
    return len(messages)
