"""Duplicates by message id: which messages of a batch came before, and what is left of the batch without those.

Judging is two steps, because a batch may still be refused for what is new in it: `look_for_known` changes nothing,
`record_ids` makes the ids known. Whatever stores messages that come from producers asks here: PUBLISH and, for each of
its batches, TRANSACTION. This module must not know where messages wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.entry import GROUP_NUMBERS
from sluicemq.broker.queues.runs import Run, joined, messages_in
from sluicemq.broker.queues.window import KNOWN_NUMBERS, IdWindow, ranges_without

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.history import History
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic

Piece = tuple[int, int, int, int, int, int, int]
"""Index of the first of neighbouring messages, how many, and what their group says, see `entries.PublishGrouped`."""


def window_for(entry: e.Publish, target: Queue | Topic) -> IdWindow | None:
    """Return the window that judges the ids of *entry*, if any does.

    None where the ids were hashed for another scope: the setting changed while the entry was under way, and the window
    began anew with that.
    """
    window = target.window
    if window is None or not isinstance(entry, e.PublishIdentified) or window.scope != entry.scope:
        return None
    return window


def look_for_known(machine: Machine, zxid: int, entry: e.Publish, target: Queue | Topic) -> list[int]:
    """Return what `record_ids` would return; nothing is changed.

    With *zxid* 0 the entry was stored before, and its messages are not compared with each other.
    """
    window = window_for(entry, target)
    if window is None:
        return []
    assert isinstance(entry, e.PublishIdentified), "only those have a window"
    return window.look(entry.ids, machine.log_time_ms, zxid)


def record_ids(machine: Machine, zxid: int, entry: e.Publish, target: Queue | Topic) -> list[int]:
    """Make the ids of *entry* known; return which messages are duplicates, in the numbers of `IdWindow.judge`."""
    window = window_for(entry, target)
    if window is None:
        return []
    assert isinstance(entry, e.PublishIdentified), "only those have a window"
    return window.judge(entry.ids, zxid, machine.log_time_ms)


def missing_of_ids(machine: Machine, entry: e.Publish, target: Queue | Topic) -> list[Chunk]:
    """Return the chunks of ids that are not in memory and that judging *entry* needs."""
    window = window_for(entry, target)
    if window is None:
        return []
    assert isinstance(entry, e.PublishIdentified), "only those have a window"
    return window.missing(entry.ids, max(machine.log_time_ms, entry.log_time_ms))


def known_as(known: list[int], zxid: int) -> list[int]:
    """Return *known* but for those messages whose original is this very one, of the entry *zxid*: it came again."""
    found: list[int] = []
    for first, count, original, index in zip(*(iter(known),) * KNOWN_NUMBERS, strict=True):
        if original != zxid or index != first:
            found += (first, count, original, index)
    return found


def fresh_in(known: Sequence[int], count: int) -> int:
    """Return how many of *count* messages are new."""
    return count - sum(known[1::KNOWN_NUMBERS])


def pieces_of(groups: Sequence[int], known: list[int] | None = None, first: int = 0) -> list[Piece]:
    """Return the groups of a batch with where each begins, from *first* on, without the messages in *known*."""
    pieces: list[Piece] = []
    for size, due_ms, ttl_ms, priority, key, route in zip(*(iter(groups),) * GROUP_NUMBERS, strict=True):
        pieces.append((first, size, due_ms, ttl_ms, priority, key, route))
        first += size
    return list(cut_pieces(pieces, ranges_without(known, first))) if known else pieces


def cut_pieces(pieces: list[Piece], ranges: list[tuple[int, int]]) -> Iterator[Piece]:
    """Yield what of *pieces* lies within *ranges*; both ascend."""
    number = 0
    for first, size, due_ms, ttl_ms, priority, key, route in pieces:
        while number < len(ranges):
            start, count = ranges[number]
            low, high = max(first, start), min(first + size, start + count)
            if low < high:
                yield (low, high - low, due_ms, ttl_ms, priority, key, route)
            if start + count > first + size:
                break
            number += 1


def retain(history: History, zxid: int, entry: e.Publish, known: list[int], log_time_ms: int) -> None:
    """Retain what of the batch is new."""
    batch = Run(zxid, zxid, 0, entry.count, entry.count, len(entry.payload), log_time_ms)
    ranges = ranges_without(known, entry.count) if known else ((0, entry.count),)
    history.append([batch._replace(first=first, size=size) for first, size in ranges])


def retain_runs(history: History, zxid: int, runs: list[Run], log_time_ms: int) -> None:
    """Retain *runs*, all of one batch, which the entry *zxid* made visible, whatever entry stored them."""
    of_batch, _, _, _, count, batch_bytes, *_ = runs[0]
    if messages_in(runs) == count:
        history.append([Run(of_batch, zxid, 0, count, count, batch_bytes, log_time_ms)])
    else:
        history.append(joined([Run(of_batch, zxid, *run[2:6], log_time_ms) for run in runs]))
