"""Transactions, which hold as a whole or not at all, and half messages, which wait until somebody decides."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.wire.errors import (
    LeaseLost,
    QueueFull,
    QueueNotFound,
    QueuePaused,
    TransactionDecided,
    TransactionNotFound,
)
from sluicemq.wire.messages import VERDICT_ACK
from tests.broker.queues.naive.limits import is_beyond
from tests.broker.queues.naive.publishing import into_queue, messages_of, sequence_of
from tests.broker.queues.naive.settling import settle
from tests.broker.queues.naive.topics import into_topic, shares
from tests.broker.queues.naive.windows import Window, ids_in, window_for
from tests.broker.queues.naive.world import Message, World, chunks_of, tags_in

DAY_MS = 86_400_000
CHECK_AFTER_MS_MIN = 100
CHECK_INTERVAL_MS_MAX = 60_000
CHECKS_MAX = 15
Targets = list[tuple[int, list[Message]]]


class OneOf(tuple[Any, ...]):
    """An answer that is any of these."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return any(other is each for each in self)

    __hash__ = tuple.__hash__


def refusals(world: World, targets: Targets, freed: Counter[int]) -> OneOf | None:
    """Return for what reasons the messages may not all come, and one of them is told; None: they may."""
    coming: Counter[int] = Counter()
    reasons: list[type[Exception]] = []
    for number, messages in targets:
        if number in world.queues:
            coming[number] += len(messages)
        elif number in world.topics:
            for subscription, part in shares(world, world.topics[number], messages):
                coming[subscription["id"]] += len(part)
        else:
            return OneOf((QueueNotFound,))
        if messages and "publish" in (world.queues.get(number) or world.topics[number])["paused"]:
            reasons.append(QueuePaused)
    for number, count in coming.items():
        queue = world.queues[number]
        more = count - freed[number]
        if more > 0 and queue["settings"]["overflow"] == "reject" and is_beyond(queue, more):
            reasons.append(QueueFull)
    return OneOf(reasons) if reasons else None


def come_in(world: World, zxid: int, targets: Targets) -> None:
    for number, messages in targets:
        if number in world.queues:
            into_queue(world, zxid, world.queues[number], messages)
        else:
            into_topic(world, zxid, world.topics[number], messages)


def transaction(world: World, zxid: int, entry: x.Transaction) -> Any:
    answer = sequence_of(world, entry)
    judged = judged_of(world, entry)
    if isinstance(answer, int):
        before = {index: at for window, ids in judged for index, at in window.look(ids, world.time).items()}
        return answer, entry.count, True, {index: at for index, at in before.items() if at != (answer, index)}
    if answer is not None:
        return answer
    settlements = entry.verdicts()
    freed: Counter[int] = Counter()
    for settlement in settlements:
        held = world.leases(entry.session, settlement.consumer)
        for tag in tags_in(settlement.tags):
            if tag not in held or entry.session not in world.sessions:
                return LeaseLost
            freed[held[tag]["queue"]] += settlement.verdict == VERDICT_ACK
    messages = messages_of(world, zxid, entry) if entry.count else []
    known = {index: at for window, ids in judged for index, at in window.copy().judge(ids, zxid, world.time).items()}
    targets: Targets = []
    for target, count, *_ in chunks_of(entry.parts, x.PART_NUMBERS):
        targets.append((target, [m for m in messages[:count] if m["index"] not in known]))
        messages = messages[count:]
    refusal = refusals(world, targets, freed)
    if refusal is not None:
        return refusal
    world.producers[entry.producer].append(zxid)
    for window, ids in judged:
        window.judge(ids, zxid, world.time)
    for settlement in settlements:
        consumer, verdict, due, tags, reason = settlement
        settle(world, zxid, e.SettleJudged(entry.log_time_ms, entry.session, consumer, verdict, tags, due, reason))
    come_in(world, zxid, targets)
    return zxid, entry.count, False, known


def judged_of(world: World, entry: x.Transaction) -> list[tuple[Window, dict[int, bytes]]]:
    """Each window that judges ids of the transaction, with all that it judges."""
    found: dict[int, tuple[Window, dict[int, bytes]]] = {}
    first = 0
    for target, count, _, scope in chunks_of(entry.parts, x.PART_NUMBERS):
        window = window_for(world, target, scope - 1)
        if window is not None and entry.ids:
            found.setdefault(target, (window, {}))[1].update(ids_in(entry.ids, first, count))
        first += count
    return list(found.values())


def prepare(world: World, zxid: int, entry: x.Prepare) -> Any:
    answer = sequence_of(world, entry)
    if answer is not None:
        return (answer, entry.count, True) if isinstance(answer, int) else answer
    messages = messages_of(world, zxid, entry)
    refusal = refusals(world, [(entry.target, messages)], Counter())
    if refusal is not None:
        return refusal
    world.producers[entry.producer].append(zxid)
    target = world.queues.get(entry.target) or world.topics[entry.target]
    world.halves[zxid] = {
        "target": entry.target,
        "name": target["name"],
        "to_topic": entry.target in world.topics,
        "messages": messages,
        "scope": entry.scope,
        "ids": ids_in(entry.ids),
        "after": max(entry.check_after_ms, CHECK_AFTER_MS_MIN),
        "checks": 0,
        "next": world.time + max(entry.check_after_ms, CHECK_AFTER_MS_MIN),
    }
    return zxid, entry.count, False


def resolve(world: World, zxid: int, entry: x.Resolve) -> Any:
    half = world.halves.get(entry.half)
    if half is None:
        if entry.half not in world.decided:
            return TransactionNotFound
        committed, _, known = world.decided[entry.half]
        return (committed, True, 0, known) if committed == entry.commit else TransactionDecided
    messages: list[Message] = []
    known = {}
    if entry.commit:
        # If it was deleted meanwhile, the one that has its name gets the message.
        found = world.topics if half["to_topic"] else world.queues
        named = [number for number, each in found.items() if each["name"] == half["name"]]
        number = half["target"] if half["target"] in found else next(iter(named), None)
        if number is None:
            return QueueNotFound
        # Ids count from the commit on: what is never committed makes nothing a duplicate.
        window = window_for(world, number, half["scope"] - 1)
        known = {} if window is None else window.judge(half["ids"], entry.half, world.time)
        messages = [m for m in half["messages"] if m["index"] not in known]
        if messages:
            come_in(world, zxid, [(number, messages)])
    del world.halves[entry.half]
    world.decided[entry.half] = entry.commit, world.time, known
    world.decided = {each: what for each, what in world.decided.items() if what[1] + DAY_MS > world.time}
    return entry.commit, False, len(messages), known


def checked(world: World, zxid: int, entry: x.Checked) -> Any:
    """Somebody is asked about those that are due, at growing intervals; who was asked too often is parked."""
    asked: list[int] = []
    parked: list[int] = []
    for number in entry.halves:
        half = world.halves.get(number)
        if half is None or not half["next"] or half["next"] > world.time:
            continue
        if half["checks"] == CHECKS_MAX:
            half["next"] = 0
            parked.append(number)
            continue
        half["checks"] += 1
        interval = half["after"] * 2 ** half["checks"]
        half["next"] = world.time + min(interval, max(CHECK_INTERVAL_MS_MAX, half["after"]))
        asked.append(number)
    return asked, parked
