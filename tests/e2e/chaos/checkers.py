"""Judges of a history: each returns what it found wrong, as text, and nothing where all is well. Pure.

They judge by what was promised: what was confirmed is not lost; what was acknowledged does not come again; a message is
stored once, however often it was sent; a queue has the order of its producers; a key's messages are worked on one after
the other; nobody gets a message early; of two workers that have one message at most one can settle it.
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
        elif event.kind == h.HANDED:
            positions[event.queue, _name(event)].add(event.position)
    return _told(
        "messages are stored more than once",
        (f"{queue} {name} at {sorted(found)}" for (queue, name), found in positions.items() if len(found) > 1),
    )


def out_of_order(events: Sequence[Event], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """Positions that do not ascend with a producer's numbers, where it waits for each confirm before the next."""
    del targets
    by_producer: dict[tuple[str, int], list[Event]] = defaultdict(list)
    for event in events:
        if event.kind == h.CONFIRMED:
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
    due = {
        (queue, _name(event)): event.at + event.delay - EARLY_SECONDS_MAX
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
    errors,
)


def judge(events: Sequence[Event], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """Return everything that is wrong with a history.

    Args:
        events: The history.
        targets: The queues that a message belongs to, by where it was sent.

    """
    return [problem for check in CHECKERS for problem in check(events, targets)]
