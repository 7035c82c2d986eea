"""How messages die: kept aside in their queue, or moved to the one that its setting names; a note says why."""

from __future__ import annotations

from tests.broker.queues.naive.world import Message, Queue, World, is_keyed, is_old, milliseconds


def note(world: World, kind: str, origin: str, text: str, attempts: int = 0) -> tuple[str, str, str, int, int]:
    return kind, origin, text[:200], world.time // 1000, attempts


def die(world: World, zxid: int, queue: Queue, messages: list[Message], kind: str, text: str = "") -> None:
    target = world.queue_named(queue["settings"]["dead_letter"])
    for message in messages:
        if target is None or target is queue:
            message.update(state="dead", ready=zxid, note=note(world, kind, "", text))
            queue["totals"]["dead"] += 1
        else:
            world.gone(queue, message, "moved")
            there = arrive(world, zxid, target, message)
            there.update(note=note(world, kind, queue["name"], text, message["attempts"]), died=zxid)


def arrive(world: World, zxid: int, target: Queue, message: Message) -> Message:
    """A message from another queue begins anew, also its lifetime."""
    there = world.add(target, fitted(world, target, {**message, "note": None, "expires": 0}))
    world.line_up(target, there, zxid)
    return there


def fitted(world: World, queue: Queue, message: Message) -> Message:
    """What it becomes in a queue of another order or with a lifetime of its own."""
    fit = {**message}
    if is_keyed(queue):
        fit["priority"] = 0
    else:
        fit["key"] = 0
    if queue["settings"]["ttl"] is not None:
        end = world.time + milliseconds(queue["settings"]["ttl"])
        fit["expires"] = min(fit["expires"] or end, end)
    return fit


def grow_old(world: World, zxid: int, queue: Queue, messages: list[Message]) -> None:
    for message in messages:
        if queue["settings"]["dead_letter"] is not None:
            die(world, zxid, queue, [message], "ttl")
        else:
            world.gone(queue, message, "expired")


def young(world: World, zxid: int, queue: Queue, messages: list[Message]) -> list[Message]:
    """Let those go that are too old; return the others."""
    grow_old(world, zxid, queue, [m for m in messages if is_old(m, world.time)])
    return [m for m in messages if not is_old(m, world.time)]


def fail(world: World, zxid: int, queue: Queue, messages: list[Message], kind: str, text: str) -> None:
    """The last attempt failed: what becomes of them, and of their keys."""
    poison = queue["settings"]["poison_key"] if is_keyed(queue) else "dead_letter"
    skipped = [m for m in messages if poison == "skip" and kind == "max_deliveries" and m["key"]]
    if poison == "park":
        queue["parked"] |= {m["key"] for m in messages if m["key"]}
    die(world, zxid, queue, [m for m in messages if m not in skipped], kind, text)
    for message in skipped:
        message.update(deliveries=0, attempts=0, note=note(world, kind, "", text))
        world.line_up(queue, message, zxid)
