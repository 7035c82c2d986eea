"""Changes of voters that would lock the cluster are refused, or taken back while that is safe."""

from __future__ import annotations

from sluicemq.broker.replication import effects, events
from sluicemq.broker.replication.history import MembershipRecord, epoch_of
from sluicemq.broker.replication.messages import Phase, Role
from sluicemq.broker.replication.options import Options
from sluicemq.wire.errors import OutcomeUnknown, Unavailable
from tests.broker.replication.network import Network, Node


def formed(*nodes: int, **more) -> Network:
    network = Network(*nodes, **more)
    network.start()
    network.run_until(network.settled)
    return network


def refusal(node: Node | None, reference: object) -> str:
    assert node is not None
    answer = node.answer_to(reference)
    assert isinstance(answer, effects.Refused)
    assert isinstance(answer.error, Unavailable)
    return str(answer.error)


def voters(node: Node | None) -> set[int]:
    assert node is not None
    configuration = node.replica.configuration
    assert configuration is not None
    assert configuration.next_voters is None
    return {member.node for member in configuration.voters}


def records(node: Node | None) -> int:
    assert node is not None
    return sum(isinstance(entry.body, MembershipRecord) for entry in node.log.entries)


def test_a_voter_cannot_be_removed_while_the_rest_would_need_one_that_lost_its_disk() -> None:
    network = formed(1, 2, 3)
    leader = network.leader()
    network.kill(1)
    network[1].wipe(b"second")
    network[1].start()
    network.heal()
    network.run_until(network.settled)
    network.run(0.01)
    leader.step(events.RemoveVoter("remove", 2))
    told = refusal(leader, "remove")
    assert "node 1 has come back with an empty disk" in told
    assert "make it a voter again first" in told
    assert records(leader) == 0, "nothing was written"
    leader.step(events.AddVoter("replace", 1))
    network.run_until(network.settled)
    leader.step(events.RemoveVoter("then", 2))
    network.run_until(network.settled)
    assert leader.answer_to("then") == effects.Done("then")
    assert voters(leader) == {1, 3}


def test_a_change_whose_voters_are_not_there_names_who_is_missing() -> None:
    network = formed(1, 2, 3)
    leader = network.leader()
    network.kill(1)
    network.run(0.1)
    leader.step(events.RemoveVoter("remove", 2))
    assert "nodes (1, 3) would vote, and 2 of them" in refusal(leader, "remove")
    assert "node 1 is not connected" in refusal(leader, "remove")
    leader.step(events.RemoveVoter("dead", 1))
    network.run_until(network.settled)
    assert leader.answer_to("dead") == effects.Done("dead"), "to remove the dead one is what helps"


def test_a_voter_that_is_connected_and_silent_does_not_count_as_there() -> None:
    network = formed(1, 2, 3)
    leader = network.leader()
    network.partition((1,), (2, 3))
    network.run(network.options.leader_seconds + network.options.ping_seconds)
    leader.step(events.RemoveVoter("remove", 2))
    assert "node 1 was not heard lately" in refusal(leader, "remove")


def test_a_voter_that_lags_does_not_count_as_there() -> None:
    options = Options(message_bytes_max=200, window_bytes_max=400)
    network = formed(1, 2, 3, options=options)
    leader = network.leader()
    network.partition((1,), (2, 3))
    for body in range(9):
        network.publish(body)
        network.run(0.01)
    leader.step(events.RemoveVoter("remove", 2))
    assert "node 1 has not caught up (it has 1.0)" in refusal(leader, "remove")


def cut_off_in_a_change() -> tuple[Network, Node]:
    """Leader 3 has begun to remove voter 2; then voter 1 falls silent, whom the new group needs."""
    network = formed(1, 2, 3)
    leader = network.leader()
    assert leader is not None
    network.partition((1,), (2, 3))
    leader.step(events.RemoveVoter("remove", 2))
    assert leader.replica.configuration.next_voters is not None
    return network, leader


def test_a_change_whose_new_voters_fall_silent_is_taken_back_and_the_old_ones_go_on() -> None:
    network, leader = cut_off_in_a_change()
    network.publish("waits")
    epoch = leader.replica.epoch
    took = network.run_until(lambda: leader.answer_to("remove") is not None)
    assert took < network.options.leader_seconds + 2 * network.options.ping_seconds
    assert "taken back: node 1 was not heard lately" in refusal(leader, "remove")
    assert leader.status == (Role.LEADING, Phase.BROADCAST)
    assert leader.replica.epoch == epoch
    assert voters(leader) == {1, 2, 3}
    network.publish("goes on")
    network.run(0.1)
    assert leader.committed == leader.log.last.zxid
    network.heal()
    network.run_until(network.settled)
    assert network[1].log.bodies == ["waits", "goes on"]
    network.run(0.01)
    leader.step(events.RemoveVoter("again", 2))
    network.run_until(network.settled)
    assert leader.answer_to("again") == effects.Done("again")


def test_a_change_that_is_never_committed_though_all_are_heard_is_taken_back_after_its_time() -> None:
    network = formed(1, 2, 3)
    leader = network.leader()
    network[1].disk_seconds = 60.0
    begun = network.now
    leader.step(events.RemoveVoter("remove", 2))
    network.run_until(lambda: leader.answer_to("remove") is not None)
    assert network.now - begun >= network.options.change_seconds
    assert "was not committed in time" in refusal(leader, "remove")
    assert voters(leader) == {1, 2, 3}


def test_a_leader_that_has_no_quorum_of_the_old_voters_either_takes_nothing_back() -> None:
    network, leader = cut_off_in_a_change()
    network.kill(2)
    network.run_until(lambda: leader.replica.role is Role.LOOKING)
    assert records(leader) == 1
    answer = leader.answer_to("remove")
    assert isinstance(answer, effects.Refused)
    assert isinstance(answer.error, OutcomeUnknown)


def test_the_next_leader_never_takes_back_what_another_has_begun() -> None:
    network = formed(1, 2, 3)
    network.leader().step(events.RemoveVoter("remove", 1))
    network.run_until(lambda: network[2].log.durable == 2)
    network.kill(3)
    network.run(20.0)
    assert network.leader() is None, "the new group is 2 and 3, and 3 may have confirmed something in it"
    assert records(network[2]) == 1
    network[3].start()
    network.heal()
    network.run_until(network.settled)
    assert voters(network.leader()) == {2, 3}


def test_a_leader_that_began_a_change_and_lost_the_lead_finds_it_carried_on_or_undone_but_never_both() -> None:
    network, old = cut_off_in_a_change()
    network.run_until(lambda: records(old) == 2)
    network.kill(3)  # before the others have the second record
    network.heal()
    network.run(5.0)
    network[3].start()
    network.heal()
    network.run_until(network.settled)
    now = {frozenset(voters(node)) for node in network.nodes.values()}
    assert len(now) == 1
    assert epoch_of(network[3].log.last.zxid) > 1


# --- a leader whose own disk hangs ------------------------------------------------------------------------------------


def test_a_leader_whose_disk_hangs_lets_another_lead_and_nothing_that_a_quorum_has_is_lost() -> None:
    network = formed(1, 2, 3)
    old = network.leader()
    old.disk_seconds = 600.0
    network.publish("a", "b")
    begun = network.now
    network.run_until(lambda: network.leader() is not None and network.leader() is not old)
    assert network.now - begun <= network.options.own_disk_seconds + network.options.ping_seconds + 0.1
    assert network.leader().log.bodies == ["a", "b"]
    network.publish("c")
    network.run(0.1)
    assert network.leader().committed == network.leader().log.last.zxid
    assert old.status == (Role.LOOKING, Phase.ELECTION), "it waits for its disk, and disturbs nobody"


def test_a_disk_that_is_slow_but_moves_is_no_reason_to_step_down() -> None:
    network = formed(1, 2, 3)
    leader = network.leader()
    leader.disk_seconds = 0.9 * network.options.own_disk_seconds
    for body in range(100):
        network.publish(body)
        network.run(0.1)
        assert leader.status == (Role.LEADING, Phase.BROADCAST)
        assert leader.replica.epoch == 1


def test_a_leader_whose_disk_hangs_stays_when_no_quorum_could_go_on_without_it() -> None:
    network = formed(1, 2)
    leader = network.leader()
    leader.disk_seconds = 60.0
    network.publish("a")
    network.run(30.0)
    assert leader.status == (Role.LEADING, Phase.BROADCAST)


# --- who has caught up ------------------------------------------------------------------------------------------------


def wiped_and_back(network: Network, node: int) -> Node:
    network.kill(node)
    network[node].listed = ()
    network[node].wipe(b"second")
    network[node].start()
    network.heal()
    network.run_until(lambda: network[node].promised_epoch > 0)
    network[node].disk_seconds = 60.0
    return network[node]


def test_a_learner_that_has_everything_and_nothing_durably_has_not_caught_up() -> None:
    network = formed(1, 2, 3)
    network.publish("a")
    network.run_until(network.settled)
    wiped_and_back(network, 1)
    network.run(2.0)
    assert network[1].log.bodies == ["a"]
    assert network[1].log.durable == 0
    network.leader().step(events.AddVoter("again", 1))
    assert "has not caught up yet" in refusal(network.leader(), "again")


def test_a_learner_under_load_has_caught_up_when_it_has_what_was_committed_a_ping_ago() -> None:
    network = formed(1, 2, 3)
    wiped = wiped_and_back(network, 1)
    wiped.disk_seconds = 0.05
    for body in range(300):
        network.publish(body)
        network.run(0.01)
    assert wiped.log.durable < len(wiped.log.entries), "it is always a little behind"
    network.leader().step(events.AddVoter("again", 1))
    network.run(1.0)
    assert network.leader().answer_to("again") == effects.Done("again")


def test_a_voter_that_lost_its_disk_votes_for_whoever_has_the_history() -> None:
    """The change that made it a voter is in the other's log; its own is empty, and nobody has told it who votes."""
    network = formed(1, 2, 3)
    leader = network.leader()
    leader.step(events.RemoveVoter("remove", 1))
    network.run_until(lambda: leader.answer_to("remove") is not None)
    network.kill(2)
    network[2].listed = ()
    network[2].log.entries, network[2].log.durable = [], 0
    network.kill(3)
    network[3].start()
    network[2].start()
    network.heal()
    network.run_until(network.settled)
    assert network.leader() is leader
