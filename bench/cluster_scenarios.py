"""What is measured with three nodes: rates and latencies as of one, and for how long a lost leader stops publishing.

Only what is peculiar to clusters stands here; the rest is `bench.scenarios`, for which a cluster is a server.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.cluster_systems import FAILING_OVER, OURS_CLUSTERED
from bench.clusters import Cluster
from bench.scenarios import QUICK, Pace, Record, Scenarios
from bench.session import Session
from bench.systems import System

FAULTS = {"killed": signal.SIGKILL, "frozen": signal.SIGSTOP}
LEADER, OTHER = "the leader", "another node"
"""Which node a client connects to first. Ours finds the leader by itself."""


@dataclass(frozen=True, slots=True)
class FaultPace:
    """How often and how long leaders are missed.

    Attributes:
        rounds: How often each fault.
        rate: Publishes a second, each message on its own.
        seconds: So long after a fault is waited at most until publishing goes on.
        settle_seconds: After a node is back, before the next fault.

    """

    rounds: int = 3
    rate: int = 200
    seconds: float = 20.0
    settle_seconds: float = 2.0


FULL_FAULTS = FaultPace()
QUICK_FAULTS = FaultPace(rounds=1, settle_seconds=0.5)


class ClusterScenarios(Scenarios):
    """All scenarios of three nodes."""

    def __init__(
        self,
        session: Session,
        pace: Pace,
        faults: FaultPace,
        on_record: Callable[[list[Record]], None],
        records: Sequence[Record] = (),
        deadline: float = math.inf,
    ) -> None:
        super().__init__(session, pace, on_record, records, deadline)
        self._faults = faults

    def run_all(self) -> None:
        """Run every scenario, first one round of all."""
        systems, pace = self._session.systems, self._pace
        failing_over = [system for system in systems if system.name in FAILING_OVER]
        for rounds in range(1, max(pace.rounds, self._faults.rounds) + 1):
            self.rates(systems, 100, min(rounds, pace.rounds))
            self.one_in_flight(systems, min(rounds, pace.rounds))
            self.end_to_end(systems, min(rounds, pace.rounds))
            self.fail_over(failing_over, min(rounds, self._faults.rounds))
        self.one_in_flight(systems, pace.single_rounds)

    def fail_over(self, systems: list[System], rounds: int) -> None:
        """Kill and freeze the leader under publishes at an even rate, and see for how long they stop."""
        for fault in FAULTS:
            for spot in (LEADER, OTHER):
                asked = [system for system in systems if spot == LEADER or system.name != OURS_CLUSTERED]
                settings = {"fault": fault, "spot": spot, "rate": self._faults.rate}
                self._each("failover", self._measure_fault(fault, spot), asked, rounds, **settings)

    def _measure_fault(self, fault: str, spot: str) -> Callable[[System], Record]:
        number = FAULTS[fault]

        def measure(system: System) -> dict[str, Any]:
            cluster, queue = self._session.server(system), self._queue("fault")
            assert isinstance(cluster, Cluster)
            producer = self._session.worker(system)
            producer.run("declare", cluster.ports, queue)
            leader = cluster.leader_soon(queue)
            first = leader if spot == LEADER else leader + 1
            pids = cluster.nodes[leader].pids()
            try:
                result = producer.run(
                    "fault",
                    cluster.ports_around(first % len(cluster.nodes)),
                    queue,
                    rate=self._faults.rate,
                    seconds=self._faults.seconds,
                    pids=pids,
                    signal=number.value,
                )
            finally:
                cluster.revive(leader, pids, killed=number == signal.SIGKILL)
            time.sleep(self._faults.settle_seconds)
            return result

        return measure


CLUSTER_FULL = Pace(rounds=3, publish_seconds=1.2, consume_seconds=1.5, steady_seconds=1.5, single_seconds=1.0)
CLUSTER_QUICK = replace(QUICK)
