"""Time: what is due becomes ready, what is too old goes; and delayed messages that somebody cancels or puts off."""

from __future__ import annotations

from typing import Any

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.wire.errors import QueueNotFound
from tests.broker.queues.naive.dying import young
from tests.broker.queues.naive.settings import follow_policies
from tests.broker.queues.naive.topics import hand_out, remember
from tests.broker.queues.naive.world import Message, Queue, Topic, World, chunks_of, is_old, waiting, within


def clock(world: World, zxid: int, entry: e.Clock) -> int:
    """Everything that is due by now, one time after the other; return how many messages became ready."""
    ready = 0
    while (first := first_due(world)) is not None:
        due, number = first
        if number == 0:
            follow_policies(world)
        elif number in world.topics:
            ready += release(world, zxid, number, due)
        else:
            ready += turn(world, zxid, world.queues[number], due)
    return ready


def first_due(world: World) -> tuple[int, int] | None:
    """Return when something is due first, and where: 0 are the policies. None: nothing is by now."""
    times = [(world.following, 0)] if world.following is not None else []
    for holder in (*world.queues.values(), *world.topics.values()):
        times += [(m["due"], holder["id"]) for m in within(holder, "delayed")]
        times += [(m["expires"], holder["id"]) for m in within(holder, "ready") if m["expires"]]
    return min((each for each in times if each[0] <= world.time), default=None)


def turn(world: World, zxid: int, queue: Queue, due: int) -> int:
    young(world, zxid, queue, within(queue, "ready"))
    messages = young(world, zxid, queue, [m for m in waiting(queue) if m["due"] <= due])
    for message in messages:
        world.come_back(queue, message, zxid)
    return len(messages)


def release(world: World, zxid: int, number: int, due: int) -> int:
    """Delayed messages of a topic go to the subscriptions of this moment."""
    topic = world.topics[number]
    messages = [m for m in waiting(topic) if m["due"] <= due]
    topic["messages"] = [m for m in topic["messages"] if not any(m is other for other in messages)]
    alive = [m for m in messages if not is_old(m, world.time)]
    topic["expired"] += len(messages) - len(alive)
    hand_out(world, zxid, topic, alive)
    already = sum(m["place"][0] == zxid for m in topic["history"] or [])
    remember(world, topic, [(m, (zxid, already + number)) for number, m in enumerate(alive)])
    return len(alive)


def take_delayed(queue: Queue | Topic, runs: list[int]) -> list[Message]:
    """What still waits of `[due, zxid, first, size, ...]`, in the order in which it is due, then of publishing."""
    found: list[Message] = []
    for due, zxid, first, size in chunks_of(runs, 4):
        for index in range(first, first + size):
            found += [m for m in waiting(queue) if (m["due"], m["zxid"], m["index"]) == (due, zxid, index)]
    return sorted(found, key=lambda m: (m["due"], m["zxid"], m["index"]))


def cancel(world: World, zxid: int, entry: q.Cancel) -> Any:
    queue = world.queues.get(entry.queue)
    holder = queue or world.topics.get(entry.queue)
    if holder is None:
        return QueueNotFound
    messages = take_delayed(holder, entry.runs)
    for message in messages:
        if queue is not None:
            world.gone(queue, message, "purged")
        else:  # they were nobody's, and never will be
            holder["messages"] = [m for m in holder["messages"] if m is not message]
    return len(messages)


def reschedule(world: World, zxid: int, entry: q.Reschedule) -> Any:
    queue = world.queues.get(entry.queue)
    holder = queue or world.topics.get(entry.queue)
    if holder is None:
        return QueueNotFound
    messages = take_delayed(holder, entry.runs)
    for message in messages:
        if message["expires"] and not message.get("deliveries"):  # it has not begun to live
            message["expires"] += max(entry.due_ms, world.time) - message["due"]
    if entry.due_ms > world.time or queue is None:  # a topic's are handed out by the next CLOCK
        for message in sorted(messages, key=lambda m: (m["zxid"], m["index"])):
            world.wait(message, max(entry.due_ms, world.time))
    else:
        for message in messages:
            world.come_back(queue, message, zxid)
    return len(messages)
