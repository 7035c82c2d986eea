"""Topics and their subscriptions: they come, converge and go, and subscriptions catch up with what is retained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues.applying.dropping import drop_queue
from sluicemq.broker.queues.applying.fitting import fitted
from sluicemq.broker.queues.applying.refusals import limit_reached, queue_not_found, session_not_found
from sluicemq.broker.queues.applying.routing import arrive
from sluicemq.broker.queues.applying.unused import used
from sluicemq.broker.queues.history import Place
from sluicemq.broker.queues.outcomes import Declared, Deleted, Effect, Filled, FillsUp, Outcome, Ready, Subscribed
from sluicemq.broker.queues.queue import Queue
from sluicemq.broker.queues.routing.filling import Filling
from sluicemq.broker.queues.routing.topic import Binding, Topic
from sluicemq.broker.queues.runs import Run, joined, messages_in
from sluicemq.wire.errors import (
    Conflict,
    InvalidRequest,
    NameConflict,
    PositionExpired,
    QueueNotFound,
    RetentionOff,
    SluiceError,
    TopicInUse,
    TopicNotFound,
    UnknownOption,
)
from sluicemq.wire.routes import check_pattern, destination_of
from sluicemq.wire.settings import (
    check_name,
    check_own_dead_letter,
    check_queue_settings,
    check_topic_settings,
    compare_settings,
)

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries as e
    from sluicemq.broker.queues.history import History
    from sluicemq.broker.queues.machine import Machine


def topic_not_found(name: str) -> TopicNotFound:
    """Return the refusal for a topic that does not exist."""
    return TopicNotFound(f"there is no topic {name!r:.300}; declare it first", topic=name)


# --- topics ---------------------------------------------------------------------------------------------------------


def declare_topic(machine: Machine, zxid: int, entry: e.Declare) -> Outcome:
    """Make a topic, or let the existing one converge to the settings."""
    try:
        check_name(entry.name, "topic")
        settings = check_topic_settings(entry.settings)
    except UnknownOption:
        raise  # a newer version wrote this, and judged it otherwise
    except InvalidRequest as error:
        return Outcome(None, error.with_traceback(None))
    topic = machine.sources.find(entry.vhost, entry.name)
    plan = compare_settings(None if topic is None else topic.settings, settings)
    effects: list[Effect] = []
    if topic is None:
        refusal = machine.sources.refuse_topic(entry.name, machine.first_queue_from(entry.vhost, entry.name))
        if refusal is not None:
            return Outcome(None, refusal)
        if len(machine.sources) >= machine.limits.topics_max:
            return limit_reached("topics", machine.limits.topics_max)
        topic = Topic(zxid, entry.vhost, entry.name, {}, machine.log_time_ms, machine.pool)
        machine.sources.add(topic)
    if settings:
        topic.change_settings(settings, zxid, machine.log_time_ms)
        machine.due_changed(topic)
        effects += map(FillsUp, topic.fillings)
    return Outcome(Declared(topic.id, plan.outcome, plan.changes), None, tuple(effects))


def delete_topic(machine: Machine, zxid: int, entry: e.Delete) -> Outcome:
    """Drop a topic with what it delays and retains; its subscriptions go with it, unless that was not wanted."""
    del zxid
    topic = machine.sources.find(entry.vhost, entry.name)
    if topic is None:
        return Outcome(None, topic_not_found(entry.name))
    if entry.if_empty and topic.bindings:
        return Outcome(
            None,
            TopicInUse(
                f"topic {topic.name!r:.300} has {len(topic.bindings)} subscription{'s' * (len(topic.bindings) > 1)}: "
                "unsubscribe them first, or delete it with force, and they go with all their messages",
                topic=topic.name,
                subscriptions=len(topic.bindings),
            ),
        )
    count = topic.delayed.messages
    effects: list[Effect] = []
    for queue_id in sorted(topic.bindings):
        queue = machine.existing_queue(queue_id)
        count += queue.messages + queue.dead.messages
        effects += drop_queue(machine, queue)
    topic.drop_all()
    machine.due_changed(topic)
    machine.sources.remove(topic)
    return Outcome(Deleted(count), None, tuple(effects))


# --- subscriptions --------------------------------------------------------------------------------------------------


def subscribe(machine: Machine, zxid: int, entry: t.Subscribe) -> Outcome:
    """Make a queue that is bound to a topic, or let the existing one converge to pattern and settings."""
    name = entry.name or f"temporary-{zxid:x}"
    try:
        # Judged as a whole, though only what follows the topic is kept: the pattern of all of it is ".#" behind.
        pattern = check_pattern(destination_of(entry.topic, entry.pattern))[len(entry.topic) + 1 :]
        check_name(name, "subscription")
        settings = check_queue_settings(entry.settings)
        check_own_dead_letter(name, settings)
    except UnknownOption:
        raise  # a newer version wrote this, and judged it otherwise
    except InvalidRequest as error:
        return Outcome(None, error.with_traceback(None))
    if entry.session and entry.session not in machine.sessions:
        return Outcome(None, session_not_found(entry.session))
    topic = machine.sources.find(entry.vhost, entry.topic)
    if topic is None:
        return Outcome(None, topic_not_found(entry.topic))
    queue = machine.find_queue(entry.vhost, name)
    if queue is not None:
        return _resubscribe(machine, zxid, entry, topic, queue, pattern)
    refusal = machine.sources.refuse_queue(entry.vhost, name) or _refuse_start(topic, entry)
    if refusal is not None:
        return Outcome(None, refusal)
    if machine.queues_count >= machine.limits.queues_max:
        return limit_reached("queues", machine.limits.queues_max)
    queue = Queue(zxid, entry.vhost, name, {}, machine.log_time_ms, machine.pool)
    machine.add_queue(queue)
    if settings:
        queue.declared |= settings.keys()
        queue.change_settings(settings, zxid, machine.log_time_ms)
        machine.due_changed(queue)
    keyed = queue.settings["ordering"] == "key"
    machine.sources.bind(topic, Binding(topic.id, queue.id, pattern, entry.session), keyed)
    effects: tuple[Effect, ...] = ()
    if entry.start != t.START_NOW:
        assert topic.history is not None, "a start in the past was judged"
        place = _start_of(topic.history, entry)
        topic.begin_filling(Filling(queue.id, place, zxid, machine.pool))
        machine.due_changed(topic)
        effects = (FillsUp(queue.id),)
    changes = compare_settings(None, settings).changes
    return Outcome(Subscribed(name, topic.name, "created", changes), None, (*effects, *used(machine, queue)))


def _resubscribe(machine: Machine, zxid: int, entry: t.Subscribe, topic: Topic, queue: Queue, pattern: str) -> Outcome:
    """Bring a subscription that exists to pattern and settings; where it once began does not matter any more."""
    binding = topic.bindings.get(queue.id)
    if binding is None or binding.session != entry.session:
        what = "a queue, and no subscription of this topic"
        if binding is not None:
            what = "a subscription that stays" if entry.session else "a temporary subscription"
            what += ", of another session" if binding.session and entry.session else ""
        return Outcome(
            None,
            NameConflict(
                f"{queue.name!r:.300} is the name of {what}: choose another name",
                name=queue.name,
                taken_by=queue.name,
            ),
        )
    if pattern != binding.pattern and queue.id in topic.fillings:
        return Outcome(
            None,
            Conflict(
                f"subscription {queue.name!r:.300} still catches up with what topic {topic.name!r:.300} retains: its "
                "pattern can be changed when it is through",
                queue=queue.name,
            ),
        )
    settings = check_queue_settings(entry.settings)
    messages = queue.messages + machine.sources.held_for(queue.id)
    plan = compare_settings(queue.settings, settings, name=queue.name, messages=messages)
    if plan.refusal is not None:
        return Outcome(None, plan.refusal)
    changes = dict(plan.changes)
    if settings:
        queue.declared |= settings.keys()
        queue.change_settings(settings, zxid, machine.log_time_ms)
        machine.due_changed(queue)
    if pattern != binding.pattern:
        changes["pattern"] = [
            destination_of(topic.name, binding.pattern),
            destination_of(topic.name, pattern),
        ]
    machine.sources.bind(topic, binding._replace(pattern=pattern), queue.settings["ordering"] == "key")
    outcome = "changed" if changes else "unchanged"
    # Other settings may let messages go that had to wait: those of a key of which several may be out now.
    effects: tuple[Effect, ...] = (Ready(queue.id),) if plan.changes else ()
    return Outcome(Subscribed(queue.name, topic.name, outcome, changes), None, (*effects, *used(machine, queue)))


def _refuse_start(topic: Topic, entry: t.Subscribe) -> SluiceError | None:
    """Return why the subscription cannot begin where it wants to, if it cannot."""
    if entry.start == t.START_NOW:
        return None
    if entry.start not in (t.START_BEGINNING, t.START_POSITION):
        return InvalidRequest(f"start {entry.start} of a subscription is unknown")
    if topic.history is None:
        return RetentionOff(
            f"topic {topic.name!r:.300} retains no messages, so a subscription can only begin now: declare it with the "
            "setting retention, and what is published from then on can be caught up with",
            queue=topic.name,
            setting="retention",
        )
    if entry.start == t.START_POSITION and topic.history.has_lost(Place(entry.start_zxid, entry.start_index)):
        return PositionExpired(
            f"topic {topic.name!r:.300} does not retain everything from that position on any more: begin at the "
            "beginning of what it retains, and know that something is missing",
            queue=topic.name,
            oldest_published_at=topic.history.oldest_published_ms,
        )
    return None


def _start_of(history: History, entry: t.Subscribe) -> Place:
    if entry.start == t.START_BEGINNING:
        return history.lost
    return Place(entry.start_zxid, entry.start_index)


def unsubscribe(machine: Machine, zxid: int, entry: t.Unsubscribe) -> Outcome:
    """Drop a subscription with everything in it."""
    del zxid
    queue = machine.find_queue(entry.vhost, entry.name)
    if queue is None or machine.sources.topic_of(queue.id) is None:
        what = "no subscription" if queue is None else "a queue and no subscription, so delete it as such"
        return Outcome(
            None, QueueNotFound(f"{entry.name!r:.300} is the name of {what}", queue=entry.name, vhost=entry.vhost)
        )
    filling = machine.sources.filling_of(queue.id)
    count = queue.messages + queue.dead.messages + (0 if filling is None else filling.held.messages)
    return Outcome(Deleted(count), None, tuple(drop_queue(machine, queue)))


def fill(machine: Machine, zxid: int, entry: t.Fill) -> Outcome:
    """Give a subscription a piece of what its topic retains, and what was held back once nothing is missing."""
    queue = machine.queue(entry.subscription)
    topic = machine.sources.topic_of(entry.subscription)
    filling = machine.sources.filling_of(entry.subscription)
    if queue is None or topic is None or filling is None:
        return Outcome(None, queue_not_found(entry.subscription))
    if filling.next != (entry.from_zxid, entry.from_index) and not filling.done:
        return Outcome(None, Conflict("this piece of what the topic retains was filled before"))
    runs: list[Run] = []
    if not filling.done:
        numbers = zip(*(iter(entry.runs),) * t.FILL_NUMBERS, strict=True)
        for run_zxid, first, size, count, bytes_, published_ms, expires_ms, priority, key in numbers:
            run = Run(run_zxid, zxid, first, size, count, bytes_, published_ms, 0, 0, key, expires_ms, 0, priority)
            runs.append(run)
        runs = fitted(queue, joined(runs), machine.log_time_ms)
        filling.next = Place(entry.next_zxid, entry.next_index)
        filling.done = entry.done
        topic.hold_history()
        machine.due_changed(topic)
    if filling.done:
        runs = [*runs, *filling.take_held()]
    effects = arrive(machine, zxid, queue, runs) if runs else []
    if filling.done and not filling.held.messages:
        topic.end_filling(queue.id)
    else:
        effects.append(FillsUp(queue.id))
    return Outcome(Filled(messages_in(runs)), None, tuple(effects))
