"""Voters come and go at random while nodes are killed, cut off and healed: nothing is lost, and the cluster goes on.

No fault of a disk and no loss of messages, as in the simulator, but many more changes of voters, also such as are taken
back. A failure names its seed.
"""

from __future__ import annotations

import random

import pytest

from sluicemq.broker.replication import effects, events
from tests.broker.replication.network import Network, Node

STEPS = 120
SECONDS = (0.001, 0.003, 0.01, 0.1, 0.5, 1.3)


class Churn:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        count = self.random.choice((3, 4, 5))
        self.network = Network(*range(1, count + 1))
        self.network.start()
        self.network.run_until(self.network.settled)
        self.history: dict[int, bytes] = {}
        self.taken_back = 0

    def anybody(self) -> Node:
        return self.random.choice(list(self.network.nodes.values()))

    def run(self) -> None:
        deeds = (self.publish, self.remove, self.add, self.part, self.network.heal, self.kill, self.revive)
        for step in range(STEPS):
            self.random.choices(deeds, (30, 15, 15, 10, 12, 8, 10))[0]()
            self.network.run(self.random.choice(SECONDS))
            self.check(step)
        for node in self.network.nodes.values():
            if not node.alive:
                node.start()
        self.network.heal()
        self.network.run_until(self.network.settled)
        for node in self.network.nodes.values():
            held = {entry.zxid: entry.chain for entry in node.log.entries}
            assert self.history.items() <= held.items(), f"node {node.node} lacks what was committed"

    def check(self, step: int) -> None:
        for node in self.network.nodes.values():
            assert node.fatal is None, f"step {step}: node {node.node} ended: {node.fatal}"
            for entry in node.log.entries:
                if node.alive and entry.zxid <= node.committed:
                    known = self.history.setdefault(entry.zxid, entry.chain)
                    assert known == entry.chain, f"step {step}: node {node.node} has committed another {entry}"
            for answer in node.answers:
                self.taken_back += isinstance(answer, effects.Refused) and "taken back" in str(answer.error)
            node.answers.clear()

    def publish(self) -> None:
        if self.network.leader() is not None:
            self.network.publish("something")

    def remove(self) -> None:
        leader = self.network.leader()
        if leader is not None:
            leader.step(events.RemoveVoter("remove", self.anybody().node))

    def add(self) -> None:
        leader = self.network.leader()
        if leader is not None:
            leader.step(events.AddVoter("add", self.anybody().node))

    def part(self) -> None:
        groups: tuple[list[int], list[int]] = ([], [])
        for node in self.network.nodes:
            self.random.choice(groups).append(node)
        self.network.partition(*map(tuple, groups))

    def kill(self) -> None:
        node = self.anybody()
        if node.alive:
            self.network.kill(node.node)

    def revive(self) -> None:
        node = self.anybody()
        if not node.alive:
            node.start()
            for other in self.network.nodes:
                if other != node.node:
                    self.network.connect(node.node, other)


@pytest.mark.parametrize("seed", [*range(25), 148, 459])
def test_nothing_is_lost_and_the_cluster_goes_on(seed: int) -> None:
    Churn(seed).run()


def test_changes_are_taken_back_in_these_runs() -> None:
    for seed in (10, 13, 20):
        churn = Churn(seed)
        churn.run()
        assert churn.taken_back > 0
