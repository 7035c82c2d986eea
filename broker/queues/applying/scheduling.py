"""SCHEDULE and FIRE: schedules come, change and go, and move on from one time to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.refusals import limit_reached
from sluicemq.broker.queues.outcomes import Fired, Outcome, SchedulePut
from sluicemq.broker.queues.schedules import CATCH_UPS, SCHEDULE_BYTES_MAX, SCHEDULES_MAX, ScheduleRow, identity_of
from sluicemq.wire.errors import InvalidRequest
from sluicemq.wire.settings import check_name

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries_of_topics as t
    from sluicemq.broker.queues.machine import Machine


def schedule(machine: Machine, zxid: int, entry: t.Schedule) -> Outcome:
    """Set, replace or drop a schedule. Its times are the leader's business, so they are not judged here."""
    schedules = machine.schedules
    known = schedules.find(entry.vhost, entry.name)
    if not entry.cron:
        if known is not None:
            schedules.drop(entry.vhost, entry.name)
            machine.producers.close(known.number)
        return Outcome(SchedulePut("unchanged" if known is None else "dropped", None))
    try:
        check_name(entry.name, "schedule")
        check_name(entry.destination, "destination")
    except InvalidRequest as error:
        return Outcome(None, error.with_traceback(None))
    if entry.catch_up not in CATCH_UPS or len(entry.payload) > SCHEDULE_BYTES_MAX:
        return Outcome(
            None,
            InvalidRequest(
                f"a schedule has a batch of at most {SCHEDULE_BYTES_MAX} bytes, not {len(entry.payload)}, "
                f"and catches up on {', '.join(CATCH_UPS)}, not {entry.catch_up!r:.40}"
            ),
        )
    if known is None and len(schedules.of(entry.vhost)) >= SCHEDULES_MAX:
        return limit_reached("schedules", SCHEDULES_MAX)
    identity = identity_of(entry.name)
    if known is not None:
        machine.producers.close(known.number)
    refusal = machine.producers.make_room(entry.vhost, "", identity, machine.log_time_ms)
    if refusal is not None:
        return Outcome(None, refusal)
    machine.producers.open(zxid, entry.vhost, "", identity, machine.log_time_ms)
    said = entry.cron, entry.timezone, entry.destination, entry.catch_up
    schedules.put(ScheduleRow(zxid, entry.vhost, entry.name, *said, entry.next_due_ms, 0, 0, "", bytes(entry.payload)))
    return Outcome(SchedulePut("created" if known is None else "changed", entry.next_due_ms))


def fire(machine: Machine, zxid: int, entry: t.Fire) -> Outcome:
    """Let a schedule move on, if it still stands where the leader saw it."""
    del zxid
    row = machine.schedules.get(entry.schedule)
    if row is None or row.next_due_ms != entry.due_ms:
        return Outcome(Fired(False))
    machine.schedules.put(
        row._replace(
            next_due_ms=entry.next_due_ms,
            published=row.published + bool(entry.published),
            failed=row.failed + bool(entry.problem),
            problem=entry.problem,
        )
    )
    return Outcome(Fired(True))
