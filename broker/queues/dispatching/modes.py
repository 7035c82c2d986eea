"""Modes of a queue: who of its consumers takes part.

`shared`: all of them. `exclusive`: the only one that may be there. `failover`: one of them, the others wait.

Everything here is a function of who is there and who holds leases, never of a flag that somebody sets: whoever is
active can be computed at any time, so nobody can be active twice or nobody for ever. This module must not know how
consumers come and go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sluicemq.broker.queues.dispatching.consumers import Consumer

SHARED, EXCLUSIVE, FAILOVER = "shared", "exclusive", "failover"


def active_of(mode: str, consumers: Iterable[Consumer]) -> Consumer | None:
    """Return the one consumer that takes part; None where all do, or where there is none.

    Args:
        mode: The queue's mode.
        consumers: All consumers in the order in which they came.

    Returns:
        In `failover` the heaviest, the earliest of those with one weight. In `exclusive` the earliest: there are others
        only where the queue became exclusive with several consumers, and they wait. Whether the active one has credit
        does not matter: one that is slow must not make the others take turns.

    """
    if mode == SHARED:
        return None
    if mode == EXCLUSIVE:
        return next(iter(consumers), None)
    # `max` returns the first of equals.
    return max(consumers, key=lambda consumer: consumer.weight, default=None)


def holder_against(mode: str, consumers: Iterable[Consumer]) -> Consumer | None:
    """Return the consumer because of which another one is refused; None where it may come."""
    return active_of(mode, consumers) if mode == EXCLUSIVE else None


def may_deliver(active: tuple[int, int], lease_holders: Collection[tuple[int, int]], planned_elsewhere: int) -> bool:
    """Return whether the active consumer may get messages: nobody else has any.

    Args:
        active: Session and number of the active consumer.
        lease_holders: Session and number of all that hold leases on the queue, those that left included.
        planned_elsewhere: Messages that are on their way to others, and are not leased yet.

    """
    if planned_elsewhere:
        return False
    return not lease_holders or (len(lease_holders) == 1 and active in lease_holders)
