"""Batches come into a queue: once, if they are allowed and there is room, or others make some."""

from __future__ import annotations

from typing import Any

from sluicemq.broker.queues import entries as e
from sluicemq.wire.errors import InvalidRequest, ProducerNotFound, QueueFull, QueueNotFound, QueuePaused, SequenceGap
from tests.broker.queues.naive.limits import expiry, is_too_much, make_room
from tests.broker.queues.naive.topics import publish_to_topic
from tests.broker.queues.naive.world import Message, Queue, World, chunks_of, is_keyed, milliseconds


def producer_open(world: World, zxid: int, entry: e.ProducerOpen) -> Any:
    world.producers[zxid] = []
    return zxid


def publish(world: World, zxid: int, entry: e.Publish) -> Any:
    known = world.producers.get(entry.producer)
    if known is None:
        return ProducerNotFound
    if entry.sequence < 1:
        return InvalidRequest
    if entry.sequence <= len(known):
        return known[entry.sequence - 1], entry.count, True
    if entry.sequence > len(known) + 1:
        return SequenceGap
    messages = messages_of(world, zxid, entry)
    if entry.queue in world.topics:
        refusal = publish_to_topic(world, zxid, world.topics[entry.queue], messages)
    else:
        refusal = publish_to_queue(world, zxid, entry.queue, messages)
    if refusal is not None:
        return refusal
    known.append(zxid)
    return zxid, entry.count, False


def messages_of(world: World, zxid: int, entry: Any) -> list[Message]:
    """One dict a message of an entry that publishes."""
    groups = getattr(entry, "groups", []) or [entry.count, 0, 0, 0, 0, 0]
    routes = getattr(entry, "routes", [])
    messages: list[Message] = []
    for size, due, ttl, priority, key, route in chunks_of(groups, 6):
        for _ in range(size):
            messages.append(
                {
                    "zxid": zxid,
                    "index": len(messages),
                    "published": world.time,
                    "count": entry.count,
                    "due": due,
                    "ttl": ttl,
                    "priority": priority,
                    "key": key,
                    "route": routes[route - 1] if route else "",
                    "note": None,
                }
            )
    return messages


def publish_to_queue(world: World, zxid: int, number: int, messages: list[Message]) -> type[Exception] | None:
    queue = world.queues.get(number)
    if queue is None:
        return QueueNotFound
    if "publish" in queue["paused"]:
        return QueuePaused
    if is_too_much(queue, len(messages)):
        return QueueFull
    into_queue(world, zxid, queue, messages)
    return None


def into_queue(world: World, zxid: int, queue: Queue, messages: list[Message]) -> None:
    """They come in, now that nothing stands against it."""
    queue["used"] = world.time
    world.born += len(messages)
    if is_keyed(queue):  # it has no priorities, whatever it had when somebody looked
        messages = [{**m, "priority": 0} for m in messages]
    arrived = [
        world.add(queue, {**m, "expires": expiry(world, m, milliseconds(queue["settings"]["ttl"]))}) for m in messages
    ]
    for message in arrived:
        if message["due"] <= world.time:
            world.line_up(queue, message, zxid)
    for message in sorted((m for m in arrived if m["due"] > world.time), key=lambda m: m["due"]):
        world.wait(message, message["due"])
        message["ready"] = message["zxid"]
    make_room(world, zxid, queue)
