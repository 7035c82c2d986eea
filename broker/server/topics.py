"""DECLARE_TOPIC, DELETE_TOPIC, SUBSCRIBE, UNSUBSCRIBE and LIST_TOPICS: unpack, ask for permission, hand on, reply.

Must not decide about messages: stages and the machine do.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from sluicemq.broker.pipeline.topics import AT_TIME, Start
from sluicemq.broker.queues.entries_of_topics import START_BEGINNING, START_NOW, START_POSITION
from sluicemq.broker.queues.pauses import paused_names
from sluicemq.broker.server.answering import reply_with
from sluicemq.broker.server.authorization import authorize
from sluicemq.broker.server.cautions import cautions_of
from sluicemq.broker.server.showing import SLICE_SECONDS
from sluicemq.wire import messages as m
from sluicemq.wire.errors import InvalidRequest, LimitReached
from sluicemq.wire.messages_of_features import LIST_PAGE_MAX
from sluicemq.wire.routes import destination_of

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.broker.queues.window import IdWindow
    from sluicemq.broker.server.client_session import ClientSession
    from sluicemq.wire.fields import Message

TOPIC_STATE_BYTES = 2048
"""No state of a topic takes more: so a page is cut to what the client's frames can hold."""
ANSWERING_MAX = 64
"""Most requests of one connection that are answered beside others."""
_STARTS = {0: START_NOW, 1: START_BEGINNING, 2: AT_TIME, 3: START_POSITION}


def declare_topic(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """DECLARE_TOPIC: make or converge; with *check_only* say what would happen."""
    del tail
    assert isinstance(message, m.DeclareTopic)
    authorize(session.identity, "declare", (session.vhost, "topic", message.name))
    if message.check_only:
        outcome, changes = session.road.topics.plan(session.vhost, message.name, message.settings)
        session.reply(correlation, m.Declared(outcome, changes))
        return

    declared = reply_with(session, correlation, lambda value: m.Declared(value.outcome, value.changes))
    session.road.topics.declare(session.vhost, message.name, message.settings, declared)


def delete_topic(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """DELETE_TOPIC."""
    del tail
    assert isinstance(message, m.DeleteTopic)
    authorize(session.identity, "delete", (session.vhost, "topic", message.name))
    answer = reply_with(session, correlation, lambda value: m.Deleted(value.count))
    session.road.topics.delete(session.vhost, message.name, message.if_unused, answer)


def subscribe(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """SUBSCRIBE: a start by time may have to look at the disk, so it is answered beside other requests."""
    del tail
    assert isinstance(message, m.Subscribe)
    topic = session.road.topics.topic_of_pattern(session.vhost, message.pattern)
    authorize(session.identity, "subscribe", (session.vhost, "topic", topic.name))
    if message.name:
        authorize(session.identity, "declare", (session.vhost, "queue", message.name))
    kind = _STARTS.get(message.start)
    if kind is None:
        raise InvalidRequest(f"start {message.start} is unknown; known are {sorted(_STARTS)}", start=message.start)
    start = Start(kind, message.start_at, message.start_index)
    if kind == AT_TIME:
        if session.answering >= ANSWERING_MAX:
            raise LimitReached(
                f"{ANSWERING_MAX} requests of this connection wait for their answers: ask again when some are there",
                limit="session_answering_max",
                value=ANSWERING_MAX,
            )
        session.answer_meanwhile(
            partial(_subscribe_since, session, message, topic, start, correlation), message, correlation
        )
    else:
        _subscribe(session, message, topic, start, correlation)


async def _subscribe_since(
    session: ClientSession, message: m.Subscribe, topic: Topic, start: Start, correlation: int
) -> None:
    _subscribe(session, message, topic, await session.road.topics.place_of(topic, start), correlation)


def _subscribe(session: ClientSession, message: m.Subscribe, topic: Topic, start: Start, correlation: int) -> None:
    def subscribed(value: Any) -> Message:
        cautions = cautions_of(session.road.machine, session.vhost, value.name, message.settings)
        return m.Subscribed(value.outcome, value.name, value.topic, value.changes, cautions)

    answer = reply_with(session, correlation, subscribed)

    def on_outcome(outcome: Outcome) -> None:
        answer(outcome)
        if message.name:
            session.subscribed(message.name)

    session.road.topics.subscribe(
        session.vhost,
        topic,
        message.pattern,
        message.name,
        message.settings,
        0 if message.durable else session.session,
        start,
        on_outcome,
    )
    if message.name:
        session.subscribing.append(message.name)


def unsubscribe(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """UNSUBSCRIBE."""
    del tail
    assert isinstance(message, m.Unsubscribe)
    authorize(session.identity, "delete", (session.vhost, "queue", message.name))
    answer = reply_with(session, correlation, lambda value: m.Unsubscribed(value.count))
    session.road.topics.unsubscribe(session.vhost, message.name, answer)


async def list_topics(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """LIST_TOPICS: one page, sorted by name."""
    del tail
    assert isinstance(message, m.ListTopics)
    authorize(session.identity, "list", (session.vhost, "vhost", session.vhost))
    fitting = session.connection.frame_bytes_max // TOPIC_STATE_BYTES - 1
    count_max = max(1, min(message.count_max, LIST_PAGE_MAX, fitting))
    topics = session.road.machine.sources.listed(session.vhost, message.after, count_max + 1)
    page = []
    started = time.perf_counter()
    for topic in topics[:count_max]:
        page.append(topic_state(session.road, topic))
        if time.perf_counter() - started > SLICE_SECONDS:
            await trio.lowlevel.checkpoint()
            started = time.perf_counter()
    session.reply(correlation, m.Topics(page, len(topics) > count_max))


def topic_state(road: Road, topic: Topic) -> dict[str, Any]:
    """Return the state of one topic as plain values. Names only ever get added."""
    history = topic.history
    retained_ms = None if history is None else history.oldest_published_ms
    return {
        "name": topic.name,
        "settings": dict(topic.settings),
        "subscriptions": len(topic.bindings),
        "published_total": topic.published_total,
        "unrouted_total": topic.unrouted_total,
        "expired_total": topic.expired_total,
        "cancelled_total": topic.cancelled_total,
        "paused": paused_names(topic.paused),
        "delayed": topic.delayed.messages,
        "retained": 0 if history is None else history.messages,
        "retained_bytes": 0 if history is None else history.bytes,
        "retained_age_seconds": 0.0 if retained_ms is None else max(0, road.clock.now_ms() - retained_ms) / 1000,
        **window_state(topic.window),
        "pinned_bytes": road.reclaimer.pinned_bytes(topic.id),
        "created_at": topic.created_ms,
    }


def window_state(window: IdWindow | None) -> dict[str, Any]:
    """Return what the state of a queue or topic says of the ids that it knows duplicates by."""
    return {
        "duplicates_total": 0 if window is None else window.confirmed_total,
        "dedup_ids": 0 if window is None else window.ids,
    }


def settled_state(window: IdWindow | None) -> dict[str, Any]:
    """Return likewise what it says of the ids that were acknowledged."""
    return {
        "settled_before_total": 0 if window is None else window.confirmed_total,
        "settled_ids": 0 if window is None else window.ids,
    }


def subscription_state(machine: Machine, queue_id: int) -> dict[str, Any]:
    """Return what the state of a queue says beside, where it is a subscription; nothing where it is none."""
    binding = machine.sources.binding_of(queue_id)
    topic = machine.sources.topic_of(queue_id)
    if binding is None or topic is None:
        return {}
    filling = topic.fillings.get(queue_id)
    return {
        "topic": topic.name,
        "topic_paused": paused_names(topic.paused),
        "pattern": destination_of(topic.name, binding.pattern),
        "temporary": binding.session != 0,
        "catching_up": filling is not None,
        "held": 0 if filling is None else filling.held.messages,
    }
