"""Schedules: batches that are published again and again, at times that a leader works out.

Each schedule has a producer of its own, named by the entry that set it. The batch of its n-th time travels as an
ordinary PUBLISH with the sequence n, and a FIRE entry behind it moves the schedule on; a leader that is lost between
the two publishes again with the same sequence, which is a duplicate. This module must not know cron, time zones or
clocks: when the next time is, it is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEDULES_MAX = 1_000
"""Most schedules of one vhost; frozen by the log's format, see `MachineLimits`."""
SCHEDULE_BYTES_MAX = 64 * 1024
"""Largest batch of a schedule, which stays in memory; likewise."""
CATCH_UPS = ("one", "all", "none")
"""What becomes of times that were missed: one of them, all, or none is published."""


class ScheduleRow(NamedTuple):
    """A schedule.

    Attributes:
        number: The zxid of the entry that set it, and the number of its producer.
        vhost: Its vhost.
        name: Its name.
        cron: When, in five or six fields.
        timezone: Name of the time zone by which *cron* is read.
        destination: Name of the queue or topic.
        catch_up: One of `CATCH_UPS`.
        next_due_ms: Log time of the next time.
        published: How many times it has published.
        failed: How many times its batch was refused for good.
        problem: Why the last time was refused; "" where it was not.
        payload: The batch.

    """

    number: int
    vhost: str
    name: str
    cron: str
    timezone: str
    destination: str
    catch_up: str
    next_due_ms: int
    published: int
    failed: int
    problem: str
    payload: bytes

    @property
    def identity(self) -> str:
        """Whose its producer is: no user has a name like that."""
        return identity_of(self.name)


def identity_of(name: str) -> str:
    """Return whose the producer of a schedule is."""
    return f"\x00schedule {name}"


class Schedules:
    """The schedules of all vhosts."""

    def __init__(self) -> None:
        self._rows: dict[int, ScheduleRow] = {}
        self._names: dict[tuple[str, str], int] = {}

    def __iter__(self) -> Iterator[ScheduleRow]:
        return iter(self._rows.values())

    def get(self, number: int) -> ScheduleRow | None:
        """Return the schedule of this number."""
        return self._rows.get(number)

    def find(self, vhost: str, name: str) -> ScheduleRow | None:
        """Return the schedule of this name."""
        return self._rows.get(self._names.get((vhost, name), 0))

    def of(self, vhost: str) -> list[ScheduleRow]:
        """Return the schedules of a vhost, sorted by name."""
        return sorted((row for row in self if row.vhost == vhost), key=lambda row: row.name)

    def first(self) -> ScheduleRow | None:
        """Return the schedule whose next time is the first; of several the oldest."""
        return min(self, key=lambda row: (row.next_due_ms, row.number), default=None)

    def put(self, row: ScheduleRow) -> None:
        """Take *row* up, in the place of one of its name or number."""
        self.drop(row.vhost, row.name)
        self._rows[row.number] = row
        self._names[row.vhost, row.name] = row.number

    def drop(self, vhost: str, name: str) -> ScheduleRow | None:
        """Forget a schedule; return it if there was one."""
        number = self._names.pop((vhost, name), None)
        return None if number is None else self._rows.pop(number)

    def frozen(self) -> list[ScheduleRow]:
        """Return all rows, which nothing changes."""
        return list(self)

    def canonical(self) -> Any:
        """Return all that further judgements depend on."""
        return sorted(self)
