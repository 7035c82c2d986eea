"""The table: which function says what an entry does. New kinds of entries get a line here and a module beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues import entries_of_sessions as s
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.broker.queues.entries_of_moving import Move
from tests.broker.queues.naive import (
    letters,
    moving,
    publishing,
    schedules,
    settings,
    settling,
    topics,
    transactions,
    waiting,
)
from tests.broker.queues.naive.world import World

APPLY: dict[type[e.Entry], Callable[[World, int, Any], Any]] = {
    e.SessionOpen: settling.session_open,
    e.SessionClose: settling.session_close,
    s.Resume: settling.resume,
    s.MarkClosed: settling.mark_closed,
    e.ProducerOpen: publishing.producer_open,
    e.Publish: publishing.publish,
    e.PublishGrouped: publishing.publish,
    e.PublishIdentified: publishing.publish,
    e.ProducerClose: publishing.producer_close,
    e.Settle: settling.settle,
    e.SettleJudged: settling.settle,
    e.Clock: waiting.clock,
    e.Declare: settings.declare,
    e.Delete: settings.delete,
    e.Purge: settings.purge,
    q.Alter: settings.alter,
    q.Cancel: waiting.cancel,
    q.Reschedule: waiting.reschedule,
    q.Policy: settings.put_policy,
    q.Redrive: letters.redrive,
    q.Discard: letters.discard,
    Move: moving.move,
    q.ExpireQueue: settings.expire_queue,
    q.MarkUsed: settings.mark_used,
    t.Subscribe: topics.subscribe,
    t.Unsubscribe: topics.unsubscribe,
    t.Fill: topics.fill,
    t.Schedule: schedules.schedule,
    t.Fire: schedules.fire,
    x.Transaction: transactions.transaction,
    x.Prepare: transactions.prepare,
    x.Resolve: transactions.resolve,
    x.Checked: transactions.checked,
}
"""Everything but grants, which need to know what the machine found in front: `settling.grant`."""


def judge(world: World, zxid: int, entry: e.Entry) -> Any:
    """Let the entry happen; return what it answers, as plain values, or the class of the error."""
    world.time = max(world.time, entry.log_time_ms)
    return APPLY[type(entry)](world, zxid, entry)
