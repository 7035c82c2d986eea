"""Messages that need not be sent, because others with their ids were acknowledged before.

Where a queue remembers such ids (`settled_window`), the leader looks a pick through before it sends it: the ids stand
in the batches, which it has in its hands then. What is known goes on the road under a lease like the rest, but a
verdict of the broker itself follows instead of a delivery; apply judges it. Must not know consumers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.pipeline.identities import BY_KEY, hashes_of
from sluicemq.broker.queues.chunks import ChunksMissing
from sluicemq.broker.queues.tags import add_range
from sluicemq.broker.queues.window import KNOWN_NUMBERS, NO_ID, ranges_without

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sluicemq.broker.pipeline.bodies import Stored
    from sluicemq.broker.queues.runs import Run
    from sluicemq.broker.queues.window import IdWindow


class Stretch(NamedTuple):
    """Neighbouring messages of a pick that are to be sent: the tag of the first, and their runs."""

    first_tag: int
    runs: list[Run]


class Screened(NamedTuple):
    """A pick, or a part of one, looked through.

    Attributes:
        ids: A hash for each message.
        stretches: What is to be sent.
        known: Ranges of tags of what is not.

    """

    ids: bytes
    stretches: list[Stretch]
    known: list[int]


def screen(
    runs: Sequence[Run], first_tag: int, stored: Mapping[int, Stored], window: IdWindow, log_time_ms: int
) -> Screened:
    """Look *runs* through, whose first message has the tag *first_tag* and whose batches are in *stored*.

    Raises:
        ChunksMissing: Whether an id is known lies in chunks that are not in memory.

    """
    ids = b"".join(_ids_of(run, stored[run.zxid], window.scope) for run in runs)
    missing = window.missing(ids, log_time_ms)
    if missing:
        raise ChunksMissing(missing)
    numbers = window.look(ids, log_time_ms)
    if not numbers:
        return Screened(ids, [Stretch(first_tag, list(runs))], [])
    known: list[int] = []
    for first, count in zip(numbers[::KNOWN_NUMBERS], numbers[1::KNOWN_NUMBERS], strict=True):
        add_range(known, first_tag + first, first_tag + first + count - 1)
    fresh = ranges_without(numbers, sum(run.size for run in runs))
    return Screened(ids, [Stretch(first_tag + first, _cut(runs, first, size)) for first, size in fresh], known)


def _ids_of(run: Run, stored: Stored, scope: int) -> bytes:
    ids = stored.batch.kept_message_ids()
    if ids is None:
        return NO_ID * run.size
    start = run.first if stored.kept is None else stored.kept.position(run.first, run.size)
    keys = stored.batch.keys if scope == BY_KEY else None
    end = start + run.size
    return hashes_of(ids[start:end], None if keys is None else keys[start:end], scope)


def _cut(runs: Sequence[Run], first: int, size: int) -> list[Run]:
    """Return *size* messages of *runs* behind the first so many, as runs."""
    found: list[Run] = []
    begin = 0
    for run in runs:
        low, high = max(first, begin), min(first + size, begin + run.size)
        if low < high:
            found.append(run._replace(first=run.first + low - begin, size=high - low))
        begin += run.size
    return found
