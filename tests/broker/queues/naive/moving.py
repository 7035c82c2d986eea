"""An operator moves, copies or drops messages that were chosen by their places."""

from __future__ import annotations

from typing import Any

from sluicemq.broker.queues.entries_of_moving import READY, Move
from sluicemq.wire.errors import Conflict, InvalidRequest, QueueFull, QueueNotFound
from tests.broker.queues.naive.dying import fitted
from tests.broker.queues.naive.limits import is_too_much, make_room
from tests.broker.queues.naive.publishing import sequence_of
from tests.broker.queues.naive.world import Message, Queue, World, chunks_of, is_keyed


def move(world: World, zxid: int, entry: Move) -> Any:
    known = sequence_of(world, entry)
    if isinstance(known, int):
        return world.moved.get(known, 0), True
    if known is not None:
        return known
    queue = world.queues.get(entry.queue)
    if queue is None or (entry.to and entry.to not in world.queues):
        return QueueNotFound
    target = world.queues[entry.to] if entry.to else None
    if target is queue or (target is None and entry.keep):
        return InvalidRequest
    if target is not None and is_keyed(target) and not is_keyed(queue):
        return Conflict
    chosen = chosen_of(queue, entry)
    if target is not None and chosen and is_too_much(target, len(chosen)):
        return QueueFull
    for message in chosen:
        leave(world, queue, message, entry)
        if target is not None:
            expires = message["expires"] if entry.state == READY else 0
            new = {"note": None, "deliveries": 0, "attempts": 0, "expires": expires}
            there = world.add(target, fitted(world, target, {**message, **new}))
            world.line_up(target, there, zxid)
    if target is not None and chosen:
        make_room(world, zxid, target)
    world.producers[entry.producer].append(zxid)
    world.moved[zxid] = len(chosen)
    return len(chosen), False


def chosen_of(queue: Queue, entry: Move) -> list[Message]:
    """Each once, in the order in which they were named, as far as they are still there."""
    state = "ready" if entry.state == READY else "dead"
    found: list[Message] = []
    for ready, zxid, first, size in chunks_of(entry.runs, 4):
        part: list[Message] = []
        for index in range(first, first + size):
            here = [
                m
                for m in queue["messages"]
                if (m["zxid"], m["index"], m["ready"], m["state"]) == (zxid, index, ready, state)
            ]
            part += [m for m in here[:1] if not any(m is other for other in found)]
        found += part
    return found


def leave(world: World, queue: Queue, message: Message, entry: Move) -> None:
    if entry.keep:
        world.born += 1
        return
    why = "moved" if entry.to else "purged"
    if message["state"] == "dead":
        queue["totals"]["redriven" if entry.to else "discarded"] += 1
    world.gone(queue, message, why)
