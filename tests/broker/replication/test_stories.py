"""Stories of an ensemble: forming, failing over, rejoining, parting, changing its voters."""

from __future__ import annotations

import pytest

from sluicemq.broker.replication.messages import Method, Phase, Role, Synchronize
from tests.broker.replication.network import Network


def formed(*nodes: int, **more) -> Network:
    network = Network(*nodes, **more)
    network.start()
    network.run_until(network.settled)
    return network


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_empty_voters_form_a_cluster_at_once_and_the_highest_leads(count: int) -> None:
    network = Network(*range(1, count + 1))
    network.start()
    took = network.run_until(network.settled)
    leader = network.leader()
    assert leader is not None
    assert leader.node == count
    assert leader.replica.epoch == 1
    assert took < 0.05
    for node in network.nodes.values():
        assert node.replica.configuration.voters == {one.member for one in network.nodes.values()}


def test_what_is_published_is_committed_on_all() -> None:
    network = formed(1, 2, 3)
    network.publish("a", "b", "c")
    network.run_until(network.settled)
    assert [node.log.bodies for node in network.nodes.values()] == [["a", "b", "c"]] * 3


def test_a_killed_leader_is_replaced_without_waiting_and_comes_back_as_a_follower() -> None:
    network = formed(1, 2, 3)
    network.publish("a")
    network.run_until(network.settled)
    network.kill(3)
    took = network.run_until(network.settled)
    assert took < 0.05
    assert network.leader().node == 2
    network.publish("b")
    network.run_until(network.settled)
    network.sent.clear()
    network[3].start()
    network.heal()
    network.run_until(network.settled)
    assert network.leader().node == 2, "who comes back does not disturb"
    assert network[3].log.bodies == ["a", "b"]
    assert [m.method for _, _, m in network.sent if isinstance(m, Synchronize)] == [Method.DIFF]


def cut_off_leader_with_own_entries(*bodies: object) -> Network:
    """Three voters; leader 3 is cut off, writes *bodies* alone, and 1 and 2 go on without it."""
    network = formed(1, 2, 3)
    network.publish("a")
    network.run_until(network.settled)
    network.partition((3,), (1, 2))
    for body in bodies:
        network.publish(body)
    network.run_until(lambda: network.leader() is not None and network.leader().node == 2)
    network.publish("b")
    network.run(0.1)
    return network


def test_a_leader_without_a_quorum_steps_down_before_a_new_one_is_there() -> None:
    network = formed(1, 2, 3)
    network.partition((3,), (1, 2))
    cut_at = network.now
    network.run_until(lambda: network[3].replica.role is Role.LOOKING)
    stepped_down_at = network.now
    assert stepped_down_at - cut_at <= network.options.leader_seconds + network.options.ping_seconds
    assert network.leader() is None
    network.run_until(lambda: network.leader() is not None)
    assert network.leader().node == 2
    assert network.now > stepped_down_at


def test_entries_that_only_the_old_leader_has_are_cut_off() -> None:
    network = cut_off_leader_with_own_entries("lost 1", "lost 2")
    assert network[3].log.bodies == ["a", "lost 1", "lost 2"]
    network.sent.clear()
    network.heal()
    network.run_until(network.settled)
    assert [node.log.bodies for node in network.nodes.values()] == [["a", "b"]] * 3
    assert Method.TRUNC in [m.method for _, to, m in network.sent if isinstance(m, Synchronize) and to == 3]
    assert all(node.fatal is None for node in network.nodes.values())


def test_who_was_away_too_long_gets_a_snapshot() -> None:
    network = formed(1, 2, 3)
    network.kill(1)
    network.publish(*range(20))
    network.run_until(network.settled)
    for node in (2, 3):
        network[node].log.begin_at(network[node].log.last.zxid - 5)
    network.publish("later")
    network.sent.clear()
    network[1].start()
    network.heal()
    network.run_until(network.settled)
    assert Method.SNAP in [m.method for _, to, m in network.sent if isinstance(m, Synchronize) and to == 1]
    assert network[1].log.bodies == [15, 16, 17, 18, 19, "later"]
    assert network[1].log.last == network[3].log.last


def test_the_minority_of_five_steps_down_and_the_majority_goes_on() -> None:
    network = formed(1, 2, 3, 4, 5)
    network.publish("a")
    network.run_until(network.settled)
    network.partition((4, 5), (1, 2, 3))
    network.run_until(lambda: network.leader() is not None and network.leader().node == 3)
    network.publish("b")
    network.run(1.0)
    assert [network[node].replica.role for node in (4, 5)] == [Role.LOOKING] * 2
    network.heal()
    network.run_until(network.settled)
    assert network.leader().node == 3
    assert [node.log.bodies for node in network.nodes.values()] == [["a", "b"]] * 5


def test_without_a_quorum_nothing_is_committed_and_nobody_leads() -> None:
    network = formed(1, 2, 3, 4, 5)
    for node in (1, 2, 3):
        network.kill(node)
    leader = network.leader()
    network.publish("unknown")
    committed = leader.committed
    network.run(10.0)
    assert network.leader() is None
    assert leader.committed == committed


def test_a_voter_that_returns_with_an_empty_disk_learns_but_does_not_vote() -> None:
    network = formed(1, 2, 3)
    network.publish("a")
    network.run_until(network.settled)
    network.kill(1)
    network[1].wipe(b"second")
    network[1].start()
    network.heal()
    network.run_until(network.settled)
    assert network[1].status == (Role.OBSERVING, Phase.BROADCAST)
    network.kill(3)
    network.run(5.0)
    assert network.leader() is None, "the wiped node's voice does not make a quorum"


def test_a_wiped_voter_never_helps_to_form_a_second_cluster() -> None:
    network = formed(1, 2, 3)
    network.publish("a")
    network.run_until(network.settled)
    for node in (1, 2, 3):
        network.kill(node)
    for node in (1, 2):
        network[node].wipe(b"second")
        network[node].start()
    network.heal()
    network.run(5.0)
    assert network.leader() is None, "the third listed voter may have data"
    network[3].start()
    network.heal()
    network.run(5.0)
    assert network.leader() is None
    assert network[3].log.bodies == ["a"]
