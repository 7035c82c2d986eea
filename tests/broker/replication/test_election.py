"""Fast leader election: votes, rounds, quorums, leaders that stand, and the forming of clusters."""

from __future__ import annotations

import itertools

import pytest

from sluicemq.broker.replication.election import NOBODY, Decision, Election, Electorate, Reaction
from sluicemq.broker.replication.history import zxid_of
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.broker.replication.messages import Notification, Role, Vote

FINALIZE_SECONDS = 0.2
LONG, SHORT = zxid_of(3, 7), zxid_of(3, 2)


def member(node: int, incarnation: bytes = b"first") -> Member:
    return Member(node, incarnation)


def voters(*nodes: int) -> frozenset[Member]:
    return frozenset(map(member, nodes))


def election_of(
    node: int, configuration: Configuration | None, *, zxid: int = SHORT, round_number: int = 1
) -> Election:
    known = 5 if configuration else -1
    return Election(Electorate(member(node), configuration, known, (1, 2, 3)), zxid, round_number, FINALIZE_SECONDS)


def said(
    node: int,
    vote: Vote,
    *,
    role: Role = Role.LOOKING,
    round_number: int = 1,
    own_zxid: int = SHORT,
    incarnation: bytes = b"first",
    configuration_zxid: int = 5,
    listed: tuple[int, ...] = (1, 2, 3),
    epoch: int = 0,
) -> Notification:
    who = member(node, incarnation)
    return Notification(epoch, node, round_number, role, vote, who, own_zxid, configuration_zxid, listed)


THREE = Configuration(voters(1, 2, 3))


def test_the_longer_history_wins_then_the_higher_id() -> None:
    positions = [0, SHORT, LONG, zxid_of(4, 0)]
    for (zxid, node), (other_zxid, other_node) in itertools.product(itertools.product(positions, (1, 2, 3)), repeat=2):
        better = Vote(zxid, node) > Vote(other_zxid, other_node)
        assert better == (zxid > other_zxid or (zxid == other_zxid and node > other_node))


def test_a_better_vote_is_taken_over_and_told() -> None:
    election = election_of(1, THREE)
    assert election.receive(said(2, Vote(SHORT, 2))) == Reaction(broadcast=True)
    assert election.vote == Vote(SHORT, 2)
    assert election.receive(said(3, Vote(SHORT, 1))) == Reaction()
    assert election.vote == Vote(SHORT, 2)


def test_a_decision_is_made_at_once_when_every_voter_was_heard() -> None:
    election = election_of(3, THREE)
    election.receive(said(1, Vote(SHORT, 3)))
    assert election.decide(gone=(), now=10.0) is None
    election.receive(said(2, Vote(SHORT, 2)))
    assert election.decide(gone=(), now=10.0) == Decision(3)


def test_a_voter_whose_connection_was_refused_counts_as_heard() -> None:
    election = election_of(2, THREE)
    election.receive(said(1, Vote(SHORT, 2)))
    assert election.decide(gone=(), now=10.0) is None
    assert election.decide(gone={3}, now=10.0) == Decision(2)


def test_a_silent_voter_is_waited_for_only_a_moment() -> None:
    election = election_of(2, THREE)
    election.receive(said(1, Vote(SHORT, 2)))
    assert election.decide(gone=(), now=10.0) is None
    assert election.finalize_at == 10.0 + FINALIZE_SECONDS
    assert election.decide(gone=(), now=10.1) is None
    assert election.decide(gone=(), now=10.2) == Decision(2)


def test_a_better_vote_during_the_wait_begins_the_wait_again() -> None:
    election = election_of(1, Configuration(voters(1, 2, 3, 4)))
    election.receive(said(2, Vote(SHORT, 2)))
    election.receive(said(3, Vote(SHORT, 2)))
    election.decide(gone=(), now=10.0)
    election.receive(said(3, Vote(SHORT, 3)))
    assert election.decide(gone=(), now=10.2) is None
    assert election.finalize_at is None


def test_a_later_round_is_joined_with_the_own_candidacy_judged_anew() -> None:
    election = election_of(2, THREE, zxid=SHORT, round_number=4)
    election.receive(said(3, Vote(SHORT, 3), round_number=4))
    assert election.vote == Vote(SHORT, 3)
    assert election.receive(said(1, Vote(SHORT, 1), round_number=5)) == Reaction(broadcast=True)
    assert (election.round, election.vote) == (5, Vote(SHORT, 2))
    assert election.decide(gone=(), now=0.0) is None, "the vote of the former round no longer counts"


def test_an_earlier_round_is_answered_and_changes_nothing() -> None:
    election = election_of(1, THREE, round_number=5)
    assert election.receive(said(3, Vote(LONG, 3), round_number=4)) == Reaction(answer=True)
    assert election.vote == Vote(SHORT, 1)


def test_the_vote_of_a_stranger_or_of_a_wiped_voter_does_not_count() -> None:
    election = election_of(1, THREE)
    for stranger in (said(9, Vote(LONG, 9)), said(3, Vote(LONG, 3), incarnation=b"second")):
        assert election.receive(stranger) == Reaction()
        assert election.vote == Vote(SHORT, 1)
    assert election.receive(said(9, Vote(LONG, 9), round_number=0)) == Reaction(answer=True)
    assert election.decide(gone={2, 3}, now=0.0) is None


def test_a_quorum_of_old_and_new_voters_is_needed_while_they_change() -> None:
    changing = Configuration(voters(1, 2, 3), voters(1, 2, 3, 4))
    election = election_of(3, changing, zxid=LONG)
    election.receive(said(1, Vote(LONG, 3)))
    assert election.decide(gone={2, 4}, now=0.0) is None, "two of three, but two of four"
    election.receive(said(4, Vote(LONG, 3)))
    assert election.decide(gone={2}, now=0.0) == Decision(3)


def test_a_candidate_that_is_lost_begins_a_new_round() -> None:
    election = election_of(1, THREE)
    election.receive(said(3, Vote(LONG, 3)))
    election.receive(said(2, Vote(LONG, 3)))
    assert election.lose(3) == Reaction(broadcast=True)
    assert (election.round, election.vote) == (2, Vote(SHORT, 1))
    assert election.lose(2) == Reaction()


def test_a_leader_that_stands_is_joined_with_a_quorum_and_its_own_word() -> None:
    election = election_of(1, Configuration(voters(1, 2, 3, 4, 5)), round_number=9)
    for follower in (2, 3, 4):
        election.receive(said(follower, Vote(SHORT, 5), role=Role.FOLLOWING, round_number=2))
    assert election.decide(gone=(), now=0.0) is None, "the followers may not have noticed that it died"
    election.receive(said(5, Vote(SHORT, 5), role=Role.LEADING, round_number=2))
    assert election.decide(gone=(), now=0.0) == Decision(5)


def test_a_leader_without_followers_is_not_joined() -> None:
    election = election_of(1, Configuration(voters(1, 2, 3, 4, 5)), round_number=9)
    election.receive(said(5, Vote(SHORT, 5), role=Role.LEADING, round_number=2))
    election.receive(said(4, Vote(SHORT, 5), role=Role.FOLLOWING, round_number=2))
    assert election.decide(gone=(), now=0.0) == Decision(5), "this replica would be the third"
    election.receive(said(4, Vote(SHORT, 4), role=Role.LOOKING, round_number=2))
    assert election.decide(gone=(), now=0.0) is None


def test_the_word_of_a_leader_dies_with_its_connection() -> None:
    election = election_of(1, THREE, round_number=9)
    election.receive(said(3, Vote(SHORT, 3), role=Role.LEADING, round_number=2))
    election.lose(3)
    assert election.decide(gone={3}, now=0.0) is None


def test_a_candidate_counts_those_that_follow_it_already() -> None:
    election = election_of(3, THREE)
    election.receive(said(1, Vote(SHORT, 3), role=Role.FOLLOWING))
    election.receive(said(2, Vote(SHORT, 2)))
    assert election.decide(gone=(), now=0.0) == Decision(3)


def test_a_voter_with_an_old_configuration_joins_the_leader_of_a_newer_one() -> None:
    election = election_of(1, THREE)
    election.receive(said(9, Vote(LONG, 9), role=Role.LEADING, configuration_zxid=6))
    assert election.decide(gone=(), now=0.0) == Decision(9)


def test_an_observer_is_no_candidate_and_joins_only_who_leads() -> None:
    election = election_of(9, THREE, zxid=zxid_of(9, 9))
    assert election.vote == NOBODY
    assert election.receive(said(3, Vote(LONG, 3), round_number=4)) == Reaction(broadcast=True)
    assert (election.round, election.vote) == (4, Vote(LONG, 3)), "some voters may count it already"
    for node in (1, 2):
        election.receive(said(node, Vote(LONG, 3), round_number=4))
    assert election.decide(gone=(), now=0.0) is None
    election.receive(said(3, Vote(LONG, 3), role=Role.LEADING, epoch=4))
    assert election.decide(gone=(), now=0.0) == Decision(3)


def empty(node: int, vote: Vote, **more: object) -> Notification:
    return said(node, vote, **({"own_zxid": 0, "configuration_zxid": -1} | more))  # type: ignore[arg-type]


def test_a_cluster_forms_only_when_every_listed_node_says_that_it_is_empty() -> None:
    election = election_of(3, None, zxid=0)
    election.receive(empty(1, Vote(0, 3)))
    assert election.decide(gone={2}, now=99.0) is None, "a voter that is not there may have data"
    election.receive(empty(2, Vote(0, 2), incarnation=b"other"))
    assert election.decide(gone=(), now=0.0) == Decision(3, frozenset({member(1), member(2, b"other"), member(3)}))


@pytest.mark.parametrize(
    "objection",
    [
        {"own_zxid": SHORT},
        {"configuration_zxid": 7},
        {"listed": (1, 2, 4)},
        {"vote": Vote(LONG, 1)},
        {"round_number": 2},
    ],
)
def test_a_single_voter_forbids_the_forming_of_a_cluster(objection: dict) -> None:
    election = election_of(3, None, zxid=0)
    election.receive(empty(2, Vote(0, 3)))
    election.receive(empty(1, **({"vote": Vote(0, 3)} | objection)))
    assert election.decide(gone=(), now=99.0) is None


def test_one_broker_forms_a_cluster_of_its_own() -> None:
    alone = Election(Electorate(member(1), None, -1, (1,)), 0, 1, FINALIZE_SECONDS)
    assert alone.decide(gone=(), now=0.0) == Decision(1, voters(1))


def test_any_order_of_any_votes_ends_with_the_best_candidate_on_all_replicas() -> None:
    """All ends of three logs, and all orders in which the first votes arrive: every replica decides for the same."""
    for ends in itertools.product((SHORT, LONG, zxid_of(4, 0)), repeat=3):
        logs = dict(zip((1, 2, 3), ends, strict=True))
        best = max(Vote(zxid, node) for node, zxid in logs.items())
        for order in itertools.permutations([(a, b) for a in logs for b in logs if a != b]):
            replicas = {node: election_of(node, THREE, zxid=zxid) for node, zxid in logs.items()}
            told = [(a, b, replicas[a].vote) for a, b in order]
            while told:
                sender, receiver, vote = told.pop(0)
                heard = said(sender, vote, own_zxid=logs[sender])
                if replicas[receiver].receive(heard).broadcast:
                    told += [(receiver, other, replicas[receiver].vote) for other in logs if other != receiver]
            decisions = {node: replica.decide((), 0.0) for node, replica in replicas.items()}
            assert set(decisions.values()) == {Decision(best.leader)}, (logs, order)


def test_who_hears_of_a_newer_configuration_waits_for_voters_that_it_does_not_know() -> None:
    election = election_of(1, Configuration(voters(1, 2)))
    election.receive(said(2, Vote(LONG, 2), own_zxid=LONG, configuration_zxid=9))
    assert election.decide(gone=(), now=10.0) is None, "both were heard, but there may be more"
    election.receive(said(2, Vote(LONG, 3), own_zxid=LONG, configuration_zxid=9))
    assert election.vote == Vote(LONG, 3)
    assert election.decide(gone=(), now=10.1) is None
    assert election.decide(gone=(), now=10.3) == Decision(3)
