"""Messages that die: too many attempts, a rejection, their age, or too many of them in the queue.

A dead letter is kept aside in its queue, or goes behind the tail of the queue that the setting `dead_letter` names,
with a note that says whence and why. A dead-letter queue that does not exist at that moment loses nothing: the message
is kept aside instead. Dead letters are never refused, however full the queue is that they go to: what is over its
limit goes with the next batch that comes in. This module must not know leases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues import notes
from sluicemq.broker.queues.applying.fitting import fitted
from sluicemq.broker.queues.keys import KEYS_PARKED_MAX
from sluicemq.broker.queues.outcomes import Effect, GivenUp, Ready
from sluicemq.broker.queues.runs import expires_ms_of

if TYPE_CHECKING:
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run


def dead_letter_queue(machine: Machine, queue: Queue) -> Queue | None:
    """Return the queue that dead letters of *queue* go to; None: they are kept aside in it."""
    name = queue.settings["dead_letter"]
    target = None if name is None else machine.find_queue(queue.vhost, name)
    return None if target is queue else target


def die(machine: Machine, zxid: int, queue: Queue, runs: list[Run], kind: int, text: str = "") -> list[Effect]:
    """Make dead letters of *runs*, which were taken out of what is ready, leased or delayed.

    Args:
        machine: The machine.
        zxid: The entry that does this.
        queue: Whose messages they were.
        runs: With the attempts that were made.
        kind: Why, one of the kinds of `notes`.
        text: What whoever did it said.

    Returns:
        What the leader has to do.

    """
    if not runs:
        return []
    target = dead_letter_queue(machine, queue)
    if target is None:
        queue.bury(runs, zxid, kind, text, machine.log_time_ms)
        return []
    queue.gone(runs, "moved")
    return arrive_from(machine, zxid, queue, target, runs, kind, text)


def arrive_from(
    machine: Machine, zxid: int, origin: Queue, target: Queue, runs: list[Run], kind: int, text: str
) -> list[Effect]:
    """Put *runs*, which left *origin*, behind the tail of *target* with a note that says why; nobody tried them."""
    now_ms = machine.log_time_ms
    noted: list[Run] = []
    by_attempts: dict[int, list[Run]] = {}
    for run in runs:
        by_attempts.setdefault(run.attempts, []).append(run)
    for attempts, group in by_attempts.items():
        fresh = [run._replace(deliveries=0, attempts=0, note=0) for run in group]
        fresh = without_expiry(machine, target, fresh)
        target.arrive_from_elsewhere(fresh)
        noted += target.annotated(fresh, kind, origin.name, text, now_ms, attempts)
    target.make_ready(noted, zxid)
    if target.lanes.has_expiry:
        machine.due_changed(target)
    return [Ready(target.id)]


def without_expiry(machine: Machine, queue: Queue, runs: list[Run]) -> list[Run]:
    """Return *runs*, ready now in *queue*, with a lifetime that begins anew: what they had is used up."""
    return fitted(queue, [run._replace(expires_ms=0) for run in runs], machine.log_time_ms)


def are_old(machine: Machine, runs: list[Run]) -> bool:
    """Whether any of *runs* has expired."""
    return any(map(expires_ms_of, runs)) and any(0 < run.expires_ms <= machine.log_time_ms for run in runs)


def grow_old(machine: Machine, zxid: int, queue: Queue, runs: list[Run]) -> list[Effect]:
    """Let *runs*, which were taken out because they expired, go: to the dead letters where the queue wants them."""
    if not runs:
        return []
    if queue.settings["dead_letter"] is not None:
        return die(machine, zxid, queue, runs, notes.TTL)
    queue.gone(runs, "expired")
    return []


def without_old(machine: Machine, zxid: int, queue: Queue, runs: list[Run]) -> tuple[list[Run], list[Effect]]:
    """Let those of *runs*, which are neither ready nor leased nor delayed now, go that expired; return the others."""
    if not are_old(machine, runs):
        return runs, []
    now_ms = machine.log_time_ms
    old = [run for run in runs if 0 < run.expires_ms <= now_ms]
    return [run for run in runs if not 0 < run.expires_ms <= now_ms], grow_old(machine, zxid, queue, old)


def fail(
    machine: Machine, zxid: int, queue: Queue, runs: list[Run], kind: int, text: str, met: int = 0
) -> list[Effect]:
    """Let *runs* die because their last attempt failed, and their keys go on as the queue wants it.

    With `poison_key` "skip", messages that have used up their attempts go behind the last of their key instead, as new
    ones; those that were rejected die. *met* is what the last attempt met, where nobody said that none would succeed:
    then the leader hears of messages that somebody may wait for.
    """
    keys, poison = queue.keys, queue.settings["poison_key"]
    skipped = (
        [run for run in runs if run.key]
        if keys is not None and poison == "skip" and kind == notes.MAX_DELIVERIES
        else []
    )
    dying = [run for run in runs if not run.key] if skipped else runs
    if keys is not None and poison == "park":
        for run in dying:
            if run.key and len(keys.parked) < KEYS_PARKED_MAX:
                keys.parked[run.key] = None
    effects = die(machine, zxid, queue, dying, kind, text)
    if met and (awaited := [run for run in dying if run.expires_ms > machine.log_time_ms]):
        effects.append(GivenUp(queue.id, awaited, met, text))
    if skipped:
        skipped = queue.annotated(skipped, kind, "", text, machine.log_time_ms)
        queue.make_ready([run._replace(deliveries=0, attempts=0) for run in skipped], zxid)
        effects.append(Ready(queue.id))
    return effects
