"""What becomes of messages whose leases ended without an ack: back to their places, behind the tail, delayed or dead.

Which of these, and what counts as an attempt, follows from the verdict and the queue's settings. Each carries a note
from then on that says why it came back, but for those that were given back in good order. This module must not know
sessions or the log.
"""

from __future__ import annotations

from itertools import compress, groupby, repeat
from operator import itemgetter, not_
from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import notes
from sluicemq.broker.queues.applying.dying import fail, without_old
from sluicemq.broker.queues.keeping_order import line_up
from sluicemq.broker.queues.outcomes import Effect, LeasesGone, Returned
from sluicemq.broker.queues.retry import retry_delay_ms
from sluicemq.broker.queues.runs import by_place, joined
from sluicemq.broker.queues.tags import without
from sluicemq.wire.messages import VERDICT_REJECT, VERDICT_RELEASE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sluicemq.broker.queues.leases import Taken
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run

_first = itemgetter(0)


def unsettle(machine: Machine, zxid: int, entry: e.Settle, queue: Queue, taken: Taken) -> tuple[Effect, ...]:
    """Put messages whose leases ended without an ack where the verdict wants them.

    Args:
        machine: The machine.
        zxid: Number of the entry.
        entry: The entry; its verdict is none that settles.
        queue: Where the messages came from. Its first due time may change.
        taken: What the entry took out of the consumer's table.

    Returns:
        What the leader has to do.

    """
    if not taken.runs:
        return ()
    verdict = entry.verdict
    if verdict == VERDICT_RELEASE:  # a handler that was cancelled in good order made no attempt
        runs = [run.settled_back(run.ready, 0) for run in taken.runs]
        runs, effects = without_old(machine, zxid, queue, runs)
        return (*effects, Returned(queue.id, queue.give_back(runs))) if runs else tuple(effects)
    if verdict == e.ABANDONED:
        return tuple(abandon(machine, zxid, queue, taken.runs, taken.handed, entry.reason))
    if verdict == e.EXPIRED:
        # A client that froze charges what user code had begun, not all that lay in its buffer.
        runs, effects = _tried(machine, zxid, queue, taken.runs, taken.handed, notes.EXPIRED, "")
        tags = without(entry.tags, taken.lost)
        effects.insert(0, LeasesGone(entry.session, entry.consumer, tags, "expired"))
    elif verdict == VERDICT_REJECT:
        runs = [run.settled_back(run.ready, 1) for run in taken.runs]
        return tuple(fail(machine, zxid, queue, by_place(runs), notes.REJECTED, entry.reason))
    else:
        runs, effects = _tried(machine, zxid, queue, taken.runs, repeat(1), notes.NACKED, entry.reason)
    runs = by_place(runs)
    if entry.due_time_ms == e.BY_RETRY_POLICY:
        runs = _delay_by_policy(machine, queue, runs)
    elif entry.due_time_ms > machine.log_time_ms:
        runs = _delay(queue, entry.due_time_ms, runs)
    if runs:
        effects += line_up(queue, runs, zxid)
    return tuple(effects)


def abandon(
    machine: Machine, zxid: int, queue: Queue, runs: Sequence[Run], handed: Iterable[int], reason: str
) -> list[Effect]:
    """Give messages of a session that has ended back to their places; those that were handed over had an attempt."""
    back, effects = _tried(machine, zxid, queue, runs, handed, notes.SESSION_ENDED, reason)
    if back:
        effects.append(Returned(queue.id, queue.give_back(back)))
    return effects


def _tried(
    machine: Machine, zxid: int, queue: Queue, runs: Sequence[Run], attempts: Iterable[int], kind: int, text: str
) -> tuple[list[Run], list[Effect]]:
    """Count a delivery and so many *attempts* of each run, and note why; let those die whose last attempt that was.

    A message that nobody began with keeps the note that it had: it says what the last attempt met. So does one that
    died in another queue: that it did matters more here.
    """
    counts = [count for count, _ in zip(attempts, runs, strict=False)]
    keeps = [
        bool(run.note) and (not count or _is_stranger(queue, run)) for run, count in zip(runs, counts, strict=True)
    ]
    number = queue.note_again([*compress(runs, map(not_, keeps))], kind, "", text, machine.log_time_ms)
    back = [
        run.settled_back(run.ready, count, None if keep else number)
        for run, count, keep in zip(runs, counts, keeps, strict=True)
    ]
    effects: list[Effect] = []
    attempts_max = queue.settings["max_deliveries"]
    if attempts_max is not None:
        dying = [run for run, count in zip(back, counts, strict=True) if count and run.attempts >= attempts_max]
        if dying:
            back = [run for run, count in zip(back, counts, strict=True) if not count or run.attempts < attempts_max]
            effects = fail(machine, zxid, queue, by_place(dying), notes.MAX_DELIVERIES, text, kind)
    back, old = without_old(machine, zxid, queue, back)
    return back, [*effects, *old]


def _is_stranger(queue: Queue, run: Run) -> bool:
    note = queue.notes.get(run.note)
    return note is not None and bool(note.origin)


def _delay_by_policy(machine: Machine, queue: Queue, runs: list[Run]) -> list[Run]:
    """Let *runs* wait as long as the queue's retry policy says; return those that need not."""
    settings, now_ms = queue.settings, machine.log_time_ms
    waiting = [(now_ms + retry_delay_ms(settings, run), run) for run in runs]
    waiting.sort(key=_first)
    at_once: list[Run] = []
    for due_ms, group in groupby(waiting, key=_first):
        part = [run for _, run in group]
        if due_ms > now_ms:
            at_once += _delay(queue, due_ms, part)
        else:
            at_once += part
    return at_once


def _delay(queue: Queue, due_ms: int, runs: list[Run]) -> list[Run]:
    """Let *runs* wait until *due_ms*; return those that cannot without losing their turn."""
    at_once: list[Run] = []
    if queue.keys is not None:
        limit = queue.settings["key_in_flight_max"]
        waiting = []
        for run in runs:
            if queue.keys.may_wait(run, limit):
                queue.keys.wait([run])
                waiting.append(run)
            else:
                at_once.append(run)
        runs = waiting
    if runs:
        queue.delayed.add(due_ms, joined(runs))
    return at_once
