"""Dead letters are tried again, here or elsewhere, or dropped."""

from __future__ import annotations

from typing import Any

from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.wire.errors import Conflict, QueueFull, QueueNotFound
from tests.broker.queues.naive.dying import arrive, fitted
from tests.broker.queues.naive.limits import is_too_much, make_room
from tests.broker.queues.naive.world import Message, Queue, World, chunks_of


def letters_of(queue: Queue, runs: list[int]) -> list[Message]:
    """Dead letters at these places: kept aside, or ready with a note that says from where they came."""
    found: list[Message] = []
    for ready, zxid, first, size in chunks_of(runs, 4):
        for index in range(first, first + size):
            found += [
                m
                for m in queue["messages"]
                if (m["zxid"], m["index"], m["ready"]) == (zxid, index, ready)
                and (m["state"] == "dead" or (m["state"] == "ready" and m["note"] is not None and m["note"][1]))
            ]
    return found


def target_of(world: World, queue: Queue, message: Message, to: int) -> Queue | None:
    if to:
        target = world.queues[to]
    elif message["state"] == "dead":
        target = queue
    else:
        origin = world.queue_named(message["note"][1])
        if origin is None:
            return None
        target = origin
    return None if target is queue and message["state"] != "dead" else target


def redrive(world: World, zxid: int, entry: q.Redrive) -> Any:
    queue = world.queues.get(entry.queue)
    if queue is None or (entry.to and entry.to not in world.queues):
        return QueueNotFound
    targets = [(m, target_of(world, queue, m, entry.to)) for m in letters_of(queue, entry.runs)]
    moving = [(m, target) for m, target in targets if target is not None]
    moving.sort(key=lambda pair: pair[0]["state"] != "dead")
    if not moving:
        return Conflict
    for target in world.queues.values():
        if is_too_much(target, count := sum(each is target for _, each in moving)) and count:
            return QueueFull
    for number in dict.fromkeys(target["id"] for _, target in moving):
        target = world.queues[number]
        for message in [m for m, its_target in moving if its_target is target]:
            try_again(world, zxid, queue, target, message)
        make_room(world, zxid, target)
    return len(moving)


def try_again(world: World, zxid: int, queue: Queue, target: Queue, message: Message) -> None:
    queue["totals"]["redriven"] += message["state"] == "dead"
    if target is queue:
        new = {"note": None, "expires": 0, "deliveries": 0, "attempts": 0}
        message.update(fitted(world, queue, {**message, **new}))
        world.line_up(queue, message, zxid)
    else:
        world.gone(queue, message, "moved")
        arrive(world, zxid, target, message)


def discard(world: World, zxid: int, entry: q.Discard) -> Any:
    queue = world.queues.get(entry.queue)
    if queue is None:
        return QueueNotFound
    messages = letters_of(queue, entry.runs)
    for message in messages:
        queue["totals"]["discarded"] += message["state"] == "dead"
        world.gone(queue, message, "purged")
    return len(messages)
