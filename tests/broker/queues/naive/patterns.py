"""Which messages a subscription wants, and who is subscribed to what."""

from __future__ import annotations

from tests.broker.queues.naive.world import GONE, Queue, Topic, World


def words(name: str) -> list[str]:
    return name.split(".") if name else []


def matches(pattern: list[str], route: list[str]) -> bool:
    if not pattern:
        return not route
    if pattern[0] == "#":
        return any(matches(pattern[1:], route[skipped:]) for skipped in range(len(route) + 1))
    return bool(route) and pattern[0] in ("*", route[0]) and matches(pattern[1:], route[1:])


def wants(subscription: Queue, route: str) -> bool:
    return matches(words(subscription["pattern"]), words(route))


def subscriptions(world: World, topic: Topic) -> list[Queue]:
    return [queue for queue in world.queues.values() if queue["topic"] == topic["id"]]


def drop(world: World, queue: Queue) -> None:
    """A queue goes, with everything in it."""
    world.deleted += len(queue["messages"]) + sum(queue["totals"][why] for why in GONE if why != "moved")
    del world.queues[queue["id"]]
