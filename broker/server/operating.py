"""Requests of those who look after queues: delayed messages, pauses, policies and schedules.

As in `requests`: unpack, ask for permission, hand on, reply. Must not decide about messages: stages and the machine do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sluicemq.broker.pipeline import delays
from sluicemq.broker.pipeline.grouping import key_numbers
from sluicemq.broker.pipeline.shaping import refuse_unknown_zone
from sluicemq.broker.queues.entries_of_queues import Alter, Policy
from sluicemq.broker.queues.schedules import CATCH_UPS
from sluicemq.broker.server.answering import reply_with
from sluicemq.broker.server.authorization import authorize
from sluicemq.broker.server.cautions import cautions_of_policy
from sluicemq.wire import messages as m
from sluicemq.wire.errors import InvalidRequest
from sluicemq.wire.messages_of_features import LIST_PAGE_MAX
from sluicemq.wire.routes import check_pattern
from sluicemq.wire.settings import check_name, check_queue_settings

if TYPE_CHECKING:
    from sluicemq.broker.queues.outcomes import PolicyPut
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.broker.server.client_session import ClientSession, Handler
    from sluicemq.wire.fields import Message

POLICIES_PAGE_MAX = 100
"""Most policies or schedules in one answer."""
_OF_QUEUES = "queue"


def _queue(session: ClientSession, action: str, name: str) -> Queue:
    """Return the queue, if the session may do that with it."""
    authorize(session.identity, action, (session.vhost, _OF_QUEUES, name))
    return session.road.produce.find_queue(session.vhost, name)


# --- delayed messages -----------------------------------------------------------------------------------------


def _delaying(session: ClientSession, action: str, name: str) -> Queue | Topic:
    """Return the queue or topic, likewise."""
    topic = session.road.machine.sources.find(session.vhost, name)
    if topic is None:
        return _queue(session, action, name)
    authorize(session.identity, action, (session.vhost, "topic", name))
    return topic


async def list_delayed(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """LIST_DELAYED: one page, in due order."""
    del tail
    assert isinstance(message, m.ListDelayed)
    queue = _delaying(session, "peek", message.name)
    count_max = max(1, min(message.count_max, LIST_PAGE_MAX))
    runs = await delays.look(session.road, queue, message.from_ms, message.to_ms, message.skip, count_max + 1)
    rows: list[int] = []
    left = count_max
    for run in runs:
        size = min(run.size, left)
        if size:
            place = run.ready, run.zxid, run.first, size
            rows += (*place, run.published_ms, run.deliveries, run.attempts, 0)
            left -= size
    session.reply(correlation, m.Delayed(rows, sum(run.size for run in runs) > count_max))


async def cancel_delayed(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """CANCEL_DELAYED: answered when it is committed."""
    del tail
    assert isinstance(message, m.CancelDelayed)
    queue = _delaying(session, "purge", message.name)
    session.reply(correlation, m.Cancelled(await delays.cancel(session.road, queue, message.runs)))


async def reschedule(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """RESCHEDULE: likewise."""
    del tail
    assert isinstance(message, m.Reschedule)
    queue = _delaying(session, "publish", message.name)
    changed = await delays.reschedule(session.road, queue, message.runs, message.due_ms)
    session.reply(correlation, m.Rescheduled(changed))


# --- pauses and policies --------------------------------------------------------------------------------------


def alter_queue(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """ALTER_QUEUE: pause, resume, let parked keys go on."""
    del tail
    assert isinstance(message, m.AlterQueue)
    authorize(session.identity, "alter", (session.vhost, message.object_kind, message.name))
    if message.object_kind == "topic":
        session.road.topics.find_topic(session.vhost, message.name)
    else:
        session.road.produce.find_queue(session.vhost, message.name)
    changes: dict[str, Any] = {}
    if message.pause_publish is not None:
        changes["pause_publish"] = message.pause_publish
    if message.pause_deliver is not None:
        changes["pause_deliver"] = message.pause_deliver
    if message.unpark:
        changes["unpark"] = key_numbers(list(message.unpark))
    entry = Alter(session.road.clock.now_ms(), session.vhost, message.object_kind, message.name, changes)
    session.road.propose(entry, on_applied=reply_with(session, correlation, lambda value: m.Altered(value.changes)))


def set_policy(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """POLICY: answered when it is committed; queues follow a little later."""
    del tail
    assert isinstance(message, m.Policy)
    authorize(session.identity, "policy", (session.vhost, "vhost", session.vhost))
    check_name(message.name, "policy")
    check_pattern(message.pattern)
    settings = check_queue_settings(message.settings)
    refuse_unknown_zone(settings)
    if settings:
        session.road.space.refuse_growth("setting a policy")
    now_ms = session.road.clock.now_ms()
    entry = Policy(now_ms, session.vhost, message.name, message.pattern, message.order, settings)

    def shape(value: PolicyPut) -> m.PolicySet:
        machine = session.road.machine
        cautions = cautions_of_policy(machine, session.vhost, message.pattern, settings)
        return m.PolicySet(value.outcome, warnings=cautions)

    session.road.propose(entry, on_applied=reply_with(session, correlation, shape))


def list_policies(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """LIST_POLICIES: one page, sorted by name."""
    del tail
    assert isinstance(message, m.ListPolicies)
    authorize(session.identity, "list", (session.vhost, "vhost", session.vhost))
    rows = [row for row in session.road.machine.policies.of(session.vhost) if row.name > message.after]
    count_max = max(1, min(message.count_max, POLICIES_PAGE_MAX))
    page = [
        {"name": row.name, "pattern": row.pattern, "order": row.order, "settings": row.settings}
        for row in rows[:count_max]
    ]
    session.reply(correlation, m.Policies(page, len(rows) > count_max))


# --- schedules ------------------------------------------------------------------------------------------------


def schedule(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """SCHEDULE: answered when it is committed."""
    assert isinstance(message, m.Schedule)
    authorize(session.identity, "schedule", (session.vhost, "vhost", session.vhost))
    check_name(message.name, "schedule")
    if message.cron:
        check_name(message.destination, "destination")
        authorize(session.identity, "publish", (session.vhost, _OF_QUEUES, message.destination))
        if message.catch_up not in CATCH_UPS:
            raise InvalidRequest(f"catch_up is {message.catch_up!r:.40}; it must be {', '.join(CATCH_UPS)}")
    said = message.cron, message.timezone, message.destination, message.catch_up
    answer = reply_with(session, correlation, lambda value: m.Scheduled(value.outcome, value.next_due_ms))
    session.road.schedules.put(session.vhost, message.name, said, tail, answer)


def list_schedules(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """LIST_SCHEDULES: one page, sorted by name."""
    del tail
    assert isinstance(message, m.ListSchedules)
    authorize(session.identity, "list", (session.vhost, "vhost", session.vhost))
    rows = [row for row in session.road.machine.schedules.of(session.vhost) if row.name > message.after]
    count_max = max(1, min(message.count_max, POLICIES_PAGE_MAX))
    page = [
        {
            "name": row.name,
            "cron": row.cron,
            "timezone": row.timezone,
            "destination": row.destination,
            "catch_up": row.catch_up,
            "next_due_ms": row.next_due_ms,
            "published": row.published,
            "failed": row.failed,
            "problem": row.problem,
        }
        for row in rows[:count_max]
    ]
    session.reply(correlation, m.Schedules(page, len(rows) > count_max))


HANDLERS: dict[type[Message], Handler] = {
    m.ListDelayed: list_delayed,
    m.CancelDelayed: cancel_delayed,
    m.Reschedule: reschedule,
    m.AlterQueue: alter_queue,
    m.Policy: set_policy,
    m.ListPolicies: list_policies,
    m.Schedule: schedule,
    m.ListSchedules: list_schedules,
}
"""Handler by message; `requests` takes them over."""
