"""What is published to a topic goes to its subscriptions: at once, or when its time has come.

Each distinct route is matched once, and each subscription gets rows, never messages: neighbours that it gets both are
one row, and subscriptions that get the same share the work. The messages themselves lie in the log once.
"""

from __future__ import annotations

from itertools import chain, groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.applying.fitting import fitted
from sluicemq.broker.queues.applying.identifying import look_for_known, pieces_of, record_ids, retain_runs
from sluicemq.broker.queues.applying.limiting import make_room, refuse_overflow
from sluicemq.broker.queues.outcomes import Effect, Outcome, Published, Ready, Retained
from sluicemq.broker.queues.pauses import refuse_paused
from sluicemq.broker.queues.runs import Run, bytes_in, joined, messages_in
from sluicemq.broker.queues.windows import expired_items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.broker.queues.sequences import Producer
    from sluicemq.wire.errors import QueueFull, SluiceError

_due_of = itemgetter(1)  # of a run that waits: its due time stands where its place will be


def publish_to_topic(machine: Machine, zxid: int, entry: e.Publish, topic: Topic, producer: Producer) -> Outcome:
    """Hand a batch of *producer*, judged before, to those that match; what is delayed waits in the topic."""
    groups: Sequence[int] = (entry.count, 0, 0, 0, 0, 0)
    texts: list[str] = []
    if isinstance(entry, e.PublishGrouped):
        groups, texts = entry.groups or groups, entry.routes
    now_ms = machine.log_time_ms
    known = look_for_known(machine, zxid, entry, topic)
    rows = pieces_of(groups, known)
    delayed = [texts[route - 1] for _, _, due_ms, _, _, _, route in rows if route and due_ms > now_ms]
    refusal: SluiceError | None = refuse_paused(topic) if topic.paused and rows else None
    if refusal is None and delayed:
        refusal = topic.routes.room_for(delayed)
    if refusal is not None:
        return Outcome(None, refusal)
    topic_ttl_ms = round(float(topic.settings["ttl"] or 0) * 1000)
    batch_bytes = len(entry.payload)
    ready: list[Run] = []
    targets: list[tuple[int, ...]] = []
    waiting: list[tuple[Run, str]] = []
    for first, size, due_ms, own_ttl_ms, priority, key, route in rows:
        text = texts[route - 1] if route else ""
        ttl_ms = min(own_ttl_ms or topic_ttl_ms, topic_ttl_ms or own_ttl_ms)
        waits = due_ms > now_ms
        expires_ms = (due_ms if waits else now_ms) + ttl_ms if ttl_ms else 0
        run = Run(zxid, zxid, first, size, entry.count, batch_bytes, now_ms, 0, 0, key, expires_ms, 0, priority)
        if waits:
            waiting.append((run._replace(ready=due_ms), text))
        else:
            ready.append(run)
            targets.append(topic.match(text))
    full = _refuse_overflow(machine, topic, ready, targets)
    if full is not None:
        return Outcome(None, full)
    record_ids(machine, zxid, entry, topic)
    machine.producers.record(producer, zxid, entry.id_base)
    topic.published_total += sum(size for _, size, *_ in rows)
    effects = deliver(machine, zxid, topic, ready, targets)
    if waiting:
        held = [run._replace(note=topic.routes.hold(text, run.size)) for run, text in waiting]
        held.sort(key=_due_of)
        for due_ms, runs in groupby(held, key=_due_of):
            topic.delayed.add(due_ms, list(runs))
    if topic.history is not None and ready:
        retain_runs(topic.history, zxid, ready, now_ms)
        effects.append(Retained(topic.id))
    machine.due_changed(topic)
    return Outcome(Published(zxid, entry.count, False, known, id_base=entry.id_base), None, tuple(effects))


def deliver(machine: Machine, zxid: int, topic: Topic, runs: list[Run], targets: list[tuple[int, ...]]) -> list[Effect]:
    """Give each of *runs*, in this order, to the queues at its place in *targets*, because of the entry *zxid*."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, queues in enumerate(targets):
        alike.setdefault(queues, []).append(number)
    unrouted = alike.pop((), None)
    if unrouted is not None:
        topic.unrouted_total += sum(runs[number].size for number in unrouted)
    parts: dict[int, list[list[int]]] = {}
    for queues, numbers in alike.items():
        for queue_id in queues:
            parts.setdefault(queue_id, []).append(numbers)
    shared = {id(numbers): joined([runs[number] for number in numbers]) for numbers in alike.values()}
    effects: list[Effect] = []
    for queue_id, lists in parts.items():
        if len(lists) == 1:
            own = shared[id(lists[0])]
        else:
            own = joined([runs[number] for number in sorted(chain.from_iterable(lists))])
        queue = machine.existing_queue(queue_id)
        own = fitted(queue, own, machine.log_time_ms)
        filling = topic.fillings.get(queue_id)
        if filling is not None:
            filling.held.extend(own)
        else:
            effects += arrive(machine, zxid, queue, own)
    return effects


def _refuse_overflow(
    machine: Machine, topic: Topic, runs: list[Run], targets: list[tuple[int, ...]]
) -> QueueFull | None:
    """Return why a batch is refused as a whole: a subscription has no room for its part, and refuses what is beyond.

    Those that catch up, or get what was delayed, take it though it is beyond: nobody is there to hear of a refusal.
    """
    limited = [number for number in set().union(*targets) if machine.existing_queue(number).is_limited]
    for number in sorted(limited):
        part = [run for run, queues in zip(runs, targets, strict=True) if number in queues]
        refusal = refuse_overflow(machine.existing_queue(number), messages_in(part), bytes_in(part))
        if refusal is not None and number not in topic.fillings:
            return refusal
    return None


def arrive(machine: Machine, zxid: int, queue: Queue, runs: list[Run]) -> list[Effect]:
    """Put *runs* behind the tails of their lanes in a subscription, because of the entry *zxid*; others make room."""
    effects: list[Effect] = [Ready(queue.id)]
    first = runs[0]
    if len(runs) == 1 and first.whole and first.zxid == zxid and first[7:] == _PLAIN and queue.history is None:
        queue.publish(zxid, first.size, first.batch_bytes, first.published_ms)
    else:
        queue.arrive_from_elsewhere(runs)
        queue.make_ready(runs, zxid)
    if queue.is_limited:
        effects += make_room(machine, zxid, queue, messages_in(runs))
    if queue.lanes.has_expiry:
        machine.due_changed(queue)
    return effects


_PLAIN = (0,) * 6
"""What a run says behind its batch's time where its messages say nothing about delivery."""


def release(machine: Machine, zxid: int, topic: Topic, left: int) -> tuple[int, int, list[Effect]]:
    """Let CLOCK have its turn with a topic: what was retained long enough goes, what is due goes to those that match.

    Returns:
        How many items that took, at most *left*; how many messages became ready; and what the leader has to do.

    """
    taken = topic.history.expire(machine.log_time_ms, left) if topic.history is not None else 0
    taken += expired_items(topic.window, machine.log_time_ms)
    runs = topic.delayed.take_due(machine.turn_until_ms(topic.id), max(left - taken, 0))
    taken += len(runs)
    ready: list[Run] = []
    targets: list[tuple[int, ...]] = []
    for run in runs:
        route = topic.routes.text(run.note)
        topic.routes.release(run.note, run.size)
        if 0 < run.expires_ms <= machine.log_time_ms:
            topic.expired_total += run.size
        else:
            ready.append(run._replace(ready=zxid, note=0))
            targets.append(topic.match(route))
    effects = deliver(machine, zxid, topic, ready, targets)
    if topic.history is not None and ready:
        topic.history.append_released(ready, zxid, machine.log_time_ms)
        effects.append(Retained(topic.id))
    machine.due_changed(topic)
    return taken, messages_in(ready), effects
