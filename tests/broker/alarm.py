"""The digest by which brokers of a cluster compare themselves, for tests that have machines only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.pipeline.ensemble.state_hashes import TURN_BITS, state_hash
from sluicemq.broker.replication.agreement import difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.queues.machine import Machine


def assert_no_alarm(machines: Sequence[Machine], turn: int) -> None:
    """Assert that brokers with these machines would not find that one differs."""
    first, *others = (state_hash(machine, turn << TURN_BITS) for machine in machines)
    for other in others:
        assert other.digest == first.digest, f"the alarm names {difference(first, other)}"
