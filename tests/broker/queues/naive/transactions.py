"""Transactions, which hold as a whole or not at all, and half messages, which wait until somebody decides."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.wire.errors import (
    InvalidRequest,
    LeaseLost,
    ProducerNotFound,
    QueueFull,
    QueueNotFound,
    QueuePaused,
    SequenceGap,
    TransactionDecided,
    TransactionNotFound,
)
from sluicemq.wire.messages import VERDICT_ACK
from tests.broker.queues.naive.limits import is_beyond
from tests.broker.queues.naive.publishing import into_queue, messages_of
from tests.broker.queues.naive.settling import settle
from tests.broker.queues.naive.topics import into_topic, shares
from tests.broker.queues.naive.world import Message, World, chunks_of, tags_in

DAY_MS = 86_400_000
Targets = list[tuple[int, list[Message]]]


class OneOf(tuple[Any, ...]):
    """An answer that is any of these."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return any(other is each for each in self)

    __hash__ = tuple.__hash__


def sequence_of(world: World, entry: x.Transaction | x.Prepare) -> Any:
    """Return what the producer's sequence answers, or None where the entry is the next."""
    known = world.producers.get(entry.producer)
    if known is None:
        return ProducerNotFound
    if entry.sequence < 1:
        return InvalidRequest
    if entry.sequence <= len(known):
        return known[entry.sequence - 1], entry.count, True
    return SequenceGap if entry.sequence > len(known) + 1 else None


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
        if "publish" in (world.queues.get(number) or world.topics[number])["paused"]:
            reasons.append(QueuePaused)
    for number, count in coming.items():
        queue = world.queues[number]
        more = count - freed[number]
        if more > 0 and queue["settings"]["overflow"] == "reject" and is_beyond(queue, more):
            reasons.append(QueueFull)
    return OneOf(reasons) if reasons else None


def come_in(world: World, zxid: int, targets: Targets, *, retains: bool) -> None:
    for number, messages in targets:
        if number in world.queues:
            into_queue(world, zxid, world.queues[number], messages)
        else:
            into_topic(world, zxid, world.topics[number], messages, retains=retains)


def transaction(world: World, zxid: int, entry: x.Transaction) -> Any:
    answer = sequence_of(world, entry)
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
    targets: Targets = []
    for target, count, *_ in chunks_of(entry.parts, x.PART_NUMBERS):
        targets.append((target, messages[:count]))
        messages = messages[count:]
    refusal = refusals(world, targets, freed)
    if refusal is not None:
        return refusal
    world.producers[entry.producer].append(zxid)
    for settlement in settlements:
        consumer, verdict, due, tags, reason = settlement
        settle(world, zxid, e.SettleJudged(entry.log_time_ms, entry.session, consumer, verdict, tags, due, reason))
    come_in(world, zxid, targets, retains=True)
    return zxid, entry.count, False


def prepare(world: World, zxid: int, entry: x.Prepare) -> Any:
    answer = sequence_of(world, entry)
    if answer is not None:
        return answer
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
    }
    return zxid, entry.count, False


def resolve(world: World, zxid: int, entry: x.Resolve) -> Any:
    half = world.halves.get(entry.half)
    if half is None:
        if entry.half not in world.decided:
            return TransactionNotFound
        committed, _ = world.decided[entry.half]
        return (committed, True, 0) if committed == entry.commit else TransactionDecided
    if entry.commit:
        # If it was deleted meanwhile, the one that has its name gets the message.
        found = world.topics if half["to_topic"] else world.queues
        named = [number for number, each in found.items() if each["name"] == half["name"]]
        number = half["target"] if half["target"] in found else next(iter(named), None)
        if number is None:
            return QueueNotFound
        come_in(world, zxid, [(number, half["messages"])], retains=False)
    del world.halves[entry.half]
    world.decided[entry.half] = entry.commit, world.time
    world.decided = {each: what for each, what in world.decided.items() if what[1] + DAY_MS > world.time}
    return entry.commit, False, len(half["messages"]) if entry.commit else 0
