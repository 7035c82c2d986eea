"""A log that has lost what it had acknowledged says nothing about history until peers have given it back."""

from __future__ import annotations

from sluicemq.broker.replication import effects, events
from sluicemq.broker.replication.history import EpochRecord, zxid_of
from sluicemq.broker.replication.membership import Member
from sluicemq.broker.replication.messages import (
    Ack,
    AckEpoch,
    FollowerInfo,
    Method,
    NewEpoch,
    Notification,
    Phase,
    Propose,
    Role,
    Synchronize,
    Vote,
)
from sluicemq.broker.replication.replica import Replica
from tests.broker.replication.bench import LEADER, LINK, ME, THREE, Bench, only, said
from tests.broker.replication.network import Network


def formed(*nodes: int) -> Network:
    network = Network(*nodes)
    network.start()
    network.run_until(network.settled)
    network.publish("a", "b", "c")
    network.run_until(network.settled)
    return network


def restart_damaged(network: Network, node: int, zxid: int) -> None:
    network.kill(node)
    network[node].damage(zxid)
    network[node].start()
    network.heal()


def test_a_damaged_log_is_filled_by_the_leader_and_votes_again() -> None:
    network = formed(1, 2, 3)
    restart_damaged(network, 1, zxid_of(1, 2))
    assert network[1].replica.role is Role.LOOKING
    network.run_until(lambda: network[1].replica.role is Role.OBSERVING)
    network.run_until(network.settled)
    network.run_until(lambda: network[1].damaged_from is None)
    assert network[1].log.bodies == ["a", "b", "c"]
    network.run_until(lambda: network[1].status == (Role.FOLLOWING, Phase.BROADCAST))
    network.kill(3)
    network.run_until(network.settled)
    assert network.leader() is not None


def test_what_only_the_leader_has_left_is_not_voted_away_by_the_one_that_lost_it() -> None:
    network = formed(1, 2, 3)
    network.partition((2,), (1, 3))
    network.publish("confirmed")
    network.run(0.1)
    assert network[3].committed == network[3].log.last.zxid, "on 1 and 3"
    network.kill(3)
    network.kill(1)
    network[1].damage(zxid_of(1, 1))
    network[1].start()
    network.heal()
    network.run(20.0)
    assert network.leader() is None, "2 never had it, and 1 has lost it"
    network[3].start()
    network.heal()
    network.run_until(network.settled)
    assert network[1].log.bodies == ["a", "b", "c", "confirmed"]
    assert network[2].log.bodies == ["a", "b", "c", "confirmed"]
    assert network[1].damaged_from is None


def test_a_damaged_log_stays_noted_when_the_power_goes_before_it_is_whole() -> None:
    network = formed(1, 2, 3)
    network.kill(1)
    network[1].damage(zxid_of(1, 1))
    network[1].disk_seconds = 5.0
    network[1].start()
    network.heal()
    network.run_until(lambda: network[1].replica.role is Role.OBSERVING)
    network.run(1.0)
    network.kill(1)
    assert network[1].damaged_from is not None
    network.kill(3)
    network[1].disk_seconds = 0.002
    network[1].start()
    network.heal()
    network.run(10.0)
    assert network.leader() is None


def test_a_majority_of_damaged_logs_stays_down_and_says_so() -> None:
    network = formed(1, 2, 3)
    for node in (1, 2, 3):
        network.kill(node)
    for node in (1, 2):
        network[node].damage(zxid_of(1, 2))
    for node in (1, 2, 3):
        network[node].start()
    network.heal()
    network.run(5.0)
    down = [node for node in (1, 2) if network[node].fatal is not None]
    assert down, "who hears of the other first"
    for node in down:
        assert network[node].cause is effects.Cause.DAMAGE
        assert "the logs of nodes 1, 2 are damaged (here from 1.2 on)" in str(network[node].fatal)
    assert network.leader() is None


def test_one_damaged_broker_alone_stays_down() -> None:
    network = formed(1)
    network.kill(1)
    network[1].damage(zxid_of(1, 2))
    network[1].start()
    network.run(1.0)
    assert network[1].cause is effects.Cause.DAMAGE


def test_a_log_that_lost_everything_is_not_empty_and_forms_no_cluster() -> None:
    network = Network(1, 2, 3)
    network[1].damaged_from = 1
    network.start()
    network.run(10.0)
    assert network.leader() is None


def test_a_node_that_joined_later_and_lost_all_it_knew_waits_for_somebody_who_knows_better() -> None:
    network = formed(1, 2, 3)
    network.add(4)
    network.start(4)
    network.run_until(network.settled)
    network.kill(4)
    network[4].damage(1)
    network[4].start()
    network.run(1.0)
    assert network[4].fatal is None
    network.heal()
    network.run_until(network.settled)
    assert network[4].log.bodies == ["a", "b", "c"]
    network.run_until(lambda: network[4].damaged_from is None)


def damaged() -> Bench:
    bench = Bench()
    bench.unanswered.clear()
    bench.replica = Replica(Member(ME, b"first"), (1, 2, 3), 1, bench.log, damaged_from=zxid_of(1, 3))
    bench.step(events.Start())
    bench.disk()
    for peer, number in LINK.items():
        bench.step(events.PeerUp(peer, number))
    return bench


def test_a_damaged_voter_says_so_and_votes_for_nobody() -> None:
    bench = damaged()
    done = bench.hear(LEADER, bench.notification(LEADER, Role.LOOKING, Vote(zxid_of(1, 9), LEADER)))
    assert not said(done, Notification), "it has no better vote to tell"
    told = said(bench.seen, Notification)
    assert {(one.damaged, one.vote.leader) for one in told[-2:]} == {(True, 0)}


def test_a_damaged_voter_promises_for_itself_and_for_no_quorum_until_it_has_all_the_leader_had() -> None:
    bench = damaged()
    leads = bench.notification(LEADER, Role.LEADING, Vote(zxid_of(1, 9), LEADER))
    session = said(bench.hear(LEADER, leads), FollowerInfo)[0].session
    bench.hear(LEADER, NewEpoch(2, LINK[LEADER], session))
    assert [one.promised for one in said(bench.disk(), AckEpoch)] == [False]
    end = bench.log.last
    bench.hear(LEADER, Synchronize(2, LINK[LEADER], session, Method.DIFF, end, 0, zxid_of(2, 1)))
    begun = bench.log.seal(zxid_of(2, 0), end, EpochRecord(LEADER, THREE))
    bench.hear(LEADER, Propose(2, LINK[LEADER], session, end, (begun,), 0))
    done = bench.disk()
    assert said(done, Ack), "what it has again, it has"
    assert not only(done, effects.NoteRepaired), "it may have acknowledged (2, 1)"
    more = bench.entry(zxid_of(2, 1))
    bench.hear(LEADER, Propose(2, LINK[LEADER], session, begun.position, (more,), 0))
    done = bench.disk()
    assert only(done, effects.NoteRepaired)
    assert bench.status[0] is Role.OBSERVING
    bench.disk()
    assert bench.status == (Role.FOLLOWING, Phase.SYNCHRONIZATION)
    assert bench.replica.damaged_from is None
