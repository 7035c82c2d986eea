"""Messages that the broker sends again and again, at times that a cron expression names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sluicemq.client.asking import Asking
from sluicemq.client.errors import InvalidRequest
from sluicemq.client.options import Body, Duration, owned_body
from sluicemq.client.producer import attributes_of
from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.settings import check_name

PAGE = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A message that is sent again and again.

    Attributes:
        name: The schedule's name.
        cron: When.
        timezone: Name of the time zone by which *cron* is read.
        destination: Queue or topic.
        catch_up: What becomes of times that were missed: one of them, all, or none is sent.
        next_at: The next time, aware UTC datetime.
        published: How many times it was sent.
        failed: How many times it was refused and not sent.
        problem: Why the last time was refused; "" where it was not.

    """

    name: str
    cron: str
    timezone: str
    destination: str
    catch_up: str
    next_at: datetime
    published: int
    failed: int = 0
    problem: str = ""


class ScheduleCalls(Asking):
    """The calls of a client that are about schedules."""

    async def schedule(
        self,
        name: str,
        cron: str,
        destination: str,
        body: Body,
        *,
        timezone: str = "UTC",
        catch_up: Literal["one", "all", "none"] = "one",
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, Any] | None = None,
        ttl: Duration | None = None,
        priority: int = 0,
    ) -> datetime:
        """Let the broker send a message at all times of a cron expression, until `unschedule`; return the first.

        It is sent once a time, whatever happens to the broker.

        Args:
            name: The schedule's name; another one of that name is replaced.
            cron: Five fields (minute, hour, day of month, month, day of week), or six with seconds in front, or
                "@hourly", "@daily", "@weekly", "@monthly", "@yearly".
            destination: Queue or topic; it must exist.
            body: The message, with its key, subject, headers, ttl and priority as for `send`; at most 64 KiB.
            timezone: Name of the time zone by which *cron* is read, such as Europe/Berlin.
            catch_up: What becomes of times while the broker was down: "one" of them is sent, "all", or "none".
            key: See `send`.
            subject: See `send`.
            headers: See `send`.
            ttl: See `send`.
            priority: See `send`.

        Raises:
            InvalidRequest: No such cron expression or time zone, or another value that is not allowed.
            QueueNotFound: Neither a queue nor a topic is there by the name *destination*.
            BatchTooLarge: The message is too large for a schedule.

        """
        if not cron:
            raise InvalidRequest("a schedule needs a cron expression; unschedule() drops it")
        said = attributes_of(key, subject, headers, None, None, None, ttl, priority)
        batch = encode_batch(
            [owned_body(body)],
            keys=None if said.key is None else [said.key],
            subjects=None if said.subject is None else [said.subject],
            headers=None if said.headers is None else [said.headers],
            ttls=None if said.ttl is None else [said.ttl],
            priorities=None if said.priority is None else [said.priority],
        )
        message = m.Schedule(
            check_name(name, "schedule"), cron, timezone, check_name(destination, "destination"), catch_up
        )
        answer = await self._link().request(message, timeout=self._request_seconds, tail=batch)
        reply = answer.message
        assert isinstance(reply, m.Scheduled)
        assert reply.next_due_ms is not None, "a schedule that was set has a next time"
        return _EPOCH + timedelta(milliseconds=reply.next_due_ms)

    async def unschedule(self, name: str) -> bool:
        """Drop a schedule; return whether there was one."""
        answer = await self._link().request(m.Schedule(check_name(name, "schedule")), timeout=self._request_seconds)
        reply = answer.message
        assert isinstance(reply, m.Scheduled)
        return reply.outcome == "dropped"

    async def schedules(self) -> list[Schedule]:
        """Return all schedules, sorted by name."""
        found: list[Schedule] = []
        while True:
            message = m.ListSchedules(found[-1].name if found else "", PAGE)
            answer = await self._link().request(message, timeout=self._request_seconds)
            reply = answer.message
            assert isinstance(reply, m.Schedules)
            found += map(_schedule_of, reply.schedules)
            if not reply.more or not reply.schedules:
                return found


def _schedule_of(row: dict[str, Any]) -> Schedule:
    return Schedule(
        row["name"],
        row["cron"],
        row["timezone"],
        row["destination"],
        row["catch_up"],
        _EPOCH + timedelta(milliseconds=row["next_due_ms"]),
        row["published"],
        row.get("failed", 0),
        row.get("problem", ""),
    )
