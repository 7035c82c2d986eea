"""What the columns of a batch say about delivery, as groups of neighbouring messages that share all of it.

Computed once, by the leader, when a batch comes in; nobody who applies the entry looks into the batch. Messages that
share everything cost nothing each. Pure: what time it is, it is told.
"""

from __future__ import annotations

from itertools import groupby, repeat
from operator import ne
from typing import TYPE_CHECKING

from google_crc32c import value as crc32c

from sluicemq.broker.queues.entry import GROUP_NUMBERS
from sluicemq.wire.errors import InvalidRequest
from sluicemq.wire.routes import check_route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.wire.batch import Batch

MANY = 64
"""From so many messages on it is not looked for neighbours that are due together, where hardly any are."""
_NOTHING_SAID = [0] * (GROUP_NUMBERS - 1)


def groups_of(
    batch: Batch, now_ms: int, *, keyed: bool = False, with_keys: bool = False, routes: list[int] | None = None
) -> list[int]:
    """Return the groups of a checked *batch* as an entry holds them; none where it says nothing about delivery.

    Args:
        batch: The batch.
        now_ms: Log time of the entry, from which delays count.
        keyed: Whether the queue is ordered by key.
        with_keys: Whether somebody else needs the keys: a subscription that is ordered by them.
        routes: Number of each message's route, or of the one that all share; see `routes_of`.

    Raises:
        InvalidRequest: It has priorities, and the queue is ordered by key.

    """
    due_times, ttls, priorities = batch.due_times, batch.ttls, batch.priorities
    if keyed and priorities is not None and any(priorities):
        raise InvalidRequest(
            "the queue is ordered by key, so its messages have no priority: leave it out, or publish to a queue with "
            'ordering="fifo"'
        )
    keys = batch.keys if keyed or with_keys else None
    if routes is not None and len(routes) < batch.count:
        routes = routes * batch.count
    columns = (
        None if due_times is None else _due_column(due_times, now_ms),
        None if ttls is None else [ttl or 0 for ttl in ttls],
        None if priorities is None else [priority or 0 for priority in priorities],
        None if keys is None else key_numbers(keys),
        routes,
    )
    groups: list[int] = []
    if all(column is None or column.count(column[0]) == batch.count for column in columns):
        groups += (batch.count, *(0 if column is None else column[0] for column in columns))
    else:
        filled: list[Iterable[int]] = [repeat(0, batch.count) if column is None else column for column in columns]
        times = columns[0]
        many = batch.count >= MANY and not any(columns[1:])
        if many and times is not None and sum(map(ne, times, times[1:])) > batch.count // 2:
            # Hardly two neighbours are due together: nothing is gained by looking for those.
            return _singles(times)
        for shared, messages in groupby(zip(*filled, strict=True)):
            groups += (sum(1 for _ in messages), *shared)
    return [] if groups[1:] == _NOTHING_SAID else groups


def routes_of(batch: Batch, rest: str) -> tuple[list[int] | None, list[str]]:
    """Return the number of each message's route, from 1 (0: none), and the texts of the routes, each once.

    Args:
        batch: A checked batch that was published to a topic.
        rest: What of the destination followed behind the topic's name: the route of all messages. Where nothing did,
            each message has its subject as its route.

    Raises:
        InvalidRequest: A route has too many words.

    """
    if rest:
        return [1], [check_route(rest)]
    subjects = batch.subjects
    if subjects is None:
        return None, []
    texts = {subject: number for number, subject in enumerate(dict.fromkeys(filter(None, subjects)), 1)}
    for text in texts:
        check_route(text)
    return [texts.get(subject, 0) if subject else 0 for subject in subjects], list(texts)


def _singles(times: list[int]) -> list[int]:
    """Return a group for each message, of which only the time is said."""
    groups = [0] * (GROUP_NUMBERS * len(times))
    groups[::GROUP_NUMBERS] = [1] * len(times)
    groups[1::GROUP_NUMBERS] = times
    return groups


def _due_column(due_times: list[int | None], now_ms: int) -> list[int]:
    """Return the log times that the values of DUE_TIMES mean; 0: at once."""
    if None not in due_times:
        times: list[int] = due_times  # type: ignore[assignment] # that is what was just found out
        if min(times) > now_ms:
            return times
        if max(times) < 0:
            return list(map(now_ms.__sub__, times))
    return [0 if due is None else now_ms - due if due < 0 else due if due > now_ms else 0 for due in due_times]


def key_numbers(keys: list[str | None]) -> list[int]:
    """Return the number of each key: crc32c of its UTF-8, never 0; 0 for a message without one."""
    known: dict[str | None, int] = {None: 0}
    for key in set(keys) - {None}:
        assert key is not None, "a key is text here"
        known[key] = crc32c(key.encode()) or 1
    return [known[key] for key in keys]
