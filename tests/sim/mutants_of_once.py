"""Mistakes in what has to happen once, in the queue machine of all nodes or in a leader; see `mutants`.

A mistake of the machine is made by every node alike, so no comparison of nodes finds it: only who has another opinion,
or remembers what clients were told. `MUTANTS` holds all mistakes, those of `mutants` first.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any
from unittest import mock

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.broker.queues.applying import APPLY, settling, transactions
from sluicemq.broker.queues.applying.placing import Arrival, into_queue
from sluicemq.broker.queues.halves import Halves
from sluicemq.broker.queues.image import _Loader
from sluicemq.broker.queues.outcomes import Outcome, Published
from sluicemq.broker.queues.sequences import Producers
from sluicemq.broker.queues.window import IdWindow
from sluicemq.broker.queues.window_images import WindowLoader
from sluicemq.broker.queues.windows import windows_of
from tests.sim import once
from tests.sim.mutants import MUTANTS, Mutant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sluicemq.broker.queues.machine import Machine

__all__ = ["MUTANTS"]


def _add(
    name: str,
    says: str,
    *replaced: tuple[Any, str, Any],
    table: Mapping[type[e.Entry], Any] | None = None,
    profile: str = "crash",
) -> None:
    """Add a mistake: functions that are replaced where they stand, or in the table of what entries do."""

    @contextlib.contextmanager
    def patch() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for owner, attribute, replacement in replaced:
                stack.enter_context(mock.patch.object(owner, attribute, replacement))
            stack.enter_context(mock.patch.dict(APPLY, table or {}))
            yield

    MUTANTS[name] = Mutant(says, patch, profile, once=True)


def _with_every_leader(change: Any) -> dict[type[e.Entry], Any]:
    """Let the machine do something beside, whenever a leader begins."""

    def epoch(machine: Machine, zxid: int, entry: e.Epoch, real: Any = APPLY[e.Epoch]) -> Outcome:
        change(machine)
        outcome: Outcome = real(machine, zxid, entry)
        return outcome

    return {e.Epoch: epoch}


# --- windows --------------------------------------------------------------------------------------------------------


def _forget_ids(machine: Machine) -> None:
    for queue in machine.queues():
        if queue.window is not None:
            queue.window.clear()
    for topic in machine.sources:
        if topic.window is not None:
            topic.window.clear()


def _forget_settled_ids(machine: Machine) -> None:
    for queue in machine.queues():
        if queue.settled_window is not None:
            queue.settled_window.clear()


def _place_empty(self: WindowLoader, real: Any = WindowLoader.place_all) -> None:
    real(self)
    for queue in self._queues.values():
        for _, window in windows_of(queue):
            window.clear()


def _at_its_own_place(machine: Machine, zxid: int, entry: Any, real: Any = APPLY[e.PublishIdentified]) -> Outcome:
    outcome: Outcome = real(machine, zxid, entry)
    if isinstance(outcome.value, Published) and outcome.value.known and not outcome.value.duplicate:
        known = list(outcome.value.known)
        known[2::4] = [zxid] * (len(known) // 4)
        known[3::4] = known[::4]
        return outcome._replace(value=dataclasses.replace(outcome.value, known=known))
    return outcome


_add(
    "windows_not_in_snapshot",
    "ids are not in a snapshot",
    (WindowLoader, "place_all", _place_empty),
    profile="wiped",
)
_add(
    "windows_end_with_a_leader",
    "a new leader begins with empty windows of ids",
    table=_with_every_leader(_forget_ids),
)
_add(
    "duplicate_at_a_new_place",
    "a duplicate is told that it lies where it came",
    table={e.PublishIdentified: _at_its_own_place},
)
_add(
    "within_a_batch_unseen",
    "messages of one batch are not compared with each other",
    (IdWindow, "_find", lambda self, id_, leaf, at, now, coming=0: None),
)
_add(
    "settled_ids_end_with_a_leader",
    "a new leader knows nothing of what was acknowledged",
    table=_with_every_leader(_forget_settled_ids),
)
_add(
    "settled_ids_unasked",
    "a leader sends what was acknowledged before",
    (once, "known_before", lambda machine, pick, hashes: []),
)
_add(
    "settled_ids_unnoted",
    "acknowledgements do not note ids",
    (settling, "_remember_ids", lambda machine, zxid, queue, ids: None),
)

# --- transactions -----------------------------------------------------------------------------------------------------


def _half_of_it(machine: Machine, zxid: int, part: Any, arrival: Any, real: Any = transactions._arrive) -> list[Any]:
    return [] if part.first else list(real(machine, zxid, part, arrival))


def _every_lease_holds(machine: Machine, session: int, settlements: Any) -> Any:
    return {}, None


def _settle_if_held(machine: Machine, zxid: int, entry: Any, settlement: Any) -> Any:
    return settling.settle(machine, zxid, transactions.as_settle(entry, settlement)).effects


_add(
    "transaction_half_done",
    "only the first queue of a transaction gets its messages",
    (transactions, "_arrive", _half_of_it),
)
_add(
    "transaction_without_leases",
    "a transaction whose leases are over publishes all the same",
    (transactions, "_look_at_leases", _every_lease_holds),
    (transactions, "_settle", _settle_if_held),
)
_add(
    "transaction_without_verdicts",
    "a transaction publishes and settles nothing",
    (transactions, "_settle", lambda machine, zxid, entry, settlement: ()),
)

# --- half messages ----------------------------------------------------------------------------------------------------


def _decide_again(self: Halves, half: Any, *decided: Any) -> None:
    """The half message stays, as if nobody had decided."""


def _commit_with_every_leader(machine: Machine) -> None:
    for half in list(machine.halves):
        machine.halves.decide(half, True, machine.log_time_ms)


def _forget_decisions(machine: Machine) -> None:
    machine.halves._decided.clear()


def _forget_to_ask(machine: Machine) -> None:
    for half in list(machine.halves):
        machine.halves.put(half._replace(next_check_ms=half.next_check_ms + 3_600_000))


def _seen_early(machine: Machine, zxid: int, entry: Any, real: Any = APPLY[x.Prepare]) -> Outcome:
    outcome: Outcome = real(machine, zxid, entry)
    half = machine.halves.get(zxid)
    queue = None if half is None else machine.queue(half.target)
    if half is None or queue is None:
        return outcome
    arrival = Arrival(half.run, half.groups, half.routes)
    return outcome._replace(effects=tuple(into_queue(machine, zxid, queue, arrival)))


_add(
    "halves_not_in_snapshot",
    "half messages are not in a snapshot",
    (_Loader, "_read_halves", lambda self, columns: None),
    profile="wiped",
)
_add(
    "decision_made_again",
    "a half message can be decided again",
    (Halves, "decide", _decide_again),
)
_add(
    "decisions_end_with_a_leader",
    "a new leader knows nothing of what was decided",
    table=_with_every_leader(_forget_decisions),
)
_add(
    "leaders_decide",
    "a new leader takes half messages for committed, and forgets them",
    table=_with_every_leader(_commit_with_every_leader),
)
_add(
    "checks_end_with_a_leader",
    "a new leader asks nobody for an hour",
    table=_with_every_leader(_forget_to_ask),
)
_add("half_seen_early", "a half message is delivered before anybody decides", table={x.Prepare: _seen_early})

# --- producers --------------------------------------------------------------------------------------------------------


def _forget_names(machine: Machine) -> None:
    machine.producers._names.clear()
    for producer in machine.producers:
        producer.name, producer.fenced = "", ()
    machine.producers._fenced.clear()


def _forget_receipts(machine: Machine) -> None:
    for producer in machine.producers:
        for sequence in range(len(producer._receipts)):
            producer._receipts[sequence] = 1 << 32


def _any_sequence(self: Producers, number: int, sequence: int, now_ms: int, real: Any = Producers.judge) -> Any:
    producer = self.get(number)
    if producer is not None and sequence > producer.last:
        producer.last = sequence - 1
    return real(self, number, sequence, now_ms)


_add(
    "names_end_with_a_leader",
    "under a new leader nobody loses a name to another any more",
    table=_with_every_leader(_forget_names),
)
_add(
    "receipts_end_with_a_leader",
    "under a new leader batches that come again get another receipt",
    table=_with_every_leader(_forget_receipts),
)
_add("gaps_accepted", "a batch that comes ahead of others is accepted", (Producers, "judge", _any_sequence))
