"""What each kind of entry does to the machine: one function a kind, and the table by which the machine finds it.

A function `(machine, zxid, entry) -> Outcome` judges and changes; it is deterministic and total like `Machine.apply`,
which calls it with the log time already moved on. These modules must not know the log, the leader's plans or frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_cluster as c
from sluicemq.broker.queues import entries_of_moving as v
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues import entries_of_sessions as s
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.broker.queues.applying.brokers import epoch, membership, node_address
from sluicemq.broker.queues.applying.clock import clock
from sluicemq.broker.queues.applying.dead_letters import discard, redrive
from sluicemq.broker.queues.applying.declaring import declare, delete, purge
from sluicemq.broker.queues.applying.delaying import cancel, reschedule
from sluicemq.broker.queues.applying.forgetting import forget
from sluicemq.broker.queues.applying.granting import grant, grant_identified, grant_placed
from sluicemq.broker.queues.applying.halves import checked, prepare, resolve
from sluicemq.broker.queues.applying.moving import move
from sluicemq.broker.queues.applying.operating import alter, policy
from sluicemq.broker.queues.applying.producers import producer_close, producer_open, producer_open_unlimited
from sluicemq.broker.queues.applying.publishing import publish, publish_grouped, publish_identified
from sluicemq.broker.queues.applying.scheduling import fire, schedule
from sluicemq.broker.queues.applying.sessions import mark_closed, resume, session_close, session_open
from sluicemq.broker.queues.applying.settling import settle
from sluicemq.broker.queues.applying.topics import fill, subscribe, unsubscribe
from sluicemq.broker.queues.applying.transactions import transaction
from sluicemq.broker.queues.applying.unused import expire_queue, mark_used
from sluicemq.broker.queues.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.queues.machine import Machine


APPLY: dict[type[e.Entry], Callable[[Machine, int, Any], Outcome]] = {
    e.Epoch: epoch,
    e.SessionOpen: session_open,
    e.SessionClose: session_close,
    e.ProducerOpen: producer_open,
    e.ProducerOpenUnlimited: producer_open_unlimited,
    e.ProducerClose: producer_close,
    e.Publish: publish,
    e.PublishGrouped: publish_grouped,
    e.PublishIdentified: publish_identified,
    e.Grant: grant,
    e.GrantPlaced: grant_placed,
    e.GrantIdentified: grant_identified,
    e.Settle: settle,
    e.SettleJudged: settle,
    e.Clock: clock,
    e.Declare: declare,
    e.Delete: delete,
    e.Purge: purge,
    e.Forget: forget,
    q.Alter: alter,
    q.Cancel: cancel,
    q.Reschedule: reschedule,
    q.Policy: policy,
    q.Redrive: redrive,
    q.Discard: discard,
    v.Move: move,
    q.ExpireQueue: expire_queue,
    q.MarkUsed: mark_used,
    t.Subscribe: subscribe,
    t.Unsubscribe: unsubscribe,
    t.Fill: fill,
    t.Schedule: schedule,
    t.Fire: fire,
    x.Transaction: transaction,
    x.Prepare: prepare,
    x.Resolve: resolve,
    x.Checked: checked,
    s.Resume: resume,
    s.MarkClosed: mark_closed,
    c.Membership: membership,
    c.NodeAddress: node_address,
}
"""Function by class of entry."""
