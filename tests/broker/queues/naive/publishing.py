"""Batches come into a queue: once, if they are allowed and there is room, or others make some."""

from __future__ import annotations

from typing import Any

from sluicemq.broker.queues import entries as e
from sluicemq.wire.errors import (
    InvalidRequest,
    ProducerFenced,
    ProducerNotFound,
    QueueFull,
    QueueNotFound,
    QueuePaused,
    SequenceGap,
)
from tests.broker.queues.naive.limits import expiry, is_too_much, make_room
from tests.broker.queues.naive.topics import publish_to_topic
from tests.broker.queues.naive.windows import ids_in, window_for
from tests.broker.queues.naive.world import Message, Queue, World, chunks_of, is_keyed, milliseconds


def producer_open(world: World, zxid: int, entry: e.ProducerOpen) -> Any:
    """A name has one producer: the one that had it before must stop."""
    if entry.name:
        before = world.names.get(entry.name)
        if before is not None:
            del world.producers[before]
            world.fenced[before] = entry.name
            of_name = [number for number, name in world.fenced.items() if name == entry.name]
            for number in of_name[: -world.fenced_max]:
                del world.fenced[number]
        world.names[entry.name] = zxid
    world.producers[zxid] = []
    return zxid


def producer_close(world: World, zxid: int, entry: e.ProducerClose) -> Any:
    """It is forgotten, with everybody who had its name."""
    name = next((name for name, number in world.names.items() if number == entry.producer), None)
    if name is not None:
        del world.names[name]
        world.fenced = {number: of for number, of in world.fenced.items() if of != name}
    return world.producers.pop(entry.producer, None) is not None


def sequence_of(world: World, entry: Any) -> Any:
    """What the producer's sequence answers: the zxid of one that was accepted before, or an error; None: it is next.

    0 stands for a zxid of long ago.
    """
    known = world.producers.get(entry.producer)
    if known is None:
        return ProducerFenced if entry.producer in world.fenced else ProducerNotFound
    if entry.sequence < 1:
        return InvalidRequest
    if entry.sequence <= len(known):
        return known[entry.sequence - 1] if entry.sequence > len(known) - world.receipts_max else 0
    return SequenceGap if entry.sequence > len(known) + 1 else None


def publish(world: World, zxid: int, entry: e.Publish) -> Any:
    answer = sequence_of(world, entry)
    window = window_for(world, entry.queue, entry.scope) if isinstance(entry, e.PublishIdentified) else None
    ids = ids_in(entry.ids) if isinstance(entry, e.PublishIdentified) else {}
    if isinstance(answer, int):
        known = {} if window is None else window.look(ids, world.time)
        return answer, entry.count, True, {index: at for index, at in known.items() if at != (answer, index)}
    if answer is not None:
        return answer
    known = {} if window is None else window.copy().judge(ids, zxid, world.time)
    messages = [m for m in messages_of(world, zxid, entry) if m["index"] not in known]
    if entry.queue in world.topics:
        refusal = publish_to_topic(world, zxid, world.topics[entry.queue], messages)
    else:
        refusal = publish_to_queue(world, zxid, entry.queue, messages)
    if refusal is not None:
        return refusal
    if window is not None:
        window.judge(ids, zxid, world.time)
    world.producers[entry.producer].append(zxid)
    return zxid, entry.count, False, known


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
    if messages and "publish" in queue["paused"]:
        return QueuePaused
    if messages and is_too_much(queue, len(messages)):
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
