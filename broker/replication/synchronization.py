"""Phase 2, synchronization: how a learner's log becomes a prefix of the leader's. A pure function of two logs.

Entries of one epoch are written by one leader in one order. So two logs agree on an epoch up to where the shorter one
of them leaves it, and before that they agree on everything. It follows that the last place where two logs agree is
found in the newest epoch that both have: the lower of their last positions in it.

1. Find that place. There is none, or it lies before the leader's log: SNAP.
2. The learner's log ends there: DIFF. Else: TRUNC to it. What follows there in the leader's log comes as proposals.

The position in the plan always bears the leader's chain hash. The learner compares it with its own before it obeys: a
difference means that the two logs broke the rule above, that is damage or a bug, and the learner stops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sluicemq.broker.replication.history import History, Position, epoch_of
from sluicemq.broker.replication.messages import Method


@dataclass(frozen=True, slots=True)
class Plan:
    """What a learner has to do, and the position from which on it is sent entries.

    With SNAP the position is the beginning of the leader's log: the snapshot covers at least that.
    """

    method: Method
    position: Position


def plan(leader: History, chain_at: Callable[[int], bytes | None], learner_ends: Sequence[Position]) -> Plan:
    """Return how to bring a learner's log in line with the leader's.

    Args:
        leader: The leader's log, with its present beginning.
        chain_at: Chain hash at a zxid of the leader's log; None where the log proper does not hold it.
        learner_ends: Last position of each epoch in the learner's durable log, rising, at least one; the oldest may be
            missing.

    """
    last = learner_ends[-1]
    for theirs in reversed(learner_ends):
        ours = leader.end_of(epoch_of(theirs.zxid))
        if ours is None:
            continue
        common = ours if ours.zxid <= theirs.zxid else _position(theirs.zxid, chain_at)
        if common is None or common.zxid < leader.start.zxid:
            break
        return Plan(Method.DIFF if common.zxid == last.zxid else Method.TRUNC, common)
    return Plan(Method.SNAP, leader.start)


def _position(zxid: int, chain_at: Callable[[int], bytes | None]) -> Position | None:
    chain = chain_at(zxid)
    return None if chain is None else Position(zxid, chain)
