"""What users and operators ask of a leader: proposals, reads, voters, and who is to lead."""

from __future__ import annotations

from sluicemq.broker.replication import effects, events
from sluicemq.broker.replication.history import COUNTER_MASK, Position, epoch_of, zxid_of
from sluicemq.broker.replication.membership import Member
from sluicemq.broker.replication.messages import HandOver, Notification, Phase, Role
from sluicemq.broker.replication.options import Options
from sluicemq.wire.errors import (
    Conflict,
    LimitReached,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    RequestTimeout,
    Unavailable,
)
from tests.broker.replication.network import Network, Node


def formed(*nodes: int, **more) -> Network:
    network = Network(*nodes, **more)
    network.start()
    network.run_until(network.settled)
    return network


def refused(node: Node | None, reference: object, error: type[Exception]) -> bool:
    assert node is not None
    answer = node.answer_to(reference)
    return isinstance(answer, effects.Refused) and isinstance(answer.error, error)


# --- proposals ------------------------------------------------------------------------------------------------------


def test_proposals_are_numbered_in_one_order_and_sent_before_the_disk_has_them() -> None:
    network = formed(1, 2, 3)
    leader = network.leader()
    network.sent.clear()
    network.publish("a", "b")
    assert [one.zxid for one in leader.answers] == [zxid_of(1, 1), zxid_of(1, 2)]
    assert leader.log.durable == 1, "only the epoch's record"
    assert len(network.sent) == 4


def test_a_follower_and_a_leader_that_is_not_ready_refuse() -> None:
    network = formed(1, 2, 3)
    network[1].step(events.Propose("x", "x"))
    assert refused(network[1], "x", NotLeader)
    assert network[1].answer_to("x").error.leader == 3
    network.kill(3)
    network.run_until(lambda: network[2].status == (Role.LEADING, Phase.DISCOVERY))
    for request in (events.Propose("y", "y"), events.Read("z"), events.RemoveVoter("v", 1)):
        network[2].step(request)
    assert all(refused(network[2], reference, Unavailable) for reference in "yzv")


def test_proposals_are_refused_while_too_much_waits_for_a_quorum() -> None:
    options = Options(message_bytes_max=300, window_bytes_max=400, uncommitted_bytes_max=1_000)
    network = formed(1, 2, 3, options=options)
    leader = network.leader()
    network.partition((3,), (1, 2))
    network.publish(*range(10))
    accepted = [one for one in leader.answers if isinstance(one, effects.Proposed)]
    assert len(accepted) == 7, "entries of 164 bytes, until 1,000 are reached"
    assert all(refused(leader, body, LimitReached) for body in range(7, 10))
    network.heal()
    network.run_until(network.settled)
    network.publish("later")
    assert isinstance(network.leader().answer_to("later"), effects.Proposed)


def test_a_slow_follower_never_has_more_under_way_than_its_window() -> None:
    options = Options(message_bytes_max=400, window_bytes_max=800)
    network = formed(1, 2, 3, options=options)
    leader = network.leader()
    network.partition((1,), (2, 3))
    for body in range(40):
        network.publish(body)
        network.run(0.005)
        learners = leader.replica._state.learners.values()
        assert all(learner.progress.in_flight_bytes <= 800 for learner in learners)
    assert leader.committed == leader.log.last.zxid, "the quorum does not wait for it"
    network.heal()
    network.run_until(network.settled)
    assert network[1].log.bodies == list(range(40))


# --- reads ----------------------------------------------------------------------------------------------------------


def test_a_read_waits_for_a_quorum_that_was_asked_after_it() -> None:
    network = formed(1, 2, 3)
    leader = network.leader()
    network.publish("a")
    network.run_until(network.settled)
    leader.step(events.Read("first"))
    leader.step(events.Read("second"))
    assert leader.answer_to("first") is None
    network.run_until(lambda: leader.answer_to("second") is not None)
    assert leader.answer_to("first") == effects.ReadReady("first", leader.committed)


def test_a_leader_that_was_replaced_unknowingly_answers_no_read() -> None:
    network = formed(1, 2, 3)
    old = network.leader()
    network.partition((3,), (1, 2))
    old.step(events.Read("stale"))
    network.run(10.0)
    assert network.leader().node == 2
    assert refused(old, "stale", NotLeader)


def test_one_broker_answers_reads_at_once() -> None:
    network = formed(1)
    network[1].step(events.Read("r"))
    assert network[1].answer_to("r") == effects.ReadReady("r", zxid_of(1, 0))


def test_only_so_many_reads_may_wait() -> None:
    network = formed(1, 2, 3, options=Options(reads_max=2))
    for reference in "abc":
        network.leader().step(events.Read(reference))
    assert refused(network.leader(), "c", LimitReached)


# --- voters ---------------------------------------------------------------------------------------------------------


def with_observer() -> Network:
    network = formed(1, 2, 3)
    network.publish("a", "b")
    network.add(4)
    network.start(4)
    network.run_until(network.settled)
    assert network[4].status == (Role.OBSERVING, Phase.BROADCAST)
    network.run(0.01)  # its acknowledgement arrives
    return network


def test_a_node_that_is_no_voter_learns_everything_and_counts_for_nothing() -> None:
    network = with_observer()
    assert network[4].log.bodies == ["a", "b"]
    network.partition((3, 4), (1, 2))
    network.publish("c")
    network.run(0.5)
    assert network[4].log.bodies == ["a", "b", "c"]
    assert network[3].committed < network[3].log.last.zxid


def test_an_observer_that_has_caught_up_becomes_a_voter() -> None:
    network = with_observer()
    leader = network.leader()
    leader.step(events.AddVoter("add", 4))
    network.run_until(network.settled)
    assert leader.answer_to("add") == effects.Done("add")
    assert network[4].status == (Role.FOLLOWING, Phase.BROADCAST)
    network.kill(3)
    network.kill(2)
    network.run(5.0)
    assert network.leader() is None, "two of four"
    network[2].start()
    network.heal()
    network.run_until(lambda: network.leader() is not None)


def test_one_change_at_a_time() -> None:
    network = with_observer()
    leader = network.leader()
    leader.step(events.AddVoter("add", 4))
    leader.step(events.RemoveVoter("remove", 1))
    assert refused(leader, "remove", Unavailable)
    network.run_until(network.settled)
    leader.step(events.RemoveVoter("again", 1))
    network.run_until(network.settled)
    assert leader.answer_to("again") == effects.Done("again")
    assert {member.node for member in leader.replica.configuration.voters} == {2, 3, 4}
    assert network[1].replica.role is Role.OBSERVING


def test_a_removed_voter_may_be_switched_off_even_if_one_is_left() -> None:
    network = formed(1, 2)
    network.leader().step(events.RemoveVoter("remove", 1))
    network.run_until(network.settled)
    network.kill(1)
    network.kill(2)
    network[2].start()
    network.run_until(network.settled)
    assert network.leader().node == 2


def test_a_change_that_was_begun_is_carried_through_by_the_next_leader() -> None:
    network = with_observer()
    old = network.leader()
    old.step(events.AddVoter("add", 4))
    network.run_until(lambda: old.replica.configuration.next_voters is not None)
    network.run(0.0015)
    network.kill(3)
    network.run_until(network.settled)
    configuration = network.leader().replica.configuration
    assert configuration.next_voters is None
    assert {member.node for member in configuration.voters} == {1, 2, 3, 4}


def test_a_wiped_voter_votes_again_under_its_new_incarnation_once_it_was_added() -> None:
    network = formed(1, 2, 3)
    network.kill(1)
    network[1].wipe(b"second")
    network[1].start()
    network.heal()
    network.run_until(network.settled)
    assert network[1].status == (Role.OBSERVING, Phase.BROADCAST)
    network.run(0.01)
    network.leader().step(events.AddVoter("again", 1))
    network.run_until(network.settled)
    assert network[1].status == (Role.FOLLOWING, Phase.BROADCAST)
    assert Member(1, b"second") in network.leader().replica.configuration.voters
    network.kill(3)
    network.run_until(network.settled)
    assert network.leader() is not None


def test_changes_that_make_no_sense_are_refused_by_name() -> None:
    network = formed(1, 2, 3)
    leader = network.leader()
    for reference, request, error in (
        ("stranger", events.AddVoter("stranger", 9), Unavailable),
        ("voter", events.AddVoter("voter", 2), Conflict),
        ("nobody", events.RemoveVoter("nobody", 9), NotFound),
        ("self", events.RemoveVoter("self", 3), Conflict),
        ("leads", events.TransferLeadership("leads", 3), Conflict),
        ("who", events.TransferLeadership("who", 9), NotFound),
    ):
        leader.step(request)
        assert refused(leader, reference, error), reference


# --- who leads --------------------------------------------------------------------------------------------------------


def test_the_lead_is_handed_over_without_an_election() -> None:
    network = formed(1, 2, 3)
    network.publish("a")
    network.run_until(network.settled)
    network.sent.clear()
    old = network.leader()
    old.step(events.TransferLeadership("move", 1))
    took = network.run_until(lambda: network.leader() is not None and network.leader().node == 1)
    assert took < 0.03
    assert old.answer_to("move") == effects.Done("move")
    network.run_until(network.settled)
    assert network[3].status == (Role.FOLLOWING, Phase.BROADCAST)
    assert not any(m.role is Role.LOOKING for _, _, m in network.sent if isinstance(m, Notification))


def test_what_was_under_way_is_committed_before_the_lead_is_handed_over() -> None:
    network = formed(1, 2, 3)
    network.publish("a", "b")
    old = network.leader()
    old.step(events.TransferLeadership("move", 1))
    old.step(events.Propose("late", "late"))
    assert refused(old, "late", Unavailable)
    network.run_until(lambda: network.leader() is not None and network.leader().node == 1)
    network.run_until(network.settled)
    assert [node.log.bodies for node in network.nodes.values()] == [["a", "b"]] * 3


def test_a_lead_that_cannot_be_handed_over_is_kept() -> None:
    network = formed(1, 2, 3)
    old = network.leader()
    network.partition((1,), (2, 3))
    network.publish("a")
    old.step(events.TransferLeadership("move", 1))
    network.run(network.options.transfer_seconds + 1)
    assert refused(old, "move", RequestTimeout)
    network.publish("b")
    network.run(0.1)
    assert network[2].log.bodies == ["a", "b"]


def test_a_new_epoch_begins_in_good_order_before_the_counter_runs_out() -> None:
    network = formed(1, 2, 3, options=Options(counter_max=5))
    accepted = 0
    network.sent.clear()
    for attempt in range(1_000):
        leader = network.leader()
        if leader is not None and accepted < 30:
            leader.step(events.Propose(attempt, accepted))
            accepted += isinstance(leader.answer_to(attempt), effects.Proposed)
        network.run(0.0005)
    network.run_until(network.settled)
    assert network.leader().node == 3
    assert network.leader().replica.epoch >= 6
    assert network[1].log.bodies == list(range(30))
    assert not any(m.role is Role.LOOKING for _, _, m in network.sent if isinstance(m, Notification))
    assert any(isinstance(m, HandOver) for _, _, m in network.sent)


def test_a_voter_that_promised_a_later_epoch_to_nobody_is_taken_along_by_a_new_epoch() -> None:
    network = formed(1, 2, 3)
    network.kill(1)
    network[1].promised_epoch = 7
    network[1].start()
    network.heal()
    network.run_until(network.settled)
    assert network.leader().node == 3
    assert epoch_of(network[1].log.last.zxid) == 8


def test_a_leader_that_was_removed_by_its_predecessors_change_hands_over() -> None:
    network = formed(1, 2, 3, 4, 5)
    old = network.leader()
    old.step(events.RemoveVoter("remove", 4))
    network.run_until(lambda: network[4].log.last == old.log.last)
    network.kill(5)
    network.run_until(lambda: network.settled() and network.leader().node != 4)
    assert (Role.LEADING, Phase.BROADCAST) in network[4].roles
    assert network.leader().node == 3
    assert network[4].replica.role is Role.OBSERVING


def test_whoever_asked_hears_when_the_leadership_ends_before_the_answer() -> None:
    network = with_observer()
    old = network.leader()
    network.partition((3,), (1, 2, 4))
    old.step(events.RemoveVoter("remove", 1))
    old.step(events.TransferLeadership("move", 2))
    old.step(events.Propose("late", "late"))
    network.run_until(lambda: old.status[0] is Role.LOOKING)
    assert refused(old, "move", NotLeader)
    assert refused(old, "remove", OutcomeUnknown), "the next leader may find it in its log and carry it on"


def test_an_epoch_that_is_used_up_takes_no_proposal() -> None:
    network = formed(1, 2, 3)
    leader = network.leader()
    leader.replica._state.handover = None
    last = Position(zxid_of(1, COUNTER_MASK - 2), bytes(8))
    leader.replica._local.history.restart(last)
    leader.step(events.Propose("one too many", "x"))
    assert refused(leader, "one too many", Unavailable)
