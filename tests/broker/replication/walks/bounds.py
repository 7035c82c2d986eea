"""How far a walk goes, and the walks that have a name. It must not import the core: coverage begins before that."""

from __future__ import annotations

from dataclasses import dataclass

STARTS: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {
    "even": (((1, 0),), ((1, 0),), ((1, 0),)),
    # Node 1 has written what the others do not have.
    "ahead": (((1, 0), (1, 1)), ((1, 0),), ((1, 0),)),
    # So has 3, in an epoch of its own that reached nobody else: figure 8 of the Raft paper.
    "figure-8": (((1, 0), (1, 1)), ((1, 0),), ((1, 0), (2, 0))),
}
"""Logs of the nodes 1 to 3 as (epoch, counter); equal names are equal entries. All have promised the latest epoch."""


@dataclass(frozen=True)
class Bounds:
    """How far a walk goes.

    Attributes:
        nodes: How many.
        votes: Elections by votes, from empty disks; else by an oracle that may at any time let any quorum turn to any
            leader in it, from a cluster in epoch 1.
        start: With the oracle: which logs there are at first (`STARTS`).
        message_entries: How many entries a message may hold; 0: as many as there are.
        epochs: The highest epoch that may be promised.
        entries: How many proposals.
        crashes: How many in all; who crashed may start again at any time.
        resets: How many connections may break without a crash.
        elections: How often the oracle may elect.
        joins: How often it may let one more node turn to somebody who leads.
        timeouts: How often a leader or learner may run out of patience.
        compactions: How often a node may put what is committed into a snapshot.
        reads: How many reads that ask a quorum.
        drops: Whether a disk that comes to rest may also drop what it was given, not only finish it.

    """

    nodes: int = 2
    votes: bool = True
    start: str = "even"
    message_entries: int = 0
    epochs: int = 2
    entries: int = 2
    crashes: int = 1
    resets: int = 0
    elections: int = 2
    joins: int = 1
    timeouts: int = 0
    compactions: int = 0
    reads: int = 0
    drops: bool = True


WALKS = {
    "two": Bounds(nodes=2, votes=True, epochs=2, entries=2, crashes=1),
    "two-oracle": Bounds(nodes=2, votes=False, start="ahead", epochs=3, entries=2, crashes=1),
    "three": Bounds(nodes=3, votes=False, epochs=3, entries=2, crashes=1, joins=0),
    "figure-8": Bounds(
        nodes=3, votes=False, start="figure-8", message_entries=1, epochs=4, entries=0, crashes=0, joins=0
    ),
}
