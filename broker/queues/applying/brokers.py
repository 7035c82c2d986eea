"""Entries about the brokers: an epoch begins, others vote, one is reached elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.cluster import NODES_MAX
from sluicemq.broker.queues.outcomes import Outcome
from sluicemq.wire.errors import LimitReached

if TYPE_CHECKING:
    from sluicemq.broker.queues.entries import Epoch
    from sluicemq.broker.queues.entries_of_cluster import Membership, NodeAddress
    from sluicemq.broker.queues.machine import Machine


def epoch(machine: Machine, zxid: int, entry: Epoch) -> Outcome:
    """A leader begins, and says who votes; a repair does not know."""
    if entry.payload:
        machine.cluster.configured(zxid, bytes(entry.payload))
    return Outcome()


def membership(machine: Machine, zxid: int, entry: Membership) -> Outcome:
    """Others vote."""
    machine.cluster.configured(zxid, bytes(entry.payload))
    return Outcome()


def node_address(machine: Machine, zxid: int, entry: NodeAddress) -> Outcome:
    """A broker is reached there."""
    del zxid
    if machine.cluster.moved(entry.node, entry.address):
        return Outcome()
    return Outcome(
        None,
        LimitReached(
            f"addresses of {NODES_MAX} brokers are known; forget one that is gone first",
            retryable=False,
            limit="nodes_max",
            value=NODES_MAX,
        ),
    )
