"""Limits of a queue, and until when a message lives."""

from __future__ import annotations

from tests.broker.queues.naive.dying import die
from tests.broker.queues.naive.world import ALIVE, BYTES_A_MESSAGE, Message, Queue, World, is_keyed, line, place, within


def expiry(world: World, message: Message, ttl: int) -> int:
    """When a message expires, by its own lifetime and that of where it was published; 0: never."""
    lifetimes = [each for each in (message["ttl"], ttl) if each]
    return max(message["due"], world.time) + min(lifetimes) if lifetimes else 0


def is_beyond(queue: Queue, more: int = 0) -> bool:
    """Whether the queue with so many messages more is over a limit."""
    length = len(within(queue, *ALIVE)) + more
    length_max, bytes_max = queue["settings"]["max_length"], queue["settings"]["max_bytes"]
    too_long = length_max is not None and length > length_max
    return too_long or (bytes_max is not None and length * BYTES_A_MESSAGE > bytes_max)


def is_too_much(queue: Queue, more: int) -> bool:
    return queue["settings"]["overflow"] == "reject" and is_beyond(queue, more)


def make_room(world: World, zxid: int, queue: Queue) -> None:
    """The oldest of the lowest priority go until the queue is within its limits, or only others are left."""
    overflow = queue["settings"]["overflow"]
    while overflow != "reject" and is_beyond(queue) and (ready := line(queue)):
        lowest = min(m["priority"] for m in ready)
        head = next(m for m in ready if m["priority"] == lowest)
        if is_keyed(queue):  # there is no line of all
            head = oldest(ready)
        if overflow == "dead_letter":
            die(world, zxid, queue, [head], "overflow")
        else:
            world.gone(queue, head, "dropped")


def oldest(ready: list[Message]) -> Message:
    """Of what came back and of the others the one that became ready first; of those of one batch the first."""
    back, other = (next((m for m in ready if m["back"] is each), None) for each in (True, False))
    if back is None or other is None:
        return ready[0]
    if back["zxid"] == other["zxid"] and back["ready"] == other["ready"]:
        return min(back, other, key=place)
    return other if other["ready"] < back["ready"] else back
