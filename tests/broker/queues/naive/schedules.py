"""Schedules: each is a producer of its own, and stands at its next time."""

from __future__ import annotations

from typing import Any

from sluicemq.broker.queues import entries_of_topics as t
from tests.broker.queues.naive.world import World


def schedule(world: World, zxid: int, entry: t.Schedule) -> Any:
    known = world.schedules.pop(entry.name, None)
    if known is not None:
        del world.producers[known["number"]]
    if not entry.cron:
        return ("unchanged" if known is None else "dropped"), None
    world.schedules[entry.name] = {"number": zxid, "next": entry.next_due_ms, "published": 0}
    world.producers[zxid] = []
    return ("created" if known is None else "changed"), entry.next_due_ms


def fire(world: World, zxid: int, entry: t.Fire) -> Any:
    row = next((row for row in world.schedules.values() if row["number"] == entry.schedule), None)
    if row is None or row["next"] != entry.due_ms:
        return False
    row.update(next=entry.next_due_ms, published=row["published"] + entry.published)
    return True
