"""Judges of a history: each returns what it found wrong, as text, and nothing where all is well. Pure.

They judge by what was promised: what was confirmed is not lost; what was acknowledged does not come again; a message is
stored once, however often it was sent; a queue has the order of its producers; a key's messages are worked on one after
the other; nobody gets a message early; of two workers that have one message at most one can settle it, and a lease is
not over before its time; a transaction holds as a whole or not at all; a prepared message comes when it is decided.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING

from sluicemq.wire.positions import parse_position
from tests.e2e.chaos import history as h

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tests.e2e.chaos.history import Event

EXAMPLES_MAX = 5
EARLY_SECONDS_MAX = 0.05
"""Clocks of two processes on one machine run apart by no more."""
LEASE_SECONDS = 10.0
"""What the workload's consumers ask for."""
EXPIRED = "expired"
SLEW_MAX = 0.06
"""Log time may run faster than the clock by a little less, while it catches up with a wall clock that has jumped."""

Identity = tuple[int, int]


def _name(event: Event) -> Identity:
    return (event.producer, event.number)


def _told(what: str, found: Iterable[object]) -> list[str]:
    """Return one line that counts *found* and shows some of it."""
    things = sorted(map(str, found))
    if not things:
        return []
    shown = ", ".join(things[:EXAMPLES_MAX])
    return [f"{len(things)} {what}: {shown}{', ...' if len(things) > EXAMPLES_MAX else ''}"]


def lost(events: Sequence[Event], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """Confirmed, and never acknowledged in one of the queues that it belongs to, though all were drained."""
    settled = {(event.queue, _name(event)) for event in events if event.kind == h.SETTLED}
    # Whoever was about to acknowledge, and heard nothing of it, may have done so.
    settling: set[tuple[str, Identity]] = set()
    for event in events:
        if event.kind == h.SETTLES:
            settling.add((event.queue, _name(event)))
        elif event.kind == h.LOST:
            settling.discard((event.queue, _name(event)))
    return _told(
        "confirmed messages were lost",
        (
            f"{queue} {_name(event)}"
            for event in events
            if event.kind == h.CONFIRMED
            for queue in targets[event.queue]
            if (queue, _name(event)) not in settled and (queue, _name(event)) not in settling
        ),
    )


def unexpected(events: Sequence[Event], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """Handed out, and never sent there, or refused for good."""
    sent = {(queue, _name(event)) for event in events if event.kind == h.SENT for queue in targets[event.queue]}
    refused = {(queue, _name(event)) for event in events if event.kind == h.REFUSED for queue in targets[event.queue]}
    handed = {(event.queue, _name(event)) for event in events if event.kind == h.HANDED}
    return _told("messages came that nobody sent", handed - sent) + _told(
        "messages came that were refused", handed & refused
    )


def settled_twice(events: Sequence[Event], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """Acknowledged twice, or granted anew after an acknowledgement that holds."""
    del targets
    settled: dict[tuple[str, Identity], list[Event]] = defaultdict(list)
    for event in events:
        if event.kind == h.SETTLED:
            settled[event.queue, _name(event)].append(event)
    twice = [f"{queue} {name}" for (queue, name), found in settled.items() if len(found) > 1]
    again = [
        f"{event.queue} {_name(event)} delivery {event.delivery} to {event.worker}"
        for event in events
        if event.kind == h.HANDED
        and any(event.delivery > before.delivery for before in settled.get((event.queue, _name(event)), ()))
    ]
    return _told("messages were acknowledged by two", twice) + _told(
        "messages came after they were acknowledged", again
    )


def stored_twice(events: Sequence[Event], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """At two positions, or at another one than its receipt says."""
    positions: dict[tuple[str, Identity], set[str]] = defaultdict(set)
    for event in events:
        if event.kind == h.CONFIRMED:
            for queue in targets[event.queue]:
                positions[queue, _name(event)].add(event.position)
        elif event.kind in (h.HANDED, h.AGAIN):
            positions[event.queue, _name(event)].add(event.position)
    return _told(
        "messages are stored more than once",
        (f"{queue} {name} at {sorted(found)}" for (queue, name), found in positions.items() if len(found) > 1),
    )


def out_of_order(events: Sequence[Event], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """Positions that do not ascend with a producer's numbers, where it waits for each confirm before the next.

    Transactions of one mover go on beside each other.
    """
    del targets
    by_producer: dict[tuple[str, int], list[Event]] = defaultdict(list)
    for event in events:
        if event.kind == h.CONFIRMED and not event.transaction:
            by_producer[event.queue, event.producer].append(event)
    found = []
    for (queue, _), confirmed in by_producer.items():
        confirmed.sort(key=lambda event: event.number)
        for before, after in itertools.pairwise(confirmed):
            if parse_position(before.position) >= parse_position(after.position):
                found.append(f"{queue} {_name(before)} at {before.position}, {_name(after)} at {after.position}")
    return _told("messages are out of their producer's order", found)


def keys_overtaken(events: Sequence[Event], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """Handed out while an earlier message of its key was neither acknowledged nor about to be."""
    del targets
    began: dict[tuple[str, Identity], float] = {}
    first: dict[tuple[str, str, int], dict[int, Event]] = defaultdict(dict)
    for event in events:
        if event.kind == h.SETTLES and event.key:
            began.setdefault((event.queue, _name(event)), event.at)
        elif event.kind == h.HANDED and event.key:
            first[event.queue, event.key, event.producer].setdefault(event.number, event)
    found = []
    for (queue, key, _), handed in first.items():
        numbers = sorted(handed)
        for before, after in itertools.pairwise(numbers):
            done = began.get((queue, _name(handed[before])))
            if done is None or handed[after].at < done:
                found.append(f"{queue} key {key}: {_name(handed[after])} before {_name(handed[before])} was done")
    return _told("messages overtook others of their key", found)


def early(events: Sequence[Event], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """Handed out before its delay was over."""
    jumps = any(event.kind == h.FAULT and event.text.startswith("clock") for event in events)
    share = 1.0 - SLEW_MAX if jumps else 1.0
    due = {
        (queue, _name(event)): event.at + event.delay * share - EARLY_SECONDS_MAX
        for event in events
        if event.kind == h.SENT and event.delay
        for queue in targets[event.queue]
    }
    return _told(
        "messages came early",
        (
            f"{event.queue} {_name(event)} by {due[event.queue, _name(event)] - event.at:.3f} s"
            for event in events
            if event.kind == h.HANDED and event.at < due.get((event.queue, _name(event)), 0.0)
        ),
    )


def leases_cut_short(events: Sequence[Event], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """Handed to somebody else because a lease ran out, before it can have."""
    del targets
    last: dict[tuple[str, Identity], Event] = {}
    found = []
    for event in events:
        if event.kind != h.HANDED:
            continue
        name = event.queue, _name(event)
        before = last.get(name)
        # With the same number of deliveries the former one was never durable: no lease at all.
        expired = before is not None and event.text == EXPIRED and event.delivery > before.delivery
        if before is not None and expired and event.at - before.at < LEASE_SECONDS * (1 - SLEW_MAX):
            found.append(f"{event.queue} {_name(event)} after {event.at - before.at:.3f} s, to {event.worker}")
        last[name] = event
    return _told("leases ended before their time", found)


def torn(events: Sequence[Event], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """Transactions of which a part was done; and messages that two transactions settled."""
    del targets
    parts: dict[str, set[tuple[str, Identity]]] = defaultdict(set)
    settles: dict[tuple[str, Identity], set[str]] = defaultdict(set)
    settled: dict[str, tuple[str, Identity]] = {}
    handed: set[tuple[str, Identity]] = set()
    handed_last: dict[tuple[str, Identity], Event] = {}
    taken: dict[str, Event] = {}
    for event in events:
        name = event.queue, _name(event)
        if event.kind == h.HANDED:
            handed.add(name)
            handed_last[name] = event
        if event.transaction and event.kind == h.SENT:
            parts[event.transaction].add(name)
        elif event.transaction and event.kind == h.SETTLES:
            settles[name].add(event.transaction)
            taken[event.transaction] = event
        elif event.transaction and event.kind == h.SETTLED:
            settled[event.transaction] = name
    done = {transaction for transaction, names in parts.items() if names & handed}
    halves = [
        f"{transaction}: {sorted(names & handed)} came, {sorted(names - handed)} did not"
        for transaction, names in parts.items()
        if transaction in done and not names <= handed
    ]
    twice = [f"{name}: {sorted(those & done)}" for name, those in settles.items() if len(those & done) > 1]
    again = [
        f"{event.queue} {_name(event)} after {transaction}, to {handed_last[event.queue, _name(event)].worker}"
        for transaction, event in taken.items()
        if transaction in done and handed_last[event.queue, _name(event)].delivery > event.delivery
    ]
    return (
        _told("transactions were done in part", halves)
        + _told("messages were settled by two transactions", twice)
        + _told("messages came again after a transaction that settled them", again)
        + _told("transactions were confirmed and not done", (t for t in settled if t not in done))
    )


def undecided(events: Sequence[Event], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """Prepared messages that came before the sender's database had decided."""
    del targets
    prepared = {event.queue for event in events if event.kind == h.DECIDED}
    decided: set[tuple[str, Identity]] = set()
    found = []
    for event in events:
        if event.kind == h.DECIDED:
            decided.add((event.queue, _name(event)))
        elif event.kind == h.HANDED and event.queue in prepared and (event.queue, _name(event)) not in decided:
            found.append(f"{event.queue} {_name(event)} to {event.worker}")
    return _told("prepared messages came undecided", found)


def recovered(events: Sequence[Event]) -> int:
    """Return how many messages came whose sender never heard of a confirm: no fault, and good to know."""
    confirmed = {_name(event) for event in events if event.kind == h.CONFIRMED}
    return len({_name(event) for event in events if event.kind == h.HANDED} - confirmed)


def errors(events: Sequence[Event], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """User code met an error, though every call had time enough."""
    del targets
    return _told("errors reached user code", (event.text for event in events if event.kind == h.ERROR))


CHECKERS: tuple[Callable[[Sequence[Event], Mapping[str, Sequence[str]]], list[str]], ...] = (
    lost,
    unexpected,
    settled_twice,
    stored_twice,
    out_of_order,
    keys_overtaken,
    early,
    leases_cut_short,
    torn,
    undecided,
    errors,
)


def judge(events: Sequence[Event], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """Return everything that is wrong with a history.

    Args:
        events: The history.
        targets: The queues that a message belongs to, by where it was sent.

    """
    return [problem for check in CHECKERS for problem in check(events, targets)]
