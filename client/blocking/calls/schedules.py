"""Calls as ScheduleCalls has them.

Made by a test from `sluicemq.client.schedules`, see `tests/client/blocking/facade.py`; do not edit.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from sluicemq.client.blocking.calls._base import Base
from sluicemq.client.options import Body, Duration
from sluicemq.client.schedules import Schedule


class ScheduleCalls(Base):
    """These calls of the client."""

    def schedule(
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
        return self._io.call(
            self._inner.schedule,
            name,
            cron,
            destination,
            body,
            timezone=timezone,
            catch_up=catch_up,
            key=key,
            subject=subject,
            headers=headers,
            ttl=ttl,
            priority=priority,
        )

    def unschedule(self, name: str) -> bool:
        """Drop a schedule; return whether there was one."""
        return self._io.call(self._inner.unschedule, name)

    def schedules(self) -> list[Schedule]:
        """Return all schedules, sorted by name."""
        return self._io.call(self._inner.schedules)
