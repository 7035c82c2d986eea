"""PREPARE, RESOLVE and CHECKED: half messages are stored, decided, and asked about.

Room is asked for when a half message is stored, not when it is committed: by then the sender's database has decided,
and a refusal could not be taken back. So a commit is refused only while the queue or topic does not exist. Ids of
messages are judged when it is committed: one that is rolled back must not make another one a duplicate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.identifying import fresh_in
from sluicemq.broker.queues.applying.placing import (
    Arrival,
    Demand,
    into_queue,
    into_topic,
    problem_of_groups,
)
from sluicemq.broker.queues.applying.refusals import limit_reached, queue_not_found
from sluicemq.broker.queues.entries_of_transactions import ID_BYTES
from sluicemq.broker.queues.halves import HALF_BYTES, Half
from sluicemq.broker.queues.outcomes import Outcome
from sluicemq.broker.queues.outcomes_of_transactions import ChecksDue, Prepared, Resolved
from sluicemq.broker.queues.runs import Run
from sluicemq.broker.queues.sequences import Producer
from sluicemq.broker.queues.window import ranges_without
from sluicemq.wire.errors import (
    InvalidRequest,
    QueueNotFound,
    SluiceError,
    TransactionDecided,
    TransactionNotFound,
)
from sluicemq.wire.positions import format_position

if TYPE_CHECKING:
    from sluicemq.broker.queues.entries_of_transactions import Checked, Prepare, Resolve
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.outcomes import Effect
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.broker.queues.window import IdWindow

HALVES_BYTES_MAX = 256 * 1024 * 1024
"""Memory that undecided half messages may take: 250,000 of one message each. Frozen by the log's format, see
`MachineLimits`."""
CHECK_AFTER_MS_MIN = 100
"""Nobody is asked sooner than this. Likewise."""


def prepare(machine: Machine, zxid: int, entry: Prepare) -> Outcome:
    """Store a batch that nobody sees."""
    machine.note_ids(entry.id_base, entry.count)
    verdict = machine.producers.judge(entry.producer, entry.sequence, machine.log_time_ms)
    if isinstance(verdict, SluiceError):
        return Outcome(None, verdict)
    if not isinstance(verdict, Producer):
        return Outcome(Prepared(verdict, entry.count, True, machine.producers.id_base(entry)))
    queue, topic = machine.queue(entry.target), machine.sources.get(entry.target)
    if queue is None and topic is None:
        return Outcome(None, queue_not_found(entry.target))
    problem = problem_of_groups(entry.groups, entry.count, len(entry.routes))
    if problem is not None:
        return Outcome(None, InvalidRequest(problem))
    if len(entry.ids) not in (0, ID_BYTES * entry.count):
        return Outcome(None, InvalidRequest(f"{len(entry.ids)} bytes are no ids of {entry.count} messages"))
    if machine.halves.state_bytes + HALF_BYTES + 8 * len(entry.groups) + len(entry.ids) > HALVES_BYTES_MAX:
        return limit_reached("undecided prepared messages", len(machine.halves))
    part = Run(zxid, zxid, 0, entry.count, entry.count, len(entry.payload), machine.log_time_ms)
    arrival = Arrival(part, entry.groups, entry.routes)
    demand = Demand(machine)
    if queue is not None:
        demand.of_queue(queue, arrival)
    elif topic is not None:
        demand.of_topic(topic, arrival)
    refusal = demand.refusal({})
    if refusal is not None:
        return Outcome(None, refusal)
    machine.producers.record(verdict, zxid, entry.id_base)
    machine.halves.put(_half_of(machine, zxid, entry, verdict, queue or topic))
    return Outcome(Prepared(zxid, entry.count, False, entry.id_base))


def _half_of(machine: Machine, zxid: int, entry: Prepare, producer: Producer, target: Queue | Topic | None) -> Half:
    assert target is not None, "it is a queue or a topic"
    check_after_ms = max(entry.check_after_ms, CHECK_AFTER_MS_MIN)
    return Half(
        zxid,
        target.vhost,
        target.id,
        target.name,
        machine.queue(target.id) is None,
        entry.destination,
        entry.group,
        producer.identity,
        entry.producer,
        entry.sequence,
        entry.count,
        len(entry.payload),
        machine.log_time_ms,
        check_after_ms,
        0,
        machine.log_time_ms + check_after_ms,
        tuple(entry.groups),
        tuple(entry.routes),
        entry.scope,
        bytes(entry.ids),
    )


def target_of(machine: Machine, half: Half) -> tuple[Queue | None, Topic | None]:
    """Return the queue or the topic that a half message is for, if one of that name and sort exists."""
    if half.to_topic:
        return None, machine.sources.get(half.target) or machine.sources.find(half.vhost, half.target_name)
    return machine.queue(half.target) or machine.find_queue(half.vhost, half.target_name), None


def window_of(half: Half, target: Queue | Topic | None) -> IdWindow | None:
    """Return the window of *target* that judges the ids of *half*, if any does."""
    if target is None or target.window is None or not half.ids or target.window.scope != half.scope - 1:
        return None
    return target.window


def resolve(machine: Machine, zxid: int, entry: Resolve) -> Outcome:
    """Decide a half message, once."""
    half = machine.halves.get(entry.half)
    if half is None:
        return judge_decided(machine, entry.half, entry.commit)
    if not entry.commit:
        machine.halves.decide(half, False, machine.log_time_ms)
        return Outcome(Resolved(False, False, 0))
    queue, topic = target_of(machine, half)
    window = window_of(half, queue or topic)
    known = [] if window is None else window.judge(half.ids, half.number, machine.log_time_ms)
    arrival = Arrival(half.run, half.groups, half.routes, ranges_without(known, half.messages) if known else None)
    effects: list[Effect] = []
    if not arrival.runs():
        pass  # all of it was there before
    elif queue is not None:
        effects = into_queue(machine, zxid, queue, arrival)
    elif topic is not None:
        effects = into_topic(machine, zxid, topic, arrival)
    else:
        return Outcome(
            None,
            QueueNotFound(
                f"there is no {'topic' if half.to_topic else 'queue'} {half.target_name!r:.300} any more, so the "
                "message cannot be committed: declare it again, or roll the message back",
                queue=half.target_name,
            ),
        )
    machine.halves.decide(half, True, machine.log_time_ms, known)
    return Outcome(Resolved(True, False, fresh_in(known, half.messages), known), None, tuple(effects))


def judge_decided(machine: Machine, number: int, commit: bool) -> Outcome:
    """Judge a decision about what is no half message, or none any more; changes nothing."""
    decision = machine.halves.decision(number)
    name = format_position(0, number, 0)
    if decision is None:
        return Outcome(
            None,
            TransactionNotFound(
                f"there is no prepared message {name}: it was never prepared, or decided more than a day ago",
                transaction=name,
            ),
        )
    if decision.committed == commit:
        return Outcome(Resolved(decision.committed, True, 0, list(decision.known)))
    was = "committed" if decision.committed else "rolled back"
    return Outcome(
        None,
        TransactionDecided(
            f"the prepared message {name} was {was} before, and that holds",
            transaction=name,
            committed=decision.committed,
            decided_at=decision.decided_ms,
        ),
    )


def checked(machine: Machine, zxid: int, entry: Checked) -> Outcome:
    """Count a question about each half message that is due, or park it."""
    del zxid
    asked: list[int] = []
    parked: list[int] = []
    now_ms = machine.log_time_ms
    for number in entry.halves:
        half = machine.halves.get(number)
        if half is None or half.parked or half.next_check_ms > now_ms:
            continue  # decided meanwhile, or asked about already
        after = half.checked(now_ms)
        machine.halves.put(after)
        (parked if after.parked else asked).append(number)
    return Outcome(ChecksDue(asked, parked))
