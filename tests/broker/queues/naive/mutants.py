"""Deliberate faults in what a queue does, each of which the lives must catch: `--mutants` shows by which seed.

A fault replaces one function of the product by one that is wrong. A new feature of the machine deserves one here.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any, NamedTuple

import pytest

from sluicemq.broker.queues import dead_letters, halves, retry
from sluicemq.broker.queues.applying import dying, identifying, limiting, unsettling
from sluicemq.broker.queues.halves import Halves
from sluicemq.broker.queues.keys import KeyStates
from sluicemq.broker.queues.lanes import Lanes
from sluicemq.broker.queues.leases import LeaseTable
from sluicemq.broker.queues.outcomes import Ready
from sluicemq.broker.queues.policies import Policies
from sluicemq.broker.queues.queue import Queue
from sluicemq.broker.queues.routing.filling import Filling
from sluicemq.broker.queues.routing.sources import Sources
from sluicemq.broker.queues.routing.topic import Topic
from sluicemq.broker.queues.sequences import Producers
from sluicemq.broker.queues.sessions import Session
from sluicemq.broker.queues.window import IdWindow
from tests.broker.queues.naive.running import chosen, problem


class Mutant(NamedTuple):
    """A fault.

    Attributes:
        name: What is wrong, in words.
        owners: Where the function stands, and who has imported it,
        function: what it is called,
        replacement: and what stands there instead.

    """

    name: str
    owners: tuple[Any, ...]
    function: str
    replacement: Any

    def apply(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for owner in self.owners:
            monkeypatch.setattr(owner, self.function, self.replacement)


def _drop_tail(queue: Any, messages: int, bytes_: int, messages_max: int) -> list[Any]:
    taken = []
    while (messages > 0 or bytes_ > 0) and messages_max > 0:
        run = next((lane.runs()[-1] for lane in queue.lanes if lane.messages), None)
        if run is None:
            break
        part = run._replace(first=run.first + run.size - 1, size=1)
        if queue.take_part(part) is None:
            break
        taken.append(part)
        messages, bytes_, messages_max = messages - 1, bytes_ - 10, messages_max - 1
    return taken


_fail, _take_held, _match, _refuse_overflow = dying.fail, Filling.take_held, Topic.match, limiting.refuse_overflow
_open = Producers.open
_abandon, _delay = unsettling.abandon, retry.retry_delay_ms


def _highest(queue: Any) -> Any:
    for priority, lane in queue.lanes.items():
        run = queue.returned.first_of(priority) or lane.first()
        if run is not None:
            return run, queue.returned.holds(run)
    return None, False


def _reject_counts_twice(machine: Any, zxid: int, queue: Any, runs: list[Any], kind: int, text: str) -> Any:
    more = runs if kind != 4 else [run._replace(attempts=run.attempts + 1) for run in runs]
    return _fail(machine, zxid, queue, more, kind, text)


def _park_nothing(machine: Any, zxid: int, queue: Any, runs: list[Any], kind: int, text: str) -> Any:
    before = None if queue.keys is None else dict(queue.keys.parked)
    effects = _fail(machine, zxid, queue, runs, kind, text)
    if before is not None:
        queue.keys.parked = before
    return effects


def _unpark_at_any_time(states: Any, key: int) -> bool:
    return key not in states.waiting


def _into_one_lane(lanes: Any, runs: Any) -> None:
    """Priorities are forgotten: all go to the lane of priority 0."""
    for run in runs:
        lanes.main.append(run)


def _held_twice(filling: Any) -> Any:
    runs = _take_held(filling)
    return runs + runs[:1]


def _match_one(topic: Any, route: str) -> Any:
    return _match(topic, route)[:1]


def _reject_one_too_few(queue: Any, messages: int, bytes_: int) -> Any:
    return _refuse_overflow(queue, messages - 1, bytes_)


def _count_no_attempt_of_the_disconnected(
    machine: Any, zxid: int, queue: Any, runs: Any, handed: Any, reason: str
) -> Any:
    return _abandon(machine, zxid, queue, runs, bytes(len(handed)), reason)


def _smallest_order(policies: Any, vhost: str, queue: str) -> Any:
    matching = [row for row in policies.of(vhost) if row.pattern in ("*", "#", queue)]
    return min(matching, key=lambda row: (row.order, row.name), default=None)


def _delay_of_the_next_attempt(settings: Any, run: Any) -> int:
    return _delay(settings, run._replace(attempts=run.attempts + 1))


def _revive_with_attempts(queue: Any, runs: Any, zxid: int) -> None:
    queue.make_ready([run._replace(note=0) for run in runs], zxid)


def _behind_the_tail(queue: Any, runs: Any, zxid: int) -> Any:
    queue.make_ready(runs, zxid)
    return (Ready(queue.id),)


def _to_the_origin_only(machine: Any, queue: Any) -> Any:
    return None


def _fit_without_ttl(queue: Any, runs: Any, now_ms: int) -> Any:
    return runs


def _mark_nothing(table: Any, tags: Any) -> list[int]:
    return []


def _never_expire(machine: Any, zxid: int, queue: Any, runs: Any) -> Any:
    return runs, []


def _decide_nothing(halves: Any, half: Any, *decided: Any) -> None:
    pass


def _every_lease_holds(machine: Any, session: int, settlements: Any) -> Any:
    return {}, None


def _pause_no_topic(sources: Any, topic: Any) -> None:
    pass


def _judge_nothing(window: Any, ids: bytes, zxid: int, log_time_ms: int, first: int = 0) -> list[int]:
    """Ids are noted as if all of them were new."""
    window.add(ids, zxid, log_time_ms)
    return []


def _any_scope(entry: Any, target: Any) -> Any:
    return target.window if hasattr(entry, "ids") else None


def _limit_nothing(window: Any, age_ms: int, ids_max: int, log_time_ms: int) -> None:
    window.look_ms = window.look_ms and log_time_ms


def _no_ids(machine: Any, entry: Any) -> Any:
    return iter(())


def _know_nothing(machine: Any, queue: Any, table: Any, tags: Any) -> list[int]:
    return []


def _note_nothing(machine: Any, zxid: int, queue: Any, ids: bytes) -> None:
    pass


def _hear_nothing(session: Any, consumer: int, tags: Any) -> list[int]:
    return []


def _open_beside(producers: Any, number: int, vhost: str, name: str, identity: str, now_ms: int) -> Any:
    return _open(producers, number, vhost, "", identity, now_ms)


def _within(*names: str) -> tuple[Any, ...]:
    """The modules of `applying` that know a function."""
    return tuple(import_module(f"sluicemq.broker.queues.applying.{name}") for name in names)


MUTANTS = (
    Mutant("overflow drops the tail", (Queue,), "drop_head", _drop_tail),
    Mutant("the highest priority makes room first", (Queue,), "_lowest", _highest),
    Mutant(
        "one more than the limit fits",
        _within("limiting", "publishing", "routing", "dead_letters"),
        "refuse_overflow",
        _reject_one_too_few,
    ),
    Mutant("what expired is given back", _within("unsettling", "clock"), "without_old", _never_expire),
    Mutant("a rejection counts twice", _within("dying", "unsettling"), "fail", _reject_counts_twice),
    Mutant("a poisoned key is not parked", _within("dying", "unsettling"), "fail", _park_nothing),
    Mutant("a parked key is delivered", (KeyStates,), "is_open", _unpark_at_any_time),
    Mutant("priorities are forgotten", (Lanes,), "extend", _into_one_lane),
    Mutant("catching up repeats a message", (Filling,), "take_held", _held_twice),
    Mutant("only one subscription gets a message", (Topic,), "match", _match_one),
    Mutant(
        "a dead connection makes no attempt",
        _within("unsettling", "sessions"),
        "abandon",
        _count_no_attempt_of_the_disconnected,
    ),
    Mutant("the policy of the smallest order holds", (Policies,), "holds_for", _smallest_order),
    Mutant("a retry waits as long as the next one", (retry, unsettling), "retry_delay_ms", _delay_of_the_next_attempt),
    Mutant("a redriven message keeps its attempts", (dead_letters,), "revive", _revive_with_attempts),
    Mutant(
        "a failed message of a key loses its turn",
        _within("clock", "unsettling", "delaying"),
        "line_up",
        _behind_the_tail,
    ),
    Mutant("dead letters go nowhere else", (dying,), "dead_letter_queue", _to_the_origin_only),
    Mutant(
        "what comes from elsewhere never expires",
        _within("fitting", "dying", "routing", "topics"),
        "fitted",
        _fit_without_ttl,
    ),
    Mutant("a half message can be decided again", (Halves,), "decide", _decide_nothing),
    Mutant("a transaction goes on without its leases", _within("transactions"), "_look_at_leases", _every_lease_holds),
    Mutant("duplicates are stored", (IdWindow,), "judge", _judge_nothing),
    Mutant("ids of another scope count", (identifying,), "window_for", _any_scope),
    Mutant("a window keeps its first limits", (IdWindow,), "limit", _limit_nothing),
    Mutant("a transaction does not look at ids", _within("transactions"), "_judged", _no_ids),
    Mutant("nobody asks whether an id was settled", _within("settling"), "known_tags", _know_nothing),
    Mutant("settled ids are forgotten", _within("settling"), "_remember_ids", _note_nothing),
    Mutant("who comes back does not hear what holds", (Session,), "settled_of", _hear_nothing),
    Mutant("nobody loses a name", (Producers,), "open", _open_beside),
    Mutant("questions never end", (halves,), "CHECKS_MAX", 1_000),
    Mutant("a paused topic delivers", (Sources,), "pause_changed", _pause_no_topic),
    Mutant("a hand-over is not noted", (LeaseTable,), "mark", _mark_nothing),
)


def caught(mutant: Mutant, seeds: range) -> tuple[int, str] | None:
    """Return the first of *seeds* whose life goes wrong with the fault, and how; None where none does."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        mutant.apply(monkeypatch)
        for seed in seeds:
            found = problem(seed, chosen(seed))
            if found is not None:
                return seed, found
    return None


def table(examples: int, first_seed: int) -> int:
    """Print by which seed each fault is caught; return 1 where one is not, else 0."""
    failed = False
    for mutant in MUTANTS:
        began = time.perf_counter()
        found = caught(mutant, range(first_seed, first_seed + examples))
        failed |= found is None
        what = "NOT CAUGHT" if found is None else f"seed {found[0]}: {found[1]:.100}"
        print(f"{mutant.name}: {what} ({time.perf_counter() - began:.1f} s)", flush=True)
    return int(failed)
