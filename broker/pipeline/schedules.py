"""Schedules, on the leader: when the next time of each comes, its batch is published and the schedule moves on.

What a schedule is and why none is published twice stands in `queues.schedules`. One time is on the road at a time. Must
not know sockets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from sluicemq.broker.pipeline.cron import next_due_ms
from sluicemq.broker.queues.entries_of_topics import Fire, Schedule
from sluicemq.broker.queues.schedules import SCHEDULE_BYTES_MAX
from sluicemq.wire.batch import Batch
from sluicemq.wire.errors import BatchTooLarge, ProducerNotFound, SluiceError

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.queues.schedules import ScheduleRow

logger = logging.getLogger("sluicemq.schedules")

AGAIN_SECONDS = 1.0
"""So long after a refusal that will not last the same time is tried again."""
PROBLEM_CHARACTERS_MAX = 300
"""So much of a refusal is kept beside the schedule."""
MISSED_MS = 60_000
"""A time that is so old was missed, for a schedule that catches up on none."""


class ScheduleStage:
    """Fires the schedules of this leader."""

    def __init__(self, road: Road) -> None:
        self._road = road
        self._under_way = False
        self._not_before = 0.0
        self._timer = road.timer(self._next, self._fire)

    async def run(self) -> None:
        """Fire what is due until cancelled."""
        await self._timer.run()

    def put(
        self,
        vhost: str,
        name: str,
        said: tuple[str, str, str, str],
        data: memoryview,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        """Set or replace a schedule; *said* is cron, time zone, destination and what to catch up on. No cron: drop it.

        Raises:
            InvalidRequest: The cron expression, the time zone or the batch is wrong.
            QueueNotFound: There is neither a queue nor a topic at the destination.
            BatchTooLarge: More than a schedule may keep.
            ResourceLow: The reserve of the disk is in use.

        """
        road = self._road
        cron, timezone, destination, catch_up = said
        now_ms = road.clock.now_ms()
        payload = bytes(data)
        count = body_bytes = due_ms = 0
        if cron:
            road.space.refuse_growth("setting a schedule")
            due_ms = next_due_ms(cron, timezone, now_ms)
            road.produce.find_destination(vhost, destination)
            if len(payload) > SCHEDULE_BYTES_MAX:
                raise BatchTooLarge(
                    f"a schedule with {len(payload)} bytes; allowed are {SCHEDULE_BYTES_MAX}",
                    batch_bytes=len(payload),
                    batch_bytes_max=SCHEDULE_BYTES_MAX,
                )
            batch = Batch(payload)
            batch.check(message_bytes_max=SCHEDULE_BYTES_MAX)
            count, body_bytes = batch.count, batch.body_bytes
        said_too = cron, timezone, destination, count, body_bytes, due_ms, catch_up
        entry = Schedule(now_ms, vhost, name, *said_too, payload=payload)

        def on_applied(outcome: Outcome) -> None:
            self._look()
            on_outcome(outcome)

        road.propose(entry, payload, on_applied=on_applied)

    def _look(self) -> None:
        self._timer.changed(self._next())

    def _next(self) -> float | None:
        first = None if self._under_way else self._road.machine.schedules.first()
        if first is None:
            return None
        due = trio.current_time() + max(0.0, (first.next_due_ms - self._road.clock.now_ms()) / 1000)
        return max(due, self._not_before)

    def _fire(self) -> None:
        row = self._road.machine.schedules.first()
        now_ms = self._road.clock.now_ms()
        if row is None or row.next_due_ms > now_ms:
            return
        self._under_way = True
        if row.catch_up == "none" and row.next_due_ms + MISSED_MS < now_ms:
            self._move_on(row)
            return
        try:
            self._road.produce.publish(
                row.vhost,
                row.identity,
                row.destination,
                row.number,
                row.published + 1,
                memoryview(row.payload),
                lambda outcome: self._published(row, outcome.error),
            )
        except SluiceError as error:
            self._published(row, error)

    def _published(self, row: ScheduleRow, error: SluiceError | None) -> None:
        if isinstance(error, ProducerNotFound):
            self._begin_anew(row)
        elif error is not None and error.retryable:
            self._not_before = trio.current_time() + AGAIN_SECONDS
            self._under_way = False
            self._look()
        else:
            if error is not None:
                logger.warning("schedule %s of %s missed a time: %s", row.name, row.vhost, error)
            problem = "" if error is None else str(error)[:PROBLEM_CHARACTERS_MAX] or type(error).__name__
            self._move_on(row, published=error is None, problem=problem)

    def _move_on(self, row: ScheduleRow, *, published: bool = False, problem: str = "") -> None:
        road = self._road
        now_ms = road.clock.now_ms()
        after_ms = row.next_due_ms if row.catch_up == "all" else max(row.next_due_ms, now_ms)
        try:
            due_ms = next_due_ms(row.cron, row.timezone, after_ms)
        except SluiceError as error:
            # The time zones of this machine changed, or there is no further time.
            logger.warning("schedule %s of %s ends: %s", row.name, row.vhost, error)
            road.propose(_dropped(now_ms, row), on_applied=self._moved)
            return
        entry = Fire(now_ms, row.number, row.next_due_ms, due_ms, int(published), problem)
        road.propose(entry, on_applied=self._moved)

    def _begin_anew(self, row: ScheduleRow) -> None:
        """Set the schedule again where its producer was forgotten: nobody's is kept for ever without a message."""
        batch = Batch(row.payload)
        said = row.cron, row.timezone, row.destination, batch.count, batch.body_bytes, row.next_due_ms, row.catch_up
        entry = Schedule(self._road.clock.now_ms(), row.vhost, row.name, *said, payload=row.payload)
        self._road.propose(entry, row.payload, on_applied=self._moved)

    def _moved(self, outcome: Any) -> None:
        if outcome.error is not None:
            self._not_before = trio.current_time() + AGAIN_SECONDS
        self._under_way = False
        self._look()


def _dropped(now_ms: int, row: ScheduleRow) -> Schedule:
    return Schedule(now_ms, row.vhost, row.name, "", "", "", 0, 0, 0, row.catch_up)
