"""PUBLISH: a batch comes into its queue, once, in its producer's order; each part of it to where it has to wait."""

from __future__ import annotations

import dataclasses
from itertools import accumulate, groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.identifying import (
    fresh_in,
    known_as,
    look_for_known,
    pieces_of,
    record_ids,
    retain,
)
from sluicemq.broker.queues.applying.limiting import make_room, refuse_overflow
from sluicemq.broker.queues.applying.refusals import queue_not_found
from sluicemq.broker.queues.applying.routing import publish_to_topic
from sluicemq.broker.queues.delayed_rows import order_of, packed_columns
from sluicemq.broker.queues.entry import GROUP_NUMBERS
from sluicemq.broker.queues.outcomes import Outcome, Published, Ready, Retained
from sluicemq.broker.queues.pauses import refuse_paused
from sluicemq.broker.queues.runs import Run, messages_in
from sluicemq.broker.queues.sequences import Producer
from sluicemq.broker.queues.window import ID_BYTES
from sluicemq.wire.batch import PRIORITY_MAX
from sluicemq.wire.errors import InvalidRequest, SluiceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.queues import entries as e
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.outcomes import Effect
    from sluicemq.broker.queues.queue import Queue

BULK_GROUPS = 16
"""From so many groups on it pays to make rows of them column by column."""
_NOTHING_SAID = (0,) * (GROUP_NUMBERS - 1)
_due_of = itemgetter(1)  # of a run that waits: its due time stands where its place will be


def publish(machine: Machine, zxid: int, entry: e.Publish) -> Outcome:
    """Judge the producer and its sequence, then put the batch behind the tail of its queue."""
    machine.note_ids(entry.id_base, entry.count)
    verdict = machine.producers.judge(entry.producer, entry.sequence, machine.log_time_ms)
    if not isinstance(verdict, Producer):
        return _not_new(machine, entry, verdict)
    queue = machine.queue(entry.queue)
    if queue is None:
        topic = machine.sources.get(entry.queue)
        if topic is not None and entry.count:
            return publish_to_topic(machine, zxid, entry, topic, verdict)
        return Outcome(None, queue_not_found(entry.queue))
    if entry.count < 1:
        return Outcome(None, InvalidRequest("a batch needs at least one message"))
    if not queue.is_plain:
        return _publish(machine, zxid, entry, queue, verdict, (entry.count, 0, 0, 0, 0, 0))
    machine.producers.record(verdict, zxid, entry.id_base)
    queue.publish(zxid, entry.count, len(entry.payload), machine.log_time_ms)
    if queue.history is None:
        return Outcome(Published(zxid, entry.count, False, id_base=entry.id_base), None, (Ready(entry.queue),))
    retain(queue.history, zxid, entry, [], machine.log_time_ms)
    machine.due_changed(queue)
    return Outcome(
        Published(zxid, entry.count, False, id_base=entry.id_base), None, (Ready(entry.queue), Retained(entry.queue))
    )


def publish_grouped(machine: Machine, zxid: int, entry: e.PublishGrouped) -> Outcome:
    """Judge likewise, then put each group where it waits: for its time, or behind the tail of its priority."""
    machine.note_ids(entry.id_base, entry.count)
    verdict = machine.producers.judge(entry.producer, entry.sequence, machine.log_time_ms)
    if not isinstance(verdict, Producer):
        return _not_new(machine, entry, verdict)
    queue = machine.queue(entry.queue)
    topic = None if queue is not None else machine.sources.get(entry.queue)
    if queue is None and topic is None:
        return Outcome(None, queue_not_found(entry.queue))
    problem = _problem(entry)
    if problem is not None:
        return Outcome(None, InvalidRequest(problem))
    if topic is not None:
        return publish_to_topic(machine, zxid, entry, topic, verdict)
    assert queue is not None, "it is a queue or a topic"
    return _publish(machine, zxid, entry, queue, verdict, entry.groups)


def publish_identified(machine: Machine, zxid: int, entry: e.PublishIdentified) -> Outcome:
    """Judge likewise, but that messages whose ids are known are confirmed as duplicates, and make no rows."""
    machine.note_ids(entry.id_base, entry.count)
    verdict = machine.producers.judge(entry.producer, entry.sequence, machine.log_time_ms)
    queue = machine.queue(entry.queue)
    topic = None if queue is not None else machine.sources.get(entry.queue)
    if not isinstance(verdict, Producer):
        again = _not_new(machine, entry, verdict)
        target = queue or topic
        if isinstance(again.value, Published) and target is not None:
            known = known_as(look_for_known(machine, 0, entry, target), again.value.zxid)
            return Outcome(dataclasses.replace(again.value, known=known))
        return again
    if queue is None and topic is None:
        return Outcome(None, queue_not_found(entry.queue))
    problem = _problem(entry) if entry.groups else None
    if problem is None and (entry.count < 1 or len(entry.ids) != entry.count * ID_BYTES):
        problem = f"{len(entry.ids)} bytes are no ids of {entry.count} messages"
    if problem is not None:
        return Outcome(None, InvalidRequest(problem))
    if topic is not None:
        return publish_to_topic(machine, zxid, entry, topic, verdict)
    assert queue is not None, "it is a queue or a topic"
    return _publish(machine, zxid, entry, queue, verdict, entry.groups or (entry.count, 0, 0, 0, 0, 0))


def _publish(
    machine: Machine, zxid: int, entry: e.Publish, queue: Queue, producer: Producer, groups: Sequence[int]
) -> Outcome:
    """Put the groups where they wait, if the queue takes them and has room for them or makes some."""
    known: list[int] = []
    fresh = entry.count
    if queue.paused or queue.is_limited:
        # Only what is new is refused: a batch that came before is confirmed however the queue stands now.
        fresh = fresh_in(look_for_known(machine, zxid, entry, queue), entry.count)
        refusal: SluiceError | None = refuse_paused(queue) if fresh else None
        if refusal is None and queue.is_limited and fresh:
            refusal = refuse_overflow(queue, fresh, len(entry.payload) * fresh // entry.count)
        if refusal is not None:
            return Outcome(None, refusal)
    if queue.window is not None:
        known = record_ids(machine, zxid, entry, queue)
        fresh = fresh_in(known, entry.count)
    machine.producers.record(producer, zxid, entry.id_base)
    queue.used_ms = machine.log_time_ms
    effects: list[Effect] = []
    if fresh and _place(machine, zxid, entry, queue, groups, known):
        effects.append(Ready(queue.id))
    if queue.is_limited:
        effects += make_room(machine, zxid, queue, fresh)
    if queue.history is not None and fresh:
        retain(queue.history, zxid, entry, known, machine.log_time_ms)
        effects.append(Retained(queue.id))
    machine.due_changed(queue)
    return Outcome(Published(zxid, entry.count, False, known, id_base=entry.id_base), None, tuple(effects))


def _not_new(machine: Machine, entry: e.Publish, verdict: int | SluiceError) -> Outcome:
    if isinstance(verdict, SluiceError):
        return Outcome(None, verdict)
    return Outcome(Published(verdict, entry.count, True, id_base=machine.producers.id_base(entry)))


def _problem(entry: e.PublishGrouped) -> str | None:
    """Return what is wrong with the groups, or None: only a leader with a mistake proposes such ones."""
    groups = entry.groups
    counts = groups[::GROUP_NUMBERS]
    if not counts or min(counts) < 1 or sum(counts) != entry.count:
        return f"the groups of a batch of {entry.count} messages hold {sum(counts)}"
    if max(groups[3::GROUP_NUMBERS]) > PRIORITY_MAX:
        return f"priorities are 0 to {PRIORITY_MAX}, not {max(groups[3::GROUP_NUMBERS])}"
    if max(groups[4::GROUP_NUMBERS]) >> 32:
        return "the number of a key has 32 bits"
    if max(groups[5::GROUP_NUMBERS]) > len(entry.routes):
        return f"a group names a route that is none of the {len(entry.routes)}"
    return None


def _place(
    machine: Machine, zxid: int, entry: e.Publish, queue: Queue, groups: Sequence[int], known: list[int]
) -> bool:
    """Put the messages of each group where they wait, but for those in *known*; return whether any is ready."""
    now_ms = machine.log_time_ms
    count, batch_bytes = entry.count, len(entry.payload)
    if not known and groups[1:] == _NOTHING_SAID and queue.is_plain:
        queue.publish(zxid, count, batch_bytes, now_ms)
        return True
    if (
        not known
        and len(groups) >= BULK_GROUPS * GROUP_NUMBERS
        and queue.settings["ttl"] is None
        and _say_due_times_only(groups)
    ):
        return _place_in_bulk(machine, zxid, entry, queue, groups)
    queue_ttl_ms = round(float(queue.settings["ttl"] or 0) * 1000)
    ready: list[Run] = []
    waiting: list[Run] = []
    for first, size, due_ms, ttl_ms, priority, key, _route in pieces_of(groups, known):
        if queue.keys is not None:
            priority = 0  # it has none, whatever it had when the leader looked
        waits = due_ms > now_ms
        start_ms = due_ms if waits else now_ms
        if queue_ttl_ms and (not ttl_ms or queue_ttl_ms < ttl_ms):
            ttl_ms = queue_ttl_ms
        expires_ms = start_ms + ttl_ms if ttl_ms else 0
        run = Run(
            zxid,
            due_ms if waits else zxid,
            first,
            size,
            count,
            batch_bytes,
            now_ms,
            key=key,
            expires_ms=expires_ms,
            priority=priority,
        )
        (waiting if waits else ready).append(run)
    queue.arrive([*ready, *waiting])
    if ready:
        queue.make_ready(ready, zxid)
    if waiting:
        waiting.sort(key=_due_of)
        for due_ms, runs in groupby(waiting, key=_due_of):
            queue.delayed.add(due_ms, list(runs))
    return bool(ready)


def _say_due_times_only(groups: Sequence[int]) -> bool:
    """Return whether they have no lifetimes, priorities and keys."""
    return not (any(groups[2::GROUP_NUMBERS]) or any(groups[3::GROUP_NUMBERS]) or any(groups[4::GROUP_NUMBERS]))


def _place_in_bulk(machine: Machine, zxid: int, entry: e.Publish, queue: Queue, groups: Sequence[int]) -> bool:
    """Do what `_place` does with groups that say nothing but when they are due, at a fifth of its cost."""
    now_ms = machine.log_time_ms
    sizes, times = groups[::GROUP_NUMBERS], groups[1::GROUP_NUMBERS]
    firsts = [0, *accumulate(sizes)]
    like = Run(zxid, zxid, 0, 1, entry.count, len(entry.payload), now_ms)
    ready = (
        [
            like._replace(first=first, size=size)
            for first, size, due_ms in zip(firsts, sizes, times, strict=False)
            if due_ms <= now_ms
        ]
        if min(times) <= now_ms
        else []
    )
    queue.arrive([like._replace(size=entry.count)])
    if ready:
        queue.make_ready(ready, zxid)
    if len(ready) < len(times):
        order = order_of(times)[len(ready) :]
        times, firsts, sizes = (list(map(column.__getitem__, order)) for column in (times, firsts, sizes))
        rows = packed_columns(like, times, firsts, sizes)
        queue.delayed.add_rows(rows, times, entry.count - messages_in(ready))
    return bool(ready)
