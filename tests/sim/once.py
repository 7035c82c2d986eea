"""What a seed may ask so that things happen once: ids of messages, transactions, half messages, names of producers.

It is drawn once for a run; clients (`once_clients`) and the leader's part of the service read it here. Ids stand in the
batches, as everywhere: `ids_of` reads them. This module must not know nodes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from sluicemq.broker.pipeline.identities import hashes_of
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.broker.queues.halves import Half
from sluicemq.broker.queues.window import KNOWN_NUMBERS, NO_ID, ranges_without
from sluicemq.wire.settings import DEDUP_SCOPES

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from sluicemq.broker.queues.dispatching.dispatcher import Pick
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.runs import Run

NamedRun = tuple[int, int, int]
"""zxid, first index, how many."""
Stretches = list[tuple[int, list[NamedRun]]]
"""Neighbouring messages: the tag of the first, and their runs."""

VHOST = "/"
DONE, PAID = "done", "paid"
"""Where transactions publish."""
GROUP = "sellers"
CHECK_AFTER_MS = 300
CHECKED_AT_ONCE_MAX = 10
CHECKS_MAX = 4
"""So often somebody is asked about a half message in a run, at intervals that end with"""
CHECK_INTERVAL_MS_MAX = 1_000
IDS_MARK = b"ids="
WINDOWS: tuple[dict[str, Any], ...] = (
    {},
    {"dedup_window": 60.0},
    {"dedup_window": 60.0},
    {"dedup_window": 1.5},
    {"dedup_window": 60.0, "dedup_count": 20},
    {"dedup_window": 60.0, "dedup_scope": "key"},
)
SETTLED: tuple[dict[str, Any], ...] = ({}, {}, {"settled_window": 60.0}, {"settled_window": 1.5})


@dataclasses.dataclass(frozen=True)
class Once:
    """The choice of one seed.

    Attributes:
        ids: Whether messages have ids, some of which come again.
        names: Whether producers have names, and begin anew while an older one still sends.
        transactions: Whether consumers settle and publish in one.
        halves: Whether there are half messages.

    """

    ids: bool
    names: bool
    transactions: bool
    halves: bool

    @property
    def queues(self) -> list[str]:
        """Queues beside the others."""
        return [DONE, PAID] if self.transactions else []

    def windows(self, chance: random.Random, *, topic: bool = False) -> dict[str, Any]:
        """Return which windows a queue or topic has."""
        if not self.ids:
            return {}
        return chance.choice(WINDOWS) | ({} if topic else chance.choice(SETTLED))


def draw(chance: random.Random) -> Once:
    """Let chance decide."""
    ids, names, transactions, halves = (chance.random() < 0.7 for _ in range(4))
    return Once(ids, names, transactions, halves)


# --- ids ------------------------------------------------------------------------------------------------------------


def with_ids(head: bytes, ids: Sequence[str | None], filling: bytes) -> bytes:
    """Return a batch that begins with *head* and whose messages have these ids."""
    return b"%s/%s%s/%s" % (head, IDS_MARK, ",".join(id_ or "" for id_ in ids).encode(), filling)


def ids_of(payload: bytes | memoryview) -> list[str | None]:
    """Return the ids of a batch, nothing where none of its messages has one."""
    parts = bytes(payload).split(b"/", 3)
    if len(parts) < 3 or not parts[2].startswith(IDS_MARK):
        return []
    return [id_ or None for id_ in parts[2].removeprefix(IDS_MARK).decode().split(",")]


def keys_of(groups: Sequence[int], count: int) -> list[str | None]:
    """Return the keys of a batch, as the groups of an entry know them."""
    keys: list[str | None] = []
    for size, key in zip(groups[:: e.GROUP_NUMBERS], groups[4 :: e.GROUP_NUMBERS], strict=True):
        keys += [str(key) if key else None] * size
    return keys or [None] * count


def identified(machine: Machine, entry: e.Publish) -> e.Publish:
    """Return the entry with the hashes of its ids, if its queue or topic judges them."""
    target = machine.queue(entry.queue) or machine.sources.get(entry.queue)
    ids = ids_of(entry.payload)
    if target is None or target.window is None or not ids:
        return entry
    groups = entry.groups if isinstance(entry, e.PublishGrouped) else []
    routes = entry.routes if isinstance(entry, e.PublishGrouped) else []
    scope = target.window.scope
    fields = (entry.log_time_ms, entry.queue, entry.producer, entry.sequence, entry.count, entry.body_bytes, None)
    hashes = hashes_of(ids, keys_of(groups, entry.count), scope)
    return e.PublishIdentified(*fields, entry.payload, groups, routes, scope, hashes)


class Archive:
    """Ids and keys of what was published, by entry: what a leader reads in the batches, which lie in every log.

    Logs of the simulation are cut off where a snapshot stands, those of a broker are not as long as a body is wanted:
    so all nodes of a run share what any of them has applied.
    """

    def __init__(self) -> None:
        self._names: dict[int, list[tuple[str | None, str | None]]] = {}

    def applied(self, zxid: int, entry: e.Entry) -> None:
        """Take over what the entry says, if it publishes anything."""
        if isinstance(entry, e.Publish | x.Transaction | x.Prepare) and zxid not in self._names:
            ids = ids_of(entry.payload)
            groups = getattr(entry, "groups", [])
            if ids:
                self._names[zxid] = list(zip(ids, keys_of(groups, entry.count), strict=True))

    def hashes(self, runs: Sequence[Run], scope: int) -> bytes:
        """Return the hashes of the ids of *runs*, zeros where there is none."""
        found = b""
        for run in runs:
            names = self._names.get(run.zxid)
            if names is None:
                found += NO_ID * run.size
            else:
                part = names[run.first : run.first + run.size]
                found += hashes_of([id_ for id_, _ in part], [key for _, key in part], scope)
        return found


def known_before(machine: Machine, pick: Pick, hashes: bytes) -> list[int]:
    """Return which messages of a pick have ids that were acknowledged, as `IdWindow.look` says it."""
    window = machine.existing_queue(pick.queue_id).settled_window
    return [] if window is None else window.look(hashes, machine.log_time_ms)


def screened(machine: Machine, pick: Pick, hashes: bytes) -> tuple[list[int], Stretches]:
    """Look through what is to be delivered, as the leader does.

    Returns:
        The ranges of tags that need not be sent, because their ids were acknowledged before; and for each stretch of
        the others its first tag and runs of (zxid, first, size).

    """
    numbers = known_before(machine, pick, hashes)
    places = [(run.zxid, run.first + offset) for run in pick.runs for offset in range(run.size)]
    stretches: Stretches = []
    for first, size in ranges_without(numbers, len(places)):
        runs = [(zxid, index, 1) for zxid, index in places[first : first + size]]
        stretches.append((pick.first_tag + first, runs))
    known: list[int] = []
    for first, count in zip(numbers[::KNOWN_NUMBERS], numbers[1::KNOWN_NUMBERS], strict=True):
        known += (pick.first_tag + first, pick.first_tag + first + count - 1)
    return known, stretches


# --- the leader's part ----------------------------------------------------------------------------------------------


def transacting(machine: Machine, time_ms: int, arguments: Sequence[Any]) -> x.Transaction | None:
    """Return the entry for a transaction; None where a queue or topic of it is not there."""
    producer, sequence, session, consumer, verdict, tags, parts, payload = arguments
    flat: list[int] = []
    groups: list[int] = []
    hashes = b""
    ids = ids_of(payload)
    first = 0
    for name, count in parts:
        target = machine.find_queue(VHOST, name) or machine.sources.find(VHOST, name)
        if target is None:
            return None
        scope = 0 if target.window is None or not ids else target.window.scope + 1
        hashes += hashes_of(ids[first : first + count], None, scope - 1) if scope else NO_ID * count
        flat += (target.id, count, 0, scope)
        groups += (count, 0, 0, 0, 0, 0)
        first += count
    settlements = [consumer, verdict, 0, len(tags) // 2, *tags]
    return x.Transaction(
        time_ms,
        producer,
        sequence,
        first,
        first,
        flat,
        groups,
        [],
        session,
        settlements,
        [""],
        hashes if any(hashes) else b"",
        payload,
    )


def preparing(machine: Machine, time_ms: int, arguments: Sequence[Any]) -> x.Prepare | None:
    """Return the entry for a half message; None where its queue or topic is not there."""
    name, producer, sequence, count, payload, deal = arguments
    target = machine.find_queue(VHOST, name) or machine.sources.find(VHOST, name)
    if target is None:
        return None
    fields = (time_ms, target.id, producer, sequence, count, count, deal, GROUP, CHECK_AFTER_MS)
    ids, scope = ids_of(payload), DEDUP_SCOPES.index(target.settings["dedup_scope"])
    hashes = hashes_of(ids, None, scope)
    return x.Prepare(*fields, 0, [count, 0, 0, 0, 0, 0], [], payload, scope=scope + 1, ids=hashes)


def due_checks(machine: Machine, time_ms: int) -> x.Checked | None:
    """Return the entry that counts a question about each half message that is due; None: none is."""
    numbers = machine.halves.due(VHOST, GROUP, time_ms, CHECKED_AT_ONCE_MAX)
    return x.Checked(time_ms, numbers) if numbers else None


def parked_halves(machine: Machine) -> list[tuple[int, str]]:
    """Return number and deal of what nobody is asked about any more, as operators are told."""
    return [_told(half) for half in machine.halves if half.parked]


def asked_halves(machine: Machine, numbers: Sequence[int]) -> list[tuple[int, str]]:
    """Return number and deal of these, as far as they are undecided."""
    return [_told(half) for number in numbers if (half := machine.halves.get(number)) is not None]


def _told(half: Half) -> tuple[int, str]:
    return half.number, half.destination
